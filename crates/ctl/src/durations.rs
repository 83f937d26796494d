//! Durations on the command line. Each is bounded, because adding a much longer one to a clock's time panics.

use std::time::Duration;

/// The longest duration that an option takes: 100 years, as `humantime` counts them.
const DURATION_MAX: Duration = Duration::from_secs(100 * 31_557_600);

/// Parses the value of an option that takes a duration.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration > DURATION_MAX => Err("it has to be at most 100 years".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

/// Parses the value of an option for which a duration of 0 makes no sense.
pub(crate) fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("it has to be more than 0".to_owned()),
        duration => Ok(duration),
    }
}

#[cfg(test)]
mod tests {
    use std::any::TypeId;

    use clap::CommandFactory as _;
    use clap::error::ErrorKind;

    use super::*;
    use crate::cli::Cli;

    /// Adds the options of a command and of its subcommands that take a duration, each behind the words that
    /// lead to it.
    fn add_options(command: &clap::Command, words: &[String], options: &mut Vec<Vec<String>>) {
        for option in command.get_arguments() {
            if option.get_value_parser().type_id() == TypeId::of::<Duration>() {
                let long = option.get_long().expect("a duration is no positional argument");
                options.push([words, &[format!("--{long}")]].concat());
            }
        }
        for subcommand in command.get_subcommands() {
            add_options(subcommand, &[words, &[subcommand.get_name().to_owned()]].concat(), options);
        }
    }

    /// Every option that takes a duration refuses one that no clock can represent.
    #[test]
    fn every_duration_is_bounded() {
        let mut options = Vec::new();
        add_options(&Cli::command(), &["coordctl".to_owned()], &mut options);
        assert!(options.len() >= 16, "{options:?}");
        for option in options {
            let parsed = |value: &str| {
                Cli::command().try_get_matches_from(option.iter().map(String::as_str).chain([value]))
            };
            for value in ["101years", "500000000000years", "18446744073709551615s 999ms"] {
                let refused = parsed(value).expect_err("it is too long");
                assert_eq!(refused.kind(), ErrorKind::ValueValidation, "{option:?}: {refused}");
                assert!(refused.to_string().contains("at most 100 years"), "{option:?}: {refused}");
            }
            // Other arguments are missing, but the value is one.
            let kind = parsed("100years").err().map(|error| error.kind());
            assert_ne!(kind, Some(ErrorKind::ValueValidation), "{option:?}");
        }
    }

    #[test]
    fn zero_is_not_positive() {
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert!(positive_duration("0s").is_err());
        assert_eq!(positive_duration("1m 30s"), Ok(Duration::from_secs(90)));
    }
}
