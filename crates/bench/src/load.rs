use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use coordd_client::{Bytes, Call, Client, ConnectOptions, CreateMode, Error, ErrorKind, ReadLevel, Stat};
use futures::future::try_join_all;
use rand::{Rng as _, RngCore as _};

use crate::handover;
use crate::options::{Operation, Options};
use crate::recorder::Recorder;
use crate::report::Report;

/// How many creates of the set-up are in flight at once.
const SETUP_DEPTH: usize = 200;
/// How long to wait in the end for what is in flight.
const DRAIN: Duration = Duration::from_secs(10);

/// When the phases of a run begin and end.
#[derive(Clone, Copy)]
pub(crate) struct Schedule {
    pub(crate) measure_from: Instant,
    pub(crate) until: Instant,
}

impl Schedule {
    fn new(options: &Options) -> Self {
        let measure_from = Instant::now() + options.warmup;
        Self { measure_from, until: measure_from + options.duration }
    }

    /// The measured time.
    pub(crate) fn duration(&self) -> Duration {
        self.until - self.measure_from
    }
}

/// A request that is in flight.
enum InFlight {
    Create(Call<coordd_client::Created>),
    Set(Call<Stat>),
    Get(Call<(Bytes, Stat)>),
}

impl InFlight {
    async fn answer(self) -> Result<(), Error> {
        match self {
            InFlight::Create(call) => call.await.map(drop),
            InFlight::Set(call) => call.await.map(drop),
            InFlight::Get(call) => call.await.map(drop),
        }
    }
}

/// One connection and its work.
struct Worker {
    client: Client,
    op: Operation,
    read_percent: u8,
    value: Bytes,
    /// The znodes to set and get, in turn.
    paths: Vec<String>,
    /// The prefix of znodes to create.
    create_prefix: String,
    turn: usize,
    successes: Arc<AtomicU64>,
}

/// Prepares, loads, measures, cleans up.
pub(crate) async fn run(options: &Options) -> anyhow::Result<Report> {
    let connect = |name: String| {
        let connect = ConnectOptions::new().session_timeout(options.session_timeout).client_name(name);
        connect.connect(options.endpoints.clone())
    };
    let admin = connect("coordbench".into()).await.context("no session")?;
    remove_root(&admin, &options.root).await?;
    let names = (0..options.connections).map(|index| connect(format!("coordbench-{index}")));
    let clients = try_join_all(names).await.context("no session")?;
    let (total, connection_gap_ms) = match options.op {
        Operation::Lock => handover::run(clients, &options.root, Schedule::new(options)).await?,
        _ => put_load(clients, options).await?,
    };
    if !options.keep {
        remove_root(&admin, &options.root).await?;
    }
    admin.close().await.context("closing the session")?;
    Ok(Report::new(options, &total, connection_gap_ms))
}

/// Returns what all connections saw, and the longest gap of the one that fared worst.
async fn put_load(clients: Vec<Client>, options: &Options) -> anyhow::Result<(Recorder, u64)> {
    let mut value = vec![0; options.value_bytes as usize];
    rand::rng().fill_bytes(&mut value);
    let value = Bytes::from(value);
    let successes = Arc::new(AtomicU64::new(0));
    let mut workers = Vec::new();
    for (index, client) in clients.into_iter().enumerate() {
        let parent = format!("{}/{index}", options.root);
        let paths = (0..options.keys).map(|key| format!("{parent}/{key}")).collect();
        workers.push(Worker {
            client,
            op: options.op,
            read_percent: options.read_percent,
            value: value.clone(),
            paths,
            create_prefix: parent,
            turn: 0,
            successes: successes.clone(),
        });
    }
    try_join_all(workers.iter().map(Worker::set_up)).await.context("setting up")?;

    let schedule = Schedule::new(options);
    let progress = options.progress.then(|| tokio::spawn(print_progress(successes)));
    let depth = options.depth as usize;
    let tasks = workers.into_iter().map(|worker| tokio::spawn(worker.run(depth, schedule)));
    let recorders = try_join_all(tasks).await.context("a connection's task failed")?;
    if let Some(progress) = progress {
        progress.abort();
    }
    Ok(merge(&recorders, schedule))
}

/// What all connections saw together, and the longest gap of the one that fared worst.
pub(crate) fn merge(recorders: &[Recorder], schedule: Schedule) -> (Recorder, u64) {
    let mut total = Recorder::new(schedule.duration());
    let mut connection_gap_ms = 0;
    for recorder in recorders {
        total.add(recorder);
        connection_gap_ms = connection_gap_ms.max(recorder.longest_gap_ms());
    }
    (total, connection_gap_ms)
}

async fn remove_root(client: &Client, root: &str) -> anyhow::Result<()> {
    match client.delete_tree_in_batches(root, |_| {}).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind == ErrorKind::NoNode => Ok(()),
        Err(error) => Err(error).with_context(|| format!("deleting {root}")),
    }
}

async fn print_progress(successes: Arc<AtomicU64>) {
    let mut second = tokio::time::interval(Duration::from_secs(1));
    second.tick().await;
    let (mut before, mut at) = (0, 0);
    loop {
        second.tick().await;
        let now = successes.load(Ordering::Relaxed);
        at += 1;
        note!("second {at}: {}", now - before);
        before = now;
    }
}

impl Worker {
    /// Creates the znodes that the load sets and gets.
    async fn set_up(&self) -> Result<(), Error> {
        let parents = coordd_client::CreateOptions::new(CreateMode::Persistent).parents(true);
        self.client.create(&self.create_prefix, "", parents).await?;
        if self.op == Operation::Create {
            return Ok(());
        }
        for paths in self.paths.chunks(SETUP_DEPTH) {
            let creates =
                paths.iter().map(|path| self.client.create(path, self.value.clone(), CreateMode::Persistent));
            try_join_all(creates).await?;
        }
        Ok(())
    }

    /// Loads until the end, and gives what is then in flight a while.
    async fn run(mut self, depth: usize, schedule: Schedule) -> Recorder {
        let mut recorder = Recorder::new(schedule.duration());
        let deadline = schedule.until + DRAIN;
        let load = self.load(depth, schedule, &mut recorder);
        let late = tokio::time::timeout_at(deadline.into(), load).await.is_err();
        if late {
            note!("{} requests without an answer in the end", self.client.unanswered());
            recorder.on_error(ErrorKind::ConnectionLoss);
        }
        recorder
    }

    /// Keeps `depth` requests in flight until the end. The answers of a session come in the order of its requests, so
    /// it is enough to wait for the oldest, and a batch of answers wakes this task once.
    async fn load(&mut self, depth: usize, schedule: Schedule, recorder: &mut Recorder) {
        let mut in_flight: VecDeque<(Instant, InFlight)> = VecDeque::with_capacity(depth);
        let mut now = Instant::now();
        for _ in 0..depth {
            in_flight.push_back((now, self.send()));
        }
        while let Some((sent, oldest)) = in_flight.pop_front() {
            let answer = oldest.answer().await;
            now = Instant::now();
            match answer {
                Ok(()) => {
                    self.successes.fetch_add(1, Ordering::Relaxed);
                    if let Some(at) = now.checked_duration_since(schedule.measure_from) {
                        recorder.on_success(at, now - sent);
                    }
                }
                Err(error) => {
                    recorder.on_error(error.kind);
                    if error.is_terminal() {
                        note!("a session ended: {error}");
                        return;
                    }
                }
            }
            if now < schedule.until {
                in_flight.push_back((now, self.send()));
            }
        }
    }

    fn send(&mut self) -> InFlight {
        self.turn += 1;
        let path = &self.paths[self.turn % self.paths.len()];
        let get = |level| InFlight::Get(self.client.get(path, level));
        let set = || InFlight::Set(self.client.set(path, self.value.clone(), None));
        match self.op {
            Operation::Set => set(),
            Operation::Get => get(ReadLevel::Local),
            Operation::GetLinearizable => get(ReadLevel::Linearizable),
            Operation::Mixed if rand::rng().random_range(0..100) < self.read_percent => get(ReadLevel::Local),
            Operation::Mixed => set(),
            Operation::Create => {
                let path = format!("{}/{}", self.create_prefix, self.turn);
                InFlight::Create(self.client.create(path, self.value.clone(), CreateMode::Persistent))
            }
            Operation::Lock => unreachable!("a lock is not put as load, but handed over"),
        }
    }
}
