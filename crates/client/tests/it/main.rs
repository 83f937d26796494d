//! The SDK against an ensemble that exists only in this process and misbehaves on demand.

mod boundary;
mod endpoints;
mod fake;
mod requests;
mod sessions;
mod watches;
