//! The budget for what this node holds for its clients (G9): events, replies, unfinished requests and connections.
//!
//! Whoever keeps something that waits for a client adds its size here and takes it off when it is gone. When more is held than
//! the budget allows, the streams, replies and connections that hold most end first. A stream that ends so resumes, and misses
//! nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// How often stale replies are looked for, without any need.
const SWEEP_INTERVAL: Duration = Duration::from_secs(2);
/// Streams and replies that were ended need a moment until their memory is free; no others are ended before.
const SETTLE: Duration = Duration::from_millis(30);
/// Ending what holds less than this frees nothing.
const WORTH_ENDING: usize = 8 << 10;

/// Something whose end frees memory.
pub(crate) trait Holder: Send + Sync {
    /// Bytes that its end frees.
    fn held(&self) -> usize;
    /// Ends it. Called once or more.
    fn end(&self);
    /// Nobody has taken any of it for so long that nobody will.
    fn is_stale(&self, _now: Instant) -> bool {
        false
    }
}

/// See the module.
pub(crate) struct ClientMemory {
    used: AtomicUsize,
    max: AtomicUsize,
    /// More is used than `max`.
    exceeded: Notify,
    next_id: AtomicU64,
    holders: Mutex<HashMap<u64, Weak<dyn Holder>>>,
    /// How many were ended because the budget was used up.
    ended: AtomicU64,
    /// How many were ended because nobody took them.
    stale: AtomicU64,
}

impl ClientMemory {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(ClientMemory {
            used: AtomicUsize::new(0),
            max: AtomicUsize::new(max),
            exceeded: Notify::new(),
            next_id: AtomicU64::new(1),
            holders: Mutex::default(),
            ended: AtomicU64::new(0),
            stale: AtomicU64::new(0),
        })
    }

    /// A budget that nothing exceeds.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn unlimited() -> Arc<Self> {
        Self::new(usize::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Weak<dyn Holder>>> {
        self.holders.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Bytes in use.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes that may be in use.
    pub(crate) fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed)
    }

    /// What the process may use has changed.
    pub(crate) fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// How many holders were ended for the budget's sake, and how many because nobody took what they held.
    pub(crate) fn ended(&self) -> (u64, u64) {
        (self.ended.load(Ordering::Relaxed), self.stale.load(Ordering::Relaxed))
    }

    /// Counts bytes that wait for a client from now on. Never refuses and never waits.
    pub(crate) fn add(&self, bytes: usize) {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.max() {
            self.exceeded.notify_one();
        }
    }

    /// More is used than the budget and a quarter of it: what was ended is not free so far, and replies come
    /// faster than others can be ended for them.
    pub(crate) fn is_far_exceeded(&self) -> bool {
        let max = self.max();
        self.used() > max.saturating_add(max / 4)
    }

    /// They wait no more.
    pub(crate) fn remove(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The same for as long as the guard lives.
    pub(crate) fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        self.add(bytes);
        Charge { memory: self.clone(), bytes }
    }

    /// From now on `holder` may be ended, until the guard is dropped.
    pub(crate) fn register(self: &Arc<Self>, holder: Weak<dyn Holder>) -> Registered {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(id, holder);
        Registered { memory: self.clone(), id }
    }

    fn all(&self) -> Vec<Arc<dyn Holder>> {
        self.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// Ends those that hold most until an eighth of the budget would be free; returns how many.
    fn relieve(&self) -> usize {
        let (mut used, max) = (self.used(), self.max());
        if used <= max {
            return 0;
        }
        let goal = max - max / 8;
        let mut holders: Vec<_> = self.all().into_iter().map(|holder| (holder.held(), holder)).collect();
        holders.sort_unstable_by_key(|(held, _)| std::cmp::Reverse(*held));
        let mut ended = 0;
        for (held, holder) in holders {
            if used <= goal || held < WORTH_ENDING {
                break;
            }
            holder.end();
            used = used.saturating_sub(held);
            ended += 1;
        }
        self.ended.fetch_add(ended as u64, Ordering::Relaxed);
        ended
    }

    /// Ends what nobody has taken for too long.
    fn sweep(&self, now: Instant) {
        for holder in self.all() {
            if holder.is_stale(now) {
                holder.end();
                self.stale.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Keeps the node within its budget, for ever.
pub(crate) async fn run_client_memory(memory: Arc<ClientMemory>) {
    let mut swept = Instant::now();
    loop {
        let _ = tokio::time::timeout(SWEEP_INTERVAL, memory.exceeded.notified()).await;
        if memory.used() > memory.max() {
            relieve(&memory).await;
            // Also where nothing was worth ending: the scan looks at all holders, which may be many.
            tokio::time::sleep(SETTLE).await;
        }
        if swept.elapsed() >= SWEEP_INTERVAL {
            swept = Instant::now();
            on_own_thread(&memory, move |memory| memory.sweep(swept)).await;
        }
    }
}

async fn relieve(memory: &Arc<ClientMemory>) {
    let ended = on_own_thread(memory, ClientMemory::relieve).await;
    if ended > 0 {
        tracing::warn!(
            ended,
            used_bytes = memory.used(),
            max_bytes = memory.max(),
            "the memory for clients is used up (--client-memory-max): the streams and replies that held most were ended"
        );
    }
}

async fn on_own_thread<T: Default + Send + 'static>(
    memory: &Arc<ClientMemory>,
    work: impl FnOnce(&ClientMemory) -> T + Send + 'static,
) -> T {
    let memory = memory.clone();
    // It fails only when the node stops.
    tokio::task::spawn_blocking(move || work(&memory)).await.unwrap_or_default()
}

/// See [`ClientMemory::charge`].
pub(crate) struct Charge {
    memory: Arc<ClientMemory>,
    bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.memory.remove(self.bytes);
    }
}

/// See [`ClientMemory::register`].
pub(crate) struct Registered {
    memory: Arc<ClientMemory>,
    id: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.memory.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    struct Held {
        memory: Arc<ClientMemory>,
        bytes: usize,
        ended: AtomicBool,
    }

    impl Holder for Held {
        fn held(&self) -> usize {
            self.bytes
        }

        fn end(&self) {
            if !self.ended.swap(true, Ordering::Relaxed) {
                self.memory.remove(self.bytes);
            }
        }

        fn is_stale(&self, _now: Instant) -> bool {
            self.bytes == 5000
        }
    }

    fn hold(memory: &Arc<ClientMemory>, bytes: usize) -> (Arc<Held>, Registered) {
        memory.add(bytes);
        let held = Arc::new(Held { memory: memory.clone(), bytes, ended: AtomicBool::new(false) });
        let weak: Weak<dyn Holder> = Arc::downgrade(&(held.clone() as Arc<dyn Holder>));
        (held, memory.register(weak))
    }

    /// Over the budget, the largest holders end first, and no more of them than is needed.
    #[test]
    fn largest_holders_end_first() {
        let memory = ClientMemory::new(100_000);
        let all: Vec<_> = [10_000, 60_000, 20_000].into_iter().map(|bytes| hold(&memory, bytes)).collect();
        assert_eq!(memory.relieve(), 0, "within the budget");
        let charge = memory.charge(20_000);
        assert_eq!((memory.used(), memory.relieve()), (110_000, 1));
        let ended: Vec<bool> = all.iter().map(|(held, _)| held.ended.load(Ordering::Relaxed)).collect();
        assert_eq!(ended, [false, true, false]);
        drop(charge);
        assert_eq!(memory.used(), 30_000);
    }

    /// What nobody takes goes without any need; what is gone is not looked at.
    #[test]
    fn stale_holders_end() {
        let memory = ClientMemory::new(100_000);
        let (kept, _kept) = hold(&memory, 6000);
        let (stale, _stale) = hold(&memory, 5000);
        let (gone, registered) = hold(&memory, 5000);
        drop(registered);
        memory.sweep(Instant::now());
        let ended = |held: &Held| held.ended.load(Ordering::Relaxed);
        assert_eq!((ended(&kept), ended(&stale), ended(&gone)), (false, true, false));
        assert_eq!(memory.ended(), (0, 1));
    }
}
