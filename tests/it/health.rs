//! Health: what checks see of targets that die, stop and are cut off, and what is made of it when monitors do.

use std::time::{Duration, Instant};

use coordd_client::recipes::Sessions;
use coordd_client::recipes::health::{
    HealthCheck, HealthMonitor, HealthOptions, HealthPolicy, HealthReports, HealthStatus, HealthTarget,
    HttpCheck, Verdict,
};
use coordd_client::recipes::registry::{RegistryOptions, ServiceProvider, ServiceRegistry};
use coordd_client::{ConnectOptions, ErrorKind, ReadLevel};
use coordd_tests::{BlackHole, Contender, Ensemble, EnsembleOptions, eventually, free_port};
use futures::StreamExt as _;

const SECOND: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(10);
const ROOT: &str = "/grid";

async fn sessions(ensemble: &Ensemble, timeout: Duration) -> Sessions {
    let options = ConnectOptions::new().session_timeout(timeout);
    Sessions::connect(ensemble.endpoints(), options).await.expect("a session")
}

fn options() -> HealthOptions {
    let policy = HealthPolicy { failures: 2, quarantine: SECOND / 2, successes: 2 };
    HealthOptions::new().interval(SECOND / 10).timeout(3 * SECOND / 10).policy(policy)
}

/// A process that answers HTTP, and nothing else but 405 to a GET of this path.
async fn http_server(ensemble: &Ensemble, id: &str, port: u16, args: &[&str]) -> Contender {
    let port = port.to_string();
    let mut all = vec!["--name", id, "--services", "cart", "--port", &port, "--session-timeout", "60s"];
    all.extend(args);
    let mut contender = Contender::spawn(ensemble, "instance", &all).await;
    contender.event(SOON, "registered").await;
    contender
}

fn http_check(address: &str) -> HealthCheck {
    HttpCheck::new(&format!("http://{address}/services/cart/api/who")).expect("an address").status(405).into()
}

/// The status of each target, by its name, in short: healthy, suspect, quarantined, unknown.
fn statuses(monitor: &HealthMonitor) -> String {
    let letter = |status: HealthStatus| status.name().chars().next().expect("a name");
    monitor.reports().into_values().map(|report| letter(report.status)).collect()
}

async fn becomes(monitor: &HealthMonitor, expected: &str) -> Duration {
    let (start, mut seen) = (Instant::now(), statuses(monitor));
    while seen != expected {
        assert!(start.elapsed() < SOON, "{expected:?}, but {seen:?}: {:#?}", monitor.reports());
        tokio::time::sleep(SECOND / 100).await;
        seen = statuses(monitor);
    }
    start.elapsed()
}

fn why(monitor: &HealthMonitor, target: &str) -> String {
    monitor.report(target).expect("it is checked").why
}

/// Servers are killed, stopped and cut off: each is out after two failures, and back when it answers again. The monitor's
/// reports say so in the tree, and are gone with it.
#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_check_sees_its_server_die_stop_and_come_back() {
    let ensemble = Ensemble::start(3).await;
    let mut other = EnsembleOptions::new(1).start_beside(&ensemble).await;
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let mut server = http_server(&ensemble, "a", port, &[]).await;
    let hole = BlackHole::to(&address).await;
    let file = ensemble.scratch().join("ready");
    std::fs::write(&file, "").expect("a file");

    let sessions = sessions(&ensemble, 10 * SECOND).await;
    let monitor = HealthMonitor::start(&sessions, ROOT, "m", options()).await.expect("a monitor");
    let watch = |id: &str, check: HealthCheck| monitor.watch(HealthTarget::new(id, check)).expect("a target");
    watch("1-tcp", HealthCheck::tcp(&address).expect("an address"));
    watch("2-http", http_check(&address));
    watch("3-grpc", HealthCheck::grpc(other.endpoint(1), "").expect("an address"));
    watch("4-hole", http_check(&hole.endpoint()));
    watch("5-command", HealthCheck::command(format!("test -e {}", file.display())).expect("a command"));
    becomes(&monitor, "hhhhh").await;

    // Stopped: the kernel still accepts its connections, and nobody answers.
    server.pause();
    becomes(&monitor, "hqhqh").await;
    assert_eq!(why(&monitor, "2-http"), "no answer within 300ms");
    server.resume();
    becomes(&monitor, "hhhhh").await;
    assert!(why(&monitor, "2-http").contains("checks in a row passed, after"), "{}", why(&monitor, "2-http"));

    other.pause(1);
    becomes(&monitor, "hhqhh").await;
    other.resume(1);
    hole.cut_off();
    std::fs::remove_file(&file).expect("it is there");
    becomes(&monitor, "hhhqq").await;
    assert_eq!(why(&monitor, "5-command"), "exit code 1");
    hole.heal();

    server.kill9();
    let took = becomes(&monitor, "qqhqq").await;
    println!("killed: out after {took:?}");
    // Two checks from here on, and what the machine makes of it.
    assert!(took < SECOND, "{took:?}");
    assert!(why(&monitor, "1-tcp").contains("refused"), "{}", why(&monitor, "1-tcp"));
    std::fs::write(&file, "").expect("a file");
    becomes(&monitor, "qqhqh").await;

    let statistics = monitor.statistics();
    assert_eq!((statistics.targets, statistics.healthy, statistics.quarantined), (5, 2, 3));
    let report = monitor.report("2-http").expect("it is checked");
    assert!(report.quarantines == 2 && report.failures < report.checks, "{report:?}");
    let latency = report.latency.expect("it has passed");
    assert!(latency.last_us > 0 && latency.average_us <= latency.p99_us, "{latency:?}");

    // What others see.
    let reports = HealthReports::start(&sessions, ROOT);
    reports.wait_ready().await.expect("the reports");
    let expected = "1-tcp unhealthy, 2-http unhealthy, 3-grpc healthy, 4-hole unhealthy, 5-command healthy";
    eventually(SOON, "the reports are in the tree", async || {
        let view = reports.view();
        view.verdicts().map(|(id, verdict)| format!("{id} {verdict}")).collect::<Vec<_>>().join(", ")
            == expected
    })
    .await;

    server = http_server(&ensemble, "b", port, &[]).await;
    becomes(&monitor, "hhhhh").await;
    // A target that is removed takes its report with it, and so does a monitor.
    assert!(monitor.remove("1-tcp") && !monitor.remove("1-tcp"));
    assert_eq!(monitor.check_now("1-tcp").await.expect_err("no target").kind, ErrorKind::BadArguments);
    let client = sessions.newest().expect("a session");
    let listed = async |path: &str| client.children(path, ReadLevel::Local).await.unwrap_or_default();
    eventually(SOON, "its report goes", async || listed("/grid/health_reports/1-tcp").await.is_empty()).await;
    drop(server);
    monitor.stop().await;
    assert_eq!(listed("/grid/monitors").await, [""; 0]);
    for target in ["2-http", "3-grpc", "4-hole", "5-command"] {
        assert_eq!(listed(&format!("/grid/health_reports/{target}")).await, [""; 0]);
    }
    assert!(!client.state().is_terminal(), "it was not the end of the session that removed them");
}

/// A check that is forced does not wait for its turn, and the changes are told from the beginning.
#[tokio::test(flavor = "multi_thread")]
async fn a_forced_check_counts_and_is_answered() {
    let ensemble = Ensemble::start(1).await;
    let sessions = sessions(&ensemble, 10 * SECOND).await;
    let rare = options().interval(3_600 * SECOND);
    let monitor = HealthMonitor::start(&sessions, ROOT, "m", rare.clone()).await.expect("a monitor");
    let mut changes = monitor.changes();
    let target = HealthTarget::new("node", HealthCheck::tcp(ensemble.endpoint(1)).expect("an address"));
    monitor.watch(target.clone()).expect("a target");
    let first = changes.next().await.expect("a change");
    assert_eq!(
        (first.target.as_str(), first.old, first.new),
        ("node", HealthStatus::Unknown, HealthStatus::Healthy)
    );
    monitor.watch(target.clone()).expect("the same again is nothing new");
    for checks in 2..5 {
        assert_eq!(monitor.check_now("node").await.expect("a report").checks, checks);
    }
    // Another check under the same name begins anew.
    let nobody = format!("127.0.0.1:{}", free_port());
    monitor
        .watch(HealthTarget::new("node", HealthCheck::tcp(nobody).expect("an address")))
        .expect("a target");
    eventually(SOON, "its first check", async || {
        monitor.report("node").is_some_and(|report| report.checks == 1)
    })
    .await;
    let report = monitor.check_now("node").await.expect("a report");
    assert_eq!((report.status, report.checks), (HealthStatus::Quarantined, 2));
    let change = changes.next().await.expect("a change");
    assert_eq!((change.old, change.new), (HealthStatus::Unknown, HealthStatus::Quarantined));

    // One name is one monitor: the second waits until the first is gone.
    let second = HealthMonitor::start(&sessions, ROOT, "m", rare.clone());
    let mut second = std::pin::pin!(second);
    assert!(tokio::time::timeout(SECOND / 2, &mut second).await.is_err(), "two monitors of one name");
    drop(monitor);
    let second = tokio::time::timeout(SOON, second).await.expect("in time").expect("a monitor");
    assert_eq!(second.check_now("node").await.expect_err("no target").kind, ErrorKind::BadArguments);
    assert_eq!(changes.next().await, None, "the changes end with their monitor");
    for bad in ["a/b", ""] {
        let refused = HealthMonitor::start(&sessions, ROOT, bad, rare.clone()).await.expect_err("no name");
        assert_eq!(refused.kind, ErrorKind::BadArguments);
    }
    let refused = HealthMonitor::start(&sessions, ROOT, "n", rare.timeout(Duration::ZERO)).await;
    assert_eq!(refused.expect_err("it cannot work").kind, ErrorKind::BadArguments);
}

/// Three monitors and one target that works: whichever monitor is cut off from the target or from the ensemble, killed or
/// stopped, the target is not condemned; a monitor that is gone has no say, and one that comes back has.
#[tokio::test(flavor = "multi_thread")]
async fn monitors_that_die_stop_or_are_cut_off_condemn_nobody() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let ensemble = Ensemble::start(3).await;
    let target = ensemble.endpoint(1);
    let mut monitors = Vec::new();
    for name in ["m1", "m2", "m3"] {
        // Each has a way of its own to the target.
        let hole = BlackHole::to(&target).await;
        let args = ["--name", name, "--session-timeout", "1s"];
        let mut monitor = Contender::spawn(&ensemble, "health", &args).await;
        monitor.event(SOON, "monitors").await;
        monitor.send(&format!("watch node grpc://{}", hole.endpoint()));
        monitors.push((monitor, hole));
    }
    let observer = sessions(&ensemble, 10 * SECOND).await;
    let reports = HealthReports::start(&observer, ROOT);
    reports.wait_ready().await.expect("the reports");
    let said = || {
        let view = reports.view();
        let one = |report: &coordd_client::recipes::health::HealthReport| {
            format!("{} {}", report.monitor, report.status)
        };
        view.reports("node").iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let say = async |expected: &str| {
        let mut last = String::new();
        let took = eventually(SOON, expected, async || {
            let now = said();
            if now != last {
                println!("{now}");
                last = now;
            }
            last == expected
        });
        took.await
    };
    say("m1 healthy, m2 healthy, m3 healthy").await;
    let views = reports.views();
    let condemned =
        tokio::spawn(views.any(|view| std::future::ready(view.verdict("node") == Verdict::Unhealthy)));

    // Cut off from the target only.
    monitors[2].1.cut_off();
    say("m1 healthy, m2 healthy, m3 quarantined").await;
    assert_eq!(reports.view().verdict("node"), Verdict::Healthy);

    monitors[0].0.kill9();
    let took = say("m2 healthy, m3 quarantined").await;
    println!("killed: its reports are gone after {took:?}");
    assert!(took < TIMEOUT + SECOND, "{took:?}");

    // From the ensemble.
    monitors[2].0.cut_off();
    say("m2 healthy").await;
    monitors[2].0.heal();
    say("m2 healthy, m3 quarantined").await;
    monitors[2].1.heal();
    say("m2 healthy, m3 healthy").await;

    // Stopped beyond the session's timeout, and that of a check which is under way. When it goes on, that check is not the
    // target's failure.
    let pauses = Instant::now();
    monitors[1].0.pause();
    say("m3 healthy").await;
    tokio::time::sleep((3 * SECOND).saturating_sub(pauses.elapsed())).await;
    monitors[1].0.resume();
    say("m2 healthy, m3 healthy").await;
    let changes = monitors[1].0.events("change");
    let changes: Vec<_> = changes.iter().map(|change| change.string("new")).collect();
    assert!(changes.iter().all(|status| ["healthy", "unknown"].contains(status)), "{changes:?}");

    assert!(!condemned.is_finished(), "some view condemned the target");
    monitors[1].0.end_input();
    assert!(monitors[1].0.wait_exit().await.success());
    say("m3 healthy").await;
}

fn ids(provider: &ServiceProvider) -> String {
    provider.instances().iter().map(|instance| instance.id.as_str()).collect()
}

/// Instances of a service that keep their session and do not answer, or do not write their heartbeat, are called no more
/// once a majority of the monitors says so.
#[tokio::test(flavor = "multi_thread")]
async fn callers_skip_what_a_majority_of_the_monitors_has_in_quarantine() {
    let ensemble = Ensemble::start(3).await;
    let registry =
        |sessions| ServiceRegistry::new(sessions, "/registry", RegistryOptions::new()).expect("a registry");
    let caller = registry(sessions(&ensemble, 10 * SECOND).await);
    let provider = caller.provider("cart").await.expect("a provider");
    let sees = async |expected: &str| {
        let seen = provider.wait_until(|provider| ids(provider) == expected);
        let seen = tokio::time::timeout(SOON, seen).await;
        assert!(seen.is_ok(), "{expected:?}, but {:?}", ids(&provider));
    };
    let _a = http_server(&ensemble, "a", free_port(), &[]).await;
    let b = http_server(&ensemble, "b", free_port(), &[]).await;
    // It has written its heartbeat when it was registered, and will not again.
    let mut c = http_server(&ensemble, "c", free_port(), &["--heartbeat", "1h"]).await;
    sees("abc").await;

    let mut monitors = Vec::new();
    for name in ["m1", "m2", "m3"] {
        let registry = registry(sessions(&ensemble, 10 * SECOND).await);
        let options = options().stale_after(3 * SECOND / 2);
        let monitor = registry.monitor("cart", name, options, |instance| Ok(http_check(&instance.address())));
        monitors.push(monitor.await.expect("a monitor"));
    }
    sees("ab").await;
    let quarantined: Vec<_> = provider.quarantined().iter().map(|instance| instance.id.clone()).collect();
    assert_eq!(quarantined, ["c"]);
    assert_eq!(provider.all_instances().len(), 3);
    for monitor in &monitors {
        becomes(monitor, "hhq").await;
        assert!(why(monitor, "c").contains("its last heartbeat is"), "{}", why(monitor, "c"));
    }
    b.pause();
    let start = Instant::now();
    sees("a").await;
    println!("stopped: called no more after {:?}", start.elapsed());
    b.resume();
    sees("ab").await;

    // A change of its status is a heartbeat.
    c.send("drain");
    c.event(SOON, "draining").await;
    c.send("retire 0");
    c.event(SOON, "retired").await;
    for monitor in &monitors {
        becomes(monitor, "hh").await;
    }
    // Without monitors the instance's own word counts.
    b.pause();
    sees("a").await;
    for monitor in monitors {
        monitor.stop().await;
    }
    sees("ab").await;
}
