//! Reads that fail, as they do on a broken disk.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::probe::example_path;

/// G1: what cannot be read is not taken for what is not there, whichever of its reads it is.
#[test]
fn a_read_that_fails_refuses_the_start_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let lived = Command::new(example_path("power_probe"))
        .arg("live")
        .arg(&data)
        .args(["small", "7", "80", "close"])
        .output();
    assert!(lived.unwrap().status.success());
    let content = found(&data);
    assert!(content.contains(" snapshot=") && !content.contains(" snapshot=-"), "{content}");
    for call in ["read", "pread64"] {
        let mut refused = 0;
        for number in 1.. {
            let trace = dir.path().join("trace");
            let Some(answer) = open_with_failing_read(&data, &trace, call, number) else { break };
            match answer.strip_prefix("refused ") {
                Some(cause) => assert!(cause.contains("Input/output error"), "{cause}"),
                None => panic!("{call} {number} failed, and the store answered {answer:?}"),
            }
            assert_eq!(found(&data), content, "after {call} {number} had failed");
            refused += 1;
        }
        assert!(refused >= 3, "{refused} starts were refused because of a {call}");
    }
}

/// What is in the store, apart from how often it was opened.
fn found(data: &Path) -> String {
    let mut probe = Command::new(example_path("power_probe"));
    probe.args(["check", "small"]);
    let answer = ask(&mut probe, data);
    let state = answer.strip_prefix("found ").unwrap_or_else(|| panic!("{answer}"));
    state.split_once(' ').expect("more than the incarnation").1.to_owned()
}

/// What the probe says if the n-th such call of a thread for the store's files fails; `None` if there are not so many.
fn open_with_failing_read(data: &Path, trace: &Path, call: &str, number: usize) -> Option<String> {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", &format!("trace={call}"), "-o"]).arg(trace);
    strace.args(["-e", &format!("inject={call}:error=EIO:when={number}")]);
    for file in files(data) {
        strace.arg("-P").arg(file);
    }
    strace.arg(example_path("power_probe")).args(["check", "small"]);
    let answer = ask(&mut strace, data);
    std::fs::read_to_string(trace).unwrap().contains("(INJECTED)").then_some(answer)
}

fn ask(command: &mut Command, data: &Path) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test needs strace: apt-get install -y strace");
    writeln!(child.stdin.take().expect("piped"), "{}", data.display()).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
