//! Who this node's ensemble is, and whether the options say the same.
//!
//! Accepted are the nodes that the ensemble was formed with, which IDENTITY keeps, and its members, which the
//! log and the snapshot have. With any other list a node could take itself for a majority, or wait for nodes
//! that were never there. Before all nodes have agreed on the ensemble's id, nothing is settled: a list that
//! was mistyped can be corrected. From then on the list counts, also on a node whose log has not begun: alone
//! it would begin another ensemble of the same id.

use std::sync::Arc;

use openraft::async_runtime::watch::WatchReceiver as _;

use crate::NodeId;
use crate::observer::Observer;
use crate::replica::{Node, StartError};
use crate::storage::{DataDir, membership_on_disk};

/// Refuses a list before anything is written. Returns the members, if they had to be looked for. Blocks on the disk.
pub(crate) fn first_look(dir: &DataDir, configured: &[NodeId]) -> Result<Option<Vec<NodeId>>, StartError> {
    if dir.cluster_id().is_none() || dir.formed_with() == configured {
        return Ok(None);
    }
    // What is damaged is told, by name, when it is opened.
    let found = membership_on_disk(dir).unwrap_or_default();
    if found.has_begun || !dir.formed_with().is_empty() {
        refuse(dir, configured, found.members.as_deref())?;
    }
    Ok(found.members)
}

/// Refuses a list by what was opened, and keeps what the ensemble was formed with if an older version has not: members were
/// never changed by those. Blocks on the disk.
pub(crate) fn check(
    dir: &mut DataDir,
    configured: &[NodeId],
    members: Option<Vec<NodeId>>,
) -> Result<(), StartError> {
    refuse(dir, configured, members.as_deref())?;
    if dir.formed_with().is_empty()
        && let Some(members) = members
        && let Some(cluster_id) = dir.cluster_id().map(str::to_owned)
    {
        dir.join(&cluster_id, &members)?;
    }
    Ok(())
}

fn refuse(dir: &DataDir, configured: &[NodeId], members: Option<&[NodeId]>) -> Result<(), StartError> {
    let formed = Some(dir.formed_with()).filter(|formed| !formed.is_empty());
    if formed.is_none_or(|formed| formed == configured) && members.is_none_or(|members| members == configured)
        || formed == Some(configured)
        || members == Some(configured)
    {
        return Ok(());
    }
    let (formed, members) = (formed.or(members), members.or(formed));
    Err(StartError::Membership {
        dir: dir.path().to_owned(),
        configured: configured.to_vec(),
        formed: formed.unwrap_or_default().to_vec(),
        members: members.unwrap_or_default().to_vec(),
    })
}

/// A directory of a version that did not keep the list, and which the log's first entry has not reached: what could not be
/// checked at the start is checked when it is there.
pub(crate) async fn check_later<O: Observer>(node: Arc<Node<O>>) {
    let mut metrics = node.raft.metrics();
    loop {
        let members: Vec<NodeId> =
            metrics.borrow_watched().membership_config.nodes().map(|(id, _)| *id).collect();
        if !members.is_empty() {
            let configured: Vec<NodeId> = node.options.members.keys().copied().collect();
            if let Err(error) = check(&mut node.data_dir(), &configured, Some(members)) {
                tracing::error!("{error}");
                std::process::exit(1);
            }
            return;
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(formed: &[NodeId], members: Option<&[NodeId]>, configured: &[NodeId]) -> bool {
        let scratch = tempfile::tempdir().unwrap();
        let mut dir = DataDir::open(scratch.path(), 1).unwrap();
        dir.join("prod", formed).unwrap();
        let refused = refuse(&dir, configured, members).err().map(|e| e.to_string());
        for list in [Some(configured), Some(formed).filter(|list| !list.is_empty()), members] {
            let named = list.map(|list| format!("{list:?}"));
            assert!(
                refused.as_ref().zip(named).is_none_or(|(said, list)| said.contains(&list)),
                "{refused:?}"
            );
        }
        refused.is_none()
    }

    /// B1: a node that was killed between the agreement and its first entry.
    #[test]
    fn the_list_counts_before_the_log() {
        let scratch = tempfile::tempdir().unwrap();
        let mut dir = DataDir::open(scratch.path(), 3).unwrap();
        assert!(first_look(&dir, &[3]).is_ok(), "nothing is settled");
        dir.join("prod", &[1, 2, 3]).unwrap();
        assert!(first_look(&dir, &[1, 2, 3]).is_ok());
        let refused = first_look(&dir, &[3]).unwrap_err().to_string();
        assert!(refused.contains("[3]") && refused.contains("[1, 2, 3]"), "{refused}");
    }

    #[test]
    fn only_the_first_list_and_the_members_pass() {
        let (one, three, four): (&[_], &[_], &[_]) = (&[1], &[1, 2, 3], &[1, 2, 3, 4]);
        assert!(accepts(three, Some(three), three));
        assert!(accepts(three, Some(four), three) && accepts(three, Some(four), four));
        assert!(accepts(three, None, three) && accepts(&[], Some(three), three));
        // Nothing is known so far.
        assert!(accepts(&[], None, three));
        for other in [one, four, &[1, 2], &[1, 2, 4], &[1, 2, 3, 4, 5]] {
            assert!(!accepts(three, Some(three), other), "{other:?}");
            assert!(!accepts(three, None, other) && !accepts(&[], Some(three), other), "{other:?}");
        }
        assert!(!accepts(one, Some(one), three) && !accepts(&[], Some(one), three));
    }
}
