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

/// E9: a change leaves every byte that it does not name, in every way of changing, and a rollback brings all of them back.
#[tokio::test(flavor = "multi_thread")]
async fn untouched_bytes_stay() {
    let ensemble = Ensemble::start(1).await;
    let client = ensemble.client(TIMEOUT).await;
    let run = async |args: &[&str]| ensemble.coordctl(&[&["config"], args].concat()).await;
    let stored = async || {
        let (data, _) = client.get("/c", coordd_client::ReadLevel::Linearizable).await.expect("a value");
        String::from_utf8(data.to_vec()).expect("text")
    };
    let first = "{\n  \"version\": 1.10,\n  \"sha\" : 1e10,\n  \"id\": 123456789012345678901234,\n  \"a\": [ 1.0 ]\n}\n";
    let file = ensemble.scratch().join("document.json");
    std::fs::write(&file, first).expect("a file");
    run(&["set", "/c", "--file", &file.display().to_string()]).await.expect("set");
    assert_eq!(stored().await, first);
    run(&["set", "/c", "other", "x"]).await.expect("set");
    assert_eq!(stored().await, first.replace("[ 1.0 ]", "[ 1.0 ],\n  \"other\": \"x\""));
    run(&["set", "/c", "version", "1.20", "--version", "1"]).await.expect("set");
    run(&["set", "/c", "a.1", "-1.50"]).await.expect("set");
    run(&["unset", "/c", "other"]).await.expect("unset");
    let changed = first.replace("1.10", "1.20").replace("[ 1.0 ]", "[ 1.0, -1.50 ]");
    assert_eq!(stored().await, changed);
    for (key, shown) in [("version", "1.20\n"), ("sha", "1e10\n"), ("id", "123456789012345678901234\n")] {
        assert_eq!(run(&["get", "/c", key]).await.expect("a value"), shown);
        let json = run(&["get", "/c", key, "--output", "json"]).await.expect("a value");
        assert!(json.contains(&format!("\"value\":{}", shown.trim())), "{json}");
    }
    assert!(
        run(&["history", "/c"])
            .await
            .expect("a history")
            .contains(r#"{"version":1.20,"sha":1e10,"id":1234567890"#)
    );
    run(&["rollback", "/c", "0"]).await.expect("back");
    // The history has the value, without white space around it.
    let first = first.trim_end();
    assert_eq!(stored().await, first);

    // Numbers that are equal and written in another way are a change that was asked for.
    run(&["set", "/c", "version", "1.1"]).await.expect("set");
    assert_eq!(stored().await, first.replace("1.10", "1.1"));
    let before = stored().await;
    for (args, why) in [
        (&["set", "/c", "k", "{bad"][..], "not JSON"),
        (&["set", "/c", "k", "[1,"], "not JSON"),
        (&["set", "/c", "k", "01"], "not JSON"),
        (&["set", "/c", "k", ""], "not JSON"),
        (&["set", "/c", "", "5"], "it is empty"),
        (&["unset", "/c", ""], "it is empty"),
        (&["set", "/c", "k", "--verison=7"], "--version"),
        (&["set", "/c", "k", "--bad"], "unexpected argument"),
    ] {
        let refused = run(args).await.expect_err("refused");
        assert!(refused.contains(why), "{args:?}: {refused}");
        assert_eq!(stored().await, before, "{args:?}");
    }
    run(&["set", "/c", "k", "--string", "{bad"]).await.expect("set");
    assert_eq!(run(&["get", "/c", "k"]).await.expect("a value"), "{bad\n");
    run(&["set", "/c", "k", "--", "--bad"]).await.expect("set");
    assert_eq!(run(&["get", "/c", "k"]).await.expect("a value"), "--bad\n");
}
