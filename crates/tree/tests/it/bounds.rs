//! Everything that is kept is bounded (G9), by the same bound on every node.

use bytes::Bytes;
use coordd_tree::{
    AclEntry, Auth, AuthId, Bounds, Ceilings, Command, Create, CreateMode, Data, EndReason, ErrorKind,
    OpenSession, Perms, Tree, Write, WriteOp,
};

use crate::driver::{Driver, ORIGIN, entry, reload};

fn write(session: u64, seq: u64, acked: u64, op: WriteOp) -> Command {
    Command::Write(Write { session, seq, acked, auth: Auth::default(), guards: vec![], op })
}

/// A write outside any session, with these ceilings.
fn bounded(op: WriteOp, ceilings: Ceilings) -> Command {
    let write = Write { session: 0, seq: 0, acked: 0, auth: Auth::default(), guards: vec![], op };
    Command::Bounded(write, Bounds { generation: 0, ceilings: Some(ceilings) })
}

fn create(path: &str, data: Bytes, acl: Vec<AclEntry>) -> WriteOp<'static> {
    let mode = CreateMode::Persistent;
    WriteOp::Create(Create {
        path: path.to_owned().into(),
        data: data.into(),
        acl,
        mode,
        ttl_ms: 0,
        parents: false,
    })
}

fn open(session: u64) -> Command<'static> {
    let client_name = "client".into();
    Command::OpenSession(OpenSession { session, password: [0; 16], timeout_ms: 1000, client_name })
}

/// Applies many commands without a look at the tree in between.
fn apply_all(tree: &mut Tree, first_seq: u64, commands: Vec<Command>) {
    tree.apply(&entry(1, ORIGIN, first_seq, commands), |_, _, _, applied| {
        applied.result.expect("nothing here is refused");
    });
}

#[test]
fn a_session_that_never_acknowledges_is_refused_until_it_does() {
    let mut tree = Tree::new();
    let set = || WriteOp::SetData { path: "/".into(), data: Data::default(), version: -1 };
    let mut commands = vec![open(7)];
    commands.extend((1..=16_384).map(|seq| write(7, seq, 0, set())));
    apply_all(&mut tree, 1, commands);

    let mut refused = None;
    let next = tree.taken(1).unwrap().1 + 1;
    let entry_of = |seq, command| entry(1, ORIGIN, seq, vec![command]);
    tree.apply(&entry_of(next, write(7, 16_385, 0, set())), |_, _, _, applied| {
        refused = applied.result.err()
    });
    assert_eq!(refused.unwrap().kind, ErrorKind::TooManyUnacknowledged);
    assert_eq!(tree.session(7).unwrap().last_seq(), 16_384);

    // The very write that was refused is executed once it acknowledges another.
    apply_all(&mut tree, next + 1, vec![write(7, 16_385, 1, set())]);
    assert_eq!(tree.session(7).unwrap().unacknowledged(), 16_384);
}

#[test]
fn the_events_of_one_large_command_are_told_though_the_history_cannot_keep_them() {
    let ann = Auth { ip: None, ids: vec![AuthId { scheme: "digest".into(), id: "ann:x".into() }] };
    let acl = vec![AclEntry { perms: Perms::READ, scheme: "digest".into(), id: "ann:x".into() }];
    let mut driver = Driver::default();
    driver.apply(write(0, 0, 0, create("/t", Bytes::new(), vec![])));
    let long = "x".repeat(4000);
    let creates =
        (0..2500).map(|n| write(0, 0, 0, create(&format!("/t/{long}{n:04}"), Bytes::new(), acl.clone())));
    apply_all(&mut driver.tree, 2, creates.collect());
    let mut tree = driver.tree;
    assert!(tree.history_start() > 0, "creates alone are more than the history keeps");

    let ceilings = Ceilings { removed_event_bytes: u32::MAX, ..Ceilings::default() };
    let delete = WriteOp::DeleteTree { path: "/t".into(), expected_count: Some(2501) };
    let delete = bounded(delete, ceilings);
    let mut told = 0;
    tree.apply(&entry(1, ORIGIN, 2502, vec![delete]), |tree, _, _, applied| {
        told = applied.events.iter().filter(|event| tree.may_read(event.acl, &ann)).count();
        assert!(
            tree.may_read(applied.events[0].acl, &ann)
                && !tree.may_read(applied.events[0].acl, &Auth::default())
        );
    });
    assert_eq!(told, 2501);
    assert_eq!(tree.history_start(), tree.last_zxid());
    assert_eq!(tree.history_since(tree.last_zxid()).unwrap().count(), 0);
    assert!(tree.history_since(tree.last_zxid() - 1).is_none());
    assert_eq!(tree.digest(), tree.recompute_digest());
    // With the last event the last reference to the ACL is gone too: a snapshot with it would be refused.
    reload(&tree);
}

#[test]
fn ended_sessions_are_forgotten_oldest_first_when_there_are_too_many() {
    let mut tree = Tree::new();
    let ended = 100_002u64;
    let commands = (1..=ended)
        .flat_map(|session| [open(session), Command::EndSession { session, reason: EndReason::Closed }])
        .collect();
    apply_all(&mut tree, 1, commands);
    assert!(tree.ended_session(2).is_none());
    assert!(tree.ended_session(3).is_some());
    assert!(tree.ended_session(ended).is_some());
    assert_eq!(tree.digest(), tree.recompute_digest());
}

#[test]
fn a_value_does_not_keep_its_entry_alive() {
    let buffer = Bytes::from(vec![7; 1 << 20]);
    let mut tree = Tree::new();
    apply_all(&mut tree, 1, vec![write(0, 0, 0, create("/a", buffer.slice(10..20), vec![]))]);
    assert!(buffer.is_unique(), "the tree holds on to the buffer the value came in");
    assert_eq!(tree.get("/a", &Auth::default()).unwrap().0, [7; 10].as_slice());
}

#[test]
fn large_values_make_chunks_of_bounded_size() {
    let mut tree = Tree::new();
    let value = Bytes::from(vec![7; 300 << 10]);
    let creates = (0..20).map(|n| write(0, 0, 0, create(&format!("/{n}"), value.clone(), vec![])));
    apply_all(&mut tree, 1, creates.collect());
    let chunks: Vec<usize> = tree.snapshot_chunks().map(|chunk| chunk.len()).collect();
    assert!(chunks.len() > 10, "{chunks:?}");
    assert!(chunks.iter().all(|bytes| *bytes <= (512 + 301) << 10), "{chunks:?}");
    reload(&tree);
}

#[test]
fn a_tree_as_deep_as_paths_allow_can_be_deleted_and_loaded() {
    let mut tree = Tree::new();
    let deep = "/d".repeat(2048);
    let mode = CreateMode::Persistent;
    let create =
        Create { path: deep.into(), data: Data::default(), acl: vec![], mode, ttl_ms: 0, parents: true };
    let op = WriteOp::Create(create);
    apply_all(&mut tree, 1, vec![write(0, 0, 0, op)]);
    assert_eq!(tree.descendant_count("/d", &Auth::default()).unwrap(), 2047);
    let mut tree = reload(&tree);
    let delete = WriteOp::DeleteTree { path: "/d".into(), expected_count: Some(2048) };
    apply_all(&mut tree, 2, vec![write(0, 0, 0, delete)]);
    assert_eq!(tree.znode_count(), 4);
}

/// Hands may take the numbers that a sequential create looks at. They do not push the numbers of the
/// directory near their end: what comes of it can be written and loaded.
#[test]
fn taken_numbers_use_up_no_others() {
    let mut tree = Tree::new();
    apply_all(&mut tree, 1, vec![write(0, 0, 0, create("/d", Bytes::new(), vec![]))]);
    // The number of the next one is how many there were, these included.
    let first = 128 + 63;
    let numbers = (first..first + 128).chain((0..63).map(|leap| first + 128 + (1 << leap) - 1));
    let taken = numbers.map(|number: u64| {
        let path = format!("/d/n-{number:010}").into();
        write(0, 0, 0, WriteOp::Create(Create { path, ..plain() }))
    });
    apply_all(&mut tree, 2, taken.collect());
    let sequential = Create { path: "/d/n-".into(), mode: CreateMode::PersistentSequential, ..plain() };
    let command = write(0, 0, 0, WriteOp::Create(sequential));
    let mut result = None;
    tree.apply(&entry(1, ORIGIN, 2 + first, vec![command]), |_, _, _, applied| result = Some(applied.result));
    assert_eq!(result.unwrap().unwrap_err().kind, ErrorKind::NodeExists);
    assert_eq!(reload(&tree).digest(), tree.digest());
}

fn plain() -> Create<'static> {
    Create {
        path: "/".into(),
        data: Data::default(),
        acl: vec![],
        mode: CreateMode::Persistent,
        ttl_ms: 0,
        parents: false,
    }
}

/// Sessions that ended long ago are forgotten a part at a time, on every node the same.
#[test]
fn ended_sessions_are_forgotten_in_parts() {
    let mut tree = Tree::new();
    let open_all = (1..=5000).map(open).collect();
    apply_all(&mut tree, 1, open_all);
    let end = |session| Command::EndSession { session, reason: EndReason::Closed };
    apply_all(&mut tree, 5001, (1..=5000).map(end).collect());
    let known = |tree: &Tree| (1..=5000).filter(|id| tree.ended_session(*id).is_some()).count();
    assert_eq!(known(&tree), 5000);
    let day = 24 * 60 * 60 * 1000;
    let mut left = 5000;
    for number in 0..5 {
        let command =
            write(0, 0, 0, WriteOp::SetData { path: "/".into(), data: Data::default(), version: -1 });
        tree.apply(&entry(day, ORIGIN, 10_001 + number, vec![command]), |_, _, _, _| {});
        left -= 1001.min(left);
        assert_eq!(known(&tree), left);
    }
    assert_eq!(left, 0);
}
