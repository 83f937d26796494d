use std::fmt;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use coordd_client::recipes::config::{
    Config as Snapshot, ConfigChange, ConfigDocument, ConfigKey, ConfigManager, ConfigOptions, ConfigVersion,
    KeyChange,
};
use coordd_client::{Error, ErrorKind, ReadLevel};
use coordd_process::plain;
use futures::StreamExt as _;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::Freshness;
use crate::context::Context;
use crate::exit::Failure;
use crate::json_text::{self, JsonArg};
use crate::notes::note;
use crate::output::time;

/// Reads, changes and follows a configuration: a JSON document with a history.
///
/// A KEY is written with dots, `feature_flags.dark_mode` or `servers.0`, or as a JSON pointer, `/feature_flags/dark_mode`. What a change
/// does not name stays byte for byte: the order of members, white space, and how numbers are written.
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
        #[arg(value_parser = key)]
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
        #[arg(value_parser = key)]
        key: ConfigKey,
        #[command(flatten)]
        recording: Recording,
    },
    /// Print every change, key by key, until interrupted.
    Watch {
        /// The configuration. It need not exist.
        path: String,
        /// Only this key.
        #[arg(value_parser = key)]
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
    #[arg(required_unless_present = "file", requires = "value", value_parser = key)]
    key: Option<ConfigKey>,

    /// Its value: JSON, which is stored as it is written, or a text that cannot be taken for JSON. One that begins with a hyphen,
    /// other than a number, stands behind `--`.
    #[arg(allow_negative_numbers = true)]
    value: Option<String>,

    /// The value is a text, whatever it looks like.
    #[arg(long, requires = "value")]
    string: bool,

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

/// The empty key would be the whole document, which nobody means who writes it.
fn key(text: &str) -> Result<ConfigKey, String> {
    match text.is_empty() {
        true => Err("it is empty; a key names a part of the document".to_owned()),
        false => text.parse().map_err(|error: Error| error.message),
    }
}

#[derive(Serialize)]
struct GetOutput<'a> {
    path: &'a str,
    version: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    value: &'a RawValue,
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
    old: Option<Box<RawValue>>,
    new: Option<Box<RawValue>>,
}

impl Changed {
    /// One key of it, with the values as they are written.
    fn new(change: &ConfigChange<Value>, different: KeyChange) -> Self {
        let KeyChange { key, old, new } = different;
        let written = |config: &Snapshot<Value>, value: Option<Value>| {
            let value = value?;
            let json = config.json().and_then(|json| key.get_json(json));
            RawValue::from_string(json.map_or_else(|| value.to_string(), str::to_owned)).ok()
        };
        let (old, new) = (written(&change.old, old), written(&change.new, new));
        Self { version: change.new.version(), key: key.to_string(), old, new }
    }
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, key, old, new } = self;
        match version {
            Some(version) => write!(f, "version {version}  ")?,
            None => write!(f, "deleted  ")?,
        }
        let text = |value: &Option<Box<RawValue>>| {
            value.as_ref().map_or_else(|| "(none)".to_owned(), json_text::shown)
        };
        let key = if key.is_empty() { "(document)" } else { key };
        writeln!(f, "{}: {} -> {}", plain(key), text(old), text(new))
    }
}

#[derive(Serialize)]
struct VersionOutput {
    version: i32,
    author: String,
    at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    restored: Option<i32>,
    value: Option<Box<RawValue>>,
}

impl From<ConfigVersion> for VersionOutput {
    fn from(version: ConfigVersion) -> Self {
        let ConfigVersion { version, author, at_ms, restored, json, .. } = version;
        Self { version, author, at: time(at_ms), restored, value: RawValue::from_string(json).ok() }
    }
}

impl fmt::Display for VersionOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, author, at, restored, value } = self;
        let author = if author.is_empty() { "(nobody)" } else { author };
        write!(f, "version {version}  {at}  {}", plain(author))?;
        if let Some(restored) = restored {
            write!(f, "  restored {restored}")?;
        }
        writeln!(f, "  {}", json_text::shown(value))
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
        let Self { path, key, value, string, file, version, recording } = self;
        let new = match (value, file) {
            (Some(text), _) if string => JsonArg::string(&text).as_str().to_owned(),
            (Some(text), _) => {
                let json: Result<JsonArg, String> = text.parse();
                let refused = |why| {
                    Failure::Usage(format!("the value {text:?} is refused: {why}, or follows --string"))
                };
                json.map_err(refused)?.as_str().to_owned()
            }
            (None, Some(file)) => {
                let name = file.display();
                let text = std::fs::read_to_string(&file)
                    .map_err(|error| Failure::io(format!("reading {name}"), error))?;
                serde_json::from_str::<Value>(&text)
                    .map_err(|error| Failure::Usage(format!("{name} is not JSON: {error}")))?;
                text
            }
            (None, None) => return Err(Failure::Usage("no value given: KEY VALUE, or --file FILE".into())),
        };
        let document = document(context, &path, recording.options()).await?;
        let config = match (version, key) {
            (Some(version), key) => {
                let seen = context.answer(document.get(ReadLevel::Linearizable)).await?;
                let json = key.unwrap_or_default().set_json(seen.json().unwrap_or("null"), &new)?;
                let replaced = match seen.version() == Some(version) {
                    true => context.answer(document.compare_and_set_json(&seen, &json)).await?,
                    false => None,
                };
                replaced.ok_or_else(|| {
                    let message = format!("the configuration at {path} has not version {version}");
                    Error { path: path.clone(), ..Error::new(ErrorKind::BadVersion, message) }
                })?
            }
            (None, Some(key)) => context.answer(document.set_key_json(&key.to_string(), &new)).await?,
            (None, None) => context.answer(document.set_json(&new)).await?,
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
    let Some(document) = config.json() else {
        return Err(missing(format!("no configuration at {path}")).into());
    };
    let json = match &key {
        Some(key) => {
            let json = key.get_json(document);
            json.ok_or_else(|| missing(format!("no key {key} in the configuration at {path}")))?
        }
        None => document,
    };
    let unreadable =
        |error| Failure::io(format!("reading the configuration at {path}"), std::io::Error::from(error));
    let output = context.output();
    if output.is_json() {
        let (key, value) = (key.map(|key| key.to_string()), serde_json::from_str(json).map_err(unreadable)?);
        return output.json(&GetOutput { path, version: config.version(), key, value });
    }
    // Text as it is, the rest as JSON.
    match serde_json::from_str::<Value>(json).map_err(unreadable)? {
        Value::String(text) => output.value(format!("{text}\n").as_bytes()),
        _ => output.line(json_text::pretty(json).map_err(unreadable)?),
    }
}

fn written(context: &Context, path: &str, config: &Snapshot<Value>) -> Result<(), Failure> {
    context.output().result(&Written { path, version: config.version() })
}

/// First where it begins, then the changes.
async fn watch(context: &Context, path: &str, key: Option<ConfigKey>) -> Result<(), Failure> {
    let sessions = context.sessions().await?;
    let manager = ConfigManager::start(&sessions, path, ConfigOptions::new(Value::Null)).await?;
    let mut changes = manager.changes();
    context.interrupts.are_the_end();
    written(context, path, &manager.snapshot())?;
    if let Some(problem) = manager.problem() {
        note!("{problem}");
    }
    while let Some(change) = changes.next().await {
        match change {
            Ok(change) => {
                let different = match &key {
                    Some(key) => change.key(key).into_iter().collect(),
                    None => change.keys(),
                };
                for different in different {
                    context.output().result(&Changed::new(&change, different))?;
                }
            }
            Err(problem) if problem.kind == ErrorKind::MarshallingError => note!("{problem}"),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
