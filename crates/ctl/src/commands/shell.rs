use std::io::IsTerminal as _;

use clap::{Args, Parser};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Editor};
use tokio::runtime::Handle;

use crate::cli::Command;
use crate::context::Context;
use crate::exit::Failure;
use crate::history::history_path;
use crate::path_completion::PathCompletion;
use crate::words;

/// Reads commands line by line and carries them out in one session, so that ephemeral znodes live until the end.
///
/// On a terminal: history over runs, and completion of commands and paths with the tab key. Otherwise the first command
/// that fails ends it, and its exit code is the shell's.
#[derive(Args, Debug)]
pub(crate) struct Shell {}

/// A line is a command without the program's name.
#[derive(Parser, Debug)]
#[command(no_binary_name = true, name = "", disable_version_flag = true)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

enum Next {
    Line(String),
    /// The line was given up with Ctrl-C.
    Nothing,
    End,
}

impl Shell {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        if context.in_shell {
            return Err(Failure::Usage("this is the shell".into()));
        }
        let interactive = std::io::stdin().is_terminal();
        let mut shell = Context::for_shell(context.options.clone());
        // Opened before the first line, so that completion works and a wrong endpoint shows at once.
        let client = shell.client().await?.clone();
        let mut editor = editor(PathCompletion::new(client, Handle::current()))?;
        let result = loop {
            let line = match tokio::task::block_in_place(|| read_line(&mut editor))? {
                Next::Line(line) => line,
                Next::Nothing => continue,
                Next::End => break Ok(()),
            };
            if line.trim() == "exit" || line.trim() == "quit" {
                break Ok(());
            }
            if let Err(failure) = carry_out(&line, &shell).await {
                if !interactive {
                    break Err(failure);
                }
                shell.output().failure(&failure);
            }
            if interactive && shell.client().await?.state().is_terminal() {
                eprintln!("the session has ended; opening another");
                shell = Context::for_shell(context.options.clone());
                let client = shell.client().await?.clone();
                editor.set_helper(Some(PathCompletion::new(client, Handle::current())));
            }
        };
        shell.close().await;
        if interactive {
            save_history(&mut editor)?;
        }
        result
    }
}

async fn carry_out(line: &str, shell: &Context) -> Result<(), Failure> {
    let words = words::split(line).map_err(Failure::Usage)?;
    if words.is_empty() {
        return Ok(());
    }
    match Line::try_parse_from(words) {
        Ok(line) => line.command.run(shell).await,
        // Asked for, not an error.
        Err(help) if !help.use_stderr() => shell.output().line(help.to_string().trim_end()),
        Err(error) => {
            let text = error.to_string();
            Err(Failure::Usage(text.trim_end().trim_start_matches("error: ").to_owned()))
        }
    }
}

type ShellEditor = Editor<PathCompletion, FileHistory>;

fn editor(completion: PathCompletion) -> Result<ShellEditor, Failure> {
    let config = Config::builder()
        .completion_type(CompletionType::List)
        // A value may be a secret: a line that begins with a blank is not remembered.
        .history_ignore_space(true)
        .auto_add_history(true)
        .build();
    let mut editor =
        Editor::with_config(config).map_err(|error| readline_failed("opening the terminal", error))?;
    editor.set_helper(Some(completion));
    if let Some(path) = history_path().filter(|path| path.exists()) {
        // Old lines are a convenience: without them the shell works as well.
        if let Err(error) = editor.load_history(&path) {
            eprintln!("coordctl: the history {} cannot be read: {error}", path.display());
        }
    }
    Ok(editor)
}

fn read_line(editor: &mut ShellEditor) -> Result<Next, Failure> {
    match editor.readline("coordctl> ") {
        Ok(line) => Ok(Next::Line(line)),
        Err(ReadlineError::Interrupted) => Ok(Next::Nothing),
        Err(ReadlineError::Eof) => Ok(Next::End),
        Err(error) => Err(readline_failed("reading a line", error)),
    }
}

fn save_history(editor: &mut ShellEditor) -> Result<(), Failure> {
    let Some(path) = history_path() else { return Ok(()) };
    let failed = |error| Failure::io(format!("writing {}", path.display()), error);
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(failed)?;
    }
    editor.save_history(&path).map_err(|error| readline_failed("writing the history", error))
}

fn readline_failed(what: &str, error: ReadlineError) -> Failure {
    let error = match error {
        ReadlineError::Io(error) => error,
        other => std::io::Error::other(other),
    };
    Failure::io(what, error)
}
