//! Stateless: every node has its own.

use std::sync::Arc;

use coordd_client::recipes::config::{ConfigManager, ConfigOptions};
use coordd_client::recipes::registry::ServiceError;
use coordd_client::recipes::{ClusterService, NodeContext};
use futures::StreamExt as _;
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::{Config, Settings, get, unavailable};

const CONFIG: &str = "/nooblyjs-core/config/global";

pub(crate) struct Logging {
    pub(crate) settings: Arc<OnceCell<Config>>,
}

impl ClusterService for Logging {
    /// Whatever follows the configuration says so here.
    async fn start(&self, context: &NodeContext) -> Result<(), ServiceError> {
        let options =
            ConfigOptions::new(Settings::default()).author(context.id()).validate(|settings: &Settings| {
                if settings.job_interval_ms == 0 {
                    Err("job_interval_ms is 0, the least is 1")
                } else {
                    Ok(())
                }
            });
        let config = ConfigManager::start(context.sessions(), CONFIG, options).await.map_err(unavailable)?;
        println!("  configuration loaded: {:?}", config.current());
        let mut changes = config.changes();
        tokio::spawn(async move {
            while let Some(change) = changes.next().await {
                match change {
                    Ok(change) => change.keys().iter().for_each(|key| {
                        let shown = |value: &Option<Value>| value.clone().unwrap_or_default();
                        println!(
                            "✓ configuration updated: {} {} -> {}",
                            key.key,
                            shown(&key.old),
                            shown(&key.new)
                        );
                    }),
                    Err(error) => println!("✗ configuration refused: {error}"),
                }
            }
        });
        self.settings.set(config).map_err(|_| ServiceError::Unavailable("it was started before".into()))
    }

    async fn call(&self, method: &str, args: Vec<Value>) -> Result<Value, ServiceError> {
        match (method, &args[..]) {
            ("info", [Value::String(message)]) => {
                if get(&self.settings)?.current().print_logs {
                    println!("  log: {message}");
                }
                Ok(Value::Null)
            }
            _ => Err(ServiceError::NoMethod(method.into())),
        }
    }
}
