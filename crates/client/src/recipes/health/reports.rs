use std::collections::BTreeMap;
use std::fmt;

use futures::{Stream, StreamExt as _};

use super::{HealthReport, HealthStatus};
use crate::Error;
use crate::recipes::{CacheView, Sessions, TreeCache};

/// Where the monitors of a root keep what.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    root: String,
}

impl Layout {
    pub(super) fn new(root: &str) -> Self {
        Self { root: root.trim_end_matches('/').to_owned() }
    }

    pub(super) fn monitor(&self, monitor: &str) -> String {
        format!("{}/monitors/{monitor}", self.root)
    }

    pub(super) fn reports(&self) -> String {
        format!("{}/health_reports", self.root)
    }

    pub(super) fn reports_of(&self, target: &str) -> String {
        format!("{}/health_reports/{target}", self.root)
    }

    pub(super) fn report(&self, target: &str, monitor: &str) -> String {
        format!("{}/health_reports/{target}/{monitor}", self.root)
    }
}

/// What the live monitors say together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Nobody has an opinion.
    #[default]
    Unknown,
    /// At least half of those who have an opinion do not have it in quarantine.
    Healthy,
    /// More than half of those who have an opinion have it in quarantine.
    Unhealthy,
}

impl Verdict {
    /// Of what single monitors say. Those to whom it is unknown have no opinion.
    pub fn of(statuses: impl IntoIterator<Item = HealthStatus>) -> Self {
        let (mut inside, mut outside) = (0, 0);
        for status in statuses {
            match status {
                HealthStatus::Healthy | HealthStatus::Suspect => inside += 1,
                HealthStatus::Quarantined => outside += 1,
                HealthStatus::Unknown => {}
            }
        }
        match outside.cmp(&inside) {
            _ if inside + outside == 0 => Verdict::Unknown,
            std::cmp::Ordering::Greater => Verdict::Unhealthy,
            _ => Verdict::Healthy,
        }
    }

    /// The word that people read.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Unknown => "unknown",
            Verdict::Healthy => "healthy",
            Verdict::Unhealthy => "unhealthy",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A local mirror of the reports of all monitors of a root: what they say, and what a majority of them says.
///
/// Reports are ephemeral: those of a monitor that died, or is cut off from the ensemble, are gone when its session has
/// ended, and the majority is one of those who are left. All that is said of a [`TreeCache`] holds for it.
#[derive(Clone, Debug)]
pub struct HealthReports {
    cache: TreeCache,
    layout: Layout,
}

/// One state of the reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthView {
    targets: BTreeMap<String, Vec<HealthReport>>,
}

impl HealthReports {
    /// Begins to mirror the reports below `root`. Must be called in a tokio runtime.
    pub fn start(sessions: &Sessions, root: &str) -> Self {
        let layout = Layout::new(root);
        Self { cache: TreeCache::start(sessions, layout.reports()), layout }
    }

    /// Waits for the first state.
    ///
    /// # Errors
    ///
    /// Those of [`TreeCache::wait_ready`].
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn wait_ready(&self) -> Result<HealthView, Error> {
        Ok(HealthView::new(&self.layout, &self.cache.wait_ready().await?))
    }

    /// The newest state.
    pub fn view(&self) -> HealthView {
        HealthView::new(&self.layout, &self.cache.view())
    }

    /// The newest state, and each that follows; see [`TreeCache::views`].
    pub fn views(&self) -> impl Stream<Item = HealthView> + Send + Unpin + 'static {
        let layout = self.layout.clone();
        self.cache.views().map(move |view| HealthView::new(&layout, &view))
    }
}

impl HealthView {
    fn new(layout: &Layout, view: &CacheView) -> Self {
        let top = layout.reports();
        let mut targets = BTreeMap::<String, Vec<HealthReport>>::new();
        for znode in view.iter() {
            let below = znode.path.strip_prefix(&*top).and_then(|rest| rest.strip_prefix('/'));
            let Some((target, monitor)) = below.and_then(|below| below.split_once('/')) else { continue };
            match serde_json::from_slice::<HealthReport>(&znode.data) {
                Ok(report) => {
                    let report = HealthReport { monitor: monitor.to_owned(), ..report };
                    targets.entry(target.to_owned()).or_default().push(report);
                }
                Err(error) => {
                    tracing::warn!(path = &*znode.path, %error, "not a health report; it is left out");
                }
            }
        }
        Self { targets }
    }

    /// What a majority of the monitors says of a target.
    pub fn verdict(&self, target: &str) -> Verdict {
        Verdict::of(self.reports(target).iter().map(|report| report.status))
    }

    /// What the monitors say of a target, in the order of their names.
    pub fn reports(&self, target: &str) -> &[HealthReport] {
        self.targets.get(target).map_or(&[], Vec::as_slice)
    }

    /// All targets of which there are reports, with the verdicts, in the order of their names.
    pub fn verdicts(&self) -> impl Iterator<Item = (&str, Verdict)> {
        self.targets.keys().map(|target| (target.as_str(), self.verdict(target)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_a_majority_to_condemn() {
        use HealthStatus::{Healthy, Quarantined, Suspect, Unknown};
        for (statuses, expected) in [
            (&[][..], Verdict::Unknown),
            (&[Unknown, Unknown], Verdict::Unknown),
            (&[Healthy], Verdict::Healthy),
            (&[Suspect, Unknown], Verdict::Healthy),
            (&[Quarantined], Verdict::Unhealthy),
            (&[Quarantined, Unknown], Verdict::Unhealthy),
            (&[Quarantined, Healthy], Verdict::Healthy),
            (&[Quarantined, Healthy, Suspect], Verdict::Healthy),
            (&[Quarantined, Quarantined, Healthy], Verdict::Unhealthy),
        ] {
            assert_eq!(Verdict::of(statuses.iter().copied()), expected, "{statuses:?}");
        }
    }
}
