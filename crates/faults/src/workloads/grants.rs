use std::time::Duration;

use coordd_client::Client;
use coordd_client::recipes::{Candidate, Grant, LeaderElection, Lock};
use rand::Rng as _;

use super::{Context, PAUSE};
use crate::history::{Answer, Op, What, now};
use crate::recorded_client::RecordedClient;

pub(crate) const ROOT: &str = "/grants";
/// Below it is what the holder of a grant of the same name writes to.
pub(crate) const LOG_ROOT: &str = "/granted";
/// Who waits longer gives up its place in the line, so that places are given up too.
const PATIENCE: Duration = Duration::from_secs(3);
/// The most writes of one holder.
const WRITES: u32 = 6;
/// How often a holder writes on after its grant is gone, and how much.
const LATE: f64 = 0.2;
const LATE_WRITES: u32 = 3;

/// Competes for a lock or a leadership; who has it writes under its epoch, and asks its own clock before each write.
pub(crate) async fn run(context: Context, task: u64) {
    let mut rng = context.rng("grants", task);
    let is_election = task == 1;
    let name = if is_election { "election" } else { "lock" };
    let path = format!("{ROOT}/{name}");
    while let Some(client) = context.session("grants").await {
        let (lock, election) = (Lock::new(&client.client, &path), LeaderElection::new(&client.client, &path));
        let candidate = Candidate::new(format!("{}-{task}", context.process));
        while context.goes_on() && !client.is_over() {
            let got = if is_election {
                let won = tokio::time::timeout(PATIENCE, election.campaign(&candidate)).await;
                won.map(|won| won.map(Held::Leadership))
            } else {
                let won = tokio::time::timeout(PATIENCE, lock.lock()).await;
                won.map(|won| won.map(Held::Lock))
            };
            let Ok(got) = got else { continue };
            let Ok(held) = got else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let epoch = held.grant().epoch();
            client.note(What::Granted { grant: name.to_owned(), epoch });
            let mut late_writes = None;
            for number in 0..rng.random_range(1..=WRITES) {
                // What it promises is that nobody else had the grant when it was asked: a pause behind that is no lie.
                let asked = now();
                let Ok(guarded) = held.grant().client() else { break };
                client.note_at(asked, What::Held { grant: name.to_owned(), epoch });
                let written = write_under(&client, &guarded, name, epoch, number).await;
                late_writes = Some(guarded);
                if !written {
                    break;
                }
                context.pause(&mut rng).await;
            }
            client.note(What::LetGo { grant: name.to_owned(), epoch });
            held.release().await;
            if let Some(guarded) = late_writes.filter(|_| rng.random_bool(LATE)) {
                // As somebody does who has not noticed that the grant is gone: the guard has to do it. Not all of it at
                // once, so that the next holder writes between.
                for number in WRITES..WRITES + LATE_WRITES {
                    context.pause(&mut rng).await;
                    write_under(&client, &guarded, name, epoch, number).await;
                }
            }
            context.pause(&mut rng).await;
        }
        if !context.goes_on() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Writes to the log of a grant under its epoch. Whether it was taken.
pub(super) async fn write_under(
    client: &RecordedClient,
    guarded: &Client,
    grant: &str,
    epoch: u64,
    number: u32,
) -> bool {
    let (path, value) = (format!("{LOG_ROOT}/{grant}"), format!("{epoch}:{number}"));
    let op = Op::Set { path, value, version: None, epoch: Some(epoch) };
    matches!(client.send(op, Some(guarded)).await, Answer::Set { .. })
}

enum Held {
    Lock(Grant),
    Leadership(coordd_client::recipes::Leadership),
}

impl Held {
    fn grant(&self) -> &Grant {
        match self {
            Held::Lock(grant) => grant,
            Held::Leadership(leadership) => leadership,
        }
    }

    /// Whether it succeeds shows in what the next holder does.
    async fn release(self) {
        match self {
            Held::Lock(grant) => drop(grant.release().await),
            Held::Leadership(leadership) => drop(leadership.resign().await),
        }
    }
}
