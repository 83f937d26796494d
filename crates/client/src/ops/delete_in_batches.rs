use std::collections::VecDeque;

use futures::{Stream, TryStreamExt as _};

use crate::{
    Call, Child, Client, Error, ErrorKind, ListOptions, ListPage, MultiResult, ReadLevel, ServerLimits,
};

/// Znodes that go in one step, as far as the server's limits allow. Small enough that nobody is held up by
/// one.
const BATCH_ZNODES: usize = 500;
/// Bytes of their paths, which the events of the step carry too.
const BATCH_BYTES: usize = 256 * 1024;
/// Steps that are under way at once.
const IN_FLIGHT: usize = 4;
/// So often it is gone back to znodes that have got children meanwhile.
const ROUNDS: u32 = 10;

impl Client {
    /// Deletes a znode and all below it in many steps, children before their parents: for subtrees that are too large for
    /// [`delete_tree`](Self::delete_tree). Returns how many znodes went by this call; `progress` is told after each step how many
    /// have gone so far.
    ///
    /// This is **not one step**: others see the subtree get smaller, and may write in it meanwhile; what they create is deleted
    /// too. After an error, or when the future was dropped, what has gone stays gone, and another call goes on from there.
    ///
    /// # Errors
    ///
    /// `NoNode` if there is no such znode, `BadArguments` for the root and what belongs to the system: then nothing has gone. `NoAuth`
    /// and `GuardFailed`, which may come after a part has gone. `NotEmpty` if others create znodes as fast as they are deleted.
    ///
    /// # Watches fired
    ///
    /// `NodeDeleted` at each znode that goes, `NodeChildrenChanged` at its parent.
    pub async fn delete_tree_in_batches(
        &self,
        path: impl Into<String>,
        progress: impl FnMut(u64),
    ) -> Result<u64, Error> {
        let top = path.into();
        // Also finds out whether it may be deleted at all, before anything below it goes.
        match self.delete(&top, None).await {
            Ok(_) => return Ok(1),
            Err(error) if error.kind == ErrorKind::NotEmpty => {}
            Err(error) => return Err(error),
        }
        let mut deletion = Deletion {
            client: self,
            batch: Vec::new(),
            bytes: 0,
            in_flight: VecDeque::new(),
            left: None,
            count: 0,
            progress,
        };
        for _ in 0..ROUNDS {
            deletion.walk(&top).await?;
            if deletion.left.take().is_none() {
                return Ok(deletion.count);
            }
        }
        let message = format!("znodes are created below {top:?} as fast as they are deleted");
        Err(Error { path: top, ..Error::new(ErrorKind::NotEmpty, message) })
    }
}

type Pages = Box<dyn Stream<Item = Result<ListPage, Error>> + Send + Unpin>;

/// A znode whose children go before it.
struct Level {
    path: String,
    pages: Pages,
    children: std::vec::IntoIter<Child>,
}

struct Deletion<'a, P> {
    client: &'a Client,
    /// Paths that the next step deletes, in this order.
    batch: Vec<String>,
    bytes: usize,
    in_flight: VecDeque<(Vec<String>, Call<Vec<MultiResult>>)>,
    /// A znode that has got children since they were looked for.
    left: Option<String>,
    count: u64,
    progress: P,
}

impl<P: FnMut(u64)> Deletion<'_, P> {
    /// Deletes everything that is there, depth first. Memory is needed for a page of children on each level.
    async fn walk(&mut self, top: &str) -> Result<(), Error> {
        let mut levels = vec![self.level(top.to_owned())];
        while let Some(level) = levels.last_mut() {
            if let Some(child) = level.children.next() {
                let path = format!("{}/{}", level.path, child.name);
                match child.stat.is_some_and(|stat| stat.num_children > 0) {
                    true => levels.push(self.level(path)),
                    false => self.delete(path).await?,
                }
                continue;
            }
            match level.pages.try_next().await {
                Ok(Some(page)) => level.children = page.children.into_iter(),
                Ok(None) => {
                    let path = std::mem::take(&mut level.path);
                    levels.pop();
                    self.delete(path).await?;
                }
                // Somebody else was faster.
                Err(error) if error.kind == ErrorKind::NoNode => drop(levels.pop()),
                Err(error) => return Err(error),
            }
        }
        self.send();
        while !self.in_flight.is_empty() {
            self.settle_oldest().await?;
        }
        Ok(())
    }

    fn level(&self, path: String) -> Level {
        let options = ListOptions { with_stat: true, ..ListOptions::default() };
        let pages = Box::new(self.client.list_pages(path.as_str(), ReadLevel::Local, options));
        Level { path, pages, children: Vec::new().into_iter() }
    }

    async fn delete(&mut self, path: String) -> Result<(), Error> {
        let (limits, bytes) = (self.client.limits(), ServerLimits::part_bytes(path.len()));
        let znodes_max = BATCH_ZNODES.min(limits.multi_ops);
        if self.batch.len() >= znodes_max || self.bytes + bytes > limits.batch(BATCH_BYTES) {
            self.send();
            if self.in_flight.len() > IN_FLIGHT {
                self.settle_oldest().await?;
            }
        }
        self.bytes += bytes;
        self.batch.push(path);
        Ok(())
    }

    fn send(&mut self) {
        let paths = std::mem::take(&mut self.batch);
        self.bytes = 0;
        if !paths.is_empty() {
            let multi = paths.iter().fold(self.client.multi(), |multi, path| multi.delete(path, None));
            self.in_flight.push_back((paths, multi.commit()));
        }
    }

    async fn settle_oldest(&mut self) -> Result<(), Error> {
        let Some((paths, step)) = self.in_flight.pop_front() else { return Ok(()) };
        match step.await {
            Ok(deleted) => self.count += deleted.len() as u64,
            // One of them is not as it was, or the step is larger than this server lets pass: then each by itself.
            Err(error) if may_go_by_itself(error.kind) => self.delete_one_by_one(paths).await?,
            Err(error) => return Err(error),
        }
        (self.progress)(self.count);
        Ok(())
    }

    async fn delete_one_by_one(&mut self, paths: Vec<String>) -> Result<(), Error> {
        let calls: Vec<_> = paths.into_iter().map(|path| (self.client.delete(&path, None), path)).collect();
        for (call, path) in calls {
            match call.await {
                Ok(_) => self.count += 1,
                Err(error) if error.kind == ErrorKind::NoNode => {}
                Err(error) if error.kind == ErrorKind::NotEmpty => self.left = Some(path),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn may_go_by_itself(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NoNode | ErrorKind::NotEmpty | ErrorKind::BadArguments)
}
