//! Bugs that are planted on purpose, to see that the tests find them. They are there only with the feature `planted-bugs`, which
//! no release has; without it, [`Bug::is_planted`] is `false` to the compiler.

/// A bug that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The log is not synced before a write is acknowledged.
    SkippedFdatasync,
    /// A node acknowledges entries to the leader before they are on its disk.
    AcknowledgedBeforeTheDisk,
    /// For the leader, a follower that it does not reach has the entries that it was to get.
    AcknowledgedBeforeTheMajority,
    /// A linearizable read does not ask the leader.
    StaleLinearizableReads,
    /// A watch that goes on misses the first change since.
    WatchResumesOneLate,
    /// The time in which the servers stood still counts as the clients' silence.
    ExpiryWithoutStallRule,
    /// A snapshot has no recorded answers.
    ResultsNotInSnapshots,
    /// A snapshot does not say how many children a znode has had.
    SequenceNotInSnapshots,
    /// A session's end leaves one of its ephemerals.
    EphemeralLeftBehind,
    /// A write that leaves a gap in its session's numbers is carried out.
    SessionGapAccepted,
    /// A write that is sent again is carried out again.
    WritesExecutedTwice,
    /// Guards hold, whatever they say.
    GuardsIgnored,
    /// A node takes a client that has seen more than the node has.
    ReadsOfOnesPast,
    /// A member that has lost its disk is taken back.
    WipedMemberVotes,
    /// A log that ends before its watermark is taken.
    LostTailAccepted,
    /// A log is cut at its first damaged record, also if others follow.
    LogCutAtDamage,
    /// A znode is stamped with the time of the node that applies the write, not with the entry's.
    OwnTimeInTheTree,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 17] = [
        Bug::SkippedFdatasync,
        Bug::AcknowledgedBeforeTheDisk,
        Bug::AcknowledgedBeforeTheMajority,
        Bug::StaleLinearizableReads,
        Bug::WatchResumesOneLate,
        Bug::ExpiryWithoutStallRule,
        Bug::ResultsNotInSnapshots,
        Bug::SequenceNotInSnapshots,
        Bug::EphemeralLeftBehind,
        Bug::SessionGapAccepted,
        Bug::WritesExecutedTwice,
        Bug::GuardsIgnored,
        Bug::ReadsOfOnesPast,
        Bug::WipedMemberVotes,
        Bug::LostTailAccepted,
        Bug::LogCutAtDamage,
        Bug::OwnTimeInTheTree,
    ];

    /// What stands in `COORDD_PLANTED_BUG` to plant it.
    pub fn name(self) -> &'static str {
        match self {
            Bug::SkippedFdatasync => "skipped-fdatasync",
            Bug::AcknowledgedBeforeTheDisk => "acknowledged-before-the-disk",
            Bug::AcknowledgedBeforeTheMajority => "acknowledged-before-the-majority",
            Bug::StaleLinearizableReads => "stale-linearizable-reads",
            Bug::WatchResumesOneLate => "watch-resumes-one-late",
            Bug::ExpiryWithoutStallRule => "expiry-without-stall-rule",
            Bug::ResultsNotInSnapshots => "results-not-in-snapshots",
            Bug::SequenceNotInSnapshots => "sequence-not-in-snapshots",
            Bug::EphemeralLeftBehind => "ephemeral-left-behind",
            Bug::SessionGapAccepted => "session-gap-accepted",
            Bug::WritesExecutedTwice => "writes-executed-twice",
            Bug::GuardsIgnored => "guards-ignored",
            Bug::ReadsOfOnesPast => "reads-of-ones-past",
            Bug::WipedMemberVotes => "wiped-member-votes",
            Bug::LostTailAccepted => "lost-tail-accepted",
            Bug::LogCutAtDamage => "log-cut-at-damage",
            Bug::OwnTimeInTheTree => "own-time-in-the-tree",
        }
    }

    /// Whether this process has it.
    #[cfg(not(feature = "planted-bugs"))]
    #[inline(always)]
    pub const fn is_planted(self) -> bool {
        false
    }

    /// Whether this process has it: at most one, for the whole life of the process. A name that is no bug's ends the process, so
    /// that nothing passes for a bug that is found.
    #[cfg(feature = "planted-bugs")]
    pub fn is_planted(self) -> bool {
        static PLANTED: std::sync::OnceLock<Option<Bug>> = std::sync::OnceLock::new();
        let planted = PLANTED.get_or_init(|| {
            let name = std::env::var("COORDD_PLANTED_BUG").ok()?;
            let bug = Bug::ALL.into_iter().find(|bug| bug.name() == name);
            Some(bug.unwrap_or_else(|| panic!("COORDD_PLANTED_BUG: there is no bug {name:?}")))
        });
        *planted == Some(self)
    }
}

/// What is done with [`Bug::OwnTimeInTheTree`].
pub(crate) fn own_time_ms() -> u64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis() as u64
}
