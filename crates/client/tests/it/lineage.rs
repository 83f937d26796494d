//! Another ensemble at the endpoints: the session ends at once, and nothing of one is compared with the
//! other.

use std::time::{Duration, Instant};

use coordd_client::recipes::Sessions;
use coordd_client::{ConnectOptions, EndReason, ErrorKind, Lineage, SessionState};

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
