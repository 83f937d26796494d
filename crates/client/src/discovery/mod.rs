//! Finding the nodes of an ensemble: where endpoints come from, and how long what was found is believed.

#[cfg(feature = "srv")]
mod dns;
mod endpoints;
mod file;
mod found;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod multicast;
mod source;

pub use endpoints::Endpoints;
pub(crate) use found::{Found, in_order};
