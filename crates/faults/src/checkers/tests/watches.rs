//! Streams of watches, as they should be and not.

use super::*;
use crate::history::{Told, WatchKind};

fn watching(watch: u64, path: &str, kind: WatchKind, read: Option<(u64, u64)>) -> What {
    What::Watching { watch, path: path.into(), kind, read }
}

/// A watcher with its first marker at zxid 5, and two sets at 10 and 20.
fn watched(told: &[u64]) -> Story {
    let mut story = Story::default();
    let watcher = "client-9";
    story.note(watcher, 0, watching(0, "/watched", WatchKind::PersistentRecursive, None));
    story.create(9, "/watched/begin", Mode::Persistent, "/watched/begin", 5);
    story.create(SESSION, "/watched/1", Mode::Persistent, "/watched/1", 10);
    story.set(SESSION, "/watched/1", "a", 1, 20);
    let tell = |story: &mut Story, zxid: u64, change: &str, path: &str| {
        let told = Told { zxid, change: change.into(), path: path.into() };
        story.note(watcher, zxid * 1000, What::Told { watch: 0, told });
    };
    tell(&mut story, 5, "created", "/watched/begin");
    for zxid in told {
        tell(&mut story, *zxid, if *zxid == 10 { "created" } else { "changed" }, "/watched/1");
    }
    story
}

#[test]
fn a_watch_with_a_gap_a_repetition_or_an_event_behind_its_answer_is_found() {
    assert_eq!(watched(&[10, 20]).found(), []);
    watched(&[20]).assert_found("watches", "was due");
    watched(&[10, 10, 20]).assert_found("watches", "was due");
    let mut story = watched(&[10]);
    story.get(9, "/watched/1", Level::Local, ("a", 1, 20));
    story.note("client-9", 60 * SECOND, What::Drained);
    story.assert_found("watches", "before the event of it");
    let read = || Op::Get { path: "/watched/1".into(), level: Level::Local };
    let mut story = watched(&[10]);
    story.op(9, read(), Answer::Refused("NoNode".into())).called = 9000;
    story.note("client-9", 60 * SECOND, What::Drained);
    assert!(!story.found().iter().any(|(_, text)| text.contains("the event of its deletion")));
    story.history.ops[3].called = 11_000;
    story.assert_found("watches", "before the event of its deletion");
    let told = Told { zxid: 30, change: "deleted".into(), path: "/watched/1".into() };
    let client = story.history.clients.get_mut("client-9").expect("the watcher");
    client.lines.insert(client.lines.len() - 1, (30_000, What::Told { watch: 0, told }));
    assert!(!story.found().iter().any(|(_, text)| text.contains("the event of its deletion")));
}

#[test]
fn a_watch_that_misses_what_cannot_be_forgotten_or_has_no_end_is_found() {
    let mut story = watched(&[10]);
    story.note("client-9", 15_000, What::Resync { watch: 0, zxid: 20 });
    story.assert_found("watches", "missed 1 changes");
    let mut story = watched(&[10, 20]);
    let opened = What::Opened { session: 9, password: String::new(), timeout_ms: 6000 };
    story.note("client-9", 0, opened);
    story.history.live.insert(9);
    story.assert_found("watches", "and its session has not ended");
    story.note(
        "client-9",
        40_000,
        What::Told {
            watch: 0,
            told: Told { zxid: 30, change: "created".into(), path: "/watched/end".into() },
        },
    );
    story.create(9, "/watched/end", Mode::Persistent, "/watched/end", 30);
    assert_eq!(story.found(), []);
}

#[test]
fn what_is_due_stays_so_beside_a_znode_of_which_nothing_is_known() {
    let create = |path: &str| Op::Create { path: path.into(), value: String::new(), mode: Mode::Persistent };
    let with_open = |told: &[u64], at: u64, zxid: u64| {
        let mut story = watched(told);
        story.op(SESSION, create("/watched/2"), Answer::Unanswered).returned = u64::MAX;
        let told = Told { zxid, change: "created".into(), path: "/watched/2".into() };
        let client = story.history.clients.get_mut("client-9").expect("the watcher");
        client.lines.insert(at as usize, (zxid * 1000, What::Told { watch: 0, told }));
        story
    };
    // Between the two that are known; then the second one is missing, and a third one is told.
    assert_eq!(with_open(&[10, 20], 3, 15).found(), []);
    let mut story = with_open(&[10], 3, 15);
    story.create(SESSION, "/watched/3", Mode::Persistent, "/watched/3", 30);
    let told = Told { zxid: 30, change: "created".into(), path: "/watched/3".into() };
    story.note("client-9", 30_000, What::Told { watch: 0, told });
    story.assert_found("watches", "was due");
}

/// A client with a one-shot watch of /watched/1, which was armed by a read at zxid 20 and told at these, and with a read that
/// begins when it was told, and shows zxid 60. There are sets at 20, 30 and 40, a delete at 50, and a create at 60.
fn watched_once(kind: WatchKind, read: (u64, u64), told: &[(u64, &str)]) -> Story {
    let mut story = Story::default();
    let znode = "/watched/1";
    story.create(9, "/watched/begin", Mode::Persistent, "/watched/begin", 5);
    story.create(SESSION, znode, Mode::Persistent, znode, 10);
    for (version, zxid) in [(1, 20), (2, 30), (3, 40)] {
        story.set(SESSION, znode, "a", version, zxid);
    }
    story.op(SESSION, Op::Delete { path: znode.into() }, Answer::Deleted { zxid: 50 });
    story.create(SESSION, znode, Mode::Persistent, znode, 60);
    let path = if kind == WatchKind::Children { "/watched" } else { znode };
    story.note("client-9", 6000, watching(1, path, kind, Some(read)));
    for (zxid, change) in told {
        let told = Told { zxid: *zxid, change: (*change).into(), path: path.into() };
        story.note("client-9", zxid * 1000, What::Told { watch: 1, told });
    }
    story.get(9, znode, Level::Local, ("", 0, 60)).called = 100_000;
    story.note("client-9", SECOND, What::Drained);
    story
}

#[test]
fn a_one_shot_watch_tells_the_first_change_that_its_read_did_not_show() {
    let good = [
        (WatchKind::Data, (20, 20), (30, "changed")),
        (WatchKind::Data, (40, 40), (50, "deleted")),
        (WatchKind::Missing, (50, 55), (60, "created")),
        // It was deleted in the time of the read, or it was created and deleted.
        (WatchKind::Missing, (45, 55), (60, "created")),
        (WatchKind::Missing, (5, 55), (10, "created")),
        (WatchKind::Children, (10, 10), (50, "children")),
    ];
    for (kind, read, told) in good {
        let story = watched_once(kind, read, &[told]);
        assert_eq!(story.found(), [], "{kind:?} {read:?}");
        assert_eq!(check(&story.history).compared["one-shot watches told"], 1);
        watched_once(kind, read, &[told, told]).assert_found("watches", "which had fired");
        watched_once(kind, read, &[]).assert_found("watches", "before the event of it");
    }
    let wrong = [
        (WatchKind::Data, 20, (40, "changed")),
        (WatchKind::Data, 20, (20, "changed")),
        (WatchKind::Data, 40, (50, "changed")),
        (WatchKind::Missing, 50, (70, "created")),
        (WatchKind::Children, 10, (60, "children")),
        (WatchKind::Children, 10, (30, "children")),
    ];
    for (kind, read, told) in wrong {
        watched_once(kind, (read, read), &[told]).assert_found("watches", "was due");
    }
}

#[test]
fn a_one_shot_watch_that_tells_nothing_is_found() {
    let without_reads = || {
        let mut story = watched_once(WatchKind::Data, (20, 20), &[]);
        story.history.ops.pop();
        story
    };
    assert_eq!(without_reads().found(), [], "it may be on its way");
    let mut story = without_reads();
    story.create(9, "/watched/end", Mode::Persistent, "/watched/end", 70);
    story.assert_found("watches", "was never told");
    // A read that arms another one shows something, too.
    let mut story = without_reads();
    story.note("client-9", SECOND, watching(2, "/watched", WatchKind::Children, Some((60, 60))));
    story.note("client-9", SECOND, What::Drained);
    story.assert_found("watches", "before the event of it");
    let mut story = without_reads();
    let read = Op::Get { path: "/watched/1".into(), level: Level::Local };
    story.op(9, read, Answer::Refused("NoNode".into()));
    story.note("client-9", SECOND, What::Drained);
    story.assert_found("watches", "before the event of its deletion");
    let mut story = without_reads();
    story.note("client-9", SECOND, What::Resync { watch: 1, zxid: 60 });
    story.assert_found("watches", "missed 4 changes");
}

#[test]
fn a_one_shot_watch_of_what_is_not_known_tells_it_before_what_is() {
    let with_open = |told: (u64, &str)| {
        let mut story = watched_once(WatchKind::Data, (20, 20), &[told]);
        let op = Op::Set { path: "/watched/1".into(), value: "b".into(), version: None, epoch: None };
        story.op(SESSION, op, Answer::Unanswered).returned = u64::MAX;
        story
    };
    assert_eq!(with_open((30, "changed")).found(), []);
    assert_eq!(with_open((25, "changed")).found(), []);
    with_open((35, "changed")).assert_found("watches", "was due");
    with_open((15, "changed")).assert_found("watches", "was due");
}

#[test]
fn a_persistent_watch_of_one_znode_tells_of_it_and_of_its_children() {
    let watched = |path: &str, told: &[(u64, &str)]| {
        let mut story = watched_once(WatchKind::Data, (60, 60), &[]);
        story.note("client-9", 7000, watching(2, path, WatchKind::Persistent, None));
        for (zxid, change) in told {
            let told = Told { zxid: *zxid, change: (*change).into(), path: path.into() };
            story.note("client-9", zxid * 1000, What::Told { watch: 2, told });
        }
        story.note("client-9", SECOND, What::Drained);
        story
    };
    let of_znode = [
        (10, "created"),
        (20, "changed"),
        (30, "changed"),
        (40, "changed"),
        (50, "deleted"),
        (60, "created"),
    ];
    let of_children = [(10, "children"), (50, "children"), (60, "children")];
    for (path, told) in [("/watched/1", &of_znode[..]), ("/watched", &of_children[..])] {
        assert_eq!(watched(path, told).found(), []);
        let last = told.len() - 1;
        watched(path, &told[..last]).assert_found("watches", "before the event of it");
        watched(path, &told[1..]).assert_found("watches", "was due");
        watched(path, &[&told[..1], told].concat()).assert_found("watches", "was due");
    }
}

#[test]
fn lines_of_histories_in_which_a_client_has_one_watch_are_read() {
    let read = |line: &str| serde_json::from_str::<What>(line).expect("a line");
    let line = r#"{"what":"watching","path":"/watched"}"#;
    let What::Watching { watch: 0, kind: WatchKind::PersistentRecursive, read: None, .. } = read(line) else {
        panic!("{line}");
    };
    let line = r#"{"what":"told","zxid":5,"change":"created","path":"/watched/1"}"#;
    let What::Told { watch: 0, told: Told { zxid: 5, .. } } = read(line) else { panic!("{line}") };
    let line = r#"{"what":"resync","zxid":5}"#;
    let What::Resync { watch: 0, zxid: 5 } = read(line) else { panic!("{line}") };
}
