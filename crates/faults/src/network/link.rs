use std::time::Duration;

/// What becomes of the packets from one host to another.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Link {
    /// Nothing comes through.
    pub(crate) cut: bool,
    /// Every packet is late by this much...
    pub(crate) delay: Duration,
    /// ...and by a random time up to this, so that packets overtake each other.
    pub(crate) jitter: Duration,
    /// The part of the packets that is lost, 0 to 1.
    pub(crate) loss: f64,
    /// The part of the packets that comes twice, 0 to 1.
    pub(crate) duplicated: f64,
}

impl Link {
    pub(crate) fn cut() -> Link {
        Link { cut: true, ..Link::default() }
    }
}
