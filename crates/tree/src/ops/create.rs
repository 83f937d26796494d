use std::sync::Arc;

use super::Caller;
use crate::acl::resolve;
use crate::acl_table::AclTable;
use crate::change::Step;
use crate::path::{lineage, split, validate_path};
use crate::znode::{Kind, Znode};
use crate::{Acl, Create, CreateMode, ErrorKind, OpError, OpResult, Outcome, Perms, Tree};

/// The longest TTL, ZooKeeper's: 40 bits of milliseconds, some 34 years.
const TTL_MS_MAX: u64 = (1 << 40) - 1;

impl Tree {
    /// The checks come in ZooKeeper's order; it shows in which error a create with several faults gets.
    pub(super) fn create(&mut self, step: &mut Step, caller: Caller<'_>, create: &Create) -> OpResult {
        let kind = kind(create, caller)?;
        let (parent_path, _) = split(&create.path).ok_or_else(|| {
            let message = format!("invalid path {:?}: it has no slash", create.path);
            OpError::new(ErrorKind::BadArguments, &*create.path, message)
        })?;
        if create.path.contains('\0') {
            validate_path(&create.path)?;
        }
        let acl = match create.acl.as_slice() {
            [] => None,
            _ => Some(resolve(&create.acl, caller.auth, &create.path)?),
        };

        let missing = self.missing_parents(parent_path, create.parents)?;
        let base_path = missing.first().and_then(|path| split(path)).map_or(parent_path, |(path, _)| path);
        let base = self.znodes.locate(base_path).ok_or_else(|| OpError::no_node(base_path))?;
        self.permit(base_path, base.znode.acl, Perms::CREATE, caller.auth)?;

        let number = if missing.is_empty() { base.znode.creates() } else { 0 };
        let path: Arc<str> = match create.mode.is_sequential() {
            true => format!("{}{number:010}", create.path).into(),
            false => create.path.as_str().into(),
        };
        validate_path(&path)?;
        let exists = missing.is_empty()
            && split(&path).is_some_and(|(_, name)| self.znodes.child(base.znode, name).is_some());
        if exists || &*path == "/" {
            return Err(OpError::new(ErrorKind::NodeExists, &*path, format!("znode {path:?} exists")));
        }
        if base.znode.is_ephemeral() {
            let message = format!("{base_path:?} is ephemeral and so has no children");
            return Err(OpError::new(ErrorKind::NoChildrenForEphemerals, &*path, message));
        }
        self.quotas.check(&path, missing.len() + 1, create.data.len() as i64)?;

        let missing: Vec<Arc<str>> = missing.into_iter().map(Arc::from).collect();
        let mut parent = base.key;
        for path in &missing {
            let znode = self.new_znode(step, Kind::Persistent, &acl, &[]);
            parent = self.link(step, parent, path, znode);
        }
        let znode = self.new_znode(step, kind, &acl, &create.data);
        let stat = znode.stat();
        self.link(step, parent, &path, znode);
        Ok(Outcome::Created { path: path.as_ref().to_owned(), stat })
    }

    /// The missing ones among `path` and what is above it, from the top down.
    ///
    /// # Errors
    ///
    /// `NoNode` if there are any and they are not to be created.
    fn missing_parents<'p>(&self, path: &'p str, create: bool) -> Result<Vec<&'p str>, OpError> {
        if self.znodes.locate(path).is_some() {
            return Ok(Vec::new());
        }
        if !create {
            return Err(OpError::no_node(path));
        }
        validate_path(path)?;
        Ok(lineage(path).filter(|path| self.znodes.locate(path).is_none()).collect())
    }

    fn new_znode(&mut self, step: &Step, kind: Kind, acl: &Option<Acl>, data: &[u8]) -> Znode {
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
            acl: acl.as_ref().map_or(AclTable::OPEN, |acl| self.acls.acquire(acl.clone())),
        }
    }
}

/// What the mode makes of the znode.
fn kind(create: &Create, caller: Caller<'_>) -> Result<Kind, OpError> {
    let refuse = |message: String| Err(OpError::new(ErrorKind::BadArguments, &*create.path, message));
    let ttl_ms = create.ttl_ms;
    match create.mode {
        CreateMode::PersistentWithTtl | CreateMode::PersistentSequentialWithTtl => {
            if !(1..=TTL_MS_MAX).contains(&ttl_ms) {
                return refuse(format!("a TTL of {ttl_ms} ms is not within 1 to {TTL_MS_MAX}"));
            }
            Ok(Kind::Ttl(ttl_ms))
        }
        mode if ttl_ms != 0 => refuse(format!("a TTL of {ttl_ms} ms does not go with the mode {mode:?}")),
        CreateMode::Ephemeral | CreateMode::EphemeralSequential if caller.session == 0 => {
            refuse("an ephemeral znode needs a session".to_owned())
        }
        CreateMode::Ephemeral | CreateMode::EphemeralSequential => Ok(Kind::Ephemeral(caller.session)),
        CreateMode::Container => Ok(Kind::Container),
        CreateMode::Persistent | CreateMode::PersistentSequential => Ok(Kind::Persistent),
    }
}
