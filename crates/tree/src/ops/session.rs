use std::sync::Arc;

use super::Caller;
use crate::change::Step;
use crate::planted::Bug;
use crate::{EndReason, ErrorKind, OpError, OpResult, OpenSession, Outcome, Session, SessionId, Tree, Zxid};

impl Tree {
    /// Starts a session, once. Returns the place in history of the time it was opened.
    pub(crate) fn open_session(&mut self, step: &Step, opening: &OpenSession) -> (Zxid, OpResult) {
        let refuse = |kind, message| (step.zxid, Err(OpError::new(kind, "", message)));
        if opening.session == 0 {
            return refuse(ErrorKind::BadArguments, "0 is no id of a session".to_owned());
        }
        if let Some(live) = self.session(opening.session) {
            if live.password() == &opening.password {
                return (live.opened_zxid(), Ok(Outcome::SessionOpened));
            }
            // Two clients drew the same id. The later one draws again.
            let message = format!("session {:#x} belongs to another client", opening.session);
            return refuse(ErrorKind::SessionExpired, message);
        }
        if self.ended_session(opening.session).is_some() {
            return (step.zxid, Err(self.no_session(opening.session)));
        }
        self.sessions.insert_live(Session::new(opening.clone(), step.zxid, step.time_ms));
        (step.zxid, Ok(Outcome::SessionOpened))
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
            return Err(OpError::new(
                ErrorKind::BadArguments,
                "",
                "a write outside any session cannot close one",
            ));
        }
        Ok(Outcome::SessionEnded(self.delete_ephemerals(step, caller.session)))
    }

    /// What to say to somebody who names a session that does not live.
    pub(super) fn no_session(&self, id: SessionId) -> OpError {
        match self.ended_session(id) {
            Some(ended) => {
                let message = format!("session {id:#x} has ended: {}", ended.reason);
                OpError::new(ErrorKind::SessionExpired, "", message)
            }
            None => OpError::new(ErrorKind::NoSession, "", format!("no session {id:#x}")),
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
                let key = place.key;
                self.unlink(step, parent, path.clone(), key);
            }
        }
        paths.len() as u64
    }
}
