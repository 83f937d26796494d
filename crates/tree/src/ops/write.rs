use super::Caller;
use crate::change::Step;
use crate::planted::Bug;
use crate::{Detail, EndReason, ErrorKind, OpError, OpResult, Tree, Write, WriteOp, Zxid};

/// How many answers a session may have outstanding, and how many bytes of them.
pub(crate) const UNACKNOWLEDGED_MAX: (usize, usize) = (16_384, 16 << 20);

impl Tree {
    /// A client's write, exactly once (G4). Returns the place in history of the time it was carried out.
    pub(crate) fn write(&mut self, step: &mut Step, write: &Write, generation: Zxid) -> (Zxid, OpResult) {
        if write.session == 0 {
            return (step.zxid, self.execute(step, write));
        }
        let is_numbered = match self.admit(write, generation) {
            Err(refused) => return (step.zxid, Err(refused)),
            Ok(Turn::Repeated) => return self.answer_again(step, write),
            Ok(Turn::Next) => true,
            Ok(Turn::Unnumbered) => false,
        };
        let result = self.execute(step, write);
        if is_numbered {
            self.sessions.record(write.session, step.zxid, step.rules, &result);
        }
        if write.op == WriteOp::CloseSession && result.is_ok() {
            // After recording, so that `outcome` knows of the close itself.
            self.sessions.end(write.session, EndReason::Closed, step.zxid, step.time_ms);
        }
        (step.zxid, result)
    }

    /// Whether it is the write's turn. The refusals here do not consume its number, so nothing is recorded.
    fn admit(&mut self, write: &Write, generation: Zxid) -> Result<Turn, OpError> {
        let refuse = |kind, detail| Err(OpError::new(kind, "", detail));
        let Some(session) = self.session(write.session) else { return Err(self.no_session(write.session)) };
        let current = session.generation();
        if generation != 0 && generation < current {
            let session = write.session;
            return refuse(ErrorKind::SessionMoved, Detail::SessionMoved { session, generation, current });
        }
        let next = session.last_seq() + 1;
        if write.seq == 0 {
            return Ok(Turn::Unnumbered);
        }
        if write.seq > next && !Bug::SessionGapAccepted.is_planted() {
            let detail = Detail::Gap { session: write.session, seq: write.seq, expected: next };
            return refuse(ErrorKind::SequenceGap, detail);
        }
        let is_next = write.seq >= next || Bug::WritesExecutedTwice.is_planted();
        let (mut count, mut bytes) = (session.unacknowledged(), session.result_bytes);
        if write.acked > session.acked() {
            self.sessions.acknowledge(write.session, write.acked);
            (count, bytes) =
                self.session(write.session).map_or((0, 0), |s| (s.unacknowledged(), s.result_bytes));
        }
        if !is_next {
            return Ok(Turn::Repeated);
        }
        if count >= UNACKNOWLEDGED_MAX.0 || bytes >= UNACKNOWLEDGED_MAX.1 {
            let (session, count, bytes) = (write.session, count as u64, bytes as u64);
            return refuse(ErrorKind::TooManyUnacknowledged, Detail::Outstanding { session, count, bytes });
        }
        Ok(Turn::Next)
    }

    fn answer_again(&self, step: &Step, write: &Write) -> (Zxid, OpResult) {
        self.recorded(write.session, write.seq).unwrap_or_else(|| {
            let detail = Detail::AnswerForgotten { session: write.session, seq: write.seq };
            (step.zxid, Err(OpError::new(ErrorKind::BadArguments, "", detail)))
        })
    }

    fn execute(&mut self, step: &mut Step, write: &Write) -> OpResult {
        let caller = Caller { session: write.session, auth: &write.auth };
        if !Bug::GuardsIgnored.is_planted() {
            write.guards.iter().try_for_each(|guard| self.check_guard(guard))?;
        }
        match &write.op {
            WriteOp::Create(create) => self.create(step, caller, create),
            WriteOp::Delete { path, version } => self.delete(step, caller, path, *version),
            WriteOp::SetData { path, data, version } => self.set_data(step, caller, path, data, *version),
            WriteOp::SetAcl { path, acl, version } => self.set_acl(step, caller, path, acl, *version),
            WriteOp::Multi(ops) => self.multi(step, caller, ops),
            WriteOp::DeleteTree { path, expected_count } => {
                self.delete_tree(step, caller, path, *expected_count)
            }
            WriteOp::SetQuota { path, quota } => self.set_quota(step, caller, path, quota),
            WriteOp::DeleteQuota { path } => self.delete_quota(caller, path),
            WriteOp::CloseSession => self.close_session(step, caller),
            WriteOp::Refused(refusal) => Err(refusal.clone().into()),
            WriteOp::RefusedWith(refusal) => Err(refusal.clone()),
        }
    }
}

/// What is to be done with a write of a live session.
enum Turn {
    Next,
    Repeated,
    /// Whoever sent it does not want to send it again.
    Unnumbered,
}
