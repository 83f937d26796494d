//! Measures what the state machine costs: memory per znode, and the time of creates, sets, multis, gets, snapshots
//! and loads, at a million znodes of 100 bytes. Nothing but the tree is in the figures: entries are made beforehand
//! in batches of a thousand writes.
//!
//!     cargo run --release -p coordd-tree --example measure [ZNODES]

use std::fmt::Display;
use std::hint::black_box;
use std::time::{Duration, Instant};

use coordd_tree::{
    Auth, Batch, Ceilings, Check, CheckKind, Command, Create, CreateMode, Data, Entry, Limits, MultiOp,
    OpenSession, Origin, Quota, SessionId, Tree, TreeLoader, Write, WriteOp,
};

const DATA_BYTES: usize = 100;
const BATCH: u64 = 1000;
const SESSION: u64 = 7;
const WRITES: u64 = 500_000;

fn main() {
    let znodes: u64 = std::env::args().nth(1).and_then(|arg| arg.parse().ok()).unwrap_or(1_000_000);
    let mut stream = Stream { tree: Tree::new(), next_command: 1, session: SESSION, next_write: 1, draws: 1 };
    stream.run(vec![Command::OpenSession(OpenSession {
        session: SESSION,
        password: [0; 16],
        timeout_ms: 10_000,
        client_name: "measure".into(),
    })]);
    stream.writes("create directories", dirs(znodes), |stream| {
        let dir = stream.next_write - 1;
        stream.create(format!("/dir{dir:04}"))
    });

    let before = rss();
    let first = stream.next_write;
    stream.writes("create", znodes, |stream| {
        let number = stream.next_write - first;
        stream.create(path(number, znodes))
    });
    let grown = rss() - before;
    report("memory", format!("{} MB, {} bytes per znode", grown / 1_000_000, grown / znodes));

    let any = |stream: &mut Stream| path(stream.draw() % znodes, znodes);
    stream.writes("set, random", WRITES, |stream| WriteOp::SetData {
        path: any(stream).into(),
        data: data(),
        version: -1,
    });
    stream.writes("multi of check and set", WRITES, |stream| {
        let check = Check { path: any(stream).into(), kind: CheckKind::Version(-1) };
        let set = MultiOp::SetData { path: any(stream).into(), data: data(), version: -1 };
        WriteOp::Multi(vec![MultiOp::Check(check), set])
    });
    stream.writes("multi of two sets", WRITES, |stream| {
        let set = |path: String| MultiOp::SetData { path: path.into(), data: data(), version: -1 };
        WriteOp::Multi(vec![set(any(stream)), set(any(stream))])
    });
    let shared = stream.tree.clone();
    stream.writes("set while a snapshot holds on", WRITES, |stream| WriteOp::SetData {
        path: any(stream).into(),
        data: data(),
        version: -1,
    });
    drop(shared);

    stream.dearest_commands();
    stream.deepest_commands();

    let paths: Vec<String> = (0..WRITES).map(|_| any(&mut stream)).collect();
    let auth = Auth::default();
    time("get, random", WRITES, || {
        for path in &paths {
            black_box(stream.tree.get(path, &auth).expect("it was created"));
        }
    });

    let mut chunks = Vec::new();
    time("snapshot", znodes, || chunks = stream.tree.snapshot_chunks().collect());
    let bytes: usize = chunks.iter().map(Vec::len).sum();
    report("snapshot", format!("{} chunks, {} MB", chunks.len(), bytes / 1_000_000));
    let mut loader = TreeLoader::new();
    let mut loaded = None;
    time("load", znodes, || {
        chunks.iter().for_each(|chunk| loader.push(chunk).expect("it was written just now"));
        loaded = Some(std::mem::take(&mut loader).finish().expect("it was written just now"));
    });
    assert_eq!(loaded.map(|tree| tree.digest()), Some(stream.tree.digest()));
    time("recompute the digest", znodes, || assert_eq!(stream.tree.recompute_digest(), stream.tree.digest()));
}

/// A node's stream of commands, all of them writes of one session.
struct Stream {
    tree: Tree,
    next_command: u64,
    session: SessionId,
    next_write: u64,
    draws: u64,
}

impl Stream {
    fn run(&mut self, commands: Vec<Command>) -> Duration {
        let origin = Origin { node: 1, incarnation: 1 };
        let count = commands.len() as u64;
        let entry = Entry {
            time_ms: self.next_command,
            batches: vec![Batch { origin, first_seq: self.next_command, commands }],
            ..Entry::default()
        };
        let start = Instant::now();
        let mut applied = 0;
        self.tree.apply(&entry, |_, _, _, command| {
            black_box(command.result).expect("nothing here is refused");
            applied += 1;
        });
        let elapsed = start.elapsed();
        assert_eq!(applied, count);
        self.next_command += count;
        elapsed
    }

    fn writes(&mut self, what: &str, count: u64, mut op: impl FnMut(&mut Stream) -> WriteOp<'static>) {
        let mut elapsed = Duration::ZERO;
        let mut left = count;
        while left > 0 {
            let acked = self.next_write - 1;
            let batch = left.min(BATCH);
            let commands = (0..batch)
                .map(|_| {
                    let op = op(self);
                    let seq = self.next_write;
                    self.next_write += 1;
                    Command::Write(Write {
                        session: self.session,
                        seq,
                        acked,
                        auth: Auth::default(),
                        guards: vec![],
                        op,
                    })
                })
                .collect();
            elapsed += self.run(commands);
            left -= batch;
        }
        per_item(what, count, elapsed);
    }

    /// What the ceilings allow one command to cost: as many znodes as it may remove, with paths as long as their events may be.
    fn dearest_commands(&mut self) {
        let ceilings = Ceilings::default();
        let znodes = u64::from(ceilings.tree_znodes) - 1;
        let name =
            "x".repeat((ceilings.removed_event_bytes / ceilings.tree_znodes) as usize - 64 - 16 - 2 * 48);
        let at = move |dir: &str, number: u64| format!("/{dir}/{name}{number:08}");
        let dirs = ["tree", "own"].map(|dir| format!("/{dir}"));
        let mut dirs = dirs.into_iter();
        self.writes("two directories", 2, |stream| stream.create(dirs.next().unwrap_or_default()));
        let mut numbers = 0..;
        self.writes("create what one command removes", znodes, |stream| {
            stream.create(at("tree", numbers.next().unwrap_or_default()))
        });
        let delete = WriteOp::DeleteTree { path: "/tree".into(), expected_count: Some(znodes + 1) };
        self.writes("delete it as one tree", 1, |_| delete.clone());

        let mut numbers = 0..;
        self.writes("create it as ephemerals", znodes, |stream| {
            stream.create_as(CreateMode::Ephemeral, at("own", numbers.next().unwrap_or_default()))
        });
        self.end_session();
    }

    /// The same at the greatest depth, without and with a quota on each znode above.
    fn deepest_commands(&mut self) {
        let znodes = u64::from(Ceilings::default().tree_znodes) - 1;
        let deep = "/a".repeat(Limits::default().depth - 2);
        let tops = || (2..=deep.len()).step_by(2).map(|end| deep[..end].to_owned());
        let mut each = tops();
        let depth = tops().count() as u64;
        self.writes("create a deep directory", depth, |stream| {
            stream.create(each.next().unwrap_or_default())
        });
        for quotas in [0, depth] {
            let mut each = tops();
            let quota = Quota { count_hard: Some(1 << 20), ..Quota::default() };
            self.writes("quotas above", quotas, |_| WriteOp::SetQuota {
                path: each.next().unwrap_or_default().into(),
                quota,
            });
            let mut names = std::iter::once(String::new()).chain((1..).map(|number| format!("/{number}")));
            self.writes("create what one command removes", znodes, |stream| {
                stream.create(format!("{deep}/t{}", names.next().unwrap_or_default()))
            });
            self.writes("delete it as one tree", 1, |_| WriteOp::DeleteTree {
                path: format!("{deep}/t").into(),
                expected_count: Some(znodes),
            });
            let each = deep.len() + "/1234".len() + 64 + 48 * (deep.len() / 2 + 1);
            let ephemerals = u64::from(Ceilings::default().removed_event_bytes) / each as u64;
            let mut numbers = 0..;
            self.writes("create ephemerals", ephemerals, |stream| {
                let path = format!("{deep}/{}", numbers.next().unwrap_or_default());
                stream.create_as(CreateMode::Ephemeral, path)
            });
            self.end_session();
        }
    }

    fn end_session(&mut self) {
        self.writes("end their session", 1, |_| WriteOp::CloseSession);
        let session = self.session + 1;
        let opening =
            OpenSession { session, password: [0; 16], timeout_ms: 10_000, client_name: "measure".into() };
        self.run(vec![Command::OpenSession(opening)]);
        (self.session, self.next_write) = (session, 1);
    }

    fn create(&self, path: String) -> WriteOp<'static> {
        self.create_as(CreateMode::Persistent, path)
    }

    fn create_as(&self, mode: CreateMode, path: String) -> WriteOp<'static> {
        WriteOp::Create(Create {
            path: path.into(),
            data: data(),
            acl: vec![],
            mode,
            ttl_ms: 0,
            parents: false,
        })
    }

    /// A pseudo-random number: the same ones on every run.
    fn draw(&mut self) -> u64 {
        self.draws =
            self.draws.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.draws >> 33
    }
}

fn dirs(znodes: u64) -> u64 {
    (znodes / 1000).max(1)
}

fn path(number: u64, znodes: u64) -> String {
    format!("/dir{:04}/znode-{number:010}", number % dirs(znodes))
}

fn data() -> Data<'static> {
    Data::Borrowed(&[7; DATA_BYTES])
}

fn time(what: &str, count: u64, work: impl FnOnce()) {
    let start = Instant::now();
    work();
    per_item(what, count, start.elapsed());
}

fn per_item(what: &str, count: u64, elapsed: Duration) {
    let nanos = elapsed.as_nanos() as u64 / count.max(1);
    report(what, format!("{count} in {:.2} s, {nanos} ns each", elapsed.as_secs_f64()));
}

fn report(what: &str, figure: impl Display) {
    println!("{what:32} {figure}");
}

/// The resident memory of this process in bytes, by Linux's account.
fn rss() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * 4096
}
