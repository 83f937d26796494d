use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use coordd_client::recipes::health::{HealthReports, Verdict};
use coordd_client::recipes::{CacheView, Leadership, PathCache, TreeCache};
use coordd_client::{CreateMode, Error, ErrorKind};
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};

use crate::head_servers::{ServerId, registered};

/// The pause of a monitor that was refused, before another one acts.
const RETRY: Duration = Duration::from_secs(1);

/// Who leads the head servers: what stands in `leader`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Leader {
    server_id: String,
    address: String,
    elected_by: String,
    /// Of the leadership of the monitor that wrote it.
    epoch: u64,
}

/// The same, or nobody, for people.
#[derive(PartialEq)]
pub(crate) struct Elected(Option<Leader>);

impl Elected {
    pub(crate) fn of(view: &CacheView) -> Self {
        Self(view.iter().next().and_then(|znode| serde_json::from_slice(&znode.data).ok()))
    }

    pub(crate) fn parse(data: &[u8]) -> Self {
        Self(serde_json::from_slice(data).ok())
    }
}

impl fmt::Display for Elected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(Leader { server_id, address, elected_by, epoch }) => {
                write!(f, "the leader is {server_id} at {address}, elected by {elected_by} in epoch {epoch}")
            }
            None => f.write_str("there is no leader"),
        }
    }
}

/// Of those that are healthy the first one leads. Who leads already stays while nothing is known of it, as when all
/// monitors have just been restarted.
fn choose<'a>(
    servers: impl IntoIterator<Item = (&'a str, Verdict)>,
    present: Option<&str>,
) -> Option<&'a str> {
    let is_eligible = |(id, verdict): &(&str, Verdict)| match verdict {
        Verdict::Healthy => true,
        Verdict::Unknown => Some(*id) == present,
        Verdict::Unhealthy => false,
    };
    servers.into_iter().find(is_eligible).map(|(id, _)| id)
}

/// What the monitor does that is elected: whenever head servers or verdicts change it elects the leader of the head servers.
pub(crate) async fn act(
    leadership: Arc<Leadership>,
    root: &str,
    monitor: &str,
    heads: &PathCache,
    reports: &HealthReports,
    leader: &TreeCache,
) {
    println!("{monitor} acts from now on, in epoch {}", leadership.epoch());
    let _tenure = Tenure { monitor };
    // Whoever acts next does what is left to be done.
    if let Err(error) = elect(&leadership, root, monitor, heads, reports, leader).await {
        println!("{monitor} was refused: {error}");
        tokio::time::sleep(RETRY).await;
    }
}

/// Says when it is over, which is when the future of the duties is dropped.
struct Tenure<'a> {
    monitor: &'a str,
}

impl Drop for Tenure<'_> {
    fn drop(&mut self) {
        println!("{} acts no more", self.monitor);
    }
}

async fn elect(
    leadership: &Leadership,
    root: &str,
    monitor: &str,
    heads: &PathCache,
    reports: &HealthReports,
    leader: &TreeCache,
) -> Result<(), Error> {
    let path = format!("{root}/leader");
    // With all that was written before this monitor was elected.
    let mut present = Elected::of(&leader.wait_for(leadership.client()?.sync().await?).await?).0;
    let (mut leader_views, mut written) = (leader.views(), 0);
    let mut head_views = heads.views();
    let mut health_views = reports.views();
    let (Some(mut servers), Some(mut health)) = (head_views.next().await, health_views.next().await) else {
        return Ok(());
    };
    loop {
        let registered = registered(heads, &servers);
        let verdicts = registered.keys().map(|id| (id.name.as_str(), health.verdict(&id.name)));
        let chosen = choose(verdicts, present.as_ref().map(|leader| leader.server_id.as_str()));
        let wanted = chosen.and_then(|name| {
            let address = registered.get(&ServerId::new(name))?.address();
            Some(Leader {
                server_id: name.to_owned(),
                address,
                elected_by: monitor.to_owned(),
                epoch: leadership.epoch(),
            })
        });
        let place = |leader: &Option<Leader>| {
            leader.as_ref().map(|leader| (leader.server_id.clone(), leader.address.clone()))
        };
        if place(&wanted) != place(&present) {
            written = write(leadership, &path, wanted.as_ref()).await?;
            present = wanted;
        }
        tokio::select! {
            Some(view) = head_views.next() => servers = view,
            Some(view) = health_views.next() => health = view,
            // Somebody else may have changed it, and then it is put right.
            Some(view) = leader_views.next() => if view.zxid() >= written {
                present = Elected::of(&view).0;
            },
            else => return Ok(()),
        }
    }
}

/// Under the epoch of the leadership: refused when somebody else acts, however late it arrives. Returns its zxid.
async fn write(leadership: &Leadership, path: &str, leader: Option<&Leader>) -> Result<u64, Error> {
    let client = leadership.client()?;
    let Some(leader) = leader else {
        return match client.delete(path, None).await {
            Err(error) if error.kind == ErrorKind::NoNode => Ok(0),
            answer => answer,
        };
    };
    let data = serde_json::to_vec(leader).unwrap_or_default();
    match client.set(path, data.clone(), None).await {
        Err(error) if error.kind == ErrorKind::NoNode => {
            client.create(path, data, CreateMode::Persistent).await.map(|created| created.stat.czxid)
        }
        answer => answer.map(|stat| stat.mzxid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_healthy_id_leads() {
        use Verdict::{Healthy, Unhealthy, Unknown};
        let mut ids: Vec<_> =
            ["head_10", "head_9", "1", "head_1"].iter().map(|id| ServerId::new(id)).collect();
        ids.sort();
        let names: Vec<_> = ids.iter().map(|id| id.name.as_str()).collect();
        assert_eq!(names, ["1", "head_1", "head_9", "head_10"]);
        let chosen =
            |verdicts: [Verdict; 3], present| choose(["a", "b", "c"].into_iter().zip(verdicts), present);
        assert_eq!(chosen([Healthy, Healthy, Healthy], Some("b")), Some("a"));
        assert_eq!(chosen([Unhealthy, Healthy, Healthy], Some("a")), Some("b"));
        assert_eq!(chosen([Unhealthy, Unknown, Healthy], None), Some("c"));
        assert_eq!(chosen([Unhealthy, Unknown, Healthy], Some("b")), Some("b"));
        assert_eq!(chosen([Unhealthy, Unhealthy, Unknown], Some("b")), None);
    }
}
