//! ACLs over the wire: who may do what, and that watches tell nobody of what he may not read.

use std::time::Duration;

use coordd_client::{
    AclEntry, Client, ConnectOptions, CreateMode, CreateOptions, Credential, ErrorKind, Perms, ReadLevel,
    WatchMode,
};
use coordd_proto::v1::{Attach, ResumeWatch, WatchKind, WatchSpec};
use coordd_tests::{Ensemble, EnsembleOptions, RawSession};

const TIMEOUT: Duration = Duration::from_secs(10);
/// super:secret
const SUPER_DIGEST: &str = "super:lK75jTNcA+U9vtVEw5vB51mj/w4=";

fn only(acl: AclEntry) -> CreateOptions {
    CreateOptions::new(CreateMode::Persistent).acl([acl])
}

async fn client_with(ensemble: &Ensemble, credential: Credential) -> Client {
    let options = ConnectOptions::new().session_timeout(TIMEOUT).credential(credential);
    options.connect(ensemble.endpoints()).await.expect("a session")
}

/// A digest user is who he proved to be, on every node and after a move; others are refused; the super user passes.
#[tokio::test]
async fn a_znode_of_a_digest_user_is_closed_to_others_and_open_to_the_super_user() {
    let options = EnsembleOptions::new(3).env("COORDD_SUPER_DIGEST", SUPER_DIGEST);
    let mut ensemble = options.start().await;
    let owner = ensemble.client(TIMEOUT).await;
    owner.add_auth(Credential::digest("ann", "pw")).await.expect("a credential");
    let who = owner.who_am_i().await.expect("an answer");
    assert!(
        who.iter().any(|identity| identity.scheme == "digest" && identity.id.starts_with("ann:")),
        "{who:?}"
    );
    owner.create("/ann", "mine", only(AclEntry::auth(Perms::ALL))).await.expect("a create");

    owner.create("/ann/child", "", CreateMode::Persistent).await.expect("a create");

    let other = client_with(&ensemble, Credential::digest("ann", "wrong")).await;
    let refused = [
        other.get("/ann", ReadLevel::Linearizable).await.map(drop),
        other.set("/ann", "theirs", None).await.map(drop),
        other.create("/ann/below", "", CreateMode::Persistent).await.map(drop),
        other.set_acl("/ann", vec![AclEntry::world(Perms::ALL)], None).await.map(drop),
        other.list_page("/ann", ReadLevel::Local, Default::default()).await.map(drop),
        other.delete("/ann/child", None).await.map(drop),
    ];
    for (index, refused) in refused.into_iter().enumerate() {
        assert_eq!(refused.expect_err("not allowed").kind, ErrorKind::NoAuth, "operation {index}");
    }
    let root = client_with(&ensemble, Credential::digest("super", "secret")).await;
    root.set("/ann", "seen", None).await.expect("the super user passes");

    // The owner's identity goes with the session to whichever node takes it.
    ensemble.kill9(ensemble.leader().await);
    let (data, _) = owner.get("/ann", ReadLevel::Linearizable).await.expect("the owner is known again");
    assert_eq!(data, "seen");
}

/// The ip scheme asks where the connection comes from.
#[tokio::test]
async fn the_ip_scheme_tells_addresses_apart() {
    let ensemble = Ensemble::start(1).await;
    let client = ensemble.client(TIMEOUT).await;
    let from = |address: &str| only(AclEntry::new(Perms::ALL, "ip", address));
    for (path, address, passes) in
        [("/here", "127.0.0.1", true), ("/net", "127.0.0.0/8", true), ("/elsewhere", "10.1.2.3", false)]
    {
        client.create(path, "", from(address)).await.expect("a create");
        assert_eq!(client.get(path, ReadLevel::Local).await.is_ok(), passes, "{path}");
    }
}

/// A recursive watch does not tell of znodes that its owner may not read: not live, and not out of history.
#[tokio::test]
async fn a_watch_tells_nothing_of_unreadable_znodes() {
    let ensemble = Ensemble::start(1).await;
    let stranger = ensemble.client(TIMEOUT).await;
    let by_hand = RawSession::open(&ensemble.endpoint(1), TIMEOUT).await;
    let mut watcher = stranger.watch("/", WatchMode::PersistentRecursive).await.expect("a watch");

    let owner = client_with(&ensemble, Credential::digest("ann", "pw")).await;
    owner.create("/secret", "", only(AclEntry::auth(Perms::ALL))).await.expect("a create");
    owner.set("/secret", "x", None).await.expect("a set");
    owner.create("/secret/below", "", only(AclEntry::auth(Perms::ALL))).await.expect("a create");
    owner.delete("/secret/below", None).await.expect("a delete");
    owner.delete("/secret", None).await.expect("a delete");
    let public = owner.create("/public", "", CreateMode::Persistent).await.expect("a create");

    let first = watcher.next().await.expect("an event");
    let first = first.event().map(|event| (event.zxid, event.path.clone()));
    assert_eq!(first, Some((public.stat.czxid, "/public".to_owned())));

    let kind = WatchKind::PersistentRecursive as i32;
    let spec = Some(WatchSpec { watch_id: 1, kind, with_value: true });
    let watches = vec![ResumeWatch { spec, path: "/".into() }];
    let attach = Attach { watches, ..by_hand.attach_again() };
    let mut resumed = RawSession::attach(&ensemble.endpoint(1), attach).await.expect("it goes on");
    resumed.ping().await;
    let told: Vec<_> = resumed.events.iter().map(|event| event.path.as_str()).collect();
    assert_eq!(told, ["/public"]);
}
