use super::Caller;
use crate::change::Step;
use crate::{Detail, ErrorKind, MultiOp, OpError, OpResult, Outcome, Tree};

impl Tree {
    /// All or nothing. Each operation sees what those before it did; if one is refused, the tree is again what it
    /// was.
    pub(super) fn multi(&mut self, step: &mut Step, caller: Caller<'_>, ops: &[MultiOp]) -> OpResult {
        if ops.is_empty() {
            return Err(OpError::new(ErrorKind::BadArguments, "", Detail::EmptyMulti));
        }
        let before = (self.quotas.clone(), self.sessions.clone(), self.acls.clone(), self.due.clone());
        self.znodes.begin(step.zxid);
        self.tallies.begin();
        let mut outcomes = Vec::with_capacity(ops.len());
        for (index, op) in ops.iter().enumerate() {
            let result = match op {
                MultiOp::Create(create) => self.create(step, caller, create),
                MultiOp::Delete { path, version } => self.delete(step, caller, path, *version),
                MultiOp::SetData { path, data, version } => self.set_data(step, caller, path, data, *version),
                MultiOp::Check(check) => self.check(caller, check),
            };
            match result {
                Ok(outcome) => outcomes.push(outcome),
                Err(culprit) => {
                    self.znodes.roll_back();
                    self.tallies.roll_back();
                    (self.quotas, self.sessions, self.acls, self.due) = before;
                    step.take_back();
                    return Err(OpError { op_index: Some(index as u32), ..culprit });
                }
            }
        }
        self.znodes.commit();
        self.tallies.commit();
        Ok(Outcome::Multi(outcomes))
    }
}
