//! The example of the head servers: of those that are healthy the one with the lowest id leads, whatever becomes of the
//! monitors.

use std::process::Command;
use std::time::{Duration, Instant};

use coordd_client::{Client, ReadLevel, WatchEvent, WatchMode, WatchOptions};
use coordd_tests::{Contender, Ensemble, eventually, example, free_port};
use futures::future::join_all;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const SOON: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(2);
const LEADER: &str = "/distributed_file_grid/leader";

async fn monitor(ensemble: &Ensemble, id: &str) -> Contender {
    let mut program = Command::new(example("head_server_monitor"));
    program.args(["--interactive", "--id", id, "--session-timeout", "2s", "--interval", "200ms"]);
    // Long enough for heartbeats on a busy machine.
    program.args(["--stale-after", "3s"]);
    program.args(["--timeout", "500ms", "--failures", "2", "--quarantine", "500ms", "--successes", "2"]);
    let mut monitor = Contender::start(ensemble, program, "COORDD_ENDPOINTS").await;
    says(&mut monitor, "is a monitor of /distributed_file_grid").await;
    monitor
}

async fn says(monitor: &mut Contender, what: &str) -> String {
    monitor.wait_for(SOON, what, |line| line.text.contains(what)).await.text
}

/// At any time so far, whatever else it was waited for.
async fn has_said(monitor: &Contender, what: &str) {
    eventually(SOON, what, async || monitor.lines().iter().any(|line| line.text.contains(what))).await;
}

/// A head server: something that accepts connections.
struct HeadServer {
    port: u16,
    accepts: Option<JoinHandle<()>>,
}

impl HeadServer {
    fn new() -> Self {
        Self { port: free_port(), accepts: None }
    }

    async fn start(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.expect("the port is free");
        self.accepts = Some(tokio::spawn(async move { while listener.accept().await.is_ok() {} }));
    }

    async fn kill(&mut self) {
        let accepts = self.accepts.take().expect("it runs");
        accepts.abort();
        // When it has ended the port is closed.
        let _ = accepts.await;
    }
}

/// Every value that `leader` has had, in order.
async fn record(client: &Client) -> JoinHandle<Vec<Value>> {
    let options = WatchOptions::new(WatchMode::Persistent).with_value(true);
    let mut watcher = client.watch(LEADER, options).await.expect("a watch");
    tokio::spawn(async move {
        let mut values = Vec::new();
        while let Ok(event) = watcher.next().await {
            let WatchEvent::Event(event) = event else { panic!("an event was missed") };
            let Some((data, _)) = event.value else { panic!("{event:?} has no value") };
            values.push(serde_json::from_slice(&data).expect("JSON"));
        }
        values
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lowest_healthy_head_server_leads_whatever_becomes_of_the_monitors() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(Duration::from_secs(10)).await;
    let recorder = ensemble.client(Duration::from_secs(10)).await;
    let history = record(&recorder).await;
    let leads = async |id: &str| {
        eventually(SOON, &format!("{id} leads"), async || {
            let Ok((data, _)) = client.get(LEADER, ReadLevel::Local).await else { return false };
            serde_json::from_slice::<Value>(&data).expect("JSON")["server_id"] == id
        })
        .await
    };
    let mut heads = [HeadServer::new(), HeadServer::new(), HeadServer::new()];
    for head in &mut heads {
        head.start().await;
    }

    let mut monitors = vec![monitor(&ensemble, "monitor-1").await];
    says(&mut monitors[0], "monitor-1 acts from now on").await;
    for id in ["monitor-2", "monitor-3"] {
        monitors.push(monitor(&ensemble, id).await);
    }
    // The first one as the document has it, before the others are there to lead.
    monitors[0].send(&format!("register head_server_1 127.0.0.1 {}", heads[0].port));
    says(&mut monitors[0], "registered head_server_1").await;
    leads("head_server_1").await;
    monitors[1].send(&format!("register head_server_10 127.0.0.1:{}", heads[2].port));
    monitors[2].send(&format!("register head_server_2 127.0.0.1:{}", heads[1].port));
    monitors[2].send("register head_server_3 nowhere");
    says(&mut monitors[2], "\"nowhere\" is no HOST:PORT").await;
    for monitor in &monitors {
        has_said(monitor, "head_server_2 is healthy, was unknown").await;
        has_said(monitor, "head_server_10 is healthy, was unknown").await;
        has_said(monitor, "the leader is head_server_1 at 127.0.0.1:").await;
    }
    let row = "monitor-1: healthy, monitor-2: healthy, monitor-3: healthy";
    eventually(SOON, "a row of the table", async || {
        monitors[2].send("status");
        says(&mut monitors[2], "end of status").await;
        let lines = monitors[2].lines();
        lines.iter().any(|line| line.text.starts_with("head_server_10 ") && line.text.ends_with(row))
    })
    .await;

    heads[0].kill().await;
    let took = leads("head_server_2").await;
    println!("a head server was killed: the next one leads after {took:?}");
    for monitor in &monitors {
        has_said(monitor, "head_server_1 is quarantined, was suspect: Connection refused").await;
        has_said(monitor, "the leader is head_server_2").await;
    }
    heads[0].start().await;
    leads("head_server_1").await;

    // kill -9 of the monitor that acts; what it had is taken up by another.
    monitors[0].kill9();
    let killed = Instant::now();
    heads[0].kill().await;
    leads("head_server_2").await;
    println!("the acting monitor was killed: the next head server leads after {:?}", killed.elapsed());
    assert!(killed.elapsed() < TIMEOUT + Duration::from_secs(4), "{:?}", killed.elapsed());

    // SIGSTOP of the one that acts now, beyond its session.
    let acting = monitors.iter().rposition(acts).expect("one acts");
    monitors[acting].pause();
    heads[1].kill().await;
    leads("head_server_10").await;
    heads[0].start().await;
    leads("head_server_1").await;
    monitors[acting].resume();
    says(&mut monitors[acting], "acts no more").await;
    // It is a monitor again, in a session of its own.
    let id = format!("monitor-{}", acting + 1);
    eventually(SOON, "it is back", async || {
        let reports =
            client.children("/distributed_file_grid/health_reports/head_server_1", ReadLevel::Local).await;
        reports.unwrap_or_default().contains(&id)
    })
    .await;
    monitors[acting].send("leader");
    says(&mut monitors[acting], "the leader is head_server_1").await;
    monitors[acting].send("check head_server_10");
    says(&mut monitors[acting], "checked head_server_10: healthy").await;
    monitors[acting].send("health");
    says(&mut monitors[acting], "2 of 3 are healthy").await;

    for monitor in &mut monitors[1..] {
        monitor.send("quit");
    }
    let ends = join_all(monitors[1..].iter_mut().map(Contender::wait_exit)).await;
    assert!(ends.iter().all(|status| status.success()), "{ends:?}");
    recorder.close().await.expect("it closes");
    let history = history.await.expect("no panic");
    let led: Vec<_> = history.iter().map(|leader| leader["server_id"].as_str().unwrap_or_default()).collect();
    // Each once: nobody has changed what another one knew better, and nobody was condemned without cause.
    let expected = [1, 2, 1, 2, 10, 1].map(|number| format!("head_server_{number}"));
    assert_eq!(led, expected, "{history:#?}");
    let epochs: Vec<_> = history.iter().map(|leader| leader["epoch"].as_u64().expect("an epoch")).collect();
    assert!(epochs.is_sorted(), "a write of a former leadership: {epochs:?}");
    assert_eq!(
        epochs.iter().collect::<std::collections::BTreeSet<_>>().len(),
        3,
        "three monitors acted: {epochs:?}"
    );
}

/// A head server that announces itself.
async fn announce(ensemble: &Ensemble, id: &str, session_timeout: &str) -> Contender {
    let mut program = Command::new(example("head_server_monitor"));
    program.args(["announce", id, &format!("127.0.0.1:{}", free_port())]);
    program.args(["--heartbeat", "200ms", "--session-timeout", session_timeout]);
    let mut server = Contender::start(ensemble, program, "COORDD_ENDPOINTS").await;
    says(&mut server, &format!("{id} is announced at 127.0.0.1:")).await;
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_server_that_announces_itself_vanishes_when_it_is_killed_and_cannot_lead_while_it_is_stopped()
{
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(SOON).await;
    let leader = async || {
        let read = client.get(LEADER, ReadLevel::Linearizable).await;
        read.map_or(Value::Null, |(data, _)| serde_json::from_slice(&data).expect("JSON"))
    };
    let leads = async |id: &str| {
        eventually(SOON, &format!("{id} leads"), async || leader().await["server_id"] == id).await
    };
    let is_listed = async |id: &str| {
        let path = format!("/distributed_file_grid/head_servers/{id}");
        client.exists(path, ReadLevel::Linearizable).await.expect("a read").is_some()
    };
    let mut first = monitor(&ensemble, "monitor-1").await;
    says(&mut first, "monitor-1 acts from now on").await;
    let mut second = monitor(&ensemble, "monitor-2").await;
    // The session of this one outlives all of this: only its heartbeats can tell that it stands still.
    let mut stopped = announce(&ensemble, "head_server_1", "5m").await;
    let mut killed = announce(&ensemble, "head_server_2", "2s").await;
    let mut last = HeadServer::new();
    last.start().await;
    second.send(&format!("register head_server_3 127.0.0.1:{}", last.port));
    for monitor in [&first, &second] {
        for id in ["head_server_1", "head_server_2", "head_server_3"] {
            has_said(monitor, &format!("{id} is healthy, was unknown")).await;
        }
    }
    leads("head_server_1").await;

    // Stopped, it is there and its port takes connections; its heartbeat is stale.
    stopped.pause();
    leads("head_server_2").await;
    assert!(is_listed("head_server_1").await);
    for monitor in [&first, &second] {
        has_said(monitor, "head_server_1 is quarantined, was suspect: ").await;
    }
    let lines = first.lines();
    let why = lines.iter().rfind(|line| line.text.starts_with("head_server_1 is quarantined")).expect("said");
    assert!(why.text.contains("heartbeat"), "{}", why.text);
    stopped.resume();
    leads("head_server_1").await;

    // Killed, it vanishes with its session; one that is registered would stay.
    killed.kill9();
    eventually(SOON, "it vanishes", async || !is_listed("head_server_2").await).await;
    for monitor in [&first, &second] {
        has_said(monitor, "head_server_2 is registered no more").await;
    }
    leads("head_server_1").await;

    // The monitor that acts is cut off: the other one acts, and what it is cut off from changes without it.
    assert_eq!(leader().await["elected_by"], "monitor-1");
    first.cut_off();
    says(&mut first, "monitor-1 acts no more").await;
    says(&mut second, "monitor-2 acts from now on").await;
    assert!(stopped.terminate().await.success());
    leads("head_server_3").await;
    assert_eq!(leader().await["elected_by"], "monitor-2");
    assert!(!is_listed("head_server_1").await, "who leaves is gone at once");
    first.heal();
    eventually(SOON, "it is a monitor again", async || {
        let path = "/distributed_file_grid/health_reports/head_server_3/monitor-1";
        client.exists(path, ReadLevel::Linearizable).await.expect("a read").is_some()
    })
    .await;
    has_said(&first, "the leader is head_server_3 at 127.0.0.1:").await;
    assert_eq!(leader().await["elected_by"], "monitor-2", "a monitor that comes back changes nothing");
    for monitor in [&mut first, &mut second] {
        monitor.send("quit");
        assert!(monitor.wait_exit().await.success());
    }
}

fn acts(monitor: &Contender) -> bool {
    let lines = monitor.lines();
    let last = lines.iter().rfind(|line| line.text.contains(" acts "));
    last.is_some_and(|line| line.text.contains("acts from now on"))
}
