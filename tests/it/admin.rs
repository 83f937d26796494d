//! What an operator asks, while nodes are stopped.

use std::time::{Duration, Instant};

use coordd_client::{Admin, EndReason, ErrorKind, SessionRecord};
use coordd_tests::Ensemble;
use futures::TryStreamExt as _;

/// Whichever endpoint is stopped, calls are answered by another one, within seconds.
#[tokio::test]
async fn stopped_endpoint_is_passed_over() {
    let mut ensemble = Ensemble::start(3).await;
    let client = ensemble.client(Duration::from_secs(60)).await;
    let victim = ensemble.client(Duration::from_secs(60)).await;
    let stopped = ensemble.follower().await;
    let endpoints: Vec<String> =
        [stopped].into_iter().chain(ensemble.ids_but(stopped)).map(|id| ensemble.endpoint(id)).collect();
    ensemble.pause(stopped);
    let since = Instant::now();
    // The order in which endpoints are tried is drawn for each of them.
    for round in 0..4 {
        let admin = Admin::connect_any(endpoints.clone(), Duration::from_secs(10)).await.expect("a node");
        let sessions: Vec<_> = admin.sessions().try_collect().await.expect("the sessions");
        assert!(sessions.iter().any(|info| info.session_id == client.session_id()), "round {round}");
        assert!(matches!(admin.session(client.session_id()).await, Ok(SessionRecord::Live(_))));
        assert_ne!(admin.status().await.expect("a status").node_id, stopped);
        if round == 0 {
            admin.kill_session(victim.session_id(), "a test").await.expect("it is killed");
        }
        let record = admin.session(victim.session_id()).await.expect("it is remembered");
        assert!(matches!(record, SessionRecord::Ended { end, .. } if end.reason == EndReason::Killed));
    }
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    ensemble.resume(stopped);
}

/// With all endpoints out of order, the error has a line for each.
#[tokio::test]
async fn all_endpoints_are_reported() {
    let mut ensemble = Ensemble::start(3).await;
    let admin = Admin::connect_any(ensemble.endpoints(), Duration::from_secs(5)).await.expect("a node");
    for id in ensemble.ids() {
        ensemble.kill9(id);
    }
    let error = admin.session(7).await.expect_err("nobody is there");
    assert_eq!(error.kind, ErrorKind::ConnectionLoss);
    for id in ensemble.ids() {
        assert!(error.message.contains(&ensemble.endpoint(id)), "{error}");
    }
}
