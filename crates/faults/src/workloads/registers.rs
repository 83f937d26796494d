use rand::Rng as _;

use super::{Context, PAUSE};
use crate::history::{Answer, Level};

pub(crate) const ROOT: &str = "/registers";
/// Registers in use at a time.
const SLOTS: u64 = 4;
/// How long a register is in use: its history is searched, and the search takes longer than the square of it.
const LIFE_NS: u64 = 1_000_000_000;
/// How often a slot gets a new register before it gets the first one again.
const GENERATIONS: u64 = 90;

/// All registers; they exist before the workload begins.
pub(crate) fn paths() -> Vec<String> {
    (0..SLOTS * GENERATIONS).map(|number| format!("{ROOT}/{number}")).collect()
}

/// Random reads, sets and versioned sets of a few registers that all share.
pub(crate) async fn run(context: Context, task: u64) {
    let mut rng = context.rng("registers", task);
    let mut count = 0u64;
    while let Some(client) = context.session("registers").await {
        // The last version of the register of this slot that this task has heard of.
        let mut known = vec![(String::new(), 0); SLOTS as usize];
        while context.goes_on() && !client.is_over() {
            let slot = rng.random_range(0..SLOTS);
            let generation = crate::history::now() / LIFE_NS % GENERATIONS;
            let path = format!("{ROOT}/{}", generation * SLOTS + slot);
            let known = &mut known[slot as usize];
            if known.0 != path {
                *known = (path.clone(), 0);
            }
            count += 1;
            let value = format!("{}-{task}-{count}", context.process);
            let answer = match rng.random_range(0..20) {
                0..9 => client.get(&path, Level::Linearizable).await,
                9..11 => client.get(&path, Level::Local).await,
                11..16 => client.set(&path, value, None).await,
                _ => client.set(&path, value, Some(known.1)).await,
            };
            if let Answer::Got { version, .. } | Answer::Set { version, .. } = answer {
                known.1 = version;
            }
            context.pause(&mut rng).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
