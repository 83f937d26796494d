//! Questions to all nodes of an ensemble at once: those of the endpoints, and the members that they name.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

use coordd_client::{Admin, Error, ErrorKind, MemberInfo, NodeStatus};
use coordd_process::plain;
use futures::future::join_all;
use tokio::time::Instant;

use crate::context::Context;
use crate::exit::Failure;

/// A node that says nothing for so long is skipped.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often the limits are looked at.
const TICK: Duration = Duration::from_millis(50);

/// What a node said, or why it did not.
pub(crate) struct Answer<T> {
    pub(crate) endpoint: String,
    pub(crate) answer: Result<T, Error>,
}

/// When a node said something last; `None`: it has said nothing so far.
#[derive(Default)]
pub(crate) struct Heard(Cell<Option<Instant>>);

impl Heard {
    /// The node has said something, a page of its answer for example.
    pub(crate) fn now(&self) {
        self.0.set(Some(Instant::now()));
    }
}

/// Asks all nodes the same at once. A node that is silent is skipped; one that goes on answering has until
/// the deadline.
pub(crate) struct Inquiry<'a> {
    context: &'a Context,
    /// How long a node may be silent.
    patience: Duration,
    /// How long a node may be silent once another one has answered.
    grace: Duration,
    /// When everything that is asked is given up.
    deadline: Instant,
}

impl<'a> Inquiry<'a> {
    /// Begins an inquiry: all that it asks may take as long as `--timeout` says. `grace`: how long a node may
    /// be silent once another one has answered, if `--timeout` leaves so much; `None`: as long as before.
    pub(crate) fn new(context: &'a Context, grace: Option<Duration>) -> Self {
        let timeout = context.options.timeout;
        Self {
            context,
            patience: timeout.min(PATIENCE),
            // Some time has to be left for the nodes that the first ones name.
            grace: grace.unwrap_or(PATIENCE).min(timeout / 2),
            deadline: Instant::now() + timeout,
        }
    }

    /// Asks the nodes at these endpoints; the answers are in their order. The question tells `Heard` of each
    /// part of an answer.
    pub(crate) async fn ask<T>(
        &self,
        endpoints: Vec<String>,
        question: impl AsyncFn(Admin, &Heard) -> Result<T, Error>,
    ) -> Vec<Answer<T>> {
        let first_answer = Cell::new(None);
        let (question, first_answer) = (&question, &first_answer);
        let asking = endpoints.into_iter().map(|endpoint| async move {
            let heard = Heard::default();
            let asking = async {
                // The limits of the inquiry decide, in the same words each time: that of each call comes
                // later.
                question(Admin::connect(endpoint.as_str(), self.patience * 2).await?, &heard).await
            };
            let answer = tokio::select! {
                biased;
                answer = asking => answer,
                why = self.given_up(&heard, first_answer) => {
                    Err(Error::new(ErrorKind::ConnectionLoss, format!("{endpoint} {why}")))
                }
            };
            if answer.is_ok() && first_answer.get().is_none() {
                first_answer.set(Some(Instant::now()));
            }
            Answer { endpoint, answer }
        });
        join_all(asking).await
    }

    /// Waits until a node has been silent for too long, or the deadline has come. Returns what is to be said
    /// of the node.
    async fn given_up(&self, heard: &Heard, first_answer: &Cell<Option<Instant>>) -> String {
        let begun = Instant::now();
        loop {
            let (last, now) = (heard.0.get().unwrap_or(begun), Instant::now());
            let since_first = first_answer.get().map(|first| last.max(first) + self.grace);
            let silent_at = last + self.patience;
            let limit = since_first.map_or(silent_at, |at| at.min(silent_at)).min(self.deadline);
            if now < limit {
                // The limit may have moved by then.
                tokio::time::sleep_until(limit.min(now + TICK)).await;
                continue;
            }
            let patience = self.patience;
            return match heard.0.get() {
                Some(_) if now >= self.deadline => {
                    format!("did not answer in full within {:?}", self.context.options.timeout)
                }
                Some(_) => format!("stopped answering for {:.1?}", now - last),
                None if since_first.is_some_and(|at| at < silent_at) => {
                    format!("did not answer within {:?} of the first answer", self.grace)
                }
                None => format!("did not answer within {patience:?}"),
            };
        }
    }
}

/// The state of an ensemble, as its nodes say.
pub(crate) struct Everybody {
    /// Of the endpoints, each node once, and then of the members that are not among them.
    pub(crate) nodes: Vec<Answer<NodeStatus>>,
    /// Members that cannot be asked: nobody knows where clients reach them.
    pub(crate) unknown: Vec<MemberInfo>,
}

impl Everybody {
    /// Asks for the state of all.
    ///
    /// # Errors
    ///
    /// An endpoint that is none, or a source of endpoints that names no node.
    pub(crate) async fn ask(inquiry: &Inquiry<'_>) -> Result<Self, Failure> {
        let status = async |admin: Admin, _: &Heard| admin.status().await;
        let mut nodes = inquiry.ask(inquiry.context.nodes().await?, status).await;
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
        nodes.extend(inquiry.ask(others.collect(), status).await);
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

    fn context(timeout: &str) -> Context {
        Context::new(Cli::try_parse_from(["coordctl", "--timeout", timeout, "status"]).unwrap().global)
    }

    /// Asks a node that answers in `pages` pages, each 100 ms after the one before, and returns the result.
    async fn answer_in_pages(pages: u32, patience: u64, timeout: u64) -> Result<u32, String> {
        let node = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = node.local_addr().unwrap().to_string();
        let (context, millis) = (context("60s"), Duration::from_millis);
        let (patience, deadline) = (millis(patience), Instant::now() + millis(timeout));
        let inquiry = Inquiry { context: &context, patience, grace: patience, deadline };
        let question = async |_: Admin, heard: &Heard| {
            for _ in 0..pages {
                tokio::time::sleep(millis(100)).await;
                heard.now();
            }
            match pages {
                1 => std::future::pending().await,
                _ => Ok(pages),
            }
        };
        let answers = inquiry.ask(vec![endpoint], question).await;
        answers.into_iter().next().unwrap().answer.map_err(|error| error.message)
    }

    /// A node that goes on sending pages is given up when the whole time has passed; one that stops, after
    /// the limit for a page.
    #[tokio::test]
    async fn each_page_has_its_limit() {
        assert_eq!(answer_in_pages(20, 1000, 30_000).await, Ok(20));
        let late = answer_in_pages(20, 1000, 1200).await.unwrap_err();
        assert!(late.ends_with("did not answer in full within 60s"), "{late}");
        let stopped = answer_in_pages(1, 1000, 30_000).await.unwrap_err();
        assert!(stopped.contains(" stopped answering for 1"), "{stopped}");
    }

    /// A node that takes the connection and says nothing is told by one limit, in the same words each time.
    #[tokio::test]
    async fn one_limit_decides() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = silent.local_addr().unwrap().to_string();
        let context = context("50ms");
        for _ in 0..20 {
            let status = async |admin: Admin, _: &Heard| admin.status().await;
            let answers = Inquiry::new(&context, None).ask(vec![endpoint.clone()], status).await;
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
