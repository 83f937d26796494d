use std::fmt;
use std::str::FromStr;

use clap::{Args, Subcommand};
use coordd_client::{AclEntry, Perms};
use coordd_process::plain;
use serde::Serialize;

use super::Freshness;
use crate::context::Context;
use crate::exit::Failure;
use crate::output::StatOutput;

/// Prints or replaces the ACL of a znode.
#[derive(Args, Debug)]
pub(crate) struct Acl {
    #[command(subcommand)]
    command: AclCommand,
}

#[derive(Subcommand, Debug)]
enum AclCommand {
    /// Print it, an entry a line.
    Get {
        /// The path.
        path: String,
        #[command(flatten)]
        freshness: Freshness,
    },
    /// Replace it.
    Set {
        /// The path.
        path: String,
        /// The entries: SCHEME:ID:PERMS with letters of cdrwa.
        #[arg(required = true, value_name = "SCHEME:ID:PERMS")]
        entries: Vec<AclArg>,
        /// The ACL version it must have.
        #[arg(long)]
        version: Option<i32>,
    },
}

/// An ACL entry as ZooKeeper's command line writes it; the id may hold colons.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AclArg(pub(crate) AclEntry);

impl FromStr for AclArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once(':').and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once(':')?)));
        let Some((scheme, (id, letters))) = parts else {
            return Err("it is not SCHEME:ID:PERMS".into());
        };
        let mut perms = Perms::NONE;
        for letter in letters.chars() {
            perms = perms
                | match letter {
                    'c' => Perms::CREATE,
                    'd' => Perms::DELETE,
                    'r' => Perms::READ,
                    'w' => Perms::WRITE,
                    'a' => Perms::ADMIN,
                    _ => return Err(format!("{letter:?} is not one of cdrwa")),
                };
        }
        Ok(AclArg(AclEntry::new(perms, scheme, id)))
    }
}

#[derive(Serialize)]
struct EntryOutput {
    scheme: String,
    id: String,
    perms: String,
}

#[derive(Serialize)]
struct AclOutput {
    path: String,
    acl: Vec<EntryOutput>,
    stat: StatOutput,
}

impl fmt::Display for AclOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.acl.iter().try_for_each(|entry| {
            writeln!(f, "{}:{}:{}", plain(&entry.scheme), plain(&entry.id), entry.perms)
        })
    }
}

#[derive(Serialize)]
struct AclSetOutput {
    path: String,
    aversion: i32,
}

impl fmt::Display for AclSetOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "aversion {}", self.aversion)
    }
}

impl Acl {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let client = context.writer().await?;
        match self.command {
            AclCommand::Get { path, freshness } => {
                let (acl, stat) = context.answer(client.get_acl(&path, freshness.level())).await?;
                let entry = |entry: AclEntry| EntryOutput {
                    scheme: entry.scheme,
                    id: entry.id,
                    perms: entry.perms.to_string(),
                };
                let acl = acl.into_iter().map(entry).collect();
                context.output().result(&AclOutput { path, acl, stat: stat.into() })
            }
            AclCommand::Set { path, entries, version } => {
                let entries = entries.into_iter().map(|entry| entry.0);
                let stat = context.answer(client.set_acl(&path, entries, version)).await?;
                context.output().result(&AclSetOutput { path, aversion: stat.aversion })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_may_hold_colons() {
        let entry: AclArg = "digest:me:AAA=:rw".parse().unwrap();
        assert_eq!(entry.0, AclEntry::new(Perms::READ | Perms::WRITE, "digest", "me:AAA="));
        assert_eq!("ip:::1:r".parse::<AclArg>().unwrap().0.id, "::1");
        for bad in ["world", "world:anyone", "world:anyone:x"] {
            assert!(bad.parse::<AclArg>().is_err(), "{bad}");
        }
    }
}
