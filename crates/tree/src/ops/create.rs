use std::sync::Arc;

use super::Caller;
use crate::acl::resolve;
use crate::acl_table::AclTable;
use crate::change::Step;
use crate::path::{split, validate_path};
use crate::tally::Sum;
use crate::znode::{Kind, Znode};
use crate::znodes::Place;
use crate::{
    Create, CreateMode, Detail, ErrorKind, LimitName, OpError, OpResult, Outcome, PathFault, Perms, Tree,
};

/// The longest TTL, ZooKeeper's: 40 bits of milliseconds, some 34 years.
pub(crate) const TTL_MS_MAX: u64 = (1 << 40) - 1;
/// So many numbers in a row that are in use are passed one by one, and further ones in leaps: what is looked at is bounded.
const PASSED_MAX: u64 = 128;
/// The leaps are of 2^0 to 2^31. Longer ones would let a few znodes push the numbers of a directory near
/// their end.
const LEAPS: u32 = 32;

impl Tree {
    /// The checks come in ZooKeeper's order; it shows in which error a create with several faults gets.
    pub(super) fn create(&mut self, step: &mut Step, caller: Caller<'_>, create: &Create) -> OpResult {
        let kind = kind(create, caller)?;
        let (parent_path, prefix) = split(&create.path).ok_or_else(|| {
            let detail = Detail::InvalidPath { at: 0, fault: PathFault::NoSlash };
            OpError::new(ErrorKind::BadArguments, &*create.path, detail)
        })?;
        if create.path.contains('\0') {
            validate_path(&create.path)?;
        }
        let acl = match create.acl.as_slice() {
            [] => None,
            _ => Some(resolve(&create.acl, caller.auth, &create.path)?),
        };

        let (base, missing) = self.parent_of(parent_path, create.parents)?;
        let base_path = &parent_path[..missing.first().map_or(parent_path.len(), |path| above(path))];
        self.permit(base_path, base.znode.acl, Perms::CREATE, caller.auth)?;

        let number = match create.mode.is_sequential() {
            false => 0,
            true if missing.is_empty() => self.next_number(step, &base, prefix),
            true => 0,
        };
        let path: Arc<str> = match create.mode.is_sequential() {
            true => format!("{}{number:010}", create.path).into(),
            false => (*create.path).into(),
        };
        validate_path(&path)?;
        let exists = missing.is_empty()
            && split(&path).is_some_and(|(_, name)| self.znodes.child(base.znode, name).is_some());
        if exists || &*path == "/" {
            return Err(OpError::new(ErrorKind::NodeExists, &*path, Detail::Exists));
        }
        if base.znode.is_ephemeral() {
            let detail = Detail::EphemeralParent { parent_bytes: base_path.len() as u32 };
            return Err(OpError::new(ErrorKind::NoChildrenForEphemerals, &*path, detail));
        }
        self.quotas.check(&path, missing.len() + 1, create.data.len() as i64)?;
        if let Some(acl) = &acl {
            self.expect_acl_room(step, &path, acl)?;
        }
        if let Kind::Ephemeral(_) = kind {
            self.expect_ephemeral_room(step, caller, &path)?;
        }

        let mut parent = base.spot();
        let missing: Vec<Arc<str>> = missing.into_iter().map(Arc::from).collect();
        let acl = acl.map_or(AclTable::OPEN, |acl| self.acls.acquire(acl));
        // One reference for each znode; the first has it already.
        missing.iter().for_each(|_| self.acls.retain(acl));
        // The directory of each, and what is new in it and below.
        let mut dirs = Vec::with_capacity(missing.len());
        for path in &missing {
            let znode = new_znode(step, Kind::Persistent, acl, &[]);
            parent = self.link(step, parent, path, 0, znode);
            dirs.extend(parent.above.map(|dir| (dir, Sum::of(0, path.len()))));
        }
        let znode = new_znode(step, kind, acl, &create.data);
        let stat = znode.stat();
        let spot = self.link(step, parent, &path, number, znode);
        dirs.extend(spot.above.map(|dir| (dir, Sum::of(create.data.len(), path.len()))));
        self.tallies.add_chain(&dirs);
        Ok(Outcome::Created { path: path.as_ref().to_owned(), stat })
    }

    /// The lowest znode that is there of `path` and what is above it, and the missing ones below it, from the top down.
    ///
    /// # Errors
    ///
    /// `NoNode` if any are missing and they are not to be created.
    fn parent_of<'p>(&self, path: &'p str, create: bool) -> Result<(Place<'p, '_>, Vec<&'p str>), OpError> {
        if let Some(place) = self.znodes.locate(path) {
            return Ok((place, Vec::new()));
        }
        if !create {
            return Err(OpError::no_node(path));
        }
        validate_path(path)?;
        let (lowest, bytes) = self.znodes.locate_lowest(path).ok_or_else(|| OpError::no_node("/"))?;
        // Of the root, the slash is the beginning of the next name.
        let rest = if bytes == 1 { 0 } else { bytes };
        let ends = path[rest..].match_indices('/').skip(1).map(|(slash, _)| rest + slash);
        Ok((lowest, ends.chain([path.len()]).map(|end| &path[..end]).collect()))
    }

    /// The number of the next sequential child. It is above all earlier ones, and no child has it, unless
    /// somebody has taken all that are looked at: then the create is refused with `NodeExists`.
    fn next_number(&self, step: &Step, parent: &Place<'_, '_>, prefix: &str) -> u64 {
        let first = parent.znode.creates();
        if step.rules == 1 {
            return first;
        }
        let name = |number: u64| format!("{prefix}{number:010}");
        let is_free = |number: &u64| self.znodes.child(parent.znode, &name(*number)).is_none();
        let one_by_one = (0..PASSED_MAX).map(|passed| first.saturating_add(passed));
        let leaps = (0..LEAPS).map(|leap| first.saturating_add(PASSED_MAX).saturating_add((1 << leap) - 1));
        one_by_one.chain(leaps).find(is_free).unwrap_or(first)
    }

    /// Refuses an ephemeral that would make the end of its session cost more than a command may.
    fn expect_ephemeral_room(&self, step: &Step, caller: Caller<'_>, path: &str) -> Result<(), OpError> {
        let Some(session) = self.session(caller.session) else { return Ok(()) };
        let (max, count) = (u64::from(step.ceilings.ephemerals), session.ephemeral_count() as u64 + 1);
        if count > max {
            return Err(OpError::limit(path, LimitName::Ephemerals, max, count));
        }
        let max = u64::from(step.ceilings.removed_event_bytes);
        let bytes = (session.ephemeral_bytes + crate::Event::removal_cost(path)) as u64;
        if bytes > max {
            return Err(OpError::limit(path, LimitName::EphemeralBytes, max, bytes));
        }
        Ok(())
    }
}

/// Bytes of the path of the parent of `path`.
fn above(path: &str) -> usize {
    split(path).map_or(1, |(parent, _)| parent.len())
}

fn new_znode(step: &Step, kind: Kind, acl: u32, data: &[u8]) -> Znode {
    Znode {
        czxid: step.zxid,
        mzxid: step.zxid,
        ctime: step.time_ms,
        mtime: step.time_ms,
        data: data.into(),
        kind,
        dir: None,
        version: 0,
        aversion: 0,
        acl,
    }
}

/// What the mode makes of the znode.
fn kind(create: &Create, caller: Caller<'_>) -> Result<Kind, OpError> {
    let refuse = |detail| Err(OpError::new(ErrorKind::BadArguments, &*create.path, detail));
    let ttl_ms = create.ttl_ms;
    match create.mode {
        CreateMode::PersistentWithTtl | CreateMode::PersistentSequentialWithTtl => {
            if !(1..=TTL_MS_MAX).contains(&ttl_ms) {
                return refuse(Detail::TtlRange { ttl_ms });
            }
            Ok(Kind::Ttl(ttl_ms))
        }
        mode if ttl_ms != 0 => refuse(Detail::TtlMode { ttl_ms, mode }),
        CreateMode::Ephemeral | CreateMode::EphemeralSequential if caller.session == 0 => {
            refuse(Detail::EphemeralWithoutSession)
        }
        CreateMode::Ephemeral | CreateMode::EphemeralSequential => Ok(Kind::Ephemeral(caller.session)),
        CreateMode::Container => Ok(Kind::Container),
        CreateMode::Persistent | CreateMode::PersistentSequential => Ok(Kind::Persistent),
    }
}
