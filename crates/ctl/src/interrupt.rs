use tokio::signal::unix::{SignalKind, signal};

/// Completes when somebody wants the program to stop: Ctrl-C, or a request to terminate. The program then closes its
/// session instead of leaving it to expire.
pub(crate) async fn interrupted() {
    // Where a handler cannot be installed the signal ends the program, as it does without one.
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        Ok(()) = tokio::signal::ctrl_c() => {}
        Some(()) = terminate.recv() => {}
        else => std::future::pending().await,
    }
}
