//! What a request of a session stream asks for: a write to propose, a read to queue, or something about the connection itself.

use coordd_proto::v1::{self, ErrorCode};
use coordd_tree::Command;

use super::{Connection, End};
use crate::admission::{Asked, Place};
use crate::convert::{bad_arguments, error, error_to_wire};
use crate::hub::Waiter;
use crate::reads::authenticate;
use crate::session::pending::State;

impl Connection {
    /// A request; returns the command if it is a write.
    pub(super) fn take_request(
        &mut self,
        request: v1::Request,
    ) -> Result<Option<(Command<'static>, Waiter)>, End> {
        let id = request.id;
        let seq = request.write_seq;
        let Some(op) = request.op else {
            return self.break_protocol(format!("request {id} has no operation"));
        };
        let asked = match Asked::of(op, self.service.own_lineage()) {
            Asked::Write(asked) => asked,
            _ if seq != 0 => {
                return self.break_protocol(format!("request {id} does not write and has a write number"));
            }
            Asked::Read(read) => return self.queue(id, State::Read(read)),
            Asked::RemoveWatch(op) => return self.queue(id, State::RemoveWatch(op)),
            Asked::Now(op) => {
                let reply = self.answer_now(id, op)?;
                return self.queue(id, State::Done(reply));
            }
        };
        if seq == 0 {
            return self.break_protocol(format!("request {id} writes and has no write number"));
        }
        let place = Place { session: self.outbox.session, seq, acked: self.acked };
        let asked = self.service.refuse_growth(asked);
        let write = place.admit(asked, (*self.auth).clone(), &self.service.write_limits());
        self.pending.push(id, State::Submitted);
        let waiter = Waiter::Stream { outbox: self.outbox.clone(), request_id: id, seq };
        Ok(Some((self.service.command(write, self.outbox.generation), waiter)))
    }

    /// It has its turn, or its answer, after what came before it.
    fn queue<T>(&mut self, id: u64, state: State) -> Result<Option<T>, End> {
        self.pending.push(id, state);
        Ok(None)
    }

    /// Answers a request about watches or identities as of this moment. Its reply tells the client that it has all
    /// events up to the reply's zxid, so those are said here, before whatever the reply still waits for.
    fn answer_now(&mut self, id: u64, op: v1::request::Op) -> Result<v1::Reply, End> {
        use v1::request::Op;
        let service = self.service.clone();
        // Held meanwhile, so that a watch starts at one point of history.
        let tree = service.replica().tree();
        let zxid = tree.last_zxid();
        let result = match op {
            Op::AddWatch(op) => self.add_watch(op),
            Op::AddAuth(op) => self.add_auth(op),
            _ => Ok(self.who_am_i()),
        };
        drop(tree);
        self.take_outbox()?;
        let result = result.unwrap_or_else(v1::reply::Result::Error);
        Ok(v1::Reply { id, zxid, result: Some(result) })
    }

    fn add_watch(&self, op: v1::AddWatchRequest) -> Result<v1::reply::Result, v1::Error> {
        let spec = op.watch.ok_or_else(|| bad_arguments("watch is missing"))?;
        coordd_tree::validate_path(&op.path).map_err(error_to_wire)?;
        let watch = self.service.registration(&self.outbox, &spec, &op.path)?;
        self.service.hub().watches().arm(&self.outbox, watch);
        Ok(v1::reply::Result::AddWatch(v1::AddWatchReply {}))
    }

    pub(super) fn remove_watch(&self, op: &v1::RemoveWatchRequest) -> Result<v1::reply::Result, v1::Error> {
        if self.service.hub().watches().disarm(&self.outbox, op.watch_id) {
            Ok(v1::reply::Result::RemoveWatch(v1::RemoveWatchReply {}))
        } else {
            Err(error(ErrorCode::NoWatcher, format!("no watch {}", op.watch_id)))
        }
    }

    fn add_auth(&mut self, op: v1::AddAuthRequest) -> Result<v1::reply::Result, v1::Error> {
        let credential = op.credential.ok_or_else(|| bad_arguments("credential is missing"))?;
        self.auth = authenticate(&self.auth, &[credential], self.service.super_digest())?;
        self.outbox.set_auth((*self.auth).clone());
        Ok(v1::reply::Result::AddAuth(v1::AddAuthReply {}))
    }

    fn who_am_i(&self) -> v1::reply::Result {
        let address = self.auth.ip.map(|ip| v1::Identity { scheme: "ip".into(), id: ip.to_string() });
        let proved =
            self.auth.ids.iter().map(|id| v1::Identity { scheme: id.scheme.clone(), id: id.id.clone() });
        v1::reply::Result::WhoAmI(v1::WhoAmIReply { identities: address.into_iter().chain(proved).collect() })
    }
}
