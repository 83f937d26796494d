//! An engine in memory that outlives the log on it, can be told when to commit, and can be damaged.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};

use coordd_raft::storage::{CommitTimes, Wal, WalError};

/// Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryWal {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) records: BTreeMap<u64, Vec<u8>>,
    pub(crate) acknowledged: u64,
    /// There is no room for any record.
    pub(crate) is_full: bool,
    /// Records that were refused because of that.
    pub(crate) refused: u64,
    gate: Option<Gate>,
}

#[derive(Debug)]
struct Gate {
    arrived: Sender<u64>,
    go_on: Arc<Mutex<Receiver<()>>>,
}

/// The other side of the gate that commits wait at.
#[derive(Debug)]
pub(crate) struct GateKeeper {
    arrived: Receiver<u64>,
    go_on: Sender<()>,
}

impl GateKeeper {
    /// Waits until a record is about to be made durable. Returns its number.
    pub(crate) fn next(&self) -> u64 {
        self.arrived.recv().expect("the WAL thread lives")
    }

    /// Lets the record through.
    pub(crate) fn let_go(&self) {
        self.go_on.send(()).expect("the WAL thread lives");
    }
}

impl MemoryWal {
    pub(crate) fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().expect("no test panics with the lock")
    }

    /// From here on each record waits until it is let through.
    pub(crate) fn gate(&self) -> GateKeeper {
        let ((arrived_tx, arrived), (go_on, go_on_rx)) = (channel(), channel());
        self.disk().gate = Some(Gate { arrived: arrived_tx, go_on: Arc::new(Mutex::new(go_on_rx)) });
        GateKeeper { arrived, go_on }
    }

    /// From here on no record waits.
    pub(crate) fn remove_gate(&self) {
        self.disk().gate = None;
    }

    /// A second disk with the same content: what a process would find that started now.
    pub(crate) fn copy(&self) -> MemoryWal {
        let disk = self.disk();
        let copy = Disk { records: disk.records.clone(), acknowledged: disk.acknowledged, ..Disk::default() };
        MemoryWal { disk: Arc::new(Mutex::new(copy)) }
    }
}

impl Wal for MemoryWal {
    fn bounds(&self) -> Result<Option<(u64, u64)>, WalError> {
        let disk = self.disk();
        let bounds = disk.records.first_key_value().zip(disk.records.last_key_value());
        Ok(bounds.map(|((first, _), (last, _))| (*first, *last)))
    }

    fn read(&self, seq: u64) -> Result<Option<Vec<u8>>, WalError> {
        Ok(self.disk().records.get(&seq).cloned())
    }

    fn acknowledged_seq(&self) -> u64 {
        self.disk().acknowledged
    }

    fn commit(&self, seq: u64, record: &[u8]) -> Result<CommitTimes, WalError> {
        let gate = self.disk().gate.as_ref().map(|gate| (gate.arrived.clone(), Arc::clone(&gate.go_on)));
        if let Some((arrived, go_on)) = gate
            && arrived.send(seq).is_ok()
        {
            // A keeper that is gone has opened the gate.
            let _ = go_on.lock().expect("only the WAL thread locks it").recv();
        }
        let mut disk = self.disk();
        if disk.is_full {
            disk.refused += 1;
            return Err(WalError::at("write")(std::io::ErrorKind::StorageFull.into()));
        }
        assert_eq!(disk.records.last_key_value().map_or(seq, |(last, _)| last + 1), seq, "in sequence");
        disk.records.insert(seq, record.to_vec());
        disk.acknowledged = seq;
        Ok(CommitTimes::default())
    }

    fn remove_prefix(&self, through: u64, max: usize) -> Result<bool, WalError> {
        let mut disk = self.disk();
        for _ in 0..max {
            match disk.records.first_entry() {
                Some(first) if *first.key() <= through => drop(first.remove()),
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    fn remove_suffix(&self, from: u64) -> Result<(), WalError> {
        self.disk().records.retain(|seq, _| *seq < from);
        Ok(())
    }

    fn close(&self) -> Result<(), WalError> {
        Ok(())
    }
}
