//! `coordctl config`: a configuration in the hands of people and scripts.

use std::process::Command;
use std::time::Duration;

use coordd_client::CreateMode;
use coordd_tests::{Contender, Ensemble, coordctl, eventually};
use futures::StreamExt as _;
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_is_set_read_rolled_back_and_refused_by_condition() {
    let ensemble = Ensemble::start(1).await;
    let run = async |args: &[&str]| ensemble.coordctl(&[&["config"], args].concat()).await;
    let refused = run(&["get", "/app/config"]).await.expect_err("absent");
    assert!(refused.contains("NoNode: no configuration at /app/config"), "{refused}");
    let set = ["set", "/app/config", "cache.bytes", "4096", "--author", "ann"];
    assert_eq!(run(&set).await.expect("set"), "version 0\n");
    assert_eq!(run(&["set", "/app/config", "cache.kind", "lru"]).await.expect("set"), "version 1\n");
    assert_eq!(run(&["set", "/app/config", "/a.b", "[1, -2]"]).await.expect("set"), "version 2\n");
    assert_eq!(run(&["set", "/app/config", "cache.depth", "-7"]).await.expect("set"), "version 3\n");
    assert_eq!(run(&["get", "/app/config", "cache.kind"]).await.expect("a value"), "lru\n");
    assert_eq!(run(&["get", "/app/config", "/a.b/1"]).await.expect("a value"), "-2\n");
    let document: Value =
        serde_json::from_str(&run(&["get", "/app/config"]).await.expect("it")).expect("JSON");
    assert_eq!(document, json!({ "a.b": [1, -2], "cache": { "bytes": 4096, "depth": -7, "kind": "lru" } }));

    let file = ensemble.scratch().join("config.json");
    std::fs::write(&file, r#"{"whole": true}"#).expect("a file");
    let file = file.display().to_string();
    assert_eq!(run(&["set", "/app/config", "--file", &file]).await.expect("set"), "version 4\n");
    assert_eq!(run(&["unset", "/app/config", "whole"]).await.expect("unset"), "version 5\n");
    assert_eq!(run(&["rollback", "/app/config", "0", "--author", "bob"]).await.expect("back"), "version 6\n");
    assert_eq!(run(&["get", "/app/config", "cache"]).await.expect("a value"), "{\n  \"bytes\": 4096\n}\n");
    let history = run(&["history", "/app/config"]).await.expect("a history");
    let lines: Vec<_> = history.lines().collect();
    assert_eq!(lines.len(), 7, "{history}");
    assert!(lines[0].starts_with("version 6  ") && lines[0].contains("  bob  restored 0  "), "{history}");
    assert!(lines[6].contains(r#"  ann  {"cache":{"bytes":4096}}"#), "{history}");

    // Conditions, and what is wrong.
    let set = ["set", "/app/config", "cache.bytes", "1", "--version", "6", "--keep", "2"];
    assert_eq!(run(&set).await.expect("it has that version"), "version 7\n");
    for (args, expected) in [
        (&["set", "/app/config", "x", "1", "--version", "6"][..], "BadVersion"),
        (&["set", "/app/config", "cache.bytes.x", "1"], "BadArguments: cache.bytes.x cannot be set"),
        (&["set", "/app/config", "a..b", "1"], "invalid value"),
        (&["set", "/app/config", "a"], "required"),
        (&["get", "/app/config", "nothing"], "NoNode: no key nothing"),
        (&["rollback", "/app/config", "0"], "NoNode: version 0 of /app/config is not in its history"),
    ] {
        let refused = run(args).await.expect_err("refused");
        assert!(refused.contains(expected), "{args:?}: {refused}");
    }
    assert_eq!(run(&["history", "/app/config"]).await.expect("a history").lines().count(), 2, "--keep 2");
    std::fs::write(&file, "no JSON").expect("a file");
    let refused = run(&["set", "/app/config", "--file", &file]).await.expect_err("refused");
    assert!(refused.contains("is not JSON"), "{refused}");
    let client = ensemble.client(TIMEOUT).await;
    client.create("/text", "no JSON", CreateMode::Persistent).await.expect("a create");
    let refused = run(&["get", "/text"]).await.expect_err("refused");
    assert!(refused.contains("MarshallingError: version 0 of the configuration at /text"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_was_stopped_for_longer_than_its_session_tells_what_changed() {
    let ensemble = Ensemble::start(3).await;
    let mut command = Command::new(coordctl());
    command.env_remove("COORDCTL_AUTH").args(["config", "watch", "/app/config", "--session-timeout", "2s"]);
    let mut watch = Contender::start(&ensemble, command, "COORDCTL_ENDPOINTS").await;
    let set = async |key: &str, value: &str| {
        let args = ["config", "set", "/app/config", key, value, "--output", "json"];
        ensemble.coordctl(&args).await.expect("set");
    };
    assert_eq!(watch.next(SOON).await.text, "no configuration");
    set("flags.dark", "false").await;
    assert_eq!(watch.next(SOON).await.text, r#"version 0  (document): null -> {"flags":{"dark":false}}"#);
    set("flags.dark", "true").await;
    assert_eq!(watch.next(SOON).await.text, "version 1  flags.dark: false -> true");

    let admin = ensemble.admin(ensemble.leader().await).await.expect("an operator");
    watch.pause();
    set("limit", "1").await;
    set("limit", "2").await;
    eventually(SOON, "its session has ended", async || admin.sessions().next().await.is_none()).await;
    watch.resume();
    // The difference, however it came about.
    let line = watch.wait_for(SOON, "the newest", |line| line.text.ends_with("-> 2")).await.text;
    assert!(line == "version 3  limit: (none) -> 2" || line == "version 3  limit: 1 -> 2", "{line}");
    ensemble.coordctl(&["delete", "/app/config", "-r"]).await.expect("deleted");
    assert_eq!(
        watch.next(SOON).await.text,
        r#"deleted  (document): {"flags":{"dark":true},"limit":2} -> null"#
    );
    assert!(watch.terminate().await.success());
}
