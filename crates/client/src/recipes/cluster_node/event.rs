use std::fmt;

use crate::Error;
use crate::recipes::NodeFailure;

/// A step of a node's lifecycle, in the order in which they are taken; the way down is the reverse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// A session of the ensemble.
    Connect,
    /// The node is in the registry, and takes no calls yet.
    Register,
    /// Its services are started, and its address is listened at.
    StartServices,
    /// Callers may choose it.
    Announce,
    /// It campaigns for its leader-based services.
    Elect,
    /// It follows the cluster's nodes and leaders.
    Watch,
    /// It reports its load, and detects failures when elected to.
    Monitor,
}

impl Step {
    /// All of them, in order.
    pub const ALL: [Step; 7] = [
        Step::Connect,
        Step::Register,
        Step::StartServices,
        Step::Announce,
        Step::Elect,
        Step::Watch,
        Step::Monitor,
    ];
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Connect => "connect",
            Step::Register => "register",
            Step::StartServices => "start the services",
            Step::Announce => "announce the services",
            Step::Elect => "start the elections",
            Step::Watch => "watch the cluster",
            Step::Monitor => "monitor the health",
        })
    }
}

/// What happens to a node, and what it sees of its cluster; [`Display`](fmt::Display) is a line for people.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ClusterEvent {
    /// A step of the way up was taken.
    Done(Step),
    /// All steps were taken.
    Ready,
    /// The way down begins.
    Stopping,
    /// A step was taken back.
    Undone(Step),
    /// A service of this node was started.
    ServiceStarted(String),
    /// A service of this node was stopped.
    ServiceStopped(String),
    /// This node leads a service.
    Leading {
        /// The service.
        service: String,
        /// The epoch of the leadership.
        epoch: u64,
    },
    /// The duties of a leadership of this node have ended.
    LeadershipEnded {
        /// The service.
        service: String,
        /// The epoch of the leadership.
        epoch: u64,
    },
    /// This node may not campaign for a service, or was refused otherwise; it tries again every few seconds.
    CampaignRefused {
        /// The service.
        service: String,
        /// Why.
        error: Error,
    },
    /// A service that this node offers has another leader, or none.
    LeaderChanged {
        /// The service.
        service: String,
        /// The id of the node that leads.
        leader: Option<String>,
    },
    /// A node is in the registry.
    NodeJoined(String),
    /// A node is not in the registry any more.
    NodeLeft(String),
    /// A node was lost, and this one has handled it.
    NodeFailed(NodeFailure),
    /// This node may not stand by as a failure detector, or was refused otherwise; it tries again every few seconds.
    DetectorRefused(Error),
}

impl fmt::Display for ClusterEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClusterEvent::Done(step) => f.write_str(match step {
                Step::Connect => "connected to the ensemble",
                Step::Register => "node registered",
                Step::StartServices => "services started",
                Step::Announce => "services announced to the cluster",
                Step::Elect => "leader elections started",
                Step::Watch => "watching cluster changes",
                Step::Monitor => "health monitoring started",
            }),
            ClusterEvent::Ready => f.write_str("ready"),
            ClusterEvent::Stopping => f.write_str("shutting down"),
            ClusterEvent::Undone(step) => f.write_str(match step {
                Step::Connect => "disconnected from the ensemble",
                Step::Register => "node deregistered",
                Step::StartServices => "services stopped",
                Step::Announce => "services withdrawn from the cluster",
                Step::Elect => "leader elections stopped",
                Step::Watch => "watches removed",
                Step::Monitor => "health monitoring stopped",
            }),
            ClusterEvent::ServiceStarted(service) => write!(f, "service {service} started"),
            ClusterEvent::ServiceStopped(service) => write!(f, "service {service} stopped"),
            ClusterEvent::Leading { service, epoch } => write!(f, "this node leads {service}, epoch {epoch}"),
            ClusterEvent::LeadershipEnded { service, epoch } => {
                write!(f, "this node leads {service} no more, epoch {epoch}")
            }
            ClusterEvent::CampaignRefused { service, error } => {
                write!(f, "this node cannot campaign for {service}: {error}")
            }
            ClusterEvent::DetectorRefused(error) => write!(f, "this node cannot detect failures: {error}"),
            ClusterEvent::LeaderChanged { service, leader: Some(leader) } => {
                write!(f, "the leader of {service} is {leader}")
            }
            ClusterEvent::LeaderChanged { service, leader: None } => write!(f, "{service} has no leader"),
            ClusterEvent::NodeJoined(id) => write!(f, "node {id} joined"),
            ClusterEvent::NodeLeft(id) => write!(f, "node {id} left"),
            ClusterEvent::NodeFailed(failure) => {
                let NodeFailure { id, unavailable, .. } = failure;
                write!(f, "node {id} failed; {} tasks came back", failure.requeued_count())?;
                match unavailable.is_empty() {
                    true => Ok(()),
                    false => write!(f, "; nobody offers {}", unavailable.join(", ")),
                }
            }
        }
    }
}
