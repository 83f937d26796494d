//! Each checker finds what it is there to find, and nothing in a history in which all is well.

use super::check;
use crate::history::{
    Answer, Client, Done, Fate, Fault, FinalZnode, History, Level, Mode, Op, SetOne, Told, WatchKind, What,
};

const SESSION: u64 = 7;
const SECOND: u64 = 1_000_000_000;

/// Histories are made of operations one after the other, one a microsecond, unless a test says otherwise.
#[derive(Default)]
struct Story {
    history: History,
}

impl Story {
    fn op(&mut self, session: u64, op: Op, answer: Answer) -> &mut Done {
        let number = self.history.ops.len() as u64 + 1;
        let (id, called) = ((1, number), number * 1000);
        let client = format!("client-{session}");
        let fate = Fate::Open;
        self.history.ops.push(Done { id, client, session, op, called, returned: called + 500, answer, fate });
        self.history.ops.last_mut().expect("it was pushed")
    }

    fn set(&mut self, session: u64, path: &str, value: &str, version: i32, zxid: u64) -> &mut Done {
        let op = Op::Set { path: path.into(), value: value.into(), version: None, epoch: None };
        self.znode(path, value, version, zxid);
        self.op(session, op, Answer::Set { version, zxid })
    }

    fn get(&mut self, session: u64, path: &str, level: Level, shown: (&str, i32, u64)) -> &mut Done {
        let (value, version, mzxid) = (shown.0.to_owned(), shown.1, shown.2);
        self.op(session, Op::Get { path: path.into(), level }, Answer::Got { value, version, mzxid })
    }

    fn create(&mut self, session: u64, path: &str, mode: Mode, made: &str, zxid: u64) -> &mut Done {
        let owner = if mode == Mode::Ephemeral { session } else { 0 };
        let znode = FinalZnode { value: String::new(), version: 0, czxid: zxid, mzxid: zxid, owner };
        self.history.znodes.insert(made.to_owned(), znode);
        let op = Op::Create { path: path.into(), value: String::new(), mode };
        self.op(session, op, Answer::Created { path: made.into(), zxid })
    }

    /// What is there in the end.
    fn znode(&mut self, path: &str, value: &str, version: i32, mzxid: u64) {
        let znode = FinalZnode { value: value.into(), version, czxid: 1, mzxid, owner: 0 };
        self.history.znodes.insert(path.to_owned(), znode);
    }

    fn note(&mut self, client: &str, at: u64, what: What) {
        let entry = self
            .history
            .clients
            .entry(client.to_owned())
            .or_insert_with(|| Client { process: 1, lines: vec![] });
        entry.lines.push((at, what));
    }

    /// Those who found something, and what.
    fn found(&self) -> Vec<(&'static str, String)> {
        check(&self.history).violations.into_iter().map(|found| (found.checker, found.text)).collect()
    }

    #[track_caller]
    fn assert_found(&self, checker: &str, words: &str) {
        let found = self.found();
        assert!(found.iter().any(|(by, text)| *by == checker && text.contains(words)), "{found:?}");
    }
}

/// Three sets of a register with zxids 10, 20 and 30.
fn three_sets() -> Story {
    let mut story = Story::default();
    for (number, zxid) in [(1, 10), (2, 20), (3, 30)] {
        story.set(SESSION, "/registers/1", &format!("v{number}"), number, zxid);
    }
    story
}

#[test]
fn a_history_in_which_all_is_well_is_good() {
    let mut story = three_sets();
    story.get(SESSION, "/registers/1", Level::Linearizable, ("v3", 3, 30));
    story.get(8, "/registers/1", Level::Local, ("v1", 1, 10));
    assert_eq!(story.found(), []);
}

#[test]
fn a_lost_and_a_doubled_write_are_found() {
    let mut story = three_sets();
    story.set(SESSION, "/registers/1", "v4", 5, 40);
    story.assert_found("order", "a write was lost or done twice");
    let mut story = three_sets();
    story.znode("/registers/1", "v2", 2, 20);
    story.assert_found("order", "in the end there is");
    let mut story = three_sets();
    story.set(SESSION, "/registers/2", "v", 1, 30);
    story.assert_found("order", "was given to two writes");
}

#[test]
fn a_lost_write_is_found_without_a_last_look() {
    let mut story = three_sets();
    story.history.znodes.clear();
    story.history.is_cut = true;
    assert_eq!(story.found(), []);
    let op = Op::Set { path: "/registers/2".into(), value: "v".into(), version: None, epoch: None };
    story.op(8, op, Answer::Unanswered).returned = u64::MAX;
    assert_eq!(story.found(), [], "nobody has asked for its fate");
    story.set(9, "/registers/3", "v", 1, 30);
    story.assert_found("order", "was given to two writes");
}

#[test]
fn an_order_that_contradicts_time_is_found() {
    let mut story = three_sets();
    story.set(8, "/registers/2", "v", 1, 15);
    story.assert_found("order", "began after zxid 30");
    let mut story = three_sets();
    story.get(8, "/registers/1", Level::Linearizable, ("v2", 2, 20));
    story.assert_found("order", "a linearizable read of /registers/1 shows zxid 20");
    story.assert_found("linear", "no order explains");
}

#[test]
fn a_linearizable_read_that_does_not_find_what_is_there_is_found() {
    let read = |story: &mut Story| {
        let op = Op::Get { path: "/watched/1".into(), level: Level::Linearizable };
        story.op(8, op, Answer::Refused("NoNode".into())).called
    };
    let mut story = Story::default();
    read(&mut story);
    story.create(SESSION, "/watched/1", Mode::Persistent, "/watched/1", 10);
    assert_eq!(story.found(), []);
    let called = read(&mut story);
    story.assert_found("order", "did not find /watched/1");
    // A delete that was under way then.
    story.history.znodes.clear();
    let delete = Op::Delete { path: "/watched/1".into() };
    story.op(SESSION, delete, Answer::Deleted { zxid: 20 }).called = called;
    assert_eq!(story.found(), []);
}

#[test]
fn a_session_that_goes_back_is_found() {
    let mut story = three_sets();
    story.get(SESSION, "/registers/1", Level::Local, ("v2", 2, 20));
    story.assert_found("order", "in a session that had seen zxid 30");
    let mut story = Story::default();
    story.set(SESSION, "/registers/1", "a", 2, 20).returned = 9000;
    story.set(SESSION, "/registers/1", "b", 1, 10).returned = 9000;
    story.znode("/registers/1", "a", 2, 20);
    story.assert_found("order", "behind zxid 20 of the same session");
}

#[test]
fn what_was_never_written_or_not_there_together_is_found() {
    let mut story = three_sets();
    story.get(8, "/registers/1", Level::Local, ("other", 2, 20));
    story.assert_found("order", "was read as \"other\"");
    let mut story = Story::default();
    let one = |account: u32, value: &str| SetOne {
        path: format!("/accounts/0-{account}"),
        value: value.into(),
        version: 0,
    };
    story.znode("/accounts/0-0", "95", 1, 10);
    story.znode("/accounts/0-1", "105", 1, 10);
    let sets = vec![one(0, "95"), one(1, "105")];
    story.op(SESSION, Op::Multi { sets }, Answer::Multi { versions: vec![1, 1], zxid: 10 }).returned = 9000;
    let torn = Answer::MultiGot(vec![("95".into(), 1, 10), ("100".into(), 0, 5)]);
    let paths = vec!["/accounts/0-0".into(), "/accounts/0-1".into()];
    story.op(8, Op::MultiGet { paths }, torn);
    story.assert_found("order", "had changed it between");
    story.assert_found("linear", "no order explains");
}

#[test]
fn a_write_of_unknown_fate_may_have_happened_or_not() {
    for shown in [("v3", 3, 30), ("maybe", 4, 40)] {
        let mut story = three_sets();
        let op = Op::Set { path: "/registers/1".into(), value: "maybe".into(), version: None, epoch: None };
        story.op(SESSION, op, Answer::Unanswered).returned = u64::MAX;
        story.get(8, "/registers/1", Level::Linearizable, shown);
        assert_eq!(story.found(), [], "{shown:?}");
    }
    // The server said later that it never happened.
    let mut story = three_sets();
    let op = Op::Set { path: "/registers/1".into(), value: "never".into(), version: None, epoch: None };
    let done = story.op(SESSION, op, Answer::Unanswered);
    (done.returned, done.fate) = (u64::MAX, Fate::Never);
    story.get(8, "/registers/1", Level::Linearizable, ("never", 4, 40));
    story.assert_found("linear", "no order explains");
}

#[test]
fn sequential_names_that_come_twice_or_leave_a_gap_are_found() {
    let create = |story: &mut Story, number: u32, zxid| {
        story.create(SESSION, "/sequence/n-", Mode::Sequential, &format!("/sequence/n-{number:010}"), zxid);
    };
    let mut story = Story::default();
    create(&mut story, 0, 10);
    create(&mut story, 1, 11);
    assert_eq!(story.found(), []);
    create(&mut story, 3, 12);
    story.assert_found("sequence", "where number 2 was due");
    let mut story = Story::default();
    create(&mut story, 0, 10);
    create(&mut story, 0, 11);
    story.assert_found("sequence", "where number 1 was due");
}

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

#[test]
fn a_session_that_ends_while_its_client_lives_is_found() {
    let end = |silent_for: Option<u64>| {
        let mut story = Story::default();
        let opened = What::Opened { session: SESSION, password: String::new(), timeout_ms: 6000 };
        story.note("client-7", SECOND, opened);
        if let Some(time) = silent_for {
            let fault = |silenced: Vec<u32>, heard: Vec<u32>| Fault { text: String::new(), silenced, heard };
            story.history.faults.push((2 * SECOND, fault(vec![1], vec![])));
            story.history.faults.push((2 * SECOND + time, fault(vec![], vec![1])));
        }
        story.note("client-7", 20 * SECOND, What::Ended { reason: "expired".into() });
        story
    };
    assert_eq!(end(Some(7 * SECOND)).found(), []);
    end(Some(2 * SECOND)).assert_found("sessions", "was alive");
    end(None).assert_found("sessions", "was alive");
}

#[test]
fn a_silence_before_the_session_excuses_nothing() {
    let end = |from: u64| {
        let mut story = Story::default();
        let opened = What::Opened { session: SESSION, password: String::new(), timeout_ms: 6000 };
        story.note("client-7", 10 * SECOND, opened);
        let fault = |silenced: Vec<u32>, heard: Vec<u32>| Fault { text: String::new(), silenced, heard };
        story.history.faults.push((from, fault(vec![1], vec![])));
        story.history.faults.push((from + 7 * SECOND, fault(vec![], vec![1])));
        story.note("client-7", 20 * SECOND, What::Ended { reason: "expired".into() });
        story
    };
    assert_eq!(end(11 * SECOND).found(), []);
    end(SECOND).assert_found("sessions", "was alive");
    // Half of it, and that is too short.
    end(6 * SECOND).assert_found("sessions", "was alive");
}

#[test]
fn a_session_that_is_gone_in_the_end_is_found() {
    let mut story = Story::default();
    let opened = What::Opened { session: SESSION, password: String::new(), timeout_ms: 6000 };
    story.note("client-7", SECOND, opened);
    story.assert_found("sessions", "is gone, and nobody has ended it");
    story.history.is_cut = true;
    assert_eq!(story.found(), []);
    story.history.is_cut = false;
    story.history.live.insert(SESSION);
    assert_eq!(story.found(), []);
    story.history.live.clear();
    story.op(SESSION, Op::Close, Answer::Closed);
    assert_eq!(story.found(), []);
}

#[test]
fn a_session_that_does_not_see_its_ephemeral_is_found() {
    let mut story = Story::default();
    let opened = What::Opened { session: SESSION, password: String::new(), timeout_ms: 6000 };
    story.note("client-7", 0, opened);
    story.history.live.insert(SESSION);
    story.create(SESSION, "/ephemerals/7-0", Mode::Ephemeral, "/ephemerals/7-0", 10);
    let read = || Op::Get { path: "/ephemerals/7-0".into(), level: Level::Local };
    let missing = || Answer::Refused("NoNode".into());
    story.op(8, read(), missing());
    assert_eq!(story.found(), []);
    story.op(SESSION, read(), missing());
    story.assert_found("sessions", "was not found in its session");
    story.history.ops.pop();
    story.op(SESSION, Op::Close, Answer::Closed);
    story.history.znodes.clear();
    story.op(SESSION, read(), missing());
    story.op(8, read(), missing());
    assert_eq!(story.found(), []);
    assert_eq!(check(&story.history).compared["ephemerals of closed sessions"], 2);
}

#[test]
fn errors_that_cannot_be_are_found() {
    let get = || Op::Get { path: "/registers/1".into(), level: Level::Local };
    let set = |version| Op::Set { path: "/registers/1".into(), value: "v".into(), version, epoch: None };
    let found = |op: Op, error: &str| {
        let mut story = three_sets();
        story.op(8, op, Answer::Refused(error.into()));
        !story.found().is_empty()
    };
    assert!(found(get(), "NoNode"));
    assert!(found(set(None), "NoNode"));
    assert!(found(set(None), "BadVersion"));
    // Version 3 was there.
    assert!(found(set(Some(3)), "BadVersion"));
    assert!(!found(set(Some(1)), "BadVersion"));
    assert!(!found(set(None), "NoSpace"));
    let mut story = three_sets();
    story.op(8, set(None), Answer::Failed("Protocol".into())).returned = u64::MAX;
    story.assert_found("order", "was answered Protocol");
}

#[test]
fn a_znode_that_nobody_has_written_is_found() {
    let mut story = three_sets();
    story.znode("/registers/2", "", 0, 1);
    assert_eq!(story.found(), []);
    story.znode("/registers/2", "other", 0, 1);
    story.assert_found("order", "/registers/2 is there in the end, and nobody has written that");
    let mut story = three_sets();
    story.znode("/watched/9", "", 0, 1);
    story.assert_found("order", "nobody has written that");
    let mut story = three_sets();
    story.history.ops.clear();
    story.assert_found("order", "nobody has written that");
}

#[test]
fn without_a_last_look_only_answers_are_compared() {
    let mut story = three_sets();
    story.history.znodes.clear();
    story.note("producer", 0, What::Put { task: "1-1".into() });
    story.history.is_cut = true;
    assert_eq!(story.found(), []);
    story.set(SESSION, "/registers/1", "v4", 5, 40);
    story.assert_found("order", "a write was lost or done twice");
}

#[test]
fn a_workload_that_did_nothing_shows() {
    let compared = check(&three_sets().history).compared;
    assert_eq!(compared.into_iter().collect::<Vec<_>>(), [("registers", 3)]);
}

#[test]
fn ephemerals_without_a_session_and_sessions_without_theirs_are_found() {
    let mut story = Story::default();
    let opened = What::Opened { session: SESSION, password: String::new(), timeout_ms: 6000 };
    story.note("client-7", 0, opened);
    story.history.live.insert(SESSION);
    story.create(SESSION, "/ephemerals/7-0", Mode::Ephemeral, "/ephemerals/7-0", 10);
    assert_eq!(story.found(), []);
    let znode = story.history.znodes.remove("/ephemerals/7-0");
    story.assert_found("sessions", "is gone, and its session was not ended");
    story.history.znodes.extend(znode.map(|znode| ("/ephemerals/7-0".to_owned(), znode)));
    story.history.live.clear();
    story.assert_found("sessions", "and its session 7 is not");
    story.op(SESSION, Op::Close, Answer::Closed);
    story.get(8, "/ephemerals/7-0", Level::Linearizable, ("", 0, 10));
    story.assert_found("sessions", "after its session had been closed");
}

#[test]
fn two_holders_and_writes_of_an_old_epoch_are_found() {
    let grant = |story: &mut Story, client: &str, epoch: u64, had: u64, believed: u64| {
        story.note(client, had, What::Granted { grant: "lock".into(), epoch });
        story.note(client, believed, What::Held { grant: "lock".into(), epoch });
    };
    let mut story = Story::default();
    grant(&mut story, "one", 100, 1000, 2000);
    grant(&mut story, "two", 200, 3000, 4000);
    story.set(8, "/granted/lock", "100:0", 1, 110);
    story.set(9, "/granted/lock", "200:0", 2, 210);
    assert_eq!(story.found(), []);
    story.set(8, "/granted/lock", "100:1", 3, 220);
    story.assert_found("grants", "epoch 100 of lock wrote");
    let mut story = Story::default();
    grant(&mut story, "one", 100, 1000, 3500);
    grant(&mut story, "two", 200, 3000, 4000);
    story.assert_found("grants", "believed in epoch 100");
    // Not the next one, but the one after it.
    let mut story = Story::default();
    grant(&mut story, "one", 100, 1000, 3500);
    grant(&mut story, "two", 200, 3600, 4000);
    grant(&mut story, "three", 300, 3000, 4100);
    story.assert_found("grants", "believed in epoch 100 of lock 0 ms after three");
}

#[test]
fn adds_that_are_lost_doubled_or_out_of_time_are_found() {
    let counted = |adds: &[(u64, u64, i64)], end: i64| {
        let mut story = Story::default();
        for (number, (begun, ended, value)) in adds.iter().enumerate() {
            let client = format!("counter-{number}");
            story.note(&client, *begun, What::Adding);
            story.note(&client, *ended, What::Added { value: *value });
        }
        story.znode("/counters/all", &end.to_string(), 0, 1);
        story
    };
    assert_eq!(counted(&[(1, 5, 2), (2, 4, 1), (6, 7, 3)], 3).found(), []);
    counted(&[(1, 5, 1), (2, 4, 1)], 2).assert_found("counters", "value 1 was given to");
    counted(&[(1, 2, 2), (3, 4, 1)], 2).assert_found("counters", "began after 2 had been given");
    counted(&[(1, 2, 1), (3, 4, 2)], 1).assert_found("counters", "is 1 in the end; 2 adds");
    counted(&[(1, 2, 1)], 2).assert_found("counters", "is 2 in the end; 1 adds");
    // One that is open may have counted.
    let mut story = counted(&[(1, 2, 1)], 2);
    story.note("counter-0", 3, What::Adding);
    assert_eq!(story.found(), []);
    story.note("counter-0", 4, What::NotAdded { error: "NoSpace".into() });
    story.assert_found("counters", "is 2 in the end; 1 adds");
    story.note("counter-0", 5, What::NotAdded { error: "Protocol".into() });
    story.assert_found("counters", "was answered Protocol");
}

#[test]
fn tasks_that_are_lost_or_done_twice_are_found() {
    let put = || {
        let mut story = Story::default();
        story.note("producer", 0, What::Putting { task: "1-1".into() });
        story.note("producer", 0, What::Put { task: "1-1".into() });
        story
    };
    put().assert_found("queue", "neither completed nor still there");
    let mut story = put();
    story.history.remaining.push("1-1".into());
    assert_eq!(story.found(), []);
    story.znode("/completed/1-1", "", 0, 5);
    story.assert_found("queue", "completed, and also still there");
    story.history.remaining.clear();
    assert_eq!(story.found(), []);
    let claimed = || What::Claimed { task: "1-1".into(), attempt: 1 };
    story.note("one", 1, claimed());
    assert_eq!(story.found(), []);
    story.note("two", 1, claimed());
    story.assert_found("queue", "attempt 1 at task 1-1 was given to one and to two");
    story.znode("/completed/1-2", "", 0, 6);
    story.assert_found("queue", "task 1-2 is there, and nobody has put it");
    story.note("one", 1, What::Completed { task: "1-1".into() });
    story.note("two", 2, What::CompletedAgain { task: "1-1".into() });
    story.assert_found("queue", "after it had been completed");
}
