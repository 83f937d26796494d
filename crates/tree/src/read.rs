use bytes::Bytes;

use crate::acl::mask;
use crate::path::{join, validate_path};
use crate::znode::Znode;
use crate::znodes::Place;
use crate::{
    Acl, Auth, EndedSession, ErrorKind, Event, OpError, OpResult, Perms, QuotaReport, Session, SessionId,
    Stat, Tree, WriteOutcome, WriteSeq, Zxid,
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

    /// How many znodes are below `path`, itself not counted: ZooKeeper's `getAllChildrenNumber`. It visits them
    /// all. Needs `READ` on `path`.
    pub fn descendant_count(&self, path: &str, auth: &Auth) -> Result<u64, OpError> {
        let znode = self.find(path)?.znode;
        self.permit(path, znode.acl, Perms::READ, auth)?;
        Ok(self.measure(znode).0 - 1)
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
    /// leader proposes as [`crate::Command::ExpireZnodes`]. Costs nothing while there are none.
    pub fn expired_znodes(&self, now_ms: u64, limit: usize) -> Vec<(String, Zxid)> {
        self.due.until(now_ms).take(limit).map(|(path, czxid)| (path.to_owned(), czxid)).collect()
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
        let message = format!("the ACL of {path:?} does not allow {}", names(wanted));
        Err(OpError::new(ErrorKind::NoAuth, path, message))
    }

    /// The number of znodes and the bytes of data of a subtree, its top included.
    pub(crate) fn measure(&self, top: &Znode) -> (u64, u64) {
        let (mut count, mut bytes) = (0, 0);
        let mut pending = vec![top];
        while let Some(znode) = pending.pop() {
            count += 1;
            bytes += znode.data.len() as u64;
            pending.extend(self.znodes.children(znode, None).map(|(_, child)| child));
        }
        (count, bytes)
    }

    /// The znodes of a subtree, each before its parent, in the order of their names.
    pub(crate) fn descend(&self, path: &str, top: &Znode, mut visit: impl FnMut(&str, &Znode)) {
        let mut open = vec![(path.to_owned(), top, self.znodes.children(top, None))];
        while let Some((path, znode, children)) = open.last_mut() {
            match children.next() {
                Some((name, child)) => {
                    let path = join(path, name);
                    open.push((path, child, self.znodes.children(child, None)));
                }
                None => {
                    visit(path, znode);
                    open.pop();
                }
            }
        }
    }
}

fn names(perms: Perms) -> String {
    [
        (Perms::READ, "READ"),
        (Perms::WRITE, "WRITE"),
        (Perms::CREATE, "CREATE"),
        (Perms::DELETE, "DELETE"),
        (Perms::ADMIN, "ADMIN"),
    ]
    .into_iter()
    .filter_map(|(perm, name)| perms.contains(perm).then_some(name))
    .collect::<Vec<_>>()
    .join(" or ")
}
