//! openraft's own suite for stores: on a fresh store, and on one that is closed and opened again after every write.

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::path::PathBuf;
use std::sync::Arc;

use coordd_raft::TypeConfig;
use coordd_raft::storage::{DataDir, LogStore};
use coordd_raft::types::{Entry, LogId, Vote};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage, RaftLogStorageExt as _};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{OptionalSend, RaftLogReader, StorageError};
use tempfile::TempDir;
use tokio::sync::Mutex;

use crate::state_machine::MinimalStateMachine;
use crate::support::open;

struct Fresh;

impl StoreBuilder<TypeConfig, LogStore, MinimalStateMachine, (TempDir, DataDir)> for Fresh {
    async fn build(
        &self,
    ) -> Result<((TempDir, DataDir), LogStore, MinimalStateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let (lock, log) = open(dir.path()).unwrap();
        Ok(((dir, lock), log, MinimalStateMachine::default()))
    }
}

#[tokio::test]
async fn a_fresh_store_passes_the_suite() {
    Suite::test_all(Fresh).await.unwrap();
}

/// Forgets everything but its files after each write.
#[derive(Clone)]
struct Forgetful {
    dir: PathBuf,
    log: Arc<Mutex<Option<(DataDir, LogStore)>>>,
}

impl Forgetful {
    async fn reopen(&self) {
        let mut log = self.log.lock().await;
        let (lock, old) = log.take().expect("open");
        old.close();
        drop(lock);
        *log = Some(open(&self.dir).unwrap());
    }

    /// The log of this moment. Not to be kept.
    async fn log(&self) -> LogStore {
        self.log.lock().await.as_ref().expect("open").1.clone()
    }
}

impl RaftLogReader<TypeConfig> for Forgetful {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        self.log().await.try_get_log_entries(range).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.log().await.read_vote().await
    }
}

impl RaftLogStorage<TypeConfig> for Forgetful {
    type LogReader = Forgetful;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        self.log().await.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> Forgetful {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.log().await.save_vote(vote).await?;
        self.reopen().await;
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.log().await.save_committed(committed).await?;
        self.reopen().await;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        self.log().await.read_committed().await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.log().await.blocking_append(entries).await.map_err(io::Error::other)?;
        self.reopen().await;
        callback.io_completed(Ok(()));
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        self.log().await.truncate_after(last_log_id).await?;
        self.reopen().await;
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        self.log().await.purge(log_id).await?;
        self.reopen().await;
        Ok(())
    }
}

struct Reopened;

impl StoreBuilder<TypeConfig, Forgetful, MinimalStateMachine, TempDir> for Reopened {
    async fn build(&self) -> Result<(TempDir, Forgetful, MinimalStateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let log = Arc::new(Mutex::new(Some(open(dir.path()).unwrap())));
        let log = Forgetful { dir: dir.path().to_owned(), log };
        Ok((dir, log, MinimalStateMachine::default()))
    }
}

#[tokio::test]
async fn a_store_reopened_after_every_write_passes_the_suite() {
    Suite::test_all(Reopened).await.unwrap();
}
