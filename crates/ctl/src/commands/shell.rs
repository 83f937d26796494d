use std::io::IsTerminal as _;
use std::sync::Arc;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser};
use rustix::process::Signal;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Editor};
use tokio::runtime::Handle;

use crate::cli::{Command, with_tip, without_empty_variables};
use crate::context::Context;
use crate::exit::Failure;
use crate::history::history_path;
use crate::interrupt::EndSignals;
use crate::notes::note;
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
        // A signal ends the command that runs, or the wait for the next line.
        context.interrupts.are_taken();
        let mut shell = Arc::new(Context::for_shell(context.options.clone()));
        let result = lines(context, &mut shell).await;
        shell.close().await;
        result
    }
}

async fn lines(context: &Context, shell: &mut Arc<Context>) -> Result<(), Failure> {
    let interactive = std::io::stdin().is_terminal();
    let mut signals = EndSignals::new();
    // Opened before the first line, so that completion works and a wrong endpoint shows at once.
    let client = tokio::select! {
        client = shell.client() => client?.clone(),
        signal = signals.next() => return Err(Failure::ended_by(signal)),
    };
    let terminal = tcgetattr(std::io::stdin()).ok();
    let mut editor = editor(PathCompletion::new(client, Handle::current()))?;
    loop {
        // On a thread of its own, which a signal leaves behind.
        let reading = tokio::task::spawn_blocking(move || {
            let line = read_line(&mut editor);
            (editor, line)
        });
        let line = tokio::select! {
            read = reading => {
                let line;
                (editor, line) = read.map_err(|error| Failure::io("reading a line", std::io::Error::other(error)))?;
                line?
            }
            signal = signals.next() => {
                restore(terminal.as_ref());
                return Err(Failure::ended_by(signal));
            }
        };
        let line = match line {
            Next::Line(line) => line,
            Next::Nothing => continue,
            Next::End => break,
        };
        if line.trim() == "exit" || line.trim() == "quit" {
            break;
        }
        if let Err(failure) = carry_out(&line, shell).await {
            let is_ended = !interactive || ends_the_shell(&failure);
            if is_ended {
                return Err(failure);
            }
            shell.output().failure(&failure);
        }
        // What was meant for the command is done with.
        signals = EndSignals::new();
        if interactive && shell.client().await?.state().is_terminal() {
            note!("the session has ended; opening another");
            *shell = Arc::new(Context::for_shell(context.options.clone()));
            let client = shell.client().await?.clone();
            editor.set_helper(Some(PathCompletion::new(client, Handle::current())));
        }
    }
    if interactive { save_history(&mut editor) } else { Ok(()) }
}

/// Ctrl-C ends a command; what is sent to end the program ends the shell with it. Nobody reads what goes into a broken pipe.
fn ends_the_shell(failure: &Failure) -> bool {
    let code = |signal| Failure::ended_by(signal).exit_code();
    let by_signal = [Signal::TERM, Signal::HUP].map(code);
    failure.is_silent()
        && (by_signal.contains(&failure.exit_code()) || failure.exit_code() == code(Signal::PIPE))
}

/// The editor changes how the terminal works while it reads a line.
fn restore(terminal: Option<&Termios>) {
    if let Some(terminal) = terminal {
        // A terminal that has gone needs nothing.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, terminal);
    }
}

async fn carry_out(line: &str, shell: &Arc<Context>) -> Result<(), Failure> {
    let words = words::split(line).map_err(Failure::Usage)?;
    if words.is_empty() {
        return Ok(());
    }
    let mut command = without_empty_variables(Line::command());
    let matches = command.try_get_matches_from_mut(words);
    match matches
        .and_then(|matches| Line::from_arg_matches(&matches))
        .map_err(|error| with_tip(error, &command))
    {
        Ok(line) => shell.carry_out(line.command).await,
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
            note!("the history {} cannot be read: {error}", path.display());
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
