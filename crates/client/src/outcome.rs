use coordd_proto::v1;
use coordd_proto::v1::coordd_client::CoorddClient;
use coordd_proto::v1::outcome_reply::Fate;
use tokio::time::Instant;

use crate::connector::{Backoff, Connector};
use crate::{Client, Error, ErrorKind, Outcome, SessionToken};

impl Client {
    /// The fate of a numbered write ([`Error::write_seq`], [`Call::write_seq`](crate::Call::write_seq)) of a session, also
    /// after it has ended: ended sessions are remembered for an hour. Does not need this client's session to be alive.
    ///
    /// # Errors
    ///
    /// `AuthFailed` if the token is not the session's; `ConnectionLoss` or `NotServing` if no node answers within the
    /// connect timeout of this client.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn outcome(&self, session: &SessionToken, write_seq: u64) -> Result<Outcome, Error> {
        let options = &self.handle.options;
        let mut connector = Connector::new(self.handle.endpoints.clone(), options.dial_timeout)?;
        let mut backoff = Backoff::default();
        let deadline = Instant::now() + options.connect_timeout;
        loop {
            let error = match ask(&mut connector, deadline, session, write_seq).await {
                Ok(outcome) => return Ok(outcome),
                Err(error) => error,
            };
            let pause = error.retry_after.unwrap_or_else(|| backoff.next(connector.endpoint_count()));
            if !error.is_retryable() || Instant::now() + pause >= deadline {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
        }
    }
}

async fn ask(
    connector: &mut Connector,
    deadline: Instant,
    session: &SessionToken,
    write_seq: u64,
) -> Result<Outcome, Error> {
    let (channel, address) = connector.dial().await?;
    let request =
        v1::OutcomeRequest { session_id: session.session_id, password: session.password.clone(), write_seq };
    let mut client = CoorddClient::new(channel);
    let reply = match tokio::time::timeout_at(deadline, client.outcome(request)).await {
        Ok(reply) => reply?.into_inner(),
        Err(_) => {
            return Err(Error::new(ErrorKind::ConnectionLoss, format!("{address} did not answer in time")));
        }
    };
    Ok(match reply.fate() {
        Fate::Applied => {
            let reply = reply.reply.unwrap_or_default();
            let result = match reply.result {
                Some(v1::reply::Result::Error(error)) => Err(error.into()),
                _ => Ok(()),
            };
            Outcome::Applied { zxid: reply.zxid, result }
        }
        Fate::Acknowledged => Outcome::Acknowledged,
        Fate::Never => Outcome::Never,
        Fate::NotYet => Outcome::NotYet,
        Fate::Unknown | Fate::Unspecified => Outcome::Unknown,
    })
}
