use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use coordd_client::recipes::{Grant, Loss, MultiGrant};
use coordd_client::{Client, Error};
use coordd_tests::monotonic;
use serde_json::json;

use crate::Connection;
use crate::commands::{Commands, unknown};
use crate::report::report;
use crate::writes::Writes;

/// How often a holder checks that it may act as one.
const CHECK: Duration = Duration::from_millis(1);

/// What all grants can do.
pub(crate) trait Held: Send + Sync + 'static {
    fn epoch(&self) -> u64;
    fn check(&self) -> Result<(), Error>;
    fn client(&self) -> Result<Client, Error>;
    fn lost(&self) -> impl Future<Output = Loss> + Send;
}

impl<G: Deref<Target = Grant> + Send + Sync + 'static> Held for G {
    fn epoch(&self) -> u64 {
        (**self).epoch()
    }

    fn check(&self) -> Result<(), Error> {
        (**self).check()
    }

    fn client(&self) -> Result<Client, Error> {
        (**self).client()
    }

    fn lost(&self) -> impl Future<Output = Loss> + Send {
        (**self).lost()
    }
}

/// The grant of several locks.
pub(crate) struct Several(pub(crate) MultiGrant);

impl Held for Several {
    fn epoch(&self) -> u64 {
        self.0.epoch()
    }

    fn check(&self) -> Result<(), Error> {
        self.0.check()
    }

    fn client(&self) -> Result<Client, Error> {
        self.0.client()
    }

    fn lost(&self) -> impl Future<Output = Loss> + Send {
        self.0.lost()
    }
}

/// Says that it has a grant, by this event, and holds it until it is told to give it back, which is left to the caller. Says `lost`
/// and `refused`: the latter with the time of the last check that was passed. Commands: `set PATH COUNT` and `append PATH COUNT` write under the epoch if the local guard
/// allows it, `late PATH COUNT` without asking the local guard; `release`.
pub(crate) async fn hold<G: Held>(
    event: &str,
    grant: G,
    connection: &Connection,
    commands: &mut Commands,
) -> Result<G, Error> {
    let late: Client = grant.client()?;
    let grant = Arc::new(grant);
    let checking = tokio::spawn(check(grant.clone()));
    let telling = tokio::spawn(tell_loss(grant.clone()));
    // When all is prepared: who reads it may stop this process at once.
    report(event, json!({ "epoch": grant.epoch() }));
    let mut writes = Writes::new(&connection.name);
    while let Some(words) = commands.next().await {
        match &words[..] {
            [verb, path, count] if verb == "late" => {
                let words = ["set".to_owned(), path.clone(), count.clone()];
                writes.carry_out(&words, grant.epoch(), || Ok(late.clone())).await;
            }
            [verb] if verb == "release" => break,
            words => {
                if !writes.carry_out(words, grant.epoch(), || grant.client()).await {
                    unknown(words);
                }
            }
        }
    }
    checking.abort();
    telling.abort();
    let _ = (checking.await, telling.await);
    Ok(Arc::into_inner(grant).expect("the tasks that shared it are gone"))
}

/// Says when the local guard refuses for the first time.
async fn check<G: Held>(grant: Arc<G>) {
    let mut passed = Duration::ZERO;
    loop {
        // Taken before the check: what is said to be passed was passed later.
        let now = monotonic();
        match grant.check() {
            Ok(()) => passed = now,
            Err(error) => {
                let passed_ns = u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX);
                return report("refused", json!({ "passed_ns": passed_ns, "message": error.to_string() }));
            }
        }
        tokio::time::sleep(CHECK).await;
    }
}

async fn tell_loss<G: Held>(grant: Arc<G>) {
    let loss = grant.lost().await;
    report("lost", json!({ "loss": loss.to_string() }));
}
