//! One session, one owner: an attach takes the session from every older stream, wherever that is (G3, G4, G6).

use std::time::{Duration, Instant};

use coordd_client::ReadLevel;
use coordd_proto::peer;
use coordd_proto::peer::peer_client::PeerClient;
use coordd_proto::v1::coordd_client::CoorddClient;
use coordd_proto::v1::{Attach, CreateMode, ErrorCode, Reply, SessionRef, SetRequest, reply};
use coordd_tests::{Ensemble, EnsembleOptions, RawSession, channel, code_of, create, eventually, set};
use tonic::Status;

const SECOND: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(20);

/// An ensemble whose members all know that generations are in force: an attach draws a zxid.
async fn start(nodes: u64) -> Ensemble {
    let mut options = EnsembleOptions::new(nodes);
    if cfg!(debug_assertions) {
        // Raw streams do not try again: an election that a test did not ask for, because debug builds on a
        // busy machine miss heartbeats, would end them. A leader that is killed is noticed as soon as ever.
        options = options.env("COORDD_ELECTION_MIN", "2s").env("COORDD_ELECTION_MAX", "3s");
    }
    let ensemble = options.start().await;
    for id in ensemble.ids() {
        let session = RawSession::open(&ensemble.endpoint(id), TIMEOUT).await;
        eventually(10 * SECOND, "an attach draws a generation", async || {
            let before = ensemble.status(id).await.map_or(u64::MAX, |status| status.zxid);
            let again = attach(&ensemble, id, &session).await.expect("the session is alive");
            again.attached.zxid > before
        })
        .await;
    }
    ensemble
}

async fn attach(ensemble: &Ensemble, node: u64, session: &RawSession) -> Result<RawSession, Status> {
    RawSession::attach(&ensemble.endpoint(node), session.attach_again()).await
}

/// The same for as long as no node takes it.
async fn attach_in_time(ensemble: &Ensemble, node: u64, session: &RawSession) -> RawSession {
    let start = Instant::now();
    loop {
        match attach(ensemble, node, session).await {
            Ok(session) => return session,
            Err(status) => assert!(start.elapsed() < 15 * SECOND, "{status}"),
        }
        tokio::time::sleep(SECOND / 50).await;
    }
}

/// A session with an ephemeral, `/e`: its write 1.
async fn session_on(ensemble: &Ensemble, node: u64) -> RawSession {
    let mut session = RawSession::open(&ensemble.endpoint(node), TIMEOUT).await;
    assert_done(&session.write(1, create("/e", "first", CreateMode::Ephemeral)).await);
    session
}

#[track_caller]
fn assert_done(reply: &Reply) {
    assert!(!matches!(reply.result, None | Some(reply::Result::Error(_))), "{reply:?}");
}

/// The stream ends within a second because another one has its session.
async fn assert_moved(session: &mut RawSession) {
    let end = tokio::time::timeout(SECOND, session.end()).await.expect("it is told within a second");
    assert_eq!(code_of(&end), ErrorCode::SessionMoved, "{end}");
}

async fn value_of(ensemble: &Ensemble, path: &str) -> String {
    let client = ensemble.client(TIMEOUT).await;
    let (data, _) = client.get(path, ReadLevel::Linearizable).await.expect("the znode is there");
    String::from_utf8_lossy(&data).into_owned()
}

/// A session that attaches through another node, and then through the same one twice: the older stream is told each time, and
/// the newest one goes on with the next number.
#[tokio::test]
async fn older_stream_is_told_on_any_node() {
    let ensemble = start(3).await;
    let mut older = session_on(&ensemble, 1).await;
    for (seq, node) in [(2, 3), (3, 2), (4, 2), (5, 1)] {
        let mut newer = attach(&ensemble, node, &older).await.expect("the session is alive");
        assert_moved(&mut older).await;
        assert_eq!(newer.attached.last_write_seq, seq - 1);
        assert_done(&newer.write(seq, set("/e", format!("write {seq}"))).await);
        older = newer;
    }
    assert_eq!(value_of(&ensemble, "/e").await, "write 5");
}

/// A node that was stopped comes back with an older stream, whose client has sent a write and a ping meanwhile. The write is
/// refused, and its number is the newer stream's.
#[tokio::test]
async fn woken_node_refuses_its_old_stream() {
    let mut ensemble = start(3).await;
    let leader = ensemble.leader().await;
    let followers = ensemble.ids_but(leader);
    let mut older = session_on(&ensemble, followers[0]).await;
    ensemble.pause(followers[0]);
    let request = older.send_write(2, set("/e", "the older stream's")).await;
    let mut newer = attach(&ensemble, followers[1], &older).await.expect("two nodes are a majority");
    assert_eq!(newer.attached.last_write_seq, 1, "the stopped node has proposed nothing");
    assert_done(&newer.write(2, set("/e", "the newer stream's")).await);
    ensemble.resume(followers[0]);
    let refused = older.try_reply(request).await.expect_err("it has no answer");
    assert_eq!(code_of(&refused), ErrorCode::SessionMoved, "{refused}");
    assert_eq!(value_of(&ensemble, "/e").await, "the newer stream's");
    assert_done(&newer.write(3, set("/e", "and goes on")).await);
    ensemble.wait_equal().await;
}

/// The same with the leader, for so long that there is another one: whatever the old leader says first, it answers no write.
#[tokio::test]
async fn woken_leader_refuses_its_old_stream() {
    let mut ensemble = start(3).await;
    let leader = ensemble.leader().await;
    let follower = ensemble.ids_but(leader)[0];
    let mut older = session_on(&ensemble, leader).await;
    ensemble.pause(leader);
    let request = older.send_write(2, set("/e", "the older stream's")).await;
    let mut newer = attach_in_time(&ensemble, follower, &older).await;
    assert_done(&newer.write(2, set("/e", "the newer stream's")).await);
    ensemble.resume(leader);
    let refused = older.try_reply(request).await.expect_err("it has no answer");
    let code = code_of(&refused);
    assert!(matches!(code, ErrorCode::SessionMoved | ErrorCode::NotServing), "{refused}");
    ensemble.wait_serving().await;
    assert_eq!(value_of(&ensemble, "/e").await, "the newer stream's");
    assert_done(&newer.write(3, set("/e", "and goes on")).await);
    ensemble.wait_equal().await;
}

/// A session moves while there is no leader: the attach waits for one, and the older stream is told.
#[tokio::test]
async fn session_moves_during_an_election() {
    let mut ensemble = start(3).await;
    let leader = ensemble.leader().await;
    let others = ensemble.ids_but(leader);
    let mut older = session_on(&ensemble, others[0]).await;
    ensemble.kill9(leader);
    let mut newer = attach_in_time(&ensemble, others[1], &older).await;
    assert_moved(&mut older).await;
    assert_eq!(newer.attached.last_write_seq, 1);
    assert_done(&newer.write(2, set("/e", "after the election")).await);
    ensemble.restart(leader);
    ensemble.wait_serving().await;
    // What a restarted node and the others know of generations is the same.
    ensemble.wait_equal().await;
    let newest = attach(&ensemble, leader, &newer).await.expect("the session is alive");
    assert_moved(&mut newer).await;
    assert_eq!(newest.attached.last_write_seq, 2);
}

/// An attach that is refused takes the session from nobody: a wrong password, and a watch that cannot be armed.
#[tokio::test]
async fn refused_attach_takes_nothing() {
    let ensemble = start(3).await;
    let mut owner = session_on(&ensemble, 1).await;
    let mut wrong = owner.attach_again();
    wrong.password = vec![0; 16].into();
    let refused = RawSession::attach(&ensemble.endpoint(2), wrong).await.err().expect("a wrong password");
    assert_eq!(code_of(&refused), ErrorCode::AuthFailed, "{refused}");
    let mut wrong = owner.attach_again();
    wrong.watches = vec![Default::default()];
    let refused = RawSession::attach(&ensemble.endpoint(1), wrong).await.err().expect("a watch of nothing");
    assert_eq!(code_of(&refused), ErrorCode::BadArguments, "{refused}");
    assert_done(&owner.write(2, set("/e", "still the owner's")).await);
}

/// The leader hears an older stream's signs of life in vain, whichever node passes them on; those of calls and of builds that
/// send no generations count.
#[tokio::test]
async fn older_stream_renews_nothing() {
    let ensemble = start(3).await;
    let leader = ensemble.leader().await;
    let follower = ensemble.ids_but(leader)[0];
    let older = session_on(&ensemble, follower).await;
    let newer = attach(&ensemble, leader, &older).await.expect("the session is alive");
    let session = newer.attached.session_id;
    let mut peer = PeerClient::new(channel(&ensemble.peer_endpoint(leader)).await);
    let mut renewed = async |generations: Vec<u64>| {
        let cluster_id = newer.attached.cluster_id.clone();
        let header = Some(peer::Header { protocol: 1, cluster_id, from: follower, to: leader, wall_ms: 0 });
        let request = peer::RenewRequest { header, sessions: vec![session], generations };
        peer.renew(request).await.expect("the leader answers").into_inner().sessions
    };
    // It looks for sessions that it does not know a few times a second.
    let start = Instant::now();
    while renewed(vec![]).await != [session] {
        assert!(start.elapsed() < 5 * SECOND, "the leader does not know the session");
    }
    // The generation of a stream is the zxid at which it has the session, and nothing else was written meanwhile.
    assert_eq!(renewed(vec![newer.attached.zxid]).await, [session]);
    assert_eq!(renewed(vec![newer.attached.zxid - 1]).await, [0; 0]);
    assert_eq!(renewed(vec![older.attached.zxid]).await, [0; 0]);
    assert_eq!(renewed(vec![0]).await, [session]);
    assert_eq!(renewed(vec![]).await, [session]);
}

/// Calls act for whoever has the session: they are refused by no move, and they take the session from no stream.
#[tokio::test]
async fn calls_act_for_the_owner() {
    let ensemble = start(3).await;
    let mut older = session_on(&ensemble, 1).await;
    let mut newer = attach(&ensemble, 2, &older).await.expect("the session is alive");
    assert_moved(&mut older).await;
    let mut calls = CoorddClient::new(channel(&ensemble.endpoint(3)).await);
    let place = SessionRef { write_seq: 2, ..older.session_ref() };
    let (path, data) = ("/e".to_owned(), "by a call".into());
    let request = SetRequest { path, data, session: Some(place), ..Default::default() };
    calls.set(request).await.expect("its number is the next one");
    assert_done(&newer.write(3, set("/e", "by the stream")).await);
}

/// A client whose session was taken by somebody with its password takes it back, and its calls go on; neither side is ended
/// by its own older streams.
#[tokio::test]
async fn client_takes_its_session_back() {
    let ensemble = start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    client.create("/count", "", coordd_client::CreateMode::Persistent).await.expect("a create");
    let token = client.session_token().expect("it is attached");
    for node in ensemble.ids() {
        let attach =
            Attach { session_id: token.session_id, password: token.password.clone(), ..Default::default() };
        let mut thief = RawSession::attach(&ensemble.endpoint(node), attach).await.expect("it is alive");
        let set = client.set("/count", format!("{node}"), None).await.expect("the session lives");
        assert_eq!(set.version, i32::try_from(node).expect("a small number"));
        assert_moved(&mut thief).await;
    }
    assert_eq!(value_of(&ensemble, "/count").await, "3");
}

/// Sessions that all were attached to the leader, which is killed, are attached to the other nodes and have written within
/// three seconds: their attaches share entries of the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_move_after_a_leaders_death() {
    const STREAMS: usize = 100;
    let (sessions, limit) = if cfg!(debug_assertions) { (500, 10 * SECOND) } else { (3000, 3 * SECOND) };
    let mut ensemble = start(3).await;
    let leader = ensemble.leader().await;
    let mut open = Vec::new();
    while open.len() < sessions {
        let connection = channel(&ensemble.endpoint(leader)).await;
        let attach = || Attach { timeout_ms: 30_000, ..Default::default() };
        let streams = (0..STREAMS).map(|_| RawSession::attach_over(connection.clone(), attach()));
        open.extend(futures::future::try_join_all(streams).await.expect("the leader opens sessions"));
    }
    let others = ensemble.ids_but(leader);
    let mut channels = Vec::new();
    for index in 0..sessions / STREAMS {
        channels.push(channel(&ensemble.endpoint(others[index % others.len()])).await);
    }
    ensemble.kill9(leader);
    let start = Instant::now();
    let mut moves = tokio::task::JoinSet::new();
    for (index, session) in open.into_iter().enumerate() {
        let connection = channels[index / STREAMS].clone();
        moves.spawn(async move {
            let mut newer = loop {
                match RawSession::attach_over(connection.clone(), session.attach_again()).await {
                    Ok(newer) => break newer,
                    Err(status) => assert!(start.elapsed() < 30 * SECOND, "{status}"),
                }
                tokio::time::sleep(SECOND / 20).await;
            };
            let attached = start.elapsed();
            let path = format!("/of-{:x}", newer.attached.session_id);
            assert_done(&newer.write(1, create(&path, "", CreateMode::Ephemeral)).await);
            (attached, start.elapsed())
        });
    }
    let times = moves.join_all().await;
    let attached = times.iter().map(|(attached, _)| *attached).max().unwrap_or_default();
    let written = times.iter().map(|(_, written)| *written).max().unwrap_or_default();
    let message = format!("{sessions} sessions attached within {attached:?} and wrote within {written:?}");
    assert!(written < limit, "{message}");
    println!("{message}");
    ensemble.restart(leader);
    ensemble.wait_serving().await;
    ensemble.wait_equal().await;
}

/// A lone session that moves to and fro between two nodes: a move is one write more than the connection, and no more.
#[tokio::test]
async fn a_move_costs_one_write() {
    let ensemble = start(3).await;
    let followers = ensemble.ids_but(ensemble.leader().await);
    let mut session = session_on(&ensemble, followers[0]).await;
    let (mut moves, mut writes) = (Vec::new(), Vec::new());
    let channels =
        [channel(&ensemble.endpoint(followers[0])).await, channel(&ensemble.endpoint(followers[1])).await];
    for round in 0..40 {
        let start = Instant::now();
        let connection = channels[round % 2].clone();
        session = RawSession::attach_over(connection, session.attach_again()).await.expect("it is alive");
        moves.push(start.elapsed());
        let start = Instant::now();
        assert_done(&session.write(round as u64 + 2, set("/e", "")).await);
        writes.push(start.elapsed());
    }
    moves.sort();
    writes.sort();
    let (move_median, write_median) = (moves[20], writes[20]);
    println!("a move takes {move_median:?}, a lone write {write_median:?}");
    assert!(move_median < 3 * write_median + SECOND / 100, "{move_median:?} against {write_median:?}");
}
