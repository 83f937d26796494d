use rand::Rng as _;

use super::{Context, PAUSE};
use crate::history::{Answer, SetOne};

pub(crate) const ROOT: &str = "/accounts";
pub(crate) const INITIAL_BALANCE: i64 = 100;
/// Money moves among so many...
const ACCOUNTS: usize = 4;
/// ...in one of so many banks, each open for a while: a bank's history is searched, and the search takes longer than the
/// square of it.
const BANKS: u64 = 60;
const LIFE_NS: u64 = 1_000_000_000;

/// All accounts; they exist, with their first balance, before the workload begins.
pub(crate) fn paths() -> Vec<String> {
    (0..BANKS).flat_map(bank).collect()
}

fn bank(number: u64) -> Vec<String> {
    (0..ACCOUNTS).map(|account| format!("{ROOT}/{number}-{account}")).collect()
}

/// Reads all accounts as one state, and moves something from one to another in one multi, if nobody else has meanwhile.
pub(crate) async fn run(context: Context, task: u64) {
    let mut rng = context.rng("transfers", task);
    while let Some(client) = context.session("transfers").await {
        while context.goes_on() && !client.is_over() {
            let paths = bank(crate::history::now() / LIFE_NS % BANKS);
            let Answer::MultiGot(balances) = client.multi_get(&paths).await else { continue };
            let from = rng.random_range(0..ACCOUNTS);
            let to = (from + rng.random_range(1..ACCOUNTS)) % ACCOUNTS;
            let amount = rng.random_range(1..10);
            let change = |account: usize, by: i64| {
                let (balance, version, _) = &balances[account];
                // What does not parse stays what it is, for the checker to find.
                let value =
                    balance.parse().map_or_else(|_| balance.clone(), |old: i64| (old + by).to_string());
                SetOne { path: paths[account].clone(), value, version: *version }
            };
            client.multi(vec![change(from, -amount), change(to, amount)]).await;
            // Slower than other workloads: every one of its operations is about the same znodes.
            context.pause(&mut rng).await;
            context.pause(&mut rng).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
