use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};

use super::Sessions;
use super::parents::{is_ownerless, owned_part};
use super::path_cache::PathCache;
use super::persistent_ephemeral::PersistentEphemeral;
use super::registry::check_name;
use super::tree_cache::{CacheChange, CachedZnode};
use super::znode::{found, name_of};
use crate::{Client, Error, ErrorKind, ReadLevel, Stat};

/// A group: who is in it, with data of its own, and who comes and goes. A znode that is not ephemeral is no
/// member.
///
/// ```no_run
/// # async fn example(sessions: coordd_client::recipes::Sessions) -> Result<(), coordd_client::Error> {
/// use coordd_client::recipes::{GroupMembership, MemberChange};
/// use futures::StreamExt as _;
///
/// let group = GroupMembership::new(&sessions, "/app/workers");
/// let membership = group.join("worker-7", r#"{"address": "10.0.0.7:9000"}"#).await?;
/// let mut changes = group.watch();
/// while let Some(change) = changes.next().await {
///     match change {
///         MemberChange::Joined(member) => println!("{} has come", member.name),
///         MemberChange::Updated { new, .. } => println!("{} says {:?}", new.name, new.data),
///         MemberChange::Left(member) => println!("{} is gone", member.name),
///     }
/// }
/// # Ok(()) }
/// ```
///
/// # Znodes
///
/// Each member is an ephemeral `<path>/<name>` with its data, created again in each session of the member.
///
/// Curator: `GroupMember`; kazoo: `Party`, whose members have no names.
#[derive(Clone, Debug)]
pub struct GroupMembership {
    sessions: Sessions,
    path: String,
}

/// A member, as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name in the group.
    pub name: String,
    /// What it says of itself.
    pub data: Bytes,
    /// The creation zxid of its znode: another one after each absence.
    pub epoch: u64,
    /// Its session.
    pub session_id: u64,
    /// Since when it is there: milliseconds since the Unix epoch by the clock of the ensemble's leader.
    pub since_ms: u64,
}

/// What happened to a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// It is there now.
    Joined(Member),
    /// It says something else of itself.
    Updated {
        /// As it was.
        old: Member,
        /// As it is.
        new: Member,
    },
    /// It is gone: it left, or its session has ended.
    Left(Member),
}

impl Member {
    fn new(name: &str, data: Bytes, stat: &Stat) -> Self {
        let (epoch, session_id, since_ms) = (stat.czxid, stat.ephemeral_owner, stat.ctime);
        Self { name: name.to_owned(), data, epoch, session_id, since_ms }
    }

    fn of(znode: &CachedZnode) -> Self {
        let name = name_of(&znode.path);
        Self::new(name, znode.data.clone(), &znode.stat)
    }
}

impl GroupMembership {
    /// The group at a path, which need not exist. Nothing happens yet.
    pub fn new(sessions: &Sessions, path: impl Into<String>) -> Self {
        Self { sessions: sessions.clone(), path: path.into() }
    }

    /// Becomes a member for as long as the handle lives, in one session after the other. A name that another has is waited for:
    /// it may be that of this program's last life, whose session has not expired yet.
    ///
    /// # Errors
    ///
    /// `BadArguments` for a name that is empty, has a slash, or is over 200 bytes; those of [`PersistentEphemeral::create`].
    ///
    /// # Cancellation
    ///
    /// Leaves nothing behind.
    pub async fn join(&self, name: &str, data: impl Into<Bytes>) -> Result<Membership, Error> {
        check_name("the name of a member", name)?;
        let path = format!("{}/{name}", self.path);
        Ok(Membership { ephemeral: PersistentEphemeral::create(&self.sessions, path, data).await? })
    }

    /// Who is there, by name, everything considered that was acknowledged before the call.
    ///
    /// # Errors
    ///
    /// `NoAuth`; those of the session.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn members(&self) -> Result<Vec<Member>, Error> {
        let client: Client = self.sessions.live().await?;
        let names = found(client.children(&*self.path, ReadLevel::Linearizable).await)?.unwrap_or_default();
        let reads: Vec<_> =
            names.iter().map(|name| client.get(format!("{}/{name}", self.path), ReadLevel::Local)).collect();
        let mut members = Vec::with_capacity(names.len());
        for (name, read) in names.iter().zip(reads) {
            match read.await {
                Ok((_, stat)) if is_ownerless(&stat) => {}
                Ok((data, stat)) => members.push(Member::new(name, data, &stat)),
                Err(error) if error.kind == ErrorKind::NoNode => {}
                Err(error) => return Err(error),
            }
        }
        Ok(members)
    }

    /// Who comes, changes and goes, beginning with everybody who is there. Who is slow may miss how a difference came about, but
    /// never the difference; one who went and came again is told as both. It goes on in the next session, where nobody is told
    /// twice, and ends when the sessions are closed or the group may not be read.
    pub fn watch(&self) -> impl Stream<Item = MemberChange> + Send + Unpin + 'static + use<> {
        let cache = PathCache::start(&self.sessions, &self.path);
        let changes = cache.changes();
        // The cache goes with the stream.
        let changes = futures::stream::unfold((cache, changes), |(cache, mut changes)| async move {
            let change = changes.next().await?;
            Some((futures::stream::iter(told(change)), (cache, changes)))
        });
        Box::pin(changes.flatten())
    }
}

fn told(change: CacheChange) -> Vec<MemberChange> {
    let Some(change) = owned_part(change) else { return Vec::new() };
    let member = |znode: Arc<CachedZnode>| Member::of(&znode);
    match change {
        CacheChange::Added(znode) => vec![MemberChange::Joined(member(znode))],
        CacheChange::Removed(znode) => vec![MemberChange::Left(member(znode))],
        CacheChange::Updated { old, new } if old.stat.czxid == new.stat.czxid => {
            vec![MemberChange::Updated { old: member(old), new: member(new) }]
        }
        CacheChange::Updated { old, new } => {
            vec![MemberChange::Left(member(old)), MemberChange::Joined(member(new))]
        }
    }
}

/// One's own membership of a group. Dropping it leaves the group.
#[derive(Debug)]
pub struct Membership {
    ephemeral: PersistentEphemeral,
}

impl Membership {
    /// The znode of the member.
    pub fn path(&self) -> &str {
        self.ephemeral.path()
    }

    /// The epoch of the present znode; `None` between two sessions.
    pub fn epoch(&self) -> Option<u64> {
        self.ephemeral.created().map(|created| created.stat.czxid)
    }

    /// Replaces what the member says of itself, now and in each session that follows.
    ///
    /// # Errors
    ///
    /// Those of [`PersistentEphemeral::set_data`].
    ///
    /// # Cancellation
    ///
    /// The data may be replaced all the same.
    pub async fn set_data(&self, data: impl Into<Bytes>) -> Result<(), Error> {
        self.ephemeral.set_data(data).await
    }

    /// Leaves the group, and returns when it has.
    ///
    /// # Cancellation
    ///
    /// It leaves all the same.
    pub async fn leave(self) {
        self.ephemeral.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_who_went_and_came_again_is_told_as_both() {
        let znode = |czxid, data: &'static str| {
            let stat = Stat { czxid, ephemeral_owner: 7, ..Stat::default() };
            Arc::new(CachedZnode { path: "/g/a".into(), data: data.into(), stat })
        };
        let update = |old, new| told(CacheChange::Updated { old, new });
        assert!(matches!(&update(znode(1, "x"), znode(1, "y"))[..], [MemberChange::Updated { .. }]));
        let told = update(znode(1, "x"), znode(2, "x"));
        let [MemberChange::Left(left), MemberChange::Joined(joined)] = &told[..] else {
            panic!("{told:?}");
        };
        assert_eq!((left.epoch, joined.epoch, joined.name.as_str()), (1, 2, "a"));
    }
}
