//! Data directories of build 62ff85c, the last one before apply rules had a version, are taken over as they
//! are.
//!
//! The directories are in tests/fixtures/62ff85c. They were made by the two ignored tests at the end, with
//! nodes of that build:
//!
//! ```text
//! COORDD_TESTS_BIN_DIR=DIRECTORY_OF_62ff85c COORDD_TESTS_FIXTURES=tests/fixtures/62ff85c \
//!     cargo test -p coordd-tests --test it upgrade:: -- --ignored
//! ```

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use coordd_proto::v1::coordd_client::CoorddClient;
use coordd_proto::v1::request::Op;
use coordd_proto::v1::{self, CreateMode, multi_op, outcome_reply::Fate};
use coordd_tests::{Ensemble, EnsembleOptions, RawSession, create, eventually, set};
use serde::{Deserialize, Serialize};
use tonic::transport::Channel;

/// Directories name their members, so these have addresses that do not change.
const PEER_HOST: &str = "127.62.85.12";
/// The directories wait for their test for as long as they like: no session of theirs ends meanwhile, and no
/// TTL.
const SESSION_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
const MIB: usize = 1 << 20;
/// A log with a command that would be refused today is applied with no more.
const REPLAY_BYTES_MAX: u64 = 512 << 20;
/// Operations of that command, and the bytes of each path.
const DEEP_OPS: usize = 400;
const DEEP_PATH_BYTES: usize = 4096;

/// What the nodes of 62ff85c said before they were stopped.
#[derive(Serialize, Deserialize)]
struct Recorded {
    zxid: u64,
    digest: u64,
    znodes: u64,
    snapshot_indexes: Vec<u64>,
    writes: Vec<RecordedWrite>,
}

/// A numbered write whose answer is kept.
#[derive(Serialize, Deserialize)]
struct RecordedWrite {
    session_id: u64,
    /// Hexadecimal.
    password: String,
    seq: u64,
    /// `OutcomeReply`, encoded; hexadecimal.
    outcome: String,
    /// For people.
    text: String,
}

fn options(nodes: u64) -> EnsembleOptions {
    EnsembleOptions::new(nodes)
        .peer_host(PEER_HOST)
        .env("COORDD_SESSION_TIMEOUT_MAX", "24h")
        .env("COORDD_SWEEP_INTERVAL", "1h")
        .not_started()
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/62ff85c")
}

fn tar(args: &[&str], file: &Path, directory: &Path) {
    let mut command = Command::new("tar");
    let status = command.args(args).arg(file).arg("-C").arg(directory).arg(".").status();
    assert!(status.expect("tar starts").success(), "{}", file.display());
}

fn unpack(name: &str, directory: &Path) {
    std::fs::create_dir_all(directory).expect("a directory");
    tar(&["-xzf"], &fixtures().join(name), directory);
}

async fn api(ensemble: &Ensemble, id: u64) -> CoorddClient<Channel> {
    CoorddClient::connect(format!("http://{}", ensemble.endpoint(id))).await.expect("a connection")
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Bytes {
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("two hexadecimal digits");
    (0..text.len()).step_by(2).map(byte).collect()
}

async fn outcome(
    api: &mut CoorddClient<Channel>,
    session_id: u64,
    password: Bytes,
    write_seq: u64,
) -> v1::OutcomeReply {
    let request = v1::OutcomeRequest { session_id, password, write_seq };
    api.outcome(request).await.expect("an outcome").into_inner()
}

async fn compare_outcomes(ensemble: &Ensemble, id: u64, recorded: &Recorded) {
    let mut api = api(ensemble, id).await;
    for write in &recorded.writes {
        let now = outcome(&mut api, write.session_id, from_hex(&write.password), write.seq).await;
        let then: v1::OutcomeReply =
            prost::Message::decode(from_hex(&write.outcome)).expect("a recorded outcome");
        assert_eq!(now, then, "write {} of session {:#x} on node {id}", write.seq, write.session_id);
    }
}

async fn compare_trees(ensemble: &Ensemble, ids: &[u64], recorded: &Recorded) {
    for id in ids {
        let status = ensemble.status(*id).await.expect("the node answers");
        assert_eq!(
            (status.zxid, status.digest, status.znodes, status.rules),
            (recorded.zxid, recorded.digest, recorded.znodes, 1),
            "node {id}"
        );
    }
}

/// Three directories with snapshots at different places of the log give three equal trees, which are those
/// that 62ff85c had: two nodes at a time, so that rules 1 stay in force; then all three, under newer rules.
/// Answers that were recorded under rules 1 are told with the same texts.
#[tokio::test]
async fn old_directories_have_equal_digests() {
    let mut ensemble = options(3).start().await;
    let expected = std::fs::read(fixtures().join("expected.json")).expect("a fixture");
    let recorded: Recorded = serde_json::from_slice(&expected).expect("a fixture");
    let mut distinct = recorded.snapshot_indexes.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 3, "the snapshots are at different places");
    for id in ensemble.ids() {
        unpack(&format!("node-{id}.tar.gz"), ensemble.data_dir(id));
    }
    for absent in [3, 2] {
        let ids = ensemble.ids_but(absent);
        for id in &ids {
            ensemble.restart(*id);
        }
        ensemble.wait_serving().await;
        compare_trees(&ensemble, &ids, &recorded).await;
        let shown = ensemble.coordctl(&["status"]).await.expect("a status");
        assert!(shown.contains("rules 1 in force"), "{shown}");
        for id in &ids {
            compare_outcomes(&ensemble, *id, &recorded).await;
        }
        for id in &ids {
            assert!(ensemble.terminate(*id).await.success());
        }
    }
    for id in ensemble.ids() {
        ensemble.restart(id);
    }
    ensemble.wait_serving().await;
    let client = ensemble.client(Duration::from_secs(10)).await;
    eventually(Duration::from_secs(20), "newer rules are in force everywhere", async || {
        let mut rules = Vec::new();
        for id in ensemble.ids() {
            rules.push(ensemble.status(id).await.map(|status| (status.rules, status.rules_known)));
        }
        rules.iter().all(|rules| rules.is_some_and(|(rules, known)| rules == known && known >= 2))
    })
    .await;
    client.create("/upgraded", "x", coordd_client::CreateMode::Persistent).await.expect("a create");
    client.delete("/nothing/here", None).await.expect_err("a refusal");
    ensemble.wait_equal().await;
    for id in ensemble.ids() {
        compare_outcomes(&ensemble, id, &recorded).await;
    }
}

/// A log that holds 400 creates of 2,040 parents each, made before that was refused, is applied in bounded
/// memory and served.
#[tokio::test]
async fn costly_old_entry_is_applied() {
    let mut ensemble = options(1).start().await;
    unpack("deep-multi.tar.gz", ensemble.data_dir(1));
    ensemble.restart(1);
    let start = Instant::now();
    let status = loop {
        match ensemble.status(1).await {
            Some(status) if status.not_serving.is_none() => break status,
            status => assert!(start.elapsed() < Duration::from_secs(300), "it does not serve: {status:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(status.znodes > (DEEP_OPS * 2000) as u64, "the entry was skipped: {} znodes", status.znodes);
    let client = ensemble.client(Duration::from_secs(10)).await;
    client.create("/after", "", coordd_client::CreateMode::Persistent).await.expect("it serves");
    let peak = peak_bytes(ensemble.process_id(1));
    println!("{} znodes after {:?}, with at most {} MiB", status.znodes, start.elapsed(), peak >> 20);
    assert!(peak <= REPLAY_BYTES_MAX, "{} MiB", peak >> 20);
}

/// The most memory that a process had.
fn peak_bytes(process_id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process_id}/status")).expect("the node runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line about the peak");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib << 10
}

/// A path of one-letter names that is as long as paths may be.
fn deep_path(number: usize) -> String {
    let top = format!("/p{number:04}");
    format!("{top}{}", "/a".repeat((DEEP_PATH_BYTES - top.len()) / 2))
}

fn deep_creates() -> Vec<v1::MultiOp> {
    let create = |number| v1::CreateRequest { path: deep_path(number), parents: true, ..Default::default() };
    (0..DEEP_OPS).map(|number| v1::MultiOp { op: Some(multi_op::Op::Create(create(number))) }).collect()
}

/// Packs a directory of a node that does not run. What was allocated and never written takes no room.
fn pack(directory: &Path, name: &str) {
    let target = std::env::var_os("COORDD_TESTS_FIXTURES").expect("COORDD_TESTS_FIXTURES is set");
    let target = PathBuf::from(target).canonicalize().expect("a directory");
    let files =
        Command::new("find").arg(directory).args(["-type", "f"]).output().expect("find starts").stdout;
    for file in String::from_utf8_lossy(&files).lines() {
        let dug = Command::new("fallocate").args(["--dig-holes", file]).status();
        assert!(dug.expect("fallocate starts").success());
    }
    tar(&["--sparse", "--sort=name", "--owner=0", "--group=0", "-czf"], &target.join(name), directory);
}

fn filler() -> Vec<u8> {
    vec![b'x'; MIB / 5]
}

/// Makes the directories of `old_directories_have_equal_digests`.
#[tokio::test]
#[ignore = "makes a fixture, with nodes of an older build"]
async fn make_old_directories() {
    let mut ensemble = options(3).env("COORDD_KEEP_LOG_BYTES", "1KiB").start().await;
    for (id, log_bytes) in [(1, "1MiB"), (2, "2MiB"), (3, "64MiB")] {
        ensemble.set_env("COORDD_SNAPSHOT_LOG_BYTES", log_bytes);
        ensemble.restart(id);
    }
    ensemble.wait_serving().await;
    let mut session = RawSession::open(&ensemble.endpoint(1), SESSION_TIMEOUT).await;
    let mut other = RawSession::open(&ensemble.endpoint(2), SESSION_TIMEOUT).await;
    let mut ended = RawSession::open(&ensemble.endpoint(3), SESSION_TIMEOUT).await;
    let killed = RawSession::open(&ensemble.endpoint(1), SESSION_TIMEOUT).await;
    let mut number = 0;
    for part in ["/one", "/two", "/three"] {
        for op in every_operation(part) {
            number += 1;
            session.write(number, op).await;
        }
        for _ in 0..6 {
            number += 1;
            session.write(number, set("/one", filler())).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        session.acknowledge(5).await;
    }
    for (seq, op) in every_operation("/others").into_iter().enumerate() {
        other.write(seq as u64 + 1, op).await;
    }
    other.acknowledge(3).await;
    other.ping().await;
    ended.write(1, create("/ends", "", CreateMode::Ephemeral)).await;
    ended.write(2, create("/ends", "", CreateMode::Ephemeral)).await;
    ended.write(3, Op::Close(v1::CloseRequest {})).await;
    let mut admin = ensemble.admin(1).await.expect("a connection");
    admin.kill_session(killed.attached.session_id, "the maker of a fixture").await.expect("it is killed");
    admin = ensemble.admin(2).await.expect("a connection");

    ensemble.wait_equal().await;
    let mut asked = api(&ensemble, 2).await;
    let mut writes = Vec::new();
    for (session, last) in [(&session, number), (&other, every_operation("/x").len() as u64)] {
        let (session_id, password) = (session.attached.session_id, session.attached.password.clone());
        for seq in 1..=last {
            let outcome = outcome(&mut asked, session_id, password.clone(), seq).await;
            assert!(matches!(outcome.fate(), Fate::Applied | Fate::Acknowledged), "{seq}: {outcome:?}");
            let text = format!("{:?}", outcome.reply);
            let text = text.chars().take(300).collect();
            let outcome = to_hex(&prost::Message::encode_to_vec(&outcome));
            writes.push(RecordedWrite { session_id, password: to_hex(&password), seq, outcome, text });
        }
    }
    let status = admin.status().await.expect("a status");
    let mut snapshot_indexes = Vec::new();
    for id in ensemble.ids() {
        snapshot_indexes.push(ensemble.status(id).await.expect("a status").snapshot_index);
    }
    for id in ensemble.ids() {
        assert!(ensemble.terminate(id).await.success());
        pack(ensemble.data_dir(id), &format!("node-{id}.tar.gz"));
    }
    let (zxid, digest, znodes) = (status.zxid, status.digest, status.znodes);
    let recorded = Recorded { zxid, digest, znodes, snapshot_indexes, writes };
    let target = PathBuf::from(std::env::var_os("COORDD_TESTS_FIXTURES").expect("it is set"));
    let text = serde_json::to_string_pretty(&recorded).expect("it can be written");
    std::fs::write(target.join("expected.json"), text).expect("a file");
}

/// Makes the directory of `costly_old_entry_is_applied`.
#[tokio::test]
#[ignore = "makes a fixture, with nodes of an older build"]
async fn make_deep_multi() {
    let mut ensemble = options(1).start().await;
    ensemble.restart(1);
    ensemble.wait_serving().await;
    let mut api = api(&ensemble, 1).await;
    let request = v1::MultiRequest { ops: deep_creates(), ..Default::default() };
    // It is in the log when the answer comes, or long before.
    let answer = tokio::time::timeout(Duration::from_secs(60), api.multi(request)).await;
    answer.expect("an answer in time").expect("62ff85c takes it");
    ensemble.kill9(1);
    pack(ensemble.data_dir(1), "deep-multi.tar.gz");
}

/// Every write that there is, below `top`, and every kind of refusal.
fn every_operation(top: &str) -> Vec<Op> {
    let path = |name: &str| format!("{top}{name}");
    let persistent = |name: &str| create(&path(name), "data", CreateMode::Persistent);
    let made = |name: &str, mode| create(&path(name), "", mode);
    let delete = |name: &str, version| {
        Op::Delete(v1::DeleteRequest { path: path(name), version, ..Default::default() })
    };
    let set_at = |name: &str, version| {
        let (path, data) = (path(name), Bytes::from_static(b"new"));
        Op::Set(v1::SetRequest { path, data, version: Some(version), ..Default::default() })
    };
    let acl = |name: &str, perms, scheme: &str, id: &str, version| {
        let acl = vec![v1::AclEntry { perms, scheme: scheme.into(), id: id.into() }];
        Op::SetAcl(v1::SetAclRequest { path: path(name), acl, version, ..Default::default() })
    };
    let quota = |name: &str, count_hard, bytes_hard| {
        let quota = Some(v1::Quota { count_hard, bytes_hard, count_soft: Some(1), bytes_soft: None });
        Op::SetQuota(v1::SetQuotaRequest { path: path(name), quota, ..Default::default() })
    };
    let drop_quota =
        |name: &str| Op::DeleteQuota(v1::DeleteQuotaRequest { path: path(name), ..Default::default() });
    let delete_tree = |name: &str, expected_count| {
        Op::DeleteTree(v1::DeleteTreeRequest { path: path(name), expected_count, ..Default::default() })
    };
    let multi = |ops: Vec<Op>| {
        let ops = ops.into_iter().map(|op| {
            let op = match op {
                Op::Create(create) => multi_op::Op::Create(create),
                Op::Delete(delete) => multi_op::Op::Delete(delete),
                Op::Set(set) => multi_op::Op::Set(set),
                other => panic!("not in a multi: {other:?}"),
            };
            v1::MultiOp { op: Some(op) }
        });
        Op::Multi(v1::MultiRequest { ops: ops.collect(), ..Default::default() })
    };
    let guarded = |version| {
        let condition = Some(v1::check::Condition::Version(version));
        let guards = vec![v1::Check { path: top.to_owned(), condition, lineage: None }];
        let (path, data) = (path("/guarded"), Bytes::new());
        Op::Create(v1::CreateRequest { path, data, guards, ..Default::default() })
    };
    let ttl = Op::Create(v1::CreateRequest {
        path: path("/ttl"),
        mode: CreateMode::PersistentWithTtl as i32,
        ttl_ms: 365 * 24 * 3_600_000,
        ..Default::default()
    });
    let deep =
        |name: &str| Op::Create(v1::CreateRequest { path: path(name), parents: true, ..Default::default() });
    vec![
        persistent(""),
        // 2 to 5: what nobody asks for again in the first session.
        made("/e", CreateMode::Ephemeral),
        made("/s-", CreateMode::PersistentSequential),
        made("/s-", CreateMode::EphemeralSequential),
        made("/c", CreateMode::Container),
        made("/c/n-", CreateMode::EphemeralSequential),
        made("/unused", CreateMode::Container),
        ttl,
        deep("/d/e/e/p"),
        deep("/d/e/e/p/2"),
        // Refused, each in its way.
        persistent(""),
        made("/e/child", CreateMode::Persistent),
        persistent("/no/parent"),
        persistent("/bad//path"),
        set_at("", 7),
        set_at("", 0),
        set_at("/none", 0),
        delete("", None),
        delete("/none", None),
        delete("/s-0000000001", Some(4)),
        // The ACLs.
        persistent("/closed"),
        acl("/closed", 3, "digest", "ann:lK75jTNcA+U9vtVEw5vB51mj/w4=", None),
        acl("/closed", 31, "world", "anyone", None),
        made("/closed/x", CreateMode::Persistent),
        acl("/d", 31, "magic", "anyone", None),
        acl("/d", 31, "auth", "", None),
        acl("/d", 99, "world", "anyone", None),
        acl("/d", 31, "ip", "not an address", None),
        acl("/d", 31, "world", "anyone", Some(9)),
        acl("/d", 31, "ip", "127.0.0.1", Some(0)),
        // The quotas.
        persistent("/q"),
        quota("/q", Some(2), Some(10)),
        made("/q/1", CreateMode::Persistent),
        made("/q/2", CreateMode::Persistent),
        create(&path("/q/1"), "", CreateMode::PersistentSequential),
        set(&path("/q/1"), vec![b'q'; 100]),
        quota("/none", Some(2), None),
        drop_quota("/none"),
        persistent("/q2"),
        quota("/q2", None, Some(9)),
        drop_quota("/q2"),
        // Multis and trees.
        multi(vec![persistent("/m"), persistent("/m/1"), set_at("/m/1", 0), delete("/m/1", None)]),
        multi(vec![persistent("/m2"), delete("/none", None)]),
        multi(vec![]),
        guarded(1),
        guarded(3),
        deep("/t/1"),
        deep("/t/2"),
        delete_tree("/t", Some(9)),
        delete_tree("/t", Some(3)),
        delete_tree("/none", None),
        delete_tree("/d", None),
        // Refused before it is proposed.
        create(&path("/big"), vec![0; 2 * MIB], CreateMode::Persistent),
        create(&path(&format!("/{}", "long".repeat(1100))), "", CreateMode::Persistent),
    ]
}
