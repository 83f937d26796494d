use std::time::Duration;

use futures::future::join_all;

use super::found::{Found, in_order};
use super::multicast::Met;
use super::source::Source;
use crate::{Error, ErrorKind};

/// Where the nodes of an ensemble are found. Whatever takes endpoints as text takes each of these forms, and any number
/// of them together:
///
/// | Text | What it finds |
/// |---|---|
/// | `HOST:PORT` | a node; of a name with several addresses, each is a node. The system resolves the name |
/// | `dns:HOST:PORT@NAMESERVER` | the same, asked of this name server (`IP` or `IP:PORT`); needs the feature `srv` |
/// | `srv:_coordd._tcp.example.com` | the targets of DNS SRV records, by priority and weight; needs the feature `srv`. `@NAMESERVER` as above |
/// | `multicast:239.7.4.1:7400` | nodes that run with `--announce 239.7.4.1:7400` and answer on this network. `@INTERFACE`, an IPv4 address of this machine, where it has several |
/// | `file:PATH` | one `HOST:PORT` a line; `#` begins a comment |
///
/// A client asks its sources again whenever it has tried all that they named, and whenever it connects after more than
/// thirty seconds; nothing is resolved once and for all. A source that fails, or finds nothing, keeps what it found last.
///
/// Nothing here is authenticated: whoever can answer for a DNS name or in a multicast group can lead clients to a node of his.
///
/// Curator's `EnsembleProvider` is the counterpart; kazoo has none.
#[derive(Clone, Debug)]
pub struct Endpoints {
    sources: Vec<Known>,
}

/// A source and what it found last.
#[derive(Clone, Debug)]
struct Known {
    source: Source,
    /// The ensemble of a multicast group, once one has answered.
    met: Met,
    found: Vec<Found>,
    /// Why it found nothing the last time.
    failure: Option<String>,
}

impl Endpoints {
    /// Reads endpoints; asks nobody yet.
    ///
    /// # Errors
    ///
    /// `BadArguments` if there is none, or one that has none of the forms.
    pub fn parse<I>(endpoints: I) -> Result<Self, Error>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let known = |text: I::Item| {
            let source = text.as_ref().parse()?;
            Ok(Known { source, met: Met::default(), found: Vec::new(), failure: None })
        };
        let sources: Vec<Known> = endpoints.into_iter().map(known).collect::<Result<_, Error>>()?;
        match sources.is_empty() {
            true => Err(Error::new(ErrorKind::BadArguments, "no endpoints given")),
            false => Ok(Self { sources }),
        }
    }

    /// Asks all sources and returns the nodes they name as `IP:PORT`, each once, in random order (SRV records in that of
    /// their priorities). A source that has not answered within `patience` counts with what it found before.
    ///
    /// # Errors
    ///
    /// `ConnectionLoss`, with what each source says, if nothing was ever found.
    pub async fn resolve(&mut self, patience: Duration) -> Result<Vec<String>, Error> {
        let found = self.find(patience).await?;
        let ordered = in_order(found, None, &mut rand::rng());
        Ok(ordered.into_iter().map(|found| found.address.to_string()).collect())
    }

    /// It is a single `HOST:PORT`, with nothing to ask but the name's addresses.
    pub fn is_one_host(&self) -> bool {
        matches!(
            self.sources.as_slice(),
            [Known { source: Source::Address(_) | Source::Name { server: None, .. }, .. }]
        )
    }

    /// How many nodes are known, as far as that is known.
    pub(crate) fn count(&self) -> usize {
        self.sources.iter().map(|known| known.found.len().max(1)).sum()
    }

    /// Some source knows a node without being asked again.
    pub(crate) fn knows_some(&self) -> bool {
        self.sources.iter().any(|known| !known.found.is_empty() || matches!(known.source, Source::Address(_)))
    }

    /// Asks all sources at once.
    pub(crate) async fn find(&mut self, patience: Duration) -> Result<Vec<Found>, Error> {
        join_all(self.sources.iter_mut().map(|known| known.refresh(patience))).await;
        let found: Vec<Found> = self.sources.iter().flat_map(|known| known.found.clone()).collect();
        if !found.is_empty() {
            return Ok(found);
        }
        let failures = self.failures().map(|(source, cause)| format!("{source}: {cause}"));
        Err(Error::new(ErrorKind::ConnectionLoss, failures.collect::<Vec<_>>().join("; ")))
    }

    /// The sources that found nothing the last time, and why.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (String, String)> {
        let failure = |known: &Known| Some((known.source.to_string(), known.failure.clone()?));
        self.sources.iter().filter_map(failure)
    }
}

impl Known {
    async fn refresh(&mut self, patience: Duration) {
        let Known { source, met, .. } = self;
        let asked = tokio::time::timeout(patience, source.find(met)).await;
        let failure = match asked {
            Ok(Ok(found)) if !found.is_empty() => {
                if found != self.found {
                    let nodes: Vec<_> = found.iter().map(|found| found.address.to_string()).collect();
                    tracing::debug!(source = %self.source, nodes = nodes.join(","), "nodes were found");
                }
                self.found = found;
                self.failure = None;
                return;
            }
            Ok(Ok(_)) => "names no node".to_owned(),
            Ok(Err(cause)) => cause,
            Err(_) => format!("no answer within {patience:?}"),
        };
        tracing::debug!(source = %self.source, failure, last_known = self.found.len(), "a source of endpoints failed");
        self.failure = Some(failure);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_file_is_read_again_and_what_it_said_last_outlives_it() {
        let path = std::env::temp_dir().join(format!("coordd-endpoints-{:016x}", rand::random::<u64>()));
        let mut endpoints = Endpoints::parse([format!("file:{}", path.display())]).unwrap();
        let error = endpoints.resolve(PATIENCE).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::ConnectionLoss);
        assert!(error.message.contains("No such file"), "{error}");

        for (text, found) in [
            ("127.0.0.1:1\n", "127.0.0.1:1"),
            ("127.0.0.1:2 # moved\n", "127.0.0.1:2"),
            // Neither an empty file nor one with a line that is none takes away what was known.
            ("", "127.0.0.1:2"),
            ("127.0.0.1:3\n127.0.0", "127.0.0.1:2"),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(endpoints.resolve(PATIENCE).await.unwrap(), [found], "{text:?}");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(endpoints.resolve(PATIENCE).await.unwrap(), ["127.0.0.1:2"]);
    }

    #[tokio::test]
    async fn every_address_of_a_name_is_a_node() {
        let mut endpoints = Endpoints::parse(["localhost:7401"]).unwrap();
        let system: Vec<String> = tokio::net::lookup_host("localhost:7401")
            .await
            .unwrap()
            .map(|address| address.to_string())
            .collect();
        for found in endpoints.resolve(PATIENCE).await.unwrap() {
            assert!(system.contains(&found), "{found}");
        }
    }

    #[tokio::test]
    async fn one_source_that_fails_does_not_hide_the_others() {
        let mut endpoints = Endpoints::parse(["file:/nowhere/at/all", "127.0.0.1:1", "127.0.0.1:1"]).unwrap();
        assert_eq!(endpoints.resolve(PATIENCE).await.unwrap(), ["127.0.0.1:1"]);
    }
}
