use std::time::Duration;

use anyhow::Context as _;
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use prost::Message;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A node that does not take a connection or a request by then is asked no more.
const PATIENCE: Duration = Duration::from_secs(3);

/// A call that was begun. What it holds is given back when it is dropped.
pub(super) struct Begun {
    pub(super) response: ResponseFuture,
    pub(super) request: SendStream<Bytes>,
}

/// A connection that speaks gRPC and reads only what it is told to. It answers HTTP/2 pings by itself.
pub(super) struct Raw {
    requests: SendRequest<Bytes>,
    authority: String,
    connection: JoinHandle<()>,
}

impl Raw {
    /// Connects. The node may send so many bytes of each reply before somebody reads them.
    pub(super) async fn connect(endpoint: &str, window: u32) -> anyhow::Result<Raw> {
        let tcp =
            timeout(PATIENCE, TcpStream::connect(endpoint)).await.context("no connection in time")??;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(window).initial_connection_window_size(1 << 24);
        let (requests, connection) =
            timeout(PATIENCE, builder.handshake(tcp)).await.context("no handshake")??;
        let connection = tokio::spawn(async move { drop(connection.await) });
        Ok(Raw { requests, authority: endpoint.to_owned(), connection })
    }

    /// Begins a call with bytes that are its first message, or a part of it.
    async fn begin(&mut self, method: &str, bytes: Bytes, is_whole: bool) -> anyhow::Result<Begun> {
        let uri = format!("http://{}/coordd.v1.Coordd/{method}", self.authority);
        let request =
            http::Request::post(uri).header("te", "trailers").header("content-type", "application/grpc");
        let request = request.body(()).context("a request")?;
        let mut requests = timeout(PATIENCE, self.requests.clone().ready()).await.context("no stream")??;
        let (response, mut request) = requests.send_request(request, false)?;
        request.send_data(bytes, is_whole)?;
        Ok(Begun { response, request })
    }

    /// Begins a call and sends all of its request.
    pub(super) async fn send(&mut self, method: &str, message: &impl Message) -> anyhow::Result<Begun> {
        self.begin(method, framed(message), true).await
    }

    /// Begins a call of a stream, which goes on.
    pub(super) async fn open(&mut self, method: &str, first: &impl Message) -> anyhow::Result<Begun> {
        self.begin(method, framed(first), false).await
    }

    /// Begins a call whose request has so many bytes, of which half are sent and the rest never is.
    pub(super) async fn send_half(&mut self, method: &str, bytes: usize) -> anyhow::Result<Begun> {
        let mut half = BytesMut::with_capacity(5 + bytes / 2);
        half.put_u8(0);
        half.put_u32(u32::try_from(bytes).context("the length of a message")?);
        // The first field: a string that fills the message.
        half.put_slice(&[0x0a, 0xff, 0xff, 0xff, 0x01]);
        half.resize(5 + bytes / 2, b'x');
        self.begin(method, half.freeze(), false).await
    }

    /// Calls, and reads the reply, whatever it is.
    pub(super) async fn call(&mut self, method: &str, message: &impl Message) -> anyhow::Result<()> {
        let begun = self.send(method, message).await?;
        let mut body = begun.response.await?.into_body();
        while let Some(data) = body.data().await {
            let length = data?.len();
            body.flow_control().release_capacity(length)?;
        }
        Ok(())
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// A message as gRPC frames it.
pub(super) fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(5 + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    bytes.put_slice(&message.encode_to_vec());
    bytes.freeze()
}
