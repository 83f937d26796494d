//! Subtrees that are deleted in many steps.

use std::time::Duration;

use coordd_client::{Client, CreateMode, ErrorKind, ReadLevel};
use coordd_tests::Ensemble;

const TIMEOUT: Duration = Duration::from_secs(30);

async fn create_all(client: &Client, paths: impl IntoIterator<Item = String>) -> u64 {
    let creates: Vec<_> =
        paths.into_iter().map(|path| client.create(path, "x", CreateMode::Persistent)).collect();
    let count = creates.len() as u64;
    for create in creates {
        create.await.expect("a create");
    }
    count
}

/// Wide and deep, with leaves and inner znodes side by side. Returns how many.
async fn plant(client: &Client, top: &str) -> u64 {
    let chain = (0..40).scan(top.to_owned(), |path, level| {
        path.push_str(&format!("/{level}"));
        Some(path.clone())
    });
    let mut paths = vec![top.to_owned(), format!("{top}/wide")];
    paths.extend((0..1500).map(|n| format!("{top}/wide/{n:04}")));
    paths.extend(
        (0..50).flat_map(|n| [format!("{top}/m{n}"), format!("{top}/m{n}/a"), format!("{top}/m{n}/a/b")]),
    );
    paths.extend(chain);
    create_all(client, paths).await
}

/// All goes, children first, and what is refused is refused before anything has gone.
#[tokio::test(flavor = "multi_thread")]
async fn large_subtree_goes_in_steps() {
    let ensemble = Ensemble::start(1).await;
    let client = ensemble.client(TIMEOUT).await;
    let count = plant(&client, "/t").await;
    let mut told = Vec::new();
    let gone = client.delete_tree_in_batches("/t", |gone| told.push(gone)).await.expect("deleted");
    assert_eq!((gone, told.last()), (count, Some(&count)));
    assert!(told.len() > 2 && told.is_sorted(), "{told:?}");
    assert_eq!(client.exists("/t", ReadLevel::Local).await.expect("an answer"), None);
    create_all(&client, ["/kept".to_owned(), "/kept/a".to_owned()]).await;
    for (path, kind) in
        [("/", ErrorKind::BadArguments), ("/absent", ErrorKind::NoNode), ("kept", ErrorKind::BadArguments)]
    {
        let refused = client.delete_tree_in_batches(path, |_| {}).await.expect_err("refused");
        assert_eq!(refused.kind, kind, "{path}");
    }
    assert_eq!(client.count_descendants("/kept", ReadLevel::Local).await.expect("a count"), 1);
    let guarded = client.guarded([coordd_client::Check::absent("/kept")]);
    let refused = guarded.delete_tree_in_batches("/kept", |_| {}).await.expect_err("refused");
    assert_eq!(refused.kind, ErrorKind::GuardFailed);

    let count = plant(&client, "/t").await;
    let printed = ensemble.coordctl(&["delete", "-r", "--gradually", "/t"]).await.expect("deleted");
    assert_eq!(printed, format!("deleted {count} znodes\n"));
}

/// Others who create and delete in the subtree meanwhile neither stop it nor are left there.
#[tokio::test(flavor = "multi_thread")]
async fn others_may_write_meanwhile() {
    let ensemble = Ensemble::start(1).await;
    let (client, other) = (ensemble.client(TIMEOUT).await, ensemble.client(TIMEOUT).await);
    plant(&client, "/t").await;
    let writing = async {
        for n in 0..300 {
            // Their parents may have gone.
            let _ = other.create(format!("/t/m{}/new{n}", n % 50), "", CreateMode::Persistent).await;
            let _ = other.delete(format!("/t/wide/{n:04}"), None).await;
        }
    };
    let (deleted, ()) = tokio::join!(client.delete_tree_in_batches("/t", |_| {}), writing);
    deleted.expect("deleted");
    client.sync().await.expect("a sync");
    assert_eq!(client.exists("/t", ReadLevel::Local).await.expect("an answer"), None);
}
