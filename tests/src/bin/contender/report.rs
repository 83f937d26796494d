use std::io::Write as _;

use coordd_client::{Error, SessionState};
use coordd_tests::monotonic;
use futures::{Stream, StreamExt as _};
use serde_json::{Value, json};

/// Prints a line: `at_ns`, `event`, and the fields of `fields`, which is an object.
pub(crate) fn report(event: &str, fields: Value) {
    let at_ns = u64::try_from(monotonic().as_nanos()).unwrap_or(u64::MAX);
    let mut line = json!({ "at_ns": at_ns, "event": event });
    if let (Some(line), Value::Object(fields)) = (line.as_object_mut(), fields) {
        line.extend(fields);
    }
    let mut stdout = std::io::stdout().lock();
    if writeln!(stdout, "{line}").and_then(|()| stdout.flush()).is_err() {
        // The test is gone.
        std::process::exit(1);
    }
}

/// The fields of a failure.
pub(crate) fn error(error: &Error) -> Value {
    json!({ "kind": error.kind.name(), "message": error.to_string() })
}

/// Prints each state of a session, up to the terminal one.
pub(crate) async fn states(mut states: impl Stream<Item = SessionState> + Unpin) {
    while let Some(state) = states.next().await {
        let name = match &state {
            SessionState::Connecting => "connecting",
            SessionState::Connected { .. } => "connected",
            SessionState::Suspended => "suspended",
            SessionState::Expired(_) => "expired",
            SessionState::Closed => "closed",
        };
        report("state", json!({ "state": name }));
        if state.is_terminal() {
            return;
        }
    }
}
