//! The API without a session stream: one call each, as scripts and other languages use it.

use std::time::Duration;

use coordd_proto::v1::coordd_client::CoorddClient;
use coordd_proto::v1::*;
use coordd_tests::{Ensemble, code_of, eventually};
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

async fn connect(ensemble: &Ensemble, node: u64) -> CoorddClient<Channel> {
    CoorddClient::connect(format!("http://{}", ensemble.endpoint(node))).await.expect("a connection")
}

fn path<T: Into<String>>(path: T) -> String {
    path.into()
}

/// Every write and every read is there as a call, with its place in history.
#[tokio::test]
async fn every_operation_is_a_call() {
    let ensemble = Ensemble::start(3).await;
    let mut api = connect(&ensemble, 2).await;
    let request = CreateRequest { path: path("/a/b"), data: "1".into(), parents: true, ..Default::default() };
    let created = api.create(request).await.expect("a create").into_inner();
    assert_eq!((created.path.as_str(), created.stat.unwrap_or_default().czxid), ("/a/b", created.zxid));
    let request = SetRequest { path: path("/a/b"), data: "2".into(), version: Some(0), ..Default::default() };
    let set = api.set(request).await.expect("a set").into_inner();
    assert!(set.zxid > created.zxid);

    // Another node, at a zxid it has to reach first.
    let mut other = connect(&ensemble, 3).await;
    let request = GetRequest { path: path("/a/b"), min_zxid: set.zxid, ..Default::default() };
    let got = other.get(request).await.expect("a get").into_inner();
    assert_eq!((&got.data[..], got.stat, got.zxid >= set.zxid), (&b"2"[..], set.stat, true));
    let level = ReadLevel::Linearizable as i32;
    let request = ExistsRequest { path: path("/a/c"), level, ..Default::default() };
    assert_eq!(api.exists(request).await.expect("an exists").into_inner().stat, None);
    let request = ListRequest { path: path("/a"), with_stat: true, level, ..Default::default() };
    let listed = api.list(request).await.expect("a list").into_inner();
    assert_eq!(listed.children, [Child { name: "b".into(), stat: set.stat }]);

    let op = |op| MultiOp { op: Some(op) };
    let ops = vec![
        op(multi_op::Op::Create(CreateRequest { path: path("/a/c"), ..Default::default() })),
        op(multi_op::Op::Check(Check {
            path: path("/a/c"),
            condition: Some(check::Condition::Version(0)),
            lineage: None,
        })),
        op(multi_op::Op::Delete(DeleteRequest { path: path("/a/c"), ..Default::default() })),
    ];
    let multi = api.multi(MultiRequest { ops, ..Default::default() }).await.expect("a multi").into_inner();
    assert_eq!(multi.results.len(), 3);
    let ops = vec![
        ReadOp { op: Some(read_op::Op::Get(GetRequest { path: path("/a/b"), ..Default::default() })) },
        ReadOp { op: Some(read_op::Op::Get(GetRequest { path: path("/none"), ..Default::default() })) },
    ];
    let request = MultiReadRequest { ops, ..Default::default() };
    let results = api.multi_read(request).await.expect("a multi read").into_inner().results;
    assert!(matches!(results[0].result, Some(read_op_reply::Result::Get(_))), "{results:?}");
    assert!(matches!(results[1].result, Some(read_op_reply::Result::Error(_))), "{results:?}");

    let acl = vec![AclEntry { perms: 31, scheme: "world".into(), id: "anyone".into() }];
    let request = SetAclRequest { path: path("/a/b"), acl: acl.clone(), ..Default::default() };
    api.set_acl(request).await.expect("a set of an ACL");
    let request = GetAclRequest { path: path("/a/b"), ..Default::default() };
    assert_eq!(api.get_acl(request).await.expect("an ACL").into_inner().acl, acl);
    let quota = Some(Quota { count_hard: Some(9), ..Default::default() });
    api.set_quota(SetQuotaRequest { path: path("/a"), quota, ..Default::default() }).await.expect("a quota");
    let request = GetQuotaRequest { path: path("/a"), ..Default::default() };
    let usage = api.get_quota(request).await.expect("a quota").into_inner();
    assert_eq!((usage.quota, usage.count), (quota, 2));
    let request = DeleteQuotaRequest { path: path("/a"), ..Default::default() };
    api.delete_quota(request).await.expect("a quota goes");
    let request = CountDescendantsRequest { path: path("/a"), ..Default::default() };
    assert_eq!(api.count_descendants(request).await.expect("a count").into_inner().count, 1);

    let synced = other.sync(SyncRequest {}).await.expect("a sync").into_inner().zxid;
    assert!(synced >= multi.zxid);
    let request = DeleteRequest { path: path("/a/b"), version: Some(7), ..Default::default() };
    let refused = api.delete(request).await.expect_err("another version");
    assert_eq!((code_of(&refused), refused.code()), (ErrorCode::BadVersion, tonic::Code::FailedPrecondition));
    let request = DeleteRequest { path: path("/a/b"), ..Default::default() };
    assert!(api.delete(request).await.expect("a delete").into_inner().zxid > synced);
    let request = DeleteTreeRequest { path: path("/a"), expected_count: Some(1), ..Default::default() };
    assert_eq!(api.delete_tree(request).await.expect("a delete").into_inner().count, 1);
}

async fn open(api: &mut CoorddClient<Channel>, timeout_ms: u32) -> SessionRef {
    let request = OpenSessionRequest { timeout_ms, client_name: "a script".into() };
    let opened = api.open_session(request).await.expect("a session").into_inner();
    assert_eq!(opened.timeout_ms, timeout_ms);
    SessionRef { session_id: opened.session_id, password: opened.password, ..Default::default() }
}

fn ephemeral(at: &str, session: &SessionRef) -> CreateRequest {
    let mode = CreateMode::Ephemeral as i32;
    CreateRequest { path: path(at), mode, session: Some(session.clone()), ..Default::default() }
}

/// G6: a session without a stream lives by `KeepAlive`, through any node, and dies without.
#[tokio::test]
async fn a_session_of_calls_lives_by_keep_alive() {
    let ensemble = Ensemble::start(3).await;
    let mut apis = Vec::new();
    for id in ensemble.ids() {
        apis.push(connect(&ensemble, id).await);
    }
    let session = open(&mut apis[0], 1000).await;
    apis[1].create(ephemeral("/e", &session)).await.expect("an ephemeral, through another node");
    for round in 0..9 {
        tokio::time::sleep(Duration::from_millis(330)).await;
        let request = KeepAliveRequest { session: Some(session.clone()) };
        apis[round % 3].keep_alive(request).await.expect("it is alive");
    }
    let request = GetEphemeralsRequest { session_id: session.session_id, ..Default::default() };
    let paths = apis[2].get_ephemerals(request).await.expect("a list").into_inner().paths;
    assert_eq!(paths, ["/e"]);
    let mut api = apis[2].clone();
    let gone = eventually(Duration::from_secs(3), "it dies of silence", async || {
        let request = ExistsRequest { path: path("/e"), ..Default::default() };
        api.exists(request).await.expect("a read").into_inner().stat.is_none()
    });
    gone.await;
    let request = KeepAliveRequest { session: Some(session) };
    let refused = apis[0].keep_alive(request).await.expect_err("it has ended");
    assert_eq!(code_of(&refused), ErrorCode::SessionExpired);
}

/// G7: `KeepAlive` says how long the session surely lives, and nothing where no majority confirms it.
#[tokio::test]
async fn keep_alive_says_how_long() {
    let mut ensemble = Ensemble::start(3).await;
    let mut apis = Vec::new();
    for id in ensemble.ids() {
        apis.push(connect(&ensemble, id).await);
    }
    let session = open(&mut apis[0], 30_000).await;
    let request = KeepAliveRequest { session: Some(session.clone()) };
    for api in &mut apis {
        let reply = api.keep_alive(request.clone()).await.expect("it is alive").into_inner();
        assert_eq!((reply.timeout_ms, reply.alive_ms), (30_000, 30_000));
    }
    // Many at a time share the rounds to the leader.
    let calls = (0..200).map(|_| apis[1].clone()).map(|mut api| {
        let request = request.clone();
        async move { api.keep_alive(request).await.expect("it is alive").into_inner().alive_ms }
    });
    assert!(futures::future::join_all(calls).await.iter().all(|alive_ms| *alive_ms == 30_000));

    for id in [2, 3] {
        ensemble.kill9(id);
    }
    for _ in 0..3 {
        match apis[0].keep_alive(request.clone()).await {
            Ok(reply) => assert_eq!((reply.get_ref().timeout_ms, reply.get_ref().alive_ms), (30_000, 0)),
            Err(refused) => assert_eq!(code_of(&refused), ErrorCode::NotServing),
        }
    }
    for id in [2, 3] {
        ensemble.restart(id);
    }
    ensemble.wait_serving().await;
    let confirmed = eventually(Duration::from_secs(10), "it is confirmed again", async || {
        apis[0].keep_alive(request.clone()).await.is_ok_and(|reply| reply.get_ref().alive_ms == 30_000)
    });
    confirmed.await;
}

/// G4: numbered writes over calls are executed once, through whichever node they come; a closed session takes its
/// ephemerals with it.
#[tokio::test]
async fn a_numbered_call_sent_again_is_answered_as_the_first_time() {
    let ensemble = Ensemble::start(3).await;
    let (mut first, mut second) = (connect(&ensemble, 1).await, connect(&ensemble, 2).await);
    let session = open(&mut first, 10_000).await;
    let numbered = |write_seq| Some(SessionRef { write_seq, ..session.clone() });
    let mode = CreateMode::PersistentSequential as i32;
    let request = CreateRequest { path: path("/s-"), mode, session: numbered(1), ..Default::default() };
    let once = first.create(request.clone()).await.expect("a create").into_inner();
    let again = second.create(request).await.expect("the answer of the first").into_inner();
    assert_eq!(once, again);
    let request = SetRequest { path: path("/s-0000000000"), session: numbered(3), ..Default::default() };
    assert_eq!(code_of(&second.set(request).await.expect_err("a gap")), ErrorCode::SequenceGap);

    first.create(ephemeral("/e", &session)).await.expect("an ephemeral");
    let closed = second.close_session(CloseSessionRequest { session: Some(session.clone()) }).await;
    assert_eq!(closed.expect("it closes").into_inner().ephemerals, 1);
    let refused = first.create(ephemeral("/e", &session)).await.expect_err("it has ended");
    assert!(matches!(code_of(&refused), ErrorCode::SessionExpired), "{refused}");
}

/// What only a session can do is refused without one, by name.
#[tokio::test]
async fn what_needs_a_session_or_a_stream_is_refused_without() {
    let ensemble = Ensemble::start(1).await;
    let mut api = connect(&ensemble, 1).await;
    let refused = api.create(ephemeral("/e", &SessionRef::default())).await.expect_err("nobody's ephemeral");
    assert!(refused.message().contains("session"), "{refused}");
    let watch = Some(WatchSpec { watch_id: 1, kind: WatchKind::Data as i32, with_value: false });
    let request = GetRequest { path: path("/"), watch, ..Default::default() };
    let refused = api.get(request).await.expect_err("a watch without a stream");
    assert!(refused.message().contains("session stream"), "{refused}");
    let stranger = SessionRef { session_id: 5, password: vec![0; 16].into(), ..Default::default() };
    let refused = api.create(ephemeral("/e", &stranger)).await.expect_err("no such session");
    assert_eq!(code_of(&refused), ErrorCode::NoSession);
}

/// The standard services of gRPC: load balancers ask for health, `grpcurl` for the API.
#[tokio::test]
async fn health_and_reflection_answer() {
    let mut ensemble = Ensemble::start(3).await;
    let url = format!("http://{}", ensemble.endpoint(1));
    let channel = Channel::from_shared(url).expect("an address").connect().await.expect("a connection");
    let mut health = HealthClient::new(channel.clone());
    let mut check = async || {
        let request = HealthCheckRequest { service: "coordd.v1.Coordd".into() };
        health.check(request).await.expect("an answer").into_inner().status()
    };
    assert_eq!(check().await, ServingStatus::Serving);

    let mut reflection = ServerReflectionClient::new(channel);
    let message_request = Some(MessageRequest::ListServices(String::new()));
    let request = ServerReflectionRequest { host: String::new(), message_request };
    let answers = reflection.server_reflection_info(futures::stream::iter([request])).await;
    let answer = answers.expect("an answer").into_inner().message().await.expect("an item");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.and_then(|answer| answer.message_response)
    else {
        panic!("not a list of services");
    };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["coordd.v1.Coordd", "coordd.v1.Admin", "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{names:?}");
    }

    for id in ensemble.ids_but(1) {
        ensemble.kill9(id);
    }
    eventually(Duration::from_secs(10), "a node without a majority says so", async || {
        check().await == ServingStatus::NotServing
    })
    .await;
}
