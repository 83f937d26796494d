//! What one command may cost is bounded before it is applied, whatever the tree looks like (G9).

use std::time::{Duration, Instant};

use coordd_client::{
    AclEntry, Client, CreateMode, CreateOptions, Credential, Error, ErrorKind, Multi, Perms, Quota, ReadLevel,
};
use coordd_proto::status::from_status;
use coordd_proto::v1::coordd_client::CoorddClient;
use coordd_proto::v1::{self, ErrorCode, multi_op};
use coordd_tests::{Ensemble, EnsembleOptions};
use futures::TryStreamExt as _;
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(10);
const PATH_BYTES: usize = 4096;

fn deep(number: usize, components: usize) -> String {
    format!("/{number:04}{}", "/a".repeat(components - 1))
}

fn with_parents() -> CreateOptions {
    CreateOptions::new(CreateMode::Persistent).parents(true)
}

fn is_over<T: std::fmt::Debug>(answer: Result<T, Error>, limit: &str, remedy: &str) {
    let error = answer.expect_err("over the limit");
    assert_eq!(error.kind, ErrorKind::LimitExceeded, "{error}");
    assert!(error.message.contains(limit) && error.message.contains(remedy), "{error}");
}

async fn fill(client: &Client, top: &str, znodes: usize) {
    client.create(top, "", CreateMode::Persistent).await.expect("a create");
    for from in (0..znodes).step_by(1000) {
        let numbers = from..znodes.min(from + 1000);
        let create = |multi: coordd_client::Multi, number| {
            multi.create(format!("{top}/{number:05}"), "", CreateMode::Persistent)
        };
        numbers.fold(client.multi(), create).commit().await.expect("a multi");
    }
}

/// A multi whose parents would make 800,000 znodes is refused before it is in the log, and so is a path that
/// is too deep.
#[tokio::test]
async fn deep_creates_are_refused() {
    let ensemble = Ensemble::start(1).await;
    let before = ensemble.status_of(1).await;
    let endpoint = format!("http://{}", ensemble.endpoint(1));
    let mut api = CoorddClient::connect(endpoint).await.expect("a connection");
    let components = (PATH_BYTES - 5) / 2;
    for (ops, components, limit) in [(400, components, "depth"), (100, 128, "created_znodes")] {
        let create = |number| v1::CreateRequest {
            path: deep(number, components),
            parents: true,
            ..Default::default()
        };
        let ops = (0..ops).map(|number| v1::MultiOp { op: Some(multi_op::Op::Create(create(number))) });
        let request = v1::MultiRequest { ops: ops.collect(), ..Default::default() };
        let refused = from_status(&api.multi(request).await.expect_err("it costs too much"));
        let error = refused.expect("an error of coordd");
        assert_eq!(error.code(), ErrorCode::BadArguments, "{error:?}");
        assert!(error.message.contains(limit), "{error:?}");
    }
    let after = ensemble.status_of(1).await;
    assert_eq!((after.zxid, after.znodes), (before.zxid, before.znodes));
    assert_eq!(after.last_log_index, before.last_log_index, "it was proposed");

    let client = ensemble.client(TIMEOUT).await;
    client.create(deep(1, 128), "", with_parents()).await.expect("a path at the limit");
    let refused = client.create(deep(2, 129), "", with_parents()).await.expect_err("a path over the limit");
    assert_eq!(refused.kind, ErrorKind::BadArguments, "{refused}");
    assert!(refused.message.contains("depth") && refused.message.contains("129"), "{refused}");
}

/// A tree of 6,000 znodes is not deleted in one step; the refusal says how to do it. A refusal costs no look
/// at the tree.
#[tokio::test]
async fn large_trees_are_refused() {
    let ensemble = Ensemble::start(1).await;
    let client = ensemble.client(TIMEOUT).await;
    fill(&client, "/large", 5999).await;
    is_over(client.delete_tree("/large", None).await, "tree_znodes", "children");
    is_over(client.delete_tree("/large", Some(6000)).await, "tree_znodes", "6000");
    let start = Instant::now();
    let calls: Vec<_> = (0..1000).map(|_| client.delete_tree("/large", Some(1))).collect();
    for call in calls {
        assert_eq!(call.await.expect_err("another count").kind, ErrorKind::CountMismatch);
    }
    assert!(start.elapsed() < Duration::from_secs(5), "1,000 refusals took {:?}", start.elapsed());
    fill(&client, "/small", 4999).await;
    assert_eq!(client.delete_tree("/small", Some(5000)).await.expect("a tree at the limit"), 5000);
}

/// Quotas are limited, counted and listed; a deleted one makes room.
#[tokio::test]
async fn quotas_are_limited_and_listed() {
    let ensemble = EnsembleOptions::new(1).env("COORDD_QUOTAS_MAX", "1050").start().await;
    let client = ensemble.client(TIMEOUT).await;
    fill(&client, "/q", 1051).await;
    let quota = Quota { count_hard: Some(9), ..Quota::default() };
    let calls: Vec<_> = (0..1050).map(|number| client.set_quota(format!("/q/{number:05}"), quota)).collect();
    for call in calls {
        call.await.expect("a quota");
    }
    is_over(client.set_quota("/q/01050", quota).await, "quotas", "1050");
    client.set_quota("/q/00007", quota).await.expect("a quota that is there is changed");

    let admin = ensemble.admin(1).await.expect("a connection");
    let listed: Vec<_> = admin.quotas(vec![]).try_collect().await.expect("all pages");
    assert!(listed.iter().enumerate().all(|(number, (path, usage))| {
        *path == format!("/q/{number:05}") && usage.count == 1 && usage.quota == quota
    }));
    let tables = ensemble.status_of(1).await.tables;
    assert_eq!((listed.len(), tables.get("quotas")), (1050, Some(&1050)));
    let printed = ensemble.coordctl(&["quota", "list", "--output", "json"]).await.expect("a list");
    assert_eq!(printed.lines().count(), 1050);
    let first: Value = serde_json::from_str(printed.lines().next().unwrap_or_default()).expect("JSON");
    assert_eq!((&first["path"], &first["count_hard"]), (&Value::from("/q/00000"), &Value::from(9)));

    client.delete_quota("/q/00000").await.expect("a quota goes");
    client.set_quota("/q/01050", quota).await.expect("there is room");
}

/// Who may not list a znode does not learn of quotas on its children.
#[tokio::test]
async fn hidden_quotas_are_left_out() {
    let ensemble = Ensemble::start(1).await;
    let client = ensemble.client(TIMEOUT).await;
    let ann = Credential::digest("ann", "pw");
    client.add_auth(ann.clone()).await.expect("a credential");
    let closed = CreateOptions::new(CreateMode::Persistent).acl([AclEntry::auth(Perms::ALL)]);
    client.create("/closed", "", closed).await.expect("a create");
    client.create("/closed/secret", "", CreateMode::Persistent).await.expect("a create");
    let quota = Quota { bytes_hard: Some(9), ..Quota::default() };
    for path in ["/", "/closed", "/closed/secret"] {
        client.set_quota(path, quota).await.expect("a quota");
    }
    let admin = ensemble.admin(1).await.expect("a connection");
    let paths = async |credentials| {
        let quotas: Vec<_> = admin.quotas(credentials).try_collect().await.expect("all pages");
        quotas.into_iter().map(|(path, _)| path).collect::<Vec<_>>()
    };
    assert_eq!(paths(vec![]).await, ["/", "/closed"]);
    assert_eq!(paths(vec![ann]).await, ["/", "/closed", "/closed/secret"]);
}

/// `coordctl status` shows the rules, and what clients can make grow.
#[tokio::test]
async fn status_shows_rules_and_tables() {
    let ensemble = Ensemble::start(1).await;
    let client = ensemble.client(TIMEOUT).await;
    let acl = CreateOptions::new(CreateMode::Persistent).acl([AclEntry::world(Perms::READ)]);
    client.create("/a", "", acl).await.expect("a create");
    let printed = ensemble.coordctl(&["status", "--output", "json"]).await.expect("a status");
    let status: Value = serde_json::from_str(&printed).expect("JSON");
    let node = &status["nodes"][0];
    assert!(node["rules"].as_u64() >= Some(2) && node["rules"] == node["rules_known"], "{node}");
    assert_eq!(
        (&node["tables"]["acls"], &node["tables"]["quotas"]),
        (&Value::from(2), &Value::from(0)),
        "{node}"
    );
}

/// The limit of paths holds for the name that a sequential znode gets.
#[tokio::test]
async fn sequential_names_stay_within_limits() {
    let ensemble = Ensemble::start(1).await;
    let client = ensemble.client(TIMEOUT).await;
    let prefix = |bytes: usize| format!("/{}", "x".repeat(bytes - 1));
    let refused = client.create(prefix(PATH_BYTES - 9), "", CreateMode::PersistentSequential).await;
    let refused = refused.expect_err("the name would be too long");
    assert_eq!(refused.kind, ErrorKind::BadArguments, "{refused}");
    assert!(refused.message.contains("path_bytes") && refused.message.contains("4097"), "{refused}");
    let made = client.create(prefix(PATH_BYTES - 10), "", CreateMode::PersistentSequential).await;
    let path = made.expect("a name at the limit").path;
    assert_eq!(path.len(), PATH_BYTES);
    client.delete(path, None).await.expect("what can be made can be deleted");
}

/// A number that is in use is passed over, for good.
#[tokio::test]
async fn used_sequence_numbers_are_skipped() {
    let ensemble = Ensemble::start(1).await;
    let client = ensemble.client(TIMEOUT).await;
    client.create("/sq", "", CreateMode::Persistent).await.expect("a create");
    for number in [1, 2, 3, 5] {
        client.create(format!("/sq/n-{number:010}"), "x", CreateMode::Persistent).await.expect("a create");
    }
    let mut names = Vec::new();
    for _ in 0..3 {
        let made = client.create("/sq/n-", "y", CreateMode::PersistentSequential).await;
        names.push(made.expect("a free number").path);
    }
    let mut sorted = names.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!(names, sorted, "they grow");
    let children = client.children("/sq", ReadLevel::Linearizable).await.expect("a list");
    assert_eq!(children.len(), 7);
}

/// A session has at most so many ephemerals, so that its end stays one short step.
#[tokio::test]
async fn ephemerals_are_limited() {
    let ensemble = EnsembleOptions::new(1).env("COORDD_EPHEMERALS_MAX", "5").start().await;
    let client = ensemble.client(TIMEOUT).await;
    for number in 0..5 {
        client.create(format!("/e{number}"), "", CreateMode::Ephemeral).await.expect("an ephemeral");
    }
    is_over(client.create("/e5", "", CreateMode::Ephemeral).await, "ephemerals", "5");
    is_over(client.multi().create("/e5", "", CreateMode::Ephemeral).commit().await, "ephemerals", "5");
    let other = ensemble.client(TIMEOUT).await;
    other.create("/e5", "", CreateMode::Ephemeral).await.expect("another session has none");
    client.delete("/e0", None).await.expect("a delete");
    client.create("/e6", "", CreateMode::EphemeralSequential).await.expect("there is room");
}

/// The ephemerals of a session are all listed, also when one reply cannot hold their paths.
#[tokio::test]
async fn ephemerals_are_listed_over_pages() {
    let ensemble = Ensemble::start(1).await;
    let client = ensemble.client(TIMEOUT).await;
    let mut paths: Vec<String> =
        (0..1000).map(|number| format!("/{number:04}{}", "x".repeat(4000))).collect();
    for paths in paths.chunks(200) {
        let multi = client.multi();
        let create = |multi: Multi, path: &String| multi.create(path, "", CreateMode::Ephemeral);
        paths.iter().fold(multi, create).commit().await.expect("creates");
    }
    let first = client.ephemerals_page(0, "/", ReadLevel::Local, "").await.expect("a page");
    assert!(first.more && first.paths.len() < 1000, "{} paths fit into one reply", first.paths.len());
    let other = ensemble.client(TIMEOUT).await;
    for (reader, session_id) in [(&client, 0), (&other, client.session_id())] {
        let all = reader.ephemerals(session_id, "/", ReadLevel::Linearizable).await.expect("all of them");
        assert!(all == paths, "{} of {} paths", all.len(), paths.len());
    }
    paths.retain(|path| path.starts_with("/09"));
    assert!(client.ephemerals(0, "/09", ReadLevel::Local).await.expect("some of them") == paths);
    assert!(client.ephemerals(0, "/none", ReadLevel::Local).await.expect("an answer").is_empty());
}
