use std::path::PathBuf;

use clap::{Args, CommandFactory as _};

use crate::cli::Cli;
use crate::context::Context;
use crate::exit::Failure;

/// Prints the manual page coordctl(1), or writes the pages of all commands into a directory.
#[derive(Args, Debug)]
pub(crate) struct Man {
    /// Write a page for each command into this directory.
    #[arg(long)]
    dir: Option<PathBuf>,
}

impl Man {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let Some(dir) = self.dir else {
            let mut page = Vec::new();
            let rendering = clap_mangen::Man::new(Cli::command()).render(&mut page);
            rendering.map_err(|error| Failure::io("rendering", error))?;
            return context.output().raw(&page);
        };
        let writing =
            std::fs::create_dir_all(&dir).and_then(|()| clap_mangen::generate_to(Cli::command(), &dir));
        writing.map_err(|error| Failure::io(format!("writing {}", dir.display()), error))
    }
}
