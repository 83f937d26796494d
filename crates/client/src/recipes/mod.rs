//! Recipes: what services coordinate with, built on the public client only.
//!
//! Two rules hold for all of them:
//!
//! * **A recipe is as alive as its session.** One that is given a [`Client`](crate::Client) ends with that session, and says so. One
//!   that outlives sessions is given [`Sessions`], and comes back by itself in the next one.
//! * **A grant is a znode.** Who leads, holds a lock, or has claimed a task owns a znode whose creation zxid is the grant's
//!   *epoch*. Writes that carry it are refused once the grant is gone, however late they arrive.
//!
//! Znodes hold JSON, and their layout is documented for each recipe, so that programs in other languages can join in.

mod assignment;
pub mod auto_healer;
mod barrier;
mod breather;
mod cluster_node;
pub mod config;
mod counter;
mod detached;
mod double_barrier;
mod election;
mod failure_detector;
mod grant;
mod group_membership;
pub mod health;
mod json;
mod lock;
mod lock_line;
mod master_worker;
mod multi_lock;
mod parents;
mod participant;
mod path_cache;
mod persistent_ephemeral;
mod read_write_lock;
mod reentrant_lock;
pub mod registry;
mod replace_if;
mod semaphore;
mod server_clock;
mod sessions;
mod shared_value;
mod strategy;
mod task_queue;
mod tree_cache;
mod waiting_line;
mod znode;

pub use assignment::{
    AssignedItem, AssignmentChange, AssignmentSettings, AssignmentStatus, AssignmentWorker, Distribution,
    ItemOwner, ItemStatus, Move, PlanItem, PlanWorker, Planner, WorkAssignment, WorkItem, WorkerProfile,
    WorkerShare, participate,
};
pub use barrier::Barrier;
pub use cluster_node::{
    ClusterEvent, ClusterNode, ClusterNodeBuilder, ClusterService, NodeContext, ServiceClass, StartError,
    Step,
};
pub use counter::Counter;
pub use double_barrier::{DoubleBarrier, Entered};
pub use election::{Candidate, Leader, LeaderElection, Leadership, lead, leaderships};
pub use failure_detector::{FailureCause, FailureDetector, NodeFailure};
pub use grant::{Grant, Loss};
pub use group_membership::{GroupMembership, Member, MemberChange, Membership};
pub use json::Json;
pub use lock::Lock;
pub use master_worker::{Master, MasterWorker, Worker, WorkerChange};
pub use multi_lock::{MultiGrant, MultiLock};
pub use participant::{Owner, Participant};
pub use path_cache::PathCache;
pub use persistent_ephemeral::{PersistentEphemeral, PersistentEphemeralOptions};
pub use read_write_lock::{ReadWriteLock, WriteGrant};
pub use reentrant_lock::{ReentrantGrant, ReentrantLock};
pub use semaphore::Semaphore;
pub use sessions::Sessions;
pub use shared_value::{SharedValue, Versioned};
pub use strategy::Strategy;
pub use task_queue::{
    Claim, TaskEntry, TaskOptions, TaskQueue, TaskQueueOptions, TaskState, TaskStats, work,
};
pub use tree_cache::{CacheChange, CacheStats, CacheView, CachedZnode, TreeCache};
