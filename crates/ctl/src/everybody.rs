//! Questions to all nodes of an ensemble at once: those of the endpoints, and the members that they name.

use std::collections::BTreeSet;
use std::time::Duration;

use coordd_client::{Admin, Error, ErrorKind, MemberInfo, NodeStatus};
use coordd_process::plain;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use crate::context::Context;
use crate::exit::Failure;

/// At most so long each is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a node said, or why it did not.
pub(crate) struct Answer<T> {
    pub(crate) endpoint: String,
    pub(crate) answer: Result<T, Error>,
}

/// The state of an ensemble, as its nodes say.
pub(crate) struct Everybody {
    /// Of the endpoints, each node once, and then of the members that are not among them.
    pub(crate) nodes: Vec<Answer<NodeStatus>>,
    /// Members that cannot be asked: nobody knows where clients reach them.
    pub(crate) unknown: Vec<MemberInfo>,
}

impl Everybody {
    /// Asks for the state of all. `grace`: how long the others are waited for once one has answered; `None`: as long as that one.
    ///
    /// # Errors
    ///
    /// An endpoint that is none, or a source of endpoints that names no node.
    pub(crate) async fn ask(context: &Context, grace: Option<Duration>) -> Result<Self, Failure> {
        let status = async |admin: Admin| admin.status().await;
        let mut nodes = ask_all(context, context.nodes().await?, grace, status).await;
        let mut asked = BTreeSet::new();
        nodes.retain(|Answer { answer, .. }| match answer {
            // Two endpoints may be names of one node.
            Ok(status) => asked.insert((status.cluster_id.clone(), status.node_id)),
            Err(_) => true,
        });
        let (mut others, mut unknown) = (BTreeSet::new(), Vec::new());
        for status in nodes.iter().filter_map(|node| node.answer.as_ref().ok()) {
            for member in &status.members {
                if !asked.insert((status.cluster_id.clone(), member.node_id)) {
                    continue;
                }
                match &member.client_address {
                    Some(address) => drop(others.insert((member.node_id, address.clone()))),
                    None => unknown.push(member.clone()),
                }
            }
        }
        let has_been_asked = |address: &String| nodes.iter().any(|node| node.endpoint == *address);
        let others =
            others.into_iter().map(|(_, address)| address).filter(|address| !has_been_asked(address));
        nodes.extend(ask_all(context, others.collect(), grace, status).await);
        Ok(Self { nodes, unknown })
    }

    /// What became of the nodes that did not answer.
    pub(crate) fn failures(&self) -> Vec<Error> {
        self.nodes.iter().filter_map(|node| node.answer.as_ref().err().cloned()).collect()
    }

    /// Where the nodes are that answered.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().filter(|node| node.answer.is_ok()).map(|node| node.endpoint.clone()).collect()
    }
}

/// Asks all of them the same at once; the answers are in the order of the endpoints.
pub(crate) async fn ask_all<T>(
    context: &Context,
    endpoints: Vec<String>,
    grace: Option<Duration>,
    question: impl AsyncFn(Admin) -> Result<T, Error>,
) -> Vec<Answer<T>> {
    let patience = context.options.timeout.min(PATIENCE);
    let question = &question;
    let mut asking: FuturesUnordered<_> = (endpoints.iter().enumerate())
        .map(|(index, endpoint)| async move {
            // The limit below is the one that decides, also over several calls: that of each call comes
            // later.
            let asking = async { question(Admin::connect(endpoint.as_str(), patience * 2).await?).await };
            (index, asking.await)
        })
        .collect();
    let mut deadline = Instant::now() + patience;
    let mut answers: Vec<Option<Result<T, Error>>> = endpoints.iter().map(|_| None).collect();
    while let Ok(Some((index, answer))) = tokio::time::timeout_at(deadline, asking.next()).await {
        if let (Ok(_), Some(grace)) = (&answer, grace) {
            deadline = deadline.min(Instant::now() + grace);
        }
        answers[index] = Some(answer);
    }
    drop(asking);
    let answer = |(endpoint, answer): (String, Option<Result<T, Error>>)| {
        let answer = answer.unwrap_or_else(|| Err(silent(&endpoint, patience)));
        Answer { endpoint, answer }
    };
    endpoints.into_iter().zip(answers).map(answer).collect()
}

fn silent(endpoint: &str, patience: Duration) -> Error {
    Error::new(ErrorKind::ConnectionLoss, format!("{endpoint} did not answer within {patience:?}"))
}

/// No node answered: a line for each. The nodes that answered at all say more than those that did not.
pub(crate) fn nobody(mut failures: Vec<Error>) -> Failure {
    failures.sort_by_key(|error| error.kind == ErrorKind::ConnectionLoss);
    let lines: String = failures.iter().map(|error| format!("\n  {}", plain(&error.message))).collect();
    match failures.as_slice() {
        [] => Failure::Usage("no endpoints given".into()),
        [error] => error.clone().into(),
        [first, ..] => {
            let message = format!("none of {} endpoints could be used:{lines}", failures.len());
            Error::new(first.kind, message).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    /// A node that takes the connection and says nothing is told by one limit, in the same words each time.
    #[tokio::test]
    async fn one_limit_decides() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = silent.local_addr().unwrap().to_string();
        let options = Cli::try_parse_from(["coordctl", "--timeout", "50ms", "status"]).unwrap().global;
        let context = Context::new(options);
        for _ in 0..20 {
            let status = async |admin: Admin| admin.status().await;
            let answers = ask_all(&context, vec![endpoint.clone()], None, status).await;
            let error = answers.into_iter().next().unwrap().answer.unwrap_err();
            assert_eq!(error.message, format!("{endpoint} did not answer within 50ms"));
        }
    }

    /// C5: the node that says why it does not serve comes first, and each has a line of its own.
    #[test]
    fn failures_name_every_node() {
        let failures = vec![
            Error::new(ErrorKind::ConnectionLoss, "a:1: refused"),
            Error::new(ErrorKind::NotServing, "b:1: no\nleader"),
        ];
        let failure = nobody(failures);
        let shown = "NotServing: none of 2 endpoints could be used:\n  b:1: no\\nleader\n  a:1: refused";
        assert_eq!(failure.to_string(), shown);
        assert_eq!(failure.exit_code(), 9);
    }
}
