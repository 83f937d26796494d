use std::sync::Arc;

use tokio::sync::Mutex;

use super::replace_if::{BackOff, put, replace_if};
use crate::{Client, Error, ErrorKind, ReadLevel, Stat};

/// A number that many raise at once: each change counts exactly once, whatever fails meanwhile.
///
/// Curator's `DistributedAtomicLong`, kazoo's `Counter`; unlike theirs a change does not fail because others were faster,
/// and is not counted twice after a lost connection. It is tried until it succeeds or the session ends. Changes through
/// one handle and its clones are made one after the other, in the order of the calls.
///
/// A counter that is not there is 0; the first change creates it, with missing parents. It belongs to no session.
///
/// ```no_run
/// # async fn example(client: coordd_client::Client) -> Result<(), coordd_client::Error> {
/// use coordd_client::recipes::Counter;
///
/// let counter = Counter::new(&client, "/shop/orders");
/// let number = counter.add(1).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Counter {
    client: Client,
    path: String,
    /// What the last change left there: the next is made from it, without a read. One at a time, or the changes of one
    /// process would get into each other's way.
    last: Arc<Mutex<Option<Seen>>>,
}

/// The counter as it was seen; no stat if it was not there.
#[derive(Clone, Copy, Debug)]
struct Seen {
    value: i64,
    stat: Option<Stat>,
}

impl Counter {
    /// The counter at a path.
    pub fn new(client: &Client, path: impl Into<String>) -> Self {
        Self { client: client.patient(), path: path.into(), last: Arc::default() }
    }

    /// The value.
    ///
    /// # Errors
    ///
    /// Those of [`Client::get`] but `NoNode`; `MarshallingError` if the znode holds something else than a number.
    ///
    /// # Cancellation
    ///
    /// Safe.
    pub async fn get(&self, level: ReadLevel) -> Result<i64, Error> {
        Ok(self.read(level).await?.value)
    }

    /// Adds to the value, or subtracts; returns the value after it. No two calls, of anybody, that add 1 get the same.
    ///
    /// # Errors
    ///
    /// `BadArguments` if the sum is no 64-bit number, `MarshallingError` if the znode holds something else than a number; those
    /// of [`Client::create`] and [`Client::set`] that are answers to the first and not to the last: `NoAuth`,
    /// `QuotaExceeded`, `GuardFailed`.
    ///
    /// # Cancellation
    ///
    /// It may count all the same, once.
    ///
    /// # On session loss
    ///
    /// It fails with `SessionExpired`, and then has counted once or not at all. [`Client::outcome`] of [`Error::write_seq`]
    /// tells which; without a number it has not.
    pub async fn add(&self, delta: i64) -> Result<i64, Error> {
        let overflow = |value| {
            let (min, max) = (i64::MIN, i64::MAX);
            let message = format!("{value} + {delta} is no 64-bit number: the limits are {min} and {max}");
            Error { path: self.path.clone(), ..Error::new(ErrorKind::BadArguments, message) }
        };
        self.change(|value| value.checked_add(delta).map(Some).ok_or_else(|| overflow(value))).await
    }

    /// Sets the value if it is `expected`. Returns the value that was found: it was replaced if that is `expected`.
    ///
    /// # Errors
    ///
    /// Those of [`add`](Self::add).
    ///
    /// # Cancellation
    ///
    /// As for [`add`](Self::add).
    pub async fn compare_and_set(&self, expected: i64, new: i64) -> Result<i64, Error> {
        let mut found = expected;
        self.change(|value| {
            found = value;
            Ok((value == expected).then_some(new))
        })
        .await?;
        Ok(found)
    }

    /// Sets the value, whatever it was; also where something else than a number stood.
    ///
    /// # Errors
    ///
    /// Those of [`Client::create`] and [`Client::set`] but `NoNode` and `NodeExists`.
    ///
    /// # Cancellation
    ///
    /// It may be set all the same.
    pub async fn set(&self, value: i64) -> Result<(), Error> {
        let mut last = self.last.lock().await;
        *last = None;
        let stat = put(&self.client, &self.path, value.to_string()).await?;
        *last = Some(Seen { value, stat: Some(stat) });
        Ok(())
    }

    /// Replaces the value by what `next` makes of it, until nobody else has been faster. `None` leaves it. Returns the value
    /// after it.
    async fn change(&self, mut next: impl FnMut(i64) -> Result<Option<i64>, Error>) -> Result<i64, Error> {
        let mut last = self.last.lock().await;
        let mut back_off = BackOff::default();
        // Taken, so that a call that is dropped half-way leaves no guess behind.
        let mut seen = last.take();
        loop {
            // After a conflict the node has applied what was in the way, and a local read shows it.
            let mut from = match seen.take() {
                Some(from) => from,
                None => self.read(ReadLevel::Local).await?,
            };
            let mut to = next(from.value);
            if !matches!(to, Ok(Some(_))) {
                // A write on an old value is refused by its version. A refusal here must not rest on an old value either.
                from = self.read(ReadLevel::Linearizable).await?;
                to = next(from.value);
            }
            let Some(to) = to? else {
                *last = Some(from);
                return Ok(from.value);
            };
            let replaced = replace_if(&self.client, &self.path, from.stat.as_ref(), to.to_string()).await?;
            if let Some(stat) = replaced {
                *last = Some(Seen { value: to, stat: Some(stat) });
                return Ok(to);
            }
            back_off.pause().await;
        }
    }

    async fn read(&self, level: ReadLevel) -> Result<Seen, Error> {
        match self.client.get(self.path.clone(), level).await {
            Ok((data, stat)) => Ok(Seen { value: parse(&self.path, &data)?, stat: Some(stat) }),
            Err(error) if error.kind == ErrorKind::NoNode => Ok(Seen { value: 0, stat: None }),
            Err(error) => Err(error),
        }
    }
}

fn parse(path: &str, data: &[u8]) -> Result<i64, Error> {
    let number = std::str::from_utf8(data).ok().and_then(|text| text.trim().parse().ok());
    number.ok_or_else(|| {
        let start = String::from_utf8_lossy(&data[..data.len().min(64)]);
        let message = format!("{path} holds no 64-bit number but {start:?}");
        Error { path: path.to_owned(), ..Error::new(ErrorKind::MarshallingError, message) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_as_json_and_kazoo_write_it() {
        for (data, number) in [("0", 0), ("-7", -7), ("42\n", 42), ("9223372036854775807", i64::MAX)] {
            assert_eq!(parse("/c", data.as_bytes()), Ok(number));
        }
    }

    #[test]
    fn what_is_no_number_is_named() {
        for data in ["", "1.5", "9223372036854775808", "\"1\"", "x"] {
            let error = parse("/c", data.as_bytes()).unwrap_err();
            assert_eq!(error.kind, ErrorKind::MarshallingError, "{data}");
            assert!(error.message.contains("/c"), "{error}");
        }
        assert!(parse("/c", &[0xff; 1000]).unwrap_err().message.len() < 500);
    }
}
