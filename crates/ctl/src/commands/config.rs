use std::fmt;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use coordd_client::recipes::config::{
    Config as Snapshot, ConfigDocument, ConfigKey, ConfigManager, ConfigOptions, ConfigVersion, KeyChange,
};
use coordd_client::{Error, ErrorKind, ReadLevel};
use futures::StreamExt as _;
use serde::Serialize;
use serde_json::Value;

use super::Freshness;
use crate::context::Context;
use crate::exit::Failure;
use crate::interrupt::interrupted;
use crate::output::time;

/// Reads, changes and follows a configuration: a JSON document with a history.
///
/// A KEY is written with dots, `feature_flags.dark_mode` or `servers.0`, or as a JSON pointer, `/feature_flags/dark_mode`.
#[derive(Args, Debug)]
pub(crate) struct Config {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Subcommand, Debug)]
enum ConfigCommand {
    /// Print the document, or the value of one key.
    Get {
        /// The configuration.
        path: String,
        /// The key.
        key: Option<ConfigKey>,
        #[command(flatten)]
        freshness: Freshness,
    },
    /// Set one key, or replace the document.
    Set(Set),
    /// Remove one key.
    Unset {
        /// The configuration.
        path: String,
        /// The key.
        key: ConfigKey,
        #[command(flatten)]
        recording: Recording,
    },
    /// Print every change, key by key, until interrupted.
    Watch {
        /// The configuration. It need not exist.
        path: String,
        /// Only this key.
        key: Option<ConfigKey>,
    },
    /// Print the versions that are kept, the newest first.
    History {
        /// The configuration.
        path: String,
    },
    /// Write an earlier version again, as a new one.
    Rollback {
        /// The configuration.
        path: String,
        /// Which one, as the history has it.
        version: i32,
        #[command(flatten)]
        recording: Recording,
    },
}

#[derive(Args, Debug)]
struct Set {
    /// The configuration. It is created if there is none.
    path: String,

    /// The key.
    #[arg(required_unless_present = "file", requires = "value")]
    key: Option<ConfigKey>,

    /// Its value: JSON, or a text.
    #[arg(allow_hyphen_values = true)]
    value: Option<String>,

    /// Replace the document by the JSON in this file.
    #[arg(short, long, value_name = "FILE", conflicts_with = "key")]
    file: Option<PathBuf>,

    /// The version it must have.
    #[arg(long)]
    version: Option<i32>,

    #[command(flatten)]
    recording: Recording,
}

/// How a change is recorded.
#[derive(Args, Debug)]
struct Recording {
    /// Under which name the history has the change.
    #[arg(long, env = "USER", default_value = "", hide_env = true)]
    author: String,

    /// How many versions are kept, the new one included.
    #[arg(long, default_value_t = 10, value_name = "VERSIONS")]
    keep: usize,
}

#[derive(Serialize)]
struct GetOutput<'a> {
    path: &'a str,
    version: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    value: &'a Value,
}

/// Text as it is, the rest as JSON.
impl fmt::Display for GetOutput<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value {
            Value::String(text) => writeln!(f, "{text}"),
            value => writeln!(f, "{value:#}"),
        }
    }
}

#[derive(Serialize)]
struct Written<'a> {
    path: &'a str,
    version: Option<i32>,
}

impl fmt::Display for Written<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            Some(version) => writeln!(f, "version {version}"),
            None => writeln!(f, "no configuration"),
        }
    }
}

#[derive(Serialize)]
struct Changed {
    version: Option<i32>,
    key: String,
    old: Option<Value>,
    new: Option<Value>,
}

impl Changed {
    fn new(version: Option<i32>, change: KeyChange) -> Self {
        let KeyChange { key, old, new } = change;
        Self { version, key: key.to_string(), old, new }
    }
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, key, old, new } = self;
        match version {
            Some(version) => write!(f, "version {version}  ")?,
            None => write!(f, "deleted  ")?,
        }
        let text =
            |value: &Option<Value>| value.as_ref().map_or_else(|| "(none)".to_owned(), Value::to_string);
        let key = if key.is_empty() { "(document)" } else { key };
        writeln!(f, "{key}: {} -> {}", text(old), text(new))
    }
}

#[derive(Serialize)]
struct VersionOutput {
    version: i32,
    author: String,
    at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    restored: Option<i32>,
    value: Value,
}

impl From<ConfigVersion> for VersionOutput {
    fn from(version: ConfigVersion) -> Self {
        let ConfigVersion { version, author, at_ms, restored, value } = version;
        Self { version, author, at: time(at_ms), restored, value }
    }
}

impl fmt::Display for VersionOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, author, at, restored, value } = self;
        let author = if author.is_empty() { "(nobody)" } else { author };
        write!(f, "version {version}  {at}  {author}")?;
        if let Some(restored) = restored {
            write!(f, "  restored {restored}")?;
        }
        writeln!(f, "  {value}")
    }
}

impl Config {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        match self.command {
            ConfigCommand::Get { path, key, freshness } => {
                let document = document(context, &path, ConfigOptions::new(Value::Null)).await?;
                let config = context.answer(document.get(freshness.level())).await?;
                print(context, &path, key, &config)
            }
            ConfigCommand::Set(set) => set.run(context).await,
            ConfigCommand::Unset { path, key, recording } => {
                let document = document(context, &path, recording.options()).await?;
                let config = context.answer(document.remove_key(&key.to_string())).await?;
                written(context, &path, &config)
            }
            ConfigCommand::Watch { path, key } => watch(context, &path, key).await,
            ConfigCommand::History { path } => {
                let document = document(context, &path, ConfigOptions::new(Value::Null)).await?;
                for version in context.answer(document.history()).await? {
                    context.output().result(&VersionOutput::from(version))?;
                }
                Ok(())
            }
            ConfigCommand::Rollback { path, version, recording } => {
                let document = document(context, &path, recording.options()).await?;
                let config = context.answer(document.rollback(version)).await?;
                written(context, &path, &config)
            }
        }
    }
}

impl Recording {
    fn options(self) -> ConfigOptions<Value> {
        ConfigOptions::new(Value::Null).author(self.author).history(self.keep)
    }
}

impl Set {
    async fn run(self, context: &Context) -> Result<(), Failure> {
        let Self { path, key, value, file, version, recording } = self;
        let new = match (value, file) {
            (Some(text), _) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
            (None, Some(file)) => {
                let name = file.display();
                let text =
                    std::fs::read(&file).map_err(|error| Failure::io(format!("reading {name}"), error))?;
                serde_json::from_slice(&text)
                    .map_err(|error| Failure::Usage(format!("{name} is not JSON: {error}")))?
            }
            (None, None) => return Err(Failure::Usage("no value given: KEY VALUE, or --file FILE".into())),
        };
        let document = document(context, &path, recording.options()).await?;
        let config = match (version, key) {
            (Some(version), key) => {
                let seen = context.answer(document.get(ReadLevel::Linearizable)).await?;
                let mut value = Value::clone(&seen.value);
                key.unwrap_or_default().set(&mut value, new)?;
                let replaced = match seen.version() == Some(version) {
                    true => context.answer(document.compare_and_set(&seen, &value)).await?,
                    false => None,
                };
                replaced.ok_or_else(|| {
                    let message = format!("the configuration at {path} has not version {version}");
                    Error { path: path.clone(), ..Error::new(ErrorKind::BadVersion, message) }
                })?
            }
            (None, Some(key)) => context.answer(document.set_key(&key.to_string(), new)).await?,
            (None, None) => context.answer(document.set(&new)).await?,
        };
        written(context, &path, &config)
    }
}

async fn document(
    context: &Context,
    path: &str,
    options: ConfigOptions<Value>,
) -> Result<ConfigDocument<Value>, Failure> {
    Ok(ConfigDocument::new(&context.writer().await?, path, options)?)
}

fn print(
    context: &Context,
    path: &str,
    key: Option<ConfigKey>,
    config: &Snapshot<Value>,
) -> Result<(), Failure> {
    let missing = |message: String| Error { path: path.to_owned(), ..Error::new(ErrorKind::NoNode, message) };
    if config.version().is_none() {
        return Err(missing(format!("no configuration at {path}")).into());
    }
    let value = match &key {
        Some(key) => {
            let value = key.get(&config.value);
            value.ok_or_else(|| missing(format!("no key {key} in the configuration at {path}")))?
        }
        None => &config.value,
    };
    let key = key.map(|key| key.to_string());
    context.output().result(&GetOutput { path, version: config.version(), key, value })
}

fn written(context: &Context, path: &str, config: &Snapshot<Value>) -> Result<(), Failure> {
    context.output().result(&Written { path, version: config.version() })
}

/// First where it begins, then the changes.
async fn watch(context: &Context, path: &str, key: Option<ConfigKey>) -> Result<(), Failure> {
    let sessions = context.sessions().await?;
    let manager = ConfigManager::start(&sessions, path, ConfigOptions::new(Value::Null)).await?;
    let mut changes = manager.changes();
    written(context, path, &manager.snapshot())?;
    if let Some(problem) = manager.problem() {
        eprintln!("coordctl: {problem}");
    }
    loop {
        let change = tokio::select! {
            change = changes.next() => change,
            () = interrupted() => break,
        };
        match change {
            Some(Ok(change)) => {
                let version = change.new.version();
                let different = match &key {
                    Some(key) => change.key(key).into_iter().collect(),
                    None => change.keys(),
                };
                for different in different {
                    context.output().result(&Changed::new(version, different))?;
                }
            }
            Some(Err(problem)) if problem.kind == ErrorKind::MarshallingError => {
                eprintln!("coordctl: {problem}")
            }
            Some(Err(error)) => return Err(error.into()),
            None => break,
        }
    }
    // If no node is in reach the session expires by itself.
    let _ = tokio::time::timeout(context.options.timeout, sessions.close()).await;
    Ok(())
}
