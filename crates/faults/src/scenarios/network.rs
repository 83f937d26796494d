//! Packets that are dropped, late, doubled and out of order.

use std::time::Duration;

use futures::FutureExt as _;
use rand::Rng as _;
use rand::seq::SliceRandom as _;

use super::Scenario;
use super::clients::random_place;
use crate::network::Link;
use crate::stage::Stage;

const DEAF_FOLLOWER: &str = "followers that do not hear the leader";
const UNHEARD_FOLLOWER: &str = "followers that the leader does not hear";
/// The kinds of partition in which one node hears another, and is not heard.
const ONE_WAY: &[&str] = &[DEAF_FOLLOWER, UNHEARD_FOLLOWER, "leaders that hear nobody"];

pub(super) fn scenarios() -> Vec<Scenario> {
    const SPLIT: &[&str] =
        &["leaders in a minority", "leaders elected by a majority", "packets dropped", "watches resumed"];
    const HALVES: &[&str] = &[
        "leaders in a minority",
        "leaders in a majority",
        "leaders elected by a majority",
        "packets dropped",
        "watches resumed",
    ];
    vec![
        Scenario::new(
            "partition-leader",
            "the leader is alone; its clients still reach it",
            SPLIT,
            |stage| partition_leader(stage).boxed(),
        ),
        Scenario {
            nodes: 5,
            ..Scenario::new("partition-halves", "five nodes in two parts, at random", HALVES, |stage| {
                partition_halves(stage).boxed()
            })
        },
        Scenario {
            nodes: 5,
            ..Scenario::new(
                "partition-clients",
                "five nodes in two parts, and clients that reach the minority only",
                &["leaders in a minority", "clients cut off", "packets dropped", "sessions expired"],
                |stage| partition_clients(stage).boxed(),
            )
        },
        Scenario::new("partition-one-way", "one node hears another, and is not heard", ONE_WAY, |stage| {
            partition_one_way(stage).boxed()
        }),
        Scenario::new(
            "partition-bridge",
            "the leader and a follower do not hear each other; the third node hears both",
            &["partitions", "packets dropped"],
            |stage| partition_bridge(stage).boxed(),
        ),
        Scenario::new(
            "partition-flapping",
            "links come and go several times a second",
            &["packets dropped"],
            |stage| partition_flapping(stage).boxed(),
        ),
        Scenario::new("slow-links", "all packets are late", &["packets delayed"], |stage| {
            slow_links(stage).boxed()
        }),
        Scenario::new(
            "lossy-links",
            "packets are lost, doubled, and overtake each other",
            &["packets dropped", "packets delayed", "packets duplicated"],
            |stage| lossy_links(stage).boxed(),
        ),
    ]
}

async fn partition_leader(stage: &mut Stage) -> anyhow::Result<()> {
    let leader = stage.ensemble.leader().await?;
    let others = stage.ensemble.others(leader);
    stage.cut(&[leader], &others);
    stage.wait_replaced(leader).await?;
    stage.rest(0, 2500).await;
    stage.heal_network();
    stage.rest(500, 1500).await;
    Ok(())
}

async fn partition_halves(stage: &mut Stage) -> anyhow::Result<()> {
    let leader = stage.ensemble.leader().await?;
    let mut ids = stage.ensemble.ids();
    ids.shuffle(&mut stage.rng);
    // Each of both first, so that the run does what it is there for.
    match (stage.coverage.count("leaders in a minority"), stage.coverage.count("leaders in a majority")) {
        (0, _) => ids.sort_by_key(|id| *id != leader),
        (_, 0) => ids.sort_by_key(|id| *id == leader),
        _ => {}
    }
    let (minority, majority) = ids.split_at(2);
    stage.cut(minority, majority);
    if minority.contains(&leader) {
        stage.wait_replaced(leader).await?;
    } else {
        stage.coverage.add("leaders in a majority", 1);
    }
    stage.rest(500, 2500).await;
    stage.heal_network();
    stage.rest(300, 1500).await;
    Ok(())
}

/// The clients of the minority get no answer, whatever they have heard before; those of the others go on.
async fn partition_clients(stage: &mut Stage) -> anyhow::Result<()> {
    // The first time, at least, so that the run does what it is there for.
    let is_first = stage.coverage.count("clients cut off") == 0;
    let (leader, minority) = stage.two_nodes(is_first).await?;
    let majority: Vec<_> = stage.ensemble.ids().into_iter().filter(|id| !minority.contains(id)).collect();
    let place = random_place(stage);
    stage.cut(&minority, &majority);
    stage.cut_off_clients(place, &majority);
    if minority.contains(&leader) {
        stage.wait_replaced(leader).await?;
    }
    match is_first || stage.rng.random_bool(0.4) {
        // A new leader gives them their full timeout first.
        true => {
            tokio::time::sleep(stage.session_timeout).await;
            stage.rest(1500, 3000).await;
        }
        false => stage.rest(500, 3000).await,
    }
    stage.reconnect_clients(place);
    stage.heal_network();
    stage.rest(500, 1500).await;
    Ok(())
}

async fn partition_one_way(stage: &mut Stage) -> anyhow::Result<()> {
    let (leader, follower) = stage.leader_and_follower().await?;
    // Each of them first, so that the run does what it is there for.
    let kind = ONE_WAY.iter().find(|kind| stage.coverage.count(kind) == 0);
    let kind = kind.unwrap_or_else(|| &ONE_WAY[stage.rng.random_range(0..ONE_WAY.len())]);
    match *kind {
        DEAF_FOLLOWER => stage.cut_one_way(leader, follower),
        UNHEARD_FOLLOWER => stage.cut_one_way(follower, leader),
        _ => {
            for other in stage.ensemble.others(leader) {
                stage.cut_one_way(other, leader);
            }
        }
    }
    stage.coverage.add(kind, 1);
    // Three of them fit into a short run.
    stage.rest(500, 3000).await;
    stage.heal_network();
    stage.rest(300, 1000).await;
    Ok(())
}

async fn partition_bridge(stage: &mut Stage) -> anyhow::Result<()> {
    let (leader, follower) = stage.leader_and_follower().await?;
    stage.cut(&[leader], &[follower]);
    stage.rest(1000, 5000).await;
    stage.heal_network();
    stage.rest(300, 1500).await;
    Ok(())
}

async fn partition_flapping(stage: &mut Stage) -> anyhow::Result<()> {
    for _ in 0..stage.rng.random_range(3..12) {
        let (one, mut other) = (stage.random_node(), stage.random_node());
        if one == other {
            other = stage.ensemble.others(one)[0];
        }
        stage.cut(&[one], &[other]);
        stage.rest(20, 500).await;
        stage.heal_network();
        stage.rest(10, 300).await;
    }
    stage.rest(200, 1000).await;
    Ok(())
}

async fn slow_links(stage: &mut Stage) -> anyhow::Result<()> {
    let delay = Duration::from_millis(stage.rng.random_range(1..60));
    let jitter = Duration::from_millis(stage.rng.random_range(0..60));
    stage.weaken(Link { delay, jitter, ..Link::default() });
    stage.rest(1500, 4000).await;
    stage.heal_network();
    stage.rest(100, 500).await;
    Ok(())
}

async fn lossy_links(stage: &mut Stage) -> anyhow::Result<()> {
    let loss = stage.rng.random_range(0.005..0.08);
    let jitter = Duration::from_millis(stage.rng.random_range(1..15));
    stage.weaken(Link { loss, duplicated: 0.02, jitter, ..Link::default() });
    stage.rest(1500, 4000).await;
    stage.heal_network();
    stage.rest(100, 500).await;
    Ok(())
}
