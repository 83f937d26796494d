//! Reads that take longer than some milliseconds: a few at a time, off the threads that serve everybody else (G9).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use coordd_proto::v1::{self, ErrorCode};
use tokio::sync::Semaphore;

use crate::convert::error;

/// Reads that run at the same time.
const RUNNING: usize = 2;
/// Reads that run or wait; more are refused.
const WAITING_MAX: usize = 256;

/// See the module.
pub(crate) struct LongReads {
    running: Arc<Semaphore>,
    waiting: AtomicUsize,
    refused: AtomicU64,
}

struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl LongReads {
    pub(crate) fn new() -> Self {
        let (waiting, refused) = Default::default();
        LongReads { running: Arc::new(Semaphore::new(RUNNING)), waiting, refused }
    }

    /// How many were refused.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Runs `read` when it has its turn, on what `version` returns then. A read that has begun ends, also if
    /// nobody waits for it any more.
    pub(crate) async fn run<V, T: Send + 'static>(
        &self,
        version: impl FnOnce() -> V + Send + 'static,
        read: impl FnOnce(V) -> T + Send + 'static,
    ) -> Result<T, v1::Error> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _place = Place(&self.waiting);
        if before >= WAITING_MAX {
            self.refused.fetch_add(1, Ordering::Relaxed);
            let message = format!("{WAITING_MAX} long reads wait on this node; read less, or later");
            return Err(v1::Error { retry_after_ms: 500, ..error(ErrorCode::Throttled, message) });
        }
        let stopped = |_| error(ErrorCode::NotServing, "this node is stopping");
        let permit = self.running.clone().acquire_owned().await.map_err(|_| stopped(()))?;
        let read = tokio::task::spawn_blocking(move || {
            let read = read(version());
            drop(permit);
            read
        });
        read.await.map_err(|_| stopped(()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Two run at a time, a bounded number waits, and further ones are refused with the reason. A read that
    /// waits has no version of what it reads.
    #[tokio::test]
    async fn long_reads_are_bounded() {
        let reads = Arc::new(LongReads::new());
        let (go_on, waits) = mpsc::channel::<()>();
        let waits = Arc::new(std::sync::Mutex::new(waits));
        let most = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
        let all: Vec<_> = (0..WAITING_MAX)
            .map(|_| {
                let (reads, waits, most) = (reads.clone(), waits.clone(), most.clone());
                tokio::spawn(async move {
                    let counted = most.clone();
                    let version = move || {
                        let now = counted.0.fetch_add(1, Ordering::SeqCst) + 1;
                        counted.1.fetch_max(now, Ordering::SeqCst);
                    };
                    let read = move |()| {
                        waits.lock().unwrap().recv().unwrap();
                        most.0.fetch_sub(1, Ordering::SeqCst);
                    };
                    reads.run(version, read).await
                })
            })
            .collect();
        while reads.waiting.load(Ordering::Relaxed) < WAITING_MAX {
            tokio::task::yield_now().await;
        }
        let refused = reads.run(|| (), |()| ()).await.expect_err("one too many");
        assert_eq!((refused.code(), refused.retry_after_ms), (ErrorCode::Throttled, 500));
        (0..WAITING_MAX).for_each(|_| go_on.send(()).unwrap());
        for read in all {
            read.await.unwrap().expect("it had its turn");
        }
        assert!(most.1.load(Ordering::SeqCst) <= RUNNING);
        assert_eq!((reads.refused(), reads.waiting.load(Ordering::Relaxed)), (1, 0));
    }
}
