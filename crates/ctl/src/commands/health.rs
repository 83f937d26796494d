use std::fmt;

use clap::Args;
use coordd_client::{Admin, Error, ErrorKind};
use coordd_process::plain;
use serde::Serialize;

use crate::context::Context;
use crate::exit::Failure;

/// Asks the first endpoint whether it takes clients: exit code 0 if so, 9 if not. For health checks of containers.
#[derive(Args, Debug)]
pub(crate) struct Health {}

#[derive(Serialize)]
struct HealthOutput {
    node_id: u64,
    role: String,
    serving: bool,
}

impl fmt::Display for HealthOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "node {} is serving ({})", self.node_id, plain(&self.role))
    }
}

impl Health {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let Some(endpoint) = context.options.endpoints.first() else {
            return Err(Failure::Usage("no endpoints given".into()));
        };
        let status = Admin::connect(endpoint.as_str(), context.options.timeout).await?.status().await?;
        match status.not_serving {
            None => {
                let output = HealthOutput { node_id: status.node_id, role: status.role, serving: true };
                context.output().result(&output)
            }
            Some(reason) => Err(Error::new(ErrorKind::NotServing, reason).into()),
        }
    }
}
