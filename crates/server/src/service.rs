//! What all calls share: the replica, the limits, whether the node serves, and how a command is proposed.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use coordd_proto::status::into_status;
use coordd_proto::v1::{self, ErrorCode};
use coordd_raft::{Replica, Shortage, SignOfLife};
use coordd_tree::planted::Bug;
use coordd_tree::{
    Auth, Bounds, Ceilings, Command, Detail, ErrorKind, Limits, OpError, OpResult, OpenSession, Refusal,
    Scarce, SessionId, Tree, Write, WriteOp, WriteSeq, Zxid,
};
use rand::Rng as _;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::convert::{OwnLineage, WriteRequest, bad_arguments, end_to_wire, error, error_to_wire};
use crate::hub::{Hub, Waiter};
use crate::incoming::Clients;
use crate::long_reads::LongReads;
use crate::options::Options;
use crate::reads::{READS_MAX, REPLY_BYTES_MAX};
use crate::session::connection::FRAME_REQUESTS;
use crate::session::outbox::Outbox;
use crate::watch::Registration;
use crate::watchdog::Stalls;

/// How long a call waits for its write: the ensemble has no leader then. The write may still take effect.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a node that is behind a client waits to catch up before it sends the client away.
const CATCH_UP: Duration = Duration::from_secs(2);
/// Of what is written, read or watched.
pub(crate) const PATH_BYTES_MAX: usize = 4096;
/// A node that has not heard its leader for so long takes no session over: the attach may not reach the leader. Leaders are
/// heard several times a second.
const LEADER_SILENCE: Duration = Duration::from_secs(1);
const CLIENT_NAME_BYTES_MAX: usize = 256;

/// The node takes clients, or why it does not.
pub(crate) type Serving = Result<(), String>;

/// See the module.
pub(crate) struct Service {
    replica: Replica<Hub>,
    options: Options,
    serving: watch::Sender<Serving>,
    stopping: CancellationToken,
    started: Instant,
    clients: Arc<Clients>,
    long_reads: LongReads,
    stalls: Arc<Stalls>,
    /// Bytes from which on nothing may grow.
    memory_limit: AtomicU64,
    /// Open files, as last counted.
    open_files: AtomicU64,
}

impl Service {
    pub(crate) fn new(replica: Replica<Hub>, options: Options, clients: Arc<Clients>) -> Arc<Self> {
        let serving = watch::Sender::new(Err("this node is starting".to_owned()));
        Arc::new(Service {
            replica,
            options,
            serving,
            stopping: CancellationToken::new(),
            started: Instant::now(),
            clients,
            long_reads: LongReads::new(),
            stalls: Stalls::new(),
            memory_limit: AtomicU64::new(u64::MAX),
            open_files: AtomicU64::new(0),
        })
    }

    /// The connections of this node.
    pub(crate) fn clients(&self) -> &Arc<Clients> {
        &self.clients
    }

    /// Where reads go that take long; see [`Service::read_long`].
    pub(crate) fn long_reads(&self) -> &LongReads {
        &self.long_reads
    }

    /// Reads what takes long, off the threads that others need. The read gets the tree as it is when the read
    /// has its turn: a version that a waiting read held would keep every value that is overwritten meanwhile.
    pub(crate) async fn read_long<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Tree) -> T + Send + 'static,
    ) -> Result<T, v1::Error> {
        let service = self.clone();
        let version = move || service.replica.tree().clone();
        self.long_reads.run(version, move |tree| read(&tree)).await
    }

    /// How often the runtime stood still.
    pub(crate) fn stalls(&self) -> &Arc<Stalls> {
        &self.stalls
    }

    /// Bytes of the process from which on nothing may grow.
    pub(crate) fn memory_limit(&self) -> u64 {
        self.memory_limit.load(Ordering::Relaxed)
    }

    /// Open files of the process, as they were counted some seconds ago.
    pub(crate) fn open_files(&self) -> u64 {
        self.open_files.load(Ordering::Relaxed)
    }

    /// The process has so many open files.
    pub(crate) fn set_open_files(&self, count: usize) {
        self.open_files.store(count as u64, Ordering::Relaxed);
    }

    /// The process may use so many bytes: fits what is not configured.
    pub(crate) fn fit_memory(&self, usable: u64) {
        let limits = &self.options.limits;
        let client_memory = limits.client_memory(usable);
        let memory_limit = limits.memory_limit(usable);
        self.hub().memory().set_max(usize::try_from(client_memory).unwrap_or(usize::MAX));
        if self.memory_limit.swap(memory_limit, Ordering::Relaxed) != memory_limit {
            tracing::info!(usable_bytes = usable, memory_limit, client_memory, "limits of memory");
        }
    }

    /// The process has so many bytes: tells the ensemble whether that is too much.
    pub(crate) fn look_at_memory(&self, resident: u64) {
        let limit = self.memory_limit();
        let was_low = self.replica.memory_is_low();
        // A twentieth below, so that it does not change with every value.
        let is_low = resident > if was_low { limit - limit / 20 } else { limit };
        if was_low != is_low {
            match is_low {
                true => tracing::warn!(resident, limit, "this node has little memory left (--memory-limit)"),
                false => tracing::info!(resident, limit, "this node has memory again"),
            }
            self.replica.set_memory_is_low(is_low);
        }
    }

    pub(crate) fn replica(&self) -> &Replica<Hub> {
        &self.replica
    }

    pub(crate) fn hub(&self) -> &Hub {
        self.replica.observer()
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn super_digest(&self) -> Option<&str> {
        self.options.super_digest.as_deref()
    }

    /// Cancelled when the node begins to stop: streams answer what they have, and end.
    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Whether the node takes clients, and changes of it.
    pub(crate) fn serving(&self) -> watch::Receiver<Serving> {
        self.serving.subscribe()
    }

    pub(crate) fn set_serving(&self, now: Serving) {
        self.serving.send_if_modified(|serving| {
            let changed = *serving != now;
            if changed {
                match &now {
                    // With a number of its own, so that the log never holds back the line that says how it is now.
                    Ok(()) => tracing::info!(uptime_s = self.uptime().as_secs(), "serving"),
                    Err(reason) => tracing::warn!(reason, uptime_s = self.uptime().as_secs(), "not serving"),
                }
                *serving = now;
            }
            changed
        });
    }

    pub(crate) fn check_serving(&self) -> Result<(), v1::Error> {
        if self.stopping.is_cancelled() {
            return Err(error(ErrorCode::NotServing, "this node is stopping"));
        }
        self.serving.borrow().as_ref().map_err(|reason| error(ErrorCode::NotServing, reason)).copied()
    }

    pub(crate) fn write_limits(&self) -> Limits {
        self.options.limits.of_writes()
    }

    /// The command for a write, with what bounds it where it is applied. `generation` is that of the stream it came by, 0 for
    /// none. Until all members know bounded writes it goes without.
    pub(crate) fn command(&self, mut write: Write<'static>, generation: Zxid) -> Command<'static> {
        if self.replica.rules() < 2 {
            if let WriteOp::RefusedWith(refused) = &write.op {
                write.op = WriteOp::Refused(Refusal::from(refused));
            }
            return Command::Write(write);
        }
        let ceilings = self.options.limits.ceilings;
        let ceilings = (ceilings != Ceilings::default()).then_some(ceilings);
        Command::Bounded(write, Bounds { generation, ceilings })
    }

    /// Refuses what may make something larger while the disks or the memory are full (G9). What was accepted before goes through:
    /// the reserve is for that, too.
    pub(crate) fn refuse_growth(
        &self,
        asked: Result<WriteRequest, OpError>,
    ) -> Result<WriteRequest, OpError> {
        let (op, guards) = asked?;
        if op.may_grow()
            && let Some(shortage) = self.replica.growth_refused()
        {
            let scarce = match shortage {
                Shortage::Disk => Scarce::Disk,
                Shortage::Memory => Scarce::Memory,
            };
            return Err(OpError::new(ErrorKind::NoSpace, "", Detail::Scarce(scarce)));
        }
        Ok((op, guards))
    }

    /// A watch as it is asked for, checked.
    pub(crate) fn registration(
        &self,
        outbox: &Outbox,
        spec: &v1::WatchSpec,
        path: &str,
    ) -> Result<Registration, v1::Error> {
        let registration = Registration::asked(spec, path)?;
        let limit = self.options.limits.watches;
        if self.hub().watches().len_of(outbox) >= limit {
            let message = format!("{limit} watches of one session (--watches-max)");
            return Err(error(ErrorCode::Throttled, message));
        }
        Ok(registration)
    }

    /// Proposes a command and waits until this node has applied it.
    ///
    /// `session` and `seq` name a numbered write: its answer is found even if a snapshot overtakes it.
    pub(crate) async fn propose(
        &self,
        command: Command<'static>,
        session: SessionId,
        seq: WriteSeq,
    ) -> Result<(Zxid, OpResult), v1::Error> {
        self.check_serving()?;
        let (answer, waiting) = oneshot::channel();
        let waiter = Waiter::Call { answer, session, seq };
        self.replica.submit([(command, waiter)]).map_err(|overloaded| v1::Error {
            retry_after_ms: 100,
            ..error(ErrorCode::Throttled, overloaded.to_string())
        })?;
        match timeout(WRITE_TIMEOUT, waiting).await {
            Ok(Ok(Some(answer))) => Ok(answer),
            Ok(_) => Err(error(
                ErrorCode::OutcomeUnknown,
                "a snapshot took the place of the log that holds the answer",
            )),
            Err(_) => {
                let message = format!(
                    "not applied within {} s: there is no leader with a majority",
                    WRITE_TIMEOUT.as_secs()
                );
                Err(error(ErrorCode::OutcomeUnknown, message))
            }
        }
    }

    /// The timeout that a client gets for the one it asks for; 0 asks for the default.
    pub(crate) fn negotiate_timeout(&self, asked_ms: u32) -> u32 {
        let (min, max) = (self.options.session_timeout_min, self.options.session_timeout_max);
        let timeout = match asked_ms {
            0 => self.options.session_timeout,
            asked => Duration::from_millis(asked.into()).clamp(min, max),
        };
        u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX)
    }

    /// Opens a session. Returns its id, password and timeout, and where it was opened.
    pub(crate) async fn open_session(
        &self,
        asked_timeout_ms: u32,
        client_name: &str,
    ) -> Result<(SessionId, [u8; 16], u32, Zxid), v1::Error> {
        if client_name.len() > CLIENT_NAME_BYTES_MAX {
            let message =
                format!("a client name of {} bytes; at most {CLIENT_NAME_BYTES_MAX}", client_name.len());
            return Err(bad_arguments(message));
        }
        let limit = self.options.limits.sessions;
        if self.replica.tree().session_count() >= limit {
            let message = format!("{limit} live sessions (--sessions-max)");
            return Err(v1::Error { retry_after_ms: 1000, ..error(ErrorCode::Throttled, message) });
        }
        let timeout_ms = self.negotiate_timeout(asked_timeout_ms);
        let opening = OpenSession {
            session: rand::rng().random_range(1..=u64::MAX >> 1),
            password: rand::rng().random(),
            timeout_ms,
            client_name: client_name.to_owned(),
        };
        let (session, password) = (opening.session, opening.password);
        let (zxid, result) = self.propose(Command::OpenSession(opening), session, 0).await?;
        result.map_err(error_to_wire)?;
        self.replica.touch(SignOfLife { session, generation: 0 });
        Ok((session, password, timeout_ms, zxid))
    }

    /// Takes a session for a stream that is about to be attached: draws its generation through the log, so that every node
    /// tells older streams that they have lost the session, and refuses what they write. Returns when this node has applied
    /// it, with `None` while not all members know of generations.
    pub(crate) async fn take_session(&self, session: SessionId) -> Result<Option<Zxid>, v1::Error> {
        if self.replica.rules() < 2 {
            return Ok(None);
        }
        let no_leader =
            || error(ErrorCode::NotServing, "no leader that could give the session to this stream");
        // Without a leader the command would wait here, and take the session back from where its client goes meanwhile.
        let mut leadership = self.replica.leadership();
        let silence = self.replica.leader_silence().unwrap_or(Duration::MAX);
        if leadership.borrow().leader.is_some() && silence > LEADER_SILENCE {
            return Err(no_leader());
        }
        let led = timeout(CATCH_UP, leadership.wait_for(|now| now.leader.is_some())).await;
        led.ok().and_then(Result::ok).ok_or_else(no_leader)?;
        match self.propose(Command::Attach { session }, 0, 0).await {
            Ok((zxid, result)) => result.map(|_| Some(zxid)).map_err(error_to_wire),
            // To the client it is the same as a node that does not answer: it attaches again, and that counts.
            Err(lost) if lost.code() == ErrorCode::OutcomeUnknown => Err(no_leader()),
            Err(refused) => Err(refused),
        }
    }

    /// Waits until this node has applied at least `zxid`, for a moment.
    ///
    /// # Errors
    ///
    /// `NOT_SERVING` if it does not get there in time; `OTHER_LINEAGE` as soon as it is certain that this
    /// ensemble has never been there. After a read barrier the node shows all that was ever committed, and a
    /// client has only seen what was.
    pub(crate) async fn catch_up(&self, zxid: Zxid) -> Result<(), v1::Error> {
        if Bug::ReadsOfOnesPast.is_planted() {
            return Ok(());
        }
        let mut applied = self.hub().zxid();
        if *applied.borrow() >= zxid {
            return Ok(());
        }
        let everything_is_here = async {
            if self.replica.read_barrier().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            reached = timeout(CATCH_UP, applied.wait_for(|applied| *applied >= zxid)) => {
                if reached.is_ok() {
                    return Ok(());
                }
            }
            () = everything_is_here => {
                let newest = self.replica.tree().last_zxid();
                if newest >= zxid {
                    return Ok(());
                }
                let message = format!(
                    "the client has seen zxid {zxid}, and ensemble {} has never been beyond {newest}: what the client has seen \
                     belongs to another ensemble, or to this one before its data was replaced",
                    self.replica.cluster_id()
                );
                return Err(error(ErrorCode::OtherLineage, message));
            }
        }
        let message =
            format!("this node has applied zxid {}, the client has seen {zxid}", *self.hub().zxid().borrow());
        Err(error(ErrorCode::NotServing, message))
    }

    /// The history that this node's zxids belong to.
    pub(crate) fn own_lineage(&self) -> OwnLineage<'_> {
        OwnLineage { cluster_id: self.replica.cluster_id(), number: 0 }
    }

    /// The same for a client.
    pub(crate) fn lineage(&self) -> v1::Lineage {
        self.own_lineage().to_wire()
    }

    /// Refuses what refers to another history. What names none is taken.
    pub(crate) fn check_lineage(&self, named: Option<&v1::Lineage>) -> Result<(), v1::Error> {
        self.own_lineage().check(named)
    }

    /// What this node takes from a client.
    pub(crate) fn limits_to_wire(&self) -> v1::Limits {
        let limits = &self.options.limits;
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        v1::Limits {
            frame_bytes: number(limits.frame_bytes),
            value_bytes: number(limits.value_bytes),
            path_bytes: number(PATH_BYTES_MAX),
            outstanding: number(limits.outstanding),
            watches: number(limits.watches),
            frame_requests: number(FRAME_REQUESTS),
            multi_reads: number(READS_MAX),
            multi_read_bytes: number(REPLY_BYTES_MAX),
            multi_ops: number(self.write_limits().multi_ops),
        }
    }

    /// A frame that is too large, or no frame. The client must learn why, or it would send it again for ever.
    pub(crate) fn unreadable(&self, status: &Status) -> Status {
        let limit = self.options.limits.frame_bytes;
        let message = format!(
            "a frame cannot be read (at most {limit} bytes, --frame-bytes-max): {}",
            status.message()
        );
        into_status(error(ErrorCode::Protocol, message))
    }

    /// Why a session cannot be attached or used; `None` if it can, with that password.
    pub(crate) fn refuse_session(
        tree: &coordd_tree::Tree,
        session: SessionId,
        password: &[u8],
    ) -> Option<v1::Error> {
        match tree.session(session) {
            Some(live) if is_same_secret(live.password(), password) => None,
            Some(_) => Some(error(ErrorCode::AuthFailed, "wrong password for the session")),
            None => Some(match tree.ended_session(session) {
                Some(ended) => {
                    let detail = end_to_wire(ended).detail;
                    error(ErrorCode::SessionExpired, format!("session {session:#x} has ended: {detail}"))
                }
                None => error(ErrorCode::NoSession, format!("no session {session:#x}")),
            }),
        }
    }
}

/// Compares in a time that does not tell how much of it is right.
pub(crate) fn is_same_secret(ours: &[u8], theirs: &[u8]) -> bool {
    ours.len() == theirs.len() && ours.iter().zip(theirs).fold(0, |diff, (a, b)| diff | (a ^ b)) == 0
}

/// Who asks, before anything is proved.
pub(crate) fn from_address(ip: Option<IpAddr>) -> Auth {
    Auth { ip: ip.map(|ip| ip.to_canonical()), ids: Vec::new() }
}
