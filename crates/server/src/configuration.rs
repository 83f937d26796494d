//! Where the options of this process come from, and what becomes of a file that has changed.

use std::path::PathBuf;

use crate::options::{GivenOptions, OptionError, Options};

/// The command line and the environment, and the file behind them.
#[derive(Debug)]
pub struct Configuration {
    given: GivenOptions,
    file: Option<PathBuf>,
    in_force: toml::Table,
    text: String,
}

/// What reading the file again has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The filter of the log, if it is another one now.
    pub log: Option<String>,
    /// The names of other options with new values, which count from the next start on.
    pub after_restart: Vec<String>,
}

impl Configuration {
    /// Reads the file, if there is one, and checks the options.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or an option cannot be.
    pub fn read(given: GivenOptions, file: Option<PathBuf>) -> Result<(Configuration, Options), OptionError> {
        let mut configuration =
            Configuration { given, file, in_force: toml::Table::new(), text: String::new() };
        let (text, options) = configuration.look()?;
        (configuration.in_force, configuration.text) = (table(&text), text);
        Ok((configuration, options))
    }

    fn look(&self) -> Result<(String, Options), OptionError> {
        let file = match &self.file {
            Some(path) => GivenOptions::from_file(path)?,
            None => GivenOptions::default(),
        };
        let given = self.given.clone().or(file);
        let options = given.clone().check()?;
        Ok((given.in_force(&options).to_toml(), options))
    }

    /// There is a file that can be read again.
    pub fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// What was in force at the start, as a file.
    pub fn as_toml(&self) -> &str {
        &self.text
    }

    /// Reads the file again. A new filter of the log is in force from now on; everything else stays as it was.
    ///
    /// # Errors
    ///
    /// The file cannot be used; nothing has changed.
    pub fn read_again(&mut self) -> Result<Changes, OptionError> {
        let (text, options) = self.look()?;
        let found = table(&text);
        let names = found.keys().chain(self.in_force.keys());
        let mut changed: Vec<String> =
            names.filter(|name| found.get(*name) != self.in_force.get(*name)).cloned().collect();
        changed.sort();
        changed.dedup();
        let is_log = |name: &String| name == "log";
        let log = changed.iter().any(is_log).then_some(options.log);
        changed.retain(|name| !is_log(name));
        if let Some(log) = &log {
            self.in_force.insert("log".to_owned(), toml::Value::String(log.clone()));
        }
        Ok(Changes { log, after_restart: changed })
    }
}

/// The options by their names.
fn table(text: &str) -> toml::Table {
    text.parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A changed filter is taken over; other options are named, and a bad file changes nothing.
    #[test]
    fn changed_file_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("coordd.toml");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write("log = \"info\"\nid = 1");
        let (mut configuration, options) =
            Configuration::read(GivenOptions::default(), Some(path.clone())).unwrap();
        assert_eq!(options.log, "info");
        assert_eq!(configuration.read_again().unwrap(), Changes::default());

        write("log = \"debug\"\nheartbeat = \"100ms\"\nannounce = \"239.7.4.1:7400\"");
        let after_restart = vec!["announce".to_owned(), "heartbeat".to_owned()];
        let changes = configuration.read_again().unwrap();
        assert_eq!(changes, Changes { log: Some("debug".to_owned()), after_restart: after_restart.clone() });
        let changes = configuration.read_again().unwrap();
        assert_eq!(changes, Changes { log: None, after_restart }, "they still wait for a restart");

        write("log = \"inof\"");
        assert!(configuration.read_again().unwrap_err().to_string().contains("did you mean info?"));
        write("log = \"debug\"\nid = 1");
        assert_eq!(configuration.read_again().unwrap(), Changes::default());
    }

    /// What the command line says is not changed by a file.
    #[test]
    fn command_line_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("coordd.toml");
        std::fs::write(&path, "").unwrap();
        let given = GivenOptions { log: Some("warn".to_owned()), ..GivenOptions::default() };
        let (mut configuration, _) = Configuration::read(given, Some(path.clone())).unwrap();
        std::fs::write(&path, "log = \"debug\"").unwrap();
        assert_eq!(configuration.read_again().unwrap(), Changes::default());
    }
}
