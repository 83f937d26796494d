//! The SDK against an ensemble that exists only in this process and misbehaves on demand.

mod boundary;
mod deadlines;
mod endpoints;
mod fake;
mod limits;
mod lineage;
mod requests;
mod runtimes;
mod sessions;
mod watches;
