//! A tree as a stream of chunks, each of which can be decoded by itself, and back.
//!
//! The chunks follow from the state alone, so equal trees have equal snapshots.
//!
//! # Layout (format version 2)
//!
//! A chunk is a version byte, a [`Section`] byte, and rows of that section to its end, each as postcard. Sections
//! come in the order of their numbers, each in as many chunks as it takes:
//!
//! | section  | rows                     | how many                       | in the order of           |
//! |----------|--------------------------|--------------------------------|---------------------------|
//! | Header   | [`row::Header`]          | one                            |                           |
//! | Acls     | index and ACL            | one per distinct ACL           | index                     |
//! | Origins  | [`row::Origin`]          | one per node that ever proposed| node                      |
//! | Quotas   | [`row::Quota`]           | one per quota                  | path                      |
//! | Sessions | [`row::Live`]            | one per live session           | id                        |
//! | Ended    | [`row::Ended`]           | one per remembered session     | id                        |
//! | Results  | [`row::Recorded`]        | one per kept answer            | live first, id, number    |
//! | Znodes   | [`row::Znode`]           | one per znode                  | key: parents first        |
//! | Events   | [`crate::Event`]         | one per event of the history   | zxid                      |
//! | Trailer  | [`row::Trailer`]         | one                            |                           |
//!
//! Version 1, of builds that know only rules 1, has [`row::Header1`] and [`row::Live1`]. A tree that has followed no newer rules
//! is written so, because a follower of such a build may need the snapshot.

mod loader;
mod row;
mod writer;

pub use loader::TreeLoader;

/// The format of trees that have followed rules 1 only.
const VERSION_1: u8 = 1;
/// The format of all others.
const VERSION: u8 = 2;

/// What a chunk has rows of. The numbers are for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Section {
    Header = 1,
    Acls = 2,
    Origins = 3,
    Quotas = 4,
    Sessions = 5,
    Ended = 6,
    Results = 7,
    Znodes = 8,
    Events = 9,
    Trailer = 10,
}

impl Section {
    fn from_byte(byte: u8) -> Option<Section> {
        use Section::*;
        [Header, Acls, Origins, Quotas, Sessions, Ended, Results, Znodes, Events, Trailer]
            .into_iter()
            .find(|section| *section as u8 == byte)
    }
}
