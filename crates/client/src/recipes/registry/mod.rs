//! Service discovery: who offers what, whom to call, and the call itself. See [`ServiceRegistry`].

mod balancer;
mod breaker;
mod call;
mod channel;
mod config;
mod directory;
mod follower;
mod freshness;
mod host;
mod instance;
mod layout;
mod pool;
mod provider;
mod proxy;
mod registration;
mod ring;
mod routing;
mod service_registry;

pub use balancer::{Balancer, Candidate};
pub use breaker::{BreakerOptions, BreakerState, CircuitBreaker};
pub use call::{CallError, CallOptions};
pub use channel::RegistryChannel;
pub use config::{Mode, ServiceConfig};
pub(crate) use directory::{Directory, Member};
pub(crate) use host::BODY_MAX;
pub use host::{ServiceError, ServiceHost};
pub use instance::{InstanceStatus, ServiceInstance};
pub(crate) use layout::{Layout, NAME_BYTES_MAX, check_name};
pub use provider::ServiceProvider;
pub use proxy::ServiceProxy;
pub(crate) use proxy::{HttpClient, http_client};
pub use registration::Registration;
pub use service_registry::{RegistryOptions, ServiceRegistry};

pub(super) use call::causes;
pub(super) use provider::AbortOnDrop;
