//! Reads, carried out on the tree.

use std::sync::Arc;

use coordd_proto::v1::{self, ErrorCode, ReadLevel};
use coordd_tree::{Auth, OpError, Tree};

use crate::convert::{acl_to_wire, bad_arguments, error, error_to_wire, quota_to_wire, stat_to_wire};

/// Children of one page.
pub(crate) const LIST_MAX: usize = 10_000;
/// Identities of one connection.
const IDENTITIES_MAX: usize = 16;
/// Bytes of a user's name. It goes into every write of the connection.
const USER_BYTES_MAX: usize = 256;
/// Bytes of a password. All identities of a session must fit into the frame that attaches it.
const PASSWORD_BYTES_MAX: usize = 1024;
/// Reads of a multi-read.
pub(crate) const READS_MAX: usize = 1000;
/// Bytes of one reply: of a multi-read, or of a page. A gRPC client that is not told otherwise reads 4 MiB.
pub(crate) const REPLY_BYTES_MAX: usize = 3 << 20;
/// What a stat has in a message at most, with its tag and length.
const STAT_BYTES: usize = 120;
/// Children that are looked at in one step of a listing.
const LIST_STEP: usize = 500;
/// Children that a multi-read lists before it counts as long.
const SHORT_CHILDREN: usize = 10_000;

/// A request that reads.
#[derive(Clone, Debug)]
#[expect(clippy::enum_variant_names, reason = "they are named as the requests are")]
pub(crate) enum Read {
    Get(v1::GetRequest),
    Exists(v1::ExistsRequest),
    List(v1::ListRequest),
    MultiRead(v1::MultiReadRequest),
    GetAcl(v1::GetAclRequest),
    GetEphemerals(v1::GetEphemeralsRequest),
    CountDescendants(v1::CountDescendantsRequest),
    GetQuota(v1::GetQuotaRequest),
    Sync(v1::SyncRequest),
}

impl Read {
    /// It must see everything that was acknowledged anywhere before it.
    pub(crate) fn is_linearizable(&self) -> Result<bool, v1::Error> {
        let level = match self {
            Read::Get(request) => request.level,
            Read::Exists(request) => request.level,
            Read::List(request) => request.level,
            Read::MultiRead(request) => request.level,
            Read::GetAcl(request) => request.level,
            Read::GetEphemerals(request) => request.level,
            Read::CountDescendants(request) => request.level,
            Read::GetQuota(request) => request.level,
            Read::Sync(_) => return Ok(true),
        };
        match ReadLevel::try_from(level) {
            Ok(ReadLevel::Unspecified | ReadLevel::Local) => Ok(false),
            Ok(ReadLevel::Linearizable) => Ok(true),
            Err(_) => Err(bad_arguments(format!("read level {level} is not known"))),
        }
    }

    /// Refuses what is not worth keeping until it has its turn.
    pub(crate) fn check(&self) -> Result<(), v1::Error> {
        match self {
            Read::MultiRead(request) => check_count(request),
            _ => Ok(()),
        }
    }

    /// What it takes in memory beside itself, about.
    pub(crate) fn bytes(&self) -> usize {
        let credentials = |all: &[v1::Credential]| -> usize {
            all.iter().map(|one| size_of::<v1::Credential>() + one.scheme.len() + one.auth.len()).sum()
        };
        match self {
            Read::Get(request) => request.path.len() + credentials(&request.credentials),
            Read::Exists(request) => request.path.len(),
            Read::List(request) => {
                request.path.len() + request.after.len() + credentials(&request.credentials)
            }
            Read::MultiRead(request) => {
                let ops = size_of::<v1::ReadOp>() * request.ops.len() + prost::Message::encoded_len(request);
                ops + credentials(&request.credentials)
            }
            Read::GetAcl(request) => request.path.len() + credentials(&request.credentials),
            Read::GetEphemerals(request) => {
                request.prefix.len() + request.after.len() + credentials(&request.credentials)
            }
            Read::CountDescendants(request) => request.path.len() + credentials(&request.credentials),
            Read::GetQuota(request) => request.path.len(),
            Read::Sync(_) => 0,
        }
    }

    /// Reads what takes some milliseconds at most; `None` if it would take longer.
    pub(crate) fn run_short(
        &self,
        tree: &Tree,
        auth: &Auth,
        own_session: u64,
    ) -> Option<Result<v1::reply::Result, v1::Error>> {
        match self {
            Read::CountDescendants(_) | Read::GetEphemerals(_) => None,
            Read::MultiRead(request) => {
                let read = multi_read(tree, request, auth, SHORT_CHILDREN).transpose()?;
                Some(read.map(v1::reply::Result::MultiRead))
            }
            _ => Some(self.run(tree, auth, own_session)),
        }
    }

    /// The watch to arm in the same step, and its path.
    pub(crate) fn watch(&self) -> Option<(&v1::WatchSpec, &str)> {
        match self {
            Read::Get(request) => request.watch.as_ref().map(|spec| (spec, request.path.as_str())),
            Read::Exists(request) => request.watch.as_ref().map(|spec| (spec, request.path.as_str())),
            Read::List(request) => request.watch.as_ref().map(|spec| (spec, request.path.as_str())),
            _ => None,
        }
    }

    /// Reads. `own_session` is what session 0 means in `GetEphemerals`. A failed read of an operation of a multi-read is
    /// an answer; everything else that fails is an error.
    pub(crate) fn run(
        &self,
        tree: &Tree,
        auth: &Auth,
        own_session: u64,
    ) -> Result<v1::reply::Result, v1::Error> {
        use v1::reply::Result as Wire;
        Ok(match self {
            Read::Get(request) => Wire::Get(get(tree, request, auth).map_err(error_to_wire)?),
            Read::Exists(request) => Wire::Exists(exists(tree, request).map_err(error_to_wire)?),
            Read::List(request) => Wire::List(list(tree, request, auth).map_err(error_to_wire)?),
            Read::MultiRead(request) => {
                let read = multi_read(tree, request, auth, usize::MAX)?;
                Wire::MultiRead(read.unwrap_or_default())
            }
            Read::GetAcl(request) => {
                let (acl, stat) = tree.acl(&request.path, auth).map_err(error_to_wire)?;
                Wire::GetAcl(v1::GetAclReply { acl: acl_to_wire(acl), stat: Some(stat_to_wire(&stat)) })
            }
            Read::GetEphemerals(request) => Wire::GetEphemerals(ephemerals(tree, request, auth, own_session)),
            Read::CountDescendants(request) => {
                let count = tree.descendant_count(&request.path, auth).map_err(error_to_wire)?;
                Wire::CountDescendants(v1::CountDescendantsReply { count })
            }
            Read::GetQuota(request) => {
                let report = tree.quota(&request.path).map_err(error_to_wire)?;
                Wire::GetQuota(v1::GetQuotaReply {
                    quota: Some(quota_to_wire(&report.quota)),
                    count: report.count,
                    bytes: report.bytes,
                    soft_exceeded: report.exceeded_soft,
                })
            }
            Read::Sync(_) => Wire::Sync(v1::SyncReply { zxid: tree.last_zxid(), lineage: None }),
        })
    }
}

fn get(tree: &Tree, request: &v1::GetRequest, auth: &Auth) -> Result<v1::GetReply, OpError> {
    let (data, stat) = tree.get(&request.path, auth)?;
    Ok(v1::GetReply { data, stat: Some(stat_to_wire(&stat)), zxid: 0 })
}

fn exists(tree: &Tree, request: &v1::ExistsRequest) -> Result<v1::ExistsReply, OpError> {
    let stat = tree.exists(&request.path)?;
    Ok(v1::ExistsReply { stat: stat.as_ref().map(stat_to_wire), zxid: 0 })
}

fn list(tree: &Tree, request: &v1::ListRequest, auth: &Auth) -> Result<v1::ListReply, OpError> {
    let limit = match request.limit as usize {
        0 => LIST_MAX,
        limit => limit.min(LIST_MAX),
    };
    let mut after = Some(request.after.clone()).filter(|after| !after.is_empty());
    let (mut children, mut bytes) = (Vec::new(), STAT_BYTES);
    loop {
        let step = LIST_STEP.min(limit - children.len());
        let page = tree.children(&request.path, auth, after.as_deref(), step, request.with_stat)?;
        for child in page.children {
            bytes += child.name.len() + 8 + if child.stat.is_some() { STAT_BYTES } else { 0 };
            if bytes > REPLY_BYTES_MAX && !children.is_empty() {
                let stat = Some(stat_to_wire(&page.stat));
                return Ok(v1::ListReply { children, stat, more: true, zxid: 0 });
            }
            children.push(v1::Child { name: child.name, stat: child.stat.as_ref().map(stat_to_wire) });
        }
        if !page.more || children.len() >= limit {
            let stat = Some(stat_to_wire(&page.stat));
            return Ok(v1::ListReply { children, stat, more: page.more, zxid: 0 });
        }
        after = children.last().map(|child: &v1::Child| child.name.clone());
    }
}

/// The ephemerals of a session that the caller may list: those whose parents it may read. The session itself sees all that it
/// has.
fn ephemerals(
    tree: &Tree,
    request: &v1::GetEphemeralsRequest,
    auth: &Auth,
    own_session: u64,
) -> v1::GetEphemeralsReply {
    let session = if request.session_id == 0 { own_session } else { request.session_id };
    let is_own = session == own_session;
    let limit = if request.limit == 0 { usize::MAX } else { request.limit as usize };
    let mut reply = v1::GetEphemeralsReply::default();
    let mut bytes = 0;
    // Most have one parent in common.
    let mut known: Option<(String, bool)> = None;
    for path in tree.ephemerals(session, &request.prefix) {
        if path <= request.after {
            continue;
        }
        let parent = match path.rfind('/') {
            Some(at) if at > 0 => &path[..at],
            _ => "/",
        };
        let may_list = match &known {
            _ if is_own => true,
            Some((known, may_list)) if known == parent => *may_list,
            _ => {
                let may_list = tree.children(parent, auth, None, 0, false).is_ok();
                known = Some((parent.to_owned(), may_list));
                may_list
            }
        };
        if !may_list {
            continue;
        }
        bytes += path.len() + 8;
        if reply.paths.len() == limit || (bytes > REPLY_BYTES_MAX && !reply.paths.is_empty()) {
            reply.more = true;
            break;
        }
        reply.paths.push(path);
    }
    reply
}

/// Refuses a multi-read of too many reads.
fn check_count(request: &v1::MultiReadRequest) -> Result<(), v1::Error> {
    match request.ops.len() {
        count if count <= READS_MAX => Ok(()),
        count => Err(bad_arguments(format!("a multi-read of {count} reads; at most {READS_MAX}"))),
    }
}

/// Reads several; `None` if more children than `children_max` are listed.
fn multi_read(
    tree: &Tree,
    request: &v1::MultiReadRequest,
    auth: &Auth,
    children_max: usize,
) -> Result<Option<v1::MultiReadReply>, v1::Error> {
    use v1::read_op::Op;
    use v1::read_op_reply::Result as Wire;
    check_count(request)?;
    let mut results = Vec::with_capacity(request.ops.len());
    let (mut bytes, mut children) = (0, 0);
    for op in &request.ops {
        let read = match &op.op {
            Some(Op::Get(request)) => get(tree, request, auth).map(Wire::Get),
            Some(Op::Exists(request)) => exists(tree, request).map(Wire::Exists),
            Some(Op::List(request)) => list(tree, request, auth).map(Wire::List),
            None => return Err(error(ErrorCode::Protocol, "a read of the multi-read is missing")),
        };
        if let Ok(Wire::List(reply)) = &read {
            children += reply.children.len();
            if children > children_max {
                return Ok(None);
            }
        }
        let result = read.unwrap_or_else(|refused| Wire::Error(error_to_wire(refused)));
        let reply = v1::ReadOpReply { result: Some(result) };
        bytes += prost::Message::encoded_len(&reply) + 8;
        // What may be stored can be read: a single answer is never too large.
        if bytes > REPLY_BYTES_MAX && !results.is_empty() {
            let message =
                format!("the answers of the multi-read are over {} MiB; ask for less", REPLY_BYTES_MAX >> 20);
            return Err(bad_arguments(message));
        }
        results.push(reply);
    }
    Ok(Some(v1::MultiReadReply { results, zxid: 0 }))
}

/// Who asks, with what the connection has proved.
pub(crate) fn authenticate(
    auth: &Auth,
    credentials: &[v1::Credential],
    super_digest: Option<&str>,
) -> Result<Arc<Auth>, v1::Error> {
    let mut auth = auth.clone();
    if auth.ids.len() + credentials.len() > IDENTITIES_MAX {
        return Err(bad_arguments(format!("over {IDENTITIES_MAX} identities of one connection")));
    }
    for credential in credentials {
        if credential.scheme != "digest" {
            let message = format!("the scheme {:?} is not known; there is \"digest\"", credential.scheme);
            return Err(error(ErrorCode::AuthFailed, message));
        }
        let text = std::str::from_utf8(&credential.auth).ok().and_then(|text| text.split_once(':'));
        let Some((user, password)) = text.filter(|(user, _)| !user.is_empty()) else {
            return Err(error(ErrorCode::AuthFailed, "a digest credential is user:password"));
        };
        if password.len() > PASSWORD_BYTES_MAX {
            let message = format!("a password of {} bytes; at most {PASSWORD_BYTES_MAX}", password.len());
            return Err(bad_arguments(message));
        }
        if user.len() > USER_BYTES_MAX {
            return Err(bad_arguments(format!("a user of {} bytes; at most {USER_BYTES_MAX}", user.len())));
        }
        let id = coordd_tree::digest_id(user, password);
        if super_digest == Some(id.as_str()) {
            auth.ids.push(coordd_tree::AuthId { scheme: "super".into(), id: id.clone() });
        }
        let own = coordd_tree::AuthId { scheme: "digest".into(), id };
        if !auth.ids.contains(&own) {
            auth.ids.push(own);
        }
    }
    Ok(Arc::new(auth))
}
