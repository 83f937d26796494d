use crate::Call;

/// Sends a request whose answer nobody waits for, from a `drop`. A call takes its place at once and need not be awaited,
/// unless the session has so much unanswered that it has to wait for room: then a task does, where there is a runtime.
pub(super) fn detach<T: Send + 'static>(call: Call<T>) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        // Whatever it failed of, the session's end will clear up.
        drop(runtime.spawn(call));
    }
}
