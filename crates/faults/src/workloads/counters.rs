use coordd_client::recipes::Counter;

use super::{Context, PAUSE};
use crate::history::{Answer, What};
use crate::recorded_client::refusal;

pub(crate) const ROOT: &str = "/counters";
/// The counter that all share.
pub(crate) const COUNTER: &str = "/counters/all";

/// Adds 1, again and again.
pub(crate) async fn run(context: Context) {
    let mut rng = context.rng("counters", 0);
    while let Some(client) = context.session("counters").await {
        let counter = Counter::new(&client.client, COUNTER);
        while context.goes_on() && !client.is_over() {
            client.note(What::Adding);
            match counter.add(1).await.map_err(refusal) {
                Ok(value) => client.note(What::Added { value }),
                Err(Answer::Refused(error) | Answer::Failed(error)) => client.note(What::NotAdded { error }),
                // It may have been added.
                Err(_) => {}
            }
            context.pause(&mut rng).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
