//! Work assignment with workers in processes of their own that are killed, stopped and cut off, and with other hands in the group's
//! znodes: an item has one owner after the other, and in the end all are owned.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use coordd_client::recipes::{
    AssignmentSettings, Sessions, WorkAssignment, WorkItem, WorkerProfile, participate,
};
use coordd_client::{Client, ConnectOptions, CreateMode, CreateOptions, ErrorKind, ReadLevel};
use coordd_tests::{Contender, Ensemble, eventually, seed};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;

use crate::assignment::{GROUP, SOON, TIMEOUT, balanced, eager, open, settled};

const LOG: &str = "/log";

async fn contender(ensemble: &Ensemble, name: &str, args: &[&str]) -> Contender {
    let all = [&["--path", GROUP, "--log", LOG, "--name", name, "--session-timeout", "1s"], args].concat();
    let mut worker = Contender::spawn(ensemble, "assignment", &all).await;
    worker.event(SOON, "joined").await;
    worker
}

async fn with_items(client: &Client, settings: &AssignmentSettings, items: usize) -> WorkAssignment {
    let group = open(client).await;
    group.configure(settings).await.expect("configured");
    for item in 0..items {
        let path = format!("{LOG}/i{item}");
        let options = CreateOptions::new(CreateMode::Persistent).parents(true);
        match client.create(path, "", options).await {
            Err(error) if error.kind != ErrorKind::NodeExists => panic!("{error}"),
            _ => {}
        }
        group.put(&format!("i{item}"), &WorkItem::new()).await.expect("put");
    }
    group
}

/// What was written under the grants of each item, in the order in which it was accepted: runs of one epoch, each of one
/// worker, and each epoch higher than the one before. Returns how many owners each item had.
async fn owners_one_after_the_other(client: &Client, items: usize) -> Vec<usize> {
    let mut owners = Vec::new();
    for item in 0..items {
        let path = format!("{LOG}/i{item}");
        let mut names = client.children(&path, ReadLevel::Linearizable).await.expect("a list");
        names.sort();
        let mut runs: Vec<(u64, String)> = Vec::new();
        for name in names {
            let (data, _) = client.get(format!("{path}/{name}"), ReadLevel::Local).await.expect("a line");
            let line: Value = serde_json::from_slice(&data).expect("JSON");
            let (epoch, name) = (line["epoch"].as_u64().expect("an epoch"), line["name"].to_string());
            match runs.last() {
                Some((last, owner)) if *last == epoch => {
                    assert_eq!(*owner, name, "{path}: one epoch, two owners")
                }
                Some((last, _)) => {
                    assert!(*last < epoch, "{path}: epoch {epoch} after {last}");
                    runs.push((epoch, name));
                }
                None => runs.push((epoch, name)),
            }
        }
        owners.push(runs.len());
    }
    owners
}

/// An owner is killed, stopped for longer than its timeout, or cut off: its items are owned by the other within the timeout and
/// a second, and of what it does later nothing is accepted.
#[tokio::test(flavor = "multi_thread")]
async fn items_of_a_dead_worker_are_owned_by_another_and_a_zombie_writes_nothing() {
    const ITEMS: usize = 4;
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    let group = with_items(&client, &eager(), ITEMS).await;
    // So that the dead one leads in one case, and in the others somebody else does.
    for (fate, leads) in [("killed", true), ("stopped", true), ("stopped", false), ("cut off", false)] {
        let (unlucky, lucky) = (format!("{fate}-{leads}"), format!("survivor-of-{fate}-{leads}"));
        let (first, second) = if leads { (&unlucky, &lucky) } else { (&lucky, &unlucky) };
        let first = contender(&ensemble, first, &[]).await;
        eventually(SOON, "it leads", async || group.status().await.expect("a status").leader.is_some()).await;
        let second = contender(&ensemble, second, &[]).await;
        let status = settled(&group, ITEMS).await;
        assert_eq!(status.leader.as_deref() == Some(&unlucky), leads);
        let (mut unlucky, mut lucky) = if leads { (first, second) } else { (second, first) };
        eventually(SOON, "both own two", async || {
            let owned = |worker: &Contender| worker.events("assigned").len() - worker.events("done").len();
            owned(&unlucky) == 2 && owned(&lucky) == 2
        })
        .await;
        let grants = |event: &str| -> BTreeSet<(String, u64)> {
            let lines = unlucky.events(event).into_iter();
            lines.map(|line| (line.string("item").to_owned(), line.number("epoch"))).collect()
        };
        let had: Vec<_> =
            grants("assigned").difference(&grants("done")).map(|(item, _)| item.clone()).collect();
        let start = std::time::Instant::now();
        match fate {
            "killed" => unlucky.kill9(),
            "stopped" => unlucky.pause(),
            _ => unlucky.cut_off(),
        }
        eventually(SOON, "the other owns all", async || {
            let status = group.status().await.expect("a status");
            status.distribution.workers.len() == 1 && status.is_settled()
        })
        .await;
        println!("{fate}, leads: {leads}: owned by the other after {:?}", start.elapsed());
        assert!(start.elapsed() < Duration::from_secs(5), "after {:?}", start.elapsed());
        match fate {
            "killed" => {}
            "stopped" => unlucky.resume(),
            _ => {
                // It knows by itself, without hearing anybody.
                unlucky.send(&format!("check {}", had[0]));
                assert_eq!(unlucky.event(SOON, "checked").await.json["held"], false);
                unlucky.heal();
            }
        }
        if fate != "killed" {
            unlucky.event(SOON, "ended").await;
            unlucky.send(&format!("append {} 1000", had[0]));
            let wrote = unlucky.event(SOON, "wrote").await;
            assert_eq!(wrote.number("accepted"), 0, "{fate}: {}", wrote.text);
            unlucky.send(&format!("check {}", had[1]));
            assert_eq!(unlucky.event(SOON, "checked").await.json["held"], false);
        }
        lucky.terminate().await;
        eventually(SOON, "nobody is left", async || {
            let status = group.status().await.expect("a status");
            status.distribution.workers.is_empty() && status.leader.is_none()
        })
        .await;
    }
    owners_one_after_the_other(&client, ITEMS).await;
}

/// Workers and leaders are killed, stopped and cut off while items move, and the ensemble's leader is killed, too: each item
/// has one owner after the other, and in the end all are owned, evenly.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_dies_in_the_middle_of_a_move_items_have_one_owner_after_the_other() {
    const ITEMS: usize = 24;
    let mut ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    let group = with_items(&client, &eager(), ITEMS).await;
    let mut workers = BTreeMap::new();
    // Long enough to be met in the middle.
    let drain = ["--drain", "700ms"];
    for name in ["a", "b", "c"] {
        workers.insert(name.to_owned(), contender(&ensemble, name, &drain).await);
    }
    // Those who are given up: they do not come back, but go on for as long as they can.
    let mut zombies = Vec::new();
    for round in 0..4 {
        let mut status = balanced(&group, ITEMS, &workers).await;
        // Somebody comes, so that items begin to move; in the middle of that the leader dies, or who is to give them.
        let name = format!("n{round}");
        let came = contender(&ensemble, &name, &drain).await;
        workers.insert(name, came);
        eventually(SOON, "items move", async || {
            status = group.status().await.expect("a status");
            status.draining().next().is_some()
        })
        .await;
        let leader = status.leader.clone().expect("somebody leads");
        let drains = status.draining().next().map(|(_, owner)| owner.worker.clone()).expect("an owner");
        match round {
            0 => drop(workers.remove(&leader)),
            1 => {
                let zombie = workers.remove(&leader).expect("it runs");
                zombie.pause();
                zombies.push(zombie);
            }
            2 => {
                let zombie = workers.remove(&drains).expect("it runs");
                zombie.cut_off();
                zombies.push(zombie);
            }
            _ => {
                let leader = ensemble.leader().await;
                ensemble.kill9(leader);
            }
        }
    }
    zombies[0].resume();
    zombies[1].heal();
    for zombie in &mut zombies {
        zombie.event(SOON, "ended").await;
    }
    balanced(&group, ITEMS, &workers).await;
    let owners = owners_one_after_the_other(&client, ITEMS).await;
    println!("owners of each item, one after the other: {owners:?}");
    assert!(owners.iter().sum::<usize>() > 2 * ITEMS, "items have moved: {owners:?}");
}

/// Somebody changes the znode that says who owns an item, or makes one: the item is taken anew, under another epoch.
#[tokio::test(flavor = "multi_thread")]
async fn an_owners_znode_that_somebody_else_wrote_is_undone() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    let sessions = Sessions::connect(ensemble.endpoints(), ConnectOptions::new().session_timeout(TIMEOUT));
    let sessions = sessions.await.expect("a session");
    let worker = tokio::spawn(async move {
        participate(&sessions, GROUP, &WorkerProfile::new("a"), async |item| item.revoked().await).await
    });
    let workers = BTreeMap::from([("a".to_owned(), ())]);
    let group = with_items(&client, &eager(), 1).await;
    balanced(&group, 1, &workers).await;
    for garbage in ["", r#"{"worker": "nobody"}"#, r#"{"worker": "a"}"#] {
        let epoch = group.owner("i0").await.expect("a read").expect("an owner").epoch;
        client.set(format!("{GROUP}/owners/i0"), garbage, None).await.expect("set");
        eventually(SOON, "it is taken anew", async || {
            let owner = group.owner("i0").await.expect("a read");
            owner.is_some_and(|owner| owner.worker == "a" && owner.epoch > epoch)
        })
        .await;
    }
    // In one step: a moment later it may be undone.
    let paths = ["owners/i1", "owners/i1/child"].map(|path| format!("{GROUP}/{path}"));
    let multi =
        paths.into_iter().fold(client.multi(), |multi, path| multi.create(path, "", CreateMode::Persistent));
    multi.commit().await.expect("created");
    let group = with_items(&client, &eager(), 2).await;
    balanced(&group, 2, &workers).await;
    assert!(!worker.is_finished());
}

/// Somebody deletes the directory of the workers after a worker has opened the group: the worker joins all
/// the same.
#[tokio::test]
async fn a_worker_joins_without_its_directory() {
    let ensemble = Ensemble::start(1).await;
    let client = ensemble.client(TIMEOUT).await;
    let group = open(&client).await;
    client.delete_tree(format!("{GROUP}/workers"), None).await.expect("deleted");
    group.join(&WorkerProfile::new("a")).await.expect("a member");
}

/// Somebody writes whatever they like into the znodes of a group, and deletes them. When they stop, everything is as it was.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_other_hands_have_done_to_its_znodes_a_group_recovers() {
    const WORKERS: [&str; 3] = ["a", "b", "c"];
    const ITEMS: usize = 12;
    let ensemble = Ensemble::start(3).await;
    let mut rng = StdRng::seed_from_u64(seed());
    let client = ensemble.client(TIMEOUT).await;
    let group = with_items(&client, &eager(), ITEMS).await;
    let mut working = Vec::new();
    for name in WORKERS {
        let options = ConnectOptions::new().session_timeout(TIMEOUT);
        let sessions = Sessions::connect(ensemble.endpoints(), options).await.expect("a session");
        working.push(tokio::spawn(async move {
            let profile = WorkerProfile::new(name);
            let end = participate(&sessions, GROUP, &profile, async |item| item.revoked().await).await;
            // Otherwise all that a failed test shows is that the items are not balanced.
            println!("worker {name} has ended: {end:?}");
        }));
    }
    let workers = BTreeMap::from(WORKERS.map(|name| (name.to_owned(), ())));
    balanced(&group, ITEMS, &workers).await;
    for _ in 0..100 {
        let (worker, item) = (WORKERS.choose(&mut rng).expect("some"), rng.random_range(0..ITEMS));
        let directories = ["assigned", "owners", "workers", "election"];
        let znodes = [
            format!("assigned/{worker}"),
            format!("workers/{worker}"),
            format!("owners/i{item}"),
            format!("items/i{item}"),
            "settings".to_owned(),
            "plan".to_owned(),
            "rebalance".to_owned(),
        ];
        let garbage =
            ["", "}{", "[]", r#"{"items": ["i0", "i1", "i1", "no/name", "nobody"]}"#, r#"{"worker": "c"}"#];
        let znode = format!("{GROUP}/{}", znodes.choose(&mut rng).expect("some"));
        let garbage = *garbage.choose(&mut rng).expect("some");
        // Some of them are not there at the moment, and some do exist already.
        let done = match rng.random_range(0..8) {
            0 => {
                let directory = directories.choose(&mut rng).expect("some");
                client.delete_tree(format!("{GROUP}/{directory}"), None).await.map(drop)
            }
            1..4 => client.set(znode, garbage, None).await.map(drop),
            4 => client.create(znode, garbage, CreateMode::Persistent).await.map(drop),
            _ => client.delete(znode, None).await.map(drop),
        };
        if let Err(error) = done {
            let expected = [ErrorKind::NoNode, ErrorKind::NodeExists];
            assert!(expected.contains(&error.kind), "{error}");
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..50))).await;
    }
    // What nobody would undo: znodes that look like those of workers without a session, and items.
    let directory = format!("{GROUP}/workers");
    for name in client.children(&directory, ReadLevel::Linearizable).await.unwrap_or_default() {
        let path = format!("{directory}/{name}");
        let stat = client.exists(&path, ReadLevel::Linearizable).await.expect("a read");
        if stat.is_some_and(|stat| stat.ephemeral_owner == 0) {
            let deleted = client.delete(path, None).await;
            // A worker of that name deletes it, too.
            assert!(deleted.is_ok() || deleted.is_err_and(|error| error.kind == ErrorKind::NoNode));
        }
    }
    let group = with_items(&client, &eager(), ITEMS).await;
    balanced(&group, ITEMS, &workers).await;
    assert!(working.iter().all(|working| !working.is_finished()), "nobody has given up");
}
