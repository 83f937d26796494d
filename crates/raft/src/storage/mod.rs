//! The log and the snapshots on disk.
