//! Clients find the ensemble, also when it is somewhere else than it was.

use std::net::Ipv4Addr;
use std::time::Duration;

use coordd_client::recipes::Sessions;
use coordd_client::{Client, ConnectOptions, CreateMode, Endpoints, ErrorKind, ReadLevel, SessionState};
use coordd_tests::{BlackHole, DnsRecord, DnsServer, Ensemble, EnsembleOptions, eventually, free_port};

const TIMEOUT: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(3);

fn port(ensemble: &Ensemble, id: u64) -> u16 {
    let endpoint = ensemble.endpoint(id);
    endpoint.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("host:port")
}

async fn connect(endpoint: &str) -> Client {
    let options = ConnectOptions::new().session_timeout(TIMEOUT);
    options.connect([endpoint]).await.expect("the ensemble is found")
}

async fn until_attached_to(client: &Client, node: u64) {
    let attached =
        async || matches!(client.state(), SessionState::Connected { node_id, .. } if node_id == node);
    eventually(TIMEOUT, "the session is on the other node", attached).await;
}

fn sorted(mut nodes: Vec<String>) -> Vec<String> {
    nodes.sort();
    nodes
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_announce_themselves_are_found_in_their_multicast_group() {
    let (group_port, silent_port) = (free_port(), free_port());
    let announce = format!("239.7.4.1:{group_port}@127.0.0.1");
    let mut ensemble = EnsembleOptions::new(3).env("COORDD_ANNOUNCE", &announce).start().await;
    let endpoint = format!("multicast:{announce}");
    let mut endpoints = Endpoints::parse([&endpoint]).expect("an endpoint");
    let all = sorted(ensemble.endpoints());
    assert_eq!(sorted(endpoints.resolve(PATIENCE).await.expect("the nodes answer")), all);

    // The same words in all places that take endpoints.
    let status = ensemble.coordctl_at(&endpoint, &["status"]).await.expect("coordctl finds them");
    assert!(all.iter().all(|node| status.contains(node.as_str())), "{status}");
    ensemble.coordctl_at(&endpoint, &["create", "/found", "by multicast"]).await.expect("a create");
    let sessions = Sessions::connect([endpoint.as_str()], ConnectOptions::new()).await.expect("a session");
    sessions.newest().expect("a session").get("/found", ReadLevel::Linearizable).await.expect("it is there");
    sessions.close().await.expect("the session closes");

    // A session that found its first node so finds the next one.
    let client = connect(&endpoint).await;
    let session = client.session_id();
    let leader = ensemble.leader().await;
    ensemble.kill9(leader);
    client.set("/found", "after a kill", None).await.expect("the session goes on");
    assert_eq!(client.session_id(), session);
    let found = endpoints.resolve(PATIENCE).await.expect("the others answer");
    assert_eq!(found.len(), 2, "a node that is dead does not answer");
    ensemble.restart(leader);
    ensemble.wait_serving().await;
    assert_eq!(sorted(endpoints.resolve(PATIENCE).await.expect("it is back")), all);

    // Where nobody answers the reason is said, in the time given.
    let nobody = format!("multicast:239.7.4.1:{silent_port}@127.0.0.1");
    let error = Endpoints::parse([&nobody]).expect("an endpoint").resolve(Duration::from_millis(300)).await;
    let error = error.expect_err("nobody is there");
    assert!(error.kind == ErrorKind::ConnectionLoss && error.message.contains("no answer"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_ensembles_in_neighbouring_groups_are_not_mixed_up() {
    let group_port = free_port();
    let announce = |last: u8| format!("239.7.4.{last}:{group_port}@127.0.0.1");
    let one = EnsembleOptions::new(1).env("COORDD_ANNOUNCE", &announce(1)).start().await;
    let other = EnsembleOptions::new(1).env("COORDD_ANNOUNCE", &announce(2)).start_beside(&one).await;
    for (ensemble, last) in [(&one, 1), (&other, 2)] {
        let mut endpoints = Endpoints::parse([format!("multicast:{}", announce(last))]).expect("an endpoint");
        for _ in 0..5 {
            assert_eq!(endpoints.resolve(PATIENCE).await.expect("an answer"), ensemble.endpoints());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn srv_records_are_asked_again_when_the_nodes_have_moved() {
    let mut ensemble = Ensemble::start(3).await;
    let dns = DnsServer::start().await;
    let ports: Vec<u16> = ensemble.ids().into_iter().map(|id| port(&ensemble, id)).collect();
    let service =
        |id: usize, priority| vec![DnsRecord::Srv(priority, 5, ports[id - 1], format!("node-{id}.test"))];
    for id in ensemble.ids() {
        dns.set(&format!("node-{id}.test"), vec![DnsRecord::A(Ipv4Addr::LOCALHOST)]);
    }
    dns.set("_coordd._tcp.test", service(1, 10));
    let endpoint = format!("srv:_coordd._tcp.test@{}", dns.address());

    let client = connect(&endpoint).await;
    client.create("/a", "", CreateMode::Ephemeral).await.expect("a create");
    until_attached_to(&client, 1).await;
    let session = client.session_id();
    // The node goes; who had asked once would now try its address for ever.
    dns.set("_coordd._tcp.test", service(2, 10));
    ensemble.kill9(1);
    client.set("/a", "moved", None).await.expect("the session goes on");
    until_attached_to(&client, 2).await;
    assert_eq!(client.session_id(), session);
    ensemble.restart(1);
    ensemble.wait_serving().await;

    // A name server that is gone, or knows the name no more, does not take away what is known.
    for silent in [true, false] {
        dns.silence(silent);
        dns.set("_coordd._tcp.test", Vec::new());
        let asked = dns.questions();
        ensemble.kill9(2);
        ensemble.restart(2);
        client.set("/a", "the same node again", None).await.expect("the session goes on");
        until_attached_to(&client, 2).await;
        assert!(dns.questions() > asked, "the name server was not asked again");
        ensemble.wait_serving().await;
    }

    // Lower priorities first: the two others only when the first is gone.
    dns.set("_coordd._tcp.test", [service(2, 20), service(1, 10), service(3, 20)].concat());
    for _ in 0..5 {
        let client = connect(&endpoint).await;
        until_attached_to(&client, 1).await;
        client.close().await.expect("the session closes");
    }
    let error = ConnectOptions::new().connect_timeout(Duration::from_secs(2));
    let error = error.connect([format!("srv:_nothing._tcp.test@{}", dns.address())]).await;
    let error = error.expect_err("there is no such name");
    assert!(error.message.contains("_nothing._tcp.test"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_address_of_a_name_is_tried() {
    let ensemble = Ensemble::start(1).await;
    let dns = DnsServer::start().await;
    // Nobody listens on the others.
    let addresses = [9, 8, 7].map(|last| DnsRecord::A(Ipv4Addr::new(127, 0, 0, last)));
    dns.set("coordd.test", [&addresses[..], &[DnsRecord::A(Ipv4Addr::LOCALHOST)]].concat());
    let endpoint = format!("dns:coordd.test:{}@{}", port(&ensemble, 1), dns.address());
    for _ in 0..5 {
        connect(&endpoint).await.close().await.expect("the session closes");
    }
    assert!(ensemble.coordctl_at(&endpoint, &["health"]).await.is_ok(), "also for a question to one node");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_of_a_name_is_asked_again_when_its_node_has_moved() {
    let mut ensemble = Ensemble::start(3).await;
    let dns = DnsServer::start().await;
    let (name, port) = ("coordd.test", port(&ensemble, 1));
    dns.set(name, vec![DnsRecord::A(Ipv4Addr::LOCALHOST)]);
    let client = connect(&format!("dns:{name}:{port}@{}", dns.address())).await;
    client.create("/a", "", CreateMode::Ephemeral).await.expect("a create");
    until_attached_to(&client, 1).await;
    let (session, asked) = (client.session_id(), dns.questions());
    // On the same port of another address there is another node.
    let moved = Ipv4Addr::new(127, 0, 0, 2);
    let _way = BlackHole::at((moved, port), ensemble.endpoint(2)).await;
    dns.set(name, vec![DnsRecord::A(moved)]);
    ensemble.kill9(1);
    client.set("/a", "moved", None).await.expect("the session goes on");
    until_attached_to(&client, 2).await;
    assert_eq!(client.session_id(), session);
    assert!(dns.questions() > asked, "the name server was asked again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_endpoints_is_read_again() {
    let mut ensemble = Ensemble::start(3).await;
    let path = ensemble.scratch().join("nodes");
    std::fs::write(&path, format!("# one is enough\n{}\n", ensemble.endpoint(1))).expect("the file");
    let client = connect(&format!("file:{}", path.display())).await;
    client.create("/a", "", CreateMode::Ephemeral).await.expect("a create");
    std::fs::write(&path, format!("{}\n{}\n", ensemble.endpoint(3), ensemble.endpoint(3))).expect("the file");
    ensemble.kill9(1);
    client.set("/a", "moved", None).await.expect("the session goes on");
    until_attached_to(&client, 3).await;
}
