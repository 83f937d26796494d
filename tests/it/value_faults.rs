//! Who changes a value and who follows one, each a process that is killed, stopped and cut off for longer than its session lasts:
//! every change counts once, and nothing is shown that was not so.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use coordd_client::recipes::Counter;
use coordd_client::recipes::config::{ConfigDocument, ConfigOptions};
use coordd_client::{CreateMode, ReadLevel};
use coordd_tests::{Contender, Ensemble, Line, eventually, seed};
use serde_json::{Value, json};

use crate::caches::{Log, TOP, write_randomly};
use crate::lock_faults::until_ended;
use crate::recipe_faults::Fault;

const SOON: Duration = Duration::from_secs(30);

async fn until_said(contender: &Contender, event: &str, count: usize) {
    eventually(SOON, event, async || contender.events(event).len() >= count).await;
}

/// Stops or cuts off all of them until their sessions have ended.
async fn outlast(ensemble: &Ensemble, struck: &mut [(Fault, Contender)]) {
    for (fault, contender) in &mut *struck {
        fault.strike(contender);
    }
    for (fault, contender) in struck {
        until_ended(ensemble, contender).await;
        fault.end(contender);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_added_counts_once_when_who_adds_is_killed_stopped_or_cut_off_in_the_middle() {
    let ensemble = Ensemble::start(3).await;
    // Each has a number of its own: how many add to one at a time is a matter of `counters.rs`.
    let (mut all, mut paths) = (Vec::new(), Vec::new());
    for (index, fault) in [Fault::ALL, Fault::ALL].concat().into_iter().enumerate() {
        paths.push(format!("/number-{index}"));
        let own: &[&str] = if index < Fault::ALL.len() { &["--shared"] } else { &[] };
        let args = [&["--path", &paths[index], "--session-timeout", "2s"], own].concat();
        all.push((fault, Contender::spawn(&ensemble, "counter", &args).await));
    }
    for (_, contender) in &all {
        until_said(contender, "added", 20).await;
    }
    outlast(&ensemble, &mut all).await;
    let operator = ensemble.client(SOON).await;
    for (index, (fault, mut contender)) in all.into_iter().enumerate() {
        let mut possible = vec![contender.events("added").len() as u64];
        if fault == Fault::Killed {
            // One more may have been under way.
            possible.push(possible[0] + 1);
        } else {
            contender.event(SOON, "lost").await;
            contender.event(SOON, "added").await;
            contender.send("stop");
            possible = vec![contender.event(SOON, "finished").await.number("counted")];
            assert!(contender.wait_exit().await.success());
        }
        let total =
            Counter::new(&operator, &paths[index]).get(ReadLevel::Linearizable).await.expect("a number");
        println!(
            "{fault:?}: {total} are there, {:?}",
            contender.events("lost").first().map(|line| &line.text)
        );
        let total = u64::try_from(total).expect("it grew");
        assert!(possible.contains(&total), "{fault:?}: {total} are there, and should be {possible:?}");
        let sums: Vec<_> = contender.events("added").iter().map(|line| line.number("sum")).collect();
        assert!(sums.windows(2).all(|pair| pair[0] < pair[1]), "{fault:?}: one was given twice: {sums:?}");
    }
}

/// What a cache said, as the log has it.
fn shown(line: &Line) -> BTreeMap<String, Bytes> {
    let data = line.json["data"].as_object().expect("by path");
    let data = data.iter().map(|(path, data)| (path.clone(), data.as_str().expect("text").to_owned().into()));
    data.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_is_stopped_or_cut_off_catches_up_and_never_shows_what_is_no_prefix_of_history() {
    let (seed, ensemble) = (seed(), Ensemble::start(3).await);
    let operator = ensemble.client(SOON).await;
    operator.create("/clock", "", CreateMode::Persistent).await.expect("a create");
    let created = operator.create(TOP, "", CreateMode::Persistent).await.expect("a create");
    let log = Log::from([(created.stat.czxid, vec![(TOP.into(), Some(Bytes::new()))])]);
    let (log, stop) = (Arc::new(Mutex::new(log)), Arc::<AtomicBool>::default());
    let writer = ensemble.client(SOON).await;
    let writing = tokio::spawn(write_randomly(writer, seed, stop.clone(), log.clone()));
    let mut caches = Vec::new();
    for fault in [Fault::Stopped, Fault::CutOff] {
        for what in ["tree", "children"] {
            let args = ["--path", TOP, "--what", what, "--name", what, "--session-timeout", "2s"];
            caches.push((fault, Contender::spawn(&ensemble, "follower", &args).await));
        }
    }
    for (_, cache) in &caches {
        until_said(cache, "view", 20).await;
    }
    // For a moment, over which a session may last, and then for longer.
    for (fault, cache) in &mut caches {
        fault.strike(cache);
    }
    let written = || log.lock().expect("no panic").len();
    let before = written();
    eventually(SOON, "what they miss", async || written() > before + 10).await;
    for (fault, cache) in &caches {
        fault.end(cache);
        until_said(cache, "view", cache.events("view").len() + 5).await;
    }
    outlast(&ensemble, &mut caches).await;
    for (_, cache) in &caches {
        until_said(cache, "connected", 2).await;
        until_said(cache, "view", cache.events("view").len() + 5).await;
    }
    stop.store(true, Ordering::Relaxed);
    writing.await.expect("a writer");
    let end = operator.set("/clock", "", None).await.expect("a set").mzxid;
    let log = std::mem::take(&mut *log.lock().expect("no panic"));
    for (index, (fault, mut cache)) in caches.into_iter().enumerate() {
        let what = ["tree", "children"][index % 2];
        cache.send(&format!("wait {end}"));
        let reached = cache.event(SOON, "reached").await;
        let (mut changes, mut state, mut last) = (log.iter().peekable(), BTreeMap::new(), 0);
        let mut views = cache.events("view");
        // It may be among the views, or be told before the last of them.
        views.retain(|view| view.number("zxid") < reached.number("zxid"));
        println!("{what} {fault:?}: {} views", views.len());
        views.push(reached);
        for view in views {
            let zxid = view.number("zxid");
            assert!(zxid > last, "{what} {fault:?}: {zxid} after {last}");
            last = zxid;
            while let Some((_, changed)) = changes.next_if(|(at, _)| **at <= zxid) {
                for (path, data) in changed {
                    let is_child = path.rsplit_once('/').is_some_and(|(parent, _)| parent == TOP);
                    match data {
                        _ if what == "children" && !is_child => {}
                        Some(data) => drop(state.insert(path.clone(), data.clone())),
                        None => drop(state.remove(path)),
                    }
                }
            }
            assert_eq!(shown(&view), state, "seed {seed}, {what} {fault:?} at zxid {zxid}");
        }
        assert!(last >= end && changes.next().is_none(), "{what} {fault:?}: {last} is not all");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_a_configuration_and_is_stopped_or_cut_off_sees_the_newest_value_afterwards() {
    const PATH: &str = "/app/config";
    let ensemble = Ensemble::start(3).await;
    let operator = ensemble.client(SOON).await;
    let document = ConfigDocument::new(&operator, PATH, ConfigOptions::new(Value::Null)).expect("a document");
    document.set(&json!({ "count": 0 })).await.expect("a set");
    let mut followers = Vec::new();
    for fault in [Fault::Stopped, Fault::CutOff] {
        let args = ["--path", PATH, "--what", "config", "--session-timeout", "2s"];
        let mut follower = Contender::spawn(&ensemble, "follower", &args).await;
        assert_eq!(follower.event(SOON, "following").await.json["value"], json!({ "count": 0 }));
        fault.strike(&mut follower);
        followers.push((fault, follower));
    }
    for count in 1..30 {
        document.set(&json!({ "count": count })).await.expect("a set");
    }
    outlast(&ensemble, &mut followers).await;
    // What comes after that is followed, too.
    for (newest, is_last) in [(29, false), (30, true)] {
        if is_last {
            document.set(&json!({ "count": newest })).await.expect("a set");
        }
        for (_, follower) in &mut followers {
            let is_newest = |line: &Line| line.event() == "changed" && line.json["new"]["count"] == newest;
            follower.wait_for(SOON, "the newest value", is_newest).await;
        }
    }
    for (fault, follower) in followers {
        assert!(follower.events("connected").len() > 1, "{fault:?}: another session");
        let mut last = 0;
        for change in follower.events("changed") {
            assert_eq!(change.json["old"]["count"], last, "{fault:?}: no difference is missed");
            let count = change.json["new"]["count"].as_u64().expect("a number");
            assert!(count > last, "{fault:?}: {count} after {last}");
            last = count;
        }
    }
}
