use crate::{Error, ErrorKind};

/// Why no node did what was asked: the newest reason of each endpoint, in the order of the first attempts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attempts {
    failures: Vec<(String, Error)>,
}

impl Attempts {
    /// `endpoint` failed; what it said before is forgotten.
    pub(crate) fn note(&mut self, endpoint: &str, error: Error) {
        match self.failures.iter_mut().find(|(known, _)| known == endpoint) {
            Some((_, newest)) => *newest = error,
            None => self.failures.push((endpoint.to_owned(), error)),
        }
    }

    /// Forgets the endpoints that are not wanted.
    pub(crate) fn retain(&mut self, mut wanted: impl FnMut(&str) -> bool) {
        self.failures.retain(|(endpoint, _)| wanted(endpoint));
    }

    pub(crate) fn clear(&mut self) {
        self.failures.clear();
    }

    /// The newest error of each endpoint.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Error> {
        self.failures.iter().map(|(_, error)| error)
    }

    /// One error for all: the kind is the most telling one, and the message has a line for each endpoint. `None` if nothing
    /// has failed.
    pub(crate) fn summary(&self) -> Option<Error> {
        let telling = self.failures.iter().map(|(_, error)| error).max_by_key(|error| weight(error.kind))?;
        let line = |(endpoint, error): &(String, Error)| format!("{endpoint}: {}", one_line(&error.message));
        let message = match self.failures.as_slice() {
            [single] => line(single),
            several => {
                let lines: Vec<String> =
                    several.iter().map(|failure| format!("\n  {}", line(failure))).collect();
                format!("none of {} endpoints could be used:{}", several.len(), lines.concat())
            }
        };
        Some(Error { message, ..telling.clone() })
    }
}

/// How much a kind says about the cause. That nobody listens says least: another endpoint may have been reached.
fn weight(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::ConnectionLoss => 0,
        ErrorKind::Throttled => 1,
        ErrorKind::NotServing => 2,
        _ => 3,
    }
}

/// The text of a server in one line, its control characters escaped: a server may be hostile, and the reader
/// a terminal.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_has_its_line() {
        let mut attempts = Attempts::default();
        assert_eq!(attempts.summary(), None);
        attempts.note("a:1", Error::new(ErrorKind::ConnectionLoss, "refused"));
        assert_eq!(attempts.summary().unwrap().to_string(), "ConnectionLoss: a:1: refused");
        attempts.note("b:1", Error::new(ErrorKind::NotServing, "no\nmajority\u{1b}[2J"));
        attempts.note("a:1", Error::new(ErrorKind::ConnectionLoss, "no route"));
        let error = attempts.summary().unwrap();
        assert_eq!(error.kind, ErrorKind::NotServing, "the most telling one");
        let lines: Vec<&str> = error.message.lines().collect();
        assert_eq!(
            lines,
            ["none of 2 endpoints could be used:", "  a:1: no route", "  b:1: no\\nmajority\\u{1b}[2J"]
        );
        attempts.retain(|endpoint| endpoint == "a:1");
        assert_eq!(attempts.summary().unwrap().kind, ErrorKind::ConnectionLoss);
    }
}
