use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;

use super::layout::{self, Layout};
use super::plan::{Step, plan};
use crate::recipes::znode::{is_changed, to_json};
use crate::recipes::{Candidate, LeaderElection, Leadership, TreeCache};
use crate::{Client, CreateMode, CreateOptions, Error, ErrorKind};

/// The pause after a refusal that may pass.
const RETRY: Duration = Duration::from_secs(1);
/// A multi has at most 1,000 operations.
const STEPS_MAX: usize = 500;
/// Bytes of a step's names and data, about.
const STEP_BYTES: usize = 512;

/// Campaigns for as long as the session lives, and decides where copies run whenever elected.
pub(super) async fn lead(client: Client, root: Arc<str>, agent: Arc<str>, cache: TreeCache) {
    let election = LeaderElection::new(&client, layout::election(&root));
    loop {
        match election.campaign(&Candidate::new(&*agent)).await {
            Ok(leadership) => {
                tracing::info!(%agent, epoch = leadership.epoch(), "decides where copies run");
                tokio::select! {
                    biased;
                    _ = leadership.lost() => {}
                    error = heal(&client, &root, &leadership, &cache) => {
                        tracing::warn!(%error, "placing copies has ended");
                    }
                }
            }
            Err(error) if error.is_terminal() => return,
            Err(error) => {
                tracing::warn!(%error, "campaigning again");
                tokio::time::sleep(error.retry_after.unwrap_or(RETRY)).await;
            }
        }
    }
}

/// Keeps the placements in accordance with the plan. Returns why it cannot go on.
async fn heal(client: &Client, root: &str, leadership: &Leadership, cache: &TreeCache) -> Error {
    let mut views = cache.views();
    loop {
        // What this session has written itself is never planned again.
        let view = match cache.wait_for(client.last_zxid()).await {
            Ok(view) => view,
            Err(error) => return error,
        };
        let steps = plan(&Layout::of(&view, root));
        let mut is_refused = false;
        // Removals apart, so that one which is refused for good, as of a znode that somebody gave a child, holds up no copy.
        let is_removal = |step: &Step| matches!(step, Step::Remove { .. });
        let alike = steps.chunk_by(|step, next| is_removal(step) == is_removal(next));
        let steps_max = client.limits().parts(STEPS_MAX, root.len() + STEP_BYTES);
        for steps in alike.flat_map(|steps| steps.chunks(steps_max)) {
            match carry_out(root, leadership, steps).await {
                Ok(()) => {}
                // Somebody else has changed a placement; the next view shows it.
                Err(error) if is_changed(&error) => is_refused = true,
                Err(error) if error.is_terminal() || error.kind == ErrorKind::GrantLost => return error,
                Err(error) => {
                    tracing::warn!(%error, "copies cannot be placed; trying again");
                    is_refused = true;
                }
            }
        }
        if is_refused {
            tokio::time::sleep(RETRY).await;
        } else if steps.is_empty() {
            while views.next().await.is_some_and(|seen| seen.zxid() <= view.zxid()) {}
            if let Some(end) = cache.end() {
                return end;
            }
        }
    }
}

async fn carry_out(root: &str, leadership: &Leadership, steps: &[Step]) -> Result<(), Error> {
    let path = |copy: u32| format!("{}/{}", layout::placements(root), layout::name(copy));
    let mut multi = leadership.client()?.multi();
    for step in steps {
        multi = match step {
            Step::Place { copy, placement, before: None } => {
                tracing::info!(copy, "a copy is placed");
                let options = CreateOptions::new(CreateMode::Persistent).parents(true);
                multi.create(path(*copy), to_json(placement)?, options)
            }
            Step::Place { copy, placement, before: Some(before) } => {
                tracing::info!(copy, "a copy is moved");
                multi.set(path(*copy), to_json(placement)?, Some(before.version))
            }
            Step::Remove { copy, before } => {
                tracing::info!(copy, "a copy is removed");
                multi.delete(path(*copy), Some(before.version))
            }
        };
    }
    multi.commit().await.map(drop)
}
