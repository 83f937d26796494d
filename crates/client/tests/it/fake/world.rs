use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use coordd_client::Bytes;
use coordd_proto::v1;
use coordd_proto::v1::reply::Result as Reply;
use coordd_proto::v1::request::Op;
use coordd_proto::v1::server_item::Item;
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tonic::Status;

pub(crate) const PASSWORD: &[u8] = b"0123456789abcdef";

/// How the next occasion goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The next frame with requests is carried out, but the stream breaks before the replies.
    LoseReplies,
    /// The stream breaks before the next frame with requests is carried out.
    LoseRequests,
    /// The stream breaks after the first event of the next change.
    CutAfterFirstEvent,
    /// The next write is refused as out of order and not carried out.
    SequenceGap,
    /// The next stream, or this one from the next frame on, gets no word any more.
    Silence,
}

/// A write that took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(crate) session_id: u64,
    pub(crate) write_seq: u64,
    pub(crate) path: String,
    pub(crate) data: Bytes,
}

#[derive(Default)]
struct Session {
    last_write_seq: u64,
    results: HashMap<u64, v1::Reply>,
}

struct Stream {
    node_id: u64,
    session_id: u64,
    silent: bool,
    watches: BTreeMap<u64, (String, v1::WatchKind)>,
    outbox: mpsc::UnboundedSender<Result<v1::ServerFrame, Status>>,
}

/// What all nodes agree on, and what the tests look at.
pub(crate) struct World {
    pub(crate) zxid: u64,
    znodes: BTreeMap<String, (Bytes, i32)>,
    sessions: HashMap<u64, Session>,
    ended: HashMap<u64, Session>,
    history: Vec<v1::Event>,
    streams: HashMap<u64, Stream>,
    last_stream_id: u64,
    changed_tx: watch::Sender<()>,
    pub(crate) faults: VecDeque<Fault>,
    /// Nodes to which every connection breaks.
    pub(crate) unreachable: HashSet<u64>,
    /// Nodes that refuse to serve.
    pub(crate) refusing: HashSet<u64>,
    /// What attaches are refused with, by all nodes.
    pub(crate) refusal: Option<v1::Error>,
    /// What the nodes tell of their limits. `None`: they are of a version that knows neither limits, nor
    /// lineages, nor attaches of several frames.
    pub(crate) limits: Option<v1::Limits>,
    /// The ensemble.
    pub(crate) cluster_id: String,
    /// Nodes of another ensemble.
    pub(crate) foreign: HashSet<u64>,
    /// The largest frame that came.
    pub(crate) frame_bytes: usize,
    /// Events up to here are forgotten.
    pub(crate) history_starts_at: u64,
    pub(crate) applied: Vec<Applied>,
    pub(crate) attaches: Vec<v1::Attach>,
    /// Requests per frame that carried any.
    pub(crate) frames: Vec<usize>,
    pub(crate) requests: Vec<v1::Request>,
    pub(crate) acked_write_seq: u64,
    pub(crate) pings: usize,
}

impl Default for World {
    fn default() -> Self {
        Self {
            zxid: 100,
            znodes: BTreeMap::new(),
            sessions: HashMap::new(),
            ended: HashMap::new(),
            history: Vec::new(),
            streams: HashMap::new(),
            last_stream_id: 0,
            changed_tx: watch::Sender::new(()),
            faults: VecDeque::new(),
            unreachable: HashSet::new(),
            refusing: HashSet::new(),
            refusal: None,
            limits: Some(v1::Limits::default()),
            cluster_id: "fake".into(),
            foreign: HashSet::new(),
            frame_bytes: 0,
            history_starts_at: 0,
            applied: Vec::new(),
            attaches: Vec::new(),
            frames: Vec::new(),
            requests: Vec::new(),
            acked_write_seq: 0,
            pings: 0,
        }
    }
}

pub(crate) fn refusal(code: v1::ErrorCode, message: &str) -> v1::Error {
    v1::Error { code: code as i32, message: message.into(), ..Default::default() }
}

fn frame(items: Vec<Item>) -> v1::ServerFrame {
    v1::ServerFrame { items: items.into_iter().map(|item| v1::ServerItem { item: Some(item) }).collect() }
}

impl World {
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed_tx.subscribe()
    }

    pub(crate) fn has_session(&self, session_id: u64) -> bool {
        self.sessions.contains_key(&session_id)
    }

    pub(crate) fn attached_node(&self, session_id: u64) -> Option<u64> {
        self.streams.values().find(|stream| stream.session_id == session_id).map(|stream| stream.node_id)
    }

    /// Watches armed on the session's stream.
    pub(crate) fn watch_count(&self, session_id: u64) -> usize {
        self.streams.values().filter(|s| s.session_id == session_id).map(|stream| stream.watches.len()).sum()
    }

    /// Ends a session without telling its client.
    pub(crate) fn expire(&mut self, session_id: u64) {
        let session = self.sessions.remove(&session_id);
        self.ended.extend(session.map(|session| (session_id, session)));
    }

    pub(crate) fn outcome(&self, session_id: u64, write_seq: u64) -> v1::OutcomeReply {
        use v1::outcome_reply::Fate;
        let live = self.sessions.get(&session_id);
        let reply = |fate: Fate, reply| v1::OutcomeReply { fate: fate as i32, reply };
        match live.or(self.ended.get(&session_id)).map(|session| session.results.get(&write_seq)) {
            Some(Some(recorded)) => reply(Fate::Applied, Some(recorded.clone())),
            Some(None) if live.is_some() => reply(Fate::NotYet, None),
            Some(None) => reply(Fate::Never, None),
            None => reply(Fate::Unknown, None),
        }
    }

    /// Breaks all streams.
    pub(crate) fn cut(&mut self) {
        self.streams.clear();
        self.changed_tx.send_replace(());
    }

    /// Ends a session and says why.
    pub(crate) fn kill(&mut self, session_id: u64, detail: &str) {
        self.sessions.remove(&session_id);
        let reason = v1::session_end::Reason::Killed as i32;
        let end = v1::SessionEnd { session_id, reason, detail: detail.into(), ..Default::default() };
        for stream in self.streams.values().filter(|stream| stream.session_id == session_id) {
            stream.send(vec![Item::Ended(end.clone())]);
        }
        self.streams.retain(|_, stream| stream.session_id != session_id);
    }

    /// A write by nobody in particular: sets all of `paths` in one change.
    pub(crate) fn change(&mut self, paths: &[&str]) -> u64 {
        self.zxid += 1;
        for path in paths {
            self.znodes.entry((*path).to_owned()).or_default().1 += 1;
        }
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        self.fire(&paths, v1::EventType::NodeDataChanged);
        self.zxid
    }

    pub(crate) fn resync_all(&self) {
        for stream in self.streams.values() {
            let watch_ids = stream.watches.keys().copied().collect();
            stream.send(vec![Item::Resync(v1::Resync { watch_ids, zxid: self.zxid })]);
        }
    }

    fn fire(&mut self, paths: &[String], event_type: v1::EventType) {
        for path in paths {
            let r#type = event_type as i32;
            let event = v1::Event { r#type, path: path.clone(), zxid: self.zxid, ..Default::default() };
            self.history.push(event.clone());
            let mut cut = None;
            for (stream_id, stream) in &mut self.streams {
                if stream.deliver(&event) && self.faults.front() == Some(&Fault::CutAfterFirstEvent) {
                    self.faults.pop_front();
                    cut = Some(*stream_id);
                }
            }
            if let Some(stream_id) = cut {
                self.streams.remove(&stream_id);
            }
        }
    }

    /// A stream begins. Its number, or why not.
    pub(crate) fn attach(
        &mut self,
        node_id: u64,
        attach: v1::Attach,
        outbox: mpsc::UnboundedSender<Result<v1::ServerFrame, Status>>,
    ) -> Result<u64, Status> {
        let refuse = |code, message: &str| Err(coordd_proto::status::into_status(refusal(code, message)));
        self.attaches.push(attach.clone());
        self.changed_tx.send_replace(());
        if self.unreachable.contains(&node_id) {
            return Err(Status::unavailable("told to be out of reach"));
        }
        if self.refusing.contains(&node_id) {
            return refuse(v1::ErrorCode::NotServing, "told to refuse");
        }
        if let Some(refused) = &self.refusal {
            return Err(coordd_proto::status::into_status(refused.clone()));
        }
        let cluster_id = if self.foreign.contains(&node_id) { "foreign" } else { &self.cluster_id };
        let is_known = |lineage: &v1::Lineage| lineage.cluster_id == cluster_id && lineage.number == 0;
        if self.limits.is_some() && attach.lineage.as_ref().is_some_and(|lineage| !is_known(lineage)) {
            return refuse(v1::ErrorCode::OtherLineage, "of another ensemble");
        }
        if attach.session_id != 0 && !self.sessions.contains_key(&attach.session_id) {
            return refuse(v1::ErrorCode::SessionExpired, "it is gone");
        }
        if attach.credentials.iter().any(|credential| credential.auth.ends_with(b":wrong")) {
            return refuse(v1::ErrorCode::AuthFailed, "wrong credential");
        }
        self.last_stream_id += 1;
        let session_id =
            if attach.session_id == 0 { 0x1000 + self.last_stream_id } else { attach.session_id };
        let session = self.sessions.entry(session_id).or_default();
        let attached = v1::Attached {
            session_id,
            password: Bytes::from_static(PASSWORD),
            timeout_ms: attach.timeout_ms,
            zxid: self.zxid,
            node_id,
            last_write_seq: session.last_write_seq,
            cluster_id: cluster_id.to_owned(),
            lineage_number: 0,
            limits: self.limits,
        };
        self.streams.retain(|_, stream| stream.session_id != session_id);
        let silent = self.faults.front() == Some(&Fault::Silence);
        if silent {
            self.faults.pop_front();
        }
        let mut stream = Stream { node_id, session_id, silent, watches: BTreeMap::new(), outbox };
        stream.send(vec![Item::Attached(attached)]);
        for watch in attach.watches {
            let spec = watch.spec.unwrap();
            stream.watches.insert(spec.watch_id, (watch.path, spec.kind()));
        }
        if attach.last_zxid < self.history_starts_at && !stream.watches.is_empty() {
            let watch_ids = stream.watches.keys().copied().collect();
            stream.send(vec![Item::Resync(v1::Resync { watch_ids, zxid: self.zxid })]);
        } else {
            for event in self.history.iter().filter(|event| event.zxid > attach.last_zxid) {
                stream.deliver(event);
            }
        }
        self.streams.insert(self.last_stream_id, stream);
        Ok(self.last_stream_id)
    }

    /// A frame of a stream. False: the stream is over.
    pub(crate) fn on_frame(&mut self, stream_id: u64, client_frame: v1::ClientFrame) -> bool {
        let Some(stream) = self.streams.get_mut(&stream_id) else { return false };
        if self.faults.front() == Some(&Fault::Silence) {
            self.faults.pop_front();
            stream.silent = true;
        }
        self.frame_bytes = self.frame_bytes.max(client_frame.encoded_len());
        self.acked_write_seq = self.acked_write_seq.max(client_frame.acked_write_seq);
        self.changed_tx.send_replace(());
        if let Some(ping) = client_frame.ping {
            self.pings += 1;
            let pong = Item::Pong(v1::Pong { nonce: ping.nonce, zxid: self.zxid });
            stream.send(vec![pong, Item::Renewed(v1::Renewed { nonce: ping.nonce })]);
        }
        if client_frame.requests.is_empty() {
            return true;
        }
        self.frames.push(client_frame.requests.len());
        let fault = self.faults.front().copied();
        if matches!(fault, Some(Fault::LoseReplies | Fault::LoseRequests)) {
            self.faults.pop_front();
        }
        if fault == Some(Fault::LoseRequests) {
            self.streams.remove(&stream_id);
            return false;
        }
        let mut replies = Vec::new();
        for request in client_frame.requests {
            self.requests.push(request.clone());
            let reply = self.carry_out(stream_id, request);
            replies.push(Item::Reply(reply));
        }
        if fault == Some(Fault::LoseReplies) {
            self.streams.remove(&stream_id);
        }
        match self.streams.get(&stream_id) {
            Some(stream) => stream.send(replies),
            None => return false,
        }
        self.changed_tx.send_replace(());
        true
    }

    fn carry_out(&mut self, stream_id: u64, request: v1::Request) -> v1::Reply {
        let v1::Request { id, write_seq, op } = request;
        let op = op.unwrap();
        let Some(stream) = self.streams.get(&stream_id) else { return v1::Reply::default() };
        let session_id = stream.session_id;
        let session = self
            .sessions
            .get(&session_id)
            .map_or((0, None), |session| (session.last_write_seq, session.results.get(&write_seq).cloned()));
        if write_seq > 0 {
            if let (_, Some(recorded)) = session {
                return v1::Reply { id, ..recorded };
            }
            let told = self.faults.front() == Some(&Fault::SequenceGap);
            if told {
                self.faults.pop_front();
            }
            if told || write_seq != session.0 + 1 {
                let error = refusal(v1::ErrorCode::SequenceGap, "out of order");
                return v1::Reply { id, zxid: self.zxid, result: Some(Reply::Error(error)) };
            }
        }
        let result = self.operate(stream_id, session_id, write_seq, op);
        let reply = v1::Reply { id, zxid: self.zxid, result: Some(result) };
        if write_seq > 0
            && let Some(session) = self.sessions.get_mut(&session_id)
        {
            session.last_write_seq = write_seq;
            session.results.insert(write_seq, reply.clone());
        }
        reply
    }

    fn stat(&self, path: &str) -> Option<v1::Stat> {
        let (data, version) = self.znodes.get(path)?;
        Some(v1::Stat { version: *version, data_length: data.len() as u32, ..Default::default() })
    }

    fn operate(&mut self, stream_id: u64, session_id: u64, write_seq: u64, op: Op) -> Reply {
        match op {
            Op::Create(v1::CreateRequest { path, data, .. }) => {
                if self.znodes.contains_key(&path) {
                    return Reply::Error(v1::Error {
                        path,
                        ..refusal(v1::ErrorCode::NodeExists, "is there")
                    });
                }
                self.write(session_id, write_seq, &path, data, v1::EventType::NodeCreated);
                Reply::Create(v1::CreateReply { stat: self.stat(&path), path, zxid: 0 })
            }
            Op::Set(v1::SetRequest { path, data, .. }) => {
                self.write(session_id, write_seq, &path, data, v1::EventType::NodeDataChanged);
                Reply::Set(v1::SetReply { stat: self.stat(&path), zxid: 0 })
            }
            Op::Get(v1::GetRequest { path, watch, .. }) => match self.znodes.get(&path).cloned() {
                Some((data, _)) => {
                    self.arm(stream_id, &path, watch);
                    Reply::Get(v1::GetReply { data, stat: self.stat(&path), zxid: 0 })
                }
                None => Reply::Error(v1::Error { path, ..refusal(v1::ErrorCode::NoNode, "is not there") }),
            },
            Op::Exists(v1::ExistsRequest { path, watch, .. }) => {
                self.arm(stream_id, &path, watch);
                Reply::Exists(v1::ExistsReply { stat: self.stat(&path), zxid: 0 })
            }
            Op::List(v1::ListRequest { after, .. }) => {
                // Pages of two.
                let names: Vec<String> = self
                    .znodes
                    .keys()
                    .map(|path| path[1..].to_owned())
                    .filter(|name| *name > after)
                    .collect();
                let more = names.len() > 2;
                let children = names.into_iter().take(2).map(|name| v1::Child { name, stat: None }).collect();
                Reply::List(v1::ListReply { children, stat: Some(v1::Stat::default()), more, zxid: 0 })
            }
            Op::Close(_) => {
                self.sessions.remove(&session_id);
                Reply::Close(v1::CloseReply { ephemerals: 0 })
            }
            Op::AddWatch(v1::AddWatchRequest { path, watch }) => {
                self.arm(stream_id, &path, watch);
                Reply::AddWatch(v1::AddWatchReply {})
            }
            Op::RemoveWatch(v1::RemoveWatchRequest { watch_id }) => {
                if let Some(stream) = self.streams.get_mut(&stream_id) {
                    stream.watches.remove(&watch_id);
                }
                Reply::RemoveWatch(v1::RemoveWatchReply {})
            }
            Op::AddAuth(_) => Reply::AddAuth(v1::AddAuthReply {}),
            Op::Sync(_) => Reply::Sync(v1::SyncReply { zxid: self.zxid, lineage: None }),
            other => {
                Reply::Error(refusal(v1::ErrorCode::BadArguments, &format!("the fake cannot do {other:?}")))
            }
        }
    }

    fn write(&mut self, session_id: u64, write_seq: u64, path: &str, data: Bytes, event_type: v1::EventType) {
        self.zxid += 1;
        let znode = self.znodes.entry(path.to_owned()).or_insert((Bytes::new(), -1));
        *znode = (data.clone(), znode.1 + 1);
        self.applied.push(Applied { session_id, write_seq, path: path.into(), data });
        self.fire(&[path.to_owned()], event_type);
    }

    fn arm(&mut self, stream_id: u64, path: &str, watch: Option<v1::WatchSpec>) {
        if let (Some(spec), Some(stream)) = (watch, self.streams.get_mut(&stream_id)) {
            stream.watches.insert(spec.watch_id, (path.to_owned(), spec.kind()));
        }
    }
}

impl Stream {
    /// A send fails only if the client has gone, which is its right.
    fn send(&self, items: Vec<Item>) {
        if !self.silent {
            drop(self.outbox.send(Ok(frame(items))));
        }
    }

    /// True if some watch waited for it.
    fn deliver(&mut self, event: &v1::Event) -> bool {
        let recursive = v1::WatchKind::PersistentRecursive;
        let hits =
            |path: &str, kind| event.path == path || (kind == recursive && event.path.starts_with(path));
        let watch_ids: Vec<u64> =
            self.watches.iter().filter(|(_, (path, kind))| hits(path, *kind)).map(|(id, _)| *id).collect();
        if watch_ids.is_empty() {
            return false;
        }
        let one_shot = |kind| matches!(kind, v1::WatchKind::Data | v1::WatchKind::Children);
        self.watches.retain(|id, (_, kind)| !(watch_ids.contains(id) && one_shot(*kind)));
        self.send(vec![Item::Event(v1::Event { watch_ids, ..event.clone() })]);
        true
    }
}
