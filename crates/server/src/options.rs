//! What `coordd` is configured with: command line before environment before file before default.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use coordd_process::check_filter;
use coordd_raft::{Member, NodeId, Timing};
use coordd_tree::{Ceilings, Limits};
use serde::Deserialize;

use crate::announce::AnnounceGroup;
use crate::service::PATH_BYTES_MAX;

/// What the targets of log lines begin with: the crates that are in the process and log.
const LOG_TARGETS: [&str; 17] = [
    "coordd",
    "coordd_client",
    "coordd_process",
    "coordd_proto",
    "coordd_raft",
    "coordd_server",
    "coordd_tree",
    "h2",
    "hyper",
    "hyper_util",
    "mio",
    "openraft",
    "rustls",
    "sled",
    "tokio",
    "tonic",
    "tower",
];
/// Later than anybody looks for a sweep; a time that can be added to any other.
const SWEEP_INTERVAL_MAX: Duration = Duration::from_secs(365 * 86_400);
/// Less than this serves nobody.
const CLIENT_MEMORY_MIN: u64 = 1 << 20;
/// A process without data takes about this much.
const MEMORY_LIMIT_MIN: u64 = 32 << 20;

/// The options as they can be given: on the command line, as `COORDD_*` in the environment, or in the TOML file of
/// `--config` under the same names.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct GivenOptions {
    /// Id of this node in the ensemble, from 1. Never give it to another node, also not after its disk is lost.
    /// [default: 1]
    #[arg(long, env = "COORDD_ID", value_name = "N")]
    pub id: Option<u64>,

    /// All nodes and where their peers reach them: `1=host:port,2=host:port,3=host:port`. The same on every node; an odd
    /// number of nodes, 3 or 5. Without it this is a single node. [default: none]
    #[arg(long, env = "COORDD_ENSEMBLE", value_name = "ID=HOST:PORT,...")]
    pub ensemble: Option<String>,

    /// Address that clients connect to. [default: 127.0.0.1:7401]
    #[arg(long, env = "COORDD_LISTEN", value_name = "HOST:PORT")]
    pub listen: Option<String>,

    /// Multicast group in which this node tells clients that ask (`--endpoints multicast:GROUP:PORT`) where it listens; a
    /// group for each ensemble. With several interfaces: GROUP:PORT@ADDRESS of the right one. [default: none]
    #[arg(long, env = "COORDD_ANNOUNCE", value_name = "GROUP:PORT")]
    pub announce: Option<String>,

    /// Address that peers connect to, if it is not the one in --ensemble (behind a NAT, or 0.0.0.0 in a container).
    /// [default: this node's address in --ensemble]
    #[arg(long, env = "COORDD_PEER_LISTEN", value_name = "HOST:PORT")]
    pub peer_listen: Option<String>,

    /// Directory of this node's log and snapshots; created if it is not there. One directory a node; the disk under it is
    /// what the speed of writes depends on. [default: ./coordd-data]
    #[arg(long, env = "COORDD_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// How log lines look: `human` or `json`. [default: human]
    #[arg(long, env = "COORDD_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,

    /// Which log lines are written: a level, or `target=level,...`; a target is a crate or a module of one. [default:
    /// info,openraft=error]
    #[arg(long, env = "COORDD_LOG", value_name = "FILTER")]
    pub log: Option<String>,

    /// How often an idle leader says that it leads. Below the slowest fdatasync of a follower it causes needless
    /// retries. The same on every node. [default: 150ms]
    #[arg(long, env = "COORDD_HEARTBEAT", value_name = "TIME")]
    pub heartbeat: Option<Time>,

    /// Least random time, after the lease has run out, before a follower asks for an election. The same on every node.
    /// [default: 400ms]
    #[arg(long, env = "COORDD_ELECTION_MIN", value_name = "TIME")]
    pub election_min: Option<Time>,

    /// The leader's lease, and the greatest such random time: a leader that is cut off is replaced after this and one
    /// random time. Must be above the slowest fdatasync. The same on every node. [default: 600ms]
    #[arg(long, env = "COORDD_ELECTION_MAX", value_name = "TIME")]
    pub election_max: Option<Time>,

    /// Least session timeout that a client gets. [default: 1s]
    #[arg(long, env = "COORDD_SESSION_TIMEOUT_MIN", value_name = "TIME")]
    pub session_timeout_min: Option<Time>,

    /// Greatest session timeout that a client gets. [default: 10m]
    #[arg(long, env = "COORDD_SESSION_TIMEOUT_MAX", value_name = "TIME")]
    pub session_timeout_max: Option<Time>,

    /// Session timeout of a client that asks for none. [default: 10s]
    #[arg(long, env = "COORDD_SESSION_TIMEOUT", value_name = "TIME")]
    pub session_timeout: Option<Time>,

    /// How often TTL znodes and empty containers that are due are deleted. Recipes that use containers suffer below some
    /// seconds. [default: 60s]
    #[arg(long, env = "COORDD_SWEEP_INTERVAL", value_name = "TIME")]
    pub sweep_interval: Option<Time>,

    /// Largest value of a znode; larger writes are refused. At least 32KiB below --frame-bytes-max. [default: 1MiB]
    #[arg(long, env = "COORDD_VALUE_BYTES_MAX", value_name = "SIZE")]
    pub value_bytes_max: Option<ByteSize>,

    /// Largest frame or message that is read from a client; a larger one ends the call. At most 12MiB. [default: 4MiB]
    #[arg(long, env = "COORDD_FRAME_BYTES_MAX", value_name = "SIZE")]
    pub frame_bytes_max: Option<ByteSize>,

    /// Most requests of one session that are worked on; more wait in the connection. [default: 1000]
    #[arg(long, env = "COORDD_OUTSTANDING_MAX", value_name = "N")]
    pub outstanding_max: Option<usize>,

    /// Most components of the path of a znode that is created. [default: 128]
    #[arg(long, env = "COORDD_DEPTH_MAX", value_name = "N")]
    pub depth_max: Option<usize>,

    /// Most znodes that one recursive delete removes in one step; larger trees go in batches. Applying 5000 takes up to 50 ms,
    /// in which this node answers nobody. [default: 5000]
    #[arg(long, env = "COORDD_TREE_ZNODES_MAX", value_name = "N")]
    pub tree_znodes_max: Option<usize>,

    /// Most ephemeral znodes of one session; its end removes them in one step. [default: 5000]
    #[arg(long, env = "COORDD_EPHEMERALS_MAX", value_name = "N")]
    pub ephemerals_max: Option<usize>,

    /// Most quotas of the ensemble. [default: 10000]
    #[arg(long, env = "COORDD_QUOTAS_MAX", value_name = "N")]
    pub quotas_max: Option<usize>,

    /// Most bytes of all different ACLs of the ensemble. [default: 64MiB]
    #[arg(long, env = "COORDD_ACL_BYTES_MAX", value_name = "SIZE")]
    pub acl_bytes_max: Option<ByteSize>,

    /// Most bytes of answers that sessions have not acknowledged, of all sessions together; beyond it the session that holds most
    /// is ended. [default: 256MiB]
    #[arg(long, env = "COORDD_ANSWERS_BYTES_MAX", value_name = "SIZE")]
    pub answers_bytes_max: Option<ByteSize>,

    /// Most live sessions of the ensemble; a new one is refused beyond it. [default: 100000]
    #[arg(long, env = "COORDD_SESSIONS_MAX", value_name = "N")]
    pub sessions_max: Option<usize>,

    /// Most watches of one session on this node. [default: 100000]
    #[arg(long, env = "COORDD_WATCHES_MAX", value_name = "N")]
    pub watches_max: Option<usize>,

    /// Most client connections; more are not accepted until others close, or turn out to ask for nothing.
    /// Fewer where the limit of open files (`ulimit -n`) is lower, of which some are kept for the disk and
    /// for peers, or where idle ones would take more than half of --client-memory-max. [default: 20000]
    #[arg(long, env = "COORDD_CONNECTIONS_MAX", value_name = "N")]
    pub connections_max: Option<usize>,

    /// Most client connections from one address; 0 is any number. Clients behind a proxy or a NAT have one address in
    /// common. [default: 0]
    #[arg(long, env = "COORDD_CONNECTIONS_PER_ADDRESS_MAX", value_name = "N")]
    pub connections_per_address_max: Option<usize>,

    /// How soon the first request has to come on a new connection; a silent one is closed. [default: 10s]
    #[arg(long, env = "COORDD_FIRST_REQUEST_TIMEOUT", value_name = "TIME")]
    pub first_request_timeout: Option<Time>,

    /// Most bytes of events, replies, unfinished requests and connections that this node holds for all of its clients; beyond
    /// it the streams and replies that hold most are ended. [default: a quarter of the memory that the process may use]
    #[arg(long, env = "COORDD_CLIENT_MEMORY_MAX", value_name = "SIZE")]
    pub client_memory_max: Option<ByteSize>,

    /// Resident memory from which on a node counts as low. While fewer nodes than a majority are below
    /// theirs, writes that may make something larger are refused; deletes, reads and sessions go on.
    /// [default: three quarters of the memory that the process may use]
    #[arg(long, env = "COORDD_MEMORY_LIMIT", value_name = "SIZE")]
    pub memory_limit: Option<ByteSize>,

    /// Most bytes of events and replies that wait for a client that does not read; beyond it its stream is ended, and the
    /// client resumes where it was. [default: 16MiB]
    #[arg(long, env = "COORDD_OUTBOX_BYTES_MAX", value_name = "SIZE")]
    pub outbox_bytes_max: Option<ByteSize>,

    /// A snapshot is cut when the log has grown so much since the last one. Larger: fewer snapshots, longer restarts.
    /// [default: 64MiB]
    #[arg(long, env = "COORDD_SNAPSHOT_LOG_BYTES", value_name = "SIZE")]
    pub snapshot_log_bytes: Option<ByteSize>,

    /// So much log is kept behind a snapshot: a node that lags by less gets log, one that lags by more a snapshot.
    /// [default: 32MiB]
    #[arg(long, env = "COORDD_KEEP_LOG_BYTES", value_name = "SIZE")]
    pub keep_log_bytes: Option<ByteSize>,

    /// What must be left on this node's disk, beside the room for the next snapshot. When fewer nodes than a majority have that,
    /// writes that may make something larger are refused; deletes, reads and sessions go on. [default: 128MiB]
    #[arg(long, env = "COORDD_DISK_RESERVE_BYTES", value_name = "SIZE")]
    pub disk_reserve_bytes: Option<ByteSize>,

    /// Identity that passes every ACL: `user:base64(sha1(user:password))`. A client proves it with the digest scheme.
    /// [default: none]
    #[arg(long, env = "COORDD_SUPER_DIGEST", value_name = "ID", hide_env_values = true)]
    pub super_digest: Option<String>,
}

/// The forms of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// A duration as people write it: `150ms`, `10s`, `1m 30s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Duration);

impl FromStr for Time {
    type Err = humantime::DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        humantime::parse_duration(text).map(Time)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The options in force, checked.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node.
    pub id: NodeId,
    /// All nodes; only this one if there is no ensemble.
    pub members: BTreeMap<NodeId, Member>,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where clients that do not know that can ask.
    pub announce: Option<AnnounceGroup>,
    /// Where peers connect.
    pub peer_listen: SocketAddr,
    /// This node's directory.
    pub data_dir: PathBuf,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which are written.
    pub log: String,
    /// Raft's times.
    pub timing: Timing,
    /// Bounds of session timeouts.
    pub session_timeout_min: Duration,
    /// See `session_timeout_min`.
    pub session_timeout_max: Duration,
    /// For a client that asks for none.
    pub session_timeout: Duration,
    /// How often due znodes are deleted.
    pub sweep_interval: Duration,
    /// Limits of what clients send.
    pub limits: ServerLimits,
    /// When a snapshot is cut.
    pub snapshot_log_bytes: u64,
    /// How much log stays behind it.
    pub keep_log_bytes: u64,
    /// How much is to be left on the disk.
    pub disk_reserve_bytes: u64,
    /// Who passes every ACL.
    pub super_digest: Option<String>,
}

/// Limits of what clients may ask of this node (G9).
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// Of a value.
    pub value_bytes: usize,
    /// Of a frame or message.
    pub frame_bytes: usize,
    /// Requests of a session under way.
    pub outstanding: usize,
    /// Components of a path that is created.
    pub depth: usize,
    /// What commands carry, because it depends on the tree.
    pub ceilings: Ceilings,
    /// Bytes of answers that sessions have not acknowledged, of all together.
    pub answers_bytes: u64,
    /// Live sessions.
    pub sessions: usize,
    /// Watches of a session.
    pub watches: usize,
    /// Connections.
    pub connections: usize,
    /// Connections from one address; 0: any number.
    pub connections_per_address: usize,
    /// When the first request of a connection has to have come.
    pub first_request: Duration,
    /// Bytes that wait for a reader.
    pub outbox_bytes: usize,
    /// Bytes that are held for all clients; `None`: a quarter of what there is.
    pub client_memory: Option<u64>,
    /// Bytes of the process from which on nothing may grow; `None`: three quarters of what there is.
    pub memory: Option<u64>,
}

impl Options {
    /// What is allowed and seldom meant.
    pub fn warnings(&self) -> Vec<String> {
        let nodes = self.members.len();
        let mut warnings = Vec::new();
        if nodes.is_multiple_of(2) {
            warnings.push(format!(
                "--ensemble has an even number of nodes: {nodes} outlive the loss of {}, and so do {}; use an odd number",
                (nodes - 1) / 2,
                nodes - 1
            ));
        }
        warnings
    }
}

impl ServerLimits {
    /// Bytes that are held for all clients, where the process may use so many.
    pub(crate) fn client_memory(&self, usable: u64) -> u64 {
        self.client_memory.unwrap_or(usable / 4)
    }

    /// Bytes from which on nothing may grow, likewise.
    pub(crate) fn memory_limit(&self, usable: u64) -> u64 {
        self.memory.unwrap_or(usable / 4 * 3)
    }

    /// Those of a single write.
    pub(crate) fn of_writes(&self) -> Limits {
        let &ServerLimits { value_bytes, depth, ceilings, .. } = self;
        Limits { value_bytes, path_bytes: PATH_BYTES_MAX, depth, ceilings, ..Limits::default() }
    }
}

/// An option that cannot be. Names the option.
#[derive(Debug, thiserror::Error)]
#[error("{option}: {cause}")]
pub struct OptionError {
    option: &'static str,
    cause: String,
}

fn wrong<T>(option: &'static str, cause: impl Into<String>) -> Result<T, OptionError> {
    Err(OptionError { option, cause: cause.into() })
}

impl GivenOptions {
    /// Reads a TOML file.
    pub fn from_file(path: &Path) -> Result<Self, OptionError> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| OptionError { option: "--config", cause: format!("{}: {e}", path.display()) })?;
        GivenOptions::from_text(&text)
            .map_err(|e| OptionError { option: "--config", cause: format!("{}: {e}", path.display()) })
    }

    pub(crate) fn from_text(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// The options as a file that [`from_file`](Self::from_file) reads. Options that are not given are not there.
    pub fn to_toml(&self) -> String {
        // All of them, or the compiler says which one is missing.
        let GivenOptions {
            id,
            ensemble,
            listen,
            announce,
            peer_listen,
            data_dir,
            log_format,
            log,
            heartbeat,
            election_min,
            election_max,
            session_timeout_min,
            session_timeout_max,
            session_timeout,
            sweep_interval,
            value_bytes_max,
            frame_bytes_max,
            outstanding_max,
            sessions_max,
            watches_max,
            connections_max,
            connections_per_address_max,
            first_request_timeout,
            client_memory_max,
            memory_limit,
            outbox_bytes_max,
            snapshot_log_bytes,
            keep_log_bytes,
            disk_reserve_bytes,
            depth_max,
            tree_znodes_max,
            ephemerals_max,
            quotas_max,
            acl_bytes_max,
            answers_bytes_max,
            super_digest,
        } = self;
        let number =
            |value: Option<u64>| Some(toml::Value::Integer(i64::try_from(value?).unwrap_or(i64::MAX)));
        let count = |value: &Option<usize>| number(value.map(|value| value as u64));
        let text = |value: &Option<String>| value.clone().map(toml::Value::String);
        let time = |value: &Option<Time>| {
            value.map(|time| toml::Value::String(humantime::format_duration(time.0).to_string()))
        };
        let size = |value: &Option<ByteSize>| value.map(|size| toml::Value::String(size_text(size.as_u64())));
        let form = log_format.map(|form| match form {
            LogFormat::Human => "human".to_owned(),
            LogFormat::Json => "json".to_owned(),
        });
        let data_dir = data_dir.as_ref().map(|dir| dir.to_string_lossy().into_owned());
        let options = [
            ("id", number(*id)),
            ("ensemble", text(ensemble)),
            ("listen", text(listen)),
            ("announce", text(announce)),
            ("peer-listen", text(peer_listen)),
            ("data-dir", text(&data_dir)),
            ("log-format", text(&form)),
            ("log", text(log)),
            ("heartbeat", time(heartbeat)),
            ("election-min", time(election_min)),
            ("election-max", time(election_max)),
            ("session-timeout-min", time(session_timeout_min)),
            ("session-timeout-max", time(session_timeout_max)),
            ("session-timeout", time(session_timeout)),
            ("sweep-interval", time(sweep_interval)),
            ("value-bytes-max", size(value_bytes_max)),
            ("frame-bytes-max", size(frame_bytes_max)),
            ("outstanding-max", count(outstanding_max)),
            ("sessions-max", count(sessions_max)),
            ("watches-max", count(watches_max)),
            ("connections-max", count(connections_max)),
            ("connections-per-address-max", count(connections_per_address_max)),
            ("first-request-timeout", time(first_request_timeout)),
            ("client-memory-max", size(client_memory_max)),
            ("memory-limit", size(memory_limit)),
            ("outbox-bytes-max", size(outbox_bytes_max)),
            ("snapshot-log-bytes", size(snapshot_log_bytes)),
            ("keep-log-bytes", size(keep_log_bytes)),
            ("disk-reserve-bytes", size(disk_reserve_bytes)),
            ("depth-max", count(depth_max)),
            ("tree-znodes-max", count(tree_znodes_max)),
            ("ephemerals-max", count(ephemerals_max)),
            ("quotas-max", count(quotas_max)),
            ("acl-bytes-max", size(acl_bytes_max)),
            ("answers-bytes-max", size(answers_bytes_max)),
            ("super-digest", text(super_digest)),
        ];
        let given = options.into_iter().filter_map(|(name, value)| Some(format!("{name} = {}\n", value?)));
        given.collect()
    }

    /// What is in force: these options, and the defaults of those that are not given. `checked` is what
    /// [`check`](Self::check) makes of them.
    pub fn in_force(&self, checked: &Options) -> GivenOptions {
        let time = |time| Some(Time(time));
        let size = |bytes| Some(ByteSize::b(bytes));
        let limits = &checked.limits;
        GivenOptions {
            id: Some(checked.id),
            // As they are given: what a name stands for may change.
            ensemble: self.ensemble.clone(),
            listen: self.listen.clone().or_else(|| Some(checked.listen.to_string())),
            announce: self.announce.clone(),
            peer_listen: self.peer_listen.clone(),
            data_dir: Some(checked.data_dir.clone()),
            log_format: Some(checked.log_format),
            log: Some(checked.log.clone()),
            heartbeat: time(checked.timing.heartbeat),
            election_min: time(checked.timing.election_min),
            election_max: time(checked.timing.election_max),
            session_timeout_min: time(checked.session_timeout_min),
            session_timeout_max: time(checked.session_timeout_max),
            session_timeout: time(checked.session_timeout),
            sweep_interval: time(checked.sweep_interval),
            value_bytes_max: size(limits.value_bytes as u64),
            frame_bytes_max: size(limits.frame_bytes as u64),
            outstanding_max: Some(limits.outstanding),
            sessions_max: Some(limits.sessions),
            watches_max: Some(limits.watches),
            connections_max: Some(limits.connections),
            connections_per_address_max: Some(limits.connections_per_address),
            first_request_timeout: time(limits.first_request),
            client_memory_max: self.client_memory_max,
            memory_limit: self.memory_limit,
            outbox_bytes_max: size(limits.outbox_bytes as u64),
            snapshot_log_bytes: size(checked.snapshot_log_bytes),
            keep_log_bytes: size(checked.keep_log_bytes),
            disk_reserve_bytes: size(checked.disk_reserve_bytes),
            depth_max: Some(limits.depth),
            tree_znodes_max: Some(limits.ceilings.tree_znodes as usize),
            ephemerals_max: Some(limits.ceilings.ephemerals as usize),
            quotas_max: Some(limits.ceilings.quotas as usize),
            acl_bytes_max: size(limits.ceilings.acl_bytes as u64),
            answers_bytes_max: size(limits.answers_bytes),
            super_digest: self.super_digest.clone(),
        }
    }

    /// What is not given here is taken from `file`.
    pub fn or(self, file: GivenOptions) -> GivenOptions {
        GivenOptions {
            id: self.id.or(file.id),
            ensemble: self.ensemble.or(file.ensemble),
            listen: self.listen.or(file.listen),
            announce: self.announce.or(file.announce),
            peer_listen: self.peer_listen.or(file.peer_listen),
            data_dir: self.data_dir.or(file.data_dir),
            log_format: self.log_format.or(file.log_format),
            log: self.log.or(file.log),
            heartbeat: self.heartbeat.or(file.heartbeat),
            election_min: self.election_min.or(file.election_min),
            election_max: self.election_max.or(file.election_max),
            session_timeout_min: self.session_timeout_min.or(file.session_timeout_min),
            session_timeout_max: self.session_timeout_max.or(file.session_timeout_max),
            session_timeout: self.session_timeout.or(file.session_timeout),
            sweep_interval: self.sweep_interval.or(file.sweep_interval),
            value_bytes_max: self.value_bytes_max.or(file.value_bytes_max),
            frame_bytes_max: self.frame_bytes_max.or(file.frame_bytes_max),
            outstanding_max: self.outstanding_max.or(file.outstanding_max),
            depth_max: self.depth_max.or(file.depth_max),
            tree_znodes_max: self.tree_znodes_max.or(file.tree_znodes_max),
            ephemerals_max: self.ephemerals_max.or(file.ephemerals_max),
            quotas_max: self.quotas_max.or(file.quotas_max),
            acl_bytes_max: self.acl_bytes_max.or(file.acl_bytes_max),
            answers_bytes_max: self.answers_bytes_max.or(file.answers_bytes_max),
            sessions_max: self.sessions_max.or(file.sessions_max),
            watches_max: self.watches_max.or(file.watches_max),
            connections_max: self.connections_max.or(file.connections_max),
            connections_per_address_max: self
                .connections_per_address_max
                .or(file.connections_per_address_max),
            first_request_timeout: self.first_request_timeout.or(file.first_request_timeout),
            client_memory_max: self.client_memory_max.or(file.client_memory_max),
            memory_limit: self.memory_limit.or(file.memory_limit),
            outbox_bytes_max: self.outbox_bytes_max.or(file.outbox_bytes_max),
            snapshot_log_bytes: self.snapshot_log_bytes.or(file.snapshot_log_bytes),
            keep_log_bytes: self.keep_log_bytes.or(file.keep_log_bytes),
            disk_reserve_bytes: self.disk_reserve_bytes.or(file.disk_reserve_bytes),
            super_digest: self.super_digest.or(file.super_digest),
        }
    }

    /// Empty is not a value: an option that is not wanted is left out.
    fn refuse_empty(&self) -> Result<(), OptionError> {
        let texts = [
            ("--ensemble", &self.ensemble, "leave it out for a single node"),
            ("--listen", &self.listen, "leave it out for the default"),
            ("--announce", &self.announce, "leave it out to announce nothing"),
            ("--peer-listen", &self.peer_listen, "leave it out for the address in --ensemble"),
            ("--log", &self.log, "leave it out for the default, or write off"),
            ("--super-digest", &self.super_digest, "leave it out for none"),
        ];
        let data_dir = self.data_dir.as_ref().is_some_and(|dir| dir.as_os_str().is_empty());
        let data_dir = data_dir.then_some(("--data-dir", "leave it out for the default"));
        let is_empty = |text: &Option<String>| text.as_ref().is_some_and(|text| text.trim().is_empty());
        let text = texts.into_iter().find(|(_, text, _)| is_empty(text));
        match text.map(|(option, _, remedy)| (option, remedy)).or(data_dir) {
            Some((option, remedy)) => wrong(option, format!("must not be empty; {remedy}")),
            None => Ok(()),
        }
    }

    /// Fills in the defaults and checks everything that can be checked without the other nodes.
    pub fn check(self) -> Result<Options, OptionError> {
        self.refuse_empty()?;
        let id = self.id.unwrap_or(1);
        if id == 0 {
            return wrong("--id", "ids are from 1");
        }
        let ensemble = self.ensemble.as_deref().unwrap_or_default();
        let members = match ensemble {
            "" => BTreeMap::from([(id, Member::default())]),
            text => parse_ensemble(text)?,
        };
        let Some(own) = members.get(&id) else {
            return wrong("--id", format!("{id} is not in --ensemble {ensemble}"));
        };
        let listen = address("--listen", self.listen.as_deref().unwrap_or("127.0.0.1:7401"))?;
        let peer_listen = match (&self.peer_listen, ensemble) {
            (Some(text), _) => address("--peer-listen", text)?,
            // Nobody connects to it; any free port on the loopback will do.
            (None, "") => SocketAddr::from(([127, 0, 0, 1], 0)),
            (None, _) => address("--ensemble", &own.peer_address)?,
        };
        if listen == peer_listen && listen.port() != 0 {
            return wrong("--listen", format!("{listen} is also the address for peers"));
        }
        let announce = self.announce.as_deref().map(str::parse);
        let announce = announce.transpose().map_err(|cause| OptionError { option: "--announce", cause })?;
        let timing = self.timing()?;
        let (session_timeout_min, session_timeout, session_timeout_max) = self.session_timeouts()?;
        let limits = self.limits()?;
        let snapshot_log_bytes = size(self.snapshot_log_bytes, ByteSize::mib(64));
        if snapshot_log_bytes < 1 << 20 {
            return wrong("--snapshot-log-bytes", "at least 1MiB");
        }
        let super_digest = self.super_digest;
        if super_digest.as_ref().is_some_and(|digest| !digest.contains(':')) {
            return wrong("--super-digest", "must be user:base64(sha1(user:password))");
        }
        let sweep_interval = time(self.sweep_interval, 60_000);
        if sweep_interval < Duration::from_millis(100) {
            return wrong("--sweep-interval", "at least 100ms");
        }
        if sweep_interval > SWEEP_INTERVAL_MAX {
            return wrong("--sweep-interval", "at most 365days");
        }
        let log = self.log.unwrap_or_else(|| "info,openraft=error".to_owned());
        check_filter(&log, &LOG_TARGETS).map_err(|cause| OptionError { option: "--log", cause })?;
        Ok(Options {
            id,
            members,
            listen,
            announce,
            peer_listen,
            data_dir: self.data_dir.unwrap_or_else(|| PathBuf::from("./coordd-data")),
            log_format: self.log_format.unwrap_or_default(),
            log,
            timing,
            session_timeout_min,
            session_timeout_max,
            session_timeout,
            sweep_interval,
            limits,
            snapshot_log_bytes,
            keep_log_bytes: size(self.keep_log_bytes, ByteSize::mib(32)),
            disk_reserve_bytes: size(self.disk_reserve_bytes, ByteSize::mib(128)),
            super_digest,
        })
    }

    fn timing(&self) -> Result<Timing, OptionError> {
        let default = Timing::default();
        let timing = Timing {
            heartbeat: self.heartbeat.map_or(default.heartbeat, |t| t.0),
            election_min: self.election_min.map_or(default.election_min, |t| t.0),
            election_max: self.election_max.map_or(default.election_max, |t| t.0),
        };
        if timing.heartbeat < Duration::from_millis(10) {
            return wrong("--heartbeat", "at least 10ms");
        }
        if timing.election_min < timing.heartbeat.saturating_mul(2) {
            return wrong("--election-min", "must be at least twice --heartbeat");
        }
        if timing.election_max <= timing.election_min {
            return wrong("--election-max", "must be above --election-min");
        }
        if timing.election_max > Duration::from_secs(60) {
            return wrong("--election-max", "at most 60s");
        }
        Ok(timing)
    }

    fn session_timeouts(&self) -> Result<(Duration, Duration, Duration), OptionError> {
        let min = time(self.session_timeout_min, 1000);
        let max = time(self.session_timeout_max, 600_000);
        let default = time(self.session_timeout, 10_000);
        if min < Duration::from_millis(500) {
            return wrong("--session-timeout-min", "at least 500ms");
        }
        if max > Duration::from_secs(86_400) {
            return wrong("--session-timeout-max", "at most 1day");
        }
        if default < min || default > max {
            return wrong(
                "--session-timeout",
                "must be between --session-timeout-min and --session-timeout-max",
            );
        }
        Ok((min, default, max))
    }

    fn limits(&self) -> Result<ServerLimits, OptionError> {
        let frame = size(self.frame_bytes_max, ByteSize::mib(4));
        let value = size(self.value_bytes_max, ByteSize::mib(1));
        let outbox = size(self.outbox_bytes_max, ByteSize::mib(16));
        if !(64 << 10..=12 << 20).contains(&frame) {
            return wrong("--frame-bytes-max", "from 64KiB to 12MiB");
        }
        if value.saturating_add(32 << 10) > frame {
            return wrong("--value-bytes-max", "must be at least 32KiB below --frame-bytes-max");
        }
        let first_request = time(self.first_request_timeout, 10_000);
        if first_request < Duration::from_millis(100) {
            return wrong("--first-request-timeout", "at least 100ms");
        }
        let client_memory = self.client_memory_max;
        if client_memory.is_some_and(|size| size.as_u64() < CLIENT_MEMORY_MIN) {
            return wrong("--client-memory-max", format!("at least {}MiB", CLIENT_MEMORY_MIN >> 20));
        }
        let memory = self.memory_limit;
        if memory.is_some_and(|size| size.as_u64() < MEMORY_LIMIT_MIN) {
            return wrong("--memory-limit", format!("at least {}MiB", MEMORY_LIMIT_MIN >> 20));
        }
        if outbox < frame {
            return wrong("--outbox-bytes-max", "must be at least --frame-bytes-max");
        }
        let count = |option, given: Option<usize>, default, most| match given.unwrap_or(default) {
            0 => wrong(option, "at least 1"),
            n if n > most => wrong(option, format!("at most {most}")),
            n => Ok(n),
        };
        let acl_bytes = size(self.acl_bytes_max, ByteSize::mib(64));
        if !(64 << 10..=1 << 30).contains(&acl_bytes) {
            return wrong("--acl-bytes-max", "from 64KiB to 1GiB");
        }
        let answers_bytes = size(self.answers_bytes_max, ByteSize::mib(256));
        if answers_bytes < 1 << 20 {
            return wrong("--answers-bytes-max", "at least 1MiB");
        }
        let ceilings = Ceilings {
            tree_znodes: count("--tree-znodes-max", self.tree_znodes_max, 5000, 100_000)? as u32,
            ephemerals: count("--ephemerals-max", self.ephemerals_max, 5000, 100_000)? as u32,
            quotas: count("--quotas-max", self.quotas_max, 10_000, 1_000_000)? as u32,
            acl_bytes: acl_bytes as u32,
            ..Ceilings::default()
        };
        Ok(ServerLimits {
            value_bytes: value as usize,
            frame_bytes: frame as usize,
            depth: count("--depth-max", self.depth_max, 128, 2048)?,
            ceilings,
            answers_bytes,
            outstanding: count("--outstanding-max", self.outstanding_max, 1000, 10_000)?,
            sessions: count("--sessions-max", self.sessions_max, 100_000, 10_000_000)?,
            watches: count("--watches-max", self.watches_max, 100_000, 10_000_000)?,
            connections: count("--connections-max", self.connections_max, 20_000, 1_000_000)?,
            connections_per_address: self.connections_per_address_max.unwrap_or(0),
            first_request,
            outbox_bytes: outbox as usize,
            client_memory: client_memory.map(|size| size.as_u64()),
            memory: memory.map(|size| size.as_u64()),
        })
    }
}

fn time(given: Option<Time>, default_ms: u64) -> Duration {
    given.map_or(Duration::from_millis(default_ms), |time| time.0)
}

/// A size as it is read again, to the byte.
fn size_text(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = units.into_iter().find(|(_, bits)| bytes > 0 && bytes.is_multiple_of(1 << bits));
    unit.map_or_else(|| format!("{bytes}B"), |(unit, bits)| format!("{}{unit}", bytes >> bits))
}

fn size(given: Option<ByteSize>, default: ByteSize) -> u64 {
    given.unwrap_or(default).as_u64()
}

/// Splits `HOST:PORT`. The host is a name, an IPv4 address, or an IPv6 address in brackets.
fn host_port(text: &str) -> Result<(&str, u16), String> {
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(format!("{text:?} is not HOST:PORT"));
    };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if bracketed.is_none() && host.contains(':') {
        let is_address = |text: &str| text.parse::<Ipv6Addr>().is_ok();
        let right = match (is_address(host), is_address(text)) {
            (true, _) => format!(", as in [{host}]:{port}"),
            (false, true) => format!(", as in [{text}]:PORT"),
            (false, false) => String::new(),
        };
        return Err(format!("{text:?} is not HOST:PORT; an IPv6 address stands in brackets{right}"));
    }
    let is_host = match bracketed {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => {
            let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
            !host.is_empty() && host.bytes().all(is_allowed)
        }
    };
    match port.parse() {
        Ok(port) if is_host => Ok((host, port)),
        Ok(_) => Err(format!("{text:?} is not HOST:PORT: {host:?} is neither a name nor an address")),
        Err(_) => Err(format!("{text:?} is not HOST:PORT: {port:?} is no port")),
    }
}

fn address(option: &'static str, text: &str) -> Result<SocketAddr, OptionError> {
    use std::net::ToSocketAddrs as _;
    host_port(text).map_err(|cause| OptionError { option, cause })?;
    match text.to_socket_addrs() {
        Ok(mut addresses) => match addresses.next() {
            Some(address) => Ok(address),
            None => wrong(option, format!("{text} has no address")),
        },
        Err(error) => wrong(option, format!("{text}: {error}; expected host:port")),
    }
}

pub(crate) fn parse_ensemble(text: &str) -> Result<BTreeMap<NodeId, Member>, OptionError> {
    let option = "--ensemble";
    let mut members = BTreeMap::new();
    for part in text.split(',') {
        let Some((id, host_port)) = part.trim().split_once('=') else {
            return wrong(option, format!("{part:?} is not ID=HOST:PORT"));
        };
        let Ok(id @ 1..) = id.parse::<NodeId>() else {
            return wrong(option, format!("{id:?} is not an id: a number from 1"));
        };
        match self::host_port(host_port) {
            Ok((_, 0)) => return wrong(option, format!("{host_port:?}: port 0 is no port of a peer")),
            Ok(_) => {}
            Err(cause) => return wrong(option, cause),
        }
        if members.values().any(|member: &Member| member.peer_address == host_port) {
            return wrong(option, format!("{host_port} stands there twice"));
        }
        let member = Member { peer_address: host_port.to_owned(), client_address: String::new() };
        if members.insert(id, member).is_some() {
            return wrong(option, format!("id {id} stands there twice"));
        }
    }
    Ok(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(change: impl FnOnce(&mut GivenOptions)) -> Result<Options, String> {
        let mut given = GivenOptions::default();
        change(&mut given);
        given.check().map_err(|e| e.to_string())
    }

    #[test]
    fn nothing_given_is_a_single_node() {
        let options = given(|_| {}).unwrap();
        assert_eq!((options.id, options.members.len()), (1, 1));
        assert_eq!(options.listen.to_string(), "127.0.0.1:7401");
    }

    #[test]
    fn an_ensemble_is_read() {
        let options = given(|o| {
            o.id = Some(2);
            o.ensemble = Some("1=127.0.0.1:7501,2=127.0.0.1:7502, 3=127.0.0.1:7503".into());
        })
        .unwrap();
        assert_eq!(options.members.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(options.peer_listen.to_string(), "127.0.0.1:7502");
    }

    #[test]
    fn every_wrong_value_is_refused_with_the_name_of_its_option() {
        let time = |text: &str| Some(text.parse().unwrap());
        type Change = Box<dyn FnOnce(&mut GivenOptions)>;
        let wrong: Vec<(&str, Change)> = vec![
            ("--id", Box::new(|o| o.id = Some(0))),
            ("--id", Box::new(|o| (o.id, o.ensemble) = (Some(4), Some("1=a:1,2=b:2".into())))),
            ("--ensemble", Box::new(|o| o.ensemble = Some("1=a".into()))),
            ("--ensemble", Box::new(|o| o.ensemble = Some("a:1".into()))),
            ("--ensemble", Box::new(|o| o.ensemble = Some("0=a:1".into()))),
            ("--ensemble", Box::new(|o| o.ensemble = Some("1=a:1,1=b:1".into()))),
            ("--ensemble", Box::new(|o| o.ensemble = Some("1=a:1,2=a:1".into()))),
            ("--ensemble", Box::new(|o| o.ensemble = Some("1=:1".into()))),
            ("--ensemble", Box::new(|o| o.ensemble = Some("1=a:70000".into()))),
            ("--ensemble", Box::new(|o| o.ensemble = Some("1=a:0".into()))),
            ("--ensemble", Box::new(|o| o.ensemble = Some("1=http://a:1".into()))),
            ("--ensemble", Box::new(|o| o.ensemble = Some(String::new()))),
            ("--listen", Box::new(|o| o.listen = Some(String::new()))),
            ("--announce", Box::new(|o| o.announce = Some(String::new()))),
            ("--peer-listen", Box::new(|o| o.peer_listen = Some(" ".into()))),
            ("--data-dir", Box::new(|o| o.data_dir = Some(PathBuf::new()))),
            ("--log", Box::new(|o| o.log = Some(String::new()))),
            ("--log", Box::new(|o| o.log = Some("inof".into()))),
            ("--log", Box::new(|o| o.log = Some("info,nonsense=bogus".into()))),
            ("--super-digest", Box::new(|o| o.super_digest = Some(String::new()))),
            ("--sweep-interval", Box::new(move |o| o.sweep_interval = time("500000000000years"))),
            ("--listen", Box::new(|o| o.listen = Some("nowhere".into()))),
            (
                "--listen",
                Box::new(|o| {
                    (o.listen, o.peer_listen) = (Some("127.0.0.1:7".into()), Some("127.0.0.1:7".into()))
                }),
            ),
            ("--announce", Box::new(|o| o.announce = Some("10.0.0.1:7400".into()))),
            ("--peer-listen", Box::new(|o| o.peer_listen = Some("x".into()))),
            ("--heartbeat", Box::new(move |o| o.heartbeat = time("1ms"))),
            ("--election-min", Box::new(move |o| o.election_min = time("160ms"))),
            ("--election-min", Box::new(move |o| o.heartbeat = time("500000000000years"))),
            ("--election-max", Box::new(move |o| o.election_max = time("400ms"))),
            ("--election-max", Box::new(move |o| o.election_max = time("2m"))),
            ("--session-timeout-min", Box::new(move |o| o.session_timeout_min = time("1ms"))),
            ("--session-timeout-max", Box::new(move |o| o.session_timeout_max = time("2days"))),
            ("--session-timeout", Box::new(move |o| o.session_timeout = time("11m"))),
            ("--sweep-interval", Box::new(move |o| o.sweep_interval = time("1ms"))),
            ("--value-bytes-max", Box::new(|o| o.value_bytes_max = Some(ByteSize::mib(4)))),
            ("--value-bytes-max", Box::new(|o| o.value_bytes_max = Some(ByteSize::b(u64::MAX)))),
            ("--frame-bytes-max", Box::new(|o| o.frame_bytes_max = Some(ByteSize::mib(13)))),
            ("--outbox-bytes-max", Box::new(|o| o.outbox_bytes_max = Some(ByteSize::mib(1)))),
            ("--outstanding-max", Box::new(|o| o.outstanding_max = Some(0))),
            ("--depth-max", Box::new(|o| o.depth_max = Some(2049))),
            ("--tree-znodes-max", Box::new(|o| o.tree_znodes_max = Some(0))),
            ("--ephemerals-max", Box::new(|o| o.ephemerals_max = Some(100_001))),
            ("--quotas-max", Box::new(|o| o.quotas_max = Some(0))),
            ("--acl-bytes-max", Box::new(|o| o.acl_bytes_max = Some(ByteSize::kib(1)))),
            ("--answers-bytes-max", Box::new(|o| o.answers_bytes_max = Some(ByteSize::kib(1)))),
            ("--sessions-max", Box::new(|o| o.sessions_max = Some(0))),
            ("--watches-max", Box::new(|o| o.watches_max = Some(0))),
            ("--connections-max", Box::new(|o| o.connections_max = Some(0))),
            ("--first-request-timeout", Box::new(move |o| o.first_request_timeout = time("1ms"))),
            ("--client-memory-max", Box::new(|o| o.client_memory_max = Some(ByteSize::kib(1)))),
            ("--memory-limit", Box::new(|o| o.memory_limit = Some(ByteSize::mib(1)))),
            ("--snapshot-log-bytes", Box::new(|o| o.snapshot_log_bytes = Some(ByteSize::kib(1)))),
            ("--super-digest", Box::new(|o| o.super_digest = Some("secret".into()))),
        ];
        for (option, change) in wrong {
            let message = given(change).expect_err(option);
            assert!(message.starts_with(&format!("{option}: ")), "{option}: {message}");
        }
    }

    #[test]
    fn a_file_says_the_same_as_the_command_line() {
        let file: GivenOptions = toml::from_str(
            "id = 3\nensemble = \"1=a:1,2=b:1,3=127.0.0.1:1\"\nheartbeat = \"100ms\"\nvalue-bytes-max = \"2MiB\"\n\
             log-format = \"json\"",
        )
        .unwrap();
        let command_line =
            GivenOptions { heartbeat: Some("120ms".parse().unwrap()), ..GivenOptions::default() };
        let options = command_line.or(file).check().unwrap();
        assert_eq!(
            (options.id, options.timing.heartbeat.as_millis()),
            (3, 120),
            "the command line comes first"
        );
        assert_eq!((options.limits.value_bytes, options.log_format), (2 << 20, LogFormat::Json));
    }

    /// What `config check` prints is a file with the same meaning, whatever is given.
    #[test]
    fn printed_options_are_read_again() {
        let reference = include_str!("../../../config/coordd.toml");
        let options = |line: &str| {
            let line =
                line.strip_prefix('#').filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()));
            line.map(str::to_owned)
        };
        let reference: Vec<String> = reference.lines().filter_map(options).collect();
        for text in [
            "",
            "id = 2\nensemble = \"1=[::1]:7501, 2=localhost:7502\"\nlisten = \"localhost:7401\"\nlog = \"warn,h2=off\"",
            "value-bytes-max = \"1000001B\"\nheartbeat = \"1s 7ms\"\nelection-min = \"3s\"\nelection-max = \"1m\"",
            "data-dir = \"/with \\\"quotes\\\"\"\nsuper-digest = \"a:b\"\nlog-format = \"json\"\nkeep-log-bytes = \"0B\"",
            &reference.join("\n"),
        ] {
            let given = GivenOptions::from_text(text).unwrap();
            let checked = given.clone().check().unwrap();
            let printed = given.in_force(&checked).to_toml();
            let again = GivenOptions::from_text(&printed).unwrap();
            let checked_again = again.clone().check().unwrap();
            assert_eq!(format!("{checked_again:?}"), format!("{checked:?}"), "{printed}");
            assert_eq!(again.in_force(&checked_again).to_toml(), printed);
        }
    }

    /// An IPv6 address without brackets is refused with the form that is right.
    #[test]
    fn bare_ipv6_address_is_refused() {
        for (text, right) in [
            ("::1:17421", "[::1]:17421"),
            ("::1", "[::1]:PORT"),
            ("fe80::2:7401", "[fe80::2]:7401"),
            ("2001:db8::1", "[2001:db8::1]:PORT"),
        ] {
            let refused = [
                given(|o| o.listen = Some(text.into())).unwrap_err(),
                given(|o| o.peer_listen = Some(text.into())).unwrap_err(),
                given(|o| o.ensemble = Some(format!("1={text},2=[::1]:7502"))).unwrap_err(),
            ];
            for message in refused {
                assert!(message.contains(right) || message.contains("in brackets"), "{message}");
                assert!(text != "::1:17421" || message.contains(right), "{message}");
            }
        }
        assert!(given(|o| o.listen = Some("[::1]:7401".into())).is_ok());
    }

    /// An even number of nodes is allowed, and seldom meant.
    #[test]
    fn even_number_is_warned_about() {
        let warnings = |ensemble: &str| given(|o| o.ensemble = Some(ensemble.into())).unwrap().warnings();
        assert!(warnings("1=127.0.0.1:1,2=127.0.0.1:2")[0].contains("even number of nodes"));
        assert!(warnings("1=127.0.0.1:1,2=127.0.0.1:2,3=127.0.0.1:3").is_empty());
        assert!(given(|_| {}).unwrap().warnings().is_empty());
    }

    #[test]
    fn a_file_with_an_unknown_option_is_refused() {
        let error = toml::from_str::<GivenOptions>("ensembel = \"\"").unwrap_err().to_string();
        assert!(error.contains("unknown field `ensembel`"), "{error}");
    }
}
