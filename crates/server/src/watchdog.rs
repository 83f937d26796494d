//! Measures how long tasks had to wait for a thread: nothing may occupy the runtime for more than 10 ms.
//!
//! It sees the runtime as a whole. On a runtime with one thread, each task that occupies it for so long is
//! counted. With several threads, a stall is counted only while all of them are occupied, or while the
//! occupied one has already taken this task: any other thread that is free serves the timer and gives this
//! task its turn. A task that only the occupied thread can take up is late meanwhile, and that is not seen.
//!
//! A task asks for a turn every `TICK`, and measures how late it gets it. Two causes of lateness are not the
//! node's own, and are taken off:
//!
//! - The process did not run at all: it was stopped, or the machine was. A plain thread, which sleeps most of
//!   the time, was late too then.
//! - Threads that could run waited for a processor, which others had. The kernel counts that time for each
//!   thread. All such time of the runtime's threads and of the thread that applies, since it was last looked
//!   at, is taken off.
//!
//! So on a busy machine some of the node's own stalls may be missed or look shorter, and none is made up. On
//! an idle one a stall of all threads of more than 10 ms and one `TICK` is always counted. Where the kernel
//! keeps no such account only stalls of more than 50 ms count.

use std::collections::BTreeSet;
use std::fs::read_to_string;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

/// How often the runtime has to give the task a turn.
const TICK: Duration = Duration::from_millis(20);
/// A turn that is so late is a stall.
const STALL: Duration = Duration::from_millis(10);
/// The same where it is not known how long threads waited for a processor.
const STALL_WITHOUT_ACCOUNT: Duration = Duration::from_millis(50);
/// How often the plain thread wakes.
const LOOK: Duration = Duration::from_millis(20);
/// So often, in ticks, the kernel's account is looked at while nothing is late.
const ACCOUNT_TICKS: u32 = 50;
/// The name of the thread that applies entries.
const APPLY: &str = "apply";

/// Times at which no thread of the runtime took up new work.
pub(crate) struct Stalls {
    count: AtomicU64,
    longest_ms: AtomicU64,
}

impl Stalls {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Stalls { count: AtomicU64::new(0), longest_ms: AtomicU64::new(0) })
    }

    /// How many stalls there were, and how many milliseconds the longest one took.
    pub(crate) fn so_far(&self) -> (u64, u64) {
        (self.count.load(Ordering::Relaxed), self.longest_ms.load(Ordering::Relaxed))
    }

    /// Counts a turn that came `late`. Meanwhile a thread that sleeps was late by `overslept`, and threads
    /// waited for a processor for `waited`, which is `None` where the kernel keeps no account of that.
    fn turn(&self, late: Duration, overslept: Duration, waited: Option<Duration>) {
        let own = late.saturating_sub(overslept).saturating_sub(waited.unwrap_or_default());
        let stall = if waited.is_some() { STALL } else { STALL_WITHOUT_ACCOUNT };
        if own > stall {
            self.count.fetch_add(1, Ordering::Relaxed);
            self.longest_ms.fetch_max(own.as_millis() as u64, Ordering::Relaxed);
        }
    }
}

/// The time that the plain thread has slept too long, ever.
struct Sleeper {
    start: Instant,
    /// When it last woke, in microseconds after `start`.
    woke_us: AtomicU64,
    overslept_us: AtomicU64,
}

impl Sleeper {
    fn new() -> Sleeper {
        Sleeper { start: Instant::now(), woke_us: AtomicU64::new(0), overslept_us: AtomicU64::new(0) }
    }

    fn now_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    /// The thread has woken.
    fn wakes(&self, now_us: u64) {
        self.overslept_us.fetch_add(self.late_us(now_us), Ordering::Relaxed);
        self.woke_us.store(now_us, Ordering::Relaxed);
    }

    /// By how much it sleeps too long at this moment.
    fn late_us(&self, now_us: u64) -> u64 {
        now_us.saturating_sub(self.woke_us.load(Ordering::Relaxed)).saturating_sub(LOOK.as_micros() as u64)
    }

    /// All of it, what is not over included.
    fn overslept(&self, now_us: u64) -> Duration {
        Duration::from_micros(self.overslept_us.load(Ordering::Relaxed) + self.late_us(now_us))
    }
}

/// The kernel's account of how long threads waited for a processor.
#[derive(Default)]
struct Account {
    threads: BTreeSet<String>,
    /// What it was when it was last looked at.
    waited: Duration,
}

impl Account {
    fn new() -> Account {
        let mut account = Account::default();
        for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
            let is_apply = |name: String| name.trim_end() == APPLY;
            if read_to_string(task.path().join("comm")).is_ok_and(is_apply) {
                account.threads.insert(task.file_name().to_string_lossy().into_owned());
            }
        }
        account
    }

    /// The thread that runs this is one of the runtime's.
    fn add_own(&mut self) {
        let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
        if !self.threads.contains(&thread) {
            // What it has waited before counts for nothing.
            self.waited += waited_of(&thread).unwrap_or_default();
            self.threads.insert(thread);
        }
    }

    /// How long the threads have waited since the last look; `None` if that is not known.
    fn look(&mut self) -> Option<Duration> {
        let mut waited = None;
        for thread in &self.threads {
            if let Some(one) = waited_of(thread) {
                waited = Some(waited.unwrap_or(Duration::ZERO) + one);
            }
        }
        let before = std::mem::replace(&mut self.waited, waited?);
        Some(self.waited.saturating_sub(before))
    }
}

fn waited_of(thread: &str) -> Option<Duration> {
    parse_waited(&read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?)
}

/// The second number: nanoseconds in which the thread could run and did not.
fn parse_waited(schedstat: &str) -> Option<Duration> {
    schedstat.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

/// Starts the plain thread, and measures for as long as the runtime lives.
pub(crate) async fn run_watchdog(stalls: Arc<Stalls>) {
    let sleeper = Arc::new(Sleeper::new());
    let weak = Arc::downgrade(&sleeper);
    let sleeping = std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
        while let Some(sleeper) = weak.upgrade() {
            sleeper.wakes(sleeper.now_us());
            drop(sleeper);
            std::thread::sleep(LOOK);
        }
    });
    if let Err(error) = sleeping {
        tracing::warn!(%error, "there is no thread for the watchdog: stalls are not counted");
        return;
    }
    let mut account = Account::new();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut overslept, mut since_look) = (Duration::ZERO, 0);
    loop {
        let due = ticks.tick().await;
        let late = due.elapsed();
        let overslept_before = std::mem::replace(&mut overslept, sleeper.overslept(sleeper.now_us()));
        account.add_own();
        since_look += 1;
        let is_late = late > STALL;
        if is_late || since_look == ACCOUNT_TICKS {
            since_look = 0;
            let waited = account.look();
            if is_late {
                stalls.turn(late, overslept.saturating_sub(overslept_before), waited);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Only what is the node's own counts: neither a process that did not run, nor a wait for a processor.
    #[test]
    fn own_stalls_are_counted() {
        let stalls = Stalls::new();
        stalls.turn(ms(10), ms(0), Some(ms(0)));
        stalls.turn(ms(5000), ms(4995), Some(ms(0)));
        stalls.turn(ms(40), ms(0), Some(ms(35)));
        stalls.turn(ms(40), ms(0), Some(ms(80)));
        stalls.turn(ms(50), ms(0), None);
        assert_eq!(stalls.so_far(), (0, 0));
        stalls.turn(ms(12), ms(0), Some(ms(0)));
        assert_eq!(stalls.so_far(), (1, 12));
        stalls.turn(ms(60), ms(0), Some(ms(20)));
        stalls.turn(ms(51), ms(0), None);
        assert_eq!(stalls.so_far(), (3, 51));
    }

    /// A thread that wakes in time has not overslept; one that was stopped has, also before it wakes.
    #[test]
    fn sleep_that_is_too_long_is_seen() {
        let sleeper = Sleeper::new();
        (0..10).for_each(|look| sleeper.wakes(look * 20_000));
        assert_eq!(sleeper.overslept(199_000), Duration::ZERO);
        assert_eq!(sleeper.overslept(5_200_000), ms(5000));
        sleeper.wakes(5_200_000);
        assert_eq!(sleeper.overslept(5_210_000), ms(5000));
    }

    #[test]
    fn waits_for_a_processor_are_read() {
        assert_eq!(parse_waited("561145 77015 2\n"), Some(Duration::from_nanos(77_015)));
        assert_eq!(parse_waited("0"), None);
        let mut account = Account::default();
        account.add_own();
        account.add_own();
        assert_eq!(account.threads.len(), 1);
    }

    /// A task that occupies the only thread of a runtime for longer than 10 ms is seen.
    #[tokio::test]
    async fn busy_task_is_a_stall() {
        let stalls = Stalls::new();
        let watchdog = tokio::spawn(run_watchdog(stalls.clone()));
        tokio::time::sleep(4 * TICK).await;
        let (start, mut longest) = (Instant::now(), 0);
        // On a machine that others keep busy the time that this thread waits for a processor is taken off.
        while longest == 0 && start.elapsed() < ms(10_000) {
            let busy = Instant::now();
            while busy.elapsed() < ms(100) {
                std::hint::spin_loop();
            }
            tokio::time::sleep(2 * TICK).await;
            longest = stalls.so_far().1;
        }
        assert!(longest >= 10, "{longest} ms");
        watchdog.abort();
    }
}
