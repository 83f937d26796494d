//! Groups: who is a member is seen by all, whatever becomes of sessions, members and nodes.

use std::time::Duration;

use coordd_client::recipes::{GroupMembership, Member, MemberChange, Sessions};
use coordd_client::{ConnectOptions, ErrorKind};
use coordd_tests::{Contender, Ensemble, eventually};
use futures::{Stream, StreamExt as _};

const TIMEOUT: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_secs(5);
const PATH: &str = "/app/workers";

async fn sessions(ensemble: &Ensemble) -> Sessions {
    let options = ConnectOptions::new().session_timeout(TIMEOUT);
    Sessions::connect(ensemble.endpoints(), options).await.expect("a session")
}

async fn next(changes: &mut (impl Stream<Item = MemberChange> + Unpin)) -> MemberChange {
    tokio::time::timeout(SOON, changes.next()).await.expect("in time").expect("it goes on")
}

async fn joined(changes: &mut (impl Stream<Item = MemberChange> + Unpin), name: &str) -> Member {
    match next(changes).await {
        MemberChange::Joined(member) if member.name == name => member,
        other => panic!("{other:?} but {name} has joined"),
    }
}

async fn left(changes: &mut (impl Stream<Item = MemberChange> + Unpin), name: &str) -> Member {
    match next(changes).await {
        MemberChange::Left(member) if member.name == name => member,
        other => panic!("{other:?} but {name} has left"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_seen_to_come_change_and_go() {
    let ensemble = Ensemble::start(3).await;
    let (own, other) = (sessions(&ensemble).await, sessions(&ensemble).await);
    let (group, observer) = (GroupMembership::new(&own, PATH), GroupMembership::new(&other, PATH));
    assert_eq!(observer.members().await, Ok(Vec::new()));
    for name in ["", "a/b"] {
        assert_eq!(group.join(name, "").await.expect_err("no name").kind, ErrorKind::BadArguments);
    }
    let first = group.join("first", "1").await.expect("joined");
    let mut changes = observer.watch();
    assert_eq!(joined(&mut changes, "first").await.data, "1");
    let second = group.join("second", "2").await.expect("joined");
    let seen = joined(&mut changes, "second").await;
    assert_eq!(Some(seen.epoch), second.epoch());
    second.set_data("3").await.expect("it is there");
    let MemberChange::Updated { old, new } = next(&mut changes).await else { panic!("an update") };
    assert_eq!((old.data.as_ref(), new.data.as_ref(), new.epoch), (&b"2"[..], &b"3"[..], seen.epoch));
    assert_eq!(observer.members().await.expect("a list").len(), 2);
    first.leave().await;
    left(&mut changes, "first").await;
    // One who takes the name of another that is still there waits for it.
    let same = tokio::spawn({
        let observer = observer.clone();
        async move { observer.join("second", "4").await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!same.is_finished());
    drop(second);
    left(&mut changes, "second").await;
    assert_eq!(joined(&mut changes, "second").await.data, "4");
    drop(same.await.expect("no panic").expect("joined"));
    left(&mut changes, "second").await;
    other.close().await.expect("closed");
    assert_eq!(tokio::time::timeout(SOON, changes.next()).await, Ok(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_comes_back_in_its_next_session_and_a_dead_one_goes() {
    let mut ensemble = Ensemble::start(3).await;
    let (own, other) = (sessions(&ensemble).await, sessions(&ensemble).await);
    let membership = GroupMembership::new(&own, PATH).join("survivor", "1").await.expect("joined");
    let observer = GroupMembership::new(&other, PATH);
    let mut changes = observer.watch();
    let before = joined(&mut changes, "survivor").await;
    membership.set_data("2").await.expect("it is there");
    assert!(matches!(next(&mut changes).await, MemberChange::Updated { .. }));

    // Its session ends: it is there again, with its newest data.
    let admin = ensemble.admin(ensemble.leader().await).await.expect("an operator");
    admin.kill_session(before.session_id, "the test").await.expect("ended");
    left(&mut changes, "survivor").await;
    let after = joined(&mut changes, "survivor").await;
    assert_eq!(after.data, "2");
    assert!(after.epoch > before.epoch && after.session_id != before.session_id);

    // The observer's session ends: it is told nothing twice.
    let session_id = other.newest().expect("a session").session_id();
    admin.kill_session(session_id, "the test").await.expect("ended");
    // Nodes die: nobody goes.
    let leader = ensemble.leader().await;
    ensemble.kill9(leader);
    ensemble.restart(leader);
    ensemble.wait_serving().await;

    // Members that are killed, stopped and cut off go within their session's timeout.
    for (name, disturb) in [
        ("killed", Contender::kill9 as fn(&mut Contender)),
        ("stopped", |contender| contender.pause()),
        ("cut-off", |contender| contender.cut_off()),
    ] {
        let path = format!("{PATH}/{name}");
        let args = ["--path", &path, "--session-timeout", "1s"];
        let mut contender = Contender::spawn(&ensemble, "session", &args).await;
        contender.event(SOON, "created").await;
        joined(&mut changes, name).await;
        disturb(&mut contender);
        let start = std::time::Instant::now();
        left(&mut changes, name).await;
        assert!(start.elapsed() < Duration::from_secs(3), "{name}: {:?}", start.elapsed());
    }
    eventually(SOON, "only one is left", async || {
        let members = observer.members().await.expect("a list");
        members.iter().map(|member| member.name.as_str()).eq(["survivor"])
    })
    .await;
}
