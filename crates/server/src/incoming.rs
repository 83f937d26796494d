//! Accepted connections: at most so many at a time, each with a deadline for its first request, and what each holds.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::Stream;
use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tonic::transport::server::Connected;

use crate::client_memory::{ClientMemory, Holder, Registered};
use crate::frames::DataCounter;

/// What a connection takes in memory while nothing is asked on it, as measured, about.
pub(crate) const CONNECTION_BYTES: usize = 22 << 10;
/// The window of a connection: so much of what a client has sent, and nobody has taken yet, is in memory at most.
pub(crate) const CONNECTION_WINDOW: u32 = 512 << 10;
/// Likewise of one call.
pub(crate) const STREAM_WINDOW: u32 = 256 << 10;
/// Bytes of the headers of one call, as HTTP/2 counts them; a call with more is refused.
pub(crate) const HEADER_BYTES: u32 = 16 << 10;
/// A connection without a call for so long gives way to a new one when there is no place left.
const IDLE: Duration = Duration::from_secs(60);
/// How often the deadlines are looked at.
const TICK: Duration = Duration::from_millis(250);
/// Connections that are looked at in one step.
const STEP_CONNECTIONS: usize = 1000;
/// A line that would be logged more often is counted instead.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// How long the listener waits when a connection could not be accepted.
const RETRY: Duration = Duration::from_millis(50);

/// Limits of connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionLimits {
    /// Of all.
    pub(crate) connections: usize,
    /// From one address; 0: any number.
    pub(crate) per_address: usize,
    /// When a connection has to have asked for something, and a call to have its first message.
    pub(crate) first_request: Duration,
}

/// One connection of a client, as all of its calls share it.
pub(crate) struct Client {
    from: Option<SocketAddr>,
    /// Without its port.
    address: Option<IpAddr>,
    opened: Instant,
    /// How soon the first message of a call has to be complete.
    first_request: Duration,
    memory: Arc<ClientMemory>,
    /// Bytes that are kept for it: requests that are not complete, small replies, itself.
    kept: AtomicUsize,
    /// Bytes of replies that may be sent, and wait for the socket.
    sending: AtomicUsize,
    /// Bytes of requests that came, and those of them that somebody has taken; about.
    received: AtomicU64,
    taken: AtomicU64,
    /// How much of the difference is counted.
    unread: AtomicUsize,
    calls: AtomicUsize,
    has_asked: AtomicBool,
    /// When the last call ended, in milliseconds after `opened`.
    idle_since_ms: AtomicU64,
    is_closed: AtomicBool,
    closing: AtomicWaker,
    _registered: Registered,
}

impl Client {
    pub(crate) fn new(
        from: Option<SocketAddr>,
        first_request: Duration,
        memory: &Arc<ClientMemory>,
    ) -> Arc<Self> {
        memory.add(CONNECTION_BYTES);
        Arc::new_cyclic(|client: &Weak<Client>| Client {
            from,
            address: from.map(|from| from.ip().to_canonical()),
            opened: Instant::now(),
            first_request,
            memory: memory.clone(),
            kept: AtomicUsize::new(CONNECTION_BYTES),
            sending: AtomicUsize::new(0),
            received: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            unread: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            has_asked: AtomicBool::new(false),
            idle_since_ms: AtomicU64::new(0),
            is_closed: AtomicBool::new(false),
            closing: AtomicWaker::new(),
            _registered: memory.register(client.clone()),
        })
    }

    /// Where the client connects from.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.from
    }

    pub(crate) fn memory(&self) -> &Arc<ClientMemory> {
        &self.memory
    }

    pub(crate) fn first_request(&self) -> Duration {
        self.first_request
    }

    /// A message has come, or a call was answered without one: the connection is not silent.
    pub(crate) fn asks(&self) {
        self.has_asked.store(true, Ordering::Relaxed);
    }

    /// A call begins.
    pub(crate) fn call_begins(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// A call has ended.
    pub(crate) fn call_ends(&self) {
        if self.calls.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.idle_since_ms.store(self.opened.elapsed().as_millis() as u64, Ordering::Relaxed);
        }
    }

    /// Calls under way.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Counts bytes that are kept for the connection.
    pub(crate) fn keep(&self, bytes: usize) {
        self.kept.fetch_add(bytes, Ordering::Relaxed);
        self.memory.add(bytes);
    }

    /// They are kept no more.
    pub(crate) fn release(&self, bytes: usize) {
        self.kept.fetch_sub(bytes, Ordering::Relaxed);
        self.memory.remove(bytes);
    }

    /// Bytes of a request were taken.
    pub(crate) fn took(&self, bytes: usize) {
        self.taken.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts bytes of a reply that the client has a window for: they wait for the socket only.
    pub(crate) fn sends(&self, bytes: usize) {
        self.sending.fetch_add(bytes, Ordering::Relaxed);
        self.memory.add(bytes);
    }

    /// So many bytes, at most, went into the socket.
    fn sent(&self, bytes: usize) {
        let sub = |sending: usize| (sending > 0).then(|| sending.saturating_sub(bytes));
        if let Ok(before) = self.sending.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sub) {
            self.memory.remove(before.min(bytes));
        }
    }

    /// Counts what has come and nobody has taken. A call that is given up leaves some of it behind, which the transport has
    /// dropped: without calls there is none.
    fn count_unread(&self) {
        let (received, taken) = (self.received.load(Ordering::Relaxed), self.taken.load(Ordering::Relaxed));
        let now = match self.calls() {
            0 => {
                self.taken.fetch_add(received.saturating_sub(taken), Ordering::Relaxed);
                0
            }
            _ => received.saturating_sub(taken).min(CONNECTION_WINDOW.into()) as usize,
        };
        let before = self.unread.swap(now, Ordering::Relaxed);
        match now > before {
            true => self.keep(now - before),
            false => self.release(before - now),
        }
    }

    /// Nothing was asked for yet.
    fn is_silent(&self) -> bool {
        !self.has_asked.load(Ordering::Relaxed)
    }

    /// How long there has been no call.
    fn idle(&self) -> Option<Duration> {
        let since = Duration::from_millis(self.idle_since_ms.load(Ordering::Relaxed));
        (self.calls() == 0).then(|| self.opened.elapsed().saturating_sub(since))
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }
}

impl Holder for Client {
    fn held(&self) -> usize {
        if self.is_closed() {
            return 0;
        }
        let held = self.kept.load(Ordering::Relaxed) + self.sending.load(Ordering::Relaxed);
        match self.calls() {
            0 => held,
            // What everybody takes is no reason to end somebody.
            _ => held.saturating_sub(CONNECTION_BYTES),
        }
    }

    /// Closes the connection, and with it all that it holds.
    fn end(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        self.closing.wake();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.memory.remove(*self.kept.get_mut() + *self.sending.get_mut());
    }
}

/// The connection of a call, as the transport passes it on with each request.
#[derive(Clone)]
pub(crate) struct ClientInfo(pub(crate) Arc<Client>);

/// All connections of this node.
pub(crate) struct Clients {
    limits: ConnectionLimits,
    memory: Arc<ClientMemory>,
    open: Mutex<BTreeMap<u64, Arc<Client>>>,
    /// A connection was closed.
    closed: Notify,
    next_id: AtomicU64,
    silent_closed: AtomicU64,
    refused: AtomicU64,
}

impl Clients {
    pub(crate) fn new(limits: ConnectionLimits, memory: Arc<ClientMemory>) -> Arc<Self> {
        Arc::new(Clients {
            limits,
            memory,
            open: Mutex::default(),
            closed: Notify::new(),
            next_id: AtomicU64::new(1),
            silent_closed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Client>>> {
        self.open.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn limits(&self) -> ConnectionLimits {
        self.limits
    }

    /// Open connections, and the calls under way on them.
    pub(crate) fn count(&self) -> (usize, usize) {
        let open = self.lock();
        (open.len(), open.values().map(|client| client.calls()).sum())
    }

    /// Open connections.
    fn len(&self) -> usize {
        self.lock().len()
    }

    /// How many connections were closed because nothing was asked on them, and how many were refused.
    pub(crate) fn turned_away(&self) -> (u64, u64) {
        (self.silent_closed.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed))
    }

    fn close(&self, client: &Client) {
        client.end();
        self.silent_closed.fetch_add(1, Ordering::Relaxed);
    }

    /// Closes those of the connections after `after` on which nothing was asked in time, and counts what
    /// waits unread, for a limited number of them. Returns the last one, or `None` if there were no more.
    fn tick_step(&self, after: u64) -> Option<u64> {
        let next = |open: &BTreeMap<u64, Arc<Client>>| -> Vec<(u64, Arc<Client>)> {
            let next = open.range(after + 1..).take(STEP_CONNECTIONS);
            next.map(|(id, client)| (*id, client.clone())).collect()
        };
        let open = next(&self.lock());
        for (_, client) in &open {
            client.count_unread();
            if client.is_silent()
                && client.opened.elapsed() > self.limits.first_request
                && !client.is_closed()
            {
                self.close(client);
            }
        }
        open.last().map(|(id, _)| *id)
    }

    /// Closes one that nobody misses: the oldest on which nothing was asked for, or the one that has been without a call
    /// for longest.
    fn make_room(&self, of: Option<IpAddr>) -> bool {
        let open = self.lock();
        let candidates =
            || open.values().filter(|client| !client.is_closed() && (of.is_none() || client.address == of));
        // They are in the order in which they came.
        let silent = candidates().find(|client| client.is_silent());
        let idle = || {
            let idle = candidates().filter_map(|client| Some((client.idle()?, client)));
            idle.filter(|(idle, _)| *idle >= IDLE).max_by_key(|(idle, _)| *idle).map(|(_, client)| client)
        };
        match silent.or_else(idle) {
            Some(client) => {
                self.close(client);
                true
            }
            None => false,
        }
    }

    /// Open connections without those that are being closed.
    fn count_kept(&self) -> usize {
        self.lock().values().filter(|client| !client.is_closed()).count()
    }

    fn open_from(&self, address: Option<IpAddr>) -> usize {
        self.lock().values().filter(|client| client.address == address && !client.is_closed()).count()
    }
}

/// Closes silent connections, for ever.
pub(crate) async fn run_clients(clients: Arc<Clients>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let mut next = Some(0);
        while let Some(after) = next {
            next = clients.tick_step(after);
            tokio::task::yield_now().await;
        }
    }
}

/// A log line that may come often.
#[derive(Default)]
struct Seldom {
    last: Option<Instant>,
    unsaid: u64,
}

impl Seldom {
    /// Whether to write the line now; then with how many that were not written.
    fn is_due(&mut self) -> Option<u64> {
        if self.last.is_some_and(|last| last.elapsed() < LOG_INTERVAL) {
            self.unsaid += 1;
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.unsaid))
    }
}

/// Accepts connections while fewer than the limit are open. One more waits, and the rest in the kernel's queue, until others
/// close or are found to ask for nothing.
struct Door {
    listener: TcpListener,
    clients: Arc<Clients>,
    full: Seldom,
    failed: Seldom,
    refused: Seldom,
}

pub(crate) fn accept(
    listener: TcpListener,
    clients: Arc<Clients>,
) -> impl Stream<Item = io::Result<Connection>> {
    let (full, failed, refused) = Default::default();
    let door = Door { listener, clients, full, failed, refused };
    futures::stream::unfold(door, |mut door| async move {
        let connection = door.next().await;
        Some((Ok(connection), door))
    })
}

impl Door {
    async fn next(&mut self) -> Connection {
        loop {
            let (stream, from) = match self.listener.accept().await {
                Ok((stream, from)) => (stream, from),
                // Out of file descriptors, or the peer has gone already: neither ends the listener.
                Err(error) => {
                    self.clients.refused.fetch_add(1, Ordering::Relaxed);
                    if let Some(unsaid) = self.failed.is_due() {
                        tracing::warn!(%error, unsaid, "a client connection was not accepted");
                    }
                    self.clients.make_room(None);
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            let address = Some(from.ip().to_canonical());
            let per_address = self.clients.limits.per_address;
            if per_address > 0
                && self.clients.open_from(address) >= per_address
                && !self.clients.make_room(address)
            {
                self.clients.refused.fetch_add(1, Ordering::Relaxed);
                if let Some(unsaid) = self.refused.is_due() {
                    tracing::warn!(
                        address = address.map(tracing::field::display),
                        unsaid,
                        "{per_address} connections are open from this address (--connections-per-address-max)"
                    );
                }
                continue;
            }
            self.wait_for_room().await;
            // Small frames must not wait for more of them.
            let _ = stream.set_nodelay(true);
            let id = self.clients.next_id.fetch_add(1, Ordering::Relaxed);
            let client = Client::new(Some(from), self.clients.limits.first_request, &self.clients.memory);
            self.clients.lock().insert(id, client.clone());
            return Connection {
                stream,
                client,
                clients: self.clients.clone(),
                id,
                received: DataCounter::new(),
                is_blocked: false,
                sendable: 0,
            };
        }
    }

    async fn wait_for_room(&mut self) {
        let connections = self.clients.limits.connections;
        while self.clients.len() >= connections {
            // A connection that is being closed gives its place back: no other one has to give way as well.
            if self.clients.count_kept() >= connections
                && !self.clients.make_room(None)
                && let Some(unsaid) = self.full.is_due()
            {
                tracing::warn!(
                    connections,
                    unsaid,
                    "no place for another client connection (--connections-max)"
                );
            }
            let _ = tokio::time::timeout(TICK, self.clients.closed.notified()).await;
        }
    }
}

/// A connection that gives its place back when it is dropped.
pub(crate) struct Connection {
    stream: TcpStream,
    client: Arc<Client>,
    clients: Arc<Clients>,
    id: u64,
    received: DataCounter,
    /// The socket has taken no more since something was last read.
    is_blocked: bool,
    /// What waited for the socket when something was last read.
    sendable: usize,
}

impl Connection {
    /// An error if the connection is to be closed.
    fn check(&self, cx: &Context<'_>) -> io::Result<()> {
        self.client.closing.register(cx.waker());
        match self.client.is_closed() {
            true => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "closed by the server")),
            false => Ok(()),
        }
    }

    /// Between two reads all is written that can be, unless the socket is full: what could be sent at the first one is gone
    /// by the second, also where its call was given up and it was never written.
    fn between_reads(&mut self) {
        if !self.is_blocked && self.sendable > 0 {
            self.client.sent(self.sendable);
        }
        self.is_blocked = false;
        self.sendable = self.client.sending.load(Ordering::Relaxed);
    }

    fn wrote(&mut self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Ready(Ok(bytes)) => {
                self.client.sent(*bytes);
                self.sendable = self.sendable.saturating_sub(*bytes);
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.is_blocked = true,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.clients.lock().remove(&self.id);
        self.clients.closed.notify_one();
    }
}

impl Connected for Connection {
    type ConnectInfo = ClientInfo;

    fn connect_info(&self) -> ClientInfo {
        ClientInfo(self.client.clone())
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        self.between_reads();
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Poll::Ready(Ok(())) = read {
            let data = self.received.count(&buf.filled()[before..]);
            if data > 0 {
                self.client.received.fetch_add(data as u64, Ordering::Relaxed);
            }
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However many connections there are, a step looks at a bounded number of them, and all have their turn.
    #[test]
    fn connections_are_looked_at_in_steps() {
        let limits = ConnectionLimits { connections: 10_000, per_address: 0, first_request: Duration::ZERO };
        let memory = ClientMemory::unlimited();
        let clients = Clients::new(limits, memory.clone());
        for id in 1..=2500 {
            let client = Client::new(None, limits.first_request, &memory);
            if id % 2 == 0 {
                client.asks();
            }
            clients.lock().insert(id, client);
        }
        assert_eq!(clients.len(), 2500);
        let (mut steps, mut next) = (Vec::new(), Some(0));
        while let Some(after) = next {
            next = clients.tick_step(after);
            steps.push(clients.turned_away().0);
        }
        assert_eq!(steps, [500, 1000, 1250, 1250]);
        assert_eq!(clients.count_kept(), 1250, "those on which something was asked stay");
    }
}
