use std::time::Duration;

use tokio::time::Instant;

const PAUSE_FIRST: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Pauses before something is begun again that has ended by itself too soon: duties that cannot even begin must not keep the
/// ensemble busy with elections. The pauses grow, up to a second, until it has lasted for a second.
#[derive(Debug)]
pub(super) struct Breather {
    began: Instant,
    pause: Duration,
}

impl Breather {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), pause: PAUSE_FIRST }
    }

    pub(super) fn begin(&mut self) {
        self.began = Instant::now();
    }

    /// It has ended by itself.
    pub(super) async fn breathe(&mut self) {
        let pause = self.pause_after(self.began.elapsed());
        tokio::time::sleep(pause).await;
    }

    fn pause_after(&mut self, lasted: Duration) -> Duration {
        let next = (self.pause * 2).min(PAUSE_MAX);
        match lasted < PAUSE_MAX {
            true => std::mem::replace(&mut self.pause, next),
            false => {
                self.pause = PAUSE_FIRST;
                Duration::ZERO
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_at_once_is_begun_more_and_more_slowly_until_it_lasts() {
        let mut breather = Breather::new();
        let pauses: Vec<_> = (0..9).map(|_| breather.pause_after(Duration::ZERO).as_millis()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert_eq!(breather.pause_after(Duration::from_secs(2)), Duration::ZERO);
        assert_eq!(breather.pause_after(Duration::from_millis(999)), PAUSE_FIRST);
    }
}
