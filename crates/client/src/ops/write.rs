use bytes::Bytes;
use coordd_proto::v1;
use coordd_proto::v1::request::Op;

use crate::call::{Call, expect_reply};
use crate::session::pending::Answer;
use crate::{AclEntry, Client, CreateOptions, Created, Error, Quota, Stat, convert};

/// Writes. Each takes effect exactly once, in the order of the calls, or is refused and changes nothing.
impl Client {
    fn write<T: 'static>(
        &self,
        op: Op,
        map: impl FnOnce(Answer) -> Result<T, Error> + Send + 'static,
    ) -> Call<T> {
        self.submit(op, None, map)
    }

    /// Creates a znode. For a sequential mode `path` is the prefix and may end in "/"; [`Created::path`] is the full one.
    ///
    /// # Errors
    ///
    /// `NodeExists`; `NoNode` if the parent is missing and [`CreateOptions::parents`] was not asked for;
    /// `NoChildrenForEphemerals`; `InvalidAcl`; `NoAuth`; `QuotaExceeded`; `GuardFailed`.
    ///
    /// # Watches fired
    ///
    /// `NodeCreated` at the path, `NodeChildrenChanged` at the parent; the same for each parent that is created.
    pub fn create(
        &self,
        path: impl Into<String>,
        data: impl Into<Bytes>,
        options: impl Into<CreateOptions>,
    ) -> Call<Created> {
        let mut request = convert::create_request(path.into(), data.into(), options.into());
        request.guards = self.guards.to_vec();
        self.write(Op::Create(request), |answer| expect_reply!(Create, answer)?.try_into())
    }

    /// Deletes a znode without children. `version`: the data version it must have; `None`: any. Returns the zxid.
    ///
    /// # Errors
    ///
    /// `NoNode`, `NotEmpty`, `BadVersion`, `NoAuth`, `GuardFailed`.
    ///
    /// # Watches fired
    ///
    /// `NodeDeleted` at the path, `NodeChildrenChanged` at the parent.
    pub fn delete(&self, path: impl Into<String>, version: Option<i32>) -> Call<u64> {
        let request =
            v1::DeleteRequest { path: path.into(), version, guards: self.guards.to_vec(), session: None };
        self.write(Op::Delete(request), |answer| {
            let zxid = answer.zxid;
            expect_reply!(Delete, answer).map(|_| zxid)
        })
    }

    /// Deletes a znode and all below it, in one step. `expected_count`: how many znodes are to go, the top included, as a
    /// safeguard. Returns how many went.
    ///
    /// Everybody waits for such a step, so a server may refuse one for a large subtree:
    /// [`delete_tree_in_batches`](Self::delete_tree_in_batches) deletes it in many.
    ///
    /// # Errors
    ///
    /// `LimitExceeded` if the subtree is too large for one step: nothing was deleted then. `NoNode`, `CountMismatch`, `NoAuth`,
    /// `GuardFailed`.
    ///
    /// # Watches fired
    ///
    /// `NodeDeleted` at each znode that goes, `NodeChildrenChanged` at the parent of the top.
    pub fn delete_tree(&self, path: impl Into<String>, expected_count: Option<u64>) -> Call<u64> {
        let guards = self.guards.to_vec();
        let request = v1::DeleteTreeRequest { path: path.into(), expected_count, guards, session: None };
        self.write(Op::DeleteTree(request), |answer| Ok(expect_reply!(DeleteTree, answer)?.count))
    }

    /// Replaces the data of a znode. `version`: the data version it must have; `None`: any.
    ///
    /// # Errors
    ///
    /// `NoNode`, `BadVersion`, `NoAuth`, `QuotaExceeded`, `GuardFailed`.
    ///
    /// # Watches fired
    ///
    /// `NodeDataChanged` at the path.
    pub fn set(&self, path: impl Into<String>, data: impl Into<Bytes>, version: Option<i32>) -> Call<Stat> {
        let guards = self.guards.to_vec();
        let request = v1::SetRequest { path: path.into(), data: data.into(), version, guards, session: None };
        self.write(Op::Set(request), |answer| convert::stat(expect_reply!(Set, answer)?.stat))
    }

    /// Replaces the ACL of a znode. `version`: the ACL version ([`Stat::aversion`]) it must have; `None`: any.
    ///
    /// # Errors
    ///
    /// `NoNode`, `BadVersion`, `InvalidAcl`, `NoAuth`, `GuardFailed`.
    ///
    /// # Watches fired
    ///
    /// None.
    pub fn set_acl(
        &self,
        path: impl Into<String>,
        acl: impl IntoIterator<Item = AclEntry>,
        version: Option<i32>,
    ) -> Call<Stat> {
        let acl = acl.into_iter().map(Into::into).collect();
        let guards = self.guards.to_vec();
        let request = v1::SetAclRequest { path: path.into(), acl, version, guards, session: None };
        self.write(Op::SetAcl(request), |answer| convert::stat(expect_reply!(SetAcl, answer)?.stat))
    }

    /// Sets or replaces the quota of the subtree at `path`. Returns the zxid.
    ///
    /// # Errors
    ///
    /// `NoNode`, `NoAuth`, `GuardFailed`.
    ///
    /// # Watches fired
    ///
    /// None.
    pub fn set_quota(&self, path: impl Into<String>, quota: Quota) -> Call<u64> {
        let guards = self.guards.to_vec();
        let request =
            v1::SetQuotaRequest { path: path.into(), quota: Some(quota.into()), guards, session: None };
        self.write(Op::SetQuota(request), |answer| {
            let zxid = answer.zxid;
            expect_reply!(SetQuota, answer).map(|_| zxid)
        })
    }

    /// Removes the quota of the subtree at `path`. Returns the zxid.
    ///
    /// # Errors
    ///
    /// `NoNode` if there is no quota, `NoAuth`, `GuardFailed`.
    ///
    /// # Watches fired
    ///
    /// None.
    pub fn delete_quota(&self, path: impl Into<String>) -> Call<u64> {
        let request =
            v1::DeleteQuotaRequest { path: path.into(), guards: self.guards.to_vec(), session: None };
        self.write(Op::DeleteQuota(request), |answer| {
            let zxid = answer.zxid;
            expect_reply!(DeleteQuota, answer).map(|_| zxid)
        })
    }
}
