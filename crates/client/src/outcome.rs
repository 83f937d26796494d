use coordd_proto::v1;
use coordd_proto::v1::coordd_client::CoorddClient;
use coordd_proto::v1::outcome_reply::Fate;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::connector::{Backoff, Connector};
use crate::far::after;
use crate::unary::{Caller, REPLY_BYTES_MAX};
use crate::{Client, Error, Outcome, SessionToken};

impl Client {
    /// The fate of a numbered write ([`Error::write_seq`], [`Call::write_seq`](crate::Call::write_seq)) of a session, also
    /// after it has ended: ended sessions are remembered for an hour. Does not need this client's session to be alive.
    ///
    /// An answer to a write of this client's own session that came after its caller had stopped waiting
    /// ([`Call::timeout`](crate::Call::timeout)) is known here; the newest 1,024 of them are.
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
        let is_own = self.session_token().is_some_and(|own| own == *session);
        if let Some(late) = is_own.then(|| self.shared().late_outcome(write_seq)).flatten() {
            return Ok(late);
        }
        let options = &self.handle.options;
        let caller = Caller::new(Connector::new(self.handle.endpoints.clone(), options.dial_timeout)?);
        let deadline = after(options.connect_timeout);
        let mut backoff = Backoff::default();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let asked = caller.ask(left, |channel| ask(channel, session, write_seq)).await;
            let error = match asked.answer {
                Ok(reply) => return Ok(outcome(reply)),
                Err(error) => error,
            };
            let pause = error.retry_after.unwrap_or_else(|| backoff.next(1));
            if !error.is_retryable() || after(pause) >= deadline {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
        }
    }
}

async fn ask(
    channel: Channel,
    session: &SessionToken,
    write_seq: u64,
) -> Result<tonic::Response<v1::OutcomeReply>, tonic::Status> {
    let SessionToken { session_id, password, .. } = session.clone();
    let mut client = CoorddClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX);
    client.outcome(v1::OutcomeRequest { session_id, password, write_seq }).await
}

fn outcome(reply: v1::OutcomeReply) -> Outcome {
    match reply.fate() {
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
    }
}
