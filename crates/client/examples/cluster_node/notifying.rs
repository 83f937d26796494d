//! Replicated: a call of it is a call of every node, so that all hear what is published through any of them.

use coordd_client::recipes::ClusterService;
use coordd_client::recipes::registry::ServiceError;
use serde_json::{Value, json};

pub(crate) struct Notifying;

impl ClusterService for Notifying {
    /// The caller is answered when all have heard it; if one could not be reached, with that error.
    async fn call(&self, method: &str, args: Vec<Value>) -> Result<Value, ServiceError> {
        match (method, &args[..]) {
            ("publish", [Value::String(topic), message]) => {
                println!("  notified of {topic}: {message}");
                Ok(json!({ "published": topic }))
            }
            ("publish", _) => Err(ServiceError::Refused("publish takes a topic and a message".into())),
            _ => Err(ServiceError::NoMethod(method.into())),
        }
    }
}
