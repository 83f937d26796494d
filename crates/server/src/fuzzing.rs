//! What the fuzz targets of this crate do with their bytes. Each is a plain function, so that the tests below replay what
//! the fuzzer once found.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use coordd_proto::v1::request::Op;
use coordd_proto::{Received, Refused, measure, v1};
use coordd_raft::Timing;
use coordd_tree::{
    Acl, AclEntry, Applied, Auth, Batch, Command, Create, CreateMode, Data, Entry, Limits, OpenSession,
    Origin, Perms, Tree, Write, WriteOp, validate_path,
};
use prost::Message;

use crate::admission::{Asked, Place};
use crate::announce::{AnnounceGroup, answer};
use crate::client_memory::ClientMemory;
use crate::convert::{IntoWrite, OwnLineage, error_to_wire, outcome_to_wire};
use crate::options::{GivenOptions, Options};
use crate::reads::{Read, authenticate};
use crate::session::outbox::Outbox;
use crate::watch::{Registration, WatchTable};

/// Whose requests they are.
const SESSION: u64 = 1;
const OWN: OwnLineage<'static> = OwnLineage { cluster_id: "fuzz", number: 0 };
/// What a refusal may add to what was refused.
const REFUSAL_BYTES: usize = 4096;

/// Bytes as a frame of a session stream, or as the message of the unary call that the first of them names. Everything is done
/// with it that a node does: what is asked for is admitted or refused, proposed, applied, and answered.
pub fn client_message(data: &[u8]) {
    let mut bytes = Bytes::copy_from_slice(data);
    if bytes.is_empty() {
        return;
    }
    let kind = bytes.get_u8();
    let mut node = Node::new();
    match kind {
        0 => node.decoded(bytes, Node::frame),
        1 => node.decoded(bytes, Node::call::<v1::CreateRequest>),
        2 => node.decoded(bytes, Node::call::<v1::DeleteRequest>),
        3 => node.decoded(bytes, Node::call::<v1::SetRequest>),
        4 => node.decoded(bytes, Node::call::<v1::MultiRequest>),
        5 => node.decoded(bytes, Node::call::<v1::DeleteTreeRequest>),
        6 => node.decoded(bytes, Node::call::<v1::SetAclRequest>),
        7 => node.decoded(bytes, Node::call::<v1::SetQuotaRequest>),
        8 => node.decoded(bytes, Node::call::<v1::DeleteQuotaRequest>),
        9 => node.decoded(bytes, |node, op| node.read(&Read::Get(op))),
        10 => node.decoded(bytes, |node, op| node.read(&Read::Exists(op))),
        11 => node.decoded(bytes, |node, op| node.read(&Read::List(op))),
        12 => node.decoded(bytes, |node, op| node.read(&Read::MultiRead(op))),
        13 => node.decoded(bytes, |node, op| node.read(&Read::GetAcl(op))),
        14 => node.decoded(bytes, |node, op| node.read(&Read::GetEphemerals(op))),
        15 => node.decoded(bytes, |node, op| node.read(&Read::CountDescendants(op))),
        16 => node.decoded(bytes, |node, op| node.read(&Read::GetQuota(op))),
        17 => node.decoded(bytes, |node, request: v1::SubscribeRequest| {
            node.authenticate(&request.credentials);
            for (path, index) in request.paths.iter().zip(1..) {
                if validate_path(&path.path).is_ok() {
                    let spec =
                        v1::WatchSpec { watch_id: index, kind: path.kind, with_value: path.with_value };
                    node.watch(&spec, &path.path);
                }
            }
        }),
        _ => {}
    }
}

/// As much of a node as it takes to answer.
struct Node {
    tree: Tree,
    auth: Arc<Auth>,
    watches: WatchTable,
    outbox: Arc<Outbox>,
    limits: Limits,
    proposed: u64,
}

impl Node {
    fn new() -> Self {
        let auth = Auth { ip: Some([10, 0, 0, 1].into()), ids: Vec::new() };
        let limits = GivenOptions::default().check().expect("the defaults are good").limits.of_writes();
        let mut node = Node {
            tree: Tree::new(),
            outbox: Outbox::new(1, SESSION, 1, 16 << 20, auth.clone(), ClientMemory::unlimited()),
            auth: Arc::new(auth),
            watches: WatchTable::default(),
            limits,
            proposed: 0,
        };
        let client_name = "a fuzzer".into();
        let opening = OpenSession { session: SESSION, password: [7; 16], timeout_ms: 1000, client_name };
        node.apply(Command::OpenSession(opening));
        for (path, acl) in [
            ("/a", vec![]),
            ("/a/b", vec![AclEntry::world(Perms::READ)]),
            ("/c", vec![AclEntry::world(Perms(Perms::ALL.0 & !Perms::READ.0))]),
        ] {
            node.apply(Command::Write(create(path, acl)));
        }
        node
    }

    fn decoded<M: Message + Default + Received>(&mut self, bytes: Bytes, use_it: impl FnOnce(&mut Node, M)) {
        let measured = measure::<M>(&bytes);
        if matches!(measured, Err(Refused::TooLarge(_))) {
            return;
        }
        let message = M::decode(bytes);
        assert!(measured.is_ok() || message.is_err(), "{measured:?}: what is refused could be decoded");
        if let Ok(message) = message {
            use_it(self, message);
        }
    }

    fn frame(&mut self, frame: v1::ClientFrame) {
        if let Some(attach) = frame.attach {
            self.authenticate(&attach.credentials);
            for watch in &attach.watches {
                if let Some(spec) = &watch.spec {
                    self.watch(spec, &watch.path);
                }
            }
        }
        for request in frame.requests {
            let bytes = request.encoded_len();
            match request.op.map(|op| Asked::of(op, OWN)) {
                Some(Asked::Write(asked)) => {
                    let place =
                        Place { session: SESSION, seq: request.write_seq, acked: frame.acked_write_seq };
                    let write = place.admit(asked, (*self.auth).clone(), &self.limits);
                    self.propose(write, bytes);
                }
                Some(Asked::Read(read)) => self.read(&read),
                Some(Asked::RemoveWatch(op)) => drop(self.watches.disarm(&self.outbox, op.watch_id)),
                Some(Asked::Now(Op::AddWatch(v1::AddWatchRequest { path, watch: Some(spec) }))) => {
                    if validate_path(&path).is_ok() {
                        self.watch(&spec, &path);
                    }
                }
                Some(Asked::Now(Op::AddAuth(v1::AddAuthRequest { credential: Some(credential) }))) => {
                    self.authenticate(&[credential]);
                }
                Some(Asked::Now(_)) | None => {}
            }
        }
    }

    /// A write as a call of its own, with and without a place in a session.
    fn call<M: IntoWrite + Message + Clone>(&mut self, message: M) {
        let bytes = message.encoded_len();
        let last = self.tree.session(SESSION).map_or(0, |session| session.last_seq());
        let place = Place { session: SESSION, seq: last + 1, acked: last };
        let write = place.admit(message.clone().into_write(OWN), (*self.auth).clone(), &self.limits);
        self.propose(write, bytes);
        let place = Place { session: 0, seq: 0, acked: 0 };
        if let Ok(request) = message.into_write(OWN)
            && let Ok(write) = place.admit_unnumbered(request, (*self.auth).clone(), &self.limits)
        {
            self.propose(write, bytes);
        }
    }

    /// What is admitted is within the limits, not much larger than what came, and answered.
    fn propose(&mut self, write: Write, bytes: usize) {
        write.validate(&self.limits).expect("admitted");
        let auth_bytes: usize = write.auth.ids.iter().map(|id| id.scheme.len() + id.id.len() + 20).sum();
        let proposed = Command::Write(write);
        let encoded = proposed.encode().len();
        // A number may take ten bytes where the client's took none, and so may the length of each string.
        assert!(encoded <= bytes * 8 + auth_bytes + REFUSAL_BYTES, "{encoded} bytes of {bytes}");
        let applied = self.apply(proposed);
        let result = match applied.result {
            Ok(outcome) => outcome_to_wire(outcome, applied.zxid),
            Err(refused) => v1::reply::Result::Error(error_to_wire(refused)),
        };
        let reply = v1::Reply { id: 1, zxid: applied.zxid, result: Some(result) };
        assert_eq!(v1::Reply::decode(&reply.encode_to_vec()[..]).expect("an answer"), reply);
    }

    fn apply(&mut self, command: Command<'_>) -> Applied {
        self.proposed += 1;
        let origin = Origin { node: 1, incarnation: 1 };
        let batch = Batch { origin, first_seq: self.proposed, commands: vec![command] };
        let entry = Entry { time_ms: 1000, batches: vec![batch], ..Entry::default() };
        let bytes = entry.encode();
        let entry = Entry::decode(&bytes).expect("what is proposed can be decoded");
        let (mut all, watches) = (Vec::new(), &mut self.watches);
        self.tree.apply(&entry, |tree, _, _, applied| {
            watches.fire(tree, &applied.events);
            all.push(applied);
        });
        self.outbox.take();
        all.pop().expect("it was the next one")
    }

    fn read(&self, read: &Read) {
        if let Some((spec, path)) = read.watch() {
            drop(Registration::asked(spec, path));
        }
        if read.is_linearizable().is_err() {
            return;
        }
        let result = read.run(&self.tree, &self.auth, SESSION).unwrap_or_else(v1::reply::Result::Error);
        let reply = v1::Reply { id: 1, zxid: self.tree.last_zxid(), result: Some(result) };
        assert_eq!(v1::Reply::decode(&reply.encode_to_vec()[..]).expect("an answer"), reply);
    }

    fn watch(&mut self, spec: &v1::WatchSpec, path: &str) {
        if let Ok(watch) = Registration::asked(spec, path) {
            self.watches.arm(&self.outbox, watch);
        }
    }

    fn authenticate(&mut self, credentials: &[v1::Credential]) {
        if let Ok(auth) = authenticate(&self.auth, credentials, Some("super:xQJmxLMiHGwaqBvst5y6rkB6HQs=")) {
            assert!(auth.ids.len() <= 32, "{} identities", auth.ids.len());
            self.auth = auth;
        }
    }
}

fn create(path: &str, acl: Acl) -> Write<'_> {
    let (path, mode) = (path.into(), CreateMode::Persistent);
    let op = Create { path, data: Data::Borrowed(b"v"), acl, mode, ttl_ms: 0, parents: false };
    let (auth, guards) = (Auth::default(), Vec::new());
    Write { session: 0, seq: 0, acked: 0, auth, guards, op: WriteOp::Create(op) }
}

/// Bytes as what configures a node: after a byte that chooses, a file, an ensemble or a group; or as a question in a group.
pub fn configuration(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    match (kind, std::str::from_utf8(data)) {
        (0, Ok(text)) => {
            let Ok(given) = GivenOptions::from_text(text) else { return };
            // Names are looked up, which is no work for a fuzzer: an address will do.
            let address = || Some("127.0.0.1:7".to_owned());
            let given = GivenOptions {
                listen: given.listen.and_then(|_| address()),
                peer_listen: Some("127.0.0.1:8".to_owned()),
                ..given
            };
            if let Ok(options) = given.check() {
                assert_sensible(&options);
            }
        }
        (1, Ok(text)) => {
            let Ok(members) = crate::options::parse_ensemble(text) else { return };
            let address =
                |(id, member): (&u64, &coordd_raft::Member)| format!("{id}={}", member.peer_address);
            let again = members.iter().map(address).collect::<Vec<_>>().join(",");
            assert_eq!(crate::options::parse_ensemble(&again).expect("as it was read"), members);
        }
        (2, Ok(text)) => {
            if let Ok(group) = text.parse::<AnnounceGroup>() {
                assert_eq!(group.to_string().parse(), Ok(group));
            }
        }
        _ => {
            let address = SocketAddr::from(([10, 0, 0, 1], 7401));
            if let Some(answer) = answer(data, 1, "ours", address) {
                assert!(
                    answer.len() <= 1024,
                    "an answer of {} bytes, more than a client reads",
                    answer.len()
                );
            }
        }
    }
}

/// What the rest of the process relies on.
fn assert_sensible(options: &Options) {
    let Timing { heartbeat, election_min, election_max } = options.timing;
    assert!(heartbeat * 2 <= election_min && election_min < election_max && election_max.as_secs() <= 60);
    assert!(options.session_timeout_min <= options.session_timeout);
    assert!(options.session_timeout <= options.session_timeout_max);
    let limits = options.limits;
    assert!(limits.value_bytes < limits.frame_bytes && limits.frame_bytes <= 12 << 20);
    assert!(limits.outbox_bytes >= limits.frame_bytes && limits.outstanding > 0);
    let members: &BTreeMap<_, _> = &options.members;
    assert!(members.contains_key(&options.id) && !members.contains_key(&0));
}

#[cfg(test)]
mod tests {
    use coordd_corpus::{keep_seeds, replay};

    use super::*;

    fn message(kind: u8, message: &impl Message) -> Vec<u8> {
        [&[kind], &message.encode_to_vec()[..]].concat()
    }

    fn create_request() -> v1::CreateRequest {
        let acl =
            |perms, scheme: &str, id: &str| v1::AclEntry { perms, scheme: scheme.into(), id: id.into() };
        v1::CreateRequest {
            path: "/a/x-".into(),
            data: Bytes::from_static(b"value"),
            acl: vec![acl(31, "world", "anyone"), acl(1, "auth", ""), acl(1, "ip", "10.0.0.0/8")],
            mode: v1::CreateMode::EphemeralSequential as i32,
            ttl_ms: 0,
            parents: true,
            guards: vec![
                check("/a", v1::check::Condition::Version(0)),
                check("/n", v1::check::Condition::Absent(true)),
            ],
            session: Some(v1::SessionRef { session_id: 1, write_seq: 1, ..v1::SessionRef::default() }),
        }
    }

    fn check(path: &str, condition: v1::check::Condition) -> v1::Check {
        v1::Check { path: path.into(), condition: Some(condition), lineage: None }
    }

    fn frame() -> v1::ClientFrame {
        use v1::multi_op::Op as Part;
        let path = || "/a".to_owned();
        let watch = Some(v1::WatchSpec { watch_id: 3, kind: v1::WatchKind::Data as i32, with_value: true });
        let set =
            v1::SetRequest { path: path(), data: Bytes::from_static(b"2"), ..v1::SetRequest::default() };
        let delete =
            v1::DeleteRequest { path: "/a/b".into(), version: Some(0), ..v1::DeleteRequest::default() };
        let parts = [
            Part::Create(v1::CreateRequest { guards: vec![], session: None, ..create_request() }),
            Part::Set(set.clone()),
            Part::Delete(delete.clone()),
            Part::Check(check("/a", v1::check::Condition::Epoch(2))),
        ];
        let multi = v1::MultiRequest {
            ops: parts.map(|op| v1::MultiOp { op: Some(op) }).to_vec(),
            ..v1::MultiRequest::default()
        };
        let quota = Some(v1::Quota { count_hard: Some(10), bytes_soft: Some(9), ..v1::Quota::default() });
        let get = v1::GetRequest { path: path(), watch, ..v1::GetRequest::default() };
        let list =
            v1::ListRequest { path: "/".into(), limit: 2, with_stat: true, ..v1::ListRequest::default() };
        let reads = [v1::read_op::Op::Get(get.clone()), v1::read_op::Op::List(list.clone())];
        let credential = v1::Credential { scheme: "digest".into(), auth: Bytes::from_static(b"ann:secret") };
        let acl = create_request().acl;
        let ops = [
            Op::Create(create_request()),
            Op::Set(set),
            Op::Multi(multi),
            Op::SetAcl(v1::SetAclRequest { path: path(), acl, ..v1::SetAclRequest::default() }),
            Op::SetQuota(v1::SetQuotaRequest { path: path(), quota, ..v1::SetQuotaRequest::default() }),
            Op::DeleteQuota(v1::DeleteQuotaRequest { path: path(), ..v1::DeleteQuotaRequest::default() }),
            Op::Get(get),
            Op::Exists(v1::ExistsRequest { path: path(), level: 2, ..v1::ExistsRequest::default() }),
            Op::List(list),
            Op::MultiRead(v1::MultiReadRequest {
                ops: reads.map(|op| v1::ReadOp { op: Some(op) }).to_vec(),
                ..v1::MultiReadRequest::default()
            }),
            Op::GetAcl(v1::GetAclRequest { path: path(), ..v1::GetAclRequest::default() }),
            Op::AddWatch(v1::AddWatchRequest { path: path(), watch }),
            Op::RemoveWatch(v1::RemoveWatchRequest { watch_id: 3 }),
            Op::AddAuth(v1::AddAuthRequest { credential: Some(credential.clone()) }),
            Op::Delete(delete),
            Op::DeleteTree(v1::DeleteTreeRequest { path: path(), ..v1::DeleteTreeRequest::default() }),
            Op::Close(v1::CloseRequest {}),
        ];
        let mut write_seq = 0;
        let request = |(op, id): (Op, u64)| {
            let writes = matches!(Asked::of(op.clone(), OWN), Asked::Write(_));
            write_seq += u64::from(writes);
            v1::Request { id, write_seq: if writes { write_seq } else { 0 }, op: Some(op) }
        };
        let attach = v1::Attach {
            timeout_ms: 1000,
            credentials: vec![credential],
            watches: vec![v1::ResumeWatch { spec: watch, path: path() }],
            client_name: "a client".into(),
            ..v1::Attach::default()
        };
        v1::ClientFrame {
            attach: Some(attach),
            requests: ops.into_iter().zip(1..).map(request).collect(),
            acked_write_seq: 0,
            ping: Some(v1::Ping { nonce: 7 }),
        }
    }

    #[test]
    fn the_seeds_are_what_is_written() {
        let subscription = v1::SubscribeRequest {
            paths: vec![v1::SubscribePath { path: "/a".into(), kind: 3, with_value: true }],
            ..v1::SubscribeRequest::default()
        };
        let mut seeds = vec![
            ("frame", message(0, &frame())),
            ("create", message(1, &create_request())),
            ("subscribe", message(17, &subscription)),
        ];
        for request in frame().requests {
            match request.op {
                Some(Op::Multi(op)) => seeds.push(("multi", message(4, &op))),
                Some(Op::SetAcl(op)) => seeds.push(("set-acl", message(6, &op))),
                Some(Op::SetQuota(op)) => seeds.push(("set-quota", message(7, &op))),
                Some(Op::List(op)) => seeds.push(("list", message(11, &op))),
                Some(Op::MultiRead(op)) => seeds.push(("multi-read", message(12, &op))),
                _ => {}
            }
        }
        keep_seeds("server_client_message", &seeds);
        let reference = include_str!("../../../config/coordd.toml");
        let options = |line: &str| {
            let line =
                line.strip_prefix('#').filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()));
            line.map(str::to_owned)
        };
        let file: Vec<String> = reference.lines().filter_map(options).collect();
        let text = |kind: u8, text: &str| [&[kind], text.as_bytes()].concat();
        keep_seeds(
            "server_configuration",
            &[
                ("file", text(0, &file.join("\n"))),
                ("ensemble", text(1, "1=host-1:7501,2=127.0.0.1:7502,3=[::1]:7503")),
                ("group", text(2, "239.7.4.1:7400@10.0.0.1")),
                ("question", text(3, r#"{"coordd":"find","version":1,"nonce":"0123456789abcdef"}"#)),
            ],
        );
    }

    #[test]
    fn what_the_fuzzer_found_stays_found() {
        replay("server_client_message", client_message);
        replay("server_configuration", configuration);
    }
}
