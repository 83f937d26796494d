use std::time::{Duration, Instant};

/// Polls until `condition` holds and returns how long that took. Fails with `what` when it does not hold in time.
pub async fn eventually(within: Duration, what: &str, mut condition: impl AsyncFnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < within, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    start.elapsed()
}
