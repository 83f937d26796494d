//! The lifecycle of a cluster's node: its steps, taken back in the reverse order, whatever fails.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use coordd_client::recipes::registry::{Mode, ServiceConfig, ServiceError, ServiceInstance};
use coordd_client::recipes::{
    ClusterEvent, ClusterNode, ClusterNodeBuilder, ClusterService, Leadership, NodeContext, ServiceClass,
    Step,
};
use coordd_client::{Client, ConnectOptions, CreateMode, CreateOptions, ErrorKind, ReadLevel};
use coordd_tests::{BlackHole, Ensemble, eventually, free_port};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(2);

/// Says whom it was called at, and notes what is done to it.
struct Noted {
    name: &'static str,
    fails: bool,
    notes: Notes,
}

type Notes = Arc<Mutex<Vec<String>>>;

impl Noted {
    fn new(name: &'static str, notes: &Notes) -> Self {
        Self { name, fails: false, notes: notes.clone() }
    }

    fn note(&self, what: &str) {
        self.notes.lock().expect("no panic").push(format!("{} {what}", self.name));
    }
}

impl ClusterService for Noted {
    async fn start(&self, context: &NodeContext) -> Result<(), ServiceError> {
        assert_eq!(context.root(), "/shop");
        if self.fails {
            return Err(ServiceError::Unavailable("it has no disk".into()));
        }
        self.note("start");
        Ok(())
    }

    async fn call(&self, method: &str, _args: Vec<Value>) -> Result<Value, ServiceError> {
        Ok(json!(format!("{method} of {}", self.name)))
    }

    async fn lead(&self, leadership: Arc<Leadership>) {
        self.note("leads");
        leadership.lost().await;
    }

    async fn stop(&self) {
        self.note("stop");
    }
}

fn builder(id: &str, events: &Arc<Mutex<Vec<ClusterEvent>>>) -> ClusterNodeBuilder {
    let (events, port) = (events.clone(), free_port());
    ClusterNode::builder(ServiceInstance::new(id, "127.0.0.1", port))
        .root("/shop")
        .connect_options(ConnectOptions::new().session_timeout(TIMEOUT))
        .listen(format!("127.0.0.1:{port}"))
        .drain(Duration::from_millis(50))
        .on_event(move |event| events.lock().expect("no panic").push(event.clone()))
}

fn undone(events: &Mutex<Vec<ClusterEvent>>) -> Vec<Step> {
    let events = events.lock().expect("no panic");
    events
        .iter()
        .filter_map(|event| if let ClusterEvent::Undone(step) = event { Some(*step) } else { None })
        .collect()
}

async fn nodes(client: &Client) -> Vec<String> {
    client.children("/shop/nodes", ReadLevel::Linearizable).await.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fails_undoes_those_before_it_and_a_shutdown_undoes_all() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(SOON).await;
    let (notes, events) = (Notes::default(), Arc::<Mutex<Vec<ClusterEvent>>>::default());

    // A service that cannot start.
    let failing = Noted { fails: true, ..Noted::new("third", &notes) };
    let started = builder("a", &events)
        .service("first", ServiceClass::Stateless, Noted::new("first", &notes))
        .service("second", ServiceClass::Distributed, Noted::new("second", &notes))
        .service("third", ServiceClass::Distributed, failing)
        .start(ensemble.endpoints())
        .await;
    let error = started.expect_err("the third service fails");
    assert_eq!(error.step, Step::StartServices);
    assert!(error.to_string().contains("third: it has no disk"), "{error}");
    assert_eq!(
        *notes.lock().expect("no panic"),
        ["first start", "second start", "second stop", "first stop"]
    );
    assert_eq!(undone(&events), [Step::StartServices, Step::Register, Step::Connect]);
    assert!(nodes(&client).await.is_empty());

    // An address that is taken, a registry that cannot be, an ensemble that is not there.
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let error = builder("a", &events).listen(&address).start(ensemble.endpoints()).await.expect_err("taken");
    assert!(error.step == Step::StartServices && error.to_string().contains(&address), "{error}");
    let error = builder("a", &events).root("shop").start(ensemble.endpoints()).await.expect_err("no path");
    assert_eq!(error.step, Step::Register);
    let nowhere = ConnectOptions::new().connect_timeout(Duration::from_millis(300));
    let lost =
        builder("a", &events).connect_options(nowhere).start([format!("127.0.0.1:{}", free_port())]).await;
    assert_eq!(lost.expect_err("nobody is there").step, Step::Connect);
    assert!(nodes(&client).await.is_empty());

    // One that goes well, and is told to leave.
    notes.lock().expect("no panic").clear();
    events.lock().expect("no panic").clear();
    let node = builder("a", &events)
        .service("first", ServiceClass::Stateless, Noted::new("first", &notes))
        .service("second", ServiceClass::LeaderBased, Noted::new("second", &notes))
        .start(ensemble.endpoints())
        .await
        .expect("it starts");
    let done = |event: &ClusterEvent| if let ClusterEvent::Done(step) = event { Some(*step) } else { None };
    let steps: Vec<_> = events.lock().expect("no panic").iter().filter_map(done).collect();
    assert_eq!(steps, Step::ALL);
    assert_eq!(nodes(&client).await, ["a"]);
    eventually(SOON, "its duties run", async || {
        notes.lock().expect("no panic").contains(&"second leads".into())
    })
    .await;
    let proxy = node.context().proxy("second").await.expect("it is offered");
    eventually(SOON, "the leader is known", async || proxy.provider().leader().is_some()).await;
    assert_eq!(proxy.provider().config(), ServiceConfig::new(Mode::LeaderBased));
    assert_eq!(proxy.call("get", []).await.expect("an answer"), "get of second");
    assert!(node.context().proxy("third-party").await.is_err(), "nobody has ever offered it");
    let health = node.health().await;
    assert_eq!(
        (&health["status"], &health["cluster"]["leaders"]["second"]),
        (&json!("healthy"), &json!("a"))
    );

    // What an operator has configured stays.
    let registry = node.context().registry();
    registry.configure("first", &ServiceConfig::new(Mode::Replicated)).await.expect("configured");
    assert!(!registry.configure_if_absent("first", &ServiceConfig::default()).await.expect("a create"));

    node.shutdown().await;
    let mut reverse = Step::ALL;
    reverse.reverse();
    assert_eq!(undone(&events), reverse);
    let notes = notes.lock().expect("no panic").clone();
    assert_eq!(notes, ["first start", "second start", "second leads", "second stop", "first stop"]);
    assert!(nodes(&client).await.is_empty());
    let leader = client.exists("/shop/services/second/leader/leader", ReadLevel::Linearizable).await;
    assert_eq!(leader, Ok(None));
    assert_eq!(
        client.children("/shop/failures/nodes", ReadLevel::Linearizable).await.unwrap_or_default().len(),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_cut_off_comes_back_in_its_next_session_and_can_leave_while_it_is_cut_off() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(SOON).await;
    let (notes, events) = (Notes::default(), Arc::<Mutex<Vec<ClusterEvent>>>::default());
    let mut ways = Vec::new();
    for endpoint in ensemble.endpoints() {
        ways.push(BlackHole::to(endpoint).await);
    }
    let endpoints: Vec<_> = ways.iter().map(BlackHole::endpoint).collect();
    let node = builder("a", &events)
        .service("only", ServiceClass::LeaderBased, Noted::new("only", &notes))
        .start(endpoints)
        .await
        .expect("it starts");
    let leads = || notes.lock().expect("no panic").iter().filter(|note| *note == "only leads").count();
    eventually(SOON, "it leads", async || leads() == 1).await;
    let epoch = node.registration().and_then(|registration| registration.epoch()).expect("it is registered");

    ways.iter().for_each(BlackHole::cut_off);
    eventually(SOON, "the node is gone", async || nodes(&client).await.is_empty()).await;
    let ended = |event: &ClusterEvent| matches!(event, ClusterEvent::LeadershipEnded { .. });
    assert!(events.lock().expect("no panic").iter().any(ended), "its duties ended before");
    ways.iter().for_each(BlackHole::heal);
    eventually(SOON, "it is back, and leads", async || nodes(&client).await == ["a"] && leads() == 2).await;
    let again = node.registration().and_then(|registration| registration.epoch());
    assert!(again.is_some_and(|again| again > epoch), "{again:?}");

    ways.iter().for_each(BlackHole::cut_off);
    let begun = Instant::now();
    node.shutdown().await;
    println!("left within {:?} without the ensemble", begun.elapsed());
    assert_eq!(undone(&events).len(), Step::ALL.len());
    assert_eq!(notes.lock().expect("no panic").last().map(String::as_str), Some("only stop"));
    eventually(SOON, "its session has ended", async || nodes(&client).await.is_empty()).await;
}

/// Keeps its context, as services do that call others, and does not stop.
#[derive(Default)]
struct Stubborn {
    context: Mutex<Option<NodeContext>>,
}

impl ClusterService for Stubborn {
    async fn start(&self, context: &NodeContext) -> Result<(), ServiceError> {
        *self.context.lock().expect("no panic") = Some(context.clone());
        Ok(())
    }

    async fn call(&self, method: &str, _args: Vec<Value>) -> Result<Value, ServiceError> {
        Ok(json!(method))
    }

    async fn stop(&self) {
        std::future::pending().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_hangs_keeps_no_other_from_stopping_and_one_that_keeps_its_context_no_session() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(SOON).await;
    let (notes, events) = (Notes::default(), Arc::<Mutex<Vec<ClusterEvent>>>::default());
    // Nobody can campaign below an ephemeral.
    let path = "/shop/services/second/leader";
    client.create(path, "", CreateOptions::new(CreateMode::Ephemeral).parents(true)).await.expect("created");
    let node = builder("a", &events)
        .service("first", ServiceClass::Stateless, Stubborn::default())
        .service("second", ServiceClass::LeaderBased, Noted::new("second", &notes))
        .start(ensemble.endpoints())
        .await
        .expect("it starts");
    let refused = |event: &ClusterEvent| {
        matches!(event, ClusterEvent::CampaignRefused { service, error }
            if service == "second" && error.kind == ErrorKind::NoChildrenForEphemerals)
    };
    eventually(SOON, "the refusal is told", async || events.lock().expect("no panic").iter().any(refused))
        .await;
    client.delete(path, None).await.expect("deleted");

    // Meanwhile another one leaves, and comes past the service that hangs.
    let left = Arc::<Mutex<Vec<ClusterEvent>>>::default();
    let other = builder("b", &left)
        .service("third", ServiceClass::Stateless, Noted::new("third", &notes))
        .service("fourth", ServiceClass::Stateless, Stubborn::default())
        .start(ensemble.endpoints())
        .await
        .expect("it starts");
    other.shutdown().await;
    assert!(notes.lock().expect("no panic").contains(&"third stop".into()));
    assert_eq!(undone(&left).len(), Step::ALL.len());
    eventually(SOON, "it campaigned again", async || {
        notes.lock().expect("no panic").contains(&"second leads".into())
    })
    .await;

    assert_eq!(nodes(&client).await, ["a"]);
    let context = node.context().clone();
    drop(node);
    eventually(SOON, "its session is closed", async || nodes(&client).await.is_empty()).await;
    let newest = context.sessions().newest().expect_err("no session");
    assert_eq!(newest.kind, ErrorKind::SessionClosed);
}
