//! What happens to a cluster in a few minutes of its life.

use std::error::Error;
use std::time::Duration;

use coordd_client::Client;
use coordd_client::recipes::{AssignmentSettings, Strategy};

use crate::ROOT;
use crate::cluster::Cluster;

pub(crate) async fn tell(endpoints: &[String]) -> Result<(), Box<dyn Error>> {
    let client = Client::connect(endpoints).await?;
    let mut cluster = Cluster::new(&client, endpoints).await?;
    // Moved when it is asked for, at first.
    let on_demand = AssignmentSettings::new().threshold(1e6);
    cluster.group().configure(&on_demand).await?;

    title("Three nodes start; node-3 is twice as strong");
    for (name, weight) in [("node-1", 1.0), ("node-2", 1.0), ("node-3", 2.0)] {
        cluster.start(name, weight)?;
    }
    cluster.settle().await?;

    for strategy in Strategy::ALL {
        title(&format!("Strategy {strategy}"));
        cluster.group().configure(&on_demand.clone().strategy(strategy)).await?;
        cluster.group().rebalance().await?;
        cluster.settle().await?;
    }

    title("node-4 joins: nothing moves until it is asked for");
    cluster.group().configure(&on_demand.clone().strategy(Strategy::ConsistentHash)).await?;
    cluster.start("node-4", 1.0)?;
    cluster.settle().await?;
    title("Rebalanced: what moves, moves to node-4");
    cluster.group().rebalance().await?;
    cluster.settle().await?;

    title("node-1 reports a high load; the group rebalances by itself");
    let by_load = AssignmentSettings::new()
        .strategy(Strategy::LeastLoaded)
        .threshold(0.2)
        .window(Duration::from_millis(500))
        .drain_timeout(Some(Duration::from_secs(5)));
    cluster.group().configure(&by_load).await?;
    cluster.tell("node-1", "metrics 0.9 0.7 40")?;
    cluster.settle_evenly_with("node-1", false).await?;
    title("node-1 has recovered");
    cluster.tell("node-1", "metrics 0.1 0.2 0")?;
    cluster.settle_evenly_with("node-1", true).await?;

    title("node-3 is unhealthy: only healthy nodes receive work");
    cluster.tell("node-3", "unhealthy")?;
    cluster.settle_evenly_with("node-3", false).await?;
    title("node-3 is healthy again");
    cluster.tell("node-3", "healthy")?;
    cluster.settle_evenly_with("node-3", true).await?;

    title("node-2 leaves in good order");
    cluster.leave("node-2")?;
    cluster.settle_evenly().await?;

    title("node-4 is killed: its processors go on elsewhere when its session has ended");
    cluster.kill("node-4")?;
    cluster.settle_evenly().await?;

    let leader = cluster.leader().await?;
    title(&format!("{leader}, which leads, is killed, while node-5 joins"));
    cluster.start("node-5", 1.0)?;
    cluster.kill(&leader)?;
    cluster.settle_evenly().await?;
    println!("  {} leads now", cluster.leader().await?);

    title("What was done");
    cluster.stop()?;
    println!("{}", cluster.account().await?);
    client.delete_tree(ROOT, None).await?;
    client.close().await?;
    Ok(())
}

fn title(text: &str) {
    println!("\n== {text}");
}
