//! Another ensemble at the endpoints: the session ends at once, and nothing of one is compared with the
//! other.

use std::time::{Duration, Instant};

use coordd_client::recipes::Sessions;
use coordd_client::{Client, ConnectOptions, EndReason, ErrorKind, Lineage, SessionState};

use crate::fake::Fake;

fn lineage(cluster_id: &str) -> Option<Lineage> {
    Some(Lineage { cluster_id: cluster_id.into(), number: 0 })
}

/// The ensemble is wiped and formed anew, at zxid 1: the session learns that at once, and the next one is of
/// the new ensemble.
#[tokio::test]
async fn replaced_ensemble_ends_the_session() {
    let fake = Fake::start(3).await;
    let sessions = Sessions::connect(fake.endpoints(), ConnectOptions::new()).await.unwrap();
    let client = sessions.live().await.unwrap();
    client.set("/a", "", None).await.unwrap();
    assert_eq!(client.lineage(), lineage("fake"));
    let since = Instant::now();
    {
        let mut world = fake.world();
        world.expire(client.session_id());
        (world.cluster_id, world.zxid) = ("anew".into(), 1);
        world.cut();
    }
    let SessionState::Expired(end) = client.ended().await else { panic!("{:?}", client.state()) };
    assert_eq!(end.reason, EndReason::OtherEnsemble);
    assert_eq!(client.sync().await.unwrap_err().kind, ErrorKind::SessionExpired);
    let next = loop {
        let next = sessions.live().await.unwrap();
        if next.session_id() != client.session_id() {
            break next;
        }
    };
    assert_eq!((next.lineage(), next.last_zxid()), (lineage("anew"), 1));
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
}

/// One endpoint of another ensemble does not end a session that others still hold.
#[tokio::test]
async fn one_foreign_endpoint_is_passed_over() {
    let fake = Fake::start(3).await;
    let client = fake.connect().await;
    let first = fake.world().attached_node(client.session_id()).unwrap();
    let stays = first % 3 + 1;
    fake.world().foreign.extend((1..=3).filter(|node| *node != stays));
    for _ in 0..5 {
        fake.world().cut();
        client.sync().await.unwrap();
        assert_eq!(fake.world().attached_node(client.session_id()), Some(stays));
    }
}

/// A client whose own nodes cannot be reached, while another endpoint is of another ensemble. Returns it with
/// its own node.
async fn meet_only_a_foreign_node(fake: &Fake, timeout: Duration) -> (Client, u64) {
    let client = fake.connect_with(ConnectOptions::new().session_timeout(timeout)).await.unwrap();
    let own = fake.world().attached_node(client.session_id()).unwrap();
    let mut world = fake.world();
    world.unreachable.insert(own);
    world.foreign.insert(3 - own);
    world.cut();
    drop(world);
    (client, own)
}

/// Own nodes that cannot be reached for a moment may still hold the session, whatever a stale endpoint says.
#[tokio::test]
async fn unreachable_nodes_are_waited_for() {
    let fake = Fake::start(2).await;
    let (client, own) = meet_only_a_foreign_node(&fake, Duration::from_secs(30)).await;
    let attaches = fake.world().attaches.len();
    fake.until("some rounds", |world| world.attaches.len() >= attaches + 8).await;
    assert_eq!(client.state(), SessionState::Suspended);
    fake.world().unreachable.clear();
    client.sync().await.unwrap();
    assert_eq!(fake.world().attached_node(client.session_id()), Some(own));
}

/// They are waited for as long as the session may be alive.
#[tokio::test]
async fn foreign_nodes_end_an_expired_session() {
    let fake = Fake::start(2).await;
    let timeout = Duration::from_secs(1);
    let since = Instant::now();
    let (client, _) = meet_only_a_foreign_node(&fake, timeout).await;
    let ended = tokio::time::timeout(Duration::from_secs(10), client.ended()).await.expect("it ends");
    let SessionState::Expired(end) = ended else { panic!("{ended:?}") };
    assert_eq!(end.reason, EndReason::OtherEnsemble);
    assert!(since.elapsed() >= timeout, "{:?}", since.elapsed());
}

/// A node of a version that does not compare is compared by the client.
#[tokio::test]
async fn an_older_node_is_compared_here() {
    let fake = Fake::start(1).await;
    fake.world().limits = None;
    let client = fake.connect().await;
    {
        let mut world = fake.world();
        world.cluster_id = "anew".into();
        world.zxid = 500;
        world.cut();
    }
    let SessionState::Expired(end) = client.ended().await else { panic!("{:?}", client.state()) };
    assert_eq!(end.reason, EndReason::OtherEnsemble);
}
