use coordd_proto::v1;
use coordd_proto::v1::request::Op;

use crate::call::{Call, expect_reply};
use crate::{Client, Credential, Identity};

/// Who the session acts for.
impl Client {
    /// Adds an identity to the session: it is presented to every node from now on.
    ///
    /// # Errors
    ///
    /// `AuthFailed`.
    pub fn add_auth(&self, credential: Credential) -> Call<()> {
        let request = v1::AddAuthRequest { credential: Some(credential.clone().into()) };
        let shared = self.shared().clone();
        self.submit(Op::AddAuth(request), None, move |answer| {
            expect_reply!(AddAuth, answer)?;
            shared.add_credential(credential);
            Ok(())
        })
    }

    /// Who the server takes this connection for.
    pub fn who_am_i(&self) -> Call<Vec<Identity>> {
        self.submit(Op::WhoAmI(v1::WhoAmIRequest {}), None, |answer| {
            Ok(expect_reply!(WhoAmI, answer)?.identities.into_iter().map(Identity::from).collect())
        })
    }
}
