//! Opens one directory after the other and says what is in each, or why it was refused. A panic ends the process, as it
//! ends a node.
//!
//! ```text
//! found STATE       this is there; with "again", the store then took more, was closed, and had all of it
//! refused REASON    a node would not start
//! broken REASON     it opened, and then did not work
//! ```

use std::io::BufRead as _;

use coordd_raft::storage::WalSizes;
use openraft::storage::RaftLogStorage as _;

use super::store::{Store, append, entry, open, vote};
use super::{Result, tell};

pub(crate) async fn run(sizes: WalSizes) -> Result<()> {
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (dir, again) = match line.strip_suffix(" again") {
            Some(dir) => (dir, true),
            None => (&line[..], false),
        };
        let mut store = match open(dir, sizes) {
            Ok(store) => store,
            Err(refused) => {
                tell(format_args!("refused {refused}"));
                continue;
            }
        };
        let found = match store.describe().await {
            Ok(found) => found,
            Err(refused) => {
                tell(format_args!("refused {refused}"));
                continue;
            }
        };
        match again {
            true => match go_on(store, dir, sizes).await {
                Ok(()) => tell(format_args!("found {found}")),
                Err(broken) => tell(format_args!("broken {broken}; before: {found}")),
            },
            false => {
                store.log.close();
                tell(format_args!("found {found}"));
            }
        }
    }
    Ok(())
}

/// What was recovered is a store like any other: it takes a vote and entries, and has them after a restart.
async fn go_on(mut store: Store, dir: &str, sizes: WalSizes) -> Result<()> {
    let state = store.log.get_log_state().await?;
    let term = 1_000_000;
    let first = state.last_log_id.map_or(0, |id| id.index + 1);
    store.log.save_vote(&vote(term)).await?;
    append(&mut store.log, (first..first + 3).map(|index| entry(term, index, 5000)).collect()).await?;
    let before = store.describe().await?;
    let Store { dir: lock, log, .. } = store;
    log.close();
    drop(lock);
    let mut store = open(dir, sizes)?;
    let after = store.describe().await?;
    let content = |state: &str| state.split_once(' ').map(|(_incarnation, content)| content.to_owned());
    store.log.close();
    if content(&before) != content(&after) {
        return Err(format!("a restart made {after} of {before}").into());
    }
    Ok(())
}
