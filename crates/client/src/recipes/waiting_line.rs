//! The queue behind elections, locks and semaphores: ephemeral sequential znodes in the order in which they were created.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;

use super::detached::detach;
use super::grant::{Grant, wait_for_lease};
use super::parents::{NUMBER_BYTES, check_room, is_ownerless, make_container};
use super::znode::{found, name_of};
use crate::{
    Check, Client, CreateMode, Created, Error, ErrorKind, EventType, MultiResult, ReadLevel, Stat, WatchEvent,
};

/// A znode's name in a line, taken apart: `<kind><number>`, for example `write-0000000007`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) number: u64,
    pub(crate) name: String,
    kind_len: usize,
}

impl Position {
    /// `None` for a name that is not of this form: somebody else's znode.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let kind_len = name.rfind('-')? + 1;
        // Ten digits, and more after ten billion: so numbers are compared and not names.
        let number = name[kind_len..].parse().ok()?;
        Some(Self { number, name: name.to_owned(), kind_len })
    }

    /// With the dash at its end.
    pub(crate) fn kind(&self) -> &str {
        &self.name[..self.kind_len]
    }
}

/// A line: a container znode, so that it goes away when nobody has stood in it for a while.
#[derive(Clone, Debug)]
pub(crate) struct WaitingLine {
    client: Client,
    path: String,
}

impl WaitingLine {
    pub(crate) fn new(client: &Client, path: impl Into<String>) -> Self {
        Self { client: client.patient(), path: path.into() }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Goes to the end of the line. `kind` ends in a dash. Dropping the future, or the place, leaves the line.
    pub(crate) async fn join(&self, kind: &str, data: Bytes) -> Result<Place, Error> {
        let mut places = Self::join_all(std::slice::from_ref(self), kind, data).await?;
        places.pop().ok_or_else(no_result)
    }

    /// Goes to the end of several lines of one session in one step: who does so before another is before it in all of them,
    /// so they cannot wait for each other. The places are in the order of the lines, and have one epoch.
    pub(crate) async fn join_all(lines: &[Self], kind: &str, data: Bytes) -> Result<Vec<Place>, Error> {
        let Some(first) = lines.first() else { return Ok(Vec::new()) };
        for line in lines {
            check_room(&line.path, kind.len() + NUMBER_BYTES)?;
        }
        let (lines, client, kind) = (lines.to_vec(), first.client.clone(), kind.to_owned());
        owned(async move {
            loop {
                let multi = lines.iter().fold(client.multi(), |multi, line| {
                    let prefix = format!("{}/{kind}", line.path);
                    multi.create(prefix, data.clone(), CreateMode::EphemeralSequential)
                });
                match multi.commit().await {
                    Ok(results) => {
                        let place = |(line, result): (&Self, MultiResult)| match result {
                            MultiResult::Create(created) => {
                                Some(Place::new(line, created.path, created.stat.czxid))
                            }
                            _ => None,
                        };
                        return Ok(lines.iter().zip(results).filter_map(place).collect());
                    }
                    Err(error) if error.kind == ErrorKind::NoNode => {
                        for line in &lines {
                            make_container(&client, &line.path).await?;
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
        })
        .await
    }

    /// Who stands in the line, the first one first. Numbers decide and not creation zxids: a line may have been copied from
    /// another tree, and two names of one number differ in their kind.
    pub(crate) async fn positions(&self, level: ReadLevel) -> Result<Vec<Position>, Error> {
        let names = found(self.client.children(&self.path, level).await)?.unwrap_or_default();
        let mut positions: Vec<_> = names.iter().filter_map(|name| Position::parse(name)).collect();
        positions.sort_by(|left, right| (left.number, &left.name).cmp(&(right.number, &right.name)));
        Ok(positions)
    }

    /// Whether one of these still stands in the line and belongs to a session.
    pub(crate) async fn is_any_taken(
        &self,
        positions: impl IntoIterator<Item = &Position>,
    ) -> Result<bool, Error> {
        for position in positions {
            let path = format!("{}/{}", self.path, position.name);
            let stat = self.client.exists(path, ReadLevel::Local).await?;
            if stat.is_some_and(|stat| !is_ownerless(&stat)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The data and stats of those who still stand there, in the order in which they are given.
    pub(crate) async fn read(&self, positions: Vec<Position>) -> Result<Vec<(Position, Bytes, Stat)>, Error> {
        let path = |position: &Position| format!("{}/{}", self.path, position.name);
        let reads: Vec<_> =
            positions.iter().map(|position| self.client.get(path(position), ReadLevel::Local)).collect();
        let mut there = Vec::with_capacity(positions.len());
        for (position, read) in positions.into_iter().zip(reads) {
            match read.await {
                Ok((data, stat)) => there.push((position, data, stat)),
                Err(error) if error.kind == ErrorKind::NoNode => {}
                Err(error) => return Err(error),
            }
        }
        Ok(there)
    }
}

/// An answer to a multi that is not one.
pub(super) fn no_result() -> Error {
    Error::new(ErrorKind::Protocol, "the multi has no result of its create")
}

/// Runs to its end also if nobody waits for the result, which is then dropped: what was made is owned by somebody at every
/// moment.
pub(crate) async fn owned<T: Send + 'static>(
    making: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    match tokio::spawn(making).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(ErrorKind::SessionExpired, "the runtime of the session was shut down")),
    }
}

/// A znode in a line. Dropping it leaves the line.
#[derive(Debug)]
pub(crate) struct Place {
    line: WaitingLine,
    path: String,
    epoch: u64,
    is_left: bool,
}

impl Place {
    fn new(line: &WaitingLine, path: String, epoch: u64) -> Self {
        Self { line: line.clone(), path, epoch, is_left: false }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn name(&self) -> &str {
        name_of(&self.path)
    }

    pub(crate) fn as_check(&self) -> Check {
        Check::epoch(&*self.path, self.epoch)
    }

    /// Waits until `blocker` names nobody. It is given the line, the first one first, and this one's index in it; whoever it
    /// names is watched, and nobody else, so that one end wakes one who waits. Znodes that belong to no session are passed
    /// over: nobody would ever end them.
    ///
    /// Local reads are enough: this session has seen its own znode, so it sees everybody before it, and whom it does not
    /// see any more is gone for good.
    ///
    /// # Errors
    ///
    /// `GrantLost` if the znode of this place was deleted by somebody else; those of the session.
    ///
    /// # Cancellation
    ///
    /// Safe; the place is kept.
    pub(crate) async fn wait_until_free(
        &self,
        blocker: impl Fn(&[Position], usize) -> Option<String>,
    ) -> Result<(), Error> {
        let mut ownerless = HashSet::new();
        while let Some(name) = self.nearest(&blocker, &ownerless).await? {
            let path = format!("{}/{name}", self.line.path());
            if let Left::Ownerless(_) = until_left(self.line.client(), &path).await? {
                tracing::warn!(path, "a znode that is not ephemeral holds nobody up; it is passed over");
                ownerless.insert(name);
            }
        }
        Ok(())
    }

    /// Whether `blocker` names somebody at this moment.
    ///
    /// # Errors
    ///
    /// As [`wait_until_free`](Self::wait_until_free).
    pub(crate) async fn is_blocked(
        &self,
        blocker: impl Fn(&[Position], usize) -> Option<String>,
    ) -> Result<bool, Error> {
        let mut ownerless = HashSet::new();
        while let Some(name) = self.nearest(&blocker, &ownerless).await? {
            let path = format!("{}/{name}", self.line.path());
            match self.line.client().exists(path, ReadLevel::Local).await? {
                Some(stat) if is_ownerless(&stat) => drop(ownerless.insert(name)),
                Some(_) => return Ok(true),
                // It has left since the line was listed.
                None => {}
            }
        }
        Ok(false)
    }

    /// Whom `blocker` names, those aside that are known to be ownerless.
    async fn nearest(
        &self,
        blocker: &impl Fn(&[Position], usize) -> Option<String>,
        ownerless: &HashSet<String>,
    ) -> Result<Option<String>, Error> {
        let mut positions = self.line.positions(ReadLevel::Local).await?;
        positions.retain(|position| !ownerless.contains(&position.name));
        match positions.iter().position(|position| position.name == self.name()) {
            Some(index) => Ok(blocker(&positions, index)),
            None => Err(self.struck_out()),
        }
    }

    /// The place was deleted by somebody else.
    fn struck_out(&self) -> Error {
        let message = "the place in the line was deleted by somebody else";
        Error { path: self.path.clone(), ..Error::new(ErrorKind::GrantLost, message) }
    }

    /// Makes the place a grant, once nothing blocks it.
    pub(crate) async fn into_grant(mut self, grace: Option<Duration>) -> Result<Grant, Error> {
        wait_for_lease(self.line.client(), grace).await?;
        self.is_left = true;
        Ok(Grant::new(self.line.client(), &self.path, self.epoch, grace))
    }

    /// Gives the place up for another znode, which becomes the grant, in one step. If that znode cannot be created the place is kept,
    /// and returned with the reason. Dropping the future leaves neither.
    ///
    /// # Errors
    ///
    /// `GrantLost` if the place was deleted by somebody else; those of the session.
    pub(crate) async fn exchange(
        self,
        path: &str,
        data: Bytes,
        mode: CreateMode,
        grace: Option<Duration>,
    ) -> Result<Result<Grant, (Self, Error)>, Error> {
        let (client, path) = (self.line.client().clone(), path.to_owned());
        owned(async move {
            let multi = client.multi().check(self.as_check()).delete(self.path(), None);
            match multi.create(path, data, mode).commit().await {
                Ok(results) => {
                    self.forget();
                    let Some(MultiResult::Create(Created { path, stat })) = results.into_iter().next_back()
                    else {
                        return Err(no_result());
                    };
                    Ok(Ok(Grant::begin(&client, &path, stat.czxid, grace).await?))
                }
                Err(error) if error.op_index == Some(2) => Ok(Err((self, error))),
                Err(error) if matches!(error.kind, ErrorKind::BadEpoch | ErrorKind::NoNode) => {
                    Err(self.struck_out())
                }
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// The znode was deleted in one step with something else.
    fn forget(mut self) {
        self.is_left = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.is_left {
            // Also when what the caller's handle is guarded by is lost.
            detach(self.line.client.unguarded().guarded([self.as_check()]).delete(&*self.path, None));
        }
    }
}

/// How a znode that somebody waited for made room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// There was none.
    Absent,
    /// It was there and is gone.
    Gone,
    /// It is there and belongs to no session, so it would not go by itself.
    Ownerless(Stat),
}

/// Waits until there is no ephemeral at this path.
pub(crate) async fn until_left(client: &Client, path: &str) -> Result<Left, Error> {
    let mut left = Left::Absent;
    loop {
        let (stat, watcher) = client.exists_and_watch(path, ReadLevel::Local).await?;
        match stat {
            None => return Ok(left),
            Some(stat) if is_ownerless(&stat) => return Ok(Left::Ownerless(stat)),
            Some(_) => left = Left::Gone,
        }
        if let WatchEvent::Event(event) = watcher.changed().await?
            && event.event_type == EventType::NodeDeleted
        {
            return Ok(left);
        }
    }
}

/// Waits until there is no such znode. Returns whether there was one.
pub(crate) async fn until_gone(client: &Client, path: &str) -> Result<bool, Error> {
    let mut was_there = false;
    loop {
        let (stat, watcher) = client.exists_and_watch(path, ReadLevel::Local).await?;
        if stat.is_none() {
            return Ok(was_there);
        }
        was_there = true;
        if let WatchEvent::Event(event) = watcher.changed().await?
            && event.event_type == EventType::NodeDeleted
        {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_kind_and_a_number() {
        let position = Position::parse("write-0000000007").unwrap();
        assert_eq!((position.kind(), position.number), ("write-", 7));
        let position = Position::parse("candidate-00003-0000000012").unwrap();
        assert_eq!((position.kind(), position.number), ("candidate-00003-", 12));
        assert_eq!(Position::parse("x-99999999999").unwrap().number, 99_999_999_999);
        for alien in ["leader", "write-", "write-x", "", "-"] {
            assert_eq!(Position::parse(alien), None, "{alien}");
        }
    }
}
