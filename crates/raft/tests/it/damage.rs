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
    append(&mut log, entries(2, 191..200, 70_000)).await;
    log.save_committed(Some(log_id(2, 195))).await.unwrap();
    log.purge(log_id(1, 60)).await.unwrap();
    append(&mut log, entries(2, 200..210, 300)).await;
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

/// Runs `damage` on a copy of the database file for each page that has content; counts those that still opened.
async fn damage_each_page(what: &str, damage: impl Fn(&fs::File, u64)) -> (usize, usize) {
    let dir = tempfile::tempdir().unwrap();
    let (original, copy) = (dir.path().join("original"), dir.path().join("copy"));
    make_log(&original).await;
    let db = fs::read(original.join("wal/db")).unwrap();
    let pages = db.chunks(PAGE as usize).enumerate();
    let pages: Vec<u64> = pages
        .filter(|(_, page)| page.iter().any(|b| *b != 0))
        .map(|(number, _)| number as u64 * PAGE)
        .collect();
    assert!(pages.len() > 100, "too small to say much: {} pages", pages.len());
    copy_dir(&original, &copy);
    let truth = dump(&copy).expect("undamaged, it opens");
    let mut opened = 0;
    for at in &pages {
        fs::remove_dir_all(&copy).unwrap();
        copy_dir(&original, &copy);
        damage(&fs::File::options().read(true).write(true).open(copy.join("wal/db")).unwrap(), *at);
        if let Some(found) = dump(&copy) {
            assert_eq!(found, truth, "{what} at {at}: a silent change");
            opened += 1;
        }
    }
    (opened, pages.len())
}

#[tokio::test]
async fn a_flipped_bit_in_any_page_is_refused_or_does_not_matter() {
    let (opened, pages) = damage_each_page("a flipped bit", |db, at| {
        let at = at + at / PAGE % PAGE;
        let mut byte = [0];
        db.read_exact_at(&mut byte, at).unwrap();
        db.write_all_at(&[byte[0] ^ 0x08], at).unwrap();
    })
    .await;
    assert!(opened < pages, "no flip was noticed");
    println!("flipped bits: {opened} of {pages} pages did not matter");
}

#[tokio::test]
async fn a_file_cut_at_any_page_is_refused_or_does_not_matter() {
    let (opened, pages) = damage_each_page("a cut", |db, at| db.set_len(at).unwrap()).await;
    assert!(opened < pages, "no cut was noticed");
    println!("cut files: {opened} of {pages} cuts did not matter");
}

/// The test of the tests above: without the watermark a lost tail looks like one that was never written.
#[tokio::test]
async fn it_is_the_watermark_that_tells_a_lost_tail() {
    let dir = tempfile::tempdir().unwrap();
    make_log(dir.path()).await;
    let truth = {
        let copy = dir.path().join("copy");
        copy_dir(&dir.path().join("wal"), &copy.join("wal"));
        fs::copy(dir.path().join("IDENTITY"), copy.join("IDENTITY")).unwrap();
        dump(&copy).expect("undamaged, it opens")
    };
    let db = fs::read(dir.path().join("wal/db")).unwrap();
    let end = db.iter().rposition(|byte| *byte != 0).unwrap() as u64;
    let mut silent = 0;
    for cut in (1..40).map(|pages| end - pages * PAGE) {
        for keep_watermark in [true, false] {
            let copy = tempfile::tempdir().unwrap();
            copy_dir(&dir.path().join("wal"), &copy.path().join("wal"));
            fs::copy(dir.path().join("IDENTITY"), copy.path().join("IDENTITY")).unwrap();
            fs::File::options().write(true).open(copy.path().join("wal/db")).unwrap().set_len(cut).unwrap();
            if !keep_watermark {
                fs::remove_file(copy.path().join("wal/watermark")).unwrap();
            }
            match dump(copy.path()) {
                Some(found) if found != truth && keep_watermark => panic!("a silent loss, cut at {cut}"),
                Some(found) if found != truth => silent += 1,
                Some(_) | None => {}
            }
        }
    }
    assert!(silent > 0, "no cut lost anything, so this test shows nothing");
}
