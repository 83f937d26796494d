use rand::Rng as _;

use super::{Context, PAUSE, is_answer};
use crate::history::{Level, Mode};

pub(crate) const ROOT: &str = "/ephemerals";
/// Of one session.
const ZNODES: u64 = 3;
/// One session in so many steps is closed by its client.
const CLOSE_ONE_IN: u32 = 60;

/// Sessions with ephemerals: some are closed, the others are there until their process is killed or the ensemble takes them for dead.
pub(crate) async fn run(context: Context) {
    let mut rng = context.rng("ephemerals", 0);
    while let Some(client) = context.session("ephemerals").await {
        let path = |znode: u64| format!("{ROOT}/{:x}-{znode}", client.client.session_id());
        for znode in 0..ZNODES {
            client.create(&path(znode), "", Mode::Ephemeral).await;
        }
        while context.goes_on() && !client.is_over() {
            if rng.random_ratio(1, CLOSE_ONE_IN) {
                client.close().await;
                break;
            }
            let path = path(rng.random_range(0..ZNODES));
            if !is_answer(&client.get(&path, Level::Linearizable).await) {
                break;
            }
            context.pause(&mut rng).await;
            context.pause(&mut rng).await;
        }
        if !context.goes_on() {
            // The session stays as long as this process, which ends after the last look at the ephemerals.
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
