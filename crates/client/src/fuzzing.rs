//! What the fuzz targets of this crate do with their bytes. Each is a plain function, so that the tests below replay what
//! the fuzzer once found.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use coordd_proto::{status, v1};
use futures::FutureExt as _;
use prost::Message;
use tonic::{Code, Status};

use crate::discovery::fuzzing::{file, judge, source};
use crate::recipes::config::ConfigKey;
use crate::recipes::health::{HealthCheck, HealthReport};
use crate::recipes::registry::ServiceInstance;
use crate::session::shared::{Answers, Flow, NextFrame, Shared};
use crate::{
    AclEntry, Call, Check, Client, ConnectOptions, CreateMode, Credential, Endpoints, Error, ListOptions,
    ListPage, NodeStatus, Perms, PersistentWatcher, Quota, QuotaUsage, ReadLevel, SessionInfo, SessionRecord,
    WatchEvent, WatchMode, client,
};

/// Bytes as the frames of a session stream, each after its length in two bytes, of a server that may say anything. The client
/// has asked for some of everything; what it believes stays in order, whatever it is told.
pub fn server_frames(mut data: &[u8]) {
    let shared = Arc::new(Shared::new(Vec::new(), Duration::from_secs(10)));
    let handle = client::Handle {
        shared: shared.clone(),
        endpoints: Vec::new(),
        options: ConnectOptions::default().watch_buffer(8),
    };
    let client = Client { handle: Arc::new(handle), guards: Arc::new([]), patience: Default::default() };
    attach(&shared);
    let (mut asked, mut watcher) = (ask(&client), Watcher::Asked(client.watch("/a", WatchMode::Persistent)));
    send(&shared);
    let (mut seen, mut heard) = (shared.seen_zxid(), 0);
    while let Some((length, rest)) = data.split_first_chunk::<2>() {
        let (frame, rest) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
        data = rest;
        let Ok(frame) = v1::ServerFrame::decode(frame) else { return };
        let mut answers = Answers::new();
        let flow = shared.on_frame(frame, &mut answers);
        for (answer_tx, answer) in answers {
            drop(answer_tx.send(answer));
        }
        assert!(shared.seen_zxid() >= seen, "the client was led back from {seen}");
        seen = shared.seen_zxid();
        heard = watcher.listen(heard);
        assert_answered_in_order(&mut asked);
        match flow {
            Flow::Continue => send(&shared),
            Flow::AttachAgain(_) => {
                shared.on_stream_lost();
                attach(&shared);
                send(&shared);
            }
            Flow::Ended => {
                asked
                    .iter_mut()
                    .for_each(|ask| assert!(ask.poll(), "a call waits for a session that has ended"));
                assert!(client.sync().now_or_never().is_some_and(|answer| answer.is_err()));
                return;
            }
        }
    }
}

/// A node takes the session, as one that is up to date.
fn attach(shared: &Shared) {
    let (_, attach) = shared.begin_stream("a fuzzer");
    let attached = v1::Attached {
        session_id: 7,
        timeout_ms: 1000,
        zxid: attach.last_zxid.max(shared.seen_zxid()),
        last_write_seq: u64::MAX,
        ..v1::Attached::default()
    };
    shared.on_attached(&attached, "127.0.0.1:7401").expect("a node that is up to date");
}

/// What the transport sends.
fn send(shared: &Shared) {
    let stream_id = shared.stream_id();
    while let NextFrame::Frame(frame) = shared.next_frame(stream_id, true, Waker::noop()) {
        drop(frame.encode_to_vec());
    }
}

/// A call, whatever its answer is.
trait Ask {
    /// Whether it has been answered.
    fn poll(&mut self) -> bool;
}

/// A call until it is answered.
struct Asked<T>(Option<Call<T>>);

impl<T: 'static> Ask for Asked<T> {
    fn poll(&mut self) -> bool {
        if self.0.as_mut().is_some_and(|call| call.now_or_never().is_some()) {
            self.0 = None;
        }
        self.0.is_none()
    }
}

fn ask(client: &Client) -> Vec<Box<dyn Ask>> {
    fn call<T: 'static>(call: Call<T>) -> Box<dyn Ask> {
        Box::new(Asked(Some(call)))
    }
    let level = ReadLevel::Local;
    let options = ListOptions::default;
    let acl = [AclEntry::world(Perms::ALL)];
    vec![
        call(client.create("/a", "v", CreateMode::Persistent)),
        call(client.get("/a", level)),
        call(client.get_and_watch("/a", level)),
        call(client.exists_and_watch("/b", level)),
        call(client.list_and_watch("/", level, options())),
        call(client.set("/a", "w", Some(0))),
        call(client.exists("/a", level)),
        call(client.list_page("/", level, options())),
        call(client.multi().set("/a", "x", None).delete("/b", None).check(Check::absent("/c")).commit()),
        call(client.multi_read(level).get("/a").exists("/b").list("/", options()).send()),
        call(client.get_acl("/a", level)),
        call(client.set_acl("/a", acl, None)),
        call(client.set_quota("/a", Quota::default())),
        call(client.get_quota("/a", level)),
        call(client.delete_quota("/a")),
        call(client.ephemerals_page(0, "/", level, "")),
        call(client.count_descendants("/", level)),
        call(client.delete_tree("/a", Some(1))),
        call(client.delete("/a", None)),
        call(client.add_auth(Credential::digest("ann", "secret"))),
        call(client.who_am_i()),
        call(client.sync()),
    ]
}

/// Replies come in the order of the requests, so no call is answered before one that was made earlier.
fn assert_answered_in_order(asked: &mut [Box<dyn Ask>]) {
    let answered: Vec<bool> = asked.iter_mut().map(|ask| ask.poll()).collect();
    assert!(answered.is_sorted_by(|before, after| before >= after), "{answered:?}");
}

/// A watch that stays.
enum Watcher {
    Asked(Call<PersistentWatcher>),
    Armed(PersistentWatcher),
    Over,
}

impl Watcher {
    /// Takes the events that are there; the last zxid of all.
    fn listen(&mut self, mut heard: u64) -> u64 {
        if let Watcher::Asked(call) = self
            && let Some(answer) = call.now_or_never()
        {
            *self = answer.map_or(Watcher::Over, Watcher::Armed);
        }
        while let Watcher::Armed(watcher) = self {
            match watcher.next().now_or_never() {
                Some(Ok(WatchEvent::Event(event))) => {
                    assert!(event.zxid >= heard, "an event of {} after one of {heard}", event.zxid);
                    heard = event.zxid;
                }
                Some(Ok(WatchEvent::Resync { .. })) => {}
                Some(Err(_)) => *self = Watcher::Over,
                None => break,
            }
        }
        heard
    }
}

/// Bytes as the answer to a unary call, of the kind that the first of them says, and as the details of a gRPC status.
pub fn server_reply(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind {
        0 => {
            let carried = Status::with_details(Code::Unknown, "refused", bytes.to_vec().into());
            if let Some(error) = status::from_status(&carried) {
                assert_eq!(status::from_status(&status::into_status(error.clone())), Some(error));
            }
            assert!(!Error::from(carried).message.is_empty() || bytes.len() > 4);
        }
        1 => decoded(bytes, |reply: v1::StatusReply| drop(NodeStatus::from(reply))),
        2 => decoded(bytes, |reply: v1::ListSessionsReply| {
            reply.sessions.into_iter().for_each(|session| drop(SessionInfo::from(session)));
        }),
        3 => decoded(bytes, |reply: v1::GetSessionReply| match reply.session {
            Some(v1::get_session_reply::Session::Live(live)) => drop(SessionInfo::from(live)),
            Some(v1::get_session_reply::Session::Ended(ended)) => drop(SessionRecord::from(ended)),
            None => {}
        }),
        4 => decoded(bytes, |reply: v1::ListReply| drop(ListPage::try_from(reply))),
        5 => decoded(bytes, |reply: v1::GetQuotaReply| {
            let count = reply.count;
            assert_eq!(QuotaUsage::from(reply).count, count);
        }),
        6 => decoded(bytes, |error: v1::Error| {
            let error = Error::from(error);
            assert!(error.write_seq.is_none());
            drop(error.to_string());
        }),
        7 => decoded(bytes, |reply: v1::ListQuotasReply| {
            reply.quotas.into_iter().for_each(|info| {
                let count = info.count;
                assert_eq!(QuotaUsage::from(info).count, count);
            });
        }),
        _ => {}
    }
}

fn decoded<M: Message + Default>(bytes: &[u8], use_it: impl FnOnce(M)) {
    if let Ok(message) = M::decode(bytes) {
        use_it(message);
    }
}

/// Bytes as text that a person or another program has written: endpoints, a file of them, the answer of a node in a multicast
/// group, and what recipes keep in the tree. What is taken is written as it was read.
pub fn text(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    if *kind == 2 {
        let from = SocketAddr::from(([10, 0, 0, 9], 7400));
        let found = judge(data, from, "n1");
        assert!(found.is_none_or(|address| !address.ip().is_unspecified()), "an address that is nobody's");
        return;
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    match kind {
        0 => {
            if let Some(again) = source(text) {
                assert_eq!(source(&again).as_deref(), Some(&*again), "{text:?}");
                assert!(Endpoints::parse([text]).is_ok());
            }
        }
        1 => drop(file(text)),
        3 => {
            if let Ok(instance) = ServiceInstance::from_json("node-1", data) {
                let again = ServiceInstance::from_json("node-1", &instance.to_json());
                assert_eq!(again.as_ref(), Ok(&instance));
            }
        }
        4 => {
            if let Ok(report) = serde_json::from_str::<HealthReport>(text) {
                let again = serde_json::to_string(&report).expect("strings and numbers");
                assert_eq!(serde_json::from_str::<HealthReport>(&again).ok(), Some(report));
            }
        }
        5 => {
            if let Ok(check) = text.parse::<HealthCheck>() {
                let again: Result<HealthCheck, Error> = check.to_string().parse();
                assert_eq!(again.map(|check| check.to_string()), Ok(check.to_string()));
            }
        }
        6 => {
            if let Ok(key) = text.parse::<ConfigKey>() {
                assert_eq!(key.to_string().parse().as_ref(), Ok(&key), "{text:?} as {:?}", key.to_string());
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use coordd_corpus::{keep_seeds, replay};
    use coordd_proto::v1::reply::Result as Answered;
    use coordd_proto::v1::server_item::Item;

    use super::*;

    fn frames(items: Vec<Item>) -> Vec<u8> {
        let frame = |items: &[Item]| {
            let items = items.iter().cloned().map(|item| v1::ServerItem { item: Some(item) }).collect();
            let frame = v1::ServerFrame { items }.encode_to_vec();
            [&(frame.len() as u16).to_le_bytes(), &frame[..]].concat()
        };
        items.chunks(9).flat_map(frame).collect()
    }

    fn replies() -> Vec<Answered> {
        let stat = Some(v1::Stat { czxid: 2, mzxid: 2, pzxid: 2, data_length: 1, ..v1::Stat::default() });
        let get = || v1::GetReply { data: "v".into(), stat, zxid: 0 };
        let exists = || v1::ExistsReply { stat, zxid: 0 };
        let child = || v1::Child { name: "a".into(), stat };
        let list = || v1::ListReply { children: vec![child()], stat, more: true, zxid: 0 };
        let set = || v1::SetReply { stat, zxid: 0 };
        let part = |result| v1::MultiOpReply { result: Some(result) };
        let read = |result| v1::ReadOpReply { result: Some(result) };
        let acl = vec![v1::AclEntry { perms: 31, scheme: "world".into(), id: "anyone".into() }];
        let identity = v1::Identity { scheme: "ip".into(), id: "10.0.0.1".into() };
        vec![
            Answered::Create(v1::CreateReply { path: "/a".into(), stat, zxid: 0 }),
            Answered::Get(get()),
            Answered::Get(get()),
            Answered::Exists(exists()),
            Answered::List(list()),
            Answered::Set(set()),
            Answered::Exists(exists()),
            Answered::List(list()),
            Answered::Multi(v1::MultiReply {
                results: vec![
                    part(v1::multi_op_reply::Result::Set(set())),
                    part(v1::multi_op_reply::Result::Delete(v1::DeleteReply::default())),
                    part(v1::multi_op_reply::Result::Check(v1::CheckReply {})),
                ],
                zxid: 0,
            }),
            Answered::MultiRead(v1::MultiReadReply {
                results: vec![
                    read(v1::read_op_reply::Result::Get(get())),
                    read(v1::read_op_reply::Result::Exists(exists())),
                    read(v1::read_op_reply::Result::List(list())),
                ],
                zxid: 0,
            }),
            Answered::GetAcl(v1::GetAclReply { acl, stat }),
            Answered::SetAcl(v1::SetAclReply { stat, zxid: 0 }),
            Answered::SetQuota(v1::SetQuotaReply { zxid: 0 }),
            Answered::GetQuota(v1::GetQuotaReply { count: 1, ..v1::GetQuotaReply::default() }),
            Answered::DeleteQuota(v1::DeleteQuotaReply { zxid: 0 }),
            Answered::GetEphemerals(v1::GetEphemeralsReply { paths: vec!["/a".into()], more: false }),
            Answered::CountDescendants(v1::CountDescendantsReply { count: 1 }),
            Answered::DeleteTree(v1::DeleteTreeReply { count: 1, zxid: 0 }),
            Answered::Error(error(v1::ErrorCode::NoNode)),
            Answered::AddAuth(v1::AddAuthReply {}),
            Answered::WhoAmI(v1::WhoAmIReply { identities: vec![identity] }),
            Answered::Sync(v1::SyncReply { zxid: 9, lineage: None }),
            Answered::AddWatch(v1::AddWatchReply {}),
        ]
    }

    fn error(code: v1::ErrorCode) -> v1::Error {
        let (message, path) = ("refused".to_owned(), "/a".to_owned());
        v1::Error { code: code as i32, message, path, op_index: Some(1), retry_after_ms: 5 }
    }

    fn ended() -> v1::SessionEnd {
        v1::SessionEnd { reason: 2, detail: "silent".into(), ..v1::SessionEnd::default() }
    }

    #[test]
    fn the_seeds_are_what_is_written() {
        let reply =
            |(result, id): (Answered, u64)| Item::Reply(v1::Reply { id, zxid: id + 1, result: Some(result) });
        let mut all: Vec<Item> = replies().into_iter().zip(1..).map(reply).collect();
        let event = |zxid, watch_ids: &[u64]| {
            Item::Event(v1::Event {
                watch_ids: watch_ids.to_vec(),
                r#type: v1::EventType::NodeDataChanged as i32,
                path: "/a".into(),
                zxid,
                value: Some("v".into()),
                stat: Some(v1::Stat::default()),
            })
        };
        all.extend([event(40, &[1, 4]), event(41, &[4]), Item::Pong(v1::Pong { nonce: 1, zxid: 41 })]);
        all.push(Item::Renewed(v1::Renewed { nonce: 1 }));
        all.push(Item::Resync(v1::Resync { watch_ids: vec![2, 4], zxid: 50 }));
        let refused = vec![reply((Answered::Error(error(v1::ErrorCode::NotServing)), 1))];
        let mut over = refused.clone();
        over.extend([reply((replies().remove(0), 1)), Item::Ended(ended())]);
        keep_seeds(
            "client_server_frames",
            &[("answers", frames(all)), ("refused", frames(refused)), ("ended", frames(over))],
        );
        let message = |kind: u8, message: &dyn Fn() -> Vec<u8>| [&[kind], &message()[..]].concat();
        let member = v1::Member { node_id: 1, client_address: "h:1".into(), ..v1::Member::default() };
        let node = v1::StatusReply { node_id: 1, members: vec![member], ..v1::StatusReply::default() };
        let live = v1::SessionInfo { session_id: 7, client_name: "c".into(), ..v1::SessionInfo::default() };
        let session = Some(v1::get_session_reply::Session::Ended(ended()));
        let refused = status::into_status(error(v1::ErrorCode::BadVersion));
        keep_seeds(
            "client_server_reply",
            &[
                ("status", message(0, &|| refused.details().to_vec())),
                ("node", message(1, &|| node.encode_to_vec())),
                (
                    "sessions",
                    message(2, &|| {
                        v1::ListSessionsReply { sessions: vec![live.clone()], more: true }.encode_to_vec()
                    }),
                ),
                ("session", message(3, &|| v1::GetSessionReply { session: session.clone() }.encode_to_vec())),
                ("error", message(6, &|| error(v1::ErrorCode::Throttled).encode_to_vec())),
            ],
        );
        let text = |kind: u8, text: &str| [&[kind], text.as_bytes()].concat();
        let answer = r#"{"coordd":"node","version":1,"nonce":"n1","node_id":1,"cluster_id":"ours","address":"0.0.0.0:7401"}"#;
        let instance =
            r#"{"id":"node-1","host":"10.0.1.10","port":3001,"services":["caching"],"load":0.65,"weight":2}"#;
        let report = r#"{"monitor":"m","status":"suspect","why":"","checks":3,"latency":null}"#;
        keep_seeds(
            "client_text",
            &[
                ("host", text(0, "node-1.example:7401")),
                ("ipv6", text(0, "[::1]:7401")),
                ("dns", text(0, "dns:coordd.example:7401@127.0.0.1:8600")),
                ("srv", text(0, "srv:_coordd._tcp.example.com@[::1]")),
                ("multicast", text(0, "multicast:239.7.4.1:7400@10.0.0.1")),
                ("from-file", text(0, "file:/etc/coordd/nodes")),
                ("file", text(1, "# the nodes\n127.0.0.1:1\n b:2 # the second\n")),
                ("answer", text(2, answer)),
                ("instance", text(3, instance)),
                ("report", text(4, report)),
                ("check", text(5, "http://shop:80/health?deep=1")),
                ("key", text(6, "a.b/c~0")),
                ("pointer", text(6, "/a/b~1c/d~0e")),
            ],
        );
    }

    #[test]
    fn what_the_fuzzer_found_stays_found() {
        replay("client_server_frames", server_frames);
        replay("client_server_reply", server_reply);
        replay("client_text", text);
    }

    #[test]
    fn the_seeds_answer_every_call() {
        let shared = Arc::new(Shared::new(Vec::new(), Duration::from_secs(10)));
        let handle = client::Handle { shared, endpoints: Vec::new(), options: ConnectOptions::default() };
        let client = Client { handle: Arc::new(handle), guards: Arc::new([]), patience: Default::default() };
        assert_eq!(ask(&client).len() + 1, replies().len(), "the watch is asked for after all others");
    }
}
