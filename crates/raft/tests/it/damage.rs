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

/// Without sled's database, which a process that has just closed it may still be removing, and the journal's spare files.
fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let name = file.file_name().into_string().unwrap();
        if name.starts_with("db-") || name.starts_with("spare-") {
            continue;
        }
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

    fn of(dir: tempfile::TempDir) -> Original {
        let mut original = Original { dir, truth: String::new() };
        original.truth = original.dump_after(|_| {}).expect("undamaged, it opens");
        original
    }

    /// The name of its only file.
    fn journal(&self) -> String {
        let names = fs::read_dir(self.dir.path().join("data/wal")).unwrap();
        let mut names = names.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.find(|name| name.starts_with("journal-")).expect("a log has a journal")
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
async fn a_flipped_bit_in_the_journal_is_refused_or_does_not_matter() {
    let original = Original::make().await;
    let pages = original.damage_each_page(&original.journal(), flip_a_bit);
    assert!(pages.opened < pages.damaged, "no flip was noticed: {pages:?}");
}

#[tokio::test]
async fn a_journal_that_is_cut_is_refused_or_does_not_matter() {
    let original = Original::make().await;
    let pages = original.damage_each_page(&original.journal(), cut);
    assert!(pages.opened < pages.damaged, "no cut was noticed: {pages:?}");
}

/// A watermark that says no more than that the log has begun, as a loss of power may leave it.
fn say_little(watermark: &Path) {
    let mut slot = 1u64.to_le_bytes().to_vec();
    slot.extend(crc32c::crc32c(&slot).to_le_bytes());
    slot.extend(b"wmk1");
    slot.resize(1024, 0);
    fs::write(watermark, slot).unwrap();
}

/// G1: without the file, or with nothing in it, it is not known what was acknowledged.
#[tokio::test]
async fn a_lost_watermark_is_refused() {
    let original = Original::make().await;
    let watermark = |wal_dir: &Path| wal_dir.join("watermark");
    assert_eq!(original.dump_after(|wal_dir| fs::remove_file(watermark(wal_dir)).unwrap()), None);
    assert_eq!(original.dump_after(|wal_dir| fs::write(watermark(wal_dir), "").unwrap()), None);
    assert_eq!(original.dump_after(|wal_dir| fs::write(watermark(wal_dir), [0; 1024]).unwrap()), None);
    assert_eq!(original.dump_after(|wal_dir| fs::write(watermark(wal_dir), [9; 1024]).unwrap()), None);
    let found = original.dump_after(|wal_dir| say_little(&watermark(wal_dir)));
    assert_eq!(found.as_ref(), Some(&original.truth));
}

/// A record that has others after it was acknowledged, and is missed also where nothing else tells so.
#[tokio::test]
async fn a_record_before_the_last_one_is_missed_without_the_watermark() {
    let original = Original::make().await;
    say_little(&original.dir.path().join("data/wal/watermark"));
    let journal = original.journal();
    let bytes = fs::read(original.dir.path().join("data/wal").join(&journal)).unwrap();
    let last_page = bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64 / PAGE;
    let mut refused = 0;
    // Not the last records: they are of no more than three pages.
    for page in (0..last_page - 2).step_by(3) {
        let found = original.dump_after(|wal_dir| {
            let file = fs::File::options().read(true).write(true).open(wal_dir.join(&journal)).unwrap();
            let mut bytes = [0; PAGE as usize];
            file.read_exact_at(&mut bytes, page * PAGE).unwrap();
            let first = bytes.iter().position(|byte| *byte != 0).unwrap();
            file.write_all_at(&[bytes[first] ^ 1], page * PAGE + first as u64).unwrap();
        });
        refused += usize::from(found.is_none());
        assert!(found.is_none_or(|found| found == original.truth), "page {page}: a silent change");
    }
    // The others were purged.
    assert!(refused > 20, "{refused} of {last_page} pages");
}

/// A start makes sled's database anew: what was left of the last one, whatever it is, is not looked at.
#[tokio::test]
async fn the_database_of_a_process_that_was_killed_does_not_matter() {
    let original = Original::make().await;
    let found = original.dump_after(|wal_dir| {
        fs::create_dir_all(wal_dir.join("db-0123456789abcdef/blobs")).unwrap();
        for file in ["conf", "db", "snap.0000000000000000", "snap.00000000FFFFFFFF.generating"] {
            fs::write(wal_dir.join("db-0123456789abcdef").join(file), "not sled's").unwrap();
        }
    });
    assert_eq!(found, Some(original.truth.clone()));
}

/// The test of the tests above: without the watermark a lost tail looks like one that was never written.
#[tokio::test]
async fn it_is_the_watermark_that_tells_a_lost_tail() {
    let original = Original::make().await;
    let journal = original.journal();
    let bytes = fs::read(original.dir.path().join("data/wal").join(&journal)).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64;
    let mut silent = 0;
    for pages in 0..5 {
        let cut_tail = |wal_dir: &Path| {
            let file = fs::File::options().write(true).open(wal_dir.join(&journal)).unwrap();
            file.set_len(end / PAGE * PAGE - pages * PAGE).unwrap();
        };
        assert_eq!(original.dump_after(cut_tail), None);
        let found = original.dump_after(|wal_dir| {
            cut_tail(wal_dir);
            say_little(&wal_dir.join("watermark"));
        });
        silent += usize::from(found.is_some_and(|found| found != original.truth));
    }
    assert!(silent > 0, "no cut lost anything, so the watermark is not what tells it");
}
