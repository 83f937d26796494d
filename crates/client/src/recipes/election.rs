use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;

use super::Sessions;
use super::breather::Breather;
use super::grant::{GiveBack, Grant, check_grace, wait_for_lease};
use super::json::Json;
use super::parents::{NUMBER_BYTES, check_room, is_ownerless, remove_ownerless};
use super::participant::Owner;
use super::waiting_line::{Left, Position, WaitingLine, until_left};
use super::znode::found;
use crate::{Client, CreateMode, Error, ErrorKind, ReadLevel, Stat, WatchEvent};

const PRIORITY_MAX: u16 = 99;
/// The pause of [`lead`] after a refusal that will pass.
const RETRY: Duration = Duration::from_secs(1);
const LEADER: &str = "leader";
const CANDIDATE: &str = "candidate-";

/// An election: of all who campaign under one path, one leads at a time.
///
/// ```no_run
/// # async fn example(client: coordd_client::Client) -> Result<(), coordd_client::Error> {
/// use coordd_client::recipes::{Candidate, LeaderElection};
///
/// let election = LeaderElection::new(&client, "/app/scheduler");
/// let leadership = election.campaign(&Candidate::new("host-7").address("10.0.0.7:9000")).await?;
/// leadership.write(|client| client.set("/app/schedule", "by host-7", None)).await?;
/// println!("led until {}", leadership.lost().await);
/// # Ok(()) }
/// ```
///
/// # Znodes
///
/// Candidates are ephemeral sequential znodes `candidate-<rank>-<number>`, rank 99 minus the priority. The first of them
/// by rank and number waits until there is no `leader`, and then, in one step, deletes its own znode and creates the
/// ephemeral `leader`, whose creation zxid is the epoch. The others wait for the one before them, so an end wakes one.
///
/// # Guarantees
///
/// No two `leader` znodes at a time; growing epochs; see [`Grant`] for what that means to somebody who acts on it. A
/// candidate with a higher priority is elected before others that wait; it does not depose who leads.
///
/// Curator: `LeaderLatch`, `LeaderSelector`; kazoo: `Election`. Neither has an epoch.
#[derive(Clone, Debug)]
pub struct LeaderElection {
    line: WaitingLine,
}

/// Who campaigns.
#[derive(Clone, Debug)]
pub struct Candidate {
    proclamation: Owner,
    priority: u16,
    grace: Option<Duration>,
}

impl Candidate {
    /// A candidate under a name that others see, with priority 0.
    pub fn new(id: impl Into<String>) -> Self {
        Self { proclamation: Owner::new(id), priority: 0, grace: None }
    }

    /// Where others reach it while it leads.
    #[must_use]
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.proclamation.address = address.into();
        self
    }

    /// Whatever else others should know: a value, or a [`Json`], whose text is kept. With the rest at most 1
    /// MiB as JSON.
    #[must_use]
    pub fn data(mut self, data: impl Into<Json>) -> Self {
        self.proclamation.data = data.into();
        self
    }

    /// 0 to 99; of those who wait the one with the highest is elected first. Default 0.
    #[must_use]
    pub fn priority(mut self, priority: u16) -> Self {
        self.priority = priority;
        self
    }

    /// How long before its deadline a leadership counts as lost ([`Grant::lost`]): the time in which duties can be stopped.
    /// Default: a quarter of the session timeout. Pings go out every quarter of the timeout, so more than half of it
    /// leaves none.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }

    pub(super) fn proclamation(&self) -> &Owner {
        &self.proclamation
    }

    pub(super) fn grace_before_loss(&self) -> Option<Duration> {
        self.grace
    }
}

/// Who leads.
#[derive(Clone, Debug, PartialEq)]
pub struct Leader {
    /// The candidate's name.
    pub id: String,
    /// Where it is reached; empty if it did not say.
    pub address: String,
    /// What it proclaims; `null` if nothing.
    pub data: Json,
    /// The epoch of its leadership.
    pub epoch: u64,
    /// Its session.
    pub session_id: u64,
    /// Since when it leads: milliseconds since the Unix epoch by the clock of the ensemble's leader.
    pub since_ms: u64,
}

impl Leader {
    /// `None` for a znode that is not ephemeral: it stands for nobody.
    fn parse(data: &[u8], stat: &Stat) -> Option<Self> {
        if is_ownerless(stat) {
            return None;
        }
        let Owner { id, address, data } = Owner::parse(data);
        let (epoch, session_id, since_ms) = (stat.czxid, stat.ephemeral_owner, stat.ctime);
        Some(Self { id, address, data, epoch, session_id, since_ms })
    }
}

impl LeaderElection {
    /// The election at a path. Nothing happens yet.
    pub fn new(client: &Client, path: impl Into<String>) -> Self {
        Self { line: WaitingLine::new(client, path) }
    }

    /// The znode of who leads.
    pub fn leader_path(&self) -> String {
        format!("{}/{LEADER}", self.line.path())
    }

    /// Waits in line until elected.
    ///
    /// # Errors
    ///
    /// `BadArguments` for a priority over 99 or a grace over half the session timeout; `GrantLost` if the candidacy was deleted by somebody else; those of the session.
    ///
    /// # Cancellation
    ///
    /// Dropping the future withdraws the candidacy, and a leadership that was won meanwhile.
    pub async fn campaign(&self, candidate: &Candidate) -> Result<Leadership, Error> {
        let Candidate { proclamation, priority, grace } = candidate;
        if *priority > PRIORITY_MAX {
            let message = format!("priority {priority}; the highest is {PRIORITY_MAX}");
            return Err(Error::new(ErrorKind::BadArguments, message));
        }
        check_grace(self.line.client(), *grace)?;
        let data = proclamation.to_bytes()?;
        let kind = format!("{CANDIDATE}{:02}-", PRIORITY_MAX - priority);
        check_room(self.line.path(), kind.len() + NUMBER_BYTES)?;
        let (client, leader) = (self.line.client(), self.leader_path());
        let mut place = self.line.join(&kind, data.clone()).await?;
        loop {
            place.wait_until_free(predecessor).await?;
            match until_left(client, &leader).await? {
                Left::Absent => {}
                // Somebody with a higher priority may have come meanwhile.
                Left::Gone => continue,
                Left::Ownerless(stat) => {
                    remove_ownerless(client, &leader, &stat).await?;
                    continue;
                }
            }
            wait_for_lease(client, *grace).await?;
            match place.exchange(&leader, data.clone(), CreateMode::Ephemeral, *grace).await? {
                Ok(grant) => return Ok(Leadership { grant, proclamation: proclamation.clone() }),
                // Somebody with a higher priority came in between.
                Err((kept, error)) if error.kind == ErrorKind::NodeExists => place = kept,
                Err((_, error)) => return Err(error),
            }
        }
    }

    /// Who leads, everything considered that was acknowledged before the call.
    ///
    /// # Errors
    ///
    /// `NoAuth`; those of the session.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn leader(&self) -> Result<Option<Leader>, Error> {
        let leader = found(self.line.client().get(self.leader_path(), ReadLevel::Linearizable).await)?;
        Ok(leader.and_then(|(data, stat)| Leader::parse(&data, &stat)))
    }

    /// The candidates that wait, the next one first. Their `epoch` and `since_ms` are those of the candidacy.
    ///
    /// # Errors
    ///
    /// `NoAuth`; those of the session.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn candidates(&self) -> Result<Vec<Leader>, Error> {
        let mut positions = self.line.positions(ReadLevel::Linearizable).await?;
        positions.retain(is_candidate);
        positions.sort_by_key(rank);
        let candidates = self.line.read(positions).await?;
        Ok(candidates.iter().filter_map(|(_, data, stat)| Leader::parse(data, stat)).collect())
    }

    /// Who leads now, and every change that is seen: of who leads, and of what is proclaimed. `None`: nobody. A change that is
    /// undone at once may be skipped; the newest state never is.
    ///
    /// # Errors
    ///
    /// As the last item: `NoAuth`; those of the session.
    pub fn observe(&self) -> impl Stream<Item = Result<Option<Leader>, Error>> + Send + Unpin + 'static {
        let (client, path) = (self.line.client().clone(), self.leader_path());
        let first = Observation { client, path, pending: None, seen: None };
        Box::pin(futures::stream::try_unfold(first, async |mut observation| {
            let leader = observation.next().await?;
            Ok(Some((leader, observation)))
        }))
    }
}

struct Observation {
    client: Client,
    path: String,
    pending: Option<crate::OneshotWatcher>,
    /// What was yielded last.
    seen: Option<Option<Leader>>,
}

impl Observation {
    async fn next(&mut self) -> Result<Option<Leader>, Error> {
        loop {
            if let Some(watcher) = self.pending.take() {
                let _: WatchEvent = watcher.changed().await?;
            }
            let leader = match self.client.get_and_watch(&self.path, ReadLevel::Local).await {
                Ok((data, stat, watcher)) => {
                    self.pending = Some(watcher);
                    Leader::parse(&data, &stat)
                }
                Err(error) if error.kind == ErrorKind::NoNode => {
                    let (stat, watcher) = self.client.exists_and_watch(&self.path, ReadLevel::Local).await?;
                    if stat.is_some() {
                        continue;
                    }
                    self.pending = Some(watcher);
                    None
                }
                Err(error) => return Err(error),
            };
            if self.seen.as_ref() != Some(&leader) {
                self.seen = Some(leader.clone());
                return Ok(leader);
            }
        }
    }
}

/// `candidate-<rank>-`, then the number.
fn rank(position: &Position) -> (String, u64) {
    (position.kind().to_owned(), position.number)
}

fn is_candidate(position: &Position) -> bool {
    position.kind().starts_with(CANDIDATE)
}

/// The candidate that is elected just before this one.
fn predecessor(positions: &[Position], index: usize) -> Option<String> {
    let own = rank(&positions[index]);
    let before = positions.iter().filter(|other| is_candidate(other) && rank(other) < own);
    before.max_by_key(|other| rank(other)).map(|other| other.name.clone())
}

/// A leadership: a [`Grant`] whose znode says who leads. Dropping it resigns. It can be shared, and any of those who share it
/// can resign:
///
/// ```no_run
/// # async fn example(sessions: coordd_client::recipes::Sessions) -> Result<(), coordd_client::Error> {
/// use coordd_client::recipes::{Candidate, lead};
///
/// lead(&sessions, "/app/scheduler", &Candidate::new("host-7"), |leadership| async move {
///     let duties = tokio::spawn({
///         let leadership = leadership.clone();
///         async move { leadership.write(|client| client.set("/app/schedule", "by host-7", None)).await }
///     });
///     if !matches!(duties.await, Ok(Ok(_))) {
///         // Another one may do better.
///         let _ = leadership.resign().await;
///     }
/// })
/// .await
/// # }
/// ```
#[derive(Debug)]
pub struct Leadership {
    grant: Grant,
    proclamation: Owner,
}

impl Deref for Leadership {
    type Target = Grant;

    fn deref(&self) -> &Grant {
        &self.grant
    }
}

impl Leadership {
    /// Replaces what others see beside id and address. At most 1 MiB as JSON, with the rest.
    ///
    /// # Errors
    ///
    /// `GrantLost` or `GuardFailed` if it leads no more; those of the session.
    ///
    /// # Cancellation
    ///
    /// A write that was sent may take effect all the same.
    pub async fn proclaim(&self, data: impl Into<Json>) -> Result<(), Error> {
        let data = Owner { data: data.into(), ..self.proclamation.clone() }.to_bytes()?;
        let path = self.grant.path();
        self.grant.write(|client| client.set(path, data, None)).await?;
        Ok(())
    }

    /// Ends the leadership; the future waits for it. Stop the duties first. From the call on the leadership refuses, for
    /// everybody who shares it.
    ///
    /// # Errors
    ///
    /// Those of the session.
    ///
    /// # Cancellation
    ///
    /// It ends also if the future is dropped.
    pub fn resign(&self) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        self.grant.release()
    }
}

/// Campaigns for as long as there are sessions, and carries the duties out whenever elected: `duties` is called with each
/// leadership, and its future is dropped when that is lost, a grace before anybody else can lead. When the duties end by
/// themselves the leadership is resigned, and the candidate campaigns again: after a pause, of up to a second, if they had begun
/// less than a second before.
///
/// Work that the duties have spawned is not stopped by dropping their future: it must end when they do.
///
/// # Errors
///
/// `SessionClosed` when the sessions are closed; `BadArguments`, `NoAuth` and the like, which trying again cannot help.
///
/// # Cancellation
///
/// Drops the duties, and then withdraws the candidacy or resigns.
pub async fn lead<F: Future<Output = ()>>(
    sessions: &Sessions,
    path: &str,
    candidate: &Candidate,
    mut duties: impl FnMut(Arc<Leadership>) -> F,
) -> Result<(), Error> {
    let mut breather = Breather::new();
    loop {
        let leadership = Arc::new(elected(sessions, path, candidate).await?);
        breather.begin();
        // Also if the duties leave a clone of it somewhere, and this future is dropped.
        let _give_back = GiveBack(&leadership);
        let is_lost = tokio::select! {
            biased;
            _ = leadership.lost() => true,
            () = duties(leadership.clone()) => false,
        };
        if let Err(error) = leadership.resign().await {
            tracing::debug!(%error, "the leadership ended with its session");
        }
        if !is_lost {
            breather.breathe().await;
        }
    }
}

/// Campaigns for as long as there are sessions: the leaderships that it wins, one after the other. The next one comes when the
/// one before has ended: who reads on before that waits for it. What [`lead`] does with duties is left to the reader,
/// who has to stop by [`Grant::lost`] and then let go.
///
/// # Errors
///
/// As the last item: those of [`lead`].
///
/// # Cancellation
///
/// Dropping the stream withdraws the candidacy; a leadership that it has yielded stays.
pub fn leaderships(
    sessions: &Sessions,
    path: &str,
    candidate: &Candidate,
) -> impl Stream<Item = Result<Leadership, Error>> + Send + Unpin + use<> {
    let campaign = (sessions.clone(), path.to_owned(), candidate.clone());
    Box::pin(futures::stream::try_unfold(campaign, async |(sessions, path, candidate)| {
        let leadership = elected(&sessions, &path, &candidate).await?;
        Ok(Some((leadership, (sessions, path, candidate))))
    }))
}

/// Campaigns until elected, in this session or in a later one.
async fn elected(sessions: &Sessions, path: &str, candidate: &Candidate) -> Result<Leadership, Error> {
    loop {
        let client = sessions.live().await?;
        match LeaderElection::new(&client, path).campaign(candidate).await {
            // The next session campaigns anew, and so does who was struck from the list.
            Err(error) if error.is_terminal() || error.kind == ErrorKind::GrantLost => {}
            Err(error) if error.is_retryable() => {
                tokio::time::sleep(error.retry_after.unwrap_or(RETRY)).await;
            }
            ended => return ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(names: &[&str]) -> Vec<Position> {
        let mut positions: Vec<_> = names.iter().filter_map(|name| Position::parse(name)).collect();
        positions.sort_by_key(|position| position.number);
        positions
    }

    fn predecessor_of(name: &str, names: &[&str]) -> Option<String> {
        let positions = line(names);
        let index = positions.iter().position(|position| position.name == name).unwrap();
        predecessor(&positions, index)
    }

    #[test]
    fn each_candidate_waits_for_the_one_before_it_by_priority_and_then_by_number() {
        let names =
            ["leader", "candidate-99-0000000001", "candidate-99-0000000002", "candidate-90-0000000003"];
        assert_eq!(predecessor_of("candidate-90-0000000003", &names), None);
        assert_eq!(predecessor_of("candidate-99-0000000001", &names).unwrap(), "candidate-90-0000000003");
        assert_eq!(predecessor_of("candidate-99-0000000002", &names).unwrap(), "candidate-99-0000000001");
    }

    #[test]
    fn numbers_of_more_than_ten_digits_come_later() {
        let names = ["candidate-99-9999999999", "candidate-99-10000000000"];
        assert_eq!(predecessor_of("candidate-99-9999999999", &names), None);
        assert!(predecessor_of("candidate-99-10000000000", &names).is_some());
    }

    #[test]
    fn a_leader_whose_znode_holds_something_else_is_a_leader() {
        let stat = Stat { czxid: 7, ephemeral_owner: 9, ctime: 5, ..Stat::default() };
        let leader = Leader::parse(b"host-7:80", &stat).unwrap();
        assert_eq!((leader.id.as_str(), leader.epoch, leader.session_id), ("", 7, 9));
    }
}
