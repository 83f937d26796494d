use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdMap;

use crate::digest::Digest;
use crate::recorded::Recorded;
use crate::session::{ANSWER_BYTES, fate, result_at};
use crate::{EndReason, EndedSession, Event, OpResult, Session, SessionId, WriteOutcome, WriteSeq, Zxid};

/// How long an ended session is remembered, in the tree's time.
const RETENTION_MS: u64 = 60 * 60 * 1000;
/// How many ended sessions are remembered at most; the oldest are forgotten first.
const ENDED_MAX: usize = 100_000;
/// How many bytes of ended sessions are remembered at most.
const ENDED_BYTES_MAX: u64 = 64 << 20;

/// The sessions: those that live, and those that ended not long ago.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sessions {
    live: OrdMap<SessionId, Arc<Session>>,
    ended: OrdMap<SessionId, Arc<EndedSession>>,
    /// The ended ones, oldest first. A command ends one session at most, so the zxid names it.
    by_end: OrdMap<Zxid, SessionId>,
    ended_bytes: u64,
    /// Answers of live sessions, and their bytes.
    recorded: (u64, u64),
    digest: Digest,
}

impl Sessions {
    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    pub(crate) fn recompute_digest(&self) -> Digest {
        let live = self.live.values().flat_map(|session| {
            results_hashes(session.id(), session.acked, &session.results).chain([session.fields_hash()])
        });
        let ended = self.ended.values().flat_map(|session| {
            results_hashes(session.id, session.acked, &session.results).chain([session.fields_hash()])
        });
        live.chain(ended).collect()
    }

    pub(crate) fn live(&self, id: SessionId) -> Option<&Session> {
        self.live.get(&id).map(|session| &**session)
    }

    pub(crate) fn ended(&self, id: SessionId) -> Option<&EndedSession> {
        self.ended.get(&id).map(|session| &**session)
    }

    pub(crate) fn live_count(&self) -> usize {
        self.live.len()
    }

    pub(crate) fn recorded_count(&self) -> u64 {
        self.recorded.0
    }

    pub(crate) fn recorded_bytes(&self) -> u64 {
        self.recorded.1 + self.recorded.0 * ANSWER_BYTES as u64
    }

    pub(crate) fn ended_count(&self) -> usize {
        self.ended.len()
    }

    pub(crate) fn ended_bytes(&self) -> u64 {
        self.ended_bytes
    }

    /// In the order of their ids.
    pub(crate) fn iter_live(&self) -> impl Iterator<Item = &Session> {
        self.live.values().map(|session| &**session)
    }

    /// Those with a larger id, in that order.
    pub(crate) fn live_after(&self, id: SessionId) -> impl Iterator<Item = &Session> {
        self.live.range((Bound::Excluded(id), Bound::Unbounded)).map(|(_, session)| &**session)
    }

    /// In the order of their ids.
    pub(crate) fn iter_ended(&self) -> impl Iterator<Item = &EndedSession> {
        self.ended.values().map(|session| &**session)
    }

    pub(crate) fn recorded(&self, id: SessionId, seq: WriteSeq) -> Option<&Recorded> {
        match (self.live(id), self.ended(id)) {
            (Some(session), _) => result_at(session.acked, &session.results, seq),
            (None, Some(session)) => result_at(session.acked, &session.results, seq),
            (None, None) => None,
        }
    }

    pub(crate) fn outcome(&self, id: SessionId, seq: WriteSeq) -> WriteOutcome {
        match (self.live(id), self.ended(id)) {
            (Some(session), _) => {
                fate(session.acked, session.last_seq, &session.results, seq, WriteOutcome::NotYet)
            }
            (None, Some(session)) => {
                fate(session.acked, session.last_seq, &session.results, seq, WriteOutcome::Never)
            }
            (None, None) => WriteOutcome::Unknown,
        }
    }

    pub(crate) fn insert_live(&mut self, session: Session) {
        self.digest.add(session.fields_hash());
        results_hashes(session.id(), session.acked, &session.results).for_each(|hash| self.digest.add(hash));
        self.recorded.0 += session.results.len() as u64;
        self.recorded.1 += session.result_bytes as u64;
        self.live.insert(session.id(), Arc::new(session));
    }

    pub(crate) fn insert_ended(&mut self, session: EndedSession) {
        self.digest.add(session.fields_hash());
        results_hashes(session.id, session.acked, &session.results).for_each(|hash| self.digest.add(hash));
        self.ended_bytes += session.cost();
        self.by_end.insert(session.zxid, session.id);
        self.ended.insert(session.id, Arc::new(session));
    }

    /// Frees the recorded answers up to `acked`.
    pub(crate) fn acknowledge(&mut self, id: SessionId, acked: WriteSeq) {
        self.change(id, |session, digest| {
            while session.acked < acked.min(session.last_seq) {
                session.acked += 1;
                if let Some(recorded) = session.results.pop_front() {
                    session.result_bytes -= recorded.bytes.len();
                    digest.remove(recorded.hash(id, session.acked));
                }
            }
        });
    }

    /// Gives the session to the stream that attached at `zxid`.
    pub(crate) fn attach(&mut self, id: SessionId, zxid: Zxid) {
        self.change(id, |session, _| session.attached_zxid = zxid);
    }

    /// Keeps the answer to the session's next write, in the form of `rules`.
    pub(crate) fn record(&mut self, id: SessionId, zxid: Zxid, rules: u32, result: &OpResult) {
        self.change(id, |session, digest| {
            let recorded = Recorded::new(zxid, rules, result);
            session.last_seq += 1;
            session.result_bytes += recorded.bytes.len();
            digest.add(recorded.hash(id, session.last_seq));
            session.results.push_back(recorded);
        });
    }

    pub(crate) fn add_ephemeral(&mut self, id: SessionId, path: Arc<str>) {
        if let Some(session) = self.live.get_mut(&id) {
            let session = Arc::make_mut(session);
            session.ephemeral_bytes += Event::removal_cost(&path);
            session.ephemerals.insert(path);
        }
    }

    pub(crate) fn remove_ephemeral(&mut self, id: SessionId, path: &str) {
        if let Some(session) = self.live.get_mut(&id) {
            let session = Arc::make_mut(session);
            session.ephemeral_bytes -=
                session.ephemerals.remove(path).map_or(0, |path| Event::removal_cost(&path));
        }
    }

    /// Moves a live session to the ended ones.
    pub(crate) fn end(&mut self, id: SessionId, reason: EndReason, zxid: Zxid, ended_ms: u64) {
        let Some(session) = self.live.remove(&id) else { return };
        self.digest.remove(session.fields_hash());
        results_hashes(id, session.acked, &session.results).for_each(|hash| self.digest.remove(hash));
        self.recorded.0 -= session.results.len() as u64;
        self.recorded.1 -= session.result_bytes as u64;
        let session = Arc::unwrap_or_clone(session);
        self.insert_ended(EndedSession {
            id,
            password: session.opening.password,
            client_name: session.opening.client_name,
            reason,
            zxid,
            ended_ms,
            last_seq: session.last_seq,
            acked: session.acked,
            results: session.results,
        });
    }

    /// Forgets up to `max` of the sessions that ended too long ago, or before too many others.
    pub(crate) fn forget(&mut self, now_ms: u64, max: usize) {
        for _ in 0..max {
            let Some(&(zxid, id)) = self.by_end.get_min() else { return };
            let Some(session) = self.ended.get(&id) else { return };
            let is_due = session.ended_ms.saturating_add(RETENTION_MS) <= now_ms;
            if !is_due && self.ended.len() <= ENDED_MAX && self.ended_bytes <= ENDED_BYTES_MAX {
                return;
            }
            self.digest.remove(session.fields_hash());
            results_hashes(id, session.acked, &session.results).for_each(|hash| self.digest.remove(hash));
            self.ended_bytes -= session.cost();
            self.ended.remove(&id);
            self.by_end.remove(&zxid);
        }
    }

    fn change(&mut self, id: SessionId, change: impl FnOnce(&mut Session, &mut Digest)) {
        let Some(session) = self.live.get_mut(&id) else { return };
        let session = Arc::make_mut(session);
        self.digest.remove(session.fields_hash());
        let (count, bytes) = (session.results.len(), session.result_bytes);
        change(session, &mut self.digest);
        self.recorded.0 = self.recorded.0 - count as u64 + session.results.len() as u64;
        self.recorded.1 = self.recorded.1 - bytes as u64 + session.result_bytes as u64;
        self.digest.add(session.fields_hash());
    }
}

fn results_hashes<'a>(
    id: SessionId,
    acked: WriteSeq,
    results: impl IntoIterator<Item = &'a Recorded>,
) -> impl Iterator<Item = u64> {
    results.into_iter().zip(acked + 1..).map(move |(recorded, seq)| recorded.hash(id, seq))
}
