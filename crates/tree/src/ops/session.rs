use std::sync::Arc;

use super::Caller;
use crate::change::Step;
use crate::planted::Bug;
use crate::{
    Detail, EndReason, ErrorKind, OpError, OpResult, OpenSession, Outcome, Session, SessionId, Tree, Zxid,
};

impl Tree {
    /// Starts a session, once. Returns the place in history of the time it was opened.
    pub(crate) fn open_session(&mut self, step: &Step, opening: &OpenSession) -> (Zxid, OpResult) {
        let refuse = |kind, detail| (step.zxid, Err(OpError::new(kind, "", detail)));
        if opening.session == 0 {
            return refuse(ErrorKind::BadArguments, Detail::SessionZero);
        }
        if let Some(live) = self.session(opening.session) {
            if live.password() == &opening.password {
                return (live.opened_zxid(), Ok(Outcome::SessionOpened));
            }
            // Two clients drew the same id. The later one draws again.
            return refuse(ErrorKind::SessionExpired, Detail::SessionTaken(opening.session));
        }
        if self.ended_session(opening.session).is_some() {
            return (step.zxid, Err(self.no_session(opening.session)));
        }
        self.sessions.insert_live(Session::new(opening.clone(), step.zxid, step.time_ms));
        (step.zxid, Ok(Outcome::SessionOpened))
    }

    /// Gives a session to another stream.
    pub(crate) fn attach_session(&mut self, step: &Step, id: SessionId) -> OpResult {
        if self.session(id).is_none() {
            return Err(self.no_session(id));
        }
        self.sessions.attach(id, step.zxid);
        Ok(Outcome::SessionAttached)
    }

    /// Ends a session for another reason than its own wish (G6).
    pub(crate) fn end_session(&mut self, step: &mut Step, id: SessionId, reason: &EndReason) -> OpResult {
        if self.session(id).is_none() {
            return Err(OpError { kind: ErrorKind::NoSession, ..self.no_session(id) });
        }
        let count = self.delete_ephemerals(step, id);
        self.sessions.end(id, reason.clone(), step.zxid, step.time_ms);
        Ok(Outcome::SessionEnded(count))
    }

    /// The first half of a close: the second, the end itself, follows when the answer has been recorded.
    pub(super) fn close_session(&mut self, step: &mut Step, caller: Caller<'_>) -> OpResult {
        if caller.session == 0 {
            return Err(OpError::new(ErrorKind::BadArguments, "", Detail::CloseWithoutSession));
        }
        Ok(Outcome::SessionEnded(self.delete_ephemerals(step, caller.session)))
    }

    /// What to say to somebody who names a session that does not live.
    pub(super) fn no_session(&self, id: SessionId) -> OpError {
        match self.ended_session(id) {
            Some(ended) => {
                let detail = Detail::SessionEnded { session: id, reason: ended.reason.clone() };
                OpError::new(ErrorKind::SessionExpired, "", detail)
            }
            None => OpError::new(ErrorKind::NoSession, "", Detail::SessionUnknown(id)),
        }
    }

    fn delete_ephemerals(&mut self, step: &mut Step, id: SessionId) -> u64 {
        let paths: Vec<Arc<str>> =
            self.session(id).map(|session| session.ephemerals.iter().cloned().collect()).unwrap_or_default();
        let left_behind = usize::from(Bug::EphemeralLeftBehind.is_planted());
        for path in paths.iter().skip(left_behind) {
            if let Some(place) = self.znodes.locate(path)
                && let Some((parent, _)) = place.parent
            {
                let (key, above) = (place.key, place.above());
                self.unlink(step, parent, above, path.clone(), key);
            }
        }
        paths.len() as u64
    }
}
