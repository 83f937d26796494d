use std::time::Duration;

use clap::CommandFactory as _;
use coordd_client::{Client, ListOptions, ReadLevel};
use coordd_process::is_printable;
use rustyline::completion::{Completer, Pair};
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper};
use tokio::runtime::Handle;

use crate::cli::Cli;

/// Completes the first word of a line to a command and every word that begins with "/" to a path that exists.
pub(crate) struct PathCompletion {
    client: Client,
    runtime: Handle,
    commands: Vec<String>,
}

/// A person waits for this with a finger on the key.
const PATIENCE: Duration = Duration::from_millis(500);
/// More are of no use on a screen.
const CANDIDATES_MAX: u32 = 200;

impl PathCompletion {
    pub(crate) fn new(client: Client, runtime: Handle) -> Self {
        let commands =
            Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect();
        Self { client, runtime, commands }
    }

    /// The children of the written parent whose names begin as written.
    fn paths(&self, word: &str) -> Vec<String> {
        let Some((parent, prefix)) = word.rsplit_once('/') else { return Vec::new() };
        let path = if parent.is_empty() { "/" } else { parent };
        let options = ListOptions { after: before(prefix), limit: CANDIDATES_MAX, with_stat: false };
        let listing = tokio::time::timeout(PATIENCE, self.client.list_page(path, ReadLevel::Local, options));
        match self.runtime.block_on(listing) {
            Ok(Ok(page)) => page
                .children
                .into_iter()
                // What a terminal would obey is not put on its line.
                .filter(|child| child.name.starts_with(prefix) && child.name.chars().all(is_printable))
                .map(|child| format!("{parent}/{}", child.name))
                .collect(),
            // No completion is the answer to a parent that is not there, and to an ensemble that is slow.
            Ok(Err(_)) | Err(_) => Vec::new(),
        }
    }
}

/// A name that sorts before all that begin with `prefix`, and after nearly all that sort before them: pages begin behind
/// a name, so with the prefix itself a child of just that name would be left out.
fn before(prefix: &str) -> String {
    let mut chars = prefix.chars();
    let Some(last) = chars.next_back() else { return String::new() };
    let previous = (1..=u32::from(last)).rev().skip(1).find_map(char::from_u32);
    let mut before: String = chars.collect();
    if let Some(previous) = previous {
        before.extend([previous, char::MAX]);
    }
    before
}

impl Completer for PathCompletion {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let start = line[..pos].rfind(char::is_whitespace).map_or(0, |blank| blank + 1);
        let word = &line[start..pos];
        let candidates = if line[..start].trim().is_empty() {
            let fitting = self.commands.iter().filter(|command| command.starts_with(word));
            fitting.map(|command| format!("{command} ")).collect()
        } else {
            self.paths(word)
        };
        let pair = |text: String| Pair { display: text.clone(), replacement: text };
        Ok((start, candidates.into_iter().map(pair).collect()))
    }
}

impl Hinter for PathCompletion {
    type Hint = String;
}
impl Highlighter for PathCompletion {}
impl Validator for PathCompletion {}
impl Helper for PathCompletion {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_begins_before_the_prefix() {
        for prefix in ["b", "node-1", "\u{e000}", "é"] {
            let after = before(prefix);
            assert!(after.as_str() < prefix, "{prefix}");
        }
        assert_eq!(before(""), "");
        assert!(before("node-1").as_str() > "node-0999", "the page is not filled with what does not match");
    }
}
