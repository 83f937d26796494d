//! How fresh reads are (G2), and that no session sees its own past (G3).

use std::time::Duration;

use coordd_client::{CreateMode, ReadLevel};
use coordd_proto::v1::coordd_client::CoorddClient;
use coordd_proto::v1::{
    Attach, CreateMode as WireMode, ErrorCode, GetRequest, ReadLevel as WireLevel, reply,
};
use coordd_tests::{Ensemble, RawSession, code_of, create, get, set};

const TIMEOUT: Duration = Duration::from_secs(10);

/// G2: what was acknowledged on one node is shown by every node: to a linearizable read, and to a local one after `sync`.
#[tokio::test]
async fn an_acknowledged_write_is_shown_by_every_node() {
    let ensemble = Ensemble::start(3).await;
    let mut clients = Vec::new();
    for id in ensemble.ids() {
        clients.push(ensemble.client_of(&[id], TIMEOUT).await);
    }
    clients[0].create("/a", "", CreateMode::Persistent).await.expect("a create");
    for round in 0..60 {
        let version = clients[round % 3].set("/a", round.to_string(), None).await.expect("a set").version;
        for (index, client) in clients.iter().enumerate() {
            if round % 2 == 0 {
                let (_, stat) = client.get("/a", ReadLevel::Linearizable).await.expect("a read");
                assert_eq!(stat.version, version, "a linearizable read on node {}", index + 1);
            } else {
                // In one go: the read is behind the sync by the order of the calls.
                let (sync, read) = (client.sync(), client.get("/a", ReadLevel::Local));
                sync.await.expect("a sync");
                assert_eq!(
                    read.await.expect("a read").1.version,
                    version,
                    "after sync on node {}",
                    index + 1
                );
            }
        }
    }
}

/// G3: a session that moves to another node sees there what it wrote, by local reads; and so does one that goes with a
/// zxid only.
#[tokio::test]
async fn a_session_that_moves_never_sees_its_own_past() {
    let ensemble = Ensemble::start(3).await;
    let mut session = RawSession::open(&ensemble.endpoint(1), TIMEOUT).await;
    session.write(1, create("/a", "", WireMode::Persistent)).await;
    for round in 1..=60 {
        let written = session.write(round + 1, set("/a", "x")).await;
        let next = ensemble.endpoint(1 + round % 3);
        let attach = Attach { last_zxid: written.zxid, ..session.attach_again() };
        session = RawSession::attach(&next, attach).await.expect("the next node catches up");
        let reply = session.ask(get("/a")).await;
        let Some(reply::Result::Get(read)) = reply.result else { panic!("{reply:?}") };
        assert_eq!(read.stat.unwrap_or_default().version, round as i32, "on {next}");

        let mut other = CoorddClient::connect(format!("http://{}", ensemble.endpoint(1 + (round + 1) % 3)))
            .await
            .expect("a connection");
        let request = GetRequest { path: "/a".into(), min_zxid: written.zxid, ..Default::default() };
        let read = other.get(request).await.expect("the node catches up").into_inner();
        assert_eq!(read.stat.unwrap_or_default().version, round as i32);
    }
}

/// G3: a node that cannot catch up with what a client has seen refuses it; it does not serve it the past.
#[tokio::test]
async fn a_node_behind_a_client_refuses_it() {
    let ensemble = Ensemble::start(1).await;
    let session = RawSession::open(&ensemble.endpoint(1), TIMEOUT).await;
    let attach = Attach { last_zxid: 1_000_000, ..session.attach_again() };
    let status = RawSession::attach(&ensemble.endpoint(1), attach).await.err().expect("refused");
    // With a majority at hand the node can prove that its ensemble was never there: no waiting will help.
    assert_eq!(code_of(&status), ErrorCode::SessionExpired, "{status}");
    assert!(status.message().contains("1000000"), "{status}");
}

/// G2: a leader that was stopped while another took its place answers no linearizable read from its own past, not even the
/// first one after it wakes up; and no local read of who has seen more.
#[tokio::test]
async fn a_leader_of_the_past_serves_no_stale_read() {
    let mut ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    client.create("/a", "0", CreateMode::Persistent).await.expect("a create");
    for round in 1..=3 {
        let old = ensemble.leader().await;
        let url = format!("http://{}", ensemble.endpoint(old));
        let mut direct = CoorddClient::connect(url).await.expect("a connection");
        // The connection is warm: the node has answered on it.
        direct.get(GetRequest { path: "/a".into(), ..Default::default() }).await.expect("a read");
        ensemble.pause(old);
        assert_ne!(ensemble.leader().await, old);
        let others = ensemble.client_of(&ensemble.ids_but(old), TIMEOUT).await;
        let stat = others.set("/a", round.to_string(), None).await.expect("the new leader takes writes");

        // Sent while it is stopped: the first thing it finds when it wakes up.
        let level = WireLevel::Linearizable as i32;
        let requests = [
            GetRequest { path: "/a".into(), level, ..Default::default() },
            GetRequest { path: "/a".into(), min_zxid: stat.mzxid, ..Default::default() },
        ];
        let reads = requests.map(|request| {
            let mut direct = direct.clone();
            tokio::spawn(async move { direct.get(request).await })
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        ensemble.resume(old);
        for (index, read) in reads.into_iter().enumerate() {
            match read.await.expect("no panic") {
                Ok(reply) => {
                    let version = reply.into_inner().stat.unwrap_or_default().version;
                    assert_eq!(version, stat.version, "round {round}, read {index}: the past");
                }
                Err(status) => assert_eq!(code_of(&status), ErrorCode::NotServing, "{status}"),
            }
        }
        ensemble.wait_serving().await;
    }
    ensemble.wait_equal().await;
}
