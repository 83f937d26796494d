//! Calls that do not wait for ever, and what is known of them afterwards.

use std::time::{Duration, Instant};

use coordd_client::recipes::{Counter, SharedValue};
use coordd_client::{ConnectOptions, ErrorKind, Outcome, ReadLevel};

use crate::fake::{Fake, Fault};

const SHORT: Duration = Duration::from_millis(150);

/// A call that is not answered in its time fails, names the write, and the write takes effect once when a
/// node is reached.
#[tokio::test]
async fn a_deadline_ends_the_wait_only() {
    let fake = Fake::start(1).await;
    let client = fake.connect().await;
    let token = client.session_token().unwrap();
    {
        let mut world = fake.world();
        world.refusing.insert(1);
        world.cut();
    }
    let since = Instant::now();
    let error = client.set("/a", "late", None).timeout(SHORT).await.unwrap_err();
    assert!(since.elapsed() >= SHORT && since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    assert_eq!((error.kind, error.write_seq), (ErrorKind::DeadlineExceeded, Some(1)));
    assert!(!error.is_retryable() && !error.is_terminal());
    assert!(error.message.contains("told to refuse"), "it says why: {error}");
    let read = client.get("/a", ReadLevel::Local).timeout(SHORT).await.unwrap_err();
    assert_eq!((read.kind, read.write_seq, read.is_retryable()), (ErrorKind::DeadlineExceeded, None, true));
    assert_eq!(client.outcome(&token, 1).await, Ok(Outcome::NotYet));

    fake.world().refusing.clear();
    client.sync().await.unwrap();
    assert_eq!(fake.world().applied.len(), 1);
    // The server was told that the answer has come, so only the client still knows it.
    let outcome = client.outcome(&token, 1).await.unwrap();
    assert!(matches!(outcome, Outcome::Applied { result: Ok(()), .. }), "{outcome:?}");
}

/// The deadline of a client holds for all of its calls, and a handle without one waits.
#[tokio::test]
async fn a_client_has_a_default_deadline() {
    let fake = Fake::start(1).await;
    let client = fake.connect_with(ConnectOptions::new().call_timeout(SHORT)).await.unwrap();
    client.set("/a", "in time", None).await.unwrap();
    fake.fault(Fault::Silence);
    let patient = client.patient().set("/a", "patient", None);
    assert_eq!(client.sync().await.unwrap_err().kind, ErrorKind::DeadlineExceeded);
    assert_eq!(
        client.multi().set("/a", "", None).commit().await.unwrap_err().kind,
        ErrorKind::DeadlineExceeded
    );
    let longer = client.with_call_timeout(Duration::from_secs(60)).get("/a", ReadLevel::Local);
    patient.await.unwrap();
    longer.await.unwrap();
}

/// A handle that fails fast does not wait while no node holds the session, and sends nothing then.
#[tokio::test]
async fn a_suspended_session_fails_fast() {
    let fake = Fake::start(1).await;
    let client = fake.connect().await;
    let fast = client.failing_fast();
    fast.set("/a", "1", None).await.unwrap();
    fake.fault(Fault::LoseRequests);
    fake.world().refusing.insert(1);
    // Under way when the connection is lost: whether it took effect is not known.
    let error = fast.set("/a", "2", None).await.unwrap_err();
    assert_eq!((error.kind, error.write_seq), (ErrorKind::Suspended, Some(2)));
    // Made while it is lost: nothing is sent.
    let error = fast.set("/a", "3", None).await.unwrap_err();
    assert_eq!((error.kind, error.write_seq, error.is_retryable()), (ErrorKind::Suspended, None, true));
    let error = fast.exists_and_watch("/a", ReadLevel::Local).await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::Suspended);
    fake.world().refusing.clear();
    client.sync().await.unwrap();
    let written: Vec<_> = fake.world().applied.iter().map(|applied| applied.data.clone()).collect();
    assert_eq!(written, ["1", "2"], "the second stayed queued, the third was never sent");
    fast.set("/a", "4", None).await.unwrap();
}

/// An answer that has come is given, however late it is asked for.
#[tokio::test]
async fn an_answer_beats_the_deadline() {
    let fake = Fake::start(1).await;
    let client = fake.connect().await;
    let call = client.set("/a", "", None).timeout(Duration::ZERO);
    client.sync().await.unwrap();
    call.await.unwrap();
}

/// Recipes wait for their answers, whatever the options of the session say about calls.
#[tokio::test]
async fn recipes_have_no_deadline() {
    let fake = Fake::start(1).await;
    let options = ConnectOptions::new().session_timeout(Duration::from_secs(3));
    let client = fake.connect_with(options.call_timeout(SHORT).fail_fast(true)).await.unwrap();
    let (counter, value) = (Counter::new(&client, "/n"), SharedValue::new(&client, "/v"));
    fake.fault(Fault::Silence);
    // Unanswered for longer than the deadline, and under way when the connection is given up.
    let (counted, written) = tokio::join!(counter.set(7), value.set("x"));
    assert_eq!(counted, Ok(()));
    written.unwrap();
    assert_eq!(fake.world().applied.len(), 2);
}
