//! What the tree must do, said as simply as possible: maps from strings, linear searches, whole copies. It shares
//! no code with the tree but the vocabulary.

use std::collections::BTreeMap;

use bytes::Bytes;
use coordd_tree::{
    Acl, AclEntry, Auth, Check, CheckKind, Command, Create, CreateMode, EndReason, ErrorKind, EventKind,
    MultiOp, Outcome, Perms, Stat, Write, WriteOp, WriteOutcome,
};

pub(crate) type Answer = Result<Outcome, (ErrorKind, Option<u32>)>;
type Done = Result<Outcome, ErrorKind>;

#[derive(Clone, Debug)]
pub(crate) struct ModelZnode {
    pub(crate) data: Bytes,
    pub(crate) stat: Stat,
    pub(crate) acl: Acl,
    creates: u64,
    mode: CreateMode,
    ttl_ms: u64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct ModelSession {
    password: [u8; 16],
    opened_zxid: u64,
    attached_zxid: u64,
    pub(crate) last_seq: u64,
    pub(crate) acked: u64,
    pub(crate) answers: BTreeMap<u64, (u64, Answer)>,
    pub(crate) ended: Option<EndReason>,
}

#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) zxid: u64,
    pub(crate) time_ms: u64,
    pub(crate) znodes: BTreeMap<String, ModelZnode>,
    pub(crate) sessions: BTreeMap<u64, ModelSession>,
    pub(crate) events: Vec<(u64, EventKind, String)>,
}

fn open_acl() -> Acl {
    vec![AclEntry::world(Perms::ALL)]
}

fn parent_of(path: &str) -> String {
    match path.rsplit_once('/') {
        Some(("", _)) => "/".to_owned(),
        Some((parent, _)) => parent.to_owned(),
        None => String::new(),
    }
}

impl Model {
    pub(crate) fn new() -> Model {
        let mut model =
            Model { zxid: 0, time_ms: 0, znodes: BTreeMap::new(), sessions: BTreeMap::new(), events: vec![] };
        for (path, children) in
            [("/", 1), ("/zookeeper", 2), ("/zookeeper/quota", 0), ("/zookeeper/config", 0)]
        {
            let mut znode = model.znode(CreateMode::Persistent, 0, 0, open_acl(), Bytes::new());
            znode.stat.num_children = children;
            znode.stat.cversion = -(children as i32);
            if path == "/zookeeper/config" {
                znode.acl = vec![AclEntry::world(Perms::READ)];
            }
            model.znodes.insert(path.to_owned(), znode);
        }
        model
    }

    /// Applies a command that was taken, and says at which zxid it has its answer.
    pub(crate) fn apply(&mut self, command: &Command, now_ms: u64) -> (u64, Answer) {
        self.zxid += 1;
        self.time_ms = self.time_ms.max(now_ms);
        let (zxid, answer) = match command {
            Command::Write(write) => return self.write(write, 0),
            Command::Bounded(write, bounds) => return self.write(write, bounds.generation),
            Command::Attach { session } => match self.sessions.get_mut(session) {
                Some(ModelSession { ended: Some(_), .. }) => (self.zxid, Err(ErrorKind::SessionExpired)),
                Some(live) => {
                    live.attached_zxid = self.zxid;
                    (self.zxid, Ok(Outcome::SessionAttached))
                }
                None => (self.zxid, Err(ErrorKind::NoSession)),
            },
            Command::Sweep { candidates, unused_ms } => {
                (self.zxid, Ok(self.expire(candidates, Some(*unused_ms))))
            }
            Command::OpenSession(opening) => match self.sessions.get(&opening.session) {
                Some(ModelSession { ended: Some(_), .. }) => (self.zxid, Err(ErrorKind::SessionExpired)),
                Some(live) if live.password == opening.password => {
                    (live.opened_zxid, Ok(Outcome::SessionOpened))
                }
                Some(_) => (self.zxid, Err(ErrorKind::SessionExpired)),
                None => {
                    let (password, opened_zxid) = (opening.password, self.zxid);
                    let session = ModelSession { password, opened_zxid, ..ModelSession::default() };
                    self.sessions.insert(opening.session, session);
                    (self.zxid, Ok(Outcome::SessionOpened))
                }
            },
            Command::EndSession { session, reason } => (self.zxid, self.end(*session, reason.clone())),
            Command::ExpireZnodes(candidates) => (self.zxid, Ok(self.expire(candidates, None))),
        };
        (zxid, answer.map_err(|kind| (kind, None)))
    }

    fn expire(&mut self, candidates: &[(String, u64)], unused_ms: Option<u64>) -> Outcome {
        let mut count = 0;
        for (path, czxid) in candidates {
            let is_due = self.is_due(path) || unused_ms.is_some_and(|unused| self.is_unused(path, unused));
            if is_due && self.znodes[path].stat.czxid == *czxid {
                self.remove(path);
                count += 1;
            }
        }
        Outcome::ZnodesExpired(count)
    }

    /// A container that is so old and never had a child.
    fn is_unused(&self, path: &str, unused_ms: u64) -> bool {
        let Some(znode) = self.znodes.get(path) else { return false };
        let is_unused = znode.mode == CreateMode::Container && znode.creates == 0;
        is_unused && znode.stat.ctime + unused_ms <= self.time_ms
    }

    pub(crate) fn is_due(&self, path: &str) -> bool {
        let Some(znode) = self.znodes.get(path) else { return false };
        let is_ttl =
            matches!(znode.mode, CreateMode::PersistentWithTtl | CreateMode::PersistentSequentialWithTtl);
        let is_container = znode.mode == CreateMode::Container;
        znode.stat.num_children == 0
            && (is_ttl && znode.stat.mtime + znode.ttl_ms <= self.time_ms
                || is_container && znode.creates > 0)
    }

    pub(crate) fn outcome(&self, session: u64, seq: u64) -> WriteOutcome {
        let Some(session) = self.sessions.get(&session) else { return WriteOutcome::Unknown };
        match () {
            () if seq == 0 => WriteOutcome::Unknown,
            () if seq <= session.acked => WriteOutcome::Acknowledged,
            () if seq <= session.last_seq => WriteOutcome::NotYet, // The caller compares `answers` instead.
            () if session.ended.is_some() => WriteOutcome::Never,
            () => WriteOutcome::NotYet,
        }
    }

    fn write(&mut self, write: &Write, generation: u64) -> (u64, Answer) {
        let refuse = |zxid, kind| (zxid, Err((kind, None)));
        if write.session == 0 {
            return (self.zxid, self.execute(write));
        }
        let Some(session) = self.sessions.get_mut(&write.session) else {
            return refuse(self.zxid, ErrorKind::NoSession);
        };
        if session.ended.is_some() {
            return refuse(self.zxid, ErrorKind::SessionExpired);
        }
        if generation != 0 && generation < session.attached_zxid.max(session.opened_zxid) {
            return refuse(self.zxid, ErrorKind::SessionMoved);
        }
        if write.seq == 0 {
            return (self.zxid, self.execute(write));
        }
        if write.seq > session.last_seq + 1 {
            return refuse(self.zxid, ErrorKind::SequenceGap);
        }
        session.acked = session.acked.max(write.acked.min(session.last_seq));
        let acked = session.acked;
        session.answers.retain(|seq, _| *seq > acked);
        if write.seq <= session.last_seq {
            let kept = session.answers.get(&write.seq).cloned();
            return kept.unwrap_or(refuse(self.zxid, ErrorKind::BadArguments));
        }
        let answer = self.execute(write);
        let zxid = self.zxid;
        let session = self.sessions.get_mut(&write.session).unwrap();
        session.last_seq = write.seq;
        session.answers.insert(write.seq, (zxid, answer.clone()));
        (zxid, answer)
    }

    fn execute(&mut self, write: &Write) -> Answer {
        let plain = |kind| (kind, None);
        for guard in &write.guards {
            self.check(guard, None).map_err(|_| plain(ErrorKind::GuardFailed))?;
        }
        let (session, auth) = (write.session, &write.auth);
        match &write.op {
            WriteOp::Create(op) => self.create(session, auth, op),
            WriteOp::Delete { path, version } => self.delete(auth, path, *version),
            WriteOp::SetData { path, data, version } => self.set_data(auth, path, data, *version),
            WriteOp::SetAcl { path, acl, version } => self.set_acl(auth, path, acl, *version),
            WriteOp::DeleteTree { path, expected_count } => self.delete_tree(auth, path, *expected_count),
            WriteOp::CloseSession if session == 0 => Err(ErrorKind::BadArguments),
            WriteOp::CloseSession => self.end(session, EndReason::Closed),
            WriteOp::Refused(refusal) => Err(refusal.kind),
            WriteOp::RefusedWith(refusal) => Err(refusal.kind),
            WriteOp::Multi(ops) if ops.is_empty() => Err(ErrorKind::BadArguments),
            WriteOp::Multi(ops) => {
                let before = self.clone();
                let mut outcomes = vec![];
                for (index, op) in ops.iter().enumerate() {
                    let done = match op {
                        MultiOp::Create(op) => self.create(session, auth, op),
                        MultiOp::Delete { path, version } => self.delete(auth, path, *version),
                        MultiOp::SetData { path, data, version } => self.set_data(auth, path, data, *version),
                        MultiOp::Check(check) => self.check(check, Some(auth)).map(|()| Outcome::Checked),
                    };
                    match done {
                        Ok(outcome) => outcomes.push(outcome),
                        Err(kind) => {
                            *self = before;
                            return Err((kind, Some(index as u32)));
                        }
                    }
                }
                Ok(Outcome::Multi(outcomes))
            }
            WriteOp::SetQuota { .. } | WriteOp::DeleteQuota { .. } => panic!("the model knows no quotas"),
        }
        .map_err(plain)
    }

    fn create(&mut self, session: u64, auth: &Auth, op: &Create) -> Done {
        use CreateMode::*;
        let is_ephemeral = matches!(op.mode, Ephemeral | EphemeralSequential);
        let is_ttl = matches!(op.mode, PersistentWithTtl | PersistentSequentialWithTtl);
        if (is_ttl != (op.ttl_ms > 0)) || is_ephemeral && session == 0 {
            return Err(ErrorKind::BadArguments);
        }
        let acl = if op.acl.is_empty() { open_acl() } else { op.acl.clone() };
        let parent = parent_of(&op.path);
        let mut missing = vec![];
        let mut base = parent.clone();
        while !self.znodes.contains_key(&base) {
            missing.insert(0, base.clone());
            base = parent_of(&base);
        }
        if !missing.is_empty() && !op.parents {
            return Err(ErrorKind::NoNode);
        }
        self.permit(auth, &base, Perms::CREATE)?;
        let number = if missing.is_empty() { self.znodes[&base].creates } else { 0 };
        let path = match op.mode {
            PersistentSequential | EphemeralSequential | PersistentSequentialWithTtl => {
                format!("{}{number:010}", op.path)
            }
            Persistent | Ephemeral | Container | PersistentWithTtl => op.path.to_string(),
        };
        if self.znodes.contains_key(&path) {
            return Err(ErrorKind::NodeExists);
        }
        if self.znodes[&base].stat.ephemeral_owner != 0 {
            return Err(ErrorKind::NoChildrenForEphemerals);
        }
        for path in missing {
            let znode = self.znode(Persistent, 0, 0, acl.clone(), Bytes::new());
            self.insert(&path, znode);
        }
        let owner = if is_ephemeral { session } else { 0 };
        let znode = self.znode(op.mode, op.ttl_ms, owner, acl, Bytes::copy_from_slice(&op.data));
        let stat = znode.stat;
        self.insert(&path, znode);
        Ok(Outcome::Created { path, stat })
    }

    fn delete(&mut self, auth: &Auth, path: &str, version: i32) -> Done {
        if path == "/" || path.starts_with("/zookeeper") {
            return Err(ErrorKind::BadArguments);
        }
        self.permit(auth, &parent_of(path), Perms::DELETE)?;
        let znode = self.znodes.get(path).ok_or(ErrorKind::NoNode)?;
        if version != -1 && version != znode.stat.version {
            return Err(ErrorKind::BadVersion);
        }
        if znode.stat.num_children > 0 {
            return Err(ErrorKind::NotEmpty);
        }
        self.remove(path);
        Ok(Outcome::Deleted)
    }

    fn set_data(&mut self, auth: &Auth, path: &str, data: &[u8], version: i32) -> Done {
        self.permit(auth, path, Perms::WRITE)?;
        let (zxid, time_ms) = (self.zxid, self.time_ms);
        let znode = self.znodes.get_mut(path).ok_or(ErrorKind::NoNode)?;
        if version != -1 && version != znode.stat.version {
            return Err(ErrorKind::BadVersion);
        }
        znode.data = Bytes::copy_from_slice(data);
        let stat = &mut znode.stat;
        (stat.version, stat.mzxid, stat.mtime) = (stat.version + 1, zxid, time_ms);
        stat.data_length = data.len() as u32;
        self.events.push((zxid, EventKind::DataChanged, path.to_owned()));
        Ok(Outcome::DataSet(znode.stat))
    }

    fn set_acl(&mut self, auth: &Auth, path: &str, acl: &Acl, version: i32) -> Done {
        if acl.is_empty() {
            return Err(ErrorKind::InvalidAcl);
        }
        self.permit(auth, path, Perms::ADMIN)?;
        let znode = self.znodes.get_mut(path).ok_or(ErrorKind::NoNode)?;
        if version != -1 && version != znode.stat.aversion {
            return Err(ErrorKind::BadVersion);
        }
        znode.acl = acl.clone();
        znode.stat.aversion += 1;
        Ok(Outcome::AclSet(znode.stat))
    }

    fn delete_tree(&mut self, auth: &Auth, path: &str, expected: Option<u64>) -> Done {
        if path == "/" || path.starts_with("/zookeeper") {
            return Err(ErrorKind::BadArguments);
        }
        self.permit(auth, &parent_of(path), Perms::DELETE)?;
        if !self.znodes.contains_key(path) {
            return Err(ErrorKind::NoNode);
        }
        let mut doomed = vec![];
        self.collect(path, &mut doomed);
        if expected.is_some_and(|expected| expected != doomed.len() as u64) {
            return Err(ErrorKind::CountMismatch);
        }
        for path in &doomed {
            if self.znodes[path].stat.num_children > 0 {
                self.permit(auth, path, Perms::DELETE)?;
            }
        }
        doomed.iter().for_each(|path| self.remove(path));
        Ok(Outcome::TreeDeleted(doomed.len() as u64))
    }

    fn check(&self, check: &Check, auth: Option<&Auth>) -> Result<(), ErrorKind> {
        let znode = self.znodes.get(&*check.path);
        if let (Some(auth), Some(_), false) = (auth, znode, check.kind == CheckKind::Absent) {
            self.permit(auth, &check.path, Perms::READ)?;
        }
        match (check.kind, znode) {
            (CheckKind::Version(_), None) => Err(ErrorKind::NoNode),
            (CheckKind::Version(v), Some(z)) if v != -1 && v != z.stat.version => Err(ErrorKind::BadVersion),
            (CheckKind::Epoch(epoch), znode) if znode.is_none_or(|z| z.stat.czxid != epoch) => {
                Err(ErrorKind::BadEpoch)
            }
            (CheckKind::Absent, Some(_)) => Err(ErrorKind::NodeExists),
            (CheckKind::Version(_) | CheckKind::Epoch(_) | CheckKind::Absent, _) => Ok(()),
        }
    }

    fn end(&mut self, id: u64, reason: EndReason) -> Done {
        let session = self.sessions.get_mut(&id).filter(|session| session.ended.is_none());
        session.ok_or(ErrorKind::NoSession)?.ended = Some(reason);
        let own =
            |(path, znode): (&String, &ModelZnode)| (znode.stat.ephemeral_owner == id).then(|| path.clone());
        let paths: Vec<String> = self.znodes.iter().filter_map(own).collect();
        paths.iter().for_each(|path| self.remove(path));
        Ok(Outcome::SessionEnded(paths.len() as u64))
    }

    fn permit(&self, auth: &Auth, path: &str, wanted: Perms) -> Result<(), ErrorKind> {
        let znode = self.znodes.get(path).ok_or(ErrorKind::NoNode)?;
        let is_allowed = znode.acl.iter().any(|entry| {
            let is_me = entry.scheme == "world" || auth.ids.iter().any(|id| id.id == entry.id);
            is_me && entry.perms.contains(wanted)
        });
        if is_allowed { Ok(()) } else { Err(ErrorKind::NoAuth) }
    }

    /// `path` and what is below it, children before their parents.
    fn collect(&self, path: &str, into: &mut Vec<String>) {
        for child in self.children(path) {
            self.collect(&child, into);
        }
        into.push(path.to_owned());
    }

    pub(crate) fn children(&self, path: &str) -> Vec<String> {
        self.znodes.keys().filter(|child| *child != "/" && parent_of(child) == path).cloned().collect()
    }

    fn znode(&self, mode: CreateMode, ttl_ms: u64, owner: u64, acl: Acl, data: Bytes) -> ModelZnode {
        let stat = Stat {
            czxid: self.zxid,
            mzxid: self.zxid,
            pzxid: self.zxid,
            ctime: self.time_ms,
            mtime: self.time_ms,
            ephemeral_owner: owner,
            data_length: data.len() as u32,
            ..Stat::default()
        };
        ModelZnode { data, stat, acl, creates: 0, mode, ttl_ms }
    }

    fn insert(&mut self, path: &str, znode: ModelZnode) {
        let parent = self.znodes.get_mut(&parent_of(path)).unwrap();
        parent.creates += 1;
        parent.stat.cversion += 1;
        parent.stat.num_children += 1;
        parent.stat.pzxid = self.zxid;
        self.znodes.insert(path.to_owned(), znode);
        self.events.push((self.zxid, EventKind::Created, path.to_owned()));
    }

    fn remove(&mut self, path: &str) {
        self.znodes.remove(path);
        let parent = self.znodes.get_mut(&parent_of(path)).unwrap();
        parent.stat.cversion += 1;
        parent.stat.num_children -= 1;
        parent.stat.pzxid = self.zxid;
        self.events.push((self.zxid, EventKind::Deleted, path.to_owned()));
    }
}
