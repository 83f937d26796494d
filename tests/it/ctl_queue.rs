//! `coordctl queue`: tasks that are put, worked at by commands, and looked at, from a shell.

use std::process::Command;
use std::time::Duration;

use coordd_client::ReadLevel;
use coordd_tests::{Contender, Ensemble, coordctl, eventually};
use rustix::process::Signal;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(15);
const QUEUE: &str = "/mails";

async fn put(ensemble: &Ensemble, payload: &str, options: &[&str]) -> String {
    let args = [&["queue", "put", QUEUE, payload], options].concat();
    ensemble.coordctl(&args).await.expect("put").trim().to_owned()
}

async fn stats(ensemble: &Ensemble) -> Value {
    let printed = ensemble.coordctl(&["queue", "stats", QUEUE, "--output", "json"]).await.expect("stats");
    serde_json::from_str(&printed).expect("JSON")
}

async fn ls(ensemble: &Ensemble, options: &[&str]) -> Vec<Value> {
    let args = [&["queue", "ls", QUEUE, "--output", "json"], options].concat();
    let printed = ensemble.coordctl(&args).await.expect("a list");
    printed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

async fn work(ensemble: &Ensemble, options: &[&str], script: &str) -> Contender {
    let mut program = Command::new(coordctl());
    program.env_remove("COORDCTL_AUTH").args(["queue", "work", QUEUE, "--session-timeout", "2s"]);
    program.args(options).args(["--", "sh", "-c", script]);
    Contender::start(ensemble, program, "COORDCTL_ENDPOINTS").await
}

async fn said(worker: &mut Contender, beginning: &str) -> String {
    let line = worker.wait_for(SOON, beginning, |line| line.text.starts_with(beginning)).await;
    line.text[beginning.len()..].trim().to_owned()
}

async fn code(worker: &mut Contender) -> Option<i32> {
    worker.wait_exit().await.code()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_run_for_each_task_and_its_exit_code_says_how_it_went() {
    let ensemble = Ensemble::start(3).await;
    // To look for tasks makes no queue.
    for looked in [["stats", "/no/queue"], ["ls", "/no/queue"], ["dead", "/no/queue"]] {
        let error = ensemble.coordctl(&[&["queue"], &looked[..]].concat()).await.expect_err("none is there");
        assert!(error.contains("NoNode") && error.contains("/no/queue"), "{error}");
    }

    let second = put(&ensemble, "second", &[]).await;
    let first = put(&ensemble, "first", &["--priority", "1"]).await;
    put(&ensemble, "later", &["--delay", "1h"]).await;
    let listed = ls(&ensemble, &["--state", "pending"]).await;
    let ids: Vec<_> = listed.iter().map(|task| task["id"].as_str().expect("an id")).collect();
    assert_eq!(ids, [first.as_str(), second.as_str()]);
    assert_eq!(listed[0]["payload"]["data"], "first");
    let delayed = ls(&ensemble, &["--state", "delayed"]).await;
    assert!(delayed[0]["due"].is_string(), "{delayed:?}");

    // Each has its task on the standard input and knows what it is; the claim is its guard.
    let script = "echo task $COORDD_TASK_ID $(cat) $COORDD_TASK_ATTEMPT/$COORDD_TASK_MAX_ATTEMPTS; \
                  echo guard $COORDCTL_GUARD; echo epoch $COORDD_EPOCH";
    let mut worker = work(&ensemble, &["--until-empty"], script).await;
    for (id, payload) in [(&first, "first"), (&second, "second")] {
        assert_eq!(said(&mut worker, "task").await, format!("{id} {payload} 1/5"));
        let guard = said(&mut worker, "guard").await;
        let claim = format!("{QUEUE}/claims/{id}:{}@", said(&mut worker, "epoch").await);
        assert!(guard.starts_with(&claim), "{guard} is not {claim}");
    }
    assert_eq!(code(&mut worker).await, Some(0));
    assert_eq!(
        stats(&ensemble).await,
        serde_json::json!({ "pending": 0, "delayed": 1, "running": 0, "dead": 0 })
    );

    // What fails comes back until its attempts are used up; then an operator can give it new ones, or discard it.
    let hard = put(&ensemble, "hard", &["--max-attempts", "2", "--backoff", "0s"]).await;
    let mut worker = work(&ensemble, &["--until-empty"], "echo attempt $COORDD_TASK_ATTEMPT; exit 3").await;
    assert_eq!(said(&mut worker, "attempt").await, "1");
    assert_eq!(said(&mut worker, "attempt").await, "2");
    assert_eq!(code(&mut worker).await, Some(0));
    let dead = ensemble.coordctl(&["queue", "dead", QUEUE]).await.expect("a list");
    assert!(dead.contains(&hard) && dead.contains("attempts 2/2") && dead.contains("exit code 3"), "{dead}");
    let retried = ensemble.coordctl(&["queue", "dead", QUEUE, "--retry", &hard]).await.expect("retried");
    assert!(retried.contains(&hard), "{retried}");
    let error = ensemble.coordctl(&["queue", "dead", QUEUE, "--retry", &hard]).await.expect_err("it is gone");
    assert!(error.contains("NoNode"), "{error}");
    for _ in 0..2 {
        let mut worker = work(&ensemble, &["--once"], "exit 3").await;
        assert_eq!(code(&mut worker).await, Some(3));
    }
    ensemble.coordctl(&["queue", "dead", QUEUE, "--retry-all"]).await.expect("retried");
    assert_eq!(stats(&ensemble).await["pending"], 1);
    let mut worker = work(&ensemble, &["--once"], "exit 0").await;
    assert_eq!(code(&mut worker).await, Some(0));

    // A large task gets through also to a command that does not read it, and a listing of large ones is no problem.
    let large = ensemble.scratch().join("large");
    std::fs::write(&large, vec![b'x'; 600_000]).expect("a file");
    let large = large.display().to_string();
    for _ in 0..8 {
        ensemble.coordctl(&["queue", "put", QUEUE, "--file", &large]).await.expect("put");
    }
    assert_eq!(ls(&ensemble, &["--state", "pending"]).await.len(), 8);
    let mut worker = work(&ensemble, &["--once"], "echo length $(wc -c)").await;
    assert_eq!(said(&mut worker, "length").await, "600000");
    assert_eq!(code(&mut worker).await, Some(0));
    let mut worker = work(&ensemble, &["--until-empty"], "true").await;
    assert_eq!(code(&mut worker).await, Some(0));
    assert_eq!(stats(&ensemble).await["pending"], 0);

    // A command that is not there is no fault of the task.
    put(&ensemble, "x", &[]).await;
    let args = ["queue", "work", QUEUE, "--", "/no/such/program"];
    let error = ensemble.coordctl(&args[..3]).await.expect_err("no command");
    assert!(error.contains("no command given"), "{error}");
    let mut program = Command::new(coordctl());
    program.args(args);
    let mut missing = Contender::start(&ensemble, program, "COORDCTL_ENDPOINTS").await;
    assert_eq!(code(&mut missing).await, Some(127));
    assert_eq!(ls(&ensemble, &["--state", "pending"]).await[0]["attempts"], 0);
}

/// A worker that is asked to end gives its task back, and no attempt counts. One that is killed or stopped for longer than its
/// session timeout is given up: its command is gone before another one has the task.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_outlives_its_worker_and_its_command_does_not() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(SOON).await;
    let id = put(&ensemble, "x", &["--backoff", "0s", "--max-attempts", "10"]).await;
    let forever = "echo pid $$; trap '' TERM INT; while :; do sleep 0.05; done";
    for (signal, exit) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let script = if signal == Signal::INT { "echo pid $$; exec sleep 300" } else { forever };
        let mut worker = work(&ensemble, &["--grace", "200ms"], script).await;
        said(&mut worker, "pid").await;
        worker.signal(signal);
        assert_eq!(code(&mut worker).await, Some(exit));
        let pending = ls(&ensemble, &["--state", "pending"]).await;
        assert_eq!(
            (&pending[0]["id"], &pending[0]["attempts"]),
            (&Value::from(id.as_str()), &Value::from(0))
        );
    }

    for (round, fate) in ["killed", "stopped"].into_iter().enumerate() {
        let mut unlucky = work(&ensemble, &["--worker", fate, "--grace", "200ms"], forever).await;
        let command = said(&mut unlucky, "pid").await;
        let running = ls(&ensemble, &["--state", "running"]).await;
        assert_eq!(running[0]["worker"], fate);
        match fate {
            "killed" => unlucky.kill9(),
            _ => unlucky.pause(),
        }
        let mut lucky = work(&ensemble, &["--once"], "echo attempt $COORDD_TASK_ATTEMPT; exit 1").await;
        assert_eq!(said(&mut lucky, "attempt").await, (2 * round + 2).to_string(), "{fate}");
        // A process that has ended and whose parent stands still is not alive, but there.
        let stat = std::fs::read_to_string(format!("/proc/{command}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "{fate}: its command goes on: {stat}");
        assert_eq!(code(&mut lucky).await, Some(1));
        if fate == "stopped" {
            unlucky.resume();
            said(&mut unlucky, "pid").await;
            unlucky.signal(Signal::TERM);
            assert_eq!(code(&mut unlucky).await, Some(143));
        }
        eventually(SOON, "the task is back", async || stats(&ensemble).await["pending"] == 1).await;
    }
    let waiting = client.children(format!("{QUEUE}/claims"), ReadLevel::Linearizable).await.expect("a list");
    assert_eq!(waiting, Vec::<String>::new());
}
