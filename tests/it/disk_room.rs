//! Growth is refused while the disks are full (G9). Here they are, because of a reserve that no disk has; scripts/faults/full-disk-*.sh
//! fill real ones.

use std::time::Duration;

use coordd_client::{Check, CreateMode, ErrorKind, ReadLevel};
use coordd_tests::{Ensemble, eventually};

const TIMEOUT: Duration = Duration::from_secs(10);
const RESERVE: &str = "COORDD_DISK_RESERVE_BYTES";
/// Nodes look at their disks, tell the leader, and are told by it, each several times a second.
const KNOWN: Duration = Duration::from_secs(10);

async fn restart(ensemble: &mut Ensemble, id: u64) {
    ensemble.terminate(id).await;
    ensemble.restart(id);
    ensemble.wait_serving().await;
}

async fn wait_refused(ensemble: &Ensemble, refused: bool) {
    for id in ensemble.ids() {
        eventually(KNOWN, "all nodes know whether growth is refused", async || {
            ensemble.status(id).await.is_some_and(|status| status.growth_refused == refused)
        })
        .await;
    }
}

#[tokio::test]
async fn growth_is_refused_while_no_majority_has_room_and_everything_else_goes_on() {
    let mut ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    for path in ["/a", "/b", "/c"] {
        client.create(path, "v", CreateMode::Persistent).await.expect("there is room");
    }

    // One without room is no reason to refuse anything, and does not lead.
    ensemble.set_env(RESERVE, "1000PiB");
    let first = ensemble.leader().await;
    restart(&mut ensemble, first).await;
    eventually(KNOWN, "the node has seen its disk", async || {
        ensemble.status(first).await.is_some_and(|status| status.disk_is_low && !status.growth_refused)
    })
    .await;
    let status = ensemble.coordctl(&["status"]).await.expect("a status");
    assert!(status.contains("serving; little room on its disk"), "{status}");
    client.create("/d", "v", CreateMode::Persistent).await.expect("two have room");

    let second = ensemble.ids_but(first)[0];
    restart(&mut ensemble, second).await;
    wait_refused(&ensemble, true).await;
    let create = client.create("/e", "", CreateMode::Persistent).await.expect_err("a create grows");
    let set = client.set("/a", "", None).await.expect_err("a set may grow");
    let multi =
        client.multi().delete("/b", None).set("/a", "", None).commit().await.expect_err("a part grows");
    for refused in [create, set, multi] {
        assert_eq!(refused.kind, ErrorKind::NoSpace, "{refused}");
        assert!(refused.is_retryable() && refused.message.contains("--disk-reserve-bytes"), "{refused}");
    }
    let refused = ensemble.coordctl(&["create", "/e"]).await.expect_err("a call without a session, too");
    assert!(refused.contains("NoSpace"), "{refused}");
    let status = ensemble.coordctl(&["status"]).await.expect("a status");
    assert!(status.contains("serving, without growth: no room on the disks"), "{status}");

    client.get("/b", ReadLevel::Linearizable).await.expect("a read");
    client.delete("/b", None).await.expect("a delete");
    client.multi().check(Check::exists("/a")).delete("/c", None).commit().await.expect("checks and deletes");
    let other = ensemble.client(TIMEOUT).await;
    other.delete("/d", None).await.expect("a delete in a new session");
    other.close().await.expect("the end of a session");

    // It heals by itself, in the same sessions; and who has no room does not lead.
    ensemble.set_env(RESERVE, "1MiB");
    restart(&mut ensemble, second).await;
    wait_refused(&ensemble, false).await;
    client.create("/e", "v", CreateMode::Persistent).await.expect("there is room");
    eventually(KNOWN, "a node with room leads", async || ensemble.leader().await != first).await;
}
