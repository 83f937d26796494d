//! Accepted connections of peers. They are few, and strangers must neither hold them up nor fill this process: a connection
//! has to begin to speak HTTP/2 within a moment, and there are only so many.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::{Connected, TcpConnectInfo, TcpIncoming};

use crate::seldom::Seldom;

/// What every HTTP/2 connection begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a connection may take to say it, and how often it is looked for meanwhile.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(3);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Connections that have said it, for each node of the ensemble: a peer has a handful. The server keeps file descriptors
/// for so many, and for those that have said nothing.
const CONNECTIONS_PER_NODE: usize = 16;
/// Connections that have not said it so far.
const SILENT_MAX: usize = 32;

/// A connection that gives its place back when it is dropped.
pub(super) struct Limited {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
}

/// Accepts connections that speak HTTP/2, as many as an ensemble of `nodes` needs, until the stream is dropped.
pub(super) fn accept(listener: TcpListener, nodes: usize) -> impl Stream<Item = io::Result<Limited>> {
    // An answer of a few bytes must not wait for the acknowledgement of the one before.
    let mut incoming =
        TcpIncoming::from(listener).with_nodelay(Some(true)).with_keepalive(Some(Duration::from_secs(5)));
    let (ready_tx, ready_rx) = mpsc::channel(1);
    tokio::spawn(async move {
        let (silent, places) =
            (Arc::new(Semaphore::new(SILENT_MAX)), Arc::new(Semaphore::new(CONNECTIONS_PER_NODE * nodes)));
        let failed = Seldom::default();
        loop {
            let accepted = tokio::select! {
                accepted = incoming.next() => accepted,
                () = ready_tx.closed() => return,
            };
            let stream = match accepted {
                None => return,
                Some(Ok(stream)) => stream,
                // Out of file descriptors, or the peer has gone already: neither ends the listener.
                Some(Err(error)) => {
                    if let Some(times) = failed.is_due() {
                        tracing::warn!(%error, times, "a connection of a peer was not accepted");
                    }
                    tokio::time::sleep(LOOK_INTERVAL).await;
                    continue;
                }
            };
            // One too many is closed at once.
            let Ok(waiting) = silent.clone().try_acquire_owned() else { continue };
            let (ready, places) = (ready_tx.clone(), places.clone());
            tokio::spawn(async move {
                let spoke = tokio::time::timeout(PREFACE_TIMEOUT, speaks(&stream)).await;
                drop(waiting);
                if let (Ok(Ok(true)), Ok(place)) = (spoke, places.try_acquire_owned()) {
                    let _ = ready.send(Ok(Limited { stream, _place: place })).await;
                }
            });
        }
    });
    ReceiverStream::new(ready_rx)
}

/// Whether the connection begins as it must. Nothing is taken from it.
async fn speaks(stream: &TcpStream) -> io::Result<bool> {
    let mut said = [0; PREFACE.len()];
    loop {
        match stream.peek(&mut said).await? {
            0 => return Ok(false),
            some if said[..some] != PREFACE[..some] => return Ok(false),
            some if some == PREFACE.len() => return Ok(true),
            // What is there stays there, so waiting for more of it would not wait.
            _ => tokio::time::sleep(LOOK_INTERVAL).await,
        }
    }
}

impl Connected for Limited {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Limited {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Limited {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
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
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn only_who_speaks_gets_a_place() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut accepted = std::pin::pin!(accept(listener, 3));
        let mut silent = Vec::new();
        for count in 0..SILENT_MAX - 1 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(&PREFACE[..count % 20]).await.unwrap();
            silent.push(stream);
        }
        let mut stranger = TcpStream::connect(address).await.unwrap();
        stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        // Its place is free as soon as it has spoken.
        let mut peer = TcpStream::connect(address).await.unwrap();
        peer.write_all(PREFACE).await.unwrap();
        let mut next = tokio::time::timeout(PREFACE_TIMEOUT, accepted.next()).await.ok();
        while next.is_none() {
            // It came before the stranger's place was free.
            peer = TcpStream::connect(address).await.unwrap();
            peer.write_all(PREFACE).await.unwrap();
            next = tokio::time::timeout(PREFACE_TIMEOUT, accepted.next()).await.ok();
        }
        let got = next.flatten().unwrap().unwrap();
        assert_eq!(got.stream.peer_addr().unwrap(), peer.local_addr().unwrap());
    }
}
