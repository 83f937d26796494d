use futures::{Stream, StreamExt as _};

use super::layout;
use super::spec::HealerSpec;
use super::status::HealerStatus;
use crate::recipes::config::{ConfigDocument, ConfigOptions};
use crate::recipes::{CacheView, TreeCache};
use crate::{Client, Error, ErrorKind, ReadLevel};

/// Keeps so many copies of a command running across hosts: on each host is an [`Agent`](super::Agent), one of them is elected and
/// decides which agent runs which copy, and what dies is replaced. This is the handle to say what is to run, and to see how that
/// goes.
///
/// ```no_run
/// # async fn example(sessions: coordd_client::recipes::Sessions) -> Result<(), coordd_client::Error> {
/// use coordd_client::recipes::auto_healer::{Agent, AgentOptions, AutoHealer, HealerSpec, ProcessRunner};
///
/// let healer = AutoHealer::new(&sessions.live().await?, "/app/web")?;
/// healer.define(&HealerSpec::new(3, ["web", "--port", "8080"])).await?;
/// // On each host:
/// let agent = Agent::start(&sessions, "/app/web", AgentOptions::new("host-7"), ProcessRunner).await?;
/// println!("{} copies run", healer.status().await?.running());
/// # Ok(()) }
/// ```
///
/// # Guarantees
///
/// * **A copy runs at most once.** Who runs it owns the ephemeral `<path>/running/<copy>`, and ends the copy before that can go
///   with its session; its creation zxid is the copy's epoch, which is in the environment of the command. See
///   [`Grant`](crate::recipes::Grant) for what that means for its writes, and [`Runner`](super::Runner) for what ends it.
/// * **It converges to the number that was asked for**, as far as the agents have room: a process that ended is started again where
///   it was, after a pause that grows; a copy that keeps failing goes to another agent; those of an agent that is gone go to
///   others as soon as its session has ended.
/// * **Nothing moves without need**: see the page of this recipe for when copies move.
///
/// Neither Curator nor kazoo has it.
#[derive(Debug)]
pub struct AutoHealer {
    client: Client,
    root: String,
    spec: ConfigDocument<Option<HealerSpec>>,
}

impl AutoHealer {
    /// The healer at a path. Nothing happens yet.
    ///
    /// # Errors
    ///
    /// None at present.
    pub fn new(client: &Client, path: impl Into<String>) -> Result<Self, Error> {
        let root = path.into();
        let options = ConfigOptions::new(None)
            .validate(|spec: &Option<HealerSpec>| spec.as_ref().map_or(Ok(()), HealerSpec::validate));
        let spec = ConfigDocument::new(client, layout::spec(&root), options)?;
        Ok(Self { client: client.patient(), root, spec })
    }

    /// What is to run; `None` if that was not said yet.
    ///
    /// # Errors
    ///
    /// `MarshallingError` if it was said by something else, in another form; `NoAuth`; those of the session.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn spec(&self) -> Result<Option<HealerSpec>, Error> {
        Ok(Option::clone(&self.spec.get(ReadLevel::Linearizable).await?.value))
    }

    /// Says what is to run, now and whenever that changes. Another command replaces the running copies, each where it is; the
    /// spec has a history like any [configuration](crate::recipes::config).
    ///
    /// # Errors
    ///
    /// `BadArguments` for no command or more than 1,000 copies; `NoAuth`; those of the session.
    ///
    /// # Cancellation
    ///
    /// It may take effect all the same.
    pub async fn define(&self, spec: &HealerSpec) -> Result<(), Error> {
        self.spec.set(&Some(spec.clone())).await.map(drop)
    }

    /// Says what is to run if nobody has said so before. Returns what is to run.
    ///
    /// # Errors
    ///
    /// Those of [`define`](Self::define) and [`spec`](Self::spec).
    ///
    /// # Cancellation
    ///
    /// It may take effect all the same.
    pub async fn define_first(&self, spec: &HealerSpec) -> Result<HealerSpec, Error> {
        let defined = self.spec.update(|defined| {
            defined.get_or_insert_with(|| spec.clone());
            Ok(())
        });
        Ok(Option::clone(&defined.await?.value).unwrap_or_else(|| spec.clone()))
    }

    /// Changes the number of copies. Those with the highest numbers go first.
    ///
    /// # Errors
    ///
    /// `NoNode` if it was not said what is to run; those of [`define`](Self::define) and [`spec`](Self::spec).
    ///
    /// # Cancellation
    ///
    /// It may take effect all the same.
    pub async fn scale(&self, copies: u32) -> Result<(), Error> {
        let scaled = self.spec.update(|defined| match defined {
            Some(spec) => {
                spec.copies = copies;
                Ok(())
            }
            None => {
                let message = format!("nobody has said what is to run at {}", self.root);
                Err(Error { path: self.root.clone(), ..Error::new(ErrorKind::NoNode, message) })
            }
        });
        scaled.await.map(drop)
    }

    /// Where everything runs, and how that goes; shows all that was acknowledged before the call.
    ///
    /// # Errors
    ///
    /// `NoAuth`; those of the session.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn status(&self) -> Result<HealerStatus, Error> {
        let view = TreeCache::in_session(&self.client, &self.root).wait_ready().await?;
        Ok(HealerStatus::of(&view, &self.root))
    }

    /// The status now, and whenever it has changed. Who is slow misses what lies between, never the newest. Ends with the
    /// session.
    pub fn statuses(&self) -> impl Stream<Item = HealerStatus> + Send + Unpin + use<> {
        let cache = TreeCache::in_session(&self.client, &self.root);
        // The cache lives as long as the stream does.
        let views = futures::stream::unfold((cache, 0), async |(cache, last)| {
            let later = |view: &CacheView| std::future::ready(view.zxid() > last);
            let view = cache.views().filter(later).next().await?;
            let zxid = view.zxid();
            Some((view, (cache, zxid)))
        });
        let root = self.root.clone();
        let changed = views.scan(None, move |last, view| {
            let status = HealerStatus::of(&view, &root);
            let is_news = last.as_ref() != Some(&status);
            *last = Some(status.clone());
            std::future::ready(Some(is_news.then_some(status)))
        });
        Box::pin(changed.filter_map(std::future::ready))
    }
}
