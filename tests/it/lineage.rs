//! An ensemble in the place of another one: zxids of the two are never compared.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use coordd_client::recipes::config::{Config, ConfigDocument, ConfigManager, ConfigOptions};
use coordd_client::recipes::{CacheChange, GroupMembership, Lock, Sessions, TreeCache};
use coordd_client::{
    Check, Client, ConnectOptions, CreateMode, EndReason, ErrorKind, ReadLevel, SessionState,
};
use coordd_proto::v1::coordd_client::CoorddClient;
use coordd_proto::v1::{
    self, Attach, CreateRequest, DeleteRequest, ErrorCode, GetRequest, Lineage, MultiOp, MultiRequest,
    OpenSessionRequest, SessionRef, SetRequest, SubscribePath, SubscribeRequest, check, multi_op,
};
use coordd_tests::{BlackHole, Ensemble, EnsembleOptions, RawSession, code_of, eventually};
use futures::StreamExt as _;

const TIMEOUT: Duration = Duration::from_secs(10);

/// The same writes in both ensembles give the same zxids.
async fn fill(ensemble: &Ensemble, value: &'static str) -> (Client, u64) {
    let client = ensemble.client(TIMEOUT).await;
    client.create("/g", "", CreateMode::Persistent).await.expect("a create");
    let created = client.create("/g/a", value, CreateMode::Persistent).await.expect("a create");
    (client, created.stat.czxid)
}

/// A session, a cache and a membership meet another ensemble, which is at a smaller zxid and has the same
/// zxids at the same paths: the session ends at once, and everything is read and made again.
#[tokio::test]
async fn replaced_ensemble_is_read_again() {
    let old = Ensemble::start(1).await;
    let new = EnsembleOptions::new(1).start_beside(&old).await;
    let (writer, czxid) = fill(&old, "old").await;
    let (_keeps_new_alive, same) = fill(&new, "new").await;
    assert_eq!(czxid, same, "the zxids are the same");
    let proxy = BlackHole::to(old.endpoint(1)).await;
    let endpoint = proxy.endpoint();
    let port = endpoint.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port");
    let options = ConnectOptions::new().session_timeout(Duration::from_secs(30));
    let sessions = Sessions::connect([endpoint.clone()], options).await.expect("a session");
    let cache = TreeCache::start(&sessions, "/g");
    let group = GroupMembership::new(&sessions, "/m");
    let membership = group.join("me", "x").await.expect("it joins");
    for _ in 0..100 {
        writer.set("/g", "", None).await.expect("a set");
    }
    let far = cache.wait_for(writer.last_zxid()).await.expect("a view");
    assert_eq!(cache.get("/g/a").expect("it is there").data, "old");
    let first = sessions.live().await.expect("a session");

    proxy.reset();
    drop(proxy);
    let since = Instant::now();
    let is_free = async || std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    eventually(TIMEOUT, "the proxy has let go of its port", is_free).await;
    let _proxy = BlackHole::at((Ipv4Addr::LOCALHOST, port), new.endpoint(1)).await;
    let SessionState::Expired(end) = first.ended().await else { panic!("{:?}", first.state()) };
    assert_eq!(end.reason, EndReason::OtherEnsemble, "{end}");
    let shows_new = async || cache.get("/g/a").is_some_and(|znode| znode.data == "new");
    eventually(TIMEOUT, "the cache shows the new ensemble", shows_new).await;
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
    let view = cache.view();
    assert!(view.zxid() < far.zxid() && view.is_newer_than(&far), "{} {}", view.zxid(), far.zxid());
    let changes = view.changes_since(&far);
    assert!(matches!(&changes[0], CacheChange::Removed(znode) if &*znode.path == "/g/a"), "{changes:?}");
    assert!(changes.iter().any(|change| matches!(change, CacheChange::Added(znode) if znode.data == "new")));

    // A zxid of the new ensemble is waited for, although views of the old one had greater ones.
    let other = new.client(TIMEOUT).await;
    let zxid = other.set("/g/a", "newer", None).await.expect("a set").mzxid;
    let shown = cache.wait_for(zxid).await.expect("a view");
    assert_eq!(shown.get("/g/a").expect("it is there").data, "newer");

    let is_member = async || {
        let members = group.members().await.unwrap_or_default();
        members.iter().any(|member| member.name == "me")
    };
    eventually(TIMEOUT, "the membership is there again", is_member).await;
    let epoch = membership.epoch().expect("it is a member");
    assert!(epoch < far.zxid(), "of the new ensemble: {epoch}");
    assert_eq!(cache.changes().next().await.map(|change| change.path().to_owned()).as_deref(), Some("/g"));
}

/// A client that does not name its lineage is told at once, too: what it has seen, this ensemble has never
/// had.
#[tokio::test]
async fn older_client_is_told_at_once() {
    let ensemble = Ensemble::start(3).await;
    let raw = RawSession::open(&ensemble.endpoint(1), TIMEOUT).await;
    let far = raw.attached.zxid + 1000;
    for id in ensemble.ids() {
        let since = Instant::now();
        let attach = Attach { last_zxid: far, ..raw.attach_again() };
        let refused = RawSession::attach(&ensemble.endpoint(id), attach).await;
        let Err(status) = refused else { panic!("attached at a zxid that never was") };
        assert_eq!(code_of(&status), ErrorCode::SessionExpired, "{status}");
        assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    }
    // What was refused has ended nothing.
    RawSession::attach(&ensemble.endpoint(2), raw.attach_again()).await.expect("the session is alive");
}

/// `min_zxid` and `from_zxid` carry the lineage, and are refused by another one.
#[tokio::test]
async fn zxids_carry_their_lineage() {
    let ensemble = Ensemble::start(1).await;
    let client = ensemble.client(TIMEOUT).await;
    let own = client.lineage().expect("a lineage");
    let mut api =
        CoorddClient::connect(format!("http://{}", ensemble.endpoint(1))).await.expect("a connection");
    let synced = api.sync(coordd_proto::v1::SyncRequest {}).await.expect("a sync").into_inner();
    assert_eq!(
        synced.lineage.as_ref().map(|lineage| lineage.cluster_id.as_str()),
        Some(own.cluster_id.as_str())
    );
    let get = |min_zxid, lineage| GetRequest { path: "/".into(), min_zxid, lineage, ..Default::default() };
    api.get(get(synced.zxid, synced.lineage.clone())).await.expect("its own");
    let other = Some(Lineage { cluster_id: "other".into(), number: 0 });
    let restored = Some(Lineage { cluster_id: own.cluster_id.clone(), number: 1 });
    for lineage in [other.clone(), restored] {
        let status = api.get(get(1, lineage)).await.expect_err("another one");
        assert_eq!(code_of(&status), ErrorCode::OtherLineage, "{status}");
    }
    let status = api.get(get(synced.zxid + 1000, None)).await.expect_err("never");
    assert_eq!(code_of(&status), ErrorCode::OtherLineage, "{status}");

    let paths = vec![SubscribePath { path: "/".into(), ..Default::default() }];
    let subscription = SubscribeRequest { paths, from_zxid: synced.zxid, ..Default::default() };
    let mut stream = api.subscribe(subscription.clone()).await.expect("a subscription").into_inner();
    let first = stream.message().await.expect("a reply").expect("a reply");
    assert_eq!(first.lineage, synced.lineage);
    let status =
        api.subscribe(SubscribeRequest { lineage: other, ..subscription }).await.expect_err("another one");
    assert_eq!(code_of(&status), ErrorCode::OtherLineage, "{status}");
}

/// The guards and checks of a write name the lineage of their epochs. Of another one they do not hold,
/// although a znode with this epoch stands at the path.
#[tokio::test]
async fn guards_carry_their_lineage() {
    let ensemble = Ensemble::start(1).await;
    let (client, epoch) = fill(&ensemble, "v").await;
    let own = client.lineage().expect("a lineage");
    let wire = |cluster_id: &str, number| Some(Lineage { cluster_id: cluster_id.into(), number });
    let others = [wire("other", 0), wire(&own.cluster_id, 1)];
    let check = |lineage| {
        let condition = Some(check::Condition::Epoch(epoch));
        v1::Check { path: "/g/a".into(), condition, lineage }
    };
    let mut api =
        CoorddClient::connect(format!("http://{}", ensemble.endpoint(1))).await.expect("a connection");
    let set = |lineage, session| SetRequest {
        path: "/g".into(),
        guards: vec![check(lineage)],
        session,
        ..Default::default()
    };
    let multi = |lineage, session| {
        let ops = vec![MultiOp { op: Some(multi_op::Op::Check(check(lineage))) }];
        MultiRequest { ops, session, ..Default::default() }
    };
    for lineage in [None, wire(&own.cluster_id, 0)] {
        api.set(set(lineage.clone(), None)).await.expect("its own");
        api.multi(multi(lineage, None)).await.expect("its own");
    }
    for lineage in &others {
        let guards = vec![check(lineage.clone())];
        let create = CreateRequest { path: "/new".into(), guards: guards.clone(), ..Default::default() };
        let delete = DeleteRequest { path: "/g/a".into(), guards: guards.clone(), ..Default::default() };
        let tree = v1::DeleteTreeRequest { path: "/g".into(), guards: guards.clone(), ..Default::default() };
        let acl = v1::SetAclRequest { path: "/g".into(), guards: guards.clone(), ..Default::default() };
        let quota = Some(v1::Quota::default());
        let set_quota =
            v1::SetQuotaRequest { path: "/g".into(), quota, guards: guards.clone(), ..Default::default() };
        let no_quota = v1::DeleteQuotaRequest { path: "/g".into(), guards, ..Default::default() };
        let refused = [
            api.create(create).await.expect_err("another one"),
            api.delete(delete).await.expect_err("another one"),
            api.set(set(lineage.clone(), None)).await.expect_err("another one"),
            api.multi(multi(lineage.clone(), None)).await.expect_err("another one"),
            api.delete_tree(tree).await.expect_err("another one"),
            api.set_acl(acl).await.expect_err("another one"),
            api.set_quota(set_quota).await.expect_err("another one"),
            api.delete_quota(no_quota).await.expect_err("another one"),
        ];
        for status in &refused {
            assert_eq!(code_of(status), ErrorCode::OtherLineage, "{status}");
        }
    }

    // A numbered write takes its number, and is refused as by a grant that is gone.
    let opened = api.open_session(OpenSessionRequest { timeout_ms: 10_000, ..Default::default() });
    let opened = opened.await.expect("a session").into_inner();
    let mut numbers = 1..;
    let mut session = || {
        let write_seq = numbers.next().expect("a number");
        let (session_id, password) = (opened.session_id, opened.password.clone());
        Some(SessionRef { session_id, password, write_seq, acked_write_seq: write_seq - 1 })
    };
    for lineage in &others {
        let status = api.set(set(lineage.clone(), session())).await.expect_err("another one");
        assert_eq!(code_of(&status), ErrorCode::GuardFailed, "{status}");
        let status = api.multi(multi(lineage.clone(), session())).await.expect_err("another one");
        assert_eq!(code_of(&status), ErrorCode::BadEpoch, "{status}");
    }
    api.set(set(opened.lineage.clone(), session())).await.expect("its own, with the next number");

    for number in [0, 1] {
        let cluster_id = if number == 0 { "other".to_owned() } else { own.cluster_id.clone() };
        let other = Check::epoch("/g/a", epoch).in_lineage(coordd_client::Lineage { cluster_id, number });
        let refused = client.guarded([other.clone()]).set("/g", "", None).await.expect_err("another one");
        assert_eq!(refused.kind, ErrorKind::GuardFailed, "{refused}");
        assert!(refused.message.contains("another ensemble"), "{refused}");
        let refused = client.multi().check(other).commit().await.expect_err("another one");
        assert_eq!((refused.kind, refused.op_index), (ErrorKind::BadEpoch, Some(0)), "{refused}");
    }
    let own = Check::epoch("/g/a", epoch).in_lineage(own);
    client.guarded([own]).set("/g", "", None).await.expect("its own");
}

/// A lock of an ensemble that was replaced guards nothing in the new one, although that has a znode of the
/// same epoch at the same path: neither by `coordctl --guard` nor by the check of the grant.
#[tokio::test]
async fn guard_of_replaced_ensemble() {
    let old = Ensemble::start(1).await;
    let new = EnsembleOptions::new(1).start_beside(&old).await;
    let mut grants = Vec::new();
    for ensemble in [&old, &new] {
        let client = ensemble.client(TIMEOUT).await;
        client.create("/state", "none", CreateMode::Persistent).await.expect("a create");
        grants.push(Lock::new(&client, "/lock").lock().await.expect("it is free"));
    }
    let [of_old, of_new] = &grants[..] else { panic!("two grants") };
    assert_eq!((of_old.path(), of_old.epoch()), (of_new.path(), of_new.epoch()), "the zxids are the same");
    let client = new.client(TIMEOUT).await;
    let guard = async |ensemble: &Ensemble| {
        let lineage = ensemble.client(TIMEOUT).await.lineage().expect("a lineage");
        format!("{}:{}@{}", of_old.path(), of_old.epoch(), lineage.cluster_id)
    };
    let late = guard(&old).await;
    for write in [&["set", "/state", "late"][..], &["delete", "/state"], &["create", "/late", ""]] {
        let refused = new.coordctl(&[write, &["--guard", &late]].concat()).await.expect_err("another one");
        assert!(refused.contains("GuardFailed") && refused.contains("ensemble"), "{refused}");
    }
    let refused = client.guarded([of_old.as_check()]).set("/state", "late", None).await;
    assert_eq!(refused.expect_err("another one").kind, ErrorKind::GuardFailed);
    let (state, _) = client.get("/state", ReadLevel::Linearizable).await.expect("it is there");
    assert_eq!(state, "none");

    client.guarded([of_new.as_check()]).set("/state", "mine", None).await.expect("its own");
    let held = guard(&new).await;
    new.coordctl(&["set", "/state", "mine", "--guard", &held]).await.expect("its own");
    old.coordctl(&["set", "/state", "mine", "--guard", &late]).await.expect("its own");
}

/// `compare_and_set` with a configuration of an ensemble that was replaced changes nothing in the new one,
/// although that has a document of the same creation zxid and version at the same path.
#[tokio::test]
async fn seen_config_of_replaced_ensemble() {
    let old = Ensemble::start(1).await;
    let new = EnsembleOptions::new(1).start_beside(&old).await;
    let mut documents = Vec::new();
    for ensemble in [&old, &new] {
        let client = ensemble.client(TIMEOUT).await;
        let document = ConfigDocument::new(&client, "/config", ConfigOptions::new(0)).expect("a document");
        let written = document.set(&1).await.expect("written");
        documents.push((client, document, written));
    }
    let [(_, of_old, seen), (_, of_new, present)] = &documents[..] else { panic!("two documents") };
    let identity = |config: &Config<i32>| config.stat.map(|stat| (stat.czxid, stat.version));
    assert_eq!(identity(seen), identity(present), "the zxids are the same");
    let sessions = Sessions::connect(old.endpoints(), ConnectOptions::new()).await.expect("a session");
    let followed =
        ConfigManager::start(&sessions, "/config", ConfigOptions::new(0)).await.expect("a manager");
    for seen in [seen, &of_old.get(ReadLevel::Linearizable).await.expect("a read"), &followed.snapshot()] {
        assert!(of_new.compare_and_set(seen, &2).await.expect("an answer").is_none(), "of the old ensemble");
    }
    assert_eq!(*of_new.get(ReadLevel::Linearizable).await.expect("a read").value, 1);

    let next = of_new.compare_and_set(present, &3).await.expect("an answer").expect("its own");
    assert!(of_new.compare_and_set(&next, &4).await.expect("an answer").is_some(), "its own");
    assert_eq!(followed.compare_and_set(&followed.snapshot(), &5).await, Ok(true));
    assert_eq!(*of_old.get(ReadLevel::Linearizable).await.expect("a read").value, 5);
}
