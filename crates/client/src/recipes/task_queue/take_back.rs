use std::collections::BTreeSet;

use futures::TryStreamExt as _;

use super::TaskQueue;
use super::keeper::{ClaimEnd, DIED, give_back};
use super::record::Record;
use super::tree::{CLAIMS, DEAD, PENDING, RUNNING};
use crate::{Error, ListOptions, ReadLevel, ReadResult};

impl TaskQueue {
    /// Takes the tasks that a session has claimed before `zxid` away from it, as if it had ended: each comes back once, with
    /// one more attempt counted. Returns their ids, and those of `ended`, tasks whose claims are gone already, that came
    /// back because their worker died.
    pub(crate) async fn take_back(
        &self,
        session_id: u64,
        zxid: u64,
        ended: BTreeSet<String>,
    ) -> Result<BTreeSet<String>, Error> {
        let tree = self.tree();
        let options = ListOptions { with_stat: true, ..ListOptions::default() };
        let mut pages = tree.client.list_pages(tree.directory(CLAIMS), ReadLevel::Linearizable, options);
        let mut back = BTreeSet::new();
        while let Some(page) = pages.try_next().await? {
            for child in page.children {
                let Some(stat) = child.stat else { continue };
                if stat.ephemeral_owner == session_id
                    && stat.czxid < zxid
                    && give_back(tree, &child.name, ClaimEnd::Taken { epoch: stat.czxid }).await?
                {
                    back.insert(child.name);
                }
            }
        }
        for id in ended {
            // The keepers do the same; one of all succeeds.
            if give_back(tree, &id, ClaimEnd::Gone).await? || self.came_back(&id).await? {
                back.insert(id);
            }
        }
        Ok(back)
    }

    /// Whether the task is there because its worker has died. One that was completed is not, and of one that failed it is
    /// known why.
    async fn came_back(&self, id: &str) -> Result<bool, Error> {
        let tree = self.tree();
        let read = [PENDING, RUNNING, DEAD]
            .iter()
            .fold(tree.client.multi_read(ReadLevel::Local), |read, directory| {
                read.get(tree.node(directory, id))
            });
        let answers = read.send().await?;
        Ok(answers.into_iter().flatten().any(|answer| match answer {
            ReadResult::Get(data, _) => {
                Record::parse(&data).is_some_and(|record| record.last_error.as_deref() == Some(DIED))
            }
            _ => false,
        }))
    }
}
