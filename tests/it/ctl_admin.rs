//! What `coordctl` tells of the ensemble itself, with nodes that are stopped or gone.

use std::time::{Duration, Instant};

use coordd_tests::{Ensemble, eventually};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);

async fn json(ensemble: &Ensemble, endpoints: &str, args: &[&str]) -> Value {
    let text =
        ensemble.coordctl_at(endpoints, &[args, &["--output", "json"]].concat()).await.expect("an answer");
    serde_json::from_str(&text).expect("JSON")
}

/// C4: one endpoint is enough to see all members, those that are gone too.
#[tokio::test(flavor = "multi_thread")]
async fn status_shows_all_members() {
    let mut ensemble = Ensemble::start(3).await;
    let one = ensemble.endpoint(1);
    eventually(SOON, "the nodes have told each other where clients reach them", async || {
        let status = ensemble.status_of(1).await;
        status.members.iter().all(|member| member.client_address == Some(ensemble.endpoint(member.node_id)))
    })
    .await;
    let table = ensemble.coordctl_at(&one, &["status"]).await.expect("a status");
    for id in ensemble.ids() {
        let serves = |line: &str| line.contains("serving") && !line.contains("not serving");
        let of_it = |line: &&str| line.starts_with(&ensemble.endpoint(id)) && serves(line);
        assert_eq!(table.lines().filter(of_it).count(), 1, "{table}");
    }
    let status = json(&ensemble, &one, &["status"]).await;
    let ids: Vec<_> =
        status["nodes"].as_array().expect("a list").iter().map(|node| node["node_id"].as_u64()).collect();
    assert_eq!(ids, [Some(1), Some(2), Some(3)], "{status}");
    assert!(status["nodes"][0]["leader_id"].is_u64(), "{status}");
    ensemble.kill9(3);
    ensemble.pause(2);
    // Two limits of the same length run out: that of the call, and that of the command.
    let table = ensemble.coordctl_at(&one, &["status"]).await.expect("a status");
    assert!(
        table.lines().any(|line| line.starts_with(&ensemble.endpoint(2)) && line.contains("answer within")),
        "{table}"
    );
    assert!(
        table.lines().any(|line| line.starts_with(&ensemble.endpoint(3)) && line.contains("refused")),
        "{table}"
    );
    ensemble.resume(2);
}

/// C11 and E14: the list has a header, says where each client is, and needs no node in particular.
#[tokio::test(flavor = "multi_thread")]
async fn session_list_says_who_and_where() {
    let mut ensemble = Ensemble::start(3).await;
    let mut clients = Vec::new();
    for id in ensemble.ids() {
        let client = ensemble.client_of(&[id], Duration::from_secs(60)).await;
        client.create(format!("/{id}"), "", coordd_client::CreateMode::Ephemeral).await.expect("a create");
        clients.push(client);
    }
    for endpoint in ensemble.endpoints() {
        eventually(SOON, "every address is known", async || {
            let table = ensemble.coordctl_at(&endpoint, &["session", "list"]).await.expect("a list");
            let mut lines = table.lines();
            let heading = lines.next().expect("a heading").split_whitespace().collect::<Vec<_>>().join(" ");
            assert_eq!(heading, "SESSION ADDRESS AGE TIMEOUT LAST WRITE EPHEMERALS CLIENT");
            clients.iter().all(|client| {
                let id = format!("{:#x} ", client.session_id());
                table.lines().any(|line| line.starts_with(&id) && line.contains(" 127.0.0.1:"))
            })
        })
        .await;
    }
    let text = ensemble.coordctl(&["session", "list", "--output", "json"]).await.expect("a list");
    for line in text.lines() {
        let session: Value = serde_json::from_str(line).expect("JSON");
        assert!(session["age_ms"].is_u64() && session["last_write_seq"] == 1, "{session}");
        assert!(
            session["client_address"].as_str().is_some_and(|at| at.starts_with("127.0.0.1:")),
            "{session}"
        );
    }

    // `attached_here` is what the first endpoint says, `attached` what any node says.
    let first = ensemble.endpoint(1);
    let listed =
        ensemble.coordctl_at(&first, &["session", "list", "--output", "json"]).await.expect("a list");
    let listed: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    for (client, is_first) in clients.iter().zip([true, false, false]) {
        let id = format!("{:#x}", client.session_id());
        let attached = |session: &Value| (session["attached_here"].as_bool(), session["attached"].as_bool());
        let session = listed.iter().find(|session| session["session_id"] == *id).expect("it is listed");
        assert_eq!(attached(session), (Some(is_first), Some(true)), "{session}");
        let why = json(&ensemble, &first, &["session", "why", &id]).await;
        assert_eq!(attached(&why), (Some(is_first), Some(true)), "{why}");
    }

    let stopped = ensemble.follower().await;
    let others = ensemble.ids_but(stopped).into_iter();
    let endpoints: Vec<_> = [stopped].into_iter().chain(others).map(|id| ensemble.endpoint(id)).collect();
    let endpoints = endpoints.join(",");
    ensemble.pause(stopped);
    let since = Instant::now();
    let session = format!("{:#x}", clients[stopped as usize % 3].session_id());
    for args in
        [&["session", "list"][..], &["session", "why", &session], &["session", "kill", &session], &["status"]]
    {
        ensemble.coordctl_at(&endpoints, args).await.expect("another endpoint answers");
    }
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    ensemble.resume(stopped);
}

/// C5: without a majority every endpoint is named with its own reason, in whatever order they were tried.
#[tokio::test(flavor = "multi_thread")]
async fn lost_majority_is_explained() {
    let mut ensemble = Ensemble::start(3).await;
    let left = ensemble.follower().await;
    for id in ensemble.ids_but(left) {
        ensemble.kill9(id);
    }
    eventually(SOON, "it has no majority any more", async || {
        ensemble.status(left).await.is_some_and(|status| status.not_serving.is_some())
    })
    .await;
    for args in [&["get", "/"][..], &["lock", "/l", "--list"], &["services"]] {
        let error = ensemble.coordctl(&[args, &["--timeout", "3s"]].concat()).await.expect_err("no majority");
        let lines: Vec<_> = error.lines().collect();
        assert_eq!(lines.len(), 4, "{error}");
        for id in ensemble.ids() {
            assert_eq!(
                lines.iter().filter(|line| line.contains(&ensemble.endpoint(id))).count(),
                1,
                "{error}"
            );
        }
        assert!(error.starts_with("coordctl: NotServing: "), "{error}");
    }
}
