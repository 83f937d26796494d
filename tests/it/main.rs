//! coordd as its users meet it: real processes, killed and stopped, and what was promised about them.

mod access;
mod catch_up;
mod durability;
mod exactly_once;
mod failover;
mod garbage;
mod limits;
mod linearizability;
mod quotas;
mod reads;
mod sessions;
mod start_up;
mod subscriptions;
mod sweeps;
mod unary;
mod watch_history;
mod watches;
