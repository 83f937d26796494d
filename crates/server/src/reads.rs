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
/// Reads of a multi-read.
const READS_MAX: usize = 1000;
/// Bytes of values that one multi-read returns.
const MULTI_READ_BYTES_MAX: usize = 3 << 20;

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

    /// It looks at more than a page of znodes.
    pub(crate) fn is_long(&self) -> bool {
        matches!(self, Read::CountDescendants(_))
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
            Read::MultiRead(request) => Wire::MultiRead(multi_read(tree, request, auth)?),
            Read::GetAcl(request) => {
                let (acl, stat) = tree.acl(&request.path, auth).map_err(error_to_wire)?;
                Wire::GetAcl(v1::GetAclReply { acl: acl_to_wire(acl), stat: Some(stat_to_wire(&stat)) })
            }
            Read::GetEphemerals(request) => {
                let session = if request.session_id == 0 { own_session } else { request.session_id };
                Wire::GetEphemerals(v1::GetEphemeralsReply {
                    paths: tree.ephemerals(session, &request.prefix),
                })
            }
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
            Read::Sync(_) => Wire::Sync(v1::SyncReply { zxid: tree.last_zxid() }),
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
    let after = Some(request.after.as_str()).filter(|after| !after.is_empty());
    let page = tree.children(&request.path, auth, after, limit, request.with_stat)?;
    let children = page.children.into_iter();
    Ok(v1::ListReply {
        children: children
            .map(|child| v1::Child { name: child.name, stat: child.stat.as_ref().map(stat_to_wire) })
            .collect(),
        stat: Some(stat_to_wire(&page.stat)),
        more: page.more,
        zxid: 0,
    })
}

fn multi_read(
    tree: &Tree,
    request: &v1::MultiReadRequest,
    auth: &Auth,
) -> Result<v1::MultiReadReply, v1::Error> {
    use v1::read_op::Op;
    use v1::read_op_reply::Result as Wire;
    if request.ops.len() > READS_MAX {
        let message = format!("a multi-read of {} reads; at most {READS_MAX}", request.ops.len());
        return Err(bad_arguments(message));
    }
    let mut results = Vec::with_capacity(request.ops.len());
    let mut bytes = 0;
    for op in &request.ops {
        let read = match &op.op {
            Some(Op::Get(request)) => get(tree, request, auth).map(Wire::Get),
            Some(Op::Exists(request)) => exists(tree, request).map(Wire::Exists),
            Some(Op::List(request)) => list(tree, request, auth).map(Wire::List),
            None => return Err(error(ErrorCode::Protocol, "a read of the multi-read is missing")),
        };
        bytes += match &read {
            Ok(Wire::Get(reply)) => reply.data.len(),
            Ok(Wire::List(reply)) => reply.children.iter().map(|child| child.name.len() + 64).sum(),
            _ => 0,
        };
        if bytes > MULTI_READ_BYTES_MAX {
            let message = format!(
                "the answers of the multi-read are over {} MiB; ask for less",
                MULTI_READ_BYTES_MAX >> 20
            );
            return Err(bad_arguments(message));
        }
        results.push(v1::ReadOpReply {
            result: Some(read.unwrap_or_else(|refused| Wire::Error(error_to_wire(refused)))),
        });
    }
    Ok(v1::MultiReadReply { results, zxid: 0 })
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
