use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use coordd_proto::status::from_status;
use coordd_proto::v1;
use coordd_proto::v1::ErrorCode;
use coordd_proto::v1::coordd_client::CoorddClient;
use coordd_proto::v1::request::Op;
use coordd_proto::v1::server_item::Item;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

/// An answer that is not there by then does not come.
const ANSWER: Duration = Duration::from_secs(15);

/// A session stream spoken by hand: sends what it is told to, when it is told to, and nothing by itself. The session is
/// silent as long as the test is.
pub struct RawSession {
    /// The server's first item.
    pub attached: v1::Attached,
    /// Events that came before replies that were waited for.
    pub events: Vec<v1::Event>,
    frames_tx: mpsc::Sender<v1::ClientFrame>,
    frames: Streaming<v1::ServerFrame>,
    items: VecDeque<Item>,
    next_id: u64,
}

impl RawSession {
    /// Opens a session on one node.
    pub async fn open(endpoint: &str, timeout: Duration) -> Self {
        let timeout_ms = u32::try_from(timeout.as_millis()).expect("a session timeout");
        let attach = v1::Attach { timeout_ms, client_name: "by hand".into(), ..Default::default() };
        Self::attach(endpoint, attach).await.expect("the node opens a session")
    }

    /// Attaches as told.
    pub async fn attach(endpoint: &str, attach: v1::Attach) -> Result<Self, Status> {
        Self::attach_over(channel(endpoint).await, attach).await
    }

    /// The same over a connection that is there.
    pub async fn attach_over(channel: Channel, attach: v1::Attach) -> Result<Self, Status> {
        let (frames_tx, frames_rx) = mpsc::channel(64);
        let first = v1::ClientFrame { attach: Some(attach), ..Default::default() };
        frames_tx.send(first).await.expect("the channel is open");
        let mut client = CoorddClient::new(channel).max_decoding_message_size(usize::MAX);
        let opening = client.session(ReceiverStream::new(frames_rx));
        let frames = tokio::time::timeout(ANSWER, opening).await.expect("an answer in time")?.into_inner();
        let attached = v1::Attached::default();
        let mut session = RawSession {
            attached,
            events: Vec::new(),
            frames_tx,
            frames,
            items: VecDeque::new(),
            next_id: 1,
        };
        match session.item().await? {
            Item::Attached(attached) => session.attached = attached,
            other => panic!("the first item is not `attached`: {other:?}"),
        }
        Ok(session)
    }

    /// What attaches to the same session again.
    pub fn attach_again(&self) -> v1::Attach {
        v1::Attach {
            session_id: self.attached.session_id,
            password: self.attached.password.clone(),
            last_zxid: self.attached.zxid,
            ..Default::default()
        }
    }

    /// The session, for unary calls.
    pub fn session_ref(&self) -> v1::SessionRef {
        let (session_id, password) = (self.attached.session_id, self.attached.password.clone());
        v1::SessionRef { session_id, password, ..Default::default() }
    }

    /// Sends a frame.
    pub async fn send_frame(&self, frame: v1::ClientFrame) {
        // A stream that the server has ended says why when it is read.
        let _ = self.frames_tx.send(frame).await;
    }

    /// Sends a request that does not write; returns its id.
    pub async fn send(&mut self, op: Op) -> u64 {
        self.send_write(0, op).await
    }

    /// Sends a write with its number in the session; returns the request's id.
    pub async fn send_write(&mut self, write_seq: u64, op: Op) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let requests = vec![v1::Request { id, write_seq, op: Some(op) }];
        self.send_frame(v1::ClientFrame { requests, ..Default::default() }).await;
        id
    }

    /// Sends a request and waits for its reply.
    pub async fn ask(&mut self, op: Op) -> v1::Reply {
        let id = self.send(op).await;
        self.reply(id).await
    }

    /// Sends a numbered write and waits for its reply.
    pub async fn write(&mut self, write_seq: u64, op: Op) -> v1::Reply {
        let id = self.send_write(write_seq, op).await;
        self.reply(id).await
    }

    /// The server has everything up to this write acknowledged.
    pub async fn acknowledge(&self, acked_write_seq: u64) {
        self.send_frame(v1::ClientFrame { acked_write_seq, ..Default::default() }).await;
    }

    /// A sign of life; waits for the answer. Returns the zxid up to which all events have been delivered.
    pub async fn ping(&mut self) -> u64 {
        let nonce = self.next_id;
        self.next_id += 1;
        let ping = Some(v1::Ping { nonce });
        self.send_frame(v1::ClientFrame { ping, ..Default::default() }).await;
        loop {
            match self.item().await.expect("the stream goes on") {
                Item::Pong(pong) if pong.nonce == nonce => return pong.zxid,
                Item::Event(event) => self.events.push(event),
                _ => {}
            }
        }
    }

    /// The next thing the server says, or how the stream ended.
    pub async fn item(&mut self) -> Result<Item, Status> {
        loop {
            if let Some(item) = self.items.pop_front() {
                return Ok(item);
            }
            let message = tokio::time::timeout(ANSWER, self.frames.message()).await;
            let frame = message.expect("the server says something in time")?;
            let frame = frame.ok_or_else(|| Status::ok("the stream has ended"))?;
            self.items.extend(frame.items.into_iter().filter_map(|item| item.item));
        }
    }

    /// Waits for a reply. Events on the way are kept in `events`, marks are dropped.
    pub async fn reply(&mut self, id: u64) -> v1::Reply {
        self.try_reply(id).await.expect("the stream goes on")
    }

    /// The same, for a stream that may end.
    pub async fn try_reply(&mut self, id: u64) -> Result<v1::Reply, Status> {
        loop {
            match self.item().await? {
                Item::Reply(reply) if reply.id == id => return Ok(reply),
                Item::Event(event) => self.events.push(event),
                Item::Pong(_) => {}
                other => panic!("waiting for the reply to {id}: {other:?}"),
            }
        }
    }

    /// Waits for the next event.
    pub async fn event(&mut self) -> v1::Event {
        if !self.events.is_empty() {
            return self.events.remove(0);
        }
        loop {
            match self.item().await.expect("the stream goes on") {
                Item::Event(event) => return event,
                Item::Pong(_) => {}
                other => panic!("waiting for an event: {other:?}"),
            }
        }
    }

    /// How the stream ends, whatever comes before.
    pub async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.item().await {
                return status;
            }
        }
    }
}

/// A connection to a node.
pub async fn channel(endpoint: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{endpoint}")).expect("an address");
    endpoint.connect_timeout(Duration::from_secs(5)).connect().await.expect("the node accepts a connection")
}

/// The error code that a status carries; `Unspecified` if it is not from coordd.
pub fn code_of(status: &Status) -> ErrorCode {
    from_status(status).map_or(ErrorCode::Unspecified, |error| error.code())
}

/// A create of a persistent or other znode.
pub fn create(path: &str, data: impl Into<Bytes>, mode: v1::CreateMode) -> Op {
    let (path, data) = (path.to_owned(), data.into());
    Op::Create(v1::CreateRequest { path, data, mode: mode as i32, ..Default::default() })
}

/// A set without a condition.
pub fn set(path: &str, data: impl Into<Bytes>) -> Op {
    Op::Set(v1::SetRequest { path: path.to_owned(), data: data.into(), ..Default::default() })
}

/// A local read.
pub fn get(path: &str) -> Op {
    Op::Get(v1::GetRequest { path: path.to_owned(), ..Default::default() })
}
