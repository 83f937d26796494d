//! Where recipes put their znodes: parents that go when nobody uses them, room for names, and znodes that belong to nobody.

use bytes::Bytes;

use super::tree_cache::CacheChange;
use super::znode::found;
use crate::{
    AclEntry, Check, Client, CreateMode, CreateOptions, Created, Error, ErrorKind, ReadLevel, ReadResult,
    Stat,
};

/// The longest path that a server takes, in bytes.
const PATH_BYTES_MAX: usize = 4096;
/// The digits that a server appends to the name of a sequential znode.
pub(crate) const NUMBER_BYTES: usize = 10;

/// Refuses a path below which a recipe could not create its znodes, before it has created the first one. `longest` is the
/// number of bytes of the longest name, or path, that the recipe adds, without the slash before it.
///
/// # Errors
///
/// `BadArguments`.
pub(crate) fn check_room(path: &str, longest: usize) -> Result<(), Error> {
    let needed = path.len() + 1 + longest;
    if needed <= PATH_BYTES_MAX {
        return Ok(());
    }
    let message = format!(
        "a path of {} bytes is too long for this recipe: it adds {} bytes below it, and a path has at most \
         {PATH_BYTES_MAX} bytes. Use a path of at most {} bytes",
        path.len(),
        longest + 1,
        PATH_BYTES_MAX.saturating_sub(longest + 1),
    );
    Err(Error { path: path.to_owned(), ..Error::new(ErrorKind::BadArguments, message) })
}

/// Refuses a relative path before anything is asked for, in the words in which a server refuses it. An empty
/// one is the root.
///
/// # Errors
///
/// `BadArguments`.
pub(crate) fn check_absolute(path: &str) -> Result<(), Error> {
    if path.is_empty() || path.starts_with('/') {
        return Ok(());
    }
    let message = format!("invalid path {path:?}: path must start with / at byte 0");
    Err(Error { path: path.to_owned(), ..Error::new(ErrorKind::BadArguments, message) })
}

/// Creates a container, if there is no znode at this path. Missing parents become containers, too.
///
/// # Errors
///
/// The errors of a create. Then no container was created, or only the upper part of a path that is too deep
/// for one step.
pub(crate) async fn make_container(client: &Client, path: &str) -> Result<(), Error> {
    make_containers(client, path, &[]).await
}

/// The same with an ACL for each of the containers.
pub(crate) async fn make_containers(client: &Client, path: &str, acl: &[AclEntry]) -> Result<(), Error> {
    let options = CreateOptions::new(CreateMode::Container).acl(acl.iter().cloned());
    let slashes = path.match_indices('/').map(|(slash, _)| slash).filter(|slash| *slash > 0);
    let lineage: Vec<&str> = slashes.map(|slash| &path[..slash]).chain([path]).collect();
    loop {
        // A deep path has more levels than one request takes.
        let parts = client.limits().parts(usize::MAX, path.len());
        let mut multi = client.multi();
        for part in lineage.chunks(parts) {
            let look = part.iter().fold(client.multi_read(ReadLevel::Local), |look, path| look.exists(*path));
            for (path, answer) in part.iter().zip(look.send().await?) {
                if let ReadResult::Exists(None) = answer?
                    && multi.len() < parts
                {
                    multi = multi.create(*path, "", options.clone());
                }
            }
        }
        let is_whole = multi.len() < parts;
        if multi.is_empty() {
            return Ok(());
        }
        match multi.commit().await {
            // Somebody else creates or deletes one of them at this moment. The next look shows it.
            Err(error) if matches!(error.kind, ErrorKind::NodeExists | ErrorKind::NoNode) => {}
            // The lower levels follow.
            Ok(_) if !is_whole => {}
            made => return made.map(drop),
        }
    }
}

/// Creates a znode. Missing parents become containers with the same ACL.
///
/// # Errors
///
/// Those of a create but `NoNode`.
pub(crate) async fn create_in_container(
    client: &Client,
    path: &str,
    data: Bytes,
    options: &CreateOptions,
) -> Result<Created, Error> {
    loop {
        match client.create(path, data.clone(), options.clone()).await {
            Err(error) if error.kind == ErrorKind::NoNode => {
                make_containers(client, parent_of(path), &options.acl).await?;
            }
            created => return created,
        }
    }
}

/// The path without its last element; `/` for a path of one.
pub(crate) fn parent_of(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some((parent, _)) if !parent.is_empty() => parent,
        _ => "/",
    }
}

/// Whether a znode is not ephemeral. Where a recipe creates ephemerals only, such a znode stands for nobody: somebody has
/// created it by hand, or has copied it from another tree.
pub(crate) fn is_ownerless(stat: &Stat) -> bool {
    stat.ephemeral_owner == 0
}

/// Returns the part of a change that is about ephemerals: an ownerless znode counts as absent. `None` if
/// nothing is left.
pub(crate) fn owned_part(change: CacheChange) -> Option<CacheChange> {
    let before = change.before().filter(|znode| !is_ownerless(&znode.stat)).cloned();
    let after = change.after().filter(|znode| !is_ownerless(&znode.stat)).cloned();
    match (before, after) {
        (None, None) => None,
        (None, Some(znode)) => Some(CacheChange::Added(znode)),
        (Some(old), Some(new)) => Some(CacheChange::Updated { old, new }),
        (Some(znode), None) => Some(CacheChange::Removed(znode)),
    }
}

/// Deletes an ownerless znode that stands where a recipe has to create its own, with what is below it. Another znode at
/// the same path is left alone.
///
/// # Errors
///
/// Those of a delete.
pub(crate) async fn remove_ownerless(client: &Client, path: &str, stat: &Stat) -> Result<(), Error> {
    tracing::warn!(path, "a znode that is not ephemeral stands for nobody here; it is deleted");
    match delete_all(&client.guarded([Check::epoch(path, stat.czxid)]), path).await {
        Err(error) if error.kind == ErrorKind::GuardFailed && error.path == path => Ok(()),
        Err(error) if error.kind == ErrorKind::NoNode => Ok(()),
        removed => removed,
    }
}

/// Deletes a subtree of any size: in one step if it is not too large for that, and in many if it is.
///
/// # Errors
///
/// Those of a delete; some of it may be deleted then.
pub(crate) async fn delete_all(client: &Client, path: &str) -> Result<(), Error> {
    match client.delete_tree(path, None).await {
        Err(error) if error.kind == ErrorKind::LimitExceeded => {
            client.delete_tree_in_batches(path, |_| {}).await.map(drop)
        }
        deleted => deleted.map(drop),
    }
}

/// Deletes what somebody has put below a znode that a recipe has to move or delete. The recipe puts nothing there.
///
/// # Errors
///
/// Those of a delete; some of it may be deleted then.
pub(crate) async fn clear_below(client: &Client, path: &str) -> Result<(), Error> {
    tracing::warn!(path, "this znode has no children; what is below it is deleted");
    for name in found(client.children(path, ReadLevel::Local).await)?.unwrap_or_default() {
        found(delete_all(client, &format!("{path}/{name}")).await)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::recipes::CachedZnode;

    /// A path that changes between an ephemeral and an ownerless znode is a member that comes or goes.
    #[test]
    fn ownerless_znodes_are_absent() {
        let znode = |ephemeral_owner, czxid| {
            let stat = Stat { czxid, ephemeral_owner, ..Stat::default() };
            Arc::new(CachedZnode { path: "/g/a".into(), data: Bytes::new(), stat })
        };
        let (copy, other_copy, member, next) = (znode(0, 1), znode(0, 2), znode(7, 3), znode(8, 4));
        for (change, expected) in [
            (CacheChange::Added(copy.clone()), None),
            (CacheChange::Removed(copy.clone()), None),
            (CacheChange::Updated { old: copy.clone(), new: other_copy }, None),
            (CacheChange::Added(member.clone()), Some(CacheChange::Added(member.clone()))),
            (CacheChange::Removed(member.clone()), Some(CacheChange::Removed(member.clone()))),
            (
                CacheChange::Updated { old: copy.clone(), new: member.clone() },
                Some(CacheChange::Added(member.clone())),
            ),
            (
                CacheChange::Updated { old: member.clone(), new: copy },
                Some(CacheChange::Removed(member.clone())),
            ),
            (
                CacheChange::Updated { old: member.clone(), new: next.clone() },
                Some(CacheChange::Updated { old: member, new: next }),
            ),
        ] {
            assert_eq!(owned_part(change.clone()), expected, "{change:?}");
        }
    }

    #[test]
    fn parents_of_paths() {
        for (path, parent) in [("/a/b/c", "/a/b"), ("/a/b/", "/a/b"), ("/a", "/"), ("/", "/")] {
            assert_eq!(parent_of(path), parent, "{path}");
        }
    }

    /// The refusal names the length of the path, what the recipe adds, and the longest path that fits.
    #[test]
    fn room_for_names() {
        let longest = "write-".len() + NUMBER_BYTES;
        assert_eq!(check_room(&"x".repeat(4079), longest), Ok(()));
        let error = check_room(&"x".repeat(4080), longest).unwrap_err();
        assert_eq!(error.kind, ErrorKind::BadArguments);
        for part in ["4080 bytes", "17 bytes", "4096", "at most 4079 bytes"] {
            assert!(error.message.contains(part), "{error}");
        }
    }
}
