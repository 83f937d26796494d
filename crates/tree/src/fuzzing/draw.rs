//! Commands out of a fuzzer's bytes: most fit the tree as it is, so that what is refused is the exception.

use arbitrary::{Result, Unstructured};
use bytes::Bytes;

use crate::{
    Acl, AclEntry, Auth, AuthId, Batch, Bounds, Ceilings, Check, CheckKind, Command, Create, CreateMode,
    Data, Detail, EndReason, Entry, ErrorKind, LimitName, MultiOp, OpError, OpenSession, Origin, Perms,
    Quota, RULES, Refusal, Tree, Write, WriteOp, digest_id,
};

/// The term in which everything is applied.
pub(super) const TERM: u64 = 1;
const SESSIONS: u64 = 4;
/// Few, so that they meet; one is too long to be kept in place.
const NAMES: [&str; 4] = ["a", "b", "zz", "long-enough-to-leave-the-inline-string"];
const ODD_PATHS: [&str; 8] =
    ["/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config", "", "/a/", "/a//b", "/a\0"];

/// Where a sequence of entries has got to.
#[derive(Default)]
pub(super) struct Drawn {
    entries: u64,
    now_ms: u64,
    /// Of two nodes: the number of the last command and the incarnation.
    origins: [(u64, u64); 2],
    snapshot: bool,
}

impl Drawn {
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    pub(super) fn is_snapshot_due(&self) -> bool {
        self.snapshot
    }

    /// The next entry, for `tree` as it is. An error when the bytes are used up.
    pub(super) fn entry(&mut self, from: &mut Unstructured<'_>, tree: &Tree) -> Result<Entry<'static>> {
        if from.is_empty() {
            return Err(arbitrary::Error::NotEnoughData);
        }
        self.entries += 1;
        self.snapshot = from.ratio(1, 8)?;
        self.now_ms = match from.int_in_range(0..=15u8)? {
            // Ended sessions are forgotten after an hour; clocks jump, also to where they never get.
            0 => self.now_ms.saturating_add(3_600_000),
            1 => from.arbitrary()?,
            steps => self.now_ms.saturating_add(u64::from(steps) * 20),
        };
        let batches =
            (0..from.int_in_range(1..=2)?).map(|_| self.batch(from, tree)).collect::<Result<_>>()?;
        let rules = if from.ratio(1, 4)? { 1 } else { RULES };
        Ok(Entry { rules, time_ms: self.now_ms, batches })
    }

    fn batch(&mut self, from: &mut Unstructured<'_>, tree: &Tree) -> Result<Batch<'static>> {
        let node = from.int_in_range(0..=1usize)?;
        let (last_seq, incarnation) = &mut self.origins[node];
        if from.ratio(1, 32)? {
            (*last_seq, *incarnation) = (0, incarnation.saturating_add(1));
        }
        let first_seq = match from.int_in_range(0..=31u8)? {
            // Too early, or once more.
            0 => last_seq.saturating_add(2),
            1 => *last_seq,
            _ => *last_seq + 1,
        };
        let commands: Vec<Command> =
            (0..from.int_in_range(1..=3)?).map(|_| command(from, tree)).collect::<Result<_>>()?;
        if first_seq <= *last_seq + 1 {
            *last_seq = (*last_seq).max(first_seq + commands.len() as u64 - 1);
        }
        let origin = Origin { node: node as u64 + 1, incarnation: *incarnation };
        Ok(Batch { origin, first_seq, commands })
    }
}

fn command(from: &mut Unstructured<'_>, tree: &Tree) -> Result<Command<'static>> {
    Ok(match from.int_in_range(0..=31u8)? {
        0..=3 => {
            let session = from.int_in_range(0..=SESSIONS)?;
            let (password, client_name) = ([from.int_in_range(0..=1)?; 16], format!("client-{session}"));
            Command::OpenSession(OpenSession { session, password, timeout_ms: 1000, client_name })
        }
        4 => {
            let session = from.int_in_range(0..=SESSIONS)?;
            let term = if from.ratio(1, 4)? { 0 } else { TERM };
            let reason = match from.int_in_range(0..=2u8)? {
                0 => EndReason::Closed,
                1 => EndReason::Killed { by: "an operator".into() },
                _ => EndReason::Expired { silent_ms: from.arbitrary()?, term, last_node: 1 },
            };
            Command::EndSession { session, reason }
        }
        5 => {
            let unused_ms = from.arbitrary::<bool>()?.then_some(from.int_in_range(0..=500)?);
            let now_ms = tree.time_ms().saturating_add(from.arbitrary()?);
            let mut candidates = tree.expired_znodes(now_ms, unused_ms, 3);
            if from.ratio(1, 4)? {
                candidates.push((path(from)?, from.int_in_range(0..=40)?));
            }
            match unused_ms {
                Some(unused_ms) => Command::Sweep { candidates, unused_ms },
                None => Command::ExpireZnodes(candidates),
            }
        }
        6 => Command::Attach { session: from.int_in_range(0..=SESSIONS)? },
        7..=24 => Command::Bounded(write(from, tree)?, bounds(from, tree)?),
        _ => Command::Write(write(from, tree)?),
    })
}

fn bounds(from: &mut Unstructured<'_>, tree: &Tree) -> Result<Bounds> {
    let generation = match from.int_in_range(0..=3u8)? {
        0 => 0,
        1 => from.int_in_range(0..=tree.last_zxid())?,
        _ => tree.last_zxid(),
    };
    let mut few = || from.int_in_range(0..=6u32);
    let ceilings = Ceilings {
        tree_znodes: few()?,
        removed_event_bytes: few()? * 100,
        ephemerals: few()?,
        quotas: few()?,
        acl_bytes: few()? * 200,
    };
    Ok(Bounds { generation, ceilings: from.ratio(1, 2)?.then_some(ceilings) })
}

fn write(from: &mut Unstructured<'_>, tree: &Tree) -> Result<Write<'static>> {
    let session = from.int_in_range(0..=SESSIONS)?;
    let last = tree.session(session).map_or(0, |session| session.last_seq());
    let seq = match (session, from.int_in_range(0..=15u8)?) {
        (0, 0) => 1,
        (0, _) | (_, 0) => 0,
        (_, 1) => last,
        (_, 2) => last.saturating_sub(from.int_in_range(0..=3)?),
        (_, 3) => from.arbitrary()?,
        _ => last + 1,
    };
    let acked = match from.int_in_range(0..=7u8)? {
        0 => from.arbitrary()?,
        unanswered => last.saturating_sub(unanswered.into()),
    };
    let ids = if from.ratio(1, 4)? { vec![ann()] } else { vec![] };
    let auth = match from.ratio(1, 16)? {
        true => Auth::superuser(),
        false => Auth { ip: from.ratio(1, 4)?.then(|| [10, 0, 0, 1].into()), ids },
    };
    let guards =
        (0..from.int_in_range(0..=9u8)?.saturating_sub(7)).map(|_| check(from)).collect::<Result<_>>()?;
    Ok(Write { session, seq, acked, auth, guards, op: write_op(from)? })
}

fn write_op(from: &mut Unstructured<'_>) -> Result<WriteOp<'static>> {
    Ok(match from.int_in_range(0..=31u8)? {
        0..=4 => WriteOp::Delete { path: path(from)?.into(), version: version(from)? },
        5..=9 => WriteOp::SetData { path: path(from)?.into(), data: data(from)?, version: version(from)? },
        10..=11 => WriteOp::SetAcl { path: path(from)?.into(), acl: acl(from)?, version: version(from)? },
        12..=15 => {
            let ops = (0..from.int_in_range(0..=4u8)?).map(|_| multi_op(from));
            WriteOp::Multi(ops.collect::<Result<_>>()?)
        }
        16 => WriteOp::DeleteTree {
            path: path(from)?.into(),
            expected_count: from.arbitrary::<bool>()?.then_some(from.int_in_range(0..=4)?),
        },
        17..=18 => WriteOp::SetQuota { path: path(from)?.into(), quota: quota(from)? },
        19 => WriteOp::DeleteQuota { path: path(from)?.into() },
        20 => WriteOp::CloseSession,
        22 => {
            let detail = Detail::Limit { limit: LimitName::Depth, max: 4, actual: from.arbitrary()? };
            WriteOp::RefusedWith(OpError::new(ErrorKind::BadArguments, path(from)?, detail))
        }
        21 => WriteOp::Refused(refused_at_the_door(path(from)?)),
        _ => WriteOp::Create(create(from)?),
    })
}

fn refused_at_the_door(path: String) -> Refusal {
    Refusal { kind: ErrorKind::BadArguments, path, op_index: None, message: "refused at the door".into() }
}

fn multi_op(from: &mut Unstructured<'_>) -> Result<MultiOp<'static>> {
    Ok(match from.int_in_range(0..=7u8)? {
        0 => MultiOp::Check(check(from)?),
        1..=2 => MultiOp::Delete { path: path(from)?.into(), version: version(from)? },
        3..=4 => MultiOp::SetData { path: path(from)?.into(), data: data(from)?, version: version(from)? },
        _ => MultiOp::Create(create(from)?),
    })
}

fn create(from: &mut Unstructured<'_>) -> Result<Create<'static>> {
    use CreateMode::*;
    let mode = *from.choose(&[
        Persistent,
        Persistent,
        Ephemeral,
        PersistentSequential,
        EphemeralSequential,
        Container,
        PersistentWithTtl,
        PersistentSequentialWithTtl,
    ])?;
    let has_ttl = matches!(mode, PersistentWithTtl | PersistentSequentialWithTtl);
    let ttl_ms = match from.ratio(1, 16)? {
        true => from.arbitrary()?,
        false if has_ttl => from.int_in_range(1..=500)?,
        false => 0,
    };
    let acl = if from.ratio(3, 4)? { vec![] } else { acl(from)? };
    Ok(Create { path: path(from)?.into(), data: data(from)?, acl, mode, ttl_ms, parents: from.arbitrary()? })
}

fn path(from: &mut Unstructured<'_>) -> Result<String> {
    if from.ratio(1, 16)? {
        return Ok((*from.choose(&ODD_PATHS)?).to_owned());
    }
    let mut path = String::new();
    for _ in 0..from.int_in_range(1..=3)? {
        path.push('/');
        path.push_str(from.choose(&NAMES)?);
    }
    Ok(path)
}

fn data(from: &mut Unstructured<'_>) -> Result<Data<'static>> {
    let length = from.int_in_range(0..=5)?;
    Ok(Bytes::copy_from_slice(from.bytes(length)?).into())
}

fn version(from: &mut Unstructured<'_>) -> Result<i32> {
    Ok(match from.int_in_range(0..=7u8)? {
        0 => from.arbitrary()?,
        version @ 1..=3 => i32::from(version) - 1,
        _ => -1,
    })
}

fn check(from: &mut Unstructured<'_>) -> Result<Check<'static>> {
    let kind = match from.int_in_range(0..=2u8)? {
        0 => CheckKind::Version(version(from)?),
        1 => CheckKind::Epoch(from.int_in_range(0..=40)?),
        _ => CheckKind::Absent,
    };
    Ok(Check { path: path(from)?.into(), kind })
}

fn quota(from: &mut Unstructured<'_>) -> Result<Quota> {
    let mut limit = || -> Result<Option<u64>> {
        Ok(match from.int_in_range(0..=3u8)? {
            0 | 1 => None,
            2 => Some(from.int_in_range(0..=12)?),
            _ => Some(from.arbitrary()?),
        })
    };
    Ok(Quota { count_soft: limit()?, count_hard: limit()?, bytes_soft: limit()?, bytes_hard: limit()? })
}

fn ann() -> AuthId {
    AuthId { scheme: "digest".into(), id: digest_id("ann", "secret") }
}

fn acl(from: &mut Unstructured<'_>) -> Result<Acl> {
    let entry = |scheme: &str, id: &str, perms| AclEntry { perms, scheme: scheme.into(), id: id.into() };
    let one = |from: &mut Unstructured<'_>| -> Result<AclEntry> {
        let perms = if from.ratio(1, 2)? { Perms::ALL } else { Perms(from.arbitrary()?) };
        Ok(match from.int_in_range(0..=5u8)? {
            0..=1 => entry("world", "anyone", perms),
            2 => entry("digest", &ann().id, perms),
            3 => entry("auth", "", perms),
            4 => {
                let id = *from.choose(&["10.0.0.0/8", "10.0.0.1", "::/0", "0.0.0.0/0", "::1/129", "10/8"])?;
                entry("ip", id, perms)
            }
            _ => entry("other", "anyone", perms),
        })
    };
    (0..from.int_in_range(0..=3u8)?).map(|_| one(from)).collect()
}

/// Commands that all succeed on a new tree and leave some of everything.
pub(super) fn furniture() -> Vec<Command<'static>> {
    let open = |session| {
        let client_name = format!("client-{session}");
        Command::OpenSession(OpenSession { session, password: [7; 16], timeout_ms: 1000, client_name })
    };
    let write = |session, seq, op| {
        let auth = Auth { ip: Some([10, 0, 0, 1].into()), ids: vec![ann()] };
        Command::Write(Write { session, seq, acked: 0, auth, guards: vec![], op })
    };
    let create = |path: &str, mode, ttl_ms| {
        let anns = AclEntry { perms: Perms::ALL, scheme: "auth".into(), id: String::new() };
        let acl = vec![AclEntry::world(Perms::ALL), anns];
        let (path, data) = (path.to_owned().into(), Data::Borrowed(b"value"));
        Create { path, data, acl, mode, ttl_ms, parents: true }
    };
    let quota =
        Quota { count_soft: Some(2), count_hard: Some(100), bytes_soft: None, bytes_hard: Some(1000) };
    let multi = vec![
        MultiOp::Check(Check { path: "/a".into(), kind: CheckKind::Version(-1) }),
        MultiOp::Create(create("/a/zz-", CreateMode::PersistentSequential, 0)),
        MultiOp::SetData { path: "/a".into(), data: Data::Borrowed(b"other"), version: 0 },
        MultiOp::Delete { path: "/a/b/gone".into(), version: -1 },
    ];
    vec![
        open(1),
        open(2),
        write(1, 1, WriteOp::Create(create("/a/b/gone", CreateMode::Persistent, 0))),
        write(1, 2, WriteOp::SetQuota { path: "/a".into(), quota }),
        write(1, 3, WriteOp::Multi(multi)),
        write(1, 4, WriteOp::Create(create("/a/mine-", CreateMode::EphemeralSequential, 0))),
        write(2, 1, WriteOp::Create(create("/a/theirs", CreateMode::Ephemeral, 0))),
        write(0, 0, WriteOp::Create(create("/c", CreateMode::Container, 0))),
        write(0, 0, WriteOp::Create(create("/t", CreateMode::PersistentWithTtl, 300))),
        Command::EndSession { session: 2, reason: EndReason::Killed { by: "an operator".into() } },
    ]
}

/// Commands that go to every corner of a tree that has been loaded.
pub(super) fn tour(tree: &Tree) -> Vec<Command<'static>> {
    let write = |op| {
        let auth = Auth::superuser();
        Command::Write(Write { session: 0, seq: 0, acked: 0, auth, guards: vec![], op })
    };
    let create = |path: &str| {
        let (path, data) = (path.to_owned().into(), Data::Borrowed(b"x"));
        let mode = CreateMode::PersistentSequential;
        WriteOp::Create(Create { path, data, acl: vec![], mode, ttl_ms: 0, parents: true })
    };
    let mut commands = vec![
        Command::ExpireZnodes(tree.expired_znodes(u64::MAX, None, 16)),
        Command::Sweep { candidates: tree.expired_znodes(u64::MAX, Some(0), 16), unused_ms: 0 },
        write(create("/")),
        write(create("/a/b/n-")),
        write(WriteOp::SetData { path: "/a".into(), data: Data::Borrowed(b"new"), version: -1 }),
        write(WriteOp::SetAcl { path: "/a".into(), acl: vec![AclEntry::world(Perms::READ)], version: -1 }),
    ];
    for session in tree.sessions().take(16) {
        let (auth, guards) = (Auth::default(), vec![]);
        let (session, seq) = (session.id(), session.last_seq() + 1);
        let op = WriteOp::Delete { path: "/a/mine-0000000002".into(), version: -1 };
        let write = Write { session, seq, acked: seq - 1, auth, guards, op };
        let generation = tree.session(session).map_or(0, |session| session.generation());
        commands.push(Command::Bounded(write, Bounds { generation, ceilings: None }));
        commands.push(Command::Attach { session });
        commands.push(Command::EndSession { session, reason: EndReason::Closed });
    }
    commands.push(write(WriteOp::DeleteTree { path: "/a".into(), expected_count: None }));
    commands
}
