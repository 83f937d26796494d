//! What recipes do with the paths, the data and the answers of znodes, whatever these stand for.

use bytes::Bytes;
use futures::future::try_join_all;
use serde::Serialize;

use crate::{Client, CreateMode, CreateOptions, Error, ErrorKind, ReadLevel};

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

/// Makes those that are not there, with missing parents.
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
