//! Each checker finds what it is there to find, and nothing in a history in which all is well.

mod watches;

use super::check;
use crate::history::{Answer, Client, Done, Fate, Fault, FinalZnode, History, Level, Mode, Op, SetOne, What};

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
