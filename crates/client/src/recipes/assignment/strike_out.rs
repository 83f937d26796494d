use std::collections::BTreeSet;

use futures::TryStreamExt as _;

use super::layout::{Layout, OWNERS, WORKERS};
use crate::recipes::registry::NAME_BYTES_MAX;
use crate::recipes::znode::{found, unless_changed};
use crate::{Check, Client, Error, ListOptions, ReadLevel, Stat};

/// Items that are taken in one step.
const BATCH: usize = 100;
const PAGE: u32 = 1000;

/// Strikes a session's workers off the list of a group, and takes the items they own: those that are there since before
/// `zxid`. Returns the items. What has been done already is not done again, so that it can be called again.
pub(crate) async fn strike_out(
    client: &Client,
    group: &str,
    session_id: u64,
    zxid: u64,
) -> Result<Vec<String>, Error> {
    let layout = Layout::new(group);
    let owned = of_session(client, layout.top(OWNERS), session_id, zxid).await?;
    let mut before = zxid;
    for (worker, stat) in of_session(client, layout.top(WORKERS), session_id, zxid).await? {
        delete(client, [(layout.node(WORKERS, &worker), stat)]).await?;
        // Until then it may have taken more, and now no more.
        before = before.max(client.last_zxid());
    }
    let items = of_session(client, layout.top(OWNERS), session_id, before).await?;
    // Each is checked and deleted, under its whole path.
    let path_bytes = 2 * layout.node(OWNERS, "").len() + 2 * NAME_BYTES_MAX;
    for batch in items.chunks(client.limits().parts(BATCH, path_bytes)) {
        let path = |(item, stat): &(String, Stat)| (layout.node(OWNERS, item), *stat);
        if !delete(client, batch.iter().map(path)).await? {
            // One of them was let go of.
            for item in batch {
                delete(client, [path(item)]).await?;
            }
        }
    }
    // A worker that is alive may have let go of some itself, because it was struck off.
    let items: BTreeSet<String> = owned.into_iter().chain(items).map(|(item, _)| item).collect();
    Ok(items.into_iter().collect())
}

/// The ephemerals of a session in a directory that are older than `before`.
async fn of_session(
    client: &Client,
    directory: String,
    session_id: u64,
    before: u64,
) -> Result<Vec<(String, Stat)>, Error> {
    let options = ListOptions { limit: PAGE, with_stat: true, ..ListOptions::default() };
    let mut pages = client.list_pages(directory, ReadLevel::Linearizable, options);
    let mut own = Vec::new();
    while let Some(Some(page)) = found(pages.try_next().await)? {
        let stats = page.children.into_iter().filter_map(|child| Some((child.name, child.stat?)));
        own.extend(stats.filter(|(_, stat)| stat.ephemeral_owner == session_id && stat.czxid < before));
    }
    Ok(own)
}

/// All in one step, or none: `false` if one of them is gone, or another one by now.
async fn delete(client: &Client, znodes: impl IntoIterator<Item = (String, Stat)>) -> Result<bool, Error> {
    let multi = znodes.into_iter().fold(client.multi(), |multi, (path, stat)| {
        multi.check(Check::epoch(&path, stat.czxid)).delete(path, None)
    });
    Ok(unless_changed(multi.commit().await)?.is_some())
}
