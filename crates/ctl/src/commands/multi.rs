use std::fmt;
use std::io::Read as _;
use std::path::PathBuf;

use clap::{Args, CommandFactory as _, Parser};
use coordd_client::{Check, CreateOptions, MultiResult};
use coordd_process::plain;
use serde::Serialize;

use super::create::Kind;
use crate::cli::with_tip;
use crate::context::Context;
use crate::exit::Failure;
use crate::guard::EpochArg;
use crate::output::StatOutput;
use crate::words;

const FORMAT: &str = "\
The file has one operation a line:
  create PATH [DATA] [--mode MODE] [--ttl DURATION] [--parents]
  set PATH DATA [--version N]
  delete PATH [--version N]
  check PATH [--version N | --epoch CZXID[@ENSEMBLE] | --absent]
Words are quoted as in a shell; # begins a comment; DATA that begins with a hyphen, other than a number, stands behind --.
A check without a condition says that the znode exists.";

/// Carries out several writes, all or none.
#[derive(Args, Debug)]
#[command(after_help = FORMAT)]
pub(crate) struct Multi {
    /// The file with the operations; `-` is the standard input.
    file: PathBuf,
}

/// One line of the file.
#[derive(Parser, Debug)]
#[command(no_binary_name = true, disable_help_flag = true, disable_help_subcommand = true)]
enum Line {
    Create {
        path: String,
        #[arg(default_value = "", allow_negative_numbers = true)]
        data: String,
        #[command(flatten)]
        kind: Kind,
        #[arg(short, long)]
        parents: bool,
    },
    Set {
        path: String,
        #[arg(allow_negative_numbers = true)]
        data: String,
        #[arg(long)]
        version: Option<i32>,
    },
    Delete {
        path: String,
        #[arg(long)]
        version: Option<i32>,
    },
    Check {
        path: String,
        #[arg(long, conflicts_with_all = ["epoch", "absent"])]
        version: Option<i32>,
        #[arg(long, conflicts_with = "absent")]
        epoch: Option<EpochArg>,
        #[arg(long)]
        absent: bool,
    },
}

#[derive(Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
enum OpOutput {
    Create { path: String, stat: StatOutput },
    Delete,
    Set { version: i32, stat: StatOutput },
    Check,
}

#[derive(Serialize)]
struct MultiOutput {
    results: Vec<OpOutput>,
}

impl From<MultiResult> for OpOutput {
    fn from(result: MultiResult) -> Self {
        match result {
            MultiResult::Create(created) => {
                OpOutput::Create { path: created.path, stat: created.stat.into() }
            }
            MultiResult::Delete => OpOutput::Delete,
            MultiResult::Set(stat) => OpOutput::Set { version: stat.version, stat: stat.into() },
            MultiResult::Check => OpOutput::Check,
        }
    }
}

impl fmt::Display for MultiOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for result in &self.results {
            match result {
                OpOutput::Create { path, .. } => writeln!(f, "created {}", plain(path))?,
                OpOutput::Delete => writeln!(f, "deleted")?,
                OpOutput::Set { version, .. } => writeln!(f, "version {version}")?,
                OpOutput::Check => writeln!(f, "holds")?,
            }
        }
        Ok(())
    }
}

impl Multi {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let lines = parse(&self.read()?)?;
        let client = context.writer().await?;
        let mut multi = client.multi();
        for line in lines {
            multi = match line {
                Line::Create { path, data, kind, parents } => {
                    multi.create(path, data, CreateOptions::new(kind.mode()?).parents(parents))
                }
                Line::Set { path, data, version } => multi.set(path, data, version),
                Line::Delete { path, version } => multi.delete(path, version),
                Line::Check { path, epoch: Some(epoch), .. } => multi.check(epoch.check(&path)),
                Line::Check { path, version: Some(version), .. } => {
                    multi.check(Check::version(path, version))
                }
                Line::Check { path, absent: true, .. } => multi.check(Check::absent(path)),
                Line::Check { path, .. } => multi.check(Check::exists(path)),
            };
        }
        let results = context.answer(multi.commit()).await?;
        let results = results.into_iter().map(OpOutput::from).collect();
        context.output().result(&MultiOutput { results })
    }

    fn read(&self) -> Result<String, Failure> {
        if self.file.as_os_str() != "-" {
            let what = || format!("reading {}", self.file.display());
            return std::fs::read_to_string(&self.file).map_err(|error| Failure::io(what(), error));
        }
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .map(|_| text)
            .map_err(|error| Failure::io("reading the standard input", error))
    }
}

fn parse(text: &str) -> Result<Vec<Line>, Failure> {
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let wrong = |cause: String| Failure::Usage(format!("line {}: {}", index + 1, cause.trim_end()));
        let words = words::split(line).map_err(wrong)?;
        if !words.is_empty() {
            let line = Line::try_parse_from(words).map_err(|error| with_tip(error, &Line::command()));
            lines.push(line.map_err(|error| wrong(error.to_string()))?);
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_operations_comments_and_empty_lines() {
        let text =
            "# a comment\n\ncreate /a 'b c' --mode ephemeral\nset /a -1 --version 2\ncheck /b --absent\n";
        let lines = parse(text).unwrap();
        assert!(matches!(&lines[0], Line::Create { data, .. } if data == "b c"));
        assert!(matches!(&lines[1], Line::Set { data, version: Some(2), .. } if data == "-1"));
        assert!(matches!(&lines[2], Line::Check { absent: true, .. }));
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn a_wrong_line_is_named() {
        for text in
            ["create /a\nfrobnicate /a", "create /a\nset /a", "create /a\ncheck /a --absent --epoch 1"]
        {
            let failure = parse(text).unwrap_err();
            assert!(failure.to_string().starts_with("line 2: "), "{failure}");
            assert_eq!(failure.exit_code(), 2);
        }
    }
}
