use super::Caller;
use crate::change::Step;
use crate::{ErrorKind, MultiOp, OpError, OpResult, Outcome, Tree};

impl Tree {
    /// All or nothing. Each operation sees what those before it did; if one is refused, the tree is again what it
    /// was, at the price of an immutable version of it.
    pub(super) fn multi(&mut self, step: &mut Step, caller: Caller<'_>, ops: &[MultiOp]) -> OpResult {
        if ops.is_empty() {
            return Err(OpError::new(ErrorKind::BadArguments, "", "a multi without operations"));
        }
        let before = self.clone();
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
                    *self = before;
                    step.events.clear();
                    return Err(OpError { op_index: Some(index as u32), ..culprit });
                }
            }
        }
        Ok(Outcome::Multi(outcomes))
    }
}
