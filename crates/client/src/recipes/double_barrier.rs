use bytes::Bytes;
use futures::TryStreamExt as _;
use serde::{Deserialize, Serialize};

use super::detached::detach;
use super::parents::{NUMBER_BYTES, check_room, create_in_container, is_ownerless};
use super::waiting_line::{Position, owned};
use super::znode::{found, name_of};
use crate::{
    Check, Client, CreateMode, CreateOptions, Error, ErrorKind, ListOptions, OneshotWatcher, ReadLevel, Stat,
};

const MEMBERS: &str = "members";
const MEMBER: &str = "member-";

/// A multi has at most 1,000 operations, and the round is opened by one.
const PARTIES_MAX: usize = 999;

/// A barrier for a number of parties: all go in together, and nobody has left before all have.
///
/// Curator's `DistributedDoubleBarrier`, kazoo's `DoubleBarrier`. It can be used again, in rounds: exactly `parties` enter in a
/// round, in the order in which they came, and who comes while a round is on waits for the next. (Curator lets late comers
/// in, also those of the next round while the last is leaving.)
///
/// * **A member that dies before the round begins** does not count any more; the others wait until another has come.
/// * **A member that dies inside** counts as having left, from the end of its session on: the others wait for at most its
///   session timeout. That it did not do its part they have to find out by other means.
/// * **When the session ends**, one's own calls fail with `SessionExpired`, and one is out.
///
/// ```no_run
/// # async fn example(client: coordd_client::Client) -> Result<(), coordd_client::Error> {
/// use coordd_client::recipes::DoubleBarrier;
///
/// let barrier = DoubleBarrier::new(&client, "/jobs/42/barrier", 3)?;
/// let entered = barrier.enter().await?;
/// // ... what the three do together ...
/// entered.leave().await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct DoubleBarrier {
    client: Client,
    path: String,
    parties: usize,
}

/// The round that is on: the data of `{path}/ready`.
#[derive(Debug, Serialize, Deserialize)]
struct Round {
    members: Vec<String>,
}

impl DoubleBarrier {
    /// A barrier at a path; all who use it must name the same number of parties.
    ///
    /// # Errors
    ///
    /// `BadArguments` for no party, or more than 999.
    pub fn new(client: &Client, path: impl Into<String>, parties: usize) -> Result<Self, Error> {
        if !(1..=PARTIES_MAX).contains(&parties) {
            let message = format!("a double barrier is for 1 to {PARTIES_MAX} parties, not {parties}");
            return Err(Error::new(ErrorKind::BadArguments, message));
        }
        Ok(Self { client: client.patient(), path: path.into(), parties })
    }

    /// Waits until so many have come, oneself included, and goes in with them.
    ///
    /// # Errors
    ///
    /// Those of [`Client::create`] and [`Client::get`]; `GrantLost` if one's place was deleted by somebody else; `SessionExpired` and
    /// `SessionClosed` if the session ends meanwhile.
    ///
    /// # Cancellation
    ///
    /// Leaves nothing behind: one has not come, or, if the round had begun, has left.
    pub async fn enter(&self) -> Result<Entered, Error> {
        check_room(&self.path, MEMBERS.len() + 1 + MEMBER.len() + NUMBER_BYTES)?;
        let place = self.come().await?;
        loop {
            let (round, changed) = self.round().await?;
            match round {
                Some((round, _)) if round.members.contains(&place.name) => {
                    return Ok(Entered { barrier: self.clone(), place, round });
                }
                // Another round is on. It ends when its last member is gone, or is ended here if that has died.
                Some((round, stat)) => match self.remaining(&round).await?.first() {
                    None => self.end_round(&stat, None).await?,
                    Some(member) => {
                        tokio::select! {
                            gone = self.wait_gone(member) => gone?,
                            event = changed.changed() => drop(event?),
                        }
                    }
                },
                None => {
                    let came = self.members().await?;
                    if !came.contains(&place.name) {
                        let message = "the place in the barrier was deleted by somebody else";
                        let error = Error::new(ErrorKind::GrantLost, message);
                        return Err(Error { path: place.path.clone(), ..error });
                    }
                    if came.len() < self.parties {
                        // Who completes the number opens the round; until then nobody has anything to do.
                        changed.changed().await?;
                    } else {
                        self.open_round(&came[..self.parties]).await?;
                    }
                }
            }
        }
    }

    /// Takes a place. If the future is dropped meanwhile the place is given up too.
    async fn come(&self) -> Result<Place, Error> {
        let prefix = format!("{}/{MEMBERS}/{MEMBER}", self.path);
        let client = self.client.clone();
        owned(async move {
            let options = CreateOptions::new(CreateMode::EphemeralSequential);
            let created = create_in_container(&client, &prefix, Bytes::new(), &options).await?;
            let name = name_of(&created.path).to_owned();
            Ok(Place { client, path: created.path, name })
        })
        .await
    }

    /// Who has come and not left, in the order in which they came. A znode that is not ephemeral stands for nobody.
    async fn members(&self) -> Result<Vec<String>, Error> {
        let options = ListOptions { with_stat: true, ..ListOptions::default() };
        let mut pages = self.client.list_pages(format!("{}/{MEMBERS}", self.path), ReadLevel::Local, options);
        let mut members = Vec::new();
        while let Some(Some(page)) = found(pages.try_next().await)? {
            let owned = page.children.iter().filter(|child| !child.stat.as_ref().is_some_and(is_ownerless));
            members.extend(owned.filter_map(|child| Position::parse(&child.name)));
        }
        members.sort_by(|left, right| (left.number, &left.name).cmp(&(right.number, &right.name)));
        Ok(members.into_iter().map(|member| member.name).collect())
    }

    /// The members of a round that have not left, in the order in which they came.
    async fn remaining(&self, round: &Round) -> Result<Vec<String>, Error> {
        let there = self.members().await?;
        Ok(round.members.iter().filter(|name| there.contains(name)).cloned().collect())
    }

    /// The round that is on, and a watch of that.
    async fn round(&self) -> Result<(Option<(Round, Stat)>, OneshotWatcher), Error> {
        let path = self.ready_path();
        loop {
            match self.client.get_and_watch(path.clone(), ReadLevel::Local).await {
                Ok((data, stat, watcher)) => {
                    let round = serde_json::from_slice(&data).unwrap_or_else(|error| {
                        tracing::warn!(path, %error, "no round can be read here; ending it");
                        Round { members: Vec::new() }
                    });
                    return Ok((Some((round, stat)), watcher));
                }
                Err(error) if error.kind == ErrorKind::NoNode => {}
                Err(error) => return Err(error),
            }
            let (stat, watcher) = self.client.exists_and_watch(path.clone(), ReadLevel::Local).await?;
            if stat.is_none() {
                return Ok((None, watcher));
            }
        }
    }

    /// Begins a round with these members, if they are all there still and no other has begun.
    async fn open_round(&self, members: &[String]) -> Result<(), Error> {
        let data = serde_json::to_vec(&Round { members: members.to_vec() });
        let data = data.map_err(|error| Error::new(ErrorKind::BadArguments, error.to_string()))?;
        let multi = members.iter().fold(self.client.multi(), |multi, name| {
            multi.check(Check::exists(format!("{}/{MEMBERS}/{name}", self.path)))
        });
        match multi.create(self.ready_path(), data, CreateMode::Persistent).commit().await {
            Err(error) if !matches!(error.kind, ErrorKind::NoNode | ErrorKind::NodeExists) => Err(error),
            _ => Ok(()),
        }
    }

    /// Ends a round whose members have all left, or all but `last`, which leaves in the same step: who comes must not meet
    /// it between two rounds.
    async fn end_round(&self, ready: &Stat, last: Option<&Place>) -> Result<(), Error> {
        let multi = self.client.multi().check(Check::epoch(self.ready_path(), ready.czxid));
        let multi = multi.delete(self.ready_path(), None);
        let multi = last.into_iter().fold(multi, |multi, place| multi.delete(place.path.clone(), None));
        match multi.commit().await {
            Err(error) if !matches!(error.kind, ErrorKind::NoNode | ErrorKind::BadEpoch) => Err(error),
            _ => Ok(()),
        }
    }

    async fn wait_gone(&self, member: &str) -> Result<(), Error> {
        let path = format!("{}/{MEMBERS}/{member}", self.path);
        loop {
            let (stat, watcher) = self.client.exists_and_watch(path.clone(), ReadLevel::Local).await?;
            if stat.is_none() {
                return Ok(());
            }
            watcher.changed().await?;
        }
    }

    fn ready_path(&self) -> String {
        format!("{}/ready", self.path)
    }
}

/// A member's ephemeral. Deleted when this is dropped.
#[derive(Debug)]
struct Place {
    client: Client,
    path: String,
    name: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        // It takes its place in the session's order here; if the session has ended, so has the znode.
        detach(self.client.unguarded().delete(self.path.clone(), None));
    }
}

/// One is inside of a [`DoubleBarrier`]. Dropping it is leaving without waiting for the others.
#[derive(Debug)]
#[must_use = "dropping it leaves the barrier"]
pub struct Entered {
    barrier: DoubleBarrier,
    place: Place,
    round: Round,
}

impl Entered {
    /// Waits until all who entered with this one leave too, or have died.
    ///
    /// # Errors
    ///
    /// Those of [`Client::exists_and_watch`]; `SessionExpired` and `SessionClosed` if the session ends meanwhile.
    ///
    /// # Cancellation
    ///
    /// One has left; the others do not wait for this one.
    pub async fn leave(self) -> Result<(), Error> {
        let Self { barrier, place, round } = self;
        let mut place = Some(place);
        loop {
            let remaining = barrier.remaining(&round).await?;
            let (Some(first), Some(last)) = (remaining.first(), remaining.last()) else { return Ok(()) };
            // The first to have come stays until it is alone and waits for the last, the others go and wait for the first. So
            // the end of a member wakes one, and not all.
            match &place {
                Some(own) if *first == own.name && *last == own.name => {
                    let (on, _watcher) = barrier.round().await?;
                    if let Some((_, stat)) = on.filter(|(on, _)| on.members == round.members) {
                        barrier.end_round(&stat, Some(own)).await?;
                    }
                    place = None;
                }
                Some(own) if *first == own.name => barrier.wait_gone(last).await?,
                _ => {
                    place = None;
                    barrier.wait_gone(first).await?;
                }
            }
        }
    }
}
