use std::borrow::Borrow;
use std::time::Duration;

use super::follower::follow;
use super::layout::{Layout, check_name};
use super::pool::Pool;
use super::provider::AbortOnDrop;
use super::registration::Registrar;
use super::{
    BreakerOptions, Registration, ServiceConfig, ServiceHost, ServiceInstance, ServiceProvider, ServiceProxy,
};
use crate::recipes::health::{HealthCheck, HealthMonitor, HealthOptions, HealthReports};
use crate::recipes::parents::check_absolute;
use crate::recipes::{PathCache, Sessions};
use crate::{CreateMode, CreateOptions, Error, ErrorKind, ReadLevel};

/// How a [`ServiceRegistry`] works.
#[derive(Clone, Debug)]
pub struct RegistryOptions {
    pub(crate) heartbeat: Duration,
    pub(crate) stale_after: Duration,
    pub(crate) breaker: BreakerOptions,
    pub(crate) local: Option<String>,
    pub(crate) host: Option<ServiceHost>,
    pub(crate) seed: Option<u64>,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(5),
            stale_after: Duration::from_secs(30),
            breaker: BreakerOptions::default(),
            local: None,
            host: None,
            seed: None,
        }
    }
}

impl RegistryOptions {
    /// A heartbeat every 5 s, stale after 30 s; this process is no instance.
    pub fn new() -> Self {
        Self::default()
    }

    /// How often a registered instance writes: at most this apart, and at least four fifths of it.
    #[must_use]
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.heartbeat = interval.max(Duration::from_millis(10));
        self
    }

    /// An instance whose heartbeat is older is not called. Several heartbeats should fit.
    #[must_use]
    pub fn stale_after(mut self, limit: Duration) -> Self {
        self.stale_after = limit;
        self
    }

    /// When an instance goes out of rotation because its calls fail.
    #[must_use]
    pub fn breaker(mut self, options: BreakerOptions) -> Self {
        self.breaker = options;
        self
    }

    /// The id under which this process registers: what modes `local` and `local-first` mean by local.
    #[must_use]
    pub fn local(mut self, id: impl Into<String>) -> Self {
        self.local = Some(id.into());
        self
    }

    /// The services of this process: proxies call them directly where the call is routed to this process.
    #[must_use]
    pub fn host(mut self, host: ServiceHost) -> Self {
        self.host = Some(host);
        self
    }

    /// Where the strategies draw their randomness from; else from the operating system.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }
}

/// Service discovery: instances register what they offer; callers see who is there and healthy, and call whom the
/// service's configured mode and strategy say.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use coordd_client::ConnectOptions;
/// use coordd_client::recipes::Sessions;
/// use coordd_client::recipes::registry::{RegistryOptions, ServiceInstance, ServiceRegistry};
/// use serde_json::json;
///
/// let sessions = Sessions::connect(["127.0.0.1:7401"], ConnectOptions::new()).await?;
/// let registry = ServiceRegistry::new(&sessions, "/shop", RegistryOptions::new())?;
/// let instance = ServiceInstance::new("node-1", "10.0.1.10", 3001).service("caching");
/// let registration = registry.register(instance).await?;
///
/// let caching = registry.proxy("caching").await?;
/// let value = caching.call("get", [json!("key")]).await?;
///
/// registration.retire(std::time::Duration::from_secs(5)).await?;
/// # Ok(()) }
/// ```
///
/// Curator's `ServiceDiscovery`, together with its `ServiceCache` and `ServiceProvider`. kazoo has nothing of the kind.
#[derive(Clone, Debug)]
pub struct ServiceRegistry {
    sessions: Sessions,
    layout: Layout,
    options: RegistryOptions,
}

impl ServiceRegistry {
    /// The registry below `root`. Nothing is written or read before it is used. Takes the sessions or a reference to them.
    ///
    /// # Errors
    ///
    /// `BadArguments` if `root` does not begin with a slash.
    pub fn new(
        sessions: impl Borrow<Sessions>,
        root: impl Into<String>,
        options: RegistryOptions,
    ) -> Result<Self, Error> {
        let sessions = sessions.borrow().clone();
        let layout = Layout::new(root);
        check_absolute(layout.root())?;
        Ok(Self { sessions, layout, options })
    }

    /// Registers an instance and announces its services, in one step, and keeps them registered, with a heartbeat, until
    /// the handle is dropped.
    ///
    /// If another session holds the id it waits until that has gone: a restarted process takes over from its former
    /// self. Two processes of one id: the second waits for the first.
    ///
    /// # Errors
    ///
    /// `BadArguments` for an instance that cannot be registered; `NoAuth`, `QuotaExceeded` if the tree refuses it;
    /// `SessionClosed` if the sessions were closed.
    ///
    /// # Cancellation
    ///
    /// Dropping the future removes what was made.
    pub async fn register(&self, instance: ServiceInstance) -> Result<Registration, Error> {
        let (sessions, layout) = (self.sessions.clone(), self.layout.clone());
        let registrar = Registrar { sessions, layout, heartbeat: self.options.heartbeat };
        Registration::begin(registrar, instance).await
    }

    /// Begins to follow a service, whether it has instances or not, and waits until what is there has been read.
    ///
    /// # Errors
    ///
    /// `BadArguments` for a name that cannot be one; `NoAuth` if it may not be read; `SessionClosed` if the sessions were
    /// closed.
    ///
    /// # Cancellation
    ///
    /// It is not followed then.
    pub async fn provider(&self, service: &str) -> Result<ServiceProvider, Error> {
        check_name("the name of a service", service)?;
        let pool = Pool::new(self.options.breaker, self.options.seed.unwrap_or_else(rand::random));
        let layout = &self.layout;
        let (view, follower) =
            follow(self.sessions.clone(), layout, service, self.options.stale_after, pool.clone()).await?;
        let local = self.options.local.clone();
        Ok(ServiceProvider::new(service.to_owned(), local, view, pool, AbortOnDrop(follower)))
    }

    /// A provider that calls by HTTP and JSON, as the first document does.
    ///
    /// # Errors
    ///
    /// Those of [`provider`](Self::provider).
    ///
    /// # Cancellation
    ///
    /// As there.
    pub async fn proxy(&self, service: &str) -> Result<ServiceProxy, Error> {
        Ok(ServiceProxy::new(self.provider(service).await?, self.options.host.clone()))
    }

    /// Begins to check the instances of a service, as they come and go, as one of its monitors: see [`HealthMonitor`]. The
    /// heartbeats of the instances are part of their checks. What most monitors have in quarantine is not called by anybody.
    ///
    /// `check` says how an instance is checked, for example `HealthCheck::tcp(instance.address())`; where it fails the instance
    /// is not checked, with a warning.
    ///
    /// # Errors
    ///
    /// `BadArguments` for a name that cannot be one; those of [`HealthMonitor::start`].
    ///
    /// # Cancellation
    ///
    /// It does not check then.
    pub async fn monitor(
        &self,
        service: &str,
        monitor: impl Into<String>,
        options: HealthOptions,
        check: impl Fn(&ServiceInstance) -> Result<HealthCheck, Error> + Send + 'static,
    ) -> Result<HealthMonitor, Error> {
        check_name("the name of a service", service)?;
        let root = self.layout.service(service);
        let mut monitor = HealthMonitor::start(&self.sessions, &root, monitor, options).await?;
        monitor.follow(PathCache::start(&self.sessions, self.layout.instances(service)), check);
        Ok(monitor)
    }

    /// What the monitors of a service say of its instances.
    ///
    /// # Errors
    ///
    /// `BadArguments` for a name that cannot be one.
    pub fn health(&self, service: &str) -> Result<HealthReports, Error> {
        check_name("the name of a service", service)?;
        Ok(HealthReports::start(&self.sessions, &self.layout.service(service)))
    }

    /// Stores how a service is called. All callers follow while they run.
    ///
    /// # Errors
    ///
    /// `BadArguments` for a name that cannot be one; those of [`Client::set`](crate::Client::set).
    ///
    /// # Cancellation
    ///
    /// A write that was sent may take effect all the same.
    pub async fn configure(&self, service: &str, config: &ServiceConfig) -> Result<(), Error> {
        check_name("the name of a service", service)?;
        let path = self.layout.config(service);
        let json = serde_json::to_vec(config).unwrap_or_default();
        let client = self.sessions.live().await?;
        loop {
            match client.set(path.clone(), json.clone(), None).await {
                Ok(_) => return Ok(()),
                Err(error) if error.kind == ErrorKind::NoNode => {}
                Err(error) => return Err(error),
            }
            let options = CreateOptions::new(CreateMode::Persistent).parents(true);
            match client.create(path.clone(), json.clone(), options).await {
                Ok(_) => return Ok(()),
                // Somebody else was faster: replace what they stored.
                Err(error) if error.kind == ErrorKind::NodeExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Stores how a service is called, unless that is stored already. Returns whether it was not.
    ///
    /// # Errors
    ///
    /// `BadArguments` for a name that cannot be one; those of [`Client::create`](crate::Client::create).
    ///
    /// # Cancellation
    ///
    /// A write that was sent may take effect all the same.
    pub async fn configure_if_absent(&self, service: &str, config: &ServiceConfig) -> Result<bool, Error> {
        check_name("the name of a service", service)?;
        let json = serde_json::to_vec(config).unwrap_or_default();
        let options = CreateOptions::new(CreateMode::Persistent).parents(true);
        match self.sessions.live().await?.create(self.layout.config(service), json, options).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind == ErrorKind::NodeExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The names of all services that have, or a short while ago had, an instance, everything considered that was acknowledged before the call;
    /// sorted.
    ///
    /// # Errors
    ///
    /// Those of [`Client::children`](crate::Client::children).
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn services(&self) -> Result<Vec<String>, Error> {
        let client = self.sessions.live().await?;
        match client.children(self.layout.services(), ReadLevel::Linearizable).await {
            Err(error) if error.kind == ErrorKind::NoNode => Ok(Vec::new()),
            children => children,
        }
    }

    /// The parent of the instances' records, for a cache of who is there.
    pub fn nodes_path(&self) -> String {
        self.layout.nodes()
    }

    /// The path below which the candidates for the leadership of a service stand: for
    /// [`LeaderElection`](crate::recipes::LeaderElection), with the instance's JSON, or an object with its `id`, as data.
    pub fn leader_path(&self, service: &str) -> String {
        self.layout.leader(service)
    }
}
