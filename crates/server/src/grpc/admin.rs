//! The service `Admin`.

use std::collections::HashMap;
use std::sync::Arc;

use coordd_proto::v1::admin_server::Admin;
use coordd_proto::v1::{self, ErrorCode};
use coordd_tree::{Auth, Command, EndReason, RULES, Session, TableSizes, Tree};
use tonic::{Request, Response, Status};

use super::{client_ip, refuse};
use crate::convert::{bad_arguments, end_to_wire, error, error_to_wire, quota_to_wire};
use crate::descriptors;
use crate::memory::resident_bytes;
use crate::reads::authenticate;
use crate::service::{Service, from_address};

const SESSIONS_MAX: usize = 1000;
const BY_BYTES_MAX: usize = 256;
const QUOTAS_MAX: usize = 1000;
/// Quotas that one page looks at; most of them may be hidden from the caller.
const QUOTAS_SEEN_MAX: usize = 10_000;
/// Bytes of the paths of one page.
const QUOTA_PATH_BYTES_MAX: usize = 1 << 20;

type Reply<T> = Result<Response<T>, Status>;

/// See the module.
pub(crate) struct AdminApi {
    pub(crate) service: Arc<Service>,
}

fn session_info(service: &Service, session: &Session) -> v1::SessionInfo {
    v1::SessionInfo {
        session_id: session.id(),
        client_name: session.client_name().to_owned(),
        timeout_ms: session.timeout_ms(),
        opened_ms: session.opened_ms(),
        opened_zxid: session.opened_zxid(),
        last_write_seq: session.last_seq(),
        ephemerals: session.ephemeral_count() as u64,
        unacknowledged: session.unacknowledged() as u64,
        attached_here: service.hub().is_attached(session.id()),
        client_address: service.hub().client_address(session.id()).unwrap_or_default(),
    }
}

#[tonic::async_trait]
impl Admin for AdminApi {
    async fn status(&self, _request: Request<v1::StatusRequest>) -> Reply<v1::StatusReply> {
        let replica = self.service.replica();
        let status = replica.status();
        let serving = self.service.check_serving();
        let members = replica.members().iter().map(|(id, member)| v1::Member {
            node_id: *id,
            peer_address: member.peer_address.clone(),
            client_address: replica.client_address(*id).unwrap_or_else(|| member.client_address.clone()),
            voter: status.voters.contains(id),
            matched_index: status.matched.get(id).copied(),
        });
        let members = members.collect();
        let mut counters = self.service.hub().counters().by_name();
        counters.insert("clock_corrections".to_owned(), status.clock_corrections);
        let memory = self.service.hub().memory();
        let clients = self.service.clients();
        let ((for_memory, untaken), (silent, refused)) = (memory.ended(), clients.turned_away());
        let (stalls, longest_stall_ms) = self.service.stalls().so_far();
        counters.extend(
            [
                ("ended_for_client_memory", for_memory),
                ("untaken_replies_dropped", untaken),
                ("silent_connections_closed", silent),
                ("connections_refused", refused),
                ("long_reads_refused", self.service.long_reads().refused()),
                ("runtime_stalls", stalls),
                ("runtime_stall_longest_ms", longest_stall_ms),
            ]
            .map(|(name, count)| (name.to_owned(), count)),
        );
        let (connections, streams) = clients.count();
        let (watches, watch_bytes) = {
            let table = self.service.hub().watches();
            (table.len() as u64, table.bytes() as u64)
        };
        let resident_bytes = resident_bytes();
        let tree = replica.tree();
        let (applied_index, digest) = tree.applied();
        Ok(Response::new(v1::StatusReply {
            node_id: replica.id(),
            cluster_id: replica.cluster_id().to_owned(),
            role: status.role.to_owned(),
            term: status.term,
            leader_id: status.leader.unwrap_or(0),
            last_log_index: status.last_log_index,
            committed_index: status.committed_index,
            // Under one look with the digest, which says nothing without it.
            applied_index,
            snapshot_index: status.snapshot_index,
            purged_index: status.purged_index,
            zxid: tree.last_zxid(),
            digest,
            znodes: tree.znode_count(),
            data_bytes: tree.data_bytes(),
            sessions: tree.session_count() as u64,
            attached_sessions: self.service.hub().attached_count() as u64,
            watches,
            serving: serving.is_ok(),
            not_serving_reason: serving.err().map(|error| error.message).unwrap_or_default(),
            members,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: self.service.uptime().as_millis() as u64,
            incarnation: replica.origin().incarnation,
            log_bytes: status.log_bytes,
            resident_bytes,
            counters,
            disk_free_bytes: status.disk_free_bytes,
            disk_is_low: status.disk_is_low,
            growth_refused: status.growth_refused,
            rules: replica.rules(),
            rules_known: RULES,
            tables: tables(&tree.table_sizes()),
            client_memory_bytes: memory.used() as u64,
            client_memory_max_bytes: memory.max() as u64,
            memory_limit_bytes: self.service.memory_limit(),
            memory_is_low: status.memory_is_low,
            connections: connections as u64,
            connections_max: clients.limits().connections as u64,
            streams: streams as u64,
            watch_bytes,
            open_files: self.service.open_files(),
            open_files_max: descriptors::limit() as u64,
            lineage_number: self.service.lineage().number,
        }))
    }

    async fn list_sessions(&self, request: Request<v1::ListSessionsRequest>) -> Reply<v1::ListSessionsReply> {
        let request = request.into_inner();
        let limit = match request.limit as usize {
            0 => SESSIONS_MAX,
            limit => limit.min(SESSIONS_MAX),
        };
        let service = self.service.clone();
        let read = move |tree: &Tree| {
            let mut later = tree.sessions_after(request.after);
            let sessions =
                later.by_ref().take(limit).map(|session| session_info(&service, session)).collect();
            v1::ListSessionsReply { sessions, more: later.next().is_some() }
        };
        Ok(Response::new(self.service.read_long(read).await.map_err(refuse)?))
    }

    async fn kill_session(&self, request: Request<v1::KillSessionRequest>) -> Reply<v1::KillSessionReply> {
        let request = request.into_inner();
        if request.by.len() > BY_BYTES_MAX {
            return Err(refuse(bad_arguments(format!(
                "`by` of {} bytes; at most {BY_BYTES_MAX}",
                request.by.len()
            ))));
        }
        let reason = EndReason::Killed { by: request.by };
        let command = Command::EndSession { session: request.session_id, reason };
        let (_, result) = self.service.propose(command, request.session_id, 0).await.map_err(refuse)?;
        match result.map_err(|refused| refuse(error_to_wire(refused)))? {
            coordd_tree::Outcome::SessionEnded(ephemerals) => {
                Ok(Response::new(v1::KillSessionReply { ephemerals }))
            }
            other => Err(Status::internal(format!("an answer of another kind: {other:?}"))),
        }
    }

    async fn get_session(&self, request: Request<v1::GetSessionRequest>) -> Reply<v1::GetSessionReply> {
        use v1::get_session_reply::Session as Found;
        let id = request.into_inner().session_id;
        let tree = self.service.replica().tree();
        let found = match (tree.session(id), tree.ended_session(id)) {
            (Some(live), _) => Found::Live(session_info(&self.service, live)),
            (None, Some(ended)) => Found::Ended(end_to_wire(ended)),
            (None, None) => {
                let message = format!("no session {id:#x}: it never was, or ended over an hour ago");
                return Err(refuse(error(ErrorCode::NoSession, message)));
            }
        };
        Ok(Response::new(v1::GetSessionReply { session: Some(found) }))
    }

    async fn list_quotas(&self, request: Request<v1::ListQuotasRequest>) -> Reply<v1::ListQuotasReply> {
        let address = from_address(client_ip(&request));
        let request = request.into_inner();
        let auth =
            authenticate(&address, &request.credentials, self.service.super_digest()).map_err(refuse)?;
        let limit = match request.limit as usize {
            0 => QUOTAS_MAX,
            limit => limit.min(QUOTAS_MAX),
        };
        let read = move |tree: &Tree| quotas_page(tree, &auth, &request.after, limit);
        Ok(Response::new(self.service.read_long(read).await.map_err(refuse)?))
    }
}

/// The next quotas after a path, those left out whose top `auth` may not list.
fn quotas_page(tree: &Tree, auth: &Auth, after: &str, limit: usize) -> v1::ListQuotasReply {
    let mut page = v1::ListQuotasReply::default();
    let (mut seen, mut path_bytes) = (0, 0);
    for (path, report) in tree.quotas(after) {
        if page.quotas.len() == limit || seen == QUOTAS_SEEN_MAX || path_bytes > QUOTA_PATH_BYTES_MAX {
            return page;
        }
        seen += 1;
        path.clone_into(&mut page.next_after);
        if !may_list(tree, path, auth) {
            continue;
        }
        path_bytes += path.len();
        page.quotas.push(v1::QuotaInfo {
            path: path.to_owned(),
            quota: Some(quota_to_wire(&report.quota)),
            count: report.count,
            bytes: report.bytes,
            soft_exceeded: report.exceeded_soft,
        });
    }
    page.next_after.clear();
    page
}

/// Whether `auth` may learn that there is a znode at `path`: it may list the znode's parent.
fn may_list(tree: &Tree, path: &str, auth: &Auth) -> bool {
    match path.rsplit_once('/') {
        None | Some(("", "")) => true,
        Some((parent, _)) => {
            let parent = if parent.is_empty() { "/" } else { parent };
            tree.children(parent, auth, None, 0, false).is_ok()
        }
    }
}

/// The sizes by name, as the `.proto` file lists them.
fn tables(sizes: &TableSizes) -> HashMap<String, u64> {
    let &TableSizes {
        acls,
        acl_bytes,
        quotas,
        sessions,
        ended_sessions,
        ended_session_bytes,
        recorded_answers,
        recorded_answer_bytes,
        origins,
        history_events,
        history_bytes,
    } = sizes;
    [
        ("acls", acls),
        ("acl_bytes", acl_bytes),
        ("quotas", quotas),
        ("sessions", sessions),
        ("ended_sessions", ended_sessions),
        ("ended_session_bytes", ended_session_bytes),
        ("recorded_answers", recorded_answers),
        ("recorded_answer_bytes", recorded_answer_bytes),
        ("origins", origins),
        ("history_events", history_events),
        ("history_bytes", history_bytes),
    ]
    .into_iter()
    .map(|(name, size)| (name.to_owned(), size))
    .collect()
}
