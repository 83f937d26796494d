use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coordd_client::{
    Call, Client, ConnectOptions, CreateMode, CreateOptions, Error, ErrorKind, MultiResult, ReadLevel,
    ReadResult, SessionState,
};
use futures::Future;

use crate::history::{Answer, Level, Mode, Op, SetOne, What, Writer};

/// Of all processes; only the place in one process' history depends on it.
static SESSIONS: AtomicU64 = AtomicU64::new(0);

/// A session whose operations are written to the history, under a name of its own.
#[derive(Clone)]
pub(crate) struct RecordedClient {
    pub(crate) client: Client,
    name: Arc<str>,
    writer: Arc<Writer>,
    /// Held from writing a request down to submitting it: tasks that share a session are written down in the session's order.
    order: Arc<Mutex<()>>,
}

impl RecordedClient {
    /// Opens a session. `None` if the ensemble did not take one in the time that a client waits.
    pub(crate) async fn open(
        writer: &Arc<Writer>,
        workload: &str,
        endpoints: &[String],
        timeout: Duration,
    ) -> Option<RecordedClient> {
        // The buffer of a watcher: longer than a history.
        let options = ConnectOptions::new().session_timeout(timeout).watch_buffer(1 << 20);
        let client = options.connect(endpoints.to_vec()).await.ok()?;
        let name = format!("{workload}.{}", SESSIONS.fetch_add(1, Ordering::Relaxed));
        let recorded =
            RecordedClient { client, name: name.into(), writer: writer.clone(), order: Arc::default() };
        let password = recorded.client.session_token().map(|token| hex(&token.password)).unwrap_or_default();
        let timeout_ms = recorded.client.session_timeout().as_millis() as u64;
        recorded.note(What::Opened { session: recorded.client.session_id(), password, timeout_ms });
        let watching = recorded.clone();
        tokio::spawn(async move {
            let state = watching.client.ended().await;
            if let SessionState::Expired(end) = state {
                watching.note(What::Ended { reason: format!("{end:?}") });
            }
        });
        Some(recorded)
    }

    /// Writes what is not an operation.
    pub(crate) fn note(&self, what: What) {
        self.writer.write(&self.name, what);
    }

    /// Writes what was asked at that time, and answered by now.
    pub(crate) fn note_at(&self, at: u64, what: What) {
        self.writer.write_at(at, &self.name, what);
    }

    /// The session is over: open another one.
    pub(crate) fn is_over(&self) -> bool {
        self.client.state().is_terminal()
    }

    /// Sends a request, in the order of the calls of this, and records it; the future records the answer.
    ///
    /// `guarded` sends it in place of the session's own client.
    pub(crate) fn send(
        &self,
        op: Op,
        guarded: Option<&Client>,
    ) -> impl Future<Output = Answer> + Send + use<> {
        let id = self.writer.next_op();
        let in_order = self.order.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.note(What::Call { op: id, call: op.clone() });
        let client = guarded.unwrap_or(&self.client);
        let (seq, answer) = submit(client, op);
        drop(in_order);
        if let Some(seq) = seq {
            self.note(What::Numbered { op: id, seq });
        }
        let recorded = self.clone();
        async move {
            let answer = answer.await;
            recorded.note(What::Return { op: id, answer: answer.clone() });
            answer
        }
    }

    pub(crate) async fn get(&self, path: &str, level: Level) -> Answer {
        self.send(Op::Get { path: path.to_owned(), level }, None).await
    }

    pub(crate) async fn set(&self, path: &str, value: impl Into<String>, version: Option<i32>) -> Answer {
        self.send(Op::Set { path: path.to_owned(), value: value.into(), version, epoch: None }, None).await
    }

    pub(crate) async fn create(&self, path: &str, value: impl Into<String>, mode: Mode) -> Answer {
        self.send(Op::Create { path: path.to_owned(), value: value.into(), mode }, None).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(Op::Delete { path: path.to_owned() }, None).await
    }

    pub(crate) async fn multi(&self, sets: Vec<SetOne>) -> Answer {
        self.send(Op::Multi { sets }, None).await
    }

    pub(crate) async fn multi_get(&self, paths: &[String]) -> Answer {
        self.send(Op::MultiGet { paths: paths.to_vec() }, None).await
    }

    /// Ends the session.
    pub(crate) async fn close(&self) {
        let id = self.writer.next_op();
        self.note(What::Call { op: id, call: Op::Close });
        let answer = match self.client.close().await {
            Ok(()) => Answer::Closed,
            Err(error) => refusal(error),
        };
        self.note(What::Return { op: id, answer });
    }
}

type Pending = futures::future::BoxFuture<'static, Answer>;

fn pending<T: Send + 'static>(
    call: Call<T>,
    answer: impl FnOnce(T) -> Answer + Send + 'static,
) -> (Option<u64>, Pending) {
    let seq = call.write_seq();
    (seq, Box::pin(async move { call.await.map_or_else(refusal, answer) }))
}

/// Submits a request before it returns.
fn submit(client: &Client, op: Op) -> (Option<u64>, Pending) {
    match op {
        Op::Get { path, level } => {
            let level = match level {
                Level::Local => ReadLevel::Local,
                Level::Linearizable => ReadLevel::Linearizable,
            };
            pending(client.get(path, level), |(data, stat)| Answer::Got {
                value: text(&data),
                version: stat.version,
                mzxid: stat.mzxid,
            })
        }
        Op::Set { path, value, version, epoch: _ } => pending(client.set(path, value, version), |stat| {
            Answer::Set { version: stat.version, zxid: stat.mzxid }
        }),
        Op::Create { path, value, mode } => {
            let mode = match mode {
                Mode::Persistent => CreateMode::Persistent,
                Mode::Ephemeral => CreateMode::Ephemeral,
                Mode::Sequential => CreateMode::PersistentSequential,
            };
            pending(client.create(path, value, CreateOptions::new(mode)), |created| Answer::Created {
                path: created.path,
                zxid: created.stat.czxid,
            })
        }
        Op::Delete { path } => pending(client.delete(path, None), |zxid| Answer::Deleted { zxid }),
        Op::Multi { sets } => {
            let multi = sets.into_iter().fold(client.multi(), |multi, SetOne { path, value, version }| {
                multi.set(path, value, Some(version))
            });
            pending(multi.commit(), |results| {
                let stats = results.iter().filter_map(|result| match result {
                    MultiResult::Set(stat) => Some(*stat),
                    _ => None,
                });
                let stats: Vec<_> = stats.collect();
                Answer::Multi {
                    versions: stats.iter().map(|stat| stat.version).collect(),
                    zxid: stats.first().map_or(0, |stat| stat.mzxid),
                }
            })
        }
        Op::MultiGet { paths } => {
            let read = client.multi_read(ReadLevel::Linearizable);
            let read = paths.into_iter().fold(read, coordd_client::MultiRead::get);
            pending(read.send(), |results| {
                let got = results.into_iter().map(|result| match result {
                    Ok(ReadResult::Get(data, stat)) => (text(&data), stat.version, stat.mzxid),
                    other => (format!("{other:?}"), -1, 0),
                });
                Answer::MultiGot(got.collect())
            })
        }
        // It is no call of the SDK; see `RecordedClient::close`.
        Op::Close => (None, Box::pin(async { Answer::Refused("close".to_owned()) })),
    }
}

fn text(data: &[u8]) -> String {
    String::from_utf8_lossy(data).into_owned()
}

/// Errors that say that nothing was done. By their names, so that an ensemble may have new ones.
pub(crate) const NOTHING_WAS_DONE: [&str; 15] = [
    "NoNode",
    "NodeExists",
    "BadVersion",
    "NotEmpty",
    "NoChildrenForEphemerals",
    "NoAuth",
    "QuotaExceeded",
    "GuardFailed",
    "BadEpoch",
    "CountMismatch",
    "GrantLost",
    "TooManyUnacknowledged",
    "NotServing",
    "Throttled",
    "NoSpace",
];

/// Whether an error is an answer, or says that there will be none, or is one that must not come.
pub(crate) fn refusal(error: Error) -> Answer {
    match error.kind {
        ErrorKind::SessionExpired | ErrorKind::SessionClosed | ErrorKind::ConnectionLoss => {
            Answer::Unanswered
        }
        ErrorKind::OutcomeUnknown => Answer::Unanswered,
        kind if NOTHING_WAS_DONE.contains(&kind.name()) => Answer::Refused(kind.name().to_owned()),
        _ => Answer::Failed(error.to_string()),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}"); // Writing to a string cannot fail.
        digits
    })
}
