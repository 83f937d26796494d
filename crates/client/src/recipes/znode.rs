//! What recipes do with the paths, the data and the answers of znodes, whatever these stand for.

use bytes::Bytes;
use futures::future::try_join_all;
use serde::Serialize;

use crate::{Client, CreateMode, CreateOptions, Error, ErrorKind, ReadLevel, ReadResult, ServerLimits, Stat};

/// The last part of a path.
pub(super) fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// What is to stand in a znode, as JSON.
///
/// # Errors
///
/// `BadArguments` for what has no JSON form.
pub(super) fn to_json(value: &impl Serialize) -> Result<Bytes, Error> {
    let json = serde_json::to_vec(value);
    json.map(Bytes::from).map_err(|error| Error::new(ErrorKind::BadArguments, error.to_string()))
}

/// `None` where there is no such znode.
pub(super) fn found<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind == ErrorKind::NoNode => Ok(None),
        Err(error) => Err(error),
    }
}

/// A step was refused because the tree is not as it was when the step was thought of: somebody else was faster.
pub(super) fn is_changed(error: &Error) -> bool {
    use ErrorKind::{BadEpoch, BadVersion, NoNode, NodeExists};
    matches!(error.kind, NoNode | NodeExists | BadEpoch | BadVersion)
}

/// `None` where somebody else was faster.
pub(super) fn unless_changed<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(done) => Ok(Some(done)),
        Err(error) if is_changed(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What was found at a path.
pub(super) type Found<P> = (P, Result<(Bytes, Stat), Error>);

/// Reads the data of many znodes. What one answer cannot hold is read in smaller parts, because values may have grown since
/// somebody has looked at their lengths. `on_request` is called for each request. The answers are in the order of the paths.
///
/// # Errors
///
/// Those that are about all of the znodes, as those of the session. Others are the answers of their znodes.
pub(super) async fn get_all<P: AsRef<str>>(
    client: &Client,
    paths: Vec<P>,
    on_request: impl Fn(),
) -> Result<Vec<Found<P>>, Error> {
    let mut found = Vec::with_capacity(paths.len());
    // The parts that are still to be read, the first one last.
    let mut parts = in_requests(client, paths);
    parts.reverse();
    while let Some(mut part) = parts.pop() {
        if part.is_empty() {
            continue;
        }
        on_request();
        if part.len() == 1
            && let Some(path) = part.pop()
        {
            match client.get(path.as_ref(), ReadLevel::Local).await {
                Err(error) if error.is_terminal() || error.is_retryable() => return Err(error),
                answer => found.push((path, answer)),
            }
            continue;
        }
        let read = client.multi_read(ReadLevel::Local);
        let read = part.iter().fold(read, |read, path| read.get(path.as_ref()));
        match read.send().await {
            Ok(answers) => found.extend(part.into_iter().zip(answers.into_iter().map(got))),
            Err(error) if error.is_terminal() || error.is_retryable() => return Err(error),
            Err(error) => {
                tracing::debug!(%error, reads = part.len(), "reading in two parts");
                let rest = part.split_off(part.len() / 2);
                parts.extend([rest, part]);
            }
        }
    }
    Ok(found)
}

/// Divides paths into as many as one request for them takes.
fn in_requests<P: AsRef<str>>(client: &Client, paths: Vec<P>) -> Vec<Vec<P>> {
    let limits = client.limits();
    let (mut parts, mut room) = (Vec::<Vec<P>>::new(), 0);
    for path in paths {
        let bytes = ServerLimits::part_bytes(path.as_ref().len());
        match parts.last_mut() {
            Some(part) if part.len() < limits.multi_reads && bytes <= room => {
                room -= bytes;
                part.push(path);
            }
            _ => {
                room = limits.batch(usize::MAX).saturating_sub(bytes);
                parts.push(vec![path]);
            }
        }
    }
    parts
}

fn got(answer: Result<ReadResult, Error>) -> Result<(Bytes, Stat), Error> {
    match answer? {
        ReadResult::Get(data, stat) => Ok((data, stat)),
        _ => Err(Error::new(ErrorKind::Protocol, "another read was answered than asked for")),
    }
}

/// Makes those that are not there, with missing parents. For parents that stay: their recipe keeps numbers or settings below
/// them. Others are containers, see [`make_container`](super::parents::make_container).
pub(super) async fn make_directories(
    client: &Client,
    paths: impl IntoIterator<Item = String>,
) -> Result<(), Error> {
    let options = CreateOptions::new(CreateMode::Persistent).parents(true);
    let making = paths.into_iter().map(|path| {
        let making = client.create(path.clone(), "", options.clone());
        async {
            match making.await {
                Ok(_) => Ok(()),
                Err(error) if error.kind == ErrorKind::NodeExists => Ok(()),
                // Who may only look is refused also where nothing is to be made.
                Err(error) if error.kind == ErrorKind::NoAuth => {
                    client.exists(path, ReadLevel::Linearizable).await?.map(drop).ok_or(error)
                }
                Err(error) => Err(error),
            }
        }
    });
    try_join_all(making).await.map(drop)
}
