use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use coordd_client::{Client, ConnectOptions, CreateMode, CreateOptions, ErrorKind, ReadLevel};
use tokio::task::JoinSet;

const ROOT: &str = "/load";
const COUNTER: &str = "/load/counter";
const SEQUENCE: &str = "/load/sequence";
/// Of each session: so many do the same, with one write under way each.
const SETTERS: usize = 5;
const CREATORS: usize = 2;

/// Sessions that write as fast as they are answered, eight writes under way each: sets of a znode that belongs to one
/// writer, creates of sequential znodes, and a counter that all raise by versioned sets. It keeps account of all answers.
pub struct Load {
    clients: Vec<Client>,
    workers: JoinSet<Tally>,
    stop: Arc<AtomicBool>,
    progress: Arc<Mutex<Progress>>,
}

/// What one worker was told.
enum Tally {
    Sets { path: String, acked: i32 },
    Creates(Vec<String>),
    Counts(i32),
}

struct Progress {
    last_success: Instant,
    longest_gap: Duration,
    successes: u64,
}

#[derive(Clone)]
struct Worker {
    client: Client,
    stop: Arc<AtomicBool>,
    progress: Arc<Mutex<Progress>>,
}

fn lock(progress: &Mutex<Progress>) -> MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Worker {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn succeeded(&self) {
        let mut progress = lock(&self.progress);
        progress.longest_gap = progress.longest_gap.max(progress.last_success.elapsed());
        progress.last_success = Instant::now();
        progress.successes += 1;
    }

    async fn set_until_stopped(self, path: String) -> Tally {
        let mut acked = 0;
        while self.goes_on() {
            let value = (acked + 1).to_string();
            let stat = self.client.set(&path, value, None).await.expect("a set of one's own znode");
            acked += 1;
            // Only this worker writes here: a lost or doubled set shows at once.
            assert_eq!(stat.version, acked, "{path} after {acked} sets");
            self.succeeded();
        }
        Tally::Sets { path, acked }
    }

    async fn create_until_stopped(self) -> Tally {
        let mut names = Vec::new();
        while self.goes_on() {
            let prefix = format!("{SEQUENCE}/n-");
            let created = self.client.create(prefix, "", CreateMode::PersistentSequential).await;
            names.push(created.expect("a create of a sequential znode").path);
            self.succeeded();
        }
        Tally::Creates(names)
    }

    async fn count_until_stopped(self) -> Tally {
        let mut counted = 0;
        while self.goes_on() {
            let (data, stat) =
                self.client.get(COUNTER, ReadLevel::Local).await.expect("a read of the counter");
            let value: i32 = String::from_utf8_lossy(&data).parse().expect("a number");
            match self.client.set(COUNTER, (value + 1).to_string(), Some(stat.version)).await {
                Ok(_) => {
                    counted += 1;
                    self.succeeded();
                }
                Err(error) if error.kind == ErrorKind::BadVersion => {}
                Err(error) => panic!("a count: {error}"),
            }
        }
        Tally::Counts(counted)
    }
}

impl Load {
    /// Opens the sessions, makes their znodes, and begins. Each session has an ephemeral of its own.
    pub async fn start(endpoints: &[String], sessions: usize, session_timeout: Duration) -> Self {
        let mut clients = Vec::new();
        for _ in 0..sessions {
            let options = ConnectOptions::new().session_timeout(session_timeout);
            clients.push(options.connect(endpoints.to_vec()).await.expect("a session"));
        }
        let first = clients.first().expect("at least one session");
        let with_parents = CreateOptions::new(CreateMode::Persistent).parents(true);
        first.create(COUNTER, "0", with_parents.clone()).await.expect("the counter is new");
        first.create(SEQUENCE, "", with_parents).await.expect("the sequence is new");

        let stop = Arc::<AtomicBool>::default();
        let now = Progress { last_success: Instant::now(), longest_gap: Duration::ZERO, successes: 0 };
        let progress = Arc::new(Mutex::new(now));
        let mut workers = JoinSet::new();
        for (index, client) in clients.iter().enumerate() {
            let worker = Worker { client: client.clone(), stop: stop.clone(), progress: progress.clone() };
            client.create(ephemeral(index), "", CreateMode::Ephemeral).await.expect("an ephemeral");
            for nth in 0..SETTERS {
                let path = format!("{ROOT}/set-{index}-{nth}");
                client.create(&path, "0", CreateMode::Persistent).await.expect("the znode is new");
                workers.spawn(worker.clone().set_until_stopped(path));
            }
            for _ in 0..CREATORS {
                workers.spawn(worker.clone().create_until_stopped());
            }
            workers.spawn(worker.count_until_stopped());
        }
        Load { clients, workers, stop, progress }
    }

    /// Writes that were acknowledged so far.
    pub fn successes(&self) -> u64 {
        lock(&self.progress).successes
    }

    /// The longest time without an acknowledged write since the last call of this, the present moment included.
    pub fn take_longest_gap(&self) -> Duration {
        let mut progress = lock(&self.progress);
        let gap = progress.longest_gap.max(progress.last_success.elapsed());
        progress.longest_gap = Duration::ZERO;
        gap
    }

    /// Waits until so many more writes were acknowledged.
    pub async fn more_successes(&self, count: u64) {
        let enough = self.successes() + count;
        crate::eventually(Duration::from_secs(30), "writes are acknowledged", async || {
            self.successes() >= enough
        })
        .await;
    }

    /// Ends it: waits for all answers. The sessions stay open as long as the ledger.
    pub async fn stop(mut self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        let mut ledger =
            Ledger { clients: self.clients, sets: BTreeMap::new(), created: Vec::new(), counted: 0 };
        while let Some(tally) = self.workers.join_next().await {
            match tally.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic())) {
                Tally::Sets { path, acked } => drop(ledger.sets.insert(path, acked)),
                Tally::Creates(names) => ledger.created.extend(names),
                Tally::Counts(counted) => ledger.counted += counted,
            }
        }
        ledger
    }
}

fn ephemeral(index: usize) -> String {
    format!("{ROOT}/ephemeral-{index}")
}

/// All that was acknowledged.
pub struct Ledger {
    clients: Vec<Client>,
    sets: BTreeMap<String, i32>,
    created: Vec<String>,
    counted: i32,
}

impl Ledger {
    /// Acknowledged writes.
    pub fn len(&self) -> usize {
        self.sets.values().sum::<i32>() as usize + self.created.len() + self.counted as usize
    }

    /// There were none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Compares with what `client` sees: nothing acknowledged is missing, nothing took effect twice, sequence numbers are
    /// dense and unique.
    pub async fn verify(&self, client: &Client) {
        for (path, acked) in &self.sets {
            let (data, stat) = client.get(path, ReadLevel::Linearizable).await.expect("the znode is there");
            assert_eq!((stat.version, data), (*acked, acked.to_string().into()), "{path}");
        }
        let (data, stat) = client.get(COUNTER, ReadLevel::Linearizable).await.expect("the counter is there");
        assert_eq!((stat.version, data), (self.counted, self.counted.to_string().into()), "the counter");

        let acked: BTreeSet<&str> = self.created.iter().map(String::as_str).collect();
        assert_eq!(acked.len(), self.created.len(), "a sequential name was given out twice");
        let children =
            client.children(SEQUENCE, ReadLevel::Linearizable).await.expect("the sequence is there");
        let present: BTreeSet<String> = children.iter().map(|name| format!("{SEQUENCE}/{name}")).collect();
        let expected: BTreeSet<String> =
            (0..self.created.len()).map(|number| format!("{SEQUENCE}/n-{number:010}")).collect();
        assert_eq!(present, expected, "what is there has gaps, or more than was acknowledged");
        assert!(present.iter().map(String::as_str).eq(acked), "what is there is not what was acknowledged");
    }

    /// All sessions of the load are alive and have their ephemerals.
    pub async fn verify_ephemerals(&self, client: &Client) {
        for (index, owner) in self.clients.iter().enumerate() {
            assert!(!owner.state().is_terminal(), "session {index}: {:?}", owner.state());
            let stat = client.exists(ephemeral(index), ReadLevel::Linearizable).await.expect("a read");
            let ephemeral_owner = stat.map(|stat| stat.ephemeral_owner);
            assert_eq!(ephemeral_owner, Some(owner.session_id()), "the ephemeral of session {index}");
        }
    }
}
