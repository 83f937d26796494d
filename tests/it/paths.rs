//! A bad path is refused in the same words, whatever is asked for and by whichever way (C16).

use std::time::Duration;

use coordd_client::recipes::registry::{RegistryOptions, ServiceRegistry};
use coordd_client::recipes::{FailureDetector, Lock, Sessions};
use coordd_client::{
    AclEntry, ConnectOptions, CreateMode, Error, ErrorKind, ListOptions, Perms, Quota, ReadLevel, WatchMode,
};
use coordd_proto::status::from_status;
use coordd_proto::v1::coordd_client::CoorddClient;
use coordd_proto::v1::{self, ErrorCode};
use coordd_tests::Ensemble;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Paths with what is wrong with each.
const BAD: [(&str, &str); 8] = [
    ("", "empty path at byte 0"),
    ("a", "path must start with / at byte 0"),
    ("a/b", "path must start with / at byte 0"),
    ("/a/", "path must not end with / at byte 2"),
    ("/a//b", "empty component at byte 3"),
    ("/a/../b", "relative component at byte 3"),
    ("/.", "relative component at byte 1"),
    ("/a\u{7f}b", "character that is not allowed at byte 2"),
];

/// The SDK, each operation.
#[tokio::test]
async fn bad_paths_are_refused_alike() {
    let ensemble = Ensemble::start(1).await;
    let client = ensemble.client(TIMEOUT).await;
    client.create("/a", "", CreateMode::Persistent).await.expect("a create");
    let mut api =
        CoorddClient::connect(format!("http://{}", ensemble.endpoint(1))).await.expect("a connection");
    for (path, why) in BAD {
        let message = format!("invalid path {path:?}: {why}");
        let level = ReadLevel::Local;
        let acl = [AclEntry::world(Perms::ALL)];
        let multi = client.multi().set("/a", "", None);
        let refused: Vec<(&str, Option<Error>)> = vec![
            ("create", client.create(path, "", CreateMode::Persistent).await.err()),
            ("ephemeral", client.create(path, "", CreateMode::Ephemeral).await.err()),
            ("set", client.set(path, "", None).await.err()),
            ("delete", client.delete(path, None).await.err()),
            ("delete_tree", client.delete_tree(path, None).await.err()),
            ("in batches", client.delete_tree_in_batches(path, |_| {}).await.err()),
            ("get", client.get(path, level).await.err()),
            ("exists", client.exists(path, level).await.err()),
            ("list", client.list_page(path, level, ListOptions::default()).await.err()),
            ("count", client.count_descendants(path, level).await.err()),
            ("get_acl", client.get_acl(path, level).await.err()),
            ("set_acl", client.set_acl(path, acl, None).await.err()),
            ("get_quota", client.get_quota(path, level).await.err()),
            ("set_quota", client.set_quota(path, Quota::default()).await.err()),
            ("delete_quota", client.delete_quota(path).await.err()),
            ("watch", client.watch(path, WatchMode::Persistent).await.err()),
            ("multi create", multi.clone().create(path, "", CreateMode::Persistent).commit().await.err()),
            ("multi set", multi.clone().set(path, "", None).commit().await.err()),
            ("multi delete", multi.delete(path, None).commit().await.err()),
        ];
        for (what, refused) in refused {
            let error = refused.unwrap_or_else(|| panic!("{what} of {path:?} is not refused"));
            assert_eq!((error.kind, &error.message), (ErrorKind::BadArguments, &message), "{what}");
        }
        let create = v1::CreateRequest { path: path.into(), ..Default::default() };
        let set = v1::SetRequest { path: path.into(), ..Default::default() };
        let get = v1::GetRequest { path: path.into(), ..Default::default() };
        for status in [
            api.create(create).await.expect_err("refused"),
            api.set(set).await.expect_err("refused"),
            api.get(get).await.expect_err("refused"),
        ] {
            let error = from_status(&status).expect("details");
            assert_eq!((error.code(), &error.message), (ErrorCode::BadArguments, &message));
        }
        // A path of the command line; what is not printable in it is escaped.
        for command in [
            &["create", path, "x"][..],
            &["set", path, "x"],
            &["get", path],
            &["ls", path],
            &["stat", path],
            &["delete", path],
            &["delete", "-r", path],
            &["acl", "get", path],
        ] {
            let said = ensemble.coordctl(command).await.expect_err("refused");
            assert!(said.contains(&message), "{command:?}: {said}");
        }
    }
}

/// Recipes refuse a relative path in those words, too.
#[tokio::test]
async fn recipes_refuse_alike() {
    let ensemble = Ensemble::start(1).await;
    let sessions = Sessions::connect(ensemble.endpoints(), ConnectOptions::new()).await.expect("a session");
    let client = sessions.live().await.expect("a session");
    let refused = [
        ServiceRegistry::new(&sessions, "shop", RegistryOptions::new()).err(),
        FailureDetector::new(&sessions, "shop", "a").err(),
    ];
    for error in refused {
        let error = error.expect("refused");
        assert_eq!(error.kind, ErrorKind::BadArguments);
        assert_eq!(error.message, r#"invalid path "shop": path must start with / at byte 0"#);
    }
    let error = Lock::new(&client, "shop/lock").lock().await.expect_err("refused");
    assert_eq!(error.kind, ErrorKind::BadArguments, "{error}");
    assert!(error.message.ends_with(": path must start with / at byte 0"), "{error}");
    let said = ensemble.coordctl(&["services", "--root", "shop"]).await.expect_err("refused");
    assert!(said.contains(r#"invalid path "shop": path must start with / at byte 0"#), "{said}");
}
