use rand::Rng as _;
use rand::seq::IteratorRandom as _;

use super::{Context, PAUSE};
use crate::history::{Answer, Mode};

pub(crate) const ROOT: &str = "/sequence";

/// Creates numbered znodes under one parent, and deletes some of its own: the numbers go on from what the parent remembers, not from what
/// is there.
pub(crate) async fn run(context: Context) {
    let mut rng = context.rng("sequence", 0);
    let mut own: Vec<String> = Vec::new();
    while let Some(client) = context.session("sequence").await {
        while context.goes_on() && !client.is_over() {
            let value = context.process.to_string();
            if let Answer::Created { path, .. } =
                client.create(&format!("{ROOT}/n-"), value, Mode::Sequential).await
            {
                own.push(path);
            }
            if rng.random_bool(0.5)
                && let Some(at) = (0..own.len()).choose(&mut rng)
            {
                client.delete(&own.swap_remove(at)).await;
            }
            context.pause(&mut rng).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
