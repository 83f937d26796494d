//! Subtrees that are deleted in many steps.

use std::process::Stdio;
use std::time::Duration;

use coordd_client::{Client, CreateMode, ErrorKind, ReadLevel};
use coordd_tests::{Ensemble, coordctl};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

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

/// A subtree that is too large for one step: `/t` with 12 znodes of 1,000 children. Returns how many.
async fn plant_large(client: &Client) -> u64 {
    client.create("/t", "", CreateMode::Persistent).await.expect("a create");
    for parent in (0..12).map(|n| format!("/t/p{n:02}")) {
        client.create(&parent, "", CreateMode::Persistent).await.expect("a create");
        let multi = (0..1000).fold(client.multi(), |multi, n| {
            multi.create(format!("{parent}/{n:04}"), "", CreateMode::Persistent)
        });
        multi.commit().await.expect("creates");
    }
    12_013
}

/// `coordctl delete -r /t` under way.
fn delete_large(ensemble: &Ensemble) -> Child {
    let mut command = Command::new(coordctl());
    command.env_remove("COORDCTL_AUTH").args(["delete", "-r", "/t", "--endpoints"]);
    command.arg(ensemble.endpoints().join(",")).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.kill_on_drop(true).spawn().expect("coordctl starts")
}

/// Reads what it says on the standard error, until it says how much has gone. Returns that.
async fn first_progress(deleting: &mut Child) -> u64 {
    let mut lines = BufReader::new(deleting.stderr.as_mut().expect("a pipe")).lines();
    let mut is_told = false;
    while let Some(line) = lines.next_line().await.expect("a line") {
        is_told |= line.contains("not in one step");
        if let Some((count, _)) = line.split_once(" znodes below /t are deleted") {
            assert!(is_told, "the reason comes first");
            let count = count.rsplit(' ').next().and_then(|count| count.parse().ok());
            return count.expect("a number");
        }
    }
    panic!("it says nothing of its progress");
}

/// E7: `coordctl delete -r` of more than one step takes goes in many, says how far it is, and goes on from
/// there when it was killed.
#[tokio::test(flavor = "multi_thread")]
async fn killed_deletion_goes_on() {
    let ensemble = Ensemble::start(1).await;
    let client = ensemble.client(TIMEOUT).await;
    let planted = plant_large(&client).await;
    let mut first = delete_large(&ensemble);
    let told = first_progress(&mut first).await;
    first.kill().await.expect("killed");
    let left = 1 + client.count_descendants("/t", ReadLevel::Linearizable).await.expect("the top stays");
    assert!(told > 0 && left <= planted - told, "{told} told, {left} left");

    let again = delete_large(&ensemble).wait_with_output().await.expect("an end");
    let (printed, said) = (String::from_utf8_lossy(&again.stdout), String::from_utf8_lossy(&again.stderr));
    assert_eq!(again.status.code(), Some(0), "{said}");
    let count: u64 = printed
        .strip_prefix("deleted ")
        .and_then(|rest| rest.split(' ').next()?.parse().ok())
        .expect("a count");
    assert!(count > 0 && count <= left, "{count} of {left}");
    assert_eq!(client.exists("/t", ReadLevel::Linearizable).await.expect("an answer"), None);
}

/// E7: what other clients create below it while `coordctl delete -r` works goes too.
#[tokio::test(flavor = "multi_thread")]
async fn children_made_meanwhile_go_too() {
    let ensemble = Ensemble::start(1).await;
    let client = ensemble.client(TIMEOUT).await;
    plant_large(&client).await;
    let mut deleting = delete_large(&ensemble);
    first_progress(&mut deleting).await;
    // Behind, at and before the place where it works; the parents may have gone.
    let mut made = 0;
    for n in 0..300 {
        for path in [format!("/t/p{:02}/new{n}", n % 12), format!("/t/new{n}")] {
            made += u32::from(client.create(path, "", CreateMode::Persistent).await.is_ok());
        }
    }
    assert!(made > 0, "it had ended before anything was made");
    let output = deleting.wait_with_output().await.expect("an end");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    client.sync().await.expect("a sync");
    let left = client.exists("/t", ReadLevel::Local).await.expect("an answer");
    assert_eq!(left, None, "{made} were made");
}
