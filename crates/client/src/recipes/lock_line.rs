use std::collections::HashSet;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::grant::{Grant, check_grace};
use super::parents::is_ownerless;
use super::participant::{Owner, Participant};
use super::waiting_line::{Position, WaitingLine};
use crate::planted::double_grant;
use crate::{Client, Error, ReadLevel, Stat};

/// What a place in the line of a lock stands for: the kind of its znode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LockMode {
    /// Together with other readers.
    Read,
    /// Alone.
    Write,
}

impl LockMode {
    const ALL: [Self; 2] = [Self::Read, Self::Write];

    pub(super) fn kind(self) -> &'static str {
        match self {
            LockMode::Read => "read-",
            LockMode::Write => "write-",
        }
    }

    /// `None` for somebody else's znode, which holds nobody up.
    fn of(position: &Position) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.kind() == position.kind())
    }

    /// Whether it has to wait for who came before.
    fn waits_for(self, before: &Position) -> bool {
        Self::of(before).is_some_and(|before| [self, before].contains(&Self::Write))
    }
}

/// Who has to be gone first: the nearest before it that it cannot share the lock with. The others before that one, it waits for
/// by waiting for that one, or as soon as that one has given up.
pub(super) fn blocker(positions: &[Position], index: usize) -> Option<String> {
    let own = LockMode::of(&positions[index])?;
    let index = if double_grant() { index.saturating_sub(1) } else { index };
    let before = positions[..index].iter().rev().find(|before| own.waits_for(before))?;
    Some(before.name.clone())
}

/// How long the attempt to take what is free may wait for the ensemble's answers.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Acquires, and waits for other holders no longer than `patience`; `None` if that was not enough. A shorter
/// patience than [`ATTEMPT`] may not cover the answers of the ensemble, so what is free is taken `at_once`
/// first.
pub(super) async fn within<T>(
    patience: Duration,
    at_once: impl Future<Output = Result<Option<T>, Error>>,
    acquiring: impl Future<Output = Result<T, Error>>,
) -> Result<Option<T>, Error> {
    let since = Instant::now();
    if patience < ATTEMPT
        && let Ok(attempted) = tokio::time::timeout(ATTEMPT, at_once).await
        && let Some(acquired) = attempted?
    {
        return Ok(Some(acquired));
    }
    let left = patience.saturating_sub(since.elapsed());
    if left.is_zero() {
        return Ok(None);
    }
    match tokio::time::timeout(left, acquiring).await {
        Ok(acquired) => acquired.map(Some),
        Err(_) => Ok(None),
    }
}

/// The line in front of a lock, and who asks for the lock. In order of arrival, but readers who stand together go together.
#[derive(Clone, Debug)]
pub(super) struct LockLine {
    line: WaitingLine,
    owner: Owner,
    grace: Option<Duration>,
}

impl LockLine {
    pub(super) fn new(client: &Client, path: impl Into<String>) -> Self {
        Self { line: WaitingLine::new(client, path), owner: Owner::default(), grace: None }
    }

    pub(super) fn with_owner(self, owner: Owner) -> Self {
        Self { owner, ..self }
    }

    pub(super) fn with_grace(self, grace: Duration) -> Self {
        Self { grace: Some(grace), ..self }
    }

    pub(super) fn line(&self) -> &WaitingLine {
        &self.line
    }

    pub(super) fn owner(&self) -> &Owner {
        &self.owner
    }

    pub(super) fn grace(&self) -> Option<Duration> {
        self.grace
    }

    pub(super) async fn acquire(&self, mode: LockMode) -> Result<Grant, Error> {
        check_grace(self.line.client(), self.grace)?;
        let place = self.line.join(mode.kind(), self.owner.to_bytes()?).await?;
        place.wait_until_free(blocker).await?;
        place.into_grant(self.grace).await
    }

    /// Whether somebody stands there whom one who comes now would have to wait for.
    pub(super) async fn is_taken(&self, mode: LockMode) -> Result<bool, Error> {
        let positions = self.line.positions(ReadLevel::Linearizable).await?;
        self.line.is_any_taken(positions.iter().filter(|position| mode.waits_for(position))).await
    }

    pub(super) async fn try_acquire(&self, mode: LockMode) -> Result<Option<Grant>, Error> {
        check_grace(self.line.client(), self.grace)?;
        // Asked first, so that who tries often and in vain writes nothing and is in nobody's way.
        if self.is_taken(mode).await? {
            return Ok(None);
        }
        let place = self.line.join(mode.kind(), self.owner.to_bytes()?).await?;
        match place.is_blocked(blocker).await? {
            false => place.into_grant(self.grace).await.map(Some),
            true => Ok(None),
        }
    }

    pub(super) async fn queue(&self) -> Result<Vec<Participant>, Error> {
        let mut positions = self.line.positions(ReadLevel::Linearizable).await?;
        positions.retain(|position| LockMode::of(position).is_some());
        let mut standing = self.line.read(positions.clone()).await?;
        let ownerless = standing.iter().filter(|(_, _, stat)| is_ownerless(stat));
        let ownerless: HashSet<_> = ownerless.map(|(position, ..)| position.name.clone()).collect();
        positions.retain(|position| !ownerless.contains(&position.name));
        standing.retain(|(position, ..)| !ownerless.contains(&position.name));
        // Of the line as it was listed: who is gone since then did stand in the way.
        let holders: HashSet<_> = (0..positions.len())
            .filter(|index| blocker(&positions, *index).is_none())
            .map(|index| positions[index].name.clone())
            .collect();
        let participant = |(position, data, stat): (Position, Bytes, Stat)| {
            let path = format!("{}/{}", self.line.path(), position.name);
            Participant::new(path, &data, &stat, holders.contains(&position.name))
        };
        Ok(standing.into_iter().map(participant).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    /// However short the patience is, what is free is taken. What is taken is waited for only as long as the
    /// patience.
    #[tokio::test]
    async fn short_patience_takes_what_is_free() {
        for patience in [Duration::ZERO, Duration::from_micros(1)] {
            let free = async {
                // An answer takes longer than the patience.
                tokio::time::sleep(Duration::from_millis(20)).await;
                Ok(Some("free"))
            };
            assert_eq!(within(patience, free, pending()).await, Ok(Some("free")));
            assert_eq!(within(patience, ready(Ok(None)), pending::<Result<(), _>>()).await, Ok(None));
        }
        let second = Duration::from_secs(1);
        assert_eq!(within(second, ready(Ok(None)), ready(Ok("later"))).await, Ok(Some("later")));
        assert_eq!(within(Duration::MAX, pending(), ready(Ok("later"))).await, Ok(Some("later")));
    }

    fn blocker_of(name: &str, names: &[&str]) -> Option<String> {
        let positions: Vec<_> = names.iter().filter_map(|name| Position::parse(name)).collect();
        let index = positions.iter().position(|position| position.name == name).unwrap();
        blocker(&positions, index)
    }

    #[test]
    fn a_writer_waits_for_the_one_before_it_and_a_reader_for_the_nearest_writer() {
        let names = ["read-1", "alien-2", "read-3", "write-4", "other-5", "write-6", "read-7", "read-8"];
        for (name, expected) in [
            ("read-1", None),
            ("read-3", None),
            ("write-4", Some("read-3")),
            ("write-6", Some("write-4")),
            ("read-7", Some("write-6")),
            ("read-8", Some("write-6")),
        ] {
            assert_eq!(blocker_of(name, &names).as_deref(), expected, "{name}");
        }
    }
}
