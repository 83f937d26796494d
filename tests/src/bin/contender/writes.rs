use std::collections::BTreeMap;

use coordd_client::{Client, CreateMode, Error};
use serde_json::json;

use crate::report::report;

/// Writes under a grant, numbered, so that a test can tell from the tree whose were accepted and in which order. Each command
/// ends with a line `wrote`: how many were accepted, and how many were refused with which error.
pub(crate) struct Writes {
    name: String,
    count: u64,
}

impl Writes {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), count: 0 }
    }

    /// Carries out `set PATH COUNT` and `append PATH COUNT`; `false` if the command is another one. `client` carries the guards:
    /// a recipe asks its grant for it, and a refusal there counts as the refusal of a write.
    ///
    /// `append` creates sequential children, which keep the whole history of what was accepted.
    pub(crate) async fn carry_out(
        &mut self,
        words: &[String],
        epoch: u64,
        client: impl Fn() -> Result<Client, Error>,
    ) -> bool {
        let [verb, path, count] = words else { return false };
        if verb != "set" && verb != "append" {
            return false;
        }
        let count: u64 = count.parse().expect("a number of writes");
        let mut accepted = 0;
        let mut refused = BTreeMap::<&str, u64>::new();
        for _ in 0..count {
            self.count += 1;
            let value = json!({ "name": self.name, "epoch": epoch, "number": self.count }).to_string();
            let written = match client() {
                Err(error) => Err(error),
                Ok(client) if verb == "set" => client.set(path, value, None).await.map(drop),
                Ok(client) => {
                    let created = client.create(format!("{path}/"), value, CreateMode::PersistentSequential);
                    created.await.map(drop)
                }
            };
            match written {
                Ok(()) => accepted += 1,
                Err(error) => *refused.entry(error.kind.name()).or_default() += 1,
            }
        }
        report("wrote", json!({ "path": path, "accepted": accepted, "refused": refused }));
        true
    }
}
