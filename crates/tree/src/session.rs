use std::collections::VecDeque;
use std::sync::Arc;

use imbl::OrdSet;

use crate::digest::Element;
use crate::recorded::Recorded;
use crate::{EndReason, OpenSession, SessionId, WriteOutcome, WriteSeq, Zxid};

/// What a recorded answer takes in memory beside its bytes. Many have two or three.
pub(crate) const ANSWER_BYTES: usize = 64;

/// A live session.
///
/// Invariant: `results` holds the answers to the writes `acked + 1 ..= last_seq`, in that order.
#[derive(Clone, Debug)]
pub struct Session {
    pub(crate) opening: OpenSession,
    pub(crate) opened_zxid: Zxid,
    pub(crate) opened_ms: u64,
    pub(crate) last_seq: WriteSeq,
    pub(crate) acked: WriteSeq,
    /// The zxid of the latest attach; 0 while the stream that opened it is the only one.
    pub(crate) attached_zxid: Zxid,
    /// Paths of its ephemeral znodes. They follow from the znodes, so they are in neither snapshot nor digest.
    pub(crate) ephemerals: OrdSet<Arc<str>>,
    /// What the end of all of them costs, counted as [`crate::Event::removal_cost`] does.
    pub(crate) ephemeral_bytes: usize,
    pub(crate) results: VecDeque<Recorded>,
    pub(crate) result_bytes: usize,
}

impl Session {
    pub(crate) fn new(opening: OpenSession, opened_zxid: Zxid, opened_ms: u64) -> Session {
        Session {
            opening,
            opened_zxid,
            opened_ms,
            last_seq: 0,
            acked: 0,
            attached_zxid: 0,
            ephemerals: OrdSet::new(),
            ephemeral_bytes: 0,
            results: VecDeque::new(),
            result_bytes: 0,
        }
    }

    /// Its name, for ever.
    pub fn id(&self) -> SessionId {
        self.opening.session
    }

    /// Whoever shows it may attach.
    pub fn password(&self) -> &[u8; 16] {
        &self.opening.password
    }

    /// How long the client may be silent.
    pub fn timeout_ms(&self) -> u32 {
        self.opening.timeout_ms
    }

    /// What the client calls itself.
    pub fn client_name(&self) -> &str {
        &self.opening.client_name
    }

    /// The command that opened it.
    pub fn opened_zxid(&self) -> Zxid {
        self.opened_zxid
    }

    /// The zxid by which the stream took the session that has it now: later writes of others are refused. Streams of builds
    /// before rules 2 draw none.
    pub fn generation(&self) -> Zxid {
        self.attached_zxid.max(self.opened_zxid)
    }

    /// The tree's time then, in milliseconds since the Unix epoch.
    pub fn opened_ms(&self) -> u64 {
        self.opened_ms
    }

    /// The last write that was executed; 0 before the first.
    pub fn last_seq(&self) -> WriteSeq {
        self.last_seq
    }

    /// The client has the answers of all writes up to this one.
    pub fn acked(&self) -> WriteSeq {
        self.acked
    }

    /// Answers that are kept because the client has not said that it has them.
    pub fn unacknowledged(&self) -> usize {
        self.results.len()
    }

    /// Bytes that the answers that are kept take in memory, about.
    pub fn unacknowledged_bytes(&self) -> usize {
        self.result_bytes + self.results.len() * ANSWER_BYTES
    }

    /// Its ephemeral znodes.
    pub fn ephemeral_count(&self) -> usize {
        self.ephemerals.len()
    }

    pub(crate) fn fields_hash(&self) -> u64 {
        let mut element = Element::new(b's');
        element
            .bytes(&self.opening.password)
            .bytes(self.opening.client_name.as_bytes())
            .u64(self.id())
            .u32(self.opening.timeout_ms)
            .u64(self.opened_zxid)
            .u64(self.opened_ms)
            .u64(self.last_seq)
            .u64(self.acked);
        // Builds before rules 2 know no attach, and hash none.
        if self.attached_zxid != 0 {
            element.u64(self.attached_zxid);
        }
        element.hash()
    }
}

/// A session that has ended, as it is remembered for an hour of the tree's time (or for less, when very many end).
#[derive(Clone, Debug)]
pub struct EndedSession {
    /// Its name, which no other session gets.
    pub id: SessionId,
    /// Whoever shows it is told of the session's outcomes.
    pub password: [u8; 16],
    /// What the client called itself.
    pub client_name: String,
    /// Why it ended.
    pub reason: EndReason,
    /// The command that ended it.
    pub zxid: Zxid,
    /// The tree's time then, in milliseconds since the Unix epoch.
    pub ended_ms: u64,
    /// The last write that was executed. No later one ever will be.
    pub last_seq: WriteSeq,
    /// The client has the answers of all writes up to this one.
    pub acked: WriteSeq,
    pub(crate) results: VecDeque<Recorded>,
}

impl EndedSession {
    pub(crate) fn fields_hash(&self) -> u64 {
        let reason = postcard::to_allocvec(&self.reason).expect("every reason has an encoding");
        Element::new(b'x')
            .bytes(&self.password)
            .bytes(self.client_name.as_bytes())
            .bytes(&reason)
            .u64(self.id)
            .u64(self.zxid)
            .u64(self.ended_ms)
            .u64(self.last_seq)
            .u64(self.acked)
            .hash()
    }

    /// What it counts for when ended sessions are bounded.
    pub(crate) fn cost(&self) -> u64 {
        let results: usize = self.results.iter().map(|recorded| recorded.bytes.len() + 32).sum();
        (results + self.client_name.len() + 256) as u64
    }
}

/// The kept answer to `seq`.
pub(crate) fn result_at(acked: WriteSeq, results: &VecDeque<Recorded>, seq: WriteSeq) -> Option<&Recorded> {
    results.get(usize::try_from(seq.checked_sub(acked)?.checked_sub(1)?).ok()?)
}

/// The fate of the write `seq` in a session that stands at these numbers; `future` is that of a later one.
pub(crate) fn fate(
    acked: WriteSeq,
    last_seq: WriteSeq,
    results: &VecDeque<Recorded>,
    seq: WriteSeq,
    future: WriteOutcome,
) -> WriteOutcome {
    if seq == 0 {
        return WriteOutcome::Unknown;
    }
    if seq > last_seq {
        return future;
    }
    match result_at(acked, results, seq).map(|recorded| (recorded.zxid, recorded.decode())) {
        Some((zxid, Ok(result))) => WriteOutcome::Applied { zxid, result },
        // Kept answers are tried when they are loaded, so only acknowledged ones have none.
        Some((_, Err(_))) | None => WriteOutcome::Acknowledged,
    }
}
