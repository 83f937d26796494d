//! The runner of the golden scripts.
//!
//! Writes, each applied in an entry of its own:
//!
//!     create PATH [DATA] [mode=MODE] [ttl=MS] [acl=ACL] [parents=true]
//!     delete PATH [VERSION]            set PATH DATA [VERSION]          set_acl PATH ACL [VERSION]
//!     delete_tree PATH [COUNT]         set_quota PATH LIMIT=N...        delete_quota PATH
//!     multi "OP"...                    close session=ID                 refused
//!
//! An OP is `create PATH [DATA] [MODE]`, `delete PATH [VERSION]`, `set PATH DATA [VERSION]`, or `check` followed by
//! a condition. A condition is `PATH version N`, `PATH epoch N` or `PATH absent`.
//! All writes take `generation=N` and `ceilings=NAME:N[,NAME:N]` (the others are the default ones), `session=ID` (they are numbered as they come, unless `seq=N` says otherwise), `acked=N`,
//! `auth=super|USER[,USER]` (the password is always `secret`), `ip=ADDRESS`, and `guard="CONDITION[;CONDITION]"`.
//! An ACL is `PERMS:SCHEME:ID[,...]` with PERMS of the letters `rwcda`; `PERMS:digest:USER` stands for the hash.
//!
//! Other commands:
//!
//!     open ID [timeout=MS] [name=NAME] [password=BYTE]
//!     end ID [killed|expired]          expire [PATH CZXID]              (without arguments: all that are due)
//!     attach ID                        another stream takes the session
//!     sweep UNUSED_MS                  as expire; containers that never had a child go after so long
//!     at MS                            the leader's clock from now on
//!     rules N                          what entries are stamped with from now on
//!     send NODE INCARNATION SEQ COUNT  a batch of COUNT commands that do nothing, from another origin
//!     restart                          go on with the tree as loaded from a snapshot
//!
//! Reads, which take `auth` and `ip` too: `get PATH`, `stat PATH`, `ls PATH [after=NAME] [limit=N] [stats=true]`,
//! `get_acl PATH`, `count PATH`, `quota PATH`, `quotas [AFTER]`, `ephemerals ID [PREFIX]`, `session ID`, `ended ID`, `sessions`,
//! `outcome ID SEQ`, `due [LIMIT]`, `history FROM`, `taken NODE`, `status`.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use coordd_tree::{
    Applied, Command, CreateMode, Data, EndReason, ErrorKind, Event, OpError, OpResult, OpenSession, Origin,
    Outcome, Refusal, Stat, Write, WriteOp,
};
use goldenscript::{ArgumentConsumer, Context};

use crate::driver::{Driver, entry, reload};
use crate::script_args::{
    format_acl, optional, parse_acl, parse_auth, parse_bounds, parse_check, parse_create, parse_op,
    parse_quota, required,
};

/// One test per directory of scripts, so that a failure names what it is about.
macro_rules! scripts {
    ($($directory:ident),* $(,)?) => {$(
        #[test]
        fn $directory() {
            run_all(stringify!($directory));
        }
    )*};
}

scripts! {
    acl, ceiling, check, create, delete, delete_tree, expire, guard, history, multi, origin, quota, read, rules, session,
    set_acl, set_data, write,
}

fn run_all(directory: &str) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts").join(directory);
    let mut scripts: Vec<_> = std::fs::read_dir(&directory)
        .expect("a directory of scripts")
        .map(|entry| entry.expect("a readable directory").path())
        .collect();
    scripts.sort();
    assert!(!scripts.is_empty(), "no scripts in {}", directory.display());
    for script in scripts {
        goldenscript::run(&mut Runner::default(), &script).expect("a script that can be read");
    }
}

#[derive(Default)]
struct Runner {
    driver: Driver,
    /// The number of each session's last write.
    seqs: BTreeMap<u64, u64>,
}

impl goldenscript::Runner for Runner {
    type Command = goldenscript::Command;

    fn run(&mut self, command: &goldenscript::Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let mut output = String::new();
        match command.name.as_str() {
            "at" => self.driver.now_ms = required(&mut args, "MS")?.parse()?,
            "rules" => self.driver.rules = required(&mut args, "N")?.parse()?,
            "restart" => self.driver.restart(),
            "send" => self.send(&mut args, &mut output)?,
            "open" | "end" | "expire" | "attach" | "sweep" => {
                let command = self.internal(&command.name, &mut args)?;
                show_applied(&self.driver.apply(command), &mut output)?;
            }
            "create" | "delete" | "set" | "set_acl" | "delete_tree" | "set_quota" | "delete_quota"
            | "multi" | "close" | "refused" => {
                let bounds = parse_bounds(&mut args)?;
                let write = self.write(&command.name, &mut args)?;
                let command = match bounds {
                    Some(bounds) => Command::Bounded(write, bounds),
                    None => Command::Write(write),
                };
                show_applied(&self.driver.apply(command), &mut output)?;
            }
            name => match self.read(name, &mut args, &mut output)? {
                Ok(()) => {}
                Err(refused) => writeln!(output, "{refused}")?,
            },
        }
        args.reject_next()?;
        Ok(output)
    }

    fn end_script(&mut self) -> Result<(), Box<dyn Error>> {
        reload(&self.driver.tree);
        Ok(())
    }
}

impl Runner {
    fn write<'a>(
        &mut self,
        name: &str,
        args: &mut ArgumentConsumer<'a>,
    ) -> Result<Write<'a>, Box<dyn Error>> {
        let session: u64 = optional(args, "session")?.unwrap_or(0);
        let last = self.seqs.get(&session).copied().unwrap_or(0);
        let seq: u64 = optional(args, "seq")?.unwrap_or(if session == 0 { 0 } else { last + 1 });
        if session != 0 {
            self.seqs.insert(session, last.max(seq));
        }
        let acked = optional(args, "acked")?.unwrap_or(0);
        let auth = parse_auth(args)?;
        let mut guards = Vec::new();
        for guard in args.take_key("guard").into_iter().flat_map(|guards| guards.split(';')) {
            guards.push(parse_check(&guard.split_whitespace().collect::<Vec<_>>())?);
        }
        let version = |args: &mut ArgumentConsumer<'_>| args.next_pos().map_or(Ok(-1), str::parse::<i32>);
        let op = match name {
            "create" => WriteOp::Create(parse_create(args)?),
            "delete" => WriteOp::Delete { path: required(args, "PATH")?.into(), version: version(args)? },
            "set" => WriteOp::SetData {
                path: required(args, "PATH")?.into(),
                data: Data::Borrowed(required(args, "DATA")?.as_bytes()),
                version: version(args)?,
            },
            "set_acl" => WriteOp::SetAcl {
                path: required(args, "PATH")?.into(),
                acl: parse_acl(required(args, "ACL")?)?,
                version: version(args)?,
            },
            "delete_tree" => WriteOp::DeleteTree {
                path: required(args, "PATH")?.into(),
                expected_count: args.next_pos().map(str::parse).transpose()?,
            },
            "set_quota" => {
                WriteOp::SetQuota { path: required(args, "PATH")?.into(), quota: parse_quota(args)? }
            }
            "delete_quota" => WriteOp::DeleteQuota { path: required(args, "PATH")?.into() },
            "close" => WriteOp::CloseSession,
            "refused" => WriteOp::Refused(Refusal {
                kind: ErrorKind::BadArguments,
                path: "/a".to_owned(),
                op_index: None,
                message: "value_bytes: 9 is above the limit".to_owned(),
            }),
            _ => {
                let mut ops = Vec::new();
                while let Some(op) = args.next_pos() {
                    ops.push(parse_op(op)?);
                }
                WriteOp::Multi(ops)
            }
        };
        Ok(Write { session, seq, acked, auth, guards, op })
    }

    fn internal(
        &self,
        name: &str,
        args: &mut ArgumentConsumer<'_>,
    ) -> Result<Command<'static>, Box<dyn Error>> {
        Ok(match name {
            "open" => Command::OpenSession(OpenSession {
                session: required(args, "ID")?.parse()?,
                password: [optional(args, "password")?.unwrap_or(0); 16],
                timeout_ms: optional(args, "timeout")?.unwrap_or(10_000),
                client_name: optional(args, "name")?.unwrap_or_else(|| "client".to_owned()),
            }),
            "end" => Command::EndSession {
                session: required(args, "ID")?.parse()?,
                reason: match args.next_pos() {
                    None | Some("expired") => EndReason::Expired { silent_ms: 10_000, term: 3, last_node: 2 },
                    Some(by) => EndReason::Killed { by: by.to_owned() },
                },
            },
            "attach" => Command::Attach { session: required(args, "ID")?.parse()? },
            "sweep" => {
                let unused_ms = required(args, "UNUSED_MS")?.parse()?;
                let (tree, now_ms) = (&self.driver.tree, self.driver.now_ms);
                let candidates = tree.expired_znodes(now_ms, Some(unused_ms), usize::MAX);
                Command::Sweep { candidates, unused_ms }
            }
            _ => Command::ExpireZnodes(match args.next_pos() {
                Some(path) => vec![(path.to_owned(), required(args, "CZXID")?.parse()?)],
                None => self.driver.tree.expired_znodes(self.driver.now_ms, None, usize::MAX),
            }),
        })
    }

    fn send(&mut self, args: &mut ArgumentConsumer<'_>, output: &mut String) -> Result<(), Box<dyn Error>> {
        let origin = Origin {
            node: required(args, "NODE")?.parse()?,
            incarnation: required(args, "INCARNATION")?.parse()?,
        };
        let first_seq: u64 = required(args, "SEQ")?.parse()?;
        let count: usize = required(args, "COUNT")?.parse()?;
        let commands = vec![Command::ExpireZnodes(vec![]); count];
        let applied = self.driver.apply_entry(&entry(self.driver.now_ms, origin, first_seq, commands));
        let zxids: Vec<_> = applied.iter().map(|applied| applied.zxid).collect();
        writeln!(output, "took {} of {count} as {zxids:?}", zxids.len())?;
        Ok(())
    }

    fn read(
        &self,
        name: &str,
        args: &mut ArgumentConsumer<'_>,
        out: &mut String,
    ) -> Result<Result<(), OpError>, Box<dyn Error>> {
        let tree = &self.driver.tree;
        let auth = parse_auth(args)?;
        match name {
            "get" => match tree.get(required(args, "PATH")?, &auth) {
                Ok((data, stat)) => {
                    writeln!(out, "{:?} version={}", String::from_utf8_lossy(&data), stat.version)?;
                }
                Err(refused) => return Ok(Err(refused)),
            },
            "stat" => match tree.exists(required(args, "PATH")?) {
                Ok(Some(stat)) => writeln!(out, "{}", show_stat(&stat))?,
                Ok(None) => writeln!(out, "none")?,
                Err(refused) => return Ok(Err(refused)),
            },
            "ls" => {
                let after: Option<String> = optional(args, "after")?;
                let limit = optional(args, "limit")?.unwrap_or(usize::MAX);
                let stats = optional(args, "stats")?.unwrap_or(false);
                match tree.children(required(args, "PATH")?, &auth, after.as_deref(), limit, stats) {
                    Ok(page) => {
                        for child in &page.children {
                            match &child.stat {
                                Some(stat) => writeln!(out, "{} {}", child.name, show_stat(stat))?,
                                None => writeln!(out, "{}", child.name)?,
                            }
                        }
                        let (total, more) = (page.stat.num_children, page.more);
                        writeln!(out, "{} of {total} more={more}", page.children.len())?;
                    }
                    Err(refused) => return Ok(Err(refused)),
                }
            }
            "get_acl" => match tree.acl(required(args, "PATH")?, &auth) {
                Ok((acl, stat)) => writeln!(out, "{} aversion={}", format_acl(&acl), stat.aversion)?,
                Err(refused) => return Ok(Err(refused)),
            },
            "count" => match tree.descendant_count(required(args, "PATH")?, &auth) {
                Ok(count) => writeln!(out, "{count}")?,
                Err(refused) => return Ok(Err(refused)),
            },
            "quota" => match tree.quota(required(args, "PATH")?) {
                Ok(report) => writeln!(
                    out,
                    "count={} bytes={} exceeded_soft={}",
                    report.count, report.bytes, report.exceeded_soft
                )?,
                Err(refused) => return Ok(Err(refused)),
            },
            "quotas" => {
                for (path, report) in tree.quotas(args.next_pos().unwrap_or("")) {
                    writeln!(out, "{path} count={} bytes={}", report.count, report.bytes)?;
                }
            }
            _ => self.read_sessions(name, args, out)?,
        }
        Ok(Ok(()))
    }

    fn read_sessions(
        &self,
        name: &str,
        args: &mut ArgumentConsumer<'_>,
        out: &mut String,
    ) -> Result<(), Box<dyn Error>> {
        let tree = &self.driver.tree;
        match name {
            "ephemerals" => {
                let id = required(args, "ID")?.parse()?;
                writeln!(out, "{:?}", tree.ephemerals(id, args.next_pos().unwrap_or("/")))?;
            }
            "session" => match tree.session(required(args, "ID")?.parse()?) {
                Some(session) => writeln!(
                    out,
                    "{} timeout={} opened={}@{} last_seq={} acked={} unacknowledged={} ephemerals={}",
                    session.client_name(),
                    session.timeout_ms(),
                    session.opened_zxid(),
                    session.opened_ms(),
                    session.last_seq(),
                    session.acked(),
                    session.unacknowledged(),
                    session.ephemeral_count()
                )?,
                None => writeln!(out, "none")?,
            },
            "ended" => match tree.ended_session(required(args, "ID")?.parse()?) {
                Some(ended) => writeln!(
                    out,
                    "{}: {}; zxid={} at={} last_seq={} acked={}",
                    ended.client_name, ended.reason, ended.zxid, ended.ended_ms, ended.last_seq, ended.acked
                )?,
                None => writeln!(out, "none")?,
            },
            "sessions" => {
                let ids: Vec<_> = tree.sessions().map(|session| session.id()).collect();
                writeln!(out, "{ids:?} of {}", tree.session_count())?;
            }
            "outcome" => {
                let id = required(args, "ID")?.parse()?;
                writeln!(out, "{:?}", tree.outcome(id, required(args, "SEQ")?.parse()?))?;
            }
            "due" => {
                let limit = args.next_pos().map_or(Ok(usize::MAX), str::parse)?;
                writeln!(out, "{:?}", tree.expired_znodes(self.driver.now_ms, None, limit))?;
            }
            "history" => match tree.history_since(required(args, "FROM")?.parse()?) {
                Some(events) => events.for_each(|event| show_event(event, out)),
                None => writeln!(out, "gone")?,
            },
            "taken" => writeln!(out, "{:?}", tree.taken(required(args, "NODE")?.parse()?))?,
            "status" => writeln!(
                out,
                "zxid={} time={} znodes={} data_bytes={} history_start={}",
                tree.last_zxid(),
                tree.time_ms(),
                tree.znode_count(),
                tree.data_bytes(),
                tree.history_start()
            )?,
            name => return Err(format!("unknown command {name}").into()),
        }
        Ok(())
    }
}

fn show_applied(applied: &Applied, out: &mut String) -> std::fmt::Result {
    writeln!(out, "{} {}", applied.zxid, show_result(&applied.result))?;
    applied.events.iter().for_each(|event| show_event(event, out));
    if let Some(session) = applied.attached {
        writeln!(out, "  session {session} attached")?;
    }
    if let Some(session) = applied.ended {
        writeln!(out, "  session {session} ended")?;
    }
    Ok(())
}

fn show_event(event: &Event, out: &mut String) {
    writeln!(out, "  {} {:?} {}", event.zxid, event.kind, event.path).expect("a string takes anything");
}

fn show_result(result: &OpResult) -> String {
    match result {
        Ok(outcome) => show_outcome(outcome),
        Err(refused) => {
            let op = refused.op_index.map_or(String::new(), |index| format!("op {index}: "));
            format!("{op}{refused}")
        }
    }
}

fn show_outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Created { path, stat } => format!("created {path} czxid={}", stat.czxid),
        Outcome::DataSet(stat) => format!("set version={} length={}", stat.version, stat.data_length),
        Outcome::AclSet(stat) => format!("acl set aversion={}", stat.aversion),
        Outcome::Multi(outcomes) => {
            let outcomes: Vec<_> = outcomes.iter().map(show_outcome).collect();
            format!("multi [{}]", outcomes.join(", "))
        }
        Outcome::Deleted
        | Outcome::Checked
        | Outcome::TreeDeleted(_)
        | Outcome::QuotaSet
        | Outcome::QuotaDeleted
        | Outcome::SessionOpened
        | Outcome::SessionAttached
        | Outcome::SessionEnded(_)
        | Outcome::ZnodesExpired(_) => format!("{outcome:?}"),
    }
}

fn show_stat(stat: &Stat) -> String {
    format!(
        "czxid={} mzxid={} ctime={} mtime={} version={} cversion={} aversion={} owner={} length={} children={} pzxid={}",
        stat.czxid,
        stat.mzxid,
        stat.ctime,
        stat.mtime,
        stat.version,
        stat.cversion,
        stat.aversion,
        stat.ephemeral_owner,
        stat.data_length,
        stat.num_children,
        stat.pzxid
    )
}

/// The modes by their names in scripts.
pub(crate) fn parse_mode(mode: &str) -> Result<CreateMode, Box<dyn Error>> {
    Ok(match mode {
        "persistent" => CreateMode::Persistent,
        "ephemeral" => CreateMode::Ephemeral,
        "sequential" => CreateMode::PersistentSequential,
        "ephemeral_sequential" => CreateMode::EphemeralSequential,
        "container" => CreateMode::Container,
        "ttl" => CreateMode::PersistentWithTtl,
        "ttl_sequential" => CreateMode::PersistentSequentialWithTtl,
        mode => return Err(format!("unknown mode {mode}").into()),
    })
}
