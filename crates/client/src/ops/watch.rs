use bytes::Bytes;
use coordd_proto::v1;
use coordd_proto::v1::request::Op;

use super::read::{exists_reply, exists_request, get_reply, get_request, list_reply, list_request};
use crate::call::{Call, expect_reply};
use crate::session::watches::Sink;
use crate::watcher::{WatchRegistration, lasting, oneshot};
use crate::{
    Client, ListOptions, ListPage, OneshotWatcher, PersistentWatcher, ReadLevel, Stat, WatchOptions,
};

/// Reads that arm a watch in the same step, so that no change falls between, and lasting watches.
impl Client {
    fn register(
        &self,
        kind: v1::WatchKind,
        with_value: bool,
        path: &str,
        sink: Sink,
    ) -> (v1::WatchSpec, WatchRegistration) {
        let spec = self.shared().register_watch(kind, with_value, path, sink);
        (spec, WatchRegistration::new(self.shared().clone(), spec.watch_id))
    }

    /// Reads the data of a znode and watches it.
    ///
    /// # Errors
    ///
    /// `NoNode`, `NoAuth`: then nothing is watched. `Throttled`: too many watches.
    ///
    /// # Fired by
    ///
    /// `NodeDataChanged` and `NodeDeleted` of this path.
    pub fn get_and_watch(
        &self,
        path: impl Into<String>,
        level: ReadLevel,
    ) -> Call<(Bytes, Stat, OneshotWatcher)> {
        let path = path.into();
        let (sink, receiver) = oneshot();
        let (spec, registration) = self.register(v1::WatchKind::Data, false, &path, sink);
        let request = v1::GetRequest { watch: Some(spec), ..get_request(path, level) };
        self.submit(Op::Get(request), Some(spec.watch_id), move |answer| {
            let (data, stat) = get_reply(answer)?;
            Ok((data, stat, OneshotWatcher::new(receiver, registration)))
        })
    }

    /// Asks whether a znode is there and watches it, also if it is not.
    ///
    /// # Errors
    ///
    /// `Throttled`: too many watches.
    ///
    /// # Fired by
    ///
    /// `NodeCreated`, `NodeDataChanged` and `NodeDeleted` of this path.
    pub fn exists_and_watch(
        &self,
        path: impl Into<String>,
        level: ReadLevel,
    ) -> Call<(Option<Stat>, OneshotWatcher)> {
        let path = path.into();
        let (sink, receiver) = oneshot();
        let (spec, registration) = self.register(v1::WatchKind::Data, false, &path, sink);
        let request = v1::ExistsRequest { watch: Some(spec), ..exists_request(path, level) };
        self.submit(Op::Exists(request), Some(spec.watch_id), move |answer| {
            Ok((exists_reply(answer)?, OneshotWatcher::new(receiver, registration)))
        })
    }

    /// Lists the children of a znode, a first page, and watches them. What changes between this page and later ones
    /// ([`ListOptions::after`]) fires the watch.
    ///
    /// # Errors
    ///
    /// `NoNode`, `NoAuth`: then nothing is watched. `Throttled`: too many watches.
    ///
    /// # Fired by
    ///
    /// `NodeChildrenChanged` and `NodeDeleted` of this path.
    pub fn list_and_watch(
        &self,
        path: impl Into<String>,
        level: ReadLevel,
        options: ListOptions,
    ) -> Call<(ListPage, OneshotWatcher)> {
        let path = path.into();
        let (sink, receiver) = oneshot();
        let (spec, registration) = self.register(v1::WatchKind::Children, false, &path, sink);
        let request = v1::ListRequest { watch: Some(spec), ..list_request(path, level, options) };
        self.submit(Op::List(request), Some(spec.watch_id), move |answer| {
            Ok((list_reply(answer)?, OneshotWatcher::new(receiver, registration)))
        })
    }

    /// Watches a path, or a subtree, until the watcher is dropped. The path need not exist. Events of changes after the
    /// answer are delivered in order, each once, also over reconnects.
    ///
    /// # Errors
    ///
    /// `Throttled`: too many watches.
    ///
    /// # Fired by
    ///
    /// What [`WatchMode`](crate::WatchMode) says.
    pub fn watch(
        &self,
        path: impl Into<String>,
        options: impl Into<WatchOptions>,
    ) -> Call<PersistentWatcher> {
        let (path, options) = (path.into(), options.into());
        let (sink, receiver) = lasting(self.handle.options.watch_buffer);
        let (spec, registration) = self.register(options.mode.into(), options.with_value, &path, sink);
        let request = v1::AddWatchRequest { path, watch: Some(spec) };
        self.submit(Op::AddWatch(request), Some(spec.watch_id), move |answer| {
            expect_reply!(AddWatch, answer)?;
            Ok(PersistentWatcher::new(receiver, registration))
        })
    }
}
