use bytes::Bytes;
use coordd_proto::v1;
use coordd_proto::v1::request::Op;
use futures::{Stream, TryStreamExt as _};

use crate::call::{Call, expect_reply};
use crate::session::pending::Answer;
use crate::{
    AclEntry, Client, EphemeralsPage, Error, ListOptions, ListPage, QuotaUsage, ReadLevel, Stat, convert,
};

/// Reads. Each names how fresh it must be; at any level a session never sees a state older than what it has seen or
/// written.
impl Client {
    fn read<T: 'static>(
        &self,
        op: Op,
        map: impl FnOnce(Answer) -> Result<T, Error> + Send + 'static,
    ) -> Call<T> {
        self.submit(op, None, map)
    }

    /// Reads the data of a znode.
    ///
    /// # Errors
    ///
    /// `NoNode`, `NoAuth`.
    pub fn get(&self, path: impl Into<String>, level: ReadLevel) -> Call<(Bytes, Stat)> {
        self.read(Op::Get(get_request(path.into(), level)), get_reply)
    }

    /// Asks whether a znode is there: its stat, or `None`.
    pub fn exists(&self, path: impl Into<String>, level: ReadLevel) -> Call<Option<Stat>> {
        self.read(Op::Exists(exists_request(path.into(), level)), exists_reply)
    }

    /// Lists the children of a znode: one page, which is one state of the tree.
    ///
    /// # Errors
    ///
    /// `NoNode`, `NoAuth`.
    pub fn list_page(
        &self,
        path: impl Into<String>,
        level: ReadLevel,
        options: ListOptions,
    ) -> Call<ListPage> {
        self.read(Op::List(list_request(path.into(), level, options)), list_reply)
    }

    /// Lists the children of a znode page by page. Each page is one state of the tree; several pages may be several.
    ///
    /// # Errors
    ///
    /// As items: `NoNode`, `NoAuth`. The stream ends after an error.
    pub fn list_pages(
        &self,
        path: impl Into<String>,
        level: ReadLevel,
        options: ListOptions,
    ) -> impl Stream<Item = Result<ListPage, Error>> + Send + Unpin + 'static {
        let (client, path) = (self.clone(), path.into());
        Box::pin(futures::stream::try_unfold(Some(options), move |options| {
            let (client, path) = (client.clone(), path.clone());
            async move {
                let Some(mut options) = options else { return Ok(None) };
                let page = client.list_page(path, level, options.clone()).await?;
                let next = match (page.more, page.children.last()) {
                    (true, Some(last)) => {
                        options.after.clone_from(&last.name);
                        Some(options)
                    }
                    _ => None,
                };
                Ok(Some((page, next)))
            }
        }))
    }

    /// The names of all children of a znode, in byte order, over as many pages as it takes.
    ///
    /// # Errors
    ///
    /// `NoNode`, `NoAuth`.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn children(&self, path: impl Into<String>, level: ReadLevel) -> Result<Vec<String>, Error> {
        let mut pages = self.list_pages(path, level, ListOptions::default());
        let mut names = Vec::new();
        while let Some(page) = pages.try_next().await? {
            names.extend(page.children.into_iter().map(|child| child.name));
        }
        Ok(names)
    }

    /// Reads the ACL of a znode.
    ///
    /// # Errors
    ///
    /// `NoNode`, `NoAuth`.
    pub fn get_acl(&self, path: impl Into<String>, level: ReadLevel) -> Call<(Vec<AclEntry>, Stat)> {
        let request = v1::GetAclRequest { path: path.into(), level: wire(level), ..Default::default() };
        self.read(Op::GetAcl(request), |answer| {
            let reply = expect_reply!(GetAcl, answer)?;
            Ok((reply.acl.into_iter().map(AclEntry::from).collect(), convert::stat(reply.stat)?))
        })
    }

    /// Reads one page of the ephemerals of a session: those whose paths start with `prefix` and come after
    /// `after`, in byte order. `session_id` 0 means this session. Ephemerals of other sessions are left out
    /// where this client may not read their parents. A page holds at most 3 MiB of paths.
    pub fn ephemerals_page(
        &self,
        session_id: u64,
        prefix: impl Into<String>,
        level: ReadLevel,
        after: impl Into<String>,
    ) -> Call<EphemeralsPage> {
        let (prefix, after) = (prefix.into(), after.into());
        let request =
            v1::GetEphemeralsRequest { session_id, prefix, level: wire(level), after, ..Default::default() };
        self.read(Op::GetEphemerals(request), |answer| {
            let v1::GetEphemeralsReply { paths, more } = expect_reply!(GetEphemerals, answer)?;
            Ok(EphemeralsPage { paths, more })
        })
    }

    /// The ephemerals of a session whose paths start with `prefix`, in byte order, over as many pages as it
    /// takes. Each page is one state of the tree; several pages may be several. See
    /// [`ephemerals_page`](Self::ephemerals_page).
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn ephemerals(
        &self,
        session_id: u64,
        prefix: impl Into<String>,
        level: ReadLevel,
    ) -> Result<Vec<String>, Error> {
        let prefix = prefix.into();
        let mut paths: Vec<String> = Vec::new();
        loop {
            let after = paths.last().cloned().unwrap_or_default();
            let page = self.ephemerals_page(session_id, prefix.as_str(), level, after).await?;
            // A page without a path says nothing about where the next one begins.
            let is_last = !page.more || page.paths.is_empty();
            paths.extend(page.paths);
            if is_last {
                return Ok(paths);
            }
        }
    }

    /// Counts all znodes below a znode, itself not counted.
    ///
    /// # Errors
    ///
    /// `NoNode`, `NoAuth`.
    pub fn count_descendants(&self, path: impl Into<String>, level: ReadLevel) -> Call<u64> {
        let request =
            v1::CountDescendantsRequest { path: path.into(), level: wire(level), ..Default::default() };
        self.read(Op::CountDescendants(request), |answer| Ok(expect_reply!(CountDescendants, answer)?.count))
    }

    /// Reads the quota of a subtree and what it uses.
    ///
    /// # Errors
    ///
    /// `NoNode` if there is no quota at this path.
    pub fn get_quota(&self, path: impl Into<String>, level: ReadLevel) -> Call<QuotaUsage> {
        let request = v1::GetQuotaRequest { path: path.into(), level: wire(level), ..Default::default() };
        self.read(Op::GetQuota(request), |answer| Ok(expect_reply!(GetQuota, answer)?.into()))
    }

    /// Waits until the node this session is attached to shows everything that was acknowledged, anywhere, before the
    /// call; local reads after it see that. Returns what the node has applied.
    pub fn sync(&self) -> Call<u64> {
        self.read(Op::Sync(v1::SyncRequest {}), |answer| Ok(expect_reply!(Sync, answer)?.zxid))
    }
}

pub(crate) fn wire(level: ReadLevel) -> i32 {
    v1::ReadLevel::from(level) as i32
}

pub(crate) fn get_request(path: String, level: ReadLevel) -> v1::GetRequest {
    v1::GetRequest { path, level: wire(level), ..Default::default() }
}

pub(crate) fn exists_request(path: String, level: ReadLevel) -> v1::ExistsRequest {
    v1::ExistsRequest { path, level: wire(level), ..Default::default() }
}

pub(crate) fn list_request(path: String, level: ReadLevel, options: ListOptions) -> v1::ListRequest {
    let ListOptions { after, limit, with_stat } = options;
    v1::ListRequest { path, level: wire(level), after, limit, with_stat, ..Default::default() }
}

pub(crate) fn get_reply(answer: Answer) -> Result<(Bytes, Stat), Error> {
    let reply = expect_reply!(Get, answer)?;
    Ok((reply.data, convert::stat(reply.stat)?))
}

pub(crate) fn exists_reply(answer: Answer) -> Result<Option<Stat>, Error> {
    Ok(expect_reply!(Exists, answer)?.stat.map(Stat::from))
}

pub(crate) fn list_reply(answer: Answer) -> Result<ListPage, Error> {
    expect_reply!(List, answer)?.try_into()
}
