//! Files that the disk changed: the node starts with exactly what it had, or not at all.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use openraft::storage::RaftLogStorage as _;

use crate::probe::probe_path;
use crate::support::{append, entries, log_id, open, vote};

const PAGE: u64 = 4096;

/// A log with every kind of record, closed; small enough for a process per page.
async fn make_log(dir: &Path) {
    let (_lock, mut log) = open(dir).unwrap();
    log.save_vote(&vote(1)).await.unwrap();
    for first in (1..200).step_by(5) {
        append(&mut log, entries(1, first..first + 5, 700)).await;
    }
    log.truncate_after(Some(log_id(1, 190))).await.unwrap();
    log.save_vote(&vote(2)).await.unwrap();
    append(&mut log, entries(2, 191..194, 70_000)).await;
    log.save_committed(Some(log_id(2, 192))).await.unwrap();
    log.purge(log_id(1, 60)).await.unwrap();
    append(&mut log, entries(2, 194..210, 300)).await;
    log.close();
}

/// What a new process finds, or `None` if it refuses. In a process of its own because sled may panic in any thread.
fn dump(dir: &Path) -> Option<String> {
    let output = Command::new(probe_path())
        .args(["dump".as_ref(), dir.as_os_str()])
        .stdin(Stdio::null())
        .output()
        .expect("the probe starts");
    output.status.success().then(|| String::from_utf8(output.stdout).expect("text"))
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let target = to.join(file.file_name());
        match file.file_type().unwrap().is_dir() {
            true => copy_dir(&file.path(), &target),
            false => drop(fs::copy(file.path(), &target).unwrap()),
        }
    }
}

/// A closed log, and what a process finds in it.
struct Original {
    dir: tempfile::TempDir,
    truth: String,
}

impl Original {
    async fn make() -> Original {
        let dir = tempfile::tempdir().unwrap();
        make_log(&dir.path().join("data")).await;
        Original::of(dir)
    }

    /// What a power loss leaves that takes all that sled wrote since the log was opened: none of it was synced yet.
    async fn make_without_database() -> Original {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let (lock, log) = open(&data).unwrap();
        log.close();
        drop(lock);
        let db = fs::read(data.join("wal/db")).unwrap();
        make_log(&data).await;
        fs::write(data.join("wal/db"), db).unwrap();
        Original::of(dir)
    }

    /// A later time: the journal has begun a new round, all that was in it is in the database only.
    async fn make_without_journal() -> Original {
        let original = Original::make().await;
        fs::write(original.dir.path().join("data/wal/journal"), []).unwrap();
        Original::of(original.dir)
    }

    fn of(dir: tempfile::TempDir) -> Original {
        let mut original = Original { dir, truth: String::new() };
        original.truth = original.dump_after(|_| {}).expect("undamaged, it opens");
        original
    }

    fn dump_after(&self, damage: impl FnOnce(&Path)) -> Option<String> {
        let copy = self.dir.path().join("copy");
        copy_dir(&self.dir.path().join("data"), &copy);
        damage(&copy.join("wal"));
        let found = dump(&copy);
        fs::remove_dir_all(&copy).unwrap();
        found
    }

    /// Does `damage` to each page with content of a file, one at a time. Counts those after which it still opened, and
    /// checks that it was then with the same content.
    fn damage_each_page(&self, file: &str, damage: impl Fn(&fs::File, u64)) -> Pages {
        let bytes = fs::read(self.dir.path().join("data/wal").join(file)).unwrap();
        let mut pages = Pages { damaged: 0, opened: 0 };
        for (number, page) in bytes.chunks(PAGE as usize).enumerate() {
            if page.iter().all(|byte| *byte == 0) {
                continue;
            }
            let at = number as u64 * PAGE;
            let found = self.dump_after(|wal_dir| {
                damage(&fs::File::options().read(true).write(true).open(wal_dir.join(file)).unwrap(), at);
            });
            pages.damaged += 1;
            if let Some(found) = found {
                assert_eq!(found, self.truth, "{file} damaged at {at}: a silent change");
                pages.opened += 1;
            }
        }
        assert!(pages.damaged > 50, "too small to say much: {pages:?}");
        pages
    }
}

#[derive(Debug)]
struct Pages {
    damaged: usize,
    opened: usize,
}

fn flip_a_bit(file: &fs::File, page_at: u64) {
    // Another place in each page, so that all kinds of content are met.
    let at = (page_at + page_at / PAGE * 37 % PAGE).min(file.metadata().unwrap().len() - 1);
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x08], at).unwrap();
}

fn cut(file: &fs::File, page_at: u64) {
    file.set_len(page_at).unwrap();
}

#[tokio::test]
async fn a_flipped_bit_in_the_database_is_refused_or_does_not_matter() {
    let pages = Original::make_without_journal().await.damage_each_page("db", flip_a_bit);
    assert!(pages.opened < pages.damaged, "no flip was noticed: {pages:?}");
}

#[tokio::test]
async fn a_database_that_is_cut_is_refused_or_does_not_matter() {
    let pages = Original::make_without_journal().await.damage_each_page("db", cut);
    assert!(pages.opened < pages.damaged, "no cut was noticed: {pages:?}");
}

#[tokio::test]
async fn a_database_that_is_cut_is_healed_by_the_journal() {
    let pages = Original::make().await.damage_each_page("db", cut);
    assert_eq!(pages.opened, pages.damaged);
}

#[tokio::test]
async fn all_that_sled_wrote_can_be_lost_before_the_next_checkpoint() {
    let complete = Original::make().await;
    assert_eq!(Original::make_without_database().await.truth, complete.truth);
}

#[tokio::test]
async fn a_flipped_bit_in_the_journal_is_refused_or_does_not_matter() {
    let pages = Original::make_without_database().await.damage_each_page("journal", flip_a_bit);
    assert!(pages.opened < pages.damaged, "no flip was noticed: {pages:?}");
}

/// The test of the tests above: without the watermark a lost tail looks like one that was never written.
#[tokio::test]
async fn it_is_the_watermark_that_tells_a_lost_tail() {
    let original = Original::make_without_journal().await;
    let db = fs::read(original.dir.path().join("data/wal/db")).unwrap();
    let end = db.iter().rposition(|byte| *byte != 0).unwrap() as u64;
    let mut silent = 0;
    for pages in 1..20 {
        let found = original.dump_after(|wal_dir| {
            fs::File::options()
                .write(true)
                .open(wal_dir.join("db"))
                .unwrap()
                .set_len(end - pages * PAGE)
                .unwrap();
            fs::remove_file(wal_dir.join("watermark")).unwrap();
        });
        silent += usize::from(found.is_some_and(|found| found != original.truth));
    }
    assert!(silent > 0, "no cut lost anything, so the watermark is not what tells it");
}
