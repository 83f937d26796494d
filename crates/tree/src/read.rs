use bytes::Bytes;

use crate::acl::mask;
use crate::path::{join, validate_path};
use crate::znode::Znode;
use crate::znodes::Place;
use crate::{
    Acl, Auth, Detail, EndedSession, ErrorKind, Event, OpError, OpResult, Perms, QuotaReport, Session,
    SessionId, Stat, Tree, WriteOutcome, WriteSeq, Zxid,
};

/// One page of a znode's children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildrenPage {
    /// Of the parent.
    pub stat: Stat,
    /// In the order of their names' bytes.
    pub children: Vec<Child>,
    /// Whether there are further ones after the last of these.
    pub more: bool,
}

/// One child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// Its name, without the parent's path.
    pub name: String,
    /// Where it was asked for.
    pub stat: Option<Stat>,
}

/// How much there is in each table beside the znodes that a client can make grow. Each has a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableSizes {
    /// Distinct ACLs; at most [`crate::Ceilings::acl_bytes`] of them. An ACL goes with the last znode and event that has it.
    pub acls: u64,
    /// Their bytes.
    pub acl_bytes: u64,
    /// Quotas, at most [`crate::Ceilings::quotas`]; they stay until they are deleted.
    pub quotas: u64,
    /// Live sessions; the nodes bound them.
    pub sessions: u64,
    /// Ended sessions that are remembered: for an hour, and at most 100,000 of 64 MiB.
    pub ended_sessions: u64,
    /// Their bytes.
    pub ended_session_bytes: u64,
    /// Answers of live sessions that are kept until they are acknowledged: at most 16,384 of 16 MiB a session.
    pub recorded_answers: u64,
    /// Their bytes.
    pub recorded_answer_bytes: u64,
    /// Nodes that ever proposed something.
    pub origins: u64,
    /// Events of the recent past: at most 8 MiB.
    pub history_events: u64,
    /// Their bytes.
    pub history_bytes: u64,
}

/// # Reads
///
/// They show the state as of [`Tree::last_zxid`]. Errors of all of them: `BadArguments` for a path that is not
/// valid, `NoNode`, and `NoAuth` where the znode's ACL does not allow `auth` to read.
impl Tree {
    /// A znode's data and stat. The data are shared, not copied. Needs `READ`.
    pub fn get(&self, path: &str, auth: &Auth) -> Result<(Bytes, Stat), OpError> {
        let znode = self.find(path)?.znode;
        self.permit(path, znode.acl, Perms::READ, auth)?;
        let data = if znode.data.is_empty() { Bytes::new() } else { Bytes::from_owner(znode.data.clone()) };
        Ok((data, znode.stat()))
    }

    /// A znode's stat, `None` where there is no such znode. As in ZooKeeper it needs no permission.
    ///
    /// # Errors
    ///
    /// `BadArguments` only.
    pub fn exists(&self, path: &str) -> Result<Option<Stat>, OpError> {
        validate_path(path)?;
        Ok(self.znodes.locate(path).map(|place| place.znode.stat()))
    }

    /// Up to `limit` children, in the order of their names' bytes, from the first one after the name `after` on.
    /// The stats of the children come along where asked for; they need no permission on the children. Needs `READ`.
    pub fn children(
        &self,
        path: &str,
        auth: &Auth,
        after: Option<&str>,
        limit: usize,
        with_stat: bool,
    ) -> Result<ChildrenPage, OpError> {
        let parent = self.find(path)?.znode;
        self.permit(path, parent.acl, Perms::READ, auth)?;
        let mut rest = self.znodes.children(parent, after);
        let children = rest
            .by_ref()
            .take(limit)
            .map(|(name, znode)| Child { name: name.to_owned(), stat: with_stat.then(|| znode.stat()) })
            .collect();
        Ok(ChildrenPage { stat: parent.stat(), children, more: rest.next().is_some() })
    }

    /// A znode's ACL and stat. Needs `READ` or `ADMIN`; without `ADMIN` the hashes of passwords are masked.
    pub fn acl(&self, path: &str, auth: &Auth) -> Result<(Acl, Stat), OpError> {
        let znode = self.find(path)?.znode;
        self.permit(path, znode.acl, Perms(Perms::READ.0 | Perms::ADMIN.0), auth)?;
        let acl = self.acls.get(znode.acl).cloned().unwrap_or_default();
        let is_admin = self.acls.allows(znode.acl, Perms::ADMIN, auth);
        Ok((if is_admin { acl } else { mask(&acl) }, znode.stat()))
    }

    /// The paths of a session's ephemeral znodes that begin with `prefix`, in order. Empty for a session that does
    /// not live.
    pub fn ephemerals(&self, session: SessionId, prefix: &str) -> Vec<String> {
        let Some(session) = self.session(session) else { return Vec::new() };
        let from = session
            .ephemerals
            .range::<_, str>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
        from.take_while(|path| path.starts_with(prefix)).map(|path| path.to_string()).collect()
    }

    /// How many znodes are below `path`, itself not counted: ZooKeeper's `getAllChildrenNumber`. The counts are kept, so
    /// asking costs no more than finding the znode. Needs `READ` on `path`.
    pub fn descendant_count(&self, path: &str, auth: &Auth) -> Result<u64, OpError> {
        let znode = self.find(path)?.znode;
        self.permit(path, znode.acl, Perms::READ, auth)?;
        Ok(self.below(znode).znodes)
    }

    /// The quota of the subtree at `path` and what is in use. It needs no permission, as in ZooKeeper.
    ///
    /// # Errors
    ///
    /// `NoNode` where no quota is set on that very path.
    pub fn quota(&self, path: &str) -> Result<QuotaReport, OpError> {
        validate_path(path)?;
        self.quotas.report(path)
    }

    /// The quotas in the order of their paths, from after the path `after` on. As [`Tree::quota`] it needs no permission.
    pub fn quotas(&self, after: &str) -> impl Iterator<Item = (&str, QuotaReport)> {
        self.quotas.after(after).map(|(path, usage)| (&**path, usage.report()))
    }

    /// How much there is of what clients can make grow.
    pub fn table_sizes(&self) -> TableSizes {
        TableSizes {
            acls: self.acls.len() as u64,
            acl_bytes: self.acls.bytes(),
            quotas: self.quotas.len() as u64,
            sessions: self.sessions.live_count() as u64,
            ended_sessions: self.sessions.ended_count() as u64,
            ended_session_bytes: self.sessions.ended_bytes(),
            recorded_answers: self.sessions.recorded_count(),
            recorded_answer_bytes: self.sessions.recorded_bytes(),
            origins: self.origins.len() as u64,
            history_events: self.history.len() as u64,
            history_bytes: self.history.bytes(),
        }
    }

    /// Whether `auth` may read what has the ACL with this index, as an [`Event`] names it. `false` for an index
    /// that is gone, which no event of the history has.
    pub fn may_read(&self, acl: u32, auth: &Auth) -> bool {
        self.acls.allows(acl, Perms::READ, auth)
    }

    /// A live session.
    pub fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions.live(id)
    }

    /// All live sessions, in the order of their ids.
    pub fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.sessions.iter_live()
    }

    /// The live sessions with a larger id, in the order of their ids. It searches for the first of them, and
    /// does not pass the others.
    pub fn sessions_after(&self, id: SessionId) -> impl Iterator<Item = &Session> {
        self.sessions.live_after(id)
    }

    /// How many sessions live.
    pub fn session_count(&self) -> usize {
        self.sessions.live_count()
    }

    /// A session that ended within the last hour of the tree's time.
    pub fn ended_session(&self, id: SessionId) -> Option<&EndedSession> {
        self.sessions.ended(id)
    }

    /// The fate of a numbered write (G4).
    pub fn outcome(&self, session: SessionId, seq: WriteSeq) -> WriteOutcome {
        self.sessions.outcome(session, seq)
    }

    /// The kept answer to a numbered write and its place in history, of a live session or an ended one.
    pub fn recorded(&self, session: SessionId, seq: WriteSeq) -> Option<(Zxid, OpResult)> {
        let recorded = self.sessions.recorded(session, seq)?;
        Some((recorded.zxid, recorded.decode().ok()?))
    }

    /// The path and czxid of up to `limit` TTL znodes and empty containers that are due at `now_ms`: what the
    /// leader proposes as [`crate::Command::ExpireZnodes`] or [`crate::Command::Sweep`]. Costs nothing while there are none.
    /// With `unused_ms`, containers that were made so long ago and never had a child come last.
    pub fn expired_znodes(&self, now_ms: u64, unused_ms: Option<u64>, limit: usize) -> Vec<(String, Zxid)> {
        let unused_since_ms = unused_ms.and_then(|unused_ms| now_ms.checked_sub(unused_ms));
        let due = self.due.until(now_ms, unused_since_ms);
        due.take(limit).map(|(path, czxid)| (path.to_owned(), czxid)).collect()
    }

    /// All events with a zxid above this one are in the history.
    pub fn history_start(&self) -> Zxid {
        self.history.start()
    }

    /// The events with a zxid above `from`, in order; `None` where some of them are gone (G5). It searches for the
    /// first of them, and does not pass the others.
    pub fn history_since(&self, from: Zxid) -> Option<impl Iterator<Item = &Event>> {
        self.history.since(from)
    }

    pub(crate) fn find<'p>(&self, path: &'p str) -> Result<Place<'p, '_>, OpError> {
        validate_path(path)?;
        self.znodes.locate(path).ok_or_else(|| OpError::no_node(path))
    }

    /// Refuses with `NoAuth` unless the ACL gives `auth` any of `wanted`.
    pub(crate) fn permit(&self, path: &str, acl: u32, wanted: Perms, auth: &Auth) -> Result<(), OpError> {
        if self.acls.allows(acl, wanted, auth) {
            return Ok(());
        }
        Err(OpError::new(ErrorKind::NoAuth, path, Detail::Denied(wanted)))
    }

    /// The znodes of a subtree, each before its parent, in the order of their names. Each with its parent,
    /// but for the top.
    pub(crate) fn descend(
        &self,
        path: &str,
        top: &Znode,
        mut visit: impl FnMut(&str, &Znode, Option<&Znode>),
    ) {
        let mut open = vec![(path.to_owned(), top, self.znodes.children(top, None))];
        while let Some((path, znode, children)) = open.last_mut() {
            match children.next() {
                Some((name, child)) => {
                    let path = join(path, name);
                    open.push((path, child, self.znodes.children(child, None)));
                }
                None => {
                    let (path, znode) = (std::mem::take(path), *znode);
                    open.pop();
                    visit(&path, znode, open.last().map(|(_, parent, _)| *parent));
                }
            }
        }
    }
}
