//! What reaches the disk, seen by strace.

use std::process::Command;

use crate::probe::probe_path;

const APPENDS: usize = 40;

/// G1, and the cost of it: between a request's begin and its acknowledgement there is one fdatasync, and the bytes were
/// handed to the kernel before it.
#[test]
fn an_append_is_acknowledged_after_exactly_one_fdatasync() {
    let dir = tempfile::tempdir().unwrap();
    let trace_path = dir.path().join("trace");
    let status = Command::new("strace")
        .args(["-f", "-qq", "-y", "-s", "32", "-e", "trace=fdatasync,pwrite64,write", "-o"])
        .arg(&trace_path)
        .arg(probe_path())
        .arg("traced")
        .arg(dir.path().join("data"))
        .arg(APPENDS.to_string())
        .stdout(std::process::Stdio::null())
        .status()
        .expect("this test needs strace: apt-get install -y strace");
    assert!(status.success());

    let trace = std::fs::read_to_string(&trace_path).unwrap();
    let (mut appends, mut syncs, mut log_writes) = (0, 0, 0);
    let mut inside = false;
    for line in trace.lines() {
        if line.contains("\"begin ") {
            (inside, syncs, log_writes) = (true, 0, 0);
        } else if line.contains("\"durable ") {
            assert_eq!(syncs, 1, "fdatasyncs of append {appends}:\n{trace}");
            assert!(log_writes > 0, "nothing was written before the fdatasync of append {appends}");
            inside = false;
            appends += 1;
        } else if inside && syncs == 0 && line.contains("pwrite64(") && line.contains("/wal/journal") {
            log_writes += 1;
        } else if inside && line.contains("fdatasync(") {
            // An interrupted call has a second line, "<... fdatasync resumed>", which does not match.
            assert!(line.contains("/wal/journal"), "a sync of another file: {line}");
            syncs += 1;
        }
    }
    assert_eq!(appends, APPENDS);
}
