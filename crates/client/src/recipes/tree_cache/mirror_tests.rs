use std::collections::BTreeMap;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::Child;

/// What a znode is told apart by: data, czxid, mzxid.
type Content = BTreeMap<String, (Bytes, u64, u64)>;

const TOP: &str = "/t";
const PATHS: [&str; 9] = ["/t", "/t/a", "/t/a/x", "/t/a/y", "/t/a/x/deep", "/t/b", "/t/b/x", "/t/c", "/u"];
const PAGE: usize = 2;

#[derive(Clone, Copy, Debug)]
enum Op {
    Create(usize),
    Set(usize),
    Delete(usize),
}

/// The server: a tree at every zxid, and the stream of one session.
struct Server {
    states: Vec<Content>,
    events: Vec<Vec<(EventType, &'static str)>>,
    applied: usize,
}

impl Server {
    /// Each group of operations is one zxid; what cannot be done is left out.
    fn new(groups: &[Vec<Op>]) -> Self {
        let mut server = Server { states: vec![Content::new()], events: vec![Vec::new()], applied: 0 };
        for group in groups {
            let zxid = server.states.len() as u64;
            let (mut state, mut events) = (server.states[zxid as usize - 1].clone(), Vec::new());
            for (number, op) in group.iter().enumerate() {
                let data = Bytes::from(format!("{zxid}.{number}"));
                let has_children =
                    |path: &str| state.keys().any(|other: &String| relative(path, other).is_some());
                match *op {
                    Op::Create(path) if !state.contains_key(PATHS[path]) => {
                        let parent = PATHS[path].rsplit_once('/').map_or("", |(parent, _)| parent);
                        if parent.is_empty() || state.contains_key(parent) {
                            state.insert(PATHS[path].into(), (data, zxid, zxid));
                            events.push((EventType::NodeCreated, PATHS[path]));
                        }
                    }
                    Op::Set(path) => {
                        if let Some(znode) = state.get_mut(PATHS[path]) {
                            (znode.0, znode.2) = (data, zxid);
                            events.push((EventType::NodeDataChanged, PATHS[path]));
                        }
                    }
                    Op::Delete(path) if state.contains_key(PATHS[path]) && !has_children(PATHS[path]) => {
                        state.remove(PATHS[path]);
                        events.push((EventType::NodeDeleted, PATHS[path]));
                    }
                    _ => {}
                }
            }
            server.states.push(state);
            server.events.push(events);
        }
        server
    }

    fn last(&self) -> usize {
        self.states.len() - 1
    }

    fn stat(&self, path: &str) -> Option<(Bytes, Stat)> {
        let state = &self.states[self.applied];
        let (data, czxid, mzxid) = state.get(path)?.clone();
        let children = state.keys().filter(|other| relative(path, other).is_some_and(|r| !r.contains('/')));
        let (num_children, data_length) = (children.count() as u32, data.len() as u32);
        Some((data, Stat { czxid, mzxid, num_children, data_length, ..Stat::default() }))
    }

    fn get(&self, path: &str) -> Result<(Bytes, Stat), Error> {
        self.stat(path).ok_or_else(|| Error::new(ErrorKind::NoNode, path))
    }

    fn list(&self, path: &str, after: &str) -> Result<ListPage, Error> {
        let (_, stat) = self.get(path)?;
        let names = self.states[self.applied].keys().filter_map(|other| relative(path, other));
        let names: Vec<&str> = names.filter(|name| !name.contains('/') && *name > after).collect();
        let children = names.iter().take(PAGE).map(|name| Child {
            name: (*name).to_owned(),
            stat: self.stat(&format!("{path}/{name}")).map(|(_, stat)| stat),
        });
        Ok(ListPage { children: children.collect(), stat, more: names.len() > PAGE })
    }

    /// Applies up to `to` and tells, with the values that are the newest then: several zxids at once are a resumed stream.
    fn advance(&mut self, to: usize) -> Vec<Event> {
        let from = std::mem::replace(&mut self.applied, to);
        let mut told = Vec::new();
        for zxid in from + 1..=to {
            for (event_type, path) in self.events[zxid].iter().filter(|(_, path)| path.starts_with(TOP)) {
                let value = self.stat(path).filter(|(_, stat)| stat.mzxid == zxid as u64);
                let value = value.filter(|_| *event_type != EventType::NodeDeleted);
                told.push(Event { event_type: *event_type, path: (*path).into(), zxid: zxid as u64, value });
            }
        }
        told
    }
}

enum Question {
    Ask(Ask),
    Barrier(u64),
    Missing(Vec<(Arc<str>, u64)>),
}

type Value = Result<(Bytes, Stat), Error>;

enum Reply {
    List(Arc<str>, Result<ListPage, Error>),
    Values(Vec<(Arc<str>, Value)>),
    Barrier(u64),
    Found(Vec<(Arc<str>, u64, Value)>),
}

enum Item {
    Event(Event),
    Reply(u64, Reply),
}

/// A client and its stream, everything in it being late at random.
struct Simulation {
    server: Server,
    rng: StdRng,
    scope: Scope,
    mirror: Mirror,
    questions: VecDeque<Question>,
    stream: VecDeque<Item>,
    events: VecDeque<Event>,
    replies: VecDeque<Reply>,
    /// `Client::last_zxid`.
    seen: u64,
    is_loading: bool,
    barrier: bool,
    last: CacheView,
    states: usize,
}

impl Simulation {
    fn new(groups: &[Vec<Op>], seed: u64, scope: Scope) -> Self {
        let mut simulation = Simulation {
            server: Server::new(groups),
            rng: StdRng::seed_from_u64(seed),
            mirror: Mirror::new(scope.clone()),
            scope,
            questions: VecDeque::new(),
            stream: VecDeque::new(),
            events: VecDeque::new(),
            replies: VecDeque::new(),
            seen: 0,
            is_loading: false,
            barrier: false,
            last: CacheView::default(),
            states: 0,
        };
        simulation.server.applied = simulation.rng.random_range(0..=simulation.server.last());
        simulation.begin();
        simulation
    }

    /// A new watch, or one that lost events: all that is on its way is void.
    fn begin(&mut self) {
        self.questions.clear();
        self.stream.clear();
        self.events.clear();
        self.replies.clear();
        self.seen = self.seen.max(self.server.applied as u64);
        self.barrier = false;
        self.is_loading = true;
        self.mirror.begin_load(&self.last);
    }

    fn serve(&mut self) {
        let Some(question) = self.questions.pop_front() else { return };
        let get = |path: &Arc<str>| self.server.get(path);
        let reply = match question {
            Question::Ask(Ask::List { path, after }) => {
                let page = self.server.list(&path, &after);
                Reply::List(path, page)
            }
            Question::Ask(Ask::Values(paths)) => {
                Reply::Values(paths.into_iter().map(|path| (path.clone(), get(&path))).collect())
            }
            Question::Barrier(mark) => Reply::Barrier(mark),
            Question::Missing(paths) => {
                Reply::Found(paths.into_iter().map(|(path, z)| (path.clone(), z, get(&path))).collect())
            }
        };
        self.stream.push_back(Item::Reply(self.server.applied as u64, reply));
    }

    fn receive(&mut self) {
        match self.stream.pop_front() {
            Some(Item::Event(event)) => {
                self.seen = self.seen.max(event.zxid);
                self.events.push_back(event);
            }
            Some(Item::Reply(zxid, reply)) => {
                self.seen = self.seen.max(zxid);
                self.replies.push_back(reply);
            }
            None => {}
        }
    }

    fn drain(&mut self) {
        while let Some(event) = self.events.pop_front() {
            self.mirror.on_event(event);
        }
    }

    fn take_reply(&mut self) {
        match self.replies.pop_front() {
            Some(Reply::List(path, page)) => self.mirror.on_list(&path, page).unwrap(),
            Some(Reply::Values(found)) => self.mirror.on_values(found).unwrap(),
            Some(Reply::Barrier(mark)) => {
                self.barrier = false;
                self.drain();
                self.mirror.on_complete(mark);
            }
            Some(Reply::Found(found)) => {
                self.barrier = false;
                self.drain();
                for (path, zxid, found) in found {
                    self.mirror.on_found(&path, zxid, found);
                }
            }
            None => {}
        }
        if self.is_loading && self.mirror.is_loaded() {
            self.is_loading = false;
            self.mirror.end_load(self.seen);
        }
    }

    fn ask(&mut self) {
        if self.is_loading {
            self.questions.extend(self.mirror.next_ask().map(Question::Ask));
        } else if !self.barrier {
            let missing = self.mirror.missing();
            if self.mirror.waits_for_complete() {
                self.questions.push_back(Question::Barrier(self.seen));
                self.barrier = true;
            } else if !missing.is_empty() {
                self.questions.push_back(Question::Missing(missing));
                self.barrier = true;
            }
        }
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        let Some(view) = self.mirror.state() else { return Ok(()) };
        if view.zxid() <= self.last.zxid() && self.states > 0 {
            return Ok(());
        }
        let content = |view: &CacheView| -> Content {
            let of = |znode: &Arc<CachedZnode>| (znode.data.clone(), znode.stat.czxid, znode.stat.mzxid);
            view.iter().map(|znode| (znode.path.to_string(), of(znode))).collect()
        };
        let mut expected = self.server.states[view.zxid() as usize].clone();
        expected.retain(|path, _| self.scope.covers(path));
        prop_assert_eq!(content(&view), expected, "at zxid {}", view.zxid());
        self.states += 1;
        self.last = view;
        Ok(())
    }

    fn step(&mut self) -> Result<(), TestCaseError> {
        match self.rng.random_range(0..100) {
            0..20 => {
                let ahead = if self.rng.random_bool(0.2) { self.rng.random_range(2..6) } else { 1 };
                let to = (self.server.applied + ahead).min(self.server.last());
                let told = self.server.advance(to);
                self.stream.extend(told.into_iter().map(Item::Event));
            }
            20..35 => self.serve(),
            35..60 => self.receive(),
            60..75 => {
                if let Some(event) = self.events.pop_front() {
                    self.mirror.on_event(event);
                }
            }
            75..88 => self.take_reply(),
            88..99 => self.ask(),
            _ => {
                let to = (self.server.applied + 5).min(self.server.last());
                self.server.advance(to);
                self.begin();
            }
        }
        self.check()
    }

    /// Nothing happens any more: everything on its way arrives.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        let last = self.server.last();
        let told = self.server.advance(last);
        self.stream.extend(told.into_iter().map(Item::Event));
        for _ in 0..2000 {
            self.ask();
            self.serve();
            self.receive();
            self.take_reply();
            self.drain();
            self.check()?;
        }
        prop_assert!(!self.is_loading && !self.mirror.waits_for_complete());
        prop_assert!(self.states > 0, "there is no state");
        let shown = &self.server.states[self.last.zxid() as usize];
        let covered = |state: &Content| -> Content {
            let znodes = state.iter().filter(|(path, _)| self.scope.covers(path));
            znodes.map(|(path, znode)| (path.clone(), znode.clone())).collect()
        };
        prop_assert_eq!(covered(shown), covered(&self.server.states[last]), "the newest state is not shown");
        Ok(())
    }
}

fn ops() -> impl Strategy<Value = Vec<Vec<Op>>> {
    let path = 0..PATHS.len();
    let op = prop_oneof![
        3 => path.clone().prop_map(Op::Create),
        3 => path.clone().prop_map(Op::Set),
        2 => path.prop_map(Op::Delete),
    ];
    proptest::collection::vec(proptest::collection::vec(op, 1..4), 10..80)
}

fn scopes() -> impl Strategy<Value = Scope> {
    let all = Scope { top: TOP.into(), with_top: true, depth_max: usize::MAX };
    let children = Scope { with_top: false, depth_max: 1, ..all.clone() };
    let alone = Scope { depth_max: 0, ..all.clone() };
    prop_oneof![4 => Just(all), 2 => Just(children), 1 => Just(alone)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever is read when, and however late events and answers are: each state that is shown is the tree at its zxid,
    /// and in the end the newest one is.
    #[test]
    fn every_state_is_a_prefix_of_history(groups in ops(), seed: u64, scope in scopes()) {
        let mut simulation = Simulation::new(&groups, seed, scope);
        for _ in 0..400 {
            simulation.step()?;
        }
        simulation.settle()?;
    }
}

fn event(event_type: EventType, path: &str, zxid: u64, value: Option<&str>) -> Event {
    let stat = Stat { czxid: 1, mzxid: zxid, ..Stat::default() };
    let value = value.map(|data| (Bytes::copy_from_slice(data.as_bytes()), stat));
    Event { event_type, path: path.into(), zxid, value }
}

/// A mirror of an empty subtree, loaded at zxid 1.
fn loaded() -> Mirror {
    let mut mirror = Mirror::new(Scope { top: TOP.into(), with_top: true, depth_max: usize::MAX });
    mirror.begin_load(&CacheView::default());
    while let Some(ask) = mirror.next_ask() {
        let none = || Error::new(ErrorKind::NoNode, "");
        match ask {
            Ask::List { path, .. } => mirror.on_list(&path, Err(none())).unwrap(),
            Ask::Values(paths) => {
                mirror.on_values(paths.into_iter().map(|path| (path, Err(none())))).unwrap()
            }
        }
    }
    mirror.end_load(1);
    mirror.on_complete(1);
    assert_eq!(mirror.state().map(|view| view.len()), Some(0));
    mirror
}

#[test]
fn a_multi_is_shown_as_a_whole() {
    let mut mirror = loaded();
    mirror.on_event(event(EventType::NodeCreated, "/t", 5, Some("1")));
    assert_eq!(mirror.state().map(|view| (view.zxid(), view.len())), Some((4, 0)), "more of 5 may come");
    mirror.on_event(event(EventType::NodeCreated, "/t/a", 5, Some("2")));
    assert_eq!(mirror.state().map(|view| (view.zxid(), view.len())), Some((4, 0)));
    mirror.on_complete(5);
    assert_eq!(mirror.state().map(|view| (view.zxid(), view.len())), Some((5, 2)));
}

#[test]
fn a_value_that_never_comes_is_read_and_left_out_if_it_cannot_be() {
    let mut mirror = loaded();
    mirror.on_event(event(EventType::NodeCreated, "/t", 2, None));
    mirror.on_event(event(EventType::NodeCreated, "/t/a", 3, None));
    mirror.on_complete(3);
    assert!(mirror.state().is_none(), "the values of zxid 3 are not known");
    assert_eq!(mirror.missing(), [("/t".into(), 2), ("/t/a".into(), 3)]);
    let stat = Stat { czxid: 2, mzxid: 2, ..Stat::default() };
    mirror.on_found(&"/t".into(), 2, Ok((Bytes::from_static(b"1"), stat)));
    mirror.on_found(&"/t/a".into(), 3, Err(Error::new(ErrorKind::NoAuth, "/t/a")));
    let view = mirror.state().unwrap();
    assert_eq!((view.zxid(), view.len()), (3, 1));
    assert!(mirror.missing().is_empty());
}

#[test]
fn a_top_that_may_not_be_read_is_an_error_and_a_znode_below_is_not() {
    let mut mirror = loaded();
    mirror.begin_load(&CacheView::default());
    let (top, below): (Arc<str>, Arc<str>) = (TOP.into(), "/t/a".into());
    let refused = || Error::new(ErrorKind::NoAuth, "");
    assert!(mirror.next_ask().is_some() && mirror.next_ask().is_none());
    assert_eq!(mirror.on_list(&top, Err(refused())), Err(refused()));
    assert!(matches!(mirror.next_ask(), Some(Ask::Values(paths)) if paths == [top.clone()]));
    assert_eq!(mirror.on_values([(below, Err(refused()))]), Ok(()));
}

#[test]
fn a_second_load_reads_only_the_values_that_changed() {
    let mut mirror = loaded();
    for (number, path) in ["/t", "/t/a", "/t/b", "/t/c"].into_iter().enumerate() {
        mirror.on_event(event(EventType::NodeCreated, path, 2 + number as u64, Some("1")));
    }
    mirror.on_complete(5);
    let view = mirror.state().unwrap();
    mirror.begin_load(&view);
    let child = |name: &str, mzxid| Child {
        name: name.into(),
        stat: Some(Stat { czxid: 1, mzxid, data_length: 1, ..Stat::default() }),
    };
    let Some(Ask::List { path, .. }) = mirror.next_ask() else { panic!("a list comes first") };
    // "/t/c" is gone.
    let children = vec![child("a", 3), child("b", 9)];
    mirror.on_list(&path, Ok(ListPage { children, stat: Stat::default(), more: false })).unwrap();
    let Some(Ask::Values(paths)) = mirror.next_ask() else { panic!("then values") };
    assert_eq!(paths, ["/t".into(), Arc::<str>::from("/t/b")]);
    // What the stat tells of the children is no difference.
    let stat = |mzxid| Stat { czxid: 1, mzxid, pzxid: 9, ..Stat::default() };
    let value = |mzxid: u64| Ok((Bytes::from(mzxid.to_string()), stat(mzxid)));
    mirror.on_values([("/t".into(), value(2)), ("/t/b".into(), value(9))]).unwrap();
    mirror.end_load(9);
    mirror.on_complete(9);
    let changes: Vec<_> = mirror.state().unwrap().changes_since(&view);
    let paths: Vec<_> = changes.iter().map(|change| (change.path(), change.after().is_some())).collect();
    assert_eq!(paths, [("/t/c", false), ("/t/b", true)]);
}

#[test]
fn values_are_read_in_batches_that_an_answer_can_hold() {
    let mut mirror = loaded();
    mirror.begin_load(&CacheView::default());
    let Some(Ask::List { path, .. }) = mirror.next_ask() else { panic!("a list comes first") };
    let child = |number: usize| {
        let data_length = if number == 0 { 1 << 20 } else { 1000 };
        let stat = Stat { czxid: 1, mzxid: 1, data_length, ..Stat::default() };
        Child { name: format!("{number:05}"), stat: Some(stat) }
    };
    let page = ListPage { children: (0..1000).map(child).collect(), stat: Stat::default(), more: false };
    mirror.on_list(&path, Ok(page)).unwrap();
    let batches = std::iter::from_fn(|| match mirror.next_ask()? {
        Ask::Values(paths) => Some(paths.len()),
        list @ Ask::List { .. } => panic!("{list:?}"),
    });
    // The top and the large one; then 263 of 1,000 bytes are the first above 256 KiB; the last batch is not full, and
    // nothing else can come.
    assert_eq!(batches.take(4).collect::<Vec<_>>(), [2, 263, 263, 263]);
}
