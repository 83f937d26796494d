use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::grant::{Grant, check_grace, wait_for_lease};
use super::lock_line::within;
use super::parents::{NUMBER_BYTES, check_room, create_in_container, is_ownerless, make_container};
use super::participant::{Owner, Participant};
use super::replace_if::replace_if;
use super::waiting_line::{Place, Position, WaitingLine};
use super::znode::{found, to_json};
use crate::{
    Child, Client, CreateMode, CreateOptions, Error, ErrorKind, ListOptions, ListPage, OneshotWatcher,
    ReadLevel,
};

/// What one page of a listing shows.
const PERMITS_MAX: u32 = 10_000;
const WAITER: &str = "waiter-";
const PERMIT: &str = "permit-";

/// A number of permits: of all who ask for one under one path, so many have one at a time, in the order in which they came.
///
/// ```no_run
/// # async fn example(client: coordd_client::Client) -> Result<(), coordd_client::Error> {
/// use coordd_client::recipes::Semaphore;
///
/// let downloads = Semaphore::new(&client, "/app/downloads", 3)?;
/// let permit = downloads.acquire().await?;
/// // At most three at a time are here.
/// permit.release().await?;
/// # Ok(()) }
/// ```
///
/// A permit is a [`Grant`]; dropping it gives it back. Epochs grow from permit to permit, but several are held at the same time, so
/// they are for guarded writes and not to tell the newer holder from the older one.
///
/// # Znodes
///
/// The number of permits is the data of the path, `{"permits": 3}`; who names another number is refused. Who waits has an
/// ephemeral sequential `waiting/waiter-<number>` and watches the one before it; the first one watches the list of permits.
/// When there is one to be had it deletes its znode and creates the ephemeral sequential `permits/permit-<number>`, in one step. So a
/// permit that is given back wakes the one who gets it, and the one who is first then.
///
/// Curator: `InterProcessSemaphoreV2`; kazoo: `Semaphore`. There a number that differs goes unnoticed, or holds for whoever comes
/// first.
#[derive(Clone, Debug)]
pub struct Semaphore {
    client: Client,
    path: String,
    permits: u32,
    waiting: WaitingLine,
    taken: WaitingLine,
    owner: Owner,
    grace: Option<Duration>,
}

/// The data of the path.
#[derive(Debug, Serialize, Deserialize)]
struct Agreement {
    permits: u32,
}

impl Semaphore {
    /// The semaphore at a path; all who use it must name the same number of permits. Nothing happens yet.
    ///
    /// # Errors
    ///
    /// `BadArguments` for no permit, or more than 10,000.
    pub fn new(client: &Client, path: impl Into<String>, permits: u32) -> Result<Self, Error> {
        if !(1..=PERMITS_MAX).contains(&permits) {
            let message = format!("a semaphore has 1 to {PERMITS_MAX} permits, not {permits}");
            return Err(Error::new(ErrorKind::BadArguments, message));
        }
        let path = path.into();
        Ok(Self {
            client: client.patient(),
            permits,
            waiting: WaitingLine::new(client, format!("{path}/waiting")),
            taken: WaitingLine::new(client, format!("{path}/permits")),
            path,
            owner: Owner::default(),
            grace: None,
        })
    }

    /// Who asks for a permit, as others see it in [`queue`](Self::queue). Default: nobody by name.
    #[must_use]
    pub fn owner(self, owner: Owner) -> Self {
        Self { owner, ..self }
    }

    /// How long before its deadline a permit counts as lost ([`Grant::lost`]). Default: a quarter of the session timeout.
    #[must_use]
    pub fn grace(self, grace: Duration) -> Self {
        Self { grace: Some(grace), ..self }
    }

    /// Waits until it has a permit.
    ///
    /// # Errors
    ///
    /// `BadArguments` if the semaphore has another number of permits, `MarshallingError` if its znode holds something else;
    /// `GrantLost` if the place in the line was deleted by somebody else; those of [`Client::create`] and of the session.
    ///
    /// # Cancellation
    ///
    /// Dropping the future leaves the line, and gives back a permit that was won meanwhile.
    pub async fn acquire(&self) -> Result<Grant, Error> {
        let place = self.join().await?;
        place.wait_until_free(predecessor).await?;
        loop {
            let (taken, watcher) = self.count().await?;
            if taken < self.permits as usize {
                return self.take(place).await;
            }
            watcher.changed().await?;
        }
    }

    /// Takes a permit if there is one and nobody waits for it; otherwise `None`, at once.
    ///
    /// # Errors
    ///
    /// Those of [`acquire`](Self::acquire).
    ///
    /// # Cancellation
    ///
    /// As [`acquire`](Self::acquire).
    pub async fn try_acquire(&self) -> Result<Option<Grant>, Error> {
        self.check_room()?;
        self.agree().await?;
        // Asked first, so that who tries often and in vain writes nothing and is in nobody's way.
        let waiting = self.waiting.positions(ReadLevel::Linearizable).await?;
        let waiting = waiting.iter().filter(|position| is_waiter(position));
        if self.waiting.is_any_taken(waiting).await? || self.count().await?.0 >= self.permits as usize {
            return Ok(None);
        }
        let place = self.join().await?;
        if place.is_blocked(predecessor).await? || self.count().await?.0 >= self.permits as usize {
            return Ok(None);
        }
        self.take(place).await.map(Some)
    }

    /// Waits for a permit for so long; `None` if that was not enough. What is free is
    /// taken however short the time is, if the ensemble answers within 5 s.
    ///
    /// # Errors
    ///
    /// Those of [`acquire`](Self::acquire).
    ///
    /// # Cancellation
    ///
    /// As [`acquire`](Self::acquire).
    pub async fn acquire_within(&self, patience: Duration) -> Result<Option<Grant>, Error> {
        within(patience, self.try_acquire(), self.acquire()).await
    }

    /// Who has a permit, in the order in which they got it, and then who waits, in the order in which they came; everything
    /// considered that was acknowledged before the call.
    ///
    /// # Errors
    ///
    /// `NoAuth`; those of the session.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn queue(&self) -> Result<Vec<Participant>, Error> {
        let mut queue = Vec::new();
        for (line, kind, holds) in [(&self.taken, PERMIT, true), (&self.waiting, WAITER, false)] {
            let mut positions = line.positions(ReadLevel::Linearizable).await?;
            positions.retain(|position| position.kind() == kind);
            let mut standing = line.read(positions).await?;
            standing.retain(|(_, _, stat)| !is_ownerless(stat));
            queue.extend(standing.into_iter().map(|(position, data, stat)| {
                Participant::new(format!("{}/{}", line.path(), position.name), &data, &stat, holds)
            }));
        }
        Ok(queue)
    }

    async fn join(&self) -> Result<Place, Error> {
        check_grace(&self.client, self.grace)?;
        self.check_room()?;
        self.agree().await?;
        let place = self.waiting.join(WAITER, self.owner.to_bytes()?).await?;
        // From now on the znode stays. A moment ago it may have gone and been made anew with another number.
        self.agree().await?;
        Ok(place)
    }

    fn check_room(&self) -> Result<(), Error> {
        for (line, kind) in [(&self.waiting, WAITER), (&self.taken, PERMIT)] {
            check_room(line.path(), kind.len() + NUMBER_BYTES)?;
        }
        Ok(())
    }

    /// Makes the znode of the semaphore, or compares its number of permits.
    async fn agree(&self) -> Result<(), Error> {
        loop {
            let found = match self.client.get(&*self.path, ReadLevel::Local).await {
                // Made as somebody's parent.
                Ok((data, stat)) if data.is_empty() => Some(stat),
                Ok((data, _)) => return self.compare(&data),
                Err(error) if error.kind == ErrorKind::NoNode => None,
                Err(error) => return Err(error),
            };
            let data = to_json(&Agreement { permits: self.permits })?;
            match found {
                Some(stat) => drop(replace_if(&self.client, &self.path, Some(&stat), data).await?),
                None => {
                    let options = CreateOptions::new(CreateMode::Container);
                    match create_in_container(&self.client, &self.path, data, &options).await {
                        Err(error) if error.kind != ErrorKind::NodeExists => return Err(error),
                        _ => {}
                    }
                }
            }
        }
    }

    fn compare(&self, data: &[u8]) -> Result<(), Error> {
        let (kind, message) = match serde_json::from_slice::<Agreement>(data) {
            Ok(Agreement { permits }) if permits == self.permits => return Ok(()),
            Ok(Agreement { permits }) => {
                let message = format!("the semaphore has {permits} permits, not {}", self.permits);
                (ErrorKind::BadArguments, message)
            }
            Err(error) => (ErrorKind::MarshallingError, format!("no number of permits: {error}")),
        };
        Err(Error { path: self.path.clone(), ..Error::new(kind, message) })
    }

    /// How many permits are taken, and a watch of that.
    ///
    /// For who is first in the line this may be too many, and then the watch fires; it is never too few. Only the first one takes a
    /// permit, and ceases to be first in the same step, so who sees itself first sees all that were taken before.
    ///
    /// Permits that belong to no session are not counted: nobody would ever give them back.
    async fn count(&self) -> Result<(usize, OneshotWatcher), Error> {
        let options = ListOptions { with_stat: true, ..ListOptions::default() };
        loop {
            let listing = self.client.list_and_watch(self.taken.path(), ReadLevel::Local, options.clone());
            match listing.await {
                // The watch is of all children. What follows on later pages was taken before, or is counted too much.
                Ok((page, watcher)) => return Ok((self.count_pages(page, &options).await?, watcher)),
                Err(error) if error.kind == ErrorKind::NoNode => {
                    make_container(&self.client, self.taken.path()).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn count_pages(&self, mut page: ListPage, options: &ListOptions) -> Result<usize, Error> {
        let mut taken = 0;
        loop {
            let is_permit = |child: &&Child| {
                child.name.starts_with(PERMIT) && !child.stat.as_ref().is_some_and(is_ownerless)
            };
            taken += page.children.iter().filter(is_permit).count();
            let Some(last) = page.children.last().filter(|_| page.more) else { return Ok(taken) };
            let options = ListOptions { after: last.name.clone(), ..options.clone() };
            match found(self.client.list_page(self.taken.path(), ReadLevel::Local, options).await)? {
                Some(next) => page = next,
                None => return Ok(taken),
            }
        }
    }

    async fn take(&self, mut place: Place) -> Result<Grant, Error> {
        wait_for_lease(&self.client, self.grace).await?;
        let prefix = format!("{}/{PERMIT}", self.taken.path());
        loop {
            let data = self.owner.to_bytes()?;
            match place.exchange(&prefix, data, CreateMode::EphemeralSequential, self.grace).await? {
                Ok(grant) => return Ok(grant),
                // An empty container goes after a while.
                Err((kept, error)) if error.kind == ErrorKind::NoNode => {
                    make_container(&self.client, self.taken.path()).await?;
                    place = kept;
                }
                Err((_, error)) => return Err(error),
            }
        }
    }
}

fn is_waiter(position: &Position) -> bool {
    position.kind() == WAITER
}

/// Who came just before.
fn predecessor(positions: &[Position], index: usize) -> Option<String> {
    positions[..index].iter().rev().find(|before| is_waiter(before)).map(|before| before.name.clone())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// What one who takes part does next, or waits for.
    #[derive(Clone, Debug, PartialEq)]
    enum State {
        LooksAtLine,
        WatchesPredecessor(String),
        LooksAtPermits,
        WatchesPermits,
        Holds,
    }

    /// The znodes and those who made them, by their number in the line; every step is one request.
    struct Model {
        permits: usize,
        joined: u64,
        line: Vec<Position>,
        /// Znodes of permits, by who holds them.
        taken: Vec<u64>,
        states: BTreeMap<u64, State>,
        granted: Vec<u64>,
        woken: usize,
    }

    impl Model {
        fn new(permits: usize) -> Self {
            let (line, taken, states, granted) = Default::default();
            Self { permits, joined: 0, line, taken, states, granted, woken: 0 }
        }

        fn name(number: u64) -> String {
            format!("{WAITER}{number:010}")
        }

        fn join(&mut self) {
            self.joined += 1;
            self.line.push(Position::parse(&Self::name(self.joined)).unwrap());
            self.states.insert(self.joined, State::LooksAtLine);
        }

        /// Its session ends, or it gives up, or gives back.
        fn leave(&mut self, number: u64) {
            self.states.remove(&number);
            self.taken.retain(|holder| *holder != number);
            self.delete_place(number);
            self.fire(&State::WatchesPermits, &State::LooksAtPermits);
        }

        fn delete_place(&mut self, number: u64) {
            self.line.retain(|position| position.number != number);
            self.fire(&State::WatchesPredecessor(Self::name(number)), &State::LooksAtLine);
        }

        fn fire(&mut self, watching: &State, looking: &State) {
            for state in self.states.values_mut().filter(|state| *state == watching) {
                *state = looking.clone();
                self.woken += 1;
            }
        }

        fn step(&mut self, number: u64) {
            let next = match &self.states[&number] {
                State::LooksAtLine => {
                    let index = self.line.iter().position(|position| position.number == number).unwrap();
                    predecessor(&self.line, index).map_or(State::LooksAtPermits, State::WatchesPredecessor)
                }
                State::LooksAtPermits if self.taken.len() < self.permits => {
                    self.taken.push(number);
                    self.granted.push(number);
                    self.delete_place(number);
                    self.fire(&State::WatchesPermits, &State::LooksAtPermits);
                    State::Holds
                }
                State::LooksAtPermits => State::WatchesPermits,
                waiting => waiting.clone(),
            };
            self.states.insert(number, next);
            assert!(self.taken.len() <= self.permits, "{:?} hold {} permits", self.taken, self.permits);
            assert!(self.granted.is_sorted(), "out of turn: {:?}", self.granted);
        }

        fn runnable(&self) -> Vec<u64> {
            let runs = |state: &State| matches!(state, State::LooksAtLine | State::LooksAtPermits);
            self.states.iter().filter(|(_, state)| runs(state)).map(|(number, _)| *number).collect()
        }

        fn settle(&mut self, mut choose: impl FnMut(usize) -> usize) {
            loop {
                let runnable = self.runnable();
                if runnable.is_empty() {
                    break;
                }
                self.step(runnable[choose(runnable.len())]);
            }
            assert!(self.line.is_empty() || self.taken.len() == self.permits, "somebody is lost");
        }
    }

    proptest! {
        #[test]
        fn nobody_is_lost_and_no_more_hold_than_there_are_permits(
            permits in 1_usize..5,
            script in prop::collection::vec((0_u8..8, any::<usize>()), 0..300),
        ) {
            let mut model = Model::new(permits);
            for (event, chosen) in &script {
                let (all, runnable) = (model.states.keys().copied().collect::<Vec<_>>(), model.runnable());
                match event {
                    0 | 1 => model.join(),
                    2 if !all.is_empty() => model.leave(all[chosen % all.len()]),
                    _ if !runnable.is_empty() => model.step(runnable[chosen % runnable.len()]),
                    _ => {}
                }
            }
            let mut choices = script.iter().map(|(_, chosen)| *chosen).cycle();
            model.settle(|count| choices.next().unwrap_or_default() % count);
            while let Some(holder) = model.taken.first().copied() {
                model.woken = 0;
                model.leave(holder);
                model.settle(|count| choices.next().unwrap_or_default() % count);
                prop_assert!(model.woken <= 2, "{} were woken by one", model.woken);
            }
            prop_assert!(model.line.is_empty());
        }
    }
}
