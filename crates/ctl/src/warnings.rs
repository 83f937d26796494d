//! Warnings of the SDK and its recipes, shown as notes. Without them a command that waits, for a name that
//! somebody else holds for example, would say nothing.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{Interest, Subscriber};
use tracing::{Event, Level, Metadata};

use crate::notes::say_without_waiting;
use crate::session_id::SessionId;

/// The crate whose warnings are shown.
const SDK: &str = "coordd_client";

/// Shows the warnings of the SDK from now on.
pub(crate) fn show() {
    // Fails only if warnings are shown already.
    let _ = tracing::subscriber::set_global_default(Warnings);
}

/// A subscriber that shows warnings and errors of the SDK, and ignores everything else.
struct Warnings;

impl Subscriber for Warnings {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.enabled(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let program = metadata.target().split("::").next();
        metadata.is_event() && *metadata.level() <= Level::WARN && program == Some(SDK)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::WARN)
    }

    fn event(&self, event: &Event<'_>) {
        // The SDK may hold a lock here, so the line is not waited for.
        say_without_waiting(format_args!("{}", Warning::of(event)));
    }

    // No span is enabled.
    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

/// The text of an event: its message, and its fields in parentheses.
#[derive(Default)]
struct Warning {
    message: String,
    fields: String,
}

impl Warning {
    fn of(event: &Event<'_>) -> Self {
        let mut warning = Self::default();
        event.record(&mut warning);
        warning
    }

    fn add(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value}"),
            name if self.fields.is_empty() => write!(self.fields, "{name}={value}"),
            name => write!(self.fields, ", {name}={value}"),
        };
    }
}

impl Visit for Warning {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            // As `session list` shows it.
            "session" => self.add(field, format_args!("{}", SessionId(value))),
            _ => self.add(field, format_args!("{value}")),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format_args!("{value:?}"));
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fields.as_str() {
            "" => f.write_str(&self.message),
            fields => write!(f, "{} ({fields})", self.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Keeps what [`Warnings`] would show.
    struct Kept(Arc<Mutex<Vec<String>>>);

    impl Subscriber for Kept {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            Warnings.enabled(metadata)
        }

        fn event(&self, event: &Event<'_>) {
            self.0.lock().unwrap().push(Warning::of(event).to_string());
        }

        fn new_span(&self, span: &Attributes<'_>) -> Id {
            Warnings.new_span(span)
        }

        fn record(&self, _span: &Id, _values: &Record<'_>) {}

        fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

        fn enter(&self, _span: &Id) {}

        fn exit(&self, _span: &Id) {}
    }

    /// Warnings and errors of the SDK are shown with their fields; its other lines and those of other crates
    /// are not.
    #[test]
    fn sdk_warnings_are_shown() {
        let kept = Arc::default();
        tracing::subscriber::with_default(Kept(Arc::clone(&kept)), || {
            let error = "NoAuth: no";
            tracing::warn!(target: "coordd_client::a", path = "/a", session = 10_u64, %error, "waiting");
            tracing::error!(target: "coordd_client", "no node");
            tracing::info!(target: "coordd_client", "not told");
            tracing::warn!(target: "coordd_client_of_others", "not told");
            tracing::warn!(target: "h2", "not told");
        });
        let shown = kept.lock().unwrap().clone();
        assert_eq!(shown, ["waiting (path=/a, session=0xa, error=NoAuth: no)", "no node"]);
    }
}
