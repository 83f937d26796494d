//! Files of nodes that are down: changed, and put back as they were.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::ensemble::PATIENCE;
use crate::network::HostId;
use crate::stage::Stage;

pub(super) const REFUSED: &str = "damaged nodes that refused to start";

/// Bytes of a file that are not what the node has written.
pub(super) struct Damage {
    file: File,
    at: u64,
    before: Vec<u8>,
}

impl Damage {
    pub(super) fn make(
        path: &Path,
        bytes: Range<u64>,
        change: impl FnOnce(&mut [u8]),
    ) -> anyhow::Result<Damage> {
        let file = File::options().read(true).write(true).open(path)?;
        let mut before = vec![0; usize::try_from(bytes.end - bytes.start)?];
        file.read_exact_at(&mut before, bytes.start)?;
        let mut after = before.clone();
        change(&mut after);
        file.write_all_at(&after, bytes.start)?;
        Ok(Damage { file, at: bytes.start, before })
    }

    fn undo(self) -> anyhow::Result<()> {
        Ok(self.file.write_all_at(&self.before, self.at)?)
    }
}

/// Starts a node that has lost what it needs: it must refuse, and say all of these words. A start that is
/// refused destroys nothing, so it serves when the damage is undone.
pub(super) async fn start_damaged(
    stage: &mut Stage,
    id: HostId,
    damage: Damage,
    words: &[&str],
) -> anyhow::Result<()> {
    stage.start(id)?;
    let start = Instant::now();
    let exit = loop {
        if let Some(exit) = stage.ensemble.exited(id)? {
            break exit;
        }
        let status = stage.ensemble.status(id).await;
        ensure!(
            status.is_none_or(|status| status.not_serving.is_some()),
            "node {id} serves, and should have said: {words:?}"
        );
        ensure!(
            start.elapsed() < PATIENCE,
            "node {id} neither serves nor ends, and should have said: {words:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let why = stage.ensemble.last_line(id);
    stage.say(format!("node {id} does not start: {why}"));
    ensure!(
        exit.code() == Some(1) && words.iter().all(|words| why.contains(words)),
        "node {id} ended with {exit} and should have said: {words:?}; it said: {why}"
    );
    stage.coverage.add(REFUSED, 1);
    damage.undo()?;
    stage.say(format!("the files of node {id} are whole again"));
    stage.start(id)?;
    stage.ensemble.wait_serving().await
}
