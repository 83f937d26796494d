use std::sync::{Arc, Mutex};

use coordd_proto::v1;
use coordd_proto::v1::coordd_server::{Coordd, CoorddServer};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{World, world};

struct Node {
    node_id: u64,
    world: Arc<Mutex<World>>,
}

pub(super) fn service(node_id: u64, world: Arc<Mutex<World>>) -> CoorddServer<impl Coordd> {
    CoorddServer::new(Node { node_id, world }).max_decoding_message_size(4 * 1024 * 1024)
}

/// The session stream is all the SDK uses for operations, beside the outcome of writes.
macro_rules! stream_only {
    ($($method:ident: $request:ident => $reply:ident),* $(,)?) => {
        #[tonic::async_trait]
        impl Coordd for Node {
            type SessionStream = UnboundedReceiverStream<Result<v1::ServerFrame, Status>>;
            type SubscribeStream = UnboundedReceiverStream<Result<v1::SubscribeReply, Status>>;

            async fn session(
                &self,
                request: Request<Streaming<v1::ClientFrame>>,
            ) -> Result<Response<Self::SessionStream>, Status> {
                self.open(request.into_inner()).await
            }

            async fn subscribe(
                &self,
                _: Request<v1::SubscribeRequest>,
            ) -> Result<Response<Self::SubscribeStream>, Status> {
                Err(Status::unimplemented("the fake has only the session stream"))
            }

            async fn outcome(
                &self,
                request: Request<v1::OutcomeRequest>,
            ) -> Result<Response<v1::OutcomeReply>, Status> {
                let v1::OutcomeRequest { session_id, password, write_seq } = request.into_inner();
                assert_eq!(password, world::PASSWORD);
                Ok(Response::new(self.world.lock().unwrap().outcome(session_id, write_seq)))
            }

            $(async fn $method(&self, _: Request<v1::$request>) -> Result<Response<v1::$reply>, Status> {
                Err(Status::unimplemented("the fake has only the session stream"))
            })*
        }
    };
}

stream_only! {
    create: CreateRequest => CreateReply,
    delete: DeleteRequest => DeleteReply,
    set: SetRequest => SetReply,
    get: GetRequest => GetReply,
    exists: ExistsRequest => ExistsReply,
    list: ListRequest => ListReply,
    multi: MultiRequest => MultiReply,
    multi_read: MultiReadRequest => MultiReadReply,
    delete_tree: DeleteTreeRequest => DeleteTreeReply,
    get_acl: GetAclRequest => GetAclReply,
    set_acl: SetAclRequest => SetAclReply,
    get_ephemerals: GetEphemeralsRequest => GetEphemeralsReply,
    count_descendants: CountDescendantsRequest => CountDescendantsReply,
    get_quota: GetQuotaRequest => GetQuotaReply,
    set_quota: SetQuotaRequest => SetQuotaReply,
    delete_quota: DeleteQuotaRequest => DeleteQuotaReply,
    sync: SyncRequest => SyncReply,
    open_session: OpenSessionRequest => OpenSessionReply,
    keep_alive: KeepAliveRequest => KeepAliveReply,
    close_session: CloseSessionRequest => CloseSessionReply,
}

impl Node {
    fn take_size(&self, attach: &v1::Attach) {
        let mut world = self.world.lock().unwrap();
        world.frame_bytes = world.frame_bytes.max(attach.encoded_len());
    }

    async fn open(
        &self,
        mut frames: Streaming<v1::ClientFrame>,
    ) -> Result<Response<UnboundedReceiverStream<Result<v1::ServerFrame, Status>>>, Status> {
        let first = frames.message().await?.unwrap_or_default();
        let mut attach = first.attach.ok_or_else(|| Status::invalid_argument("no attach"))?;
        self.take_size(&attach);
        let is_old = self.world.lock().unwrap().limits.is_none();
        let mut more = attach.more_watches && !is_old;
        while more {
            let next = frames.message().await?.and_then(|frame| frame.attach).expect("more watches");
            self.take_size(&next);
            more = next.more_watches;
            attach.watches.extend(next.watches);
        }
        let (outbox_tx, outbox_rx) = mpsc::unbounded_channel();
        let stream_id = self.world.lock().unwrap().attach(self.node_id, attach, outbox_tx)?;
        let world = self.world.clone();
        tokio::spawn(async move {
            while let Ok(Some(frame)) = frames.message().await {
                if !world.lock().unwrap().on_frame(stream_id, frame) {
                    return;
                }
            }
        });
        Ok(Response::new(UnboundedReceiverStream::new(outbox_rx)))
    }
}
