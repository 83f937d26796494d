//! Random commands, and whether the tree does what the model does.

use std::borrow::Cow;

use coordd_tree::{
    AclEntry, Auth, AuthId, Bounds, Check, CheckKind, Command, Create, CreateMode, Data, EndReason,
    EventKind, MultiOp, OpenSession, Perms, Tree, Write, WriteOp, WriteOutcome, digest_id,
};
use proptest::prelude::*;

use crate::driver::Driver;
use crate::model::{Answer, Model};

const SESSIONS: u64 = 4;

/// A command, whose numbers are relative to what the tree is then, so that most of them fit.
#[derive(Clone, Debug)]
pub(crate) struct Draw {
    command: Command<'static>,
    /// Added to the number that the write should have.
    seq_offset: i64,
    pass_ms: u64,
    restart: bool,
}

impl Draw {
    /// The command as it is proposed to this tree.
    pub(crate) fn resolve(&self, tree: &Tree) -> Command<'static> {
        let mut command = self.command.clone();
        match &mut command {
            Command::Write(write) | Command::Bounded(write, _) if write.session != 0 => {
                let last = tree.session(write.session).map_or(0, |session| session.last_seq());
                write.seq = (last + 1).saturating_add_signed(self.seq_offset);
                write.acked = last.saturating_sub(write.acked);
            }
            Command::ExpireZnodes(candidates) if candidates.is_empty() => {
                *candidates = tree.expired_znodes(tree.time_ms() + self.pass_ms, None, 3);
            }
            Command::Sweep { candidates, unused_ms } => {
                *candidates = tree.expired_znodes(tree.time_ms() + self.pass_ms, Some(*unused_ms), 3);
            }
            Command::Write(_) | Command::Bounded(..) | Command::ExpireZnodes(_) => {}
            Command::OpenSession(_) | Command::EndSession { .. } | Command::Attach { .. } => {}
        }
        if let (Command::Bounded(write, bounds), is_stale) = (&mut command, self.seq_offset > 0) {
            let generation = tree.session(write.session).map_or(0, |session| session.generation());
            bounds.generation = generation.saturating_sub(is_stale.into());
        }
        command
    }

    pub(crate) fn pass_ms(&self) -> u64 {
        self.pass_ms
    }
}

pub(crate) fn draws(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Draw>> {
    let offset = prop_oneof![10 => Just(0), 2 => -3i64..0, 1 => 1i64..3];
    let draw = (command(), offset, 0..300u64, prop::bool::weighted(0.05))
        .prop_map(|(command, seq_offset, pass_ms, restart)| Draw { command, seq_offset, pass_ms, restart });
    prop::collection::vec(draw, count)
}

/// Few names, so that they meet.
fn path() -> impl Strategy<Value = Cow<'static, str>> {
    let name = prop::sample::select(vec!["a", "b", "long-enough-to-leave-the-inline-string"]);
    prop::collection::vec(name, 1..4).prop_map(|names| format!("/{}", names.join("/")).into())
}

fn any_path() -> impl Strategy<Value = Cow<'static, str>> {
    prop_oneof![20 => path(), 1 => Just("/".into()), 1 => Just("/zookeeper/quota".into())]
}

fn ann() -> AuthId {
    AuthId { scheme: "digest".into(), id: digest_id("ann", "secret") }
}

fn acl() -> impl Strategy<Value = Vec<AclEntry>> {
    let anns = AclEntry { perms: Perms::ALL, scheme: "digest".into(), id: ann().id };
    prop_oneof![
        20 => Just(vec![]),
        1 => Just(vec![AclEntry::world(Perms::READ)]),
        1 => Just(vec![AclEntry::world(Perms(Perms::ALL.0 & !Perms::DELETE.0))]),
        1 => Just(vec![AclEntry::world(Perms::CREATE), anns]),
    ]
}

fn create() -> impl Strategy<Value = Create<'static>> {
    use CreateMode::*;
    let mode = prop::sample::select(vec![
        Persistent,
        Persistent,
        Ephemeral,
        PersistentSequential,
        EphemeralSequential,
        Container,
        PersistentWithTtl,
        PersistentSequentialWithTtl,
    ]);
    (path(), data(), acl(), mode, 0..500u64, any::<bool>()).prop_map(
        |(path, data, acl, mode, ttl, parents)| {
            let ttl_ms =
                if matches!(mode, PersistentWithTtl | PersistentSequentialWithTtl) { ttl } else { 0 };
            Create { path, data, acl, mode, ttl_ms, parents }
        },
    )
}

fn data() -> impl Strategy<Value = Data<'static>> {
    prop::collection::vec(any::<u8>(), 0..6).prop_map(|data| bytes::Bytes::from(data).into())
}

fn version() -> impl Strategy<Value = i32> {
    prop_oneof![4 => Just(-1), 2 => 0..3i32]
}

fn check() -> impl Strategy<Value = Check<'static>> {
    let kind = prop_oneof![
        version().prop_map(CheckKind::Version),
        (0..40u64).prop_map(CheckKind::Epoch),
        Just(CheckKind::Absent),
    ];
    (any_path(), kind).prop_map(|(path, kind)| Check { path, kind })
}

fn multi_op() -> impl Strategy<Value = MultiOp<'static>> {
    prop_oneof![
        4 => create().prop_map(MultiOp::Create),
        2 => (any_path(), version()).prop_map(|(path, version)| MultiOp::Delete { path, version }),
        2 => (any_path(), data(), version())
            .prop_map(|(path, data, version)| MultiOp::SetData { path, data, version }),
        1 => check().prop_map(MultiOp::Check),
    ]
}

fn write_op() -> impl Strategy<Value = WriteOp<'static>> {
    prop_oneof![
        12 => create().prop_map(WriteOp::Create),
        4 => (any_path(), version()).prop_map(|(path, version)| WriteOp::Delete { path, version }),
        4 => (any_path(), data(), version())
            .prop_map(|(path, data, version)| WriteOp::SetData { path, data, version }),
        2 => (path(), acl(), version()).prop_map(|(path, acl, version)| WriteOp::SetAcl { path, acl, version }),
        4 => prop::collection::vec(multi_op(), 0..4).prop_map(WriteOp::Multi),
        1 => (any_path(), prop::option::of(0..4u64))
            .prop_map(|(path, expected_count)| WriteOp::DeleteTree { path, expected_count }),
        1 => Just(WriteOp::CloseSession),
    ]
}

fn command() -> impl Strategy<Value = Command<'static>> {
    let guards = prop_oneof![6 => Just(vec![]), 1 => prop::collection::vec(check(), 1..3)];
    let auth = prop::bool::weighted(0.3)
        .prop_map(|is_ann| Auth { ip: None, ids: if is_ann { vec![ann()] } else { vec![] } });
    let write = (0..=SESSIONS, 0..4u64, auth, guards, write_op())
        .prop_map(|(session, acked, auth, guards, op)| Write { session, seq: 0, acked, auth, guards, op });
    let write = (write, any::<bool>()).prop_map(|(write, is_bounded)| match is_bounded {
        true => Command::Bounded(write, Bounds::default()),
        false => Command::Write(write),
    });
    let attach = (1..=SESSIONS).prop_map(|session| Command::Attach { session });
    let sweep = (0..300u64).prop_map(|unused_ms| Command::Sweep { candidates: vec![], unused_ms });
    let open = (1..=SESSIONS, 0..2u8).prop_map(|(session, password)| {
        let client_name = format!("client-{session}");
        Command::OpenSession(OpenSession { session, password: [password; 16], timeout_ms: 1000, client_name })
    });
    let end = (1..=SESSIONS).prop_map(|session| {
        let reason = EndReason::Expired { silent_ms: 1000, term: 1, last_node: 1 };
        Command::EndSession { session, reason }
    });
    let expire = Just(Command::ExpireZnodes(vec![]));
    prop_oneof![30 => write, 4 => open, 1 => end, 2 => attach, 1 => expire, 1 => sweep]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// G3, G4, G6, G7 and the data model: answers, events and all that can be read.
    #[test]
    fn the_tree_does_what_the_model_does(draws in draws(1..120)) {
        let mut driver = Driver::default();
        let mut model = Model::new();
        for draw in &draws {
            driver.now_ms += draw.pass_ms;
            let command = draw.resolve(&driver.tree);
            let seen = model.events.len();
            let (zxid, expected) = model.apply(&command, driver.now_ms);
            let applied = driver.apply(command);
            let answer: Answer = applied.result.map_err(|error| (error.kind, error.op_index));
            prop_assert_eq!((applied.zxid, answer), (zxid, expected));
            let events: Vec<(u64, EventKind, String)> =
                applied.events.iter().map(|event| (event.zxid, event.kind, event.path.to_string())).collect();
            prop_assert_eq!(&events, &model.events[seen..]);
            if draw.restart {
                driver.restart();
            }
        }
        compare(&driver.tree, &model)?;
    }
}

fn compare(tree: &Tree, model: &Model) -> Result<(), TestCaseError> {
    let auth = Auth::superuser();
    prop_assert_eq!(tree.znode_count(), model.znodes.len() as u64);
    prop_assert_eq!(
        tree.data_bytes(),
        model.znodes.values().map(|znode| znode.data.len() as u64).sum::<u64>()
    );
    for (path, znode) in &model.znodes {
        prop_assert_eq!(tree.get(path, &auth).unwrap(), (znode.data.clone(), znode.stat), "{}", path);
        prop_assert_eq!(&tree.acl(path, &auth).unwrap().0, &znode.acl);
        let page = tree.children(path, &auth, None, usize::MAX, false).unwrap();
        let names: Vec<String> = page.children.into_iter().map(|child| child.name).collect();
        let children = model.children(path);
        let expected: Vec<&str> = children.iter().map(|child| child.rsplit('/').next().unwrap()).collect();
        prop_assert_eq!(names, expected);
        let below = if path == "/" { "/".to_owned() } else { format!("{path}/") };
        let descendants =
            model.znodes.keys().filter(|other| other.starts_with(&below) && *other != "/").count();
        prop_assert_eq!(tree.descendant_count(path, &auth).unwrap(), descendants as u64);
    }
    let due: Vec<String> = model.znodes.keys().filter(|path| model.is_due(path)).cloned().collect();
    let mut found: Vec<String> =
        tree.expired_znodes(model.time_ms, None, usize::MAX).into_iter().map(|(path, _)| path).collect();
    found.sort();
    prop_assert_eq!(found, due);
    let history: Vec<_> = tree
        .history_since(0)
        .unwrap()
        .map(|event| (event.zxid, event.kind, event.path.to_string()))
        .collect();
    prop_assert_eq!(&history, &model.events);
    for (id, session) in &model.sessions {
        prop_assert_eq!(tree.session(*id).is_some(), session.ended.is_none());
        prop_assert_eq!(tree.ended_session(*id).map(|ended| &ended.reason), session.ended.as_ref());
        let owned = model.znodes.iter().filter(|(_, znode)| znode.stat.ephemeral_owner == *id);
        prop_assert_eq!(tree.ephemerals(*id, "/"), owned.map(|(path, _)| path.clone()).collect::<Vec<_>>());
        for seq in 0..session.last_seq + 2 {
            match (tree.outcome(*id, seq), session.answers.get(&seq)) {
                (WriteOutcome::Applied { zxid, result }, Some(expected)) => {
                    prop_assert_eq!(&(zxid, result.map_err(|error| (error.kind, error.op_index))), expected);
                }
                (fate, _) => prop_assert_eq!(fate, model.outcome(*id, seq)),
            }
        }
    }
    Ok(())
}
