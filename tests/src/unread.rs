use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use tokio::net::TcpStream;

/// A connection whose client sends requests and reads no replies: it answers pings, and gives no reply a window.
pub struct UnreadConnection {
    requests: SendRequest<Bytes>,
    /// Dropping one of them would reset its call.
    calls: Vec<(ResponseFuture, SendStream<Bytes>)>,
    connection: tokio::task::JoinHandle<()>,
}

impl UnreadConnection {
    /// Connects; each reply gets a window of so many bytes.
    pub async fn connect(endpoint: &str, window: u32) -> Self {
        let stream = TcpStream::connect(endpoint).await.expect("the port is open");
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(window).enable_push(false);
        let (requests, connection) = builder.handshake(stream).await.expect("a handshake");
        // It ends with an error when the server closes it.
        let connection = tokio::spawn(async move { drop(connection.await) });
        UnreadConnection { requests, calls: Vec::new(), connection }
    }

    /// Begins a call of `coordd.v1.Coordd` whose message has so many bytes, and sends what is given of it. Returns whether the
    /// connection is still there.
    pub async fn call(&mut self, method: &str, message_bytes: usize, part: &[u8], is_all: bool) -> bool {
        let ready = tokio::time::timeout(Duration::from_secs(5), self.requests.clone().ready()).await;
        let Ok(Ok(mut requests)) = ready else { return false };
        let request = http::Request::post(format!("http://coordd/coordd.v1.Coordd/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .expect("a request");
        let Ok((response, mut body)) = requests.send_request(request, false) else { return false };
        let mut data = BytesMut::new();
        data.put_u8(0);
        data.put_u32(u32::try_from(message_bytes).expect("a message"));
        data.put_slice(part);
        let sent = body.send_data(data.freeze(), is_all).is_ok();
        self.calls.push((response, body));
        sent
    }

    /// The server has closed the connection.
    pub fn is_closed(&self) -> bool {
        self.connection.is_finished()
    }
}

impl Drop for UnreadConnection {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
