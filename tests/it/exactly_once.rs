//! Numbered writes: executed once, answered for ever, and their fate known after the end (G4).

use std::time::Duration;

use coordd_proto::v1::coordd_client::CoorddClient;
use coordd_proto::v1::outcome_reply::Fate;
use coordd_proto::v1::request::Op;
use coordd_proto::v1::{
    CloseRequest, CreateMode, ErrorCode, OutcomeReply, OutcomeRequest, Reply, SessionRef, SetRequest, reply,
};
use coordd_tests::{Ensemble, RawSession, code_of, create, get, set};

const TIMEOUT: Duration = Duration::from_secs(20);

fn error_of(reply: &Reply) -> ErrorCode {
    match &reply.result {
        Some(reply::Result::Error(error)) => error.code(),
        other => panic!("not an error: {other:?}"),
    }
}

/// The version and the data of a znode, by a read of the stream.
async fn read(session: &mut RawSession, path: &str) -> (i32, bytes::Bytes) {
    let reply = session.ask(get(path)).await;
    let Some(reply::Result::Get(reply)) = reply.result else { panic!("{reply:?}") };
    (reply.stat.unwrap_or_default().version, reply.data)
}

/// Writes 1 to 4: a create, two sets, and a refused one.
async fn write_four(session: &mut RawSession) -> Vec<Reply> {
    let refused = Op::Set(SetRequest { path: "/a".into(), version: Some(7), ..Default::default() });
    let ops = [create("/a", "0", CreateMode::Persistent), set("/a", "1"), set("/a", "2"), refused];
    let mut replies = Vec::new();
    for (index, op) in ops.into_iter().enumerate() {
        replies.push(session.write(index as u64 + 1, op).await);
    }
    assert_eq!(error_of(&replies[3]), ErrorCode::BadVersion);
    replies
}

/// Sends the four again; they must be answered as the first time, whatever they say now, and not be executed.
async fn assert_same_answers(session: &mut RawSession, first: &[Reply]) {
    for (index, first) in first.iter().enumerate() {
        let again = session.write(index as u64 + 1, set("/a", "again")).await;
        assert_eq!((again.zxid, &again.result), (first.zxid, &first.result), "write {}", index + 1);
    }
    assert_eq!(read(session, "/a").await, (2, "2".into()));
}

async fn attach_again(ensemble: &Ensemble, node: u64, session: &RawSession) -> RawSession {
    RawSession::attach(&ensemble.endpoint(node), session.attach_again()).await.expect("the session is alive")
}

/// G4: a write that is sent again with its number is answered from the record: on the same stream, on another node, after
/// the leader was killed, and after all were.
#[tokio::test]
async fn a_write_sent_again_gets_its_first_answer_whatever_happened_between() {
    let mut ensemble = Ensemble::start(3).await;
    let leader = ensemble.leader().await;
    let others = ensemble.ids_but(leader);
    let mut session = RawSession::open(&ensemble.endpoint(leader), TIMEOUT).await;
    let first = write_four(&mut session).await;
    assert_same_answers(&mut session, &first).await;

    let mut session = attach_again(&ensemble, others[0], &session).await;
    assert_eq!(session.attached.last_write_seq, 4);
    assert_same_answers(&mut session, &first).await;

    ensemble.kill9(leader);
    assert_ne!(ensemble.leader().await, leader);
    ensemble.wait_serving_on(others[1]).await;
    let mut session = attach_again(&ensemble, others[1], &session).await;
    assert_same_answers(&mut session, &first).await;

    for id in others {
        ensemble.kill9(id);
    }
    for id in ensemble.ids() {
        ensemble.restart(id);
    }
    ensemble.wait_serving().await;
    let mut session = attach_again(&ensemble, leader, &session).await;
    assert_same_answers(&mut session, &first).await;
    let fifth = session.write(5, set("/a", "5")).await;
    assert!(matches!(fifth.result, Some(reply::Result::Set(_))), "the numbers go on: {fifth:?}");
}

/// G3, G4: a number that leaves a gap is refused without being executed, and so is all behind it until the gap is filled.
#[tokio::test]
async fn a_gap_in_the_numbers_is_refused_without_executing() {
    let ensemble = Ensemble::start(1).await;
    let mut session = RawSession::open(&ensemble.endpoint(1), TIMEOUT).await;
    session.write(1, create("/a", "1", CreateMode::Persistent)).await;
    let third = session.write(3, set("/a", "3")).await;
    assert_eq!(error_of(&third), ErrorCode::SequenceGap);
    let fourth = session.write(4, set("/a", "4")).await;
    assert_eq!(error_of(&fourth), ErrorCode::SequenceGap);
    assert_eq!(read(&mut session, "/a").await, (0, "1".into()));
    for seq in 2..=4 {
        session.write(seq, set("/a", seq.to_string())).await;
    }
    assert_eq!(read(&mut session, "/a").await, (3, "4".into()));
}

/// G4: what the client has acknowledged is forgotten, and said to be.
#[tokio::test]
async fn an_acknowledged_answer_is_forgotten_and_not_executed_again() {
    let ensemble = Ensemble::start(1).await;
    let mut session = RawSession::open(&ensemble.endpoint(1), TIMEOUT).await;
    write_four(&mut session).await;
    session.acknowledge(2).await;
    // The acknowledgement travels with the next write.
    session.write(5, set("/a", "5")).await;
    assert_eq!(outcome(&ensemble, 1, &session, 2).await.fate(), Fate::Acknowledged);
    assert_eq!(outcome(&ensemble, 1, &session, 3).await.fate(), Fate::Applied);
    let again = session.write(2, set("/a", "again")).await;
    println!("an acknowledged write sent again: {again:?}");
    assert_eq!(read(&mut session, "/a").await, (3, "5".into()));
}

async fn outcome(ensemble: &Ensemble, node: u64, session: &RawSession, write_seq: u64) -> OutcomeReply {
    let SessionRef { session_id, password, .. } = session.session_ref();
    let url = format!("http://{}", ensemble.endpoint(node));
    let mut client = CoorddClient::connect(url).await.expect("the node accepts a connection");
    let request = OutcomeRequest { session_id, password, write_seq };
    client.outcome(request).await.expect("the fate of a write").into_inner()
}

/// G4: the fate of every write is known after the session has ended, on every node, also after restarts.
#[tokio::test]
async fn the_fate_of_every_write_is_known_after_the_end() {
    let mut ensemble = Ensemble::start(3).await;
    let mut session = RawSession::open(&ensemble.endpoint(2), TIMEOUT).await;
    let first = write_four(&mut session).await;
    assert_eq!(outcome(&ensemble, 1, &session, 5).await.fate(), Fate::NotYet);
    session.acknowledge(1).await;
    let closed = session.write(5, Op::Close(CloseRequest {})).await;
    assert!(matches!(closed.result, Some(reply::Result::Close(_))), "{closed:?}");

    for round in 0..2 {
        for node in ensemble.ids() {
            assert_eq!(outcome(&ensemble, node, &session, 1).await.fate(), Fate::Acknowledged);
            for (index, first) in first.iter().enumerate().skip(1) {
                let told = outcome(&ensemble, node, &session, index as u64 + 1).await;
                let reply = told.reply.clone().unwrap_or_default();
                assert_eq!(told.fate(), Fate::Applied, "write {} in round {round}", index + 1);
                assert_eq!(reply.zxid, first.zxid, "write {}", index + 1);
                match (&reply.result, &first.result) {
                    (Some(reply::Result::Error(told)), Some(reply::Result::Error(first))) => {
                        assert_eq!(told.code, first.code);
                    }
                    (Some(reply::Result::Set(told)), Some(reply::Result::Set(first))) => {
                        assert_eq!(told.stat, first.stat);
                    }
                    other => panic!("write {}: {other:?}", index + 1),
                }
            }
            assert_eq!(outcome(&ensemble, node, &session, 6).await.fate(), Fate::Never);
        }
        for id in ensemble.ids() {
            ensemble.kill9(id);
            ensemble.restart(id);
        }
        ensemble.wait_serving().await;
    }
    let refused = RawSession::attach(&ensemble.endpoint(1), session.attach_again()).await;
    let status = refused.err().expect("the session has ended");
    assert_eq!(code_of(&status), ErrorCode::SessionExpired, "{status}");
}

/// Outcomes are told to the owner of the session only.
#[tokio::test]
async fn the_fate_of_a_write_is_told_to_its_owner_only() {
    let ensemble = Ensemble::start(1).await;
    let session = RawSession::open(&ensemble.endpoint(1), TIMEOUT).await;
    let url = format!("http://{}", ensemble.endpoint(1));
    let mut client = CoorddClient::connect(url).await.expect("the node accepts a connection");
    let session_id = session.attached.session_id;
    let request = OutcomeRequest { session_id, password: vec![0; 16].into(), write_seq: 1 };
    let status = client.outcome(request).await.expect_err("the password is wrong");
    assert_eq!(code_of(&status), ErrorCode::AuthFailed);
}
