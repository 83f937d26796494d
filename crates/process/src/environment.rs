//! Names in the environment that nobody reads: mistyped options.

use std::ffi::{OsStr, OsString};
use std::fmt;

/// A variable that looks like an option, and is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownVariable {
    /// The variable.
    pub name: String,
    /// The option that may have been meant.
    pub nearest: Option<String>,
}

impl fmt::Display for UnknownVariable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: there is no such option", self.name)?;
        match &self.nearest {
            Some(nearest) => write!(f, "; did you mean {nearest}?"),
            None => write!(f, "; remove it from the environment, or see --help for the names"),
        }
    }
}

/// The first of `variables` that begins with `prefix`, has a value, and is not `known`.
///
/// A container is told of the services around it in variables such as `COORDD_SERVICE_HOST`: those are known, too.
pub fn unknown_variable(
    prefix: &str,
    known: &[&str],
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Option<UnknownVariable> {
    let mut unknown: Vec<String> = variables
        .into_iter()
        .filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            let rest = name.strip_prefix(prefix)?;
            // An empty variable is an unset one.
            let is_unknown =
                !value.is_empty() && !known.contains(&name.as_str()) && !is_service_link(rest, &value);
            is_unknown.then_some(name)
        })
        .collect();
    unknown.sort();
    let name = unknown.into_iter().next()?;
    let rest = |name: &str| name.strip_prefix(prefix).unwrap_or(name).to_owned();
    let names: Vec<String> = known.iter().map(|name| rest(name)).collect();
    let found = nearest(&rest(&name), names.iter().map(String::as_str));
    let nearest = found.map(|found| format!("{prefix}{found}"));
    Some(UnknownVariable { name, nearest })
}

/// What Kubernetes tells every container of a service, and Docker of a link: `[NAME_]SERVICE_HOST`, `SERVICE_PORT[_NAME]`,
/// `PORT=tcp://...`, `PORT_7401_TCP[_ADDR|_PORT|_PROTO]`.
fn is_service_link(rest: &str, value: &OsStr) -> bool {
    let parts: Vec<&str> = rest.split('_').collect();
    let is_protocol = |part: &str| matches!(part, "TCP" | "UDP" | "SCTP");
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let is_link = value.to_str().is_some_and(|value| value.contains("://"));
    parts.last() == Some(&"PORT") && is_link
        || parts.windows(2).any(|pair| pair == ["SERVICE", "HOST"] || pair == ["SERVICE", "PORT"])
        || parts.windows(3).any(|three| three[0] == "PORT" && is_number(three[1]) && is_protocol(three[2]))
}

/// The candidate that `word` may be a misspelling of, if one is near.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let candidates: Vec<&str> = candidates.into_iter().collect();
    let allowed = |candidate: &str| (word.len().max(candidate.len()) / 3).max(1);
    let word_lower = word.to_ascii_lowercase();
    let misspelled = candidates
        .iter()
        .copied()
        .map(|candidate| {
            let distance = strsim::damerau_levenshtein(&word_lower, &candidate.to_ascii_lowercase());
            (distance, candidate)
        })
        .filter(|(distance, candidate)| *distance <= allowed(candidate))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate);
    // A word that says more, or less: "warning", "LISTEN_ADDRESS".
    let begins_alike = |candidate: &&str| {
        let candidate = candidate.to_ascii_lowercase();
        let shorter = candidate.len().min(word_lower.len());
        shorter >= 3 && (candidate.starts_with(&word_lower) || word_lower.starts_with(&candidate))
    };
    misspelled.or_else(|| candidates.into_iter().filter(begins_alike).max_by_key(|candidate| candidate.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 4] = ["COORDD_ENSEMBLE", "COORDD_LISTEN", "COORDD_LOG", "COORDD_DATA_DIR"];

    fn unknown(name: &str, value: &str) -> Option<UnknownVariable> {
        unknown_variable("COORDD_", &KNOWN, [(name.into(), value.into())])
    }

    /// A mistyped name is found, with the name that was meant.
    #[test]
    fn mistyped_name_has_nearest() {
        let found = unknown("COORDD_ENSEMBEL", "1=a:1").unwrap();
        assert_eq!(
            found.to_string(),
            "COORDD_ENSEMBEL: there is no such option; did you mean COORDD_ENSEMBLE?"
        );
        assert_eq!(unknown("COORDD_DATADIR", "/d").unwrap().nearest.as_deref(), Some("COORDD_DATA_DIR"));
        assert!(unknown("COORDD_LISTEN_PORT", "7401").is_some());
        assert_eq!(unknown("COORDD_LISTEN_ADDR", "x").unwrap().nearest.as_deref(), Some("COORDD_LISTEN"));
        let far = unknown("COORDD_QQQQQQQQ", "1").unwrap();
        assert_eq!(far.nearest, None);
        assert!(far.to_string().contains("--help"));
    }

    /// Known names, empty ones, those of other programs, and what Kubernetes sets are no mistakes.
    #[test]
    fn other_names_are_let_alone() {
        for (name, value) in [
            ("COORDD_LISTEN", "127.0.0.1:7401"),
            ("COORDD_ENSEMBEL", ""),
            ("COORDCTL_ENDPOINT", "x"),
            ("PATH", "/bin"),
            ("COORDD_SERVICE_HOST", "10.0.0.1"),
            ("COORDD_SERVICE_PORT", "7401"),
            ("COORDD_SERVICE_PORT_CLIENT", "7401"),
            ("COORDD_PORT", "tcp://10.0.0.1:7401"),
            ("COORDD_PORT_7401_TCP", "tcp://10.0.0.1:7401"),
            ("COORDD_PORT_7401_TCP_ADDR", "10.0.0.1"),
            ("COORDD_PEER_SERVICE_HOST", "10.0.0.1"),
            ("COORDD_PEER_PORT_7501_TCP_PROTO", "tcp"),
        ] {
            assert_eq!(unknown(name, value), None, "{name}");
        }
    }

    #[test]
    fn nearest_is_near() {
        let levels = ["off", "error", "warn", "info", "debug", "trace"];
        for (word, wanted) in
            [("inof", Some("info")), ("warning", Some("warn")), ("debg", Some("debug")), ("x", None)]
        {
            assert_eq!(nearest(word, levels), wanted, "{word}");
        }
    }
}
