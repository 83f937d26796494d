//! The least state machine that openraft's suite for stores needs: it knows what it applied, and no more.

use std::io;

use coordd_raft::types::{EntryPayload, LeaderId, LogId, SnapshotMeta, StoredMembership};
use coordd_raft::{Member, NodeId, TypeConfig};
use futures::{Stream, StreamExt as _};
use openraft::OptionalSend;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};

#[derive(Clone, Debug, Default)]
pub(crate) struct MinimalStateMachine {
    last_applied: Option<LogId>,
    membership: StoredMembership,
    snapshot: Option<SnapshotMeta>,
}

type SnapshotOf = Snapshot<LeaderId, NodeId, Member, ()>;

impl RaftStateMachine<TypeConfig> for MinimalStateMachine {
    type SnapshotData = ();
    type SnapshotBuilder = MinimalStateMachine;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            self.last_applied = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = entry.payload {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
            }
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> MinimalStateMachine {
        self.snapshot =
            Some(SnapshotMeta { last_log_id: self.last_applied, last_membership: self.membership.clone() });
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, (): ()) -> io::Result<()> {
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.snapshot = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf>> {
        Ok(self.snapshot.clone().map(|meta| Snapshot { meta, snapshot: () }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for MinimalStateMachine {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf> {
        let meta = self.snapshot.clone().ok_or_else(|| io::Error::other("nothing was cut"))?;
        Ok(Snapshot { meta, snapshot: () })
    }
}
