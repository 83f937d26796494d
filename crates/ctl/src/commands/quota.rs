use std::fmt;

use clap::{Args, Subcommand};
use coordd_client::{Credential, Quota as Limits, QuotaUsage, ReadLevel};
use coordd_process::plain;
use futures::TryStreamExt as _;
use serde::Serialize;

use crate::context::Context;
use crate::exit::Failure;

/// Prints, lists, sets or removes quotas of subtrees.
#[derive(Args, Debug)]
pub(crate) struct Quota {
    #[command(subcommand)]
    command: QuotaCommand,
}

#[derive(Subcommand, Debug)]
enum QuotaCommand {
    /// List the quotas of the ensemble and what is used of each. A quota stays until it is removed.
    ///
    /// Quotas of znodes that you may not list are left out; `--auth` says who you are.
    List,
    /// Print the limits and what is used.
    Get {
        /// The top of the subtree.
        path: String,
    },
    /// Set or replace the limits.
    Set {
        /// The top of the subtree.
        path: String,
        #[command(flatten)]
        limits: LimitArgs,
    },
    /// Remove the quota.
    Delete {
        /// The top of the subtree.
        path: String,
    },
}

#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
struct LimitArgs {
    /// Znodes; going over shows.
    #[arg(long)]
    count_soft: Option<u64>,
    /// Znodes; going over is refused.
    #[arg(long)]
    count_hard: Option<u64>,
    /// Bytes of data; going over shows.
    #[arg(long)]
    bytes_soft: Option<u64>,
    /// Bytes of data; going over is refused.
    #[arg(long)]
    bytes_hard: Option<u64>,
}

#[derive(Serialize)]
struct QuotaOutput {
    path: String,
    count: u64,
    count_soft: Option<u64>,
    count_hard: Option<u64>,
    bytes: u64,
    bytes_soft: Option<u64>,
    bytes_hard: Option<u64>,
    soft_exceeded: bool,
}

impl QuotaOutput {
    fn new(path: String, usage: QuotaUsage) -> Self {
        let QuotaUsage { quota: Limits { count_soft, count_hard, bytes_soft, bytes_hard }, .. } = usage;
        let QuotaUsage { count, bytes, soft_exceeded, .. } = usage;
        Self { path, count, count_soft, count_hard, bytes, bytes_soft, bytes_hard, soft_exceeded }
    }
}

impl fmt::Display for QuotaOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = |limit: Option<u64>| limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string());
        let (soft, hard) = (limit(self.count_soft), limit(self.count_hard));
        writeln!(f, "znodes  {} (soft {soft}, hard {hard})", self.count)?;
        let (soft, hard) = (limit(self.bytes_soft), limit(self.bytes_hard));
        writeln!(f, "bytes   {} (soft {soft}, hard {hard})", self.bytes)?;
        if self.soft_exceeded { writeln!(f, "a soft limit is exceeded") } else { Ok(()) }
    }
}

#[derive(Serialize)]
struct QuotaChanged {
    path: String,
    zxid: u64,
}

impl Quota {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        if let QuotaCommand::List = self.command {
            return list(context).await;
        }
        let client = context.writer().await?;
        match self.command {
            QuotaCommand::List => Ok(()),
            QuotaCommand::Get { path } => {
                let usage = context.answer(client.get_quota(&path, ReadLevel::Local)).await?;
                context.output().result(&QuotaOutput::new(path, usage))
            }
            QuotaCommand::Set { path, limits } => {
                let LimitArgs { count_soft, count_hard, bytes_soft, bytes_hard } = limits;
                let quota = Limits { count_soft, count_hard, bytes_soft, bytes_hard };
                let zxid = context.answer(client.set_quota(&path, quota)).await?;
                context.output().quiet_result(&QuotaChanged { path, zxid })
            }
            QuotaCommand::Delete { path } => {
                let zxid = context.answer(client.delete_quota(&path)).await?;
                context.output().quiet_result(&QuotaChanged { path, zxid })
            }
        }
    }
}

async fn list(context: &Context) -> Result<(), Failure> {
    let credentials =
        context.options.auth.iter().map(|auth| Credential::new("digest", auth.clone())).collect();
    let output = context.output();
    let mut quotas = context.admin().await?.quotas(credentials);
    while let Some((path, usage)) = quotas.try_next().await? {
        let quota = QuotaOutput::new(path, usage);
        if output.is_json() {
            output.json(&quota)?;
        } else {
            output.line(format_args!("{}\n{}", plain(&quota.path), Indented(&quota.to_string())))?;
        }
    }
    Ok(())
}

/// Lines below a heading.
struct Indented<'a>(&'a str);

impl fmt::Display for Indented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = self.0.lines();
        lines.next().map_or(Ok(()), |line| write!(f, "  {line}"))?;
        lines.try_for_each(|line| write!(f, "\n  {line}"))
    }
}
