//! The storage of the Raft log and of snapshots, against real files, killed processes and damaged disks.

mod callbacks;
mod cold_reads;
mod damage;
mod data_dir;
mod kill;
mod log_model;
mod memory_wal;
mod openraft_suite;
mod power_loss;
mod probe;
mod read_errors;
mod recovery;
mod snapshots;
mod state_machine;
mod support;
mod syncs;
