//! Service discovery: who is seen, who is called, and what callers notice when instances come, go, stop and hang.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use coordd_client::ConnectOptions;
use coordd_client::recipes::registry::{
    BreakerState, CallError, CallOptions, Mode, RegistryChannel, RegistryOptions, ServiceConfig, ServiceHost,
    ServiceInstance, ServiceProvider, ServiceProxy, ServiceRegistry,
};
use coordd_client::recipes::{CacheView, Sessions, Strategy, TreeCache};
use coordd_client::{CreateMode, EndReason, ErrorKind, ReadLevel, SessionState};
use coordd_tests::{Contender, Ensemble, eventually, free_port};
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

const SECOND: Duration = Duration::from_secs(1);
const ROOT: &str = "/registry";
const SOON: Duration = Duration::from_secs(10);

async fn sessions(ensemble: &Ensemble, timeout: Duration) -> Sessions {
    let options = ConnectOptions::new().session_timeout(timeout);
    Sessions::connect(ensemble.endpoints(), options).await.expect("a session")
}

async fn registry(ensemble: &Ensemble, options: RegistryOptions) -> ServiceRegistry {
    ServiceRegistry::new(sessions(ensemble, 10 * SECOND).await, ROOT, options).expect("a registry")
}

async fn instance(ensemble: &Ensemble, id: &str, services: &str, args: &[&str]) -> Contender {
    let port = free_port().to_string();
    let mut all = vec!["--name", id, "--services", services, "--port", &port];
    all.extend(args);
    let mut contender = Contender::spawn(ensemble, "instance", &all).await;
    contender.event(SOON, "registered").await;
    contender
}

fn ids(provider: &ServiceProvider) -> String {
    provider.instances().iter().map(|instance| instance.id.as_str()).collect()
}

/// Waits until a provider sees exactly these; returns how long that took.
async fn sees(provider: &ServiceProvider, expected: &str, within: Duration) -> Duration {
    let start = Instant::now();
    let seen = tokio::time::timeout(within, provider.wait_until(|provider| ids(provider) == expected)).await;
    assert!(seen.is_ok(), "not within {within:?}: {expected:?}, but {:?}", ids(provider));
    start.elapsed()
}

async fn who(proxy: &ServiceProxy) -> Result<String, CallError> {
    proxy.call("who", []).await.map(|answer| answer.as_str().unwrap_or_default().to_owned())
}

/// Who answers so many calls, and how often.
async fn callees(proxy: &ServiceProxy, calls: usize) -> BTreeMap<String, usize> {
    let mut callees = BTreeMap::new();
    for _ in 0..calls {
        *callees.entry(who(proxy).await.expect("an answer")).or_default() += 1;
    }
    callees
}

/// What is wrong with a state of the tree: a record without its announcements, or the other way round.
fn split(view: &CacheView) -> Option<String> {
    let records: BTreeMap<&str, Value> = view
        .children("/registry/nodes")
        .filter_map(|znode| Some((znode.path.rsplit('/').next()?, serde_json::from_slice(&znode.data).ok()?)))
        .collect();
    let recorded = records.iter().flat_map(|(id, record)| {
        let services = record["services"].as_array().into_iter().flatten().filter_map(Value::as_str);
        services.map(move |service| format!("/registry/services/{service}/instances/{id}"))
    });
    let mut recorded: Vec<String> = recorded.collect();
    recorded.sort();
    let announced = view.iter().filter(|znode| znode.path.contains("/instances/"));
    let mut announced: Vec<String> = announced.map(|znode| znode.path.to_string()).collect();
    announced.sort();
    (recorded != announced).then(|| format!("at {}: {recorded:?} and {announced:?}", view.zxid()))
}

/// One that is killed and one that is stopped are out of every view within the session timeout and a second; the one that
/// was stopped is back after SIGCONT, in a new session, without being started again. No state of the tree has a record
/// without its announcements.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_dies_or_stops_is_out_of_every_view_and_comes_back_by_itself() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let ensemble = Ensemble::start(3).await;
    let mut providers = Vec::new();
    for _ in 0..2 {
        let registry = registry(&ensemble, RegistryOptions::new()).await;
        providers.push(registry.provider("cart").await.expect("a provider"));
    }
    let observer = sessions(&ensemble, 10 * SECOND).await;
    let cache = TreeCache::start(&observer, ROOT);
    let splits = tokio::spawn(cache.views().map(|view| split(&view)).collect::<Vec<_>>());

    let args = ["--session-timeout", "1s"];
    let _a = instance(&ensemble, "a", "cart,search", &args).await;
    let b = instance(&ensemble, "b", "cart", &args).await;
    let mut c = instance(&ensemble, "c", "cart,stock,search", &args).await;
    for provider in &providers {
        sees(provider, "abc", SOON).await;
    }

    c.kill9();
    let killed = Instant::now();
    for provider in &providers {
        sees(provider, "ab", TIMEOUT + 2 * SECOND).await;
    }
    println!("killed: out of all views after {:?}", killed.elapsed());

    b.pause();
    let paused = Instant::now();
    for provider in &providers {
        sees(provider, "a", TIMEOUT + 2 * SECOND).await;
    }
    println!("stopped: out of all views after {:?}", paused.elapsed());
    b.resume();
    let resumed = Instant::now();
    for provider in &providers {
        sees(provider, "ab", SOON).await;
    }
    println!("going on: back in all views after {:?}", resumed.elapsed());

    observer.close().await.expect("it closes");
    let splits = splits.await.expect("the observer sees states");
    assert!(splits.len() > 5, "{splits:?}");
    assert_eq!(splits.into_iter().flatten().collect::<Vec<_>>(), [""; 0]);
}

/// A change of the configured mode, or strategy, re-routes callers while they run.
#[tokio::test(flavor = "multi_thread")]
async fn callers_follow_the_configured_mode_and_strategy_without_a_restart() {
    let ensemble = Ensemble::start(3).await;
    let host = ServiceHost::new().service("cart", |_, _| async { Ok(json!("me")) });
    let registry = registry(&ensemble, RegistryOptions::new().local("me").host(host)).await;
    let proxy = registry.proxy("cart").await.expect("a proxy");
    let provider = proxy.provider();
    let unavailable = who(&proxy).await.expect_err("there is nobody");
    assert!(matches!(unavailable, CallError::Unavailable { .. }), "{unavailable}");

    let mut a = instance(&ensemble, "a", "cart", &[]).await;
    let mut b = instance(&ensemble, "b", "cart", &[]).await;
    sees(provider, "ab", SOON).await;
    let configure = async |config: ServiceConfig| {
        registry.configure("cart", &config).await.expect("it is stored");
        let follows = provider.wait_until(|provider| provider.config() == config);
        tokio::time::timeout(SOON, follows).await.expect("the provider follows");
    };
    let shares = |pairs: &[(&str, usize)]| -> BTreeMap<String, usize> {
        pairs.iter().map(|(id, share)| ((*id).to_owned(), *share)).collect()
    };

    assert_eq!(callees(&proxy, 10).await, shares(&[("a", 5), ("b", 5)]), "round robin is the default");
    configure(ServiceConfig::new(Mode::LocalFirst)).await;
    assert_eq!(callees(&proxy, 4).await, shares(&[("a", 2), ("b", 2)]), "there is no local instance yet");
    configure(ServiceConfig::new(Mode::Local)).await;
    assert!(matches!(who(&proxy).await, Err(CallError::Unavailable { .. })));

    // Nobody listens on this port: a call that is routed here must stay in the process.
    let local = ServiceInstance::new("me", "127.0.0.1", free_port()).service("cart");
    let registration = registry.register(local).await.expect("it is registered");
    sees(provider, "abme", SOON).await;
    assert_eq!(callees(&proxy, 4).await, shares(&[("me", 4)]));
    configure(ServiceConfig::new(Mode::LocalFirst)).await;
    assert_eq!(callees(&proxy, 4).await, shares(&[("me", 4)]));
    configure(ServiceConfig::new(Mode::Replicated)).await;
    assert_eq!(provider.route(&CallOptions::new()).expect("all").len(), 3);
    let answers = proxy.call_all("who", []).await;
    let answers: Vec<_> = answers.into_iter().map(|(_, answer)| answer.expect("an answer")).collect();
    assert_eq!(answers, [json!("a"), json!("b"), json!("me")]);
    registration.deregister().await;
    sees(provider, "ab", SOON).await;

    configure(ServiceConfig::new(Mode::Distributed).strategy(Strategy::Sticky)).await;
    let sticky = proxy.with_options(CallOptions::new().key("session-1"));
    let first = who(&sticky).await.expect("an answer");
    assert_eq!(callees(&sticky, 10).await, shares(&[(&first, 10)]));
    configure(ServiceConfig::new(Mode::Distributed).strategy(Strategy::ConsistentHash)).await;
    let other = self::registry(&ensemble, RegistryOptions::new()).await.proxy("cart").await.expect("a proxy");
    sees(other.provider(), "ab", SOON).await;
    for key in 0..20 {
        let options = CallOptions::new().key(key.to_string());
        let (one, two) = (proxy.with_options(options.clone()), other.with_options(options));
        assert_eq!(who(&one).await, who(&two).await, "callers agree on key {key}");
    }
    configure(ServiceConfig::new(Mode::Distributed).strategy(Strategy::LeastLoaded)).await;
    a.send("load 0.9");
    b.send("load 0.1");
    let knows = |provider: &ServiceProvider| {
        provider.instances().iter().map(|instance| instance.load).collect::<Vec<_>>() == [0.9, 0.1]
    };
    tokio::time::timeout(SOON, provider.wait_until(knows)).await.expect("heartbeats bring the load");
    assert_eq!(callees(&proxy, 10).await, shares(&[("b", 10)]));

    // Rubbish does not replace what was valid.
    let client = ensemble.client(10 * SECOND).await;
    client.set("/registry/config/services/cart", "{", None).await.expect("anybody may");
    let refused = proxy.call("dance", []).await.expect_err("no such method");
    assert!(matches!(&refused, CallError::Refused { status: 404, .. }), "{refused}");
    assert_eq!(provider.config().strategy, Strategy::LeastLoaded);

    // The one that drains is not called; what it does is finished.
    let slow = tokio::spawn({
        let proxy = proxy.clone();
        async move { proxy.call("sleep", [json!(800)]).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    b.send("retire 1000");
    sees(provider, "a", SOON).await;
    assert_eq!(callees(&proxy, 4).await, shares(&[("a", 4)]));
    assert_eq!(slow.await.expect("no panic"), Ok(json!("b")));
    b.event(SOON, "retired").await;
}

/// In mode `leader-based` calls go to who leads, and after its death to its successor.
#[tokio::test(flavor = "multi_thread")]
async fn leader_based_calls_follow_a_fail_over() {
    let ensemble = Ensemble::start(3).await;
    let registry = registry(&ensemble, RegistryOptions::new()).await;
    registry.configure("jobs", &ServiceConfig::new(Mode::LeaderBased)).await.expect("it is stored");
    let proxy = registry.proxy("jobs").await.expect("a proxy");
    let args = ["--session-timeout", "1s", "--campaign", "jobs"];
    let mut instances = BTreeMap::new();
    for id in ["a", "b", "c"] {
        instances.insert(id.to_owned(), instance(&ensemble, id, "jobs", &args).await);
    }
    let waiting =
        proxy.with_options(CallOptions::new().wait_for_instance(true).idempotent(true).timeout(SOON));
    for _ in 0..2 {
        let leader = who(&waiting).await.expect("somebody leads");
        assert_eq!(callees(&proxy, 5).await, BTreeMap::from([(leader.clone(), 5)]));
        assert_eq!(proxy.provider().leader(), Some(leader.clone()));
        instances.remove(&leader).expect("it is one of them").kill9();
        let start = Instant::now();
        let next = who(&waiting).await.expect("the successor answers");
        println!("{leader} was killed; {next} answers after {:?}", start.elapsed());
        assert!(start.elapsed() < 3 * SECOND, "{:?}", start.elapsed());
        assert_ne!(next, leader);
    }
}

/// An instance that accepts and does not answer: calls stay below their timeout, its breaker opens and spares the
/// others' time; once it answers again it is called again.
#[tokio::test(flavor = "multi_thread")]
async fn the_breaker_of_a_hanging_instance_opens_and_closes_again() {
    let ensemble = Ensemble::start(3).await;
    let registry = registry(&ensemble, RegistryOptions::new()).await;
    let proxy = registry.proxy("cart").await.expect("a proxy");
    let provider = proxy.provider();
    // Its session outlives the pause: only its calls tell.
    let args = ["--session-timeout", "60s"];
    let _a = instance(&ensemble, "a", "cart", &args).await;
    let b = instance(&ensemble, "b", "cart", &args).await;
    sees(provider, "ab", SOON).await;
    const TIMEOUT: Duration = Duration::from_millis(1500);
    let careful = proxy.with_options(CallOptions::new().idempotent(true).timeout(TIMEOUT));
    callees(&careful, 4).await;

    b.pause();
    let mut longest = Duration::ZERO;
    for _ in 0..30 {
        let start = Instant::now();
        assert_eq!(who(&careful).await.as_deref(), Ok("a"), "the retry meets the other");
        longest = longest.max(start.elapsed());
    }
    assert!(longest < TIMEOUT, "{longest:?}");
    assert!(longest >= TIMEOUT / 3, "{longest:?}: nobody hung");
    let open = |provider: &ServiceProvider| {
        provider.breakers().iter().any(|(id, state)| id == "b" && *state != BreakerState::Closed)
    };
    assert!(open(provider), "{:?}", provider.breakers());
    let start = Instant::now();
    let mut fast = 0;
    while start.elapsed() < SECOND {
        let call = Instant::now();
        who(&careful).await.expect("an answer");
        fast += usize::from(call.elapsed() < TIMEOUT / 3);
    }
    println!("longest call {longest:?}; with the breaker open {fast} fast calls in a second");
    // With it closed every other call would meet the one that hangs.
    assert!(fast > 20, "{fast} calls");
    // What is not idempotent is not sent twice.
    b.resume();
    eventually(SOON, "b is called again", async || callees(&careful, 4).await.contains_key("b")).await;
    eventually(SOON, "its breaker closes", async || !open(provider)).await;
    b.pause();
    let strict = proxy.with_options(CallOptions::new().timeout(TIMEOUT / 3));
    let mut timed_out = 0;
    for _ in 0..4 {
        timed_out += usize::from(matches!(who(&strict).await, Err(CallError::TimedOut { .. })));
    }
    assert_eq!(timed_out, 2, "every other call, because none was repeated");
}

/// A process that keeps its session but does not write heartbeats is not called; who writes them is.
#[tokio::test(flavor = "multi_thread")]
async fn a_stale_heartbeat_takes_an_instance_out_although_its_session_lives() {
    let ensemble = Ensemble::start(3).await;
    let options = RegistryOptions::new().stale_after(3 * SECOND);
    let provider = registry(&ensemble, options).await.provider("cart").await.expect("a provider");
    let _quick = instance(&ensemble, "a", "cart", &["--heartbeat", "300ms"]).await;
    let mut slow = instance(&ensemble, "b", "cart", &["--heartbeat", "1h"]).await;
    sees(&provider, "ab", SOON).await;
    let out = sees(&provider, "a", SOON).await;
    println!("stale after 3 s: out after {out:?}");
    assert!(out > SECOND, "{out:?}");
    assert_eq!(provider.all_instances().len(), 2);
    // A node that dies meanwhile makes nobody else stale.
    slow.send("drain");
    slow.event(SOON, "draining").await;
    let mut seen = Vec::new();
    let start = Instant::now();
    while start.elapsed() < 2 * SECOND {
        seen.push(ids(&provider));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(seen.iter().all(|ids| ids == "a"), "{seen:?}");
}

/// Registrations in this process: what becomes of them when handles are dropped, ids are taken, sessions are killed, and
/// other hands interfere.
#[tokio::test(flavor = "multi_thread")]
async fn a_registration_lasts_as_long_as_its_handle_and_no_longer() {
    let ensemble = Ensemble::start(3).await;
    let options = RegistryOptions::new().heartbeat(Duration::from_millis(200));
    let sessions = sessions(&ensemble, 2 * SECOND).await;
    let registry = ServiceRegistry::new(sessions.clone(), ROOT, options.clone()).expect("a registry");
    let provider = registry.provider("cart").await.expect("a provider");
    let client = ensemble.client(10 * SECOND).await;
    let cart = |id: &str| ServiceInstance::new(id, "127.0.0.1", 1).service("cart");

    let registration = registry.register(cart("a")).await.expect("it is registered");
    sees(&provider, "a", SOON).await;
    let epoch = registration.epoch().expect("it is registered");
    let record = client.exists("/registry/nodes/a", ReadLevel::Linearizable).await.expect("a read");
    assert_eq!(record.expect("a record").czxid, epoch);
    registration.set_metadata("zone", Some("north".into())).await.expect("it is written");
    let zone = |provider: &ServiceProvider| provider.instances()[0].metadata.get("zone").cloned();
    eventually(SOON, "the view has it", async || zone(&provider).as_deref() == Some("north")).await;

    // The same id in another session waits, and takes over.
    let other = self::registry(&ensemble, options).await;
    let second = tokio::spawn(async move { other.register(cart("a")).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!second.is_finished(), "two instances of one id");
    drop(registration);
    let second = tokio::time::timeout(SOON, second).await.expect("in time").expect("no panic");
    let second = second.expect("it takes over");
    assert!(second.epoch() > Some(epoch));

    // So does another handle in the same session.
    let epoch = second.epoch();
    let same = registry.clone();
    let third = tokio::spawn(async move { same.register(cart("a")).await.expect("it takes over") });
    let fourth = tokio::spawn({
        let same = registry.clone();
        async move { same.register(cart("a")).await.expect("it takes over") }
    });
    tokio::time::sleep(SECOND / 2).await;
    assert!(!third.is_finished() && !fourth.is_finished(), "two instances of one id");
    assert_eq!(second.epoch(), epoch, "they left it alone");
    second.deregister().await;
    let (third, fourth) = futures::future::select(third, fourth).await.into_inner();
    let third = third.expect("no panic");
    let epoch = third.epoch();
    tokio::time::sleep(SECOND / 2).await;
    assert!(!fourth.is_finished(), "two instances of one id in one session");
    assert_eq!(third.epoch(), epoch, "two of one session left each other alone");
    drop(third);
    let fourth = tokio::time::timeout(SOON, fourth).await.expect("in time").expect("no panic");
    assert!(fourth.epoch() > epoch);
    fourth.deregister().await;
    assert_eq!(client.children("/registry/nodes", ReadLevel::Linearizable).await, Ok(vec![]));
    assert_eq!(
        client.children("/registry/services/cart/instances", ReadLevel::Linearizable).await,
        Ok(vec![])
    );

    // A future that is dropped leaves nothing behind, also one that waits.
    let held = client.create("/registry/services/cart/instances/b", "{}", CreateMode::Ephemeral).await;
    held.expect("an ephemeral of somebody else");
    let waiting = tokio::time::timeout(SECOND / 2, registry.register(cart("b"))).await;
    assert!(waiting.is_err(), "the id is taken");
    client.delete("/registry/services/cart/instances/b", None).await.expect("it is deleted");
    tokio::time::sleep(SECOND / 2).await;
    assert_eq!(client.children("/registry/nodes", ReadLevel::Linearizable).await, Ok(vec![]));

    // What another hand deletes is made anew, as a whole.
    let registration = registry.register(cart("c")).await.expect("it is registered");
    sees(&provider, "c", SOON).await;
    let first = registration.epoch();
    client.delete("/registry/services/cart/instances/c", None).await.expect("it is deleted");
    eventually(SOON, "a new epoch", async || registration.epoch().is_some_and(|epoch| Some(epoch) > first))
        .await;
    sees(&provider, "c", SOON).await;

    // A session that is ended by an operator is not the end.
    let killed = sessions.newest().expect("a session");
    let before = registration.epoch();
    let id = format!("{:#x}", killed.session_id());
    ensemble.coordctl(&["session", "kill", &id, "--by", "a test"]).await.expect("it is killed");
    assert!(matches!(killed.ended().await, SessionState::Expired(end) if end.reason == EndReason::Killed));
    eventually(SOON, "a new epoch", async || registration.epoch().is_some_and(|epoch| Some(epoch) > before))
        .await;
    sees(&provider, "c", SOON).await;
    let bad = registry.register(cart("a/b")).await.expect_err("not a name");
    assert_eq!(bad.kind, coordd_client::ErrorKind::BadArguments);
    sessions.close().await.expect("it closes");
    assert_eq!(client.children("/registry/nodes", ReadLevel::Linearizable).await, Ok(vec![]));
    assert!(registration.drain().await.is_err(), "the sessions are closed");
}

/// The connection that a channel keeps breaks with its instance. A call that is not idempotent goes to the other one all the
/// same, because nothing of it was sent, and the other one is not blamed.
#[tokio::test]
async fn a_call_by_grpc_goes_elsewhere_when_its_instance_is_gone() {
    let mut ensemble = Ensemble::start(3).await;
    let registry = registry(&ensemble, RegistryOptions::new()).await;
    let provider = registry.provider("health").await.expect("a provider");
    // The nodes of the ensemble are gRPC servers as good as any.
    let leader = ensemble.leader().await;
    let followers = ensemble.ids_but(leader);
    let mut registrations = Vec::new();
    for (id, node) in ["a", "b"].into_iter().zip(&followers) {
        let endpoint = ensemble.endpoint(*node);
        let (host, port) = endpoint.rsplit_once(':').expect("host:port");
        let instance = ServiceInstance::new(id, host, port.parse().expect("a port")).service("health");
        registrations.push(registry.register(instance).await.expect("it is registered"));
    }
    sees(&provider, "ab", SOON).await;
    let mut health = HealthClient::new(RegistryChannel::new(provider.clone()));
    for _ in 0..4 {
        health.check(HealthCheckRequest::default()).await.expect("an answer");
    }
    assert_eq!(provider.breakers().len(), 2, "both were called");

    let mut other = TcpStream::connect(ensemble.endpoint(followers[0])).await.expect("a connection");
    ensemble.kill9(followers[0]);
    // Whoever is connected to it hears of its end at the same time; a call before that might be lost.
    while other.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {}
    tokio::time::sleep(SECOND / 5).await;
    for call in 0..10 {
        let answer = health.check(HealthCheckRequest::default()).await;
        assert!(answer.is_ok(), "call {call}: {answer:?}");
    }
    let states: BTreeMap<_, _> = provider.breakers().into_iter().collect();
    assert_eq!(states["b"], BreakerState::Closed, "{states:?}");
    assert_ne!(states["a"], BreakerState::Closed, "{states:?}");
}

/// A registration that is refused after it had succeeded says why, until it succeeds again.
#[tokio::test(flavor = "multi_thread")]
async fn later_refusals_are_shown() {
    let ensemble = Ensemble::start(1).await;
    let options = RegistryOptions::new().heartbeat(Duration::from_millis(100));
    let registry = registry(&ensemble, options).await;
    let client = ensemble.client(10 * SECOND).await;
    let instance = ServiceInstance::new("a", "127.0.0.1", 1).service("cart");
    let registration = registry.register(instance).await.expect("it is registered");
    assert_eq!(registration.refusal(), None);
    let record = "/registry/nodes/a";
    let replaced = client.multi().delete(record, None).create(record, "", CreateMode::Persistent);
    replaced.commit().await.expect("another hand");
    eventually(SOON, "the refusal is shown", async || {
        let refusal = registration.refusal();
        refusal.is_some_and(|error| error.kind == ErrorKind::NodeExists && error.path == record)
    })
    .await;
    client.delete(record, None).await.expect("a delete");
    eventually(SOON, "it is registered again", async || registration.refusal().is_none()).await;
    registration.registered().await.expect("it is registered");
}
