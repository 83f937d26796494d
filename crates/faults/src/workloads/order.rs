use futures::future::join_all;
use rand::Rng as _;

use super::{Context, PAUSE};
use crate::history::{Level, Mode, Op};

pub(crate) const ROOT: &str = "/ordered";
/// Znodes of one session.
const ZNODES: u64 = 3;
/// Requests that are sent without waiting.
const BURST: usize = 10;

/// Bursts of writes and local reads without waiting between them; one client writes a znode, others read it too.
pub(crate) async fn run(context: Context) {
    let mut rng = context.rng("order", 0);
    let mut count = 0u64;
    let path = |process: u32, znode: u64| format!("{ROOT}/{process}-{znode}");
    while let Some(client) = context.session("order").await {
        for znode in 0..ZNODES {
            // It is there from the last session, or not.
            client.create(&path(context.process, znode), "", Mode::Persistent).await;
        }
        while context.goes_on() && !client.is_over() {
            let mut burst = Vec::new();
            for _ in 0..rng.random_range(1..=BURST) {
                count += 1;
                let own = path(context.process, rng.random_range(0..ZNODES));
                let op = match rng.random_range(0..5) {
                    0..3 => Op::Set { path: own, value: count.to_string(), version: None, epoch: None },
                    3 => Op::Get { path: own, level: Level::Local },
                    _ => {
                        let other = path(rng.random_range(1..=context.process), rng.random_range(0..ZNODES));
                        Op::Get { path: other, level: Level::Local }
                    }
                };
                burst.push(client.send(op, None));
            }
            join_all(burst).await;
            context.pause(&mut rng).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
