//! Endpoints that are dead, silent or refuse: the next one is tried, and each is reported with its own reason.

use std::time::{Duration, Instant};

use coordd_client::{ConnectOptions, ErrorKind, Outcome};
use tokio::net::TcpListener;

use crate::fake::Fake;

/// The error of a connect has one line for each endpoint, with the reason of that endpoint.
#[tokio::test]
async fn every_endpoint_is_reported() {
    let fake = Fake::start(2).await;
    fake.world().refusing.extend([1, 2]);
    // Bound and dropped: nobody listens there.
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_at = silent.local_addr().unwrap().to_string();
    let endpoints: Vec<String> =
        fake.endpoints().into_iter().chain([dead.clone(), silent_at.clone()]).collect();
    let options = ConnectOptions::new().connect_timeout(Duration::from_secs(3));
    let error = options.connect(endpoints.clone()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotServing, "the kind that says most: {error}");
    assert_eq!(error.message.lines().count(), 1 + endpoints.len(), "{error}");
    let line_of = |endpoint: &str| {
        let line = error.message.lines().find(|line| line.trim_start().starts_with(endpoint));
        line.unwrap_or_else(|| panic!("no line for {endpoint}: {error}"))
    };
    for endpoint in fake.endpoints() {
        assert!(line_of(&endpoint).contains("told to refuse"), "{error}");
    }
    assert!(line_of(&dead).contains("refused"), "{error}");
    assert!(line_of(&silent_at).contains("no answer"), "{error}");
}

/// A call without a session does not wait for an endpoint that is stopped: its kernel accepts connections, and nobody answers.
#[tokio::test]
async fn silent_endpoints_are_passed_over() {
    let fake = Fake::start(1).await;
    let token = fake.connect().await.session_token().unwrap();
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let silent = silent.iter().map(|listener| listener.local_addr().unwrap().to_string());
    let endpoints: Vec<String> = fake.endpoints().into_iter().chain(silent).collect();
    let client =
        ConnectOptions::new().connect_timeout(Duration::from_secs(9)).connect(endpoints).await.unwrap();
    // The order is drawn for each call: a silent one stands first in three of four.
    for _ in 0..4 {
        let since = Instant::now();
        assert!(matches!(
            client.outcome(&token, 1).await,
            Ok(Outcome::Never | Outcome::NotYet | Outcome::Unknown)
        ));
        assert!(since.elapsed() < Duration::from_secs(6), "{:?}", since.elapsed());
    }
}

/// While no node takes the session, its handle tells why; once one does, there is nothing to tell.
#[tokio::test]
async fn a_handle_tells_why_no_node_takes_the_session() {
    let fake = Fake::start(2).await;
    let client = fake.connect().await;
    assert_eq!(client.connection_failure(), None);
    {
        let mut world = fake.world();
        world.refusing.extend([1, 2]);
        world.cut();
    }
    fake.until("three attempts", |world| world.attaches.len() >= 4).await;
    let failure = client.connection_failure().unwrap();
    assert_eq!((failure.kind, failure.message.lines().count()), (ErrorKind::NotServing, 3), "{failure}");
    fake.world().refusing.clear();
    client.sync().await.unwrap();
    assert_eq!(client.connection_failure(), None);
}
