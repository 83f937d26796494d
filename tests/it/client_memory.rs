//! What a node holds for its clients is bounded, whatever they send and do not read (G9).

use std::time::{Duration, Instant};

use coordd_client::{Admin, Client, CreateMode, ErrorKind, NodeStatus, Perms, ReadLevel};
use coordd_proto::v1::coordd_client::CoorddClient;
use coordd_proto::v1::{
    ExistsRequest, GetEphemeralsRequest, GetRequest, ListRequest, MultiReadRequest, ReadOp, SubscribePath,
    SubscribeRequest, read_op,
};
use coordd_tests::{Ensemble, EnsembleOptions, UnreadConnection, eventually};
use prost::Message as _;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Request, Status};

use crate::subscriptions::next_event;

const TIMEOUT: Duration = Duration::from_secs(10);
const MIB: usize = 1 << 20;
const BUDGET: u64 = 16 << 20;

async fn with_budget() -> Ensemble {
    EnsembleOptions::new(1).env("COORDD_CLIENT_MEMORY_MAX", "16MiB").start().await
}

async fn status(ensemble: &Ensemble) -> NodeStatus {
    ensemble.status_of(1).await
}

fn counted(status: &NodeStatus, name: &str) -> u64 {
    *status.counters.get(name).unwrap_or_else(|| panic!("a counter {name}: {:?}", status.counters))
}

/// The node serves others as ever, and no honest session has ended.
async fn still_serves(client: &Client) {
    let start = Instant::now();
    client.set("/v", vec![1; MIB], None).await.expect("a write");
    client.get("/v", ReadLevel::Linearizable).await.expect("a read");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

async fn back_to_nothing(ensemble: &Ensemble) {
    eventually(TIMEOUT, "nothing is held for clients that are gone", async || {
        status(ensemble).await.client_memory_bytes < BUDGET / 4
    })
    .await;
}

/// G9: replies that nobody reads stay within the budget, on one connection and on many, and others do not notice.
#[tokio::test]
async fn unread_replies_stay_within_budget() {
    let ensemble = with_budget().await;
    let client = ensemble.client(TIMEOUT).await;
    client.create("/v", vec![0; MIB], CreateMode::Persistent).await.expect("a create");
    let get = || read_op::Op::Get(GetRequest { path: "/v".into(), ..Default::default() });
    let ops = vec![ReadOp { op: Some(get()) }, ReadOp { op: Some(get()) }];
    let message = MultiReadRequest { ops, ..Default::default() }.encode_to_vec();
    let before = status(&ensemble).await;
    // A window of 0, of one byte, and one that is larger than that of the whole connection.
    for window in [0, 1, 64 << 20] {
        let mut connections = Vec::new();
        for _ in 0..3 {
            let mut connection = UnreadConnection::connect(&ensemble.endpoint(1), window).await;
            for _ in 0..30 {
                connection.call("MultiRead", message.len(), &message, true).await;
            }
            connections.push(connection);
        }
        eventually(TIMEOUT, "the budget holds", async || {
            status(&ensemble).await.client_memory_bytes <= BUDGET
        })
        .await;
        still_serves(&client).await;
        let now = status(&ensemble).await;
        let grown = now.resident_bytes.saturating_sub(before.resident_bytes);
        assert!(grown < 150 << 20, "{} MiB for a window of {window}", grown >> 20);
        drop(connections);
        back_to_nothing(&ensemble).await;
    }
    assert!(counted(&status(&ensemble).await, "ended_for_client_memory") > 0);
    client.close().await.expect("the session has lived through it");
}

/// G9: requests that are never complete are counted, and their connection is closed when the budget is used up.
#[tokio::test]
async fn half_sent_requests_stay_within_budget() {
    let ensemble = with_budget().await;
    let client = ensemble.client(TIMEOUT).await;
    client.create("/v", vec![0; MIB], CreateMode::Persistent).await.expect("a create");
    let mut connection = UnreadConnection::connect(&ensemble.endpoint(1), 65_535).await;
    let part = vec![0; 2 * MIB];
    for _ in 0..60 {
        if !connection.call("Set", 4 * MIB - 1000, &part, false).await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    eventually(TIMEOUT, "the connection that holds most is closed", async || connection.is_closed()).await;
    back_to_nothing(&ensemble).await;
    still_serves(&client).await;
    client.close().await.expect("the session has lived through it");
}

/// G5, G9: what subscriptions have missed is not kept for them. One that is read late has all of it, in order, and hundreds
/// that are never read hold next to nothing.
#[tokio::test]
async fn missed_events_are_not_kept_for_readers() {
    let ensemble = with_budget().await;
    let client = ensemble.client(TIMEOUT).await;
    client.create("/v", "0", CreateMode::Persistent).await.expect("a create");
    let start = status(&ensemble).await.zxid;
    const COMMANDS: usize = 60;
    const SETS: usize = 500;
    for _ in 0..COMMANDS {
        let mut multi = client.multi();
        for _ in 0..SETS {
            multi = multi.set("/v", "1", None);
        }
        multi.commit().await.expect("a multi");
    }
    let paths = vec![SubscribePath { path: "/".into(), kind: 0, with_value: false }];
    let request = SubscribeRequest { paths, from_zxid: start, ..Default::default() };
    let message = request.encode_to_vec();
    let before = status(&ensemble).await;
    let mut connections = Vec::new();
    for _ in 0..3 {
        let mut connection = UnreadConnection::connect(&ensemble.endpoint(1), 0).await;
        for _ in 0..80 {
            connection.call("Subscribe", message.len(), &message, true).await;
        }
        connections.push(connection);
    }
    eventually(TIMEOUT, "they have begun", async || status(&ensemble).await.streams >= 100).await;
    eventually(TIMEOUT, "the budget holds", async || status(&ensemble).await.client_memory_bytes <= BUDGET)
        .await;
    let now = status(&ensemble).await;
    let grown = now.resident_bytes.saturating_sub(before.resident_bytes);
    assert!(grown < 150 << 20, "{} MiB", grown >> 20);
    drop(connections);

    let url = format!("http://{}", ensemble.endpoint(1));
    let mut reader = CoorddClient::connect(url).await.expect("a connection");
    let mut stream = reader.subscribe(request).await.expect("a subscription").into_inner();
    tokio::time::sleep(Duration::from_millis(300)).await;
    client.set("/v", "last", None).await.expect("a set");
    let mut zxids = Vec::new();
    for _ in 0..COMMANDS * SETS + 1 {
        zxids.push(next_event(&mut stream).await.zxid);
    }
    assert!(zxids.is_sorted() && zxids[0] > start);
    assert_eq!(zxids.iter().collect::<std::collections::BTreeSet<_>>().len(), COMMANDS + 1);
}

/// G9: connections that send nothing, or too little, are closed in time; those on which something was asked stay.
#[tokio::test]
async fn silent_connections_are_closed() {
    let ensemble = EnsembleOptions::new(1).env("COORDD_FIRST_REQUEST_TIMEOUT", "1s").start().await;
    let client = ensemble.client(TIMEOUT).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let mut all = Vec::new();
    for sent in [&b""[..], &preface[..10], preface, b"GET / HTTP/1.1\r\nHost: x\r\n"] {
        let mut stream = TcpStream::connect(ensemble.endpoint(1)).await.expect("a connection");
        tokio::io::AsyncWriteExt::write_all(&mut stream, sent).await.expect("the port is open");
        all.push(stream);
    }
    for mut stream in all {
        let mut said = Vec::new();
        let ended = tokio::time::timeout(TIMEOUT, stream.read_to_end(&mut said)).await;
        // With or without an error, but it has ended.
        assert!(ended.is_ok(), "a silent connection stays");
    }
    assert!(counted(&status(&ensemble).await, "silent_connections_closed") > 0);
    client.create("/a", "", CreateMode::Persistent).await.expect("it is not silent");
}

/// G9: a call whose message is never complete is ended, whether a message is missing or a part of it, and so
/// is a connection on which there are only such calls. Its headers have a limit.
#[tokio::test]
async fn half_open_calls_are_ended() {
    let ensemble = EnsembleOptions::new(1).env("COORDD_FIRST_REQUEST_TIMEOUT", "1s").start().await;
    let endpoint = ensemble.endpoint(1);
    let mut silent = UnreadConnection::connect(&endpoint, 65_535).await;
    let mut asking = UnreadConnection::connect(&endpoint, 65_535).await;
    let exists = ExistsRequest { path: "/".into(), ..Default::default() }.encode_to_vec();
    assert!(asking.call("Exists", exists.len(), &exists, true).await);
    for method in ["Get", "Session", "Subscribe"] {
        for connection in [&mut silent, &mut asking] {
            for part in [&b""[..], &[0; 50]] {
                assert!(connection.call(method, 100, part, false).await, "{method}");
            }
        }
    }
    eventually(TIMEOUT, "the calls are ended", async || {
        let status = status(&ensemble).await;
        status.streams <= 1 && silent.is_closed()
    })
    .await;
    assert!(!asking.is_closed(), "something was asked on it");

    let url = format!("http://{endpoint}");
    let mut client = CoorddClient::connect(url).await.expect("a connection");
    let mut asks = async |bytes: usize| {
        let mut request = Request::new(ExistsRequest { path: "/".into(), ..Default::default() });
        let value = "x".repeat(bytes).parse().expect("a header");
        request.metadata_mut().insert("padding", value);
        client.exists(request).await
    };
    asks(8 << 10).await.expect("headers that some clients send");
    asks(32 << 10).await.expect_err("headers that no client needs");
}

/// G9: the deadline counts from the connection, also on a node that waits for the others to form an ensemble.
/// Connections on which it was asked for something stay.
#[tokio::test]
async fn silent_connections_are_closed_before_serving() {
    let mut ensemble =
        EnsembleOptions::new(3).env("COORDD_FIRST_REQUEST_TIMEOUT", "1s").not_started().start().await;
    ensemble.restart(1);
    eventually(TIMEOUT, "it waits", async || ensemble.log(1).contains("waiting for nodes")).await;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", ensemble.endpoint(1)));
    let channel = channel.expect("an address").connect_lazy();
    let asks = async || {
        let mut admin = coordd_proto::v1::admin_client::AdminClient::new(channel.clone());
        admin
            .status(coordd_proto::v1::StatusRequest {})
            .await
            .expect_err("it does not serve")
            .message()
            .to_owned()
    };
    let answer = asks().await;
    assert!(answer.contains("this node is starting"), "{answer}");
    let mut silent = TcpStream::connect(ensemble.endpoint(1)).await.expect("a connection");
    // The server greets it first. Its end is an end of file, or an error.
    let ended = tokio::time::timeout(TIMEOUT, silent.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok(), "a silent connection stays");
    assert_eq!(asks().await, answer);
}

/// G9: connections that ask for nothing give way to those that do, at once; and one address has no more than it may.
#[tokio::test]
async fn silent_connections_give_way() {
    let ensemble = EnsembleOptions::new(1)
        .env("COORDD_CONNECTIONS_MAX", "20")
        .env("COORDD_FIRST_REQUEST_TIMEOUT", "1h")
        .start()
        .await;
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(ensemble.endpoint(1)).await.expect("a connection"));
    }
    let start = Instant::now();
    for _ in 0..5 {
        let client = ensemble.client(TIMEOUT).await;
        client.exists("/", ReadLevel::Local).await.expect("it is served");
        client.close().await.expect("the end of a session");
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(status(&ensemble).await.connections <= 20);

    let ensemble =
        EnsembleOptions::new(1).env("COORDD_CONNECTIONS_PER_ADDRESS_MAX", "4").start_beside(&ensemble).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(ensemble.client(TIMEOUT).await);
    }
    let mut from_here = Vec::new();
    for _ in 0..10 {
        from_here.push(TcpStream::connect(ensemble.endpoint(1)).await.expect("the kernel accepts it"));
    }
    // A connection for each question could be one too many beside the last one.
    let admin = Admin::connect(ensemble.endpoint(1), TIMEOUT).await.expect("a silent one gives way");
    let four_stay = async || admin.status().await.expect("the node answers").connections <= 4;
    eventually(TIMEOUT, "no more than four stay", four_stay).await;
    // The oldest give way first, and the newest only to the status's connection.
    for stream in &mut from_here[..9] {
        // The server may have greeted it before. Its end is an end of file, or an error.
        let end = tokio::time::timeout(TIMEOUT, stream.read_to_end(&mut Vec::new())).await;
        assert!(end.is_ok(), "a silent connection stayed");
    }
    clients[0].exists("/", ReadLevel::Local).await.expect("those that ask stay");
}

/// G9: a node whose limit of open files is low takes fewer connections, says so, and writes its log whatever clients do.
#[tokio::test]
async fn clients_leave_descriptors_to_the_disk() {
    let ensemble = EnsembleOptions::new(1).not_started().start().await;
    let mut command = std::process::Command::new("sh");
    let node = ensemble.command(1);
    command.args(["-c", "ulimit -n 100; exec \"$@\"", "sh"]).arg(node.get_program()).args(node.get_args());
    let log = ensemble.scratch().join("limited.log");
    for (name, value) in node.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("COORDD_SNAPSHOT_LOG_BYTES", "1MiB");
    command.stderr(std::fs::File::create(&log).expect("a file")).stdout(std::process::Stdio::null());
    let mut child = command.spawn().expect("a shell");
    let client = ensemble.client(TIMEOUT).await;
    client.create("/v", "", CreateMode::Persistent).await.expect("a create");
    let mut silent = Vec::new();
    for _ in 0..200 {
        let Ok(stream) = TcpStream::connect(ensemble.endpoint(1)).await else { break };
        silent.push(stream);
    }
    for _ in 0..40 {
        client.set("/v", vec![2; MIB], None).await.expect("the log has its files");
    }
    // The harness has not started this node, and so does not ask it.
    let admin = Admin::connect(ensemble.endpoint(1), TIMEOUT).await.expect("a new connection has its turn");
    let now = admin.status().await.expect("the node answers");
    assert_eq!((now.connections_max, now.open_files_max), (50, 100));
    assert!(
        now.connections <= 50 && (10..100).contains(&now.open_files),
        "{} of {}",
        now.connections,
        now.open_files
    );
    let said = std::fs::read_to_string(&log).expect("a log");
    assert!(said.contains("ulimit -n"), "{said}");
    assert!(said.lines().count() < 100, "the log is flooded: {} lines", said.lines().count());
    child.kill().expect("the process is ours");
    child.wait().expect("the process is ours");
}

/// G9: when a majority is near its limit of memory nothing grows; deletes, reads and sessions go on.
#[tokio::test]
async fn growth_is_refused_without_memory() {
    let mut ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    client.create("/a", "v", CreateMode::Persistent).await.expect("there is memory");
    let all = async |ensemble: &Ensemble, refused: bool| {
        for id in ensemble.ids() {
            eventually(TIMEOUT, "all nodes know whether growth is refused", async || {
                ensemble.status(id).await.is_some_and(|status| status.growth_refused == refused)
            })
            .await;
        }
    };
    // No process is as small as that.
    ensemble.set_env("COORDD_MEMORY_LIMIT", "32MiB");
    let first = ensemble.follower().await;
    ensemble.terminate(first).await;
    ensemble.restart(first);
    ensemble.wait_serving().await;
    eventually(TIMEOUT, "the node has seen its memory", async || {
        ensemble.status(first).await.is_some_and(|status| status.memory_is_low && !status.growth_refused)
    })
    .await;
    client.create("/b", "v", CreateMode::Persistent).await.expect("two have memory");
    let second = ensemble.ids_but(first)[0];
    ensemble.terminate(second).await;
    ensemble.restart(second);
    ensemble.wait_serving().await;
    all(&ensemble, true).await;
    let refused = client.create("/c", "v", CreateMode::Persistent).await.expect_err("it grows");
    assert_eq!(refused.kind, ErrorKind::NoSpace, "{refused}");
    assert!(refused.is_retryable() && refused.message.contains("--memory-limit"), "{refused}");
    client.delete("/b", None).await.expect("a delete");
    client.get("/a", ReadLevel::Linearizable).await.expect("a read");
    ensemble.client(TIMEOUT).await.close().await.expect("sessions begin and end");
    ensemble.set_env("COORDD_MEMORY_LIMIT", "100GiB");
    ensemble.terminate(second).await;
    ensemble.restart(second);
    ensemble.wait_serving().await;
    all(&ensemble, false).await;
    client.create("/c", "v", CreateMode::Persistent).await.expect("there is memory again");
}

/// G9: every page can be read by a gRPC client without options, which takes 4 MiB.
#[tokio::test]
async fn pages_fit_into_default_clients() {
    let ensemble = Ensemble::start(1).await;
    let client = ensemble.client(TIMEOUT).await;
    client.create("/p", "", CreateMode::Persistent).await.expect("a create");
    let name = |number: usize| format!("{number:05}{}", "x".repeat(1000));
    for from in (0..6000).step_by(500) {
        let mut multi = client.multi();
        for number in from..from + 500 {
            multi = multi.create(format!("/p/{}", name(number)), "", CreateMode::Persistent);
        }
        multi.commit().await.expect("a multi");
    }
    let url = format!("http://{}", ensemble.endpoint(1));
    let mut plain = CoorddClient::connect(url).await.expect("a connection");
    let (mut names, mut pages) = (Vec::new(), 0);
    loop {
        let after = names.last().cloned().unwrap_or_default();
        let request = ListRequest { path: "/p".into(), after, with_stat: true, ..Default::default() };
        let page = plain.list(request).await.expect("a page of at most 4 MiB").into_inner();
        names.extend(page.children.into_iter().map(|child| child.name));
        pages += 1;
        if !page.more {
            break;
        }
    }
    assert!(pages > 1 && names.is_sorted());
    assert_eq!(names.len(), 6000);
}

/// Ephemerals whose parents the caller may not read are not told: their names are what the parent's ACL hides.
#[tokio::test]
async fn ephemerals_of_others_may_be_hidden() {
    let ensemble = Ensemble::start(1).await;
    let owner = ensemble.client(TIMEOUT).await;
    let hidden = Perms::from_bits(Perms::ALL.bits() & !Perms::READ.bits());
    let hidden = vec![coordd_client::AclEntry::world(hidden)];
    for path in ["/locks", "/open"] {
        owner.create(path, "", CreateMode::Persistent).await.expect("a create");
        owner.create(format!("{path}/mine"), "", CreateMode::Ephemeral).await.expect("a create");
    }
    owner.set_acl("/locks", hidden, None).await.expect("an ACL");
    let url = format!("http://{}", ensemble.endpoint(1));
    let mut other = CoorddClient::connect(url).await.expect("a connection");
    let session_id = owner.session_id();
    let request = GetEphemeralsRequest { session_id, ..Default::default() };
    let told = other.get_ephemerals(request.clone()).await.expect("an answer").into_inner();
    assert_eq!((told.paths, told.more), (vec!["/open/mine".to_owned()], false));
    let own = owner.ephemerals(0, "", ReadLevel::Local).await.expect("an answer");
    assert_eq!(own, ["/locks/mine", "/open/mine"]);
    let page = GetEphemeralsRequest { after: "/open/mine".into(), ..request };
    assert!(other.get_ephemerals(page).await.expect("an answer").into_inner().paths.is_empty());
}

/// What a client sent is told back to it in a few hundred bytes: headers are no place for more.
#[tokio::test]
async fn long_paths_are_told_in_short() {
    let ensemble = Ensemble::start(1).await;
    let url = format!("http://{}", ensemble.endpoint(1));
    let mut client = CoorddClient::connect(url).await.expect("a connection");
    for path in
        [format!("/{}", "\u{301}".repeat(2000)), format!("/{}", "\"".repeat(4000)), "x".repeat(3 * MIB)]
    {
        let refused = client.get(GetRequest { path, ..Default::default() }).await.expect_err("no such znode");
        assert!(matches!(refused.code(), Code::NotFound | Code::InvalidArgument), "{:?}", refused.code());
        let bytes = refused.message().len() + refused.details().len();
        assert!(bytes <= 2500, "{bytes} bytes");
    }
}

/// Sends a message as it is, and decodes nothing.
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = RawCodec;
    type Decoder = RawCodec;

    fn encoder(&mut self) -> RawCodec {
        RawCodec
    }

    fn decoder(&mut self) -> RawCodec {
        RawCodec
    }
}

impl Encoder for RawCodec {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(buffer, &message);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, _: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        Ok(Some(()))
    }
}

/// G9: a message of millions of empty parts, of two bytes each, is refused before it is decoded into hundreds
/// of megabytes. The limit is told, and the connection stays.
#[tokio::test]
async fn empty_parts_are_not_decoded() {
    let ensemble = Ensemble::start(1).await;
    let url = format!("http://{}", ensemble.endpoint(1));
    let channel = tonic::transport::Endpoint::from_shared(url).expect("an address").connect().await;
    let mut raw = tonic::client::Grpc::new(channel.expect("a connection"));
    for (method, tag, limit) in
        [("Session", 0x12, 24 * MIB), ("Multi", 0x0a, 4 * MIB), ("MultiRead", 0x0a, 4 * MIB)]
    {
        raw.ready().await.expect("a connection");
        let path = format!("/coordd.v1.Coordd/{method}").parse().expect("a path");
        let message = [tag, 0].repeat(2 * MIB - 100);
        let refused = raw.unary(Request::new(message), path, RawCodec).await.expect_err("it is too large");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        let expected = format!("more than {limit} bytes of memory");
        assert!(refused.message().contains(&expected), "{method}: {refused}");
    }
    let client = ensemble.client(TIMEOUT).await;
    client.create("/a", "v", CreateMode::Persistent).await.expect("the node serves");
}
