use std::time::Duration;

/// How a task is to be treated. It travels with the task: who returns it later need not know the queue's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskOptions {
    pub(super) priority: u16,
    pub(super) delay: Duration,
    pub(super) max_attempts: u32,
    pub(super) backoff: Duration,
    pub(super) backoff_max: Duration,
    pub(super) claim_timeout: Option<Duration>,
}

impl Default for TaskOptions {
    fn default() -> Self {
        Self {
            priority: 100,
            delay: Duration::ZERO,
            max_attempts: 5,
            backoff: Duration::from_secs(1),
            backoff_max: Duration::from_secs(300),
            claim_timeout: None,
        }
    }
}

impl TaskOptions {
    /// Priority 100, no delay, five attempts, a pause of 1 s after the first failure, which doubles up to 5 minutes, and
    /// no claim timeout.
    pub fn new() -> Self {
        Self::default()
    }

    /// 0 to 999; the lowest goes first, as with kazoo and Curator.
    #[must_use]
    pub fn priority(mut self, priority: u16) -> Self {
        self.priority = priority;
        self
    }

    /// Not to be claimed before so long after it was put, by the ensemble's clock. Whole milliseconds.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// After so many attempts that came to nothing it goes to the dead letters. At least 1.
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// The pause after the first failure, and the longest; it doubles each time. A task whose worker died comes back
    /// without a pause.
    #[must_use]
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        (self.backoff, self.backoff_max) = (first, longest);
        self
    }

    /// Takes a claim from a worker that is alive but has neither finished nor sent a heartbeat for so long. `None`, the
    /// default: a claim lasts as long as its session.
    #[must_use]
    pub fn claim_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.claim_timeout = timeout;
        self
    }
}

/// How this program uses a queue.
#[derive(Clone, Debug, Default)]
pub struct TaskQueueOptions {
    pub(super) worker: String,
    pub(super) grace: Option<Duration>,
}

impl TaskQueueOptions {
    /// A worker without a name.
    pub fn new() -> Self {
        Self::default()
    }

    /// The name that others see at what is claimed here.
    #[must_use]
    pub fn worker(mut self, name: impl Into<String>) -> Self {
        self.worker = name.into();
        self
    }

    /// How long before its deadline a claim counts as lost; see [`Grant::lost`](crate::recipes::Grant::lost).
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }
}
