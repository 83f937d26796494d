use rand::Rng as _;

use super::{Context, PAUSE, is_answer};
use crate::history::{Level, Mode};

pub(crate) const ROOT: &str = "/ephemerals";
/// Of one session.
const ZNODES: u64 = 3;
/// Of the znodes of the session before, after it was closed.
const READS_OF_CLOSED: u64 = 12;
/// One session in so many steps is closed by its client.
const CLOSE_ONE_IN: u32 = 60;

/// Sessions with ephemerals: some are closed, the others are there until their process is killed or the ensemble takes them for dead.
pub(crate) async fn run(context: Context) {
    let mut rng = context.rng("ephemerals", 0);
    // The session that was closed last.
    let mut closed = None;
    while let Some(client) = context.session("ephemerals").await {
        let session = client.client.session_id();
        // What went with a session does not come back, on whichever node this one is.
        if let Some(closed) = closed.take() {
            for number in 0..READS_OF_CLOSED {
                client.get(&path_of(closed, number % ZNODES), Level::Linearizable).await;
                context.pause(&mut rng).await;
            }
        }
        for znode in 0..ZNODES {
            client.create(&path_of(session, znode), "", Mode::Ephemeral).await;
        }
        while context.goes_on() && !client.is_over() {
            if rng.random_ratio(1, CLOSE_ONE_IN) {
                client.close().await;
                closed = Some(session);
                break;
            }
            let path = path_of(session, rng.random_range(0..ZNODES));
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

fn path_of(session: u64, znode: u64) -> String {
    format!("{ROOT}/{session:x}-{znode}")
}
