//! What stands in the znodes of a group, as JSON. What is missing there has its default, so that other hands need not write
//! everything.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

fn one() -> f64 {
    1.0
}

/// `items/<id>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ItemRecord {
    #[serde(default = "one")]
    pub(super) cost: f64,
    pub(super) data: Value,
}

impl Default for ItemRecord {
    fn default() -> Self {
        Self { cost: 1.0, data: Value::Null }
    }
}

/// `workers/<id>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct WorkerRecord {
    #[serde(default = "one")]
    pub(super) weight: f64,
    pub(super) load: f64,
    pub(super) data: Value,
}

impl Default for WorkerRecord {
    fn default() -> Self {
        Self { weight: 1.0, load: 0.0, data: Value::Null }
    }
}

/// `assigned/<worker>`: the items that are to be its own, in byte order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ListRecord {
    pub(super) items: Vec<String>,
}

/// `owners/<item>`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct OwnerRecord {
    pub(super) worker: String,
    /// The creation zxid of the item that the worker was told of; 0: whichever.
    pub(super) item: u64,
}

/// `plan`: what a leader leaves to the next one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct PlanRecord {
    /// Who wrote it.
    pub(super) leader: String,
    /// How many items were given to a worker, or to another one, since the group began.
    pub(super) moves: u64,
    /// How often it was rebalanced.
    pub(super) rebalances: u64,
    /// When last, by the ensemble's clock, at the earliest; 0: never.
    pub(super) rebalanced_ms: u64,
}

pub(super) fn to_bytes(record: &impl Serialize) -> Bytes {
    // Names, numbers that are finite, and what was JSON before can always be written.
    Bytes::from(serde_json::to_vec(record).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_has_its_default_and_what_is_unknown_is_passed_over() {
        let item: ItemRecord = serde_json::from_str(r#"{"color": "blue"}"#).unwrap();
        assert_eq!(item, ItemRecord::default());
        let worker: WorkerRecord = serde_json::from_str(r#"{"load": 3}"#).unwrap();
        assert_eq!(worker, WorkerRecord { load: 3.0, ..WorkerRecord::default() });
        let plan = PlanRecord { leader: "a".into(), moves: 7, rebalances: 2, rebalanced_ms: 5 };
        assert_eq!(serde_json::from_slice::<PlanRecord>(&to_bytes(&plan)).unwrap(), plan);
    }
}
