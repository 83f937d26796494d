//! Distributed: whichever node is called, the entries are those of all, because they are not in its memory.

use std::time::Duration;

use coordd_client::recipes::registry::ServiceError;
use coordd_client::recipes::{ClusterService, Lock, NodeContext, Owner};
use coordd_client::{Client, CreateMode, CreateOptions, ErrorKind, ReadLevel};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio::time::sleep;

use crate::{get, refused, set, unavailable};

const ENTRIES: &str = "/nooblyjs-core/services/caching/entries";
/// Who has filled the cache.
const INITIALIZED: &str = "/nooblyjs-core/services/caching/initialized";
const LOCK: &str = "/nooblyjs-core/locks/caching-initialization";
const FIRST_ENTRIES: [(&str, &str); 3] = [("language", "en"), ("theme", "dark"), ("greeting", "welcome")];
/// How long it takes to find out what an entry is.
const FILLING: Duration = Duration::from_millis(100);

#[derive(Default)]
pub(crate) struct Caching {
    node: OnceCell<NodeContext>,
}

impl Caching {
    /// Fills the cache once in the life of the cluster, however many nodes start together: one has the lock, and the others wait
    /// for it and see then that it is done. A node that dies in the middle leaves all of it to the next one.
    async fn initialize(node: &NodeContext) -> Result<(), coordd_client::Error> {
        let client = node.sessions().live().await?;
        let grant = Lock::new(&client, LOCK).owner(Owner::new(node.id())).lock().await?;
        match client.get(INITIALIZED, ReadLevel::Linearizable).await {
            Ok((by, _)) => println!("  caching was initialized by {}", String::from_utf8_lossy(&by)),
            Err(error) if error.kind == ErrorKind::NoNode => {
                for (key, value) in FIRST_ENTRIES {
                    // Refused if the lock is lost meanwhile: nothing is written into what another node fills.
                    put(&grant.client()?, key, &json!(value)).await?;
                    sleep(FILLING).await;
                }
                grant
                    .write(|client| client.create(INITIALIZED, node.id().to_owned(), CreateMode::Persistent))
                    .await?;
                println!("✓ caching initialized under a lock, epoch {}", grant.epoch());
            }
            Err(error) => return Err(error),
        }
        grant.release().await
    }
}

async fn put(client: &Client, key: &str, value: &Value) -> Result<(), coordd_client::Error> {
    let path = format!("{ENTRIES}/{key}");
    let options = CreateOptions::new(CreateMode::Persistent).parents(true);
    match client.create(&path, value.to_string(), options).await {
        Err(error) if error.kind == ErrorKind::NodeExists => {
            client.set(&path, value.to_string(), None).await.map(drop)
        }
        created => created.map(drop),
    }
}

impl ClusterService for Caching {
    async fn start(&self, context: &NodeContext) -> Result<(), ServiceError> {
        set(&self.node, context)?;
        Self::initialize(context).await.map_err(unavailable)
    }

    async fn call(&self, method: &str, args: Vec<Value>) -> Result<Value, ServiceError> {
        let node = get(&self.node)?;
        let client = node.sessions().live().await.map_err(unavailable)?;
        match (method, &args[..]) {
            ("put", [Value::String(key), value]) => {
                put(&client, key, value).await.map_err(refused)?;
                Ok(json!({ "stored": key, "answeredBy": node.id() }))
            }
            ("get", [Value::String(key)]) => {
                let value = match client.get(format!("{ENTRIES}/{key}"), ReadLevel::Linearizable).await {
                    Ok((data, _)) => serde_json::from_slice(&data).unwrap_or_default(),
                    Err(error) if error.kind == ErrorKind::NoNode => Value::Null,
                    Err(error) => return Err(refused(error)),
                };
                Ok(json!({ "value": value, "answeredBy": node.id() }))
            }
            ("put" | "get", _) => Err(ServiceError::Refused("put takes a key and a value, get a key".into())),
            _ => Err(ServiceError::NoMethod(method.into())),
        }
    }
}
