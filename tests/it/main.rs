//! coordd as its users meet it: real processes, killed and stopped, and what was promised about them.

mod catch_up;
mod exactly_once;
mod failover;
mod sessions;
mod watches;
