//! The example `work_assignment` against a real ensemble.

use coordd_tests::{Ensemble, example};

#[tokio::test(flavor = "multi_thread")]
async fn the_processors_of_a_data_flow_engine_are_distributed_and_none_is_run_twice() {
    let ensemble = Ensemble::start(3).await;
    let mut program = tokio::process::Command::new(example("work_assignment"));
    let output = program.arg(ensemble.endpoints().join(",")).output().await.expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let part = |title: &str| {
        let rest = said.split_once(&format!("== {title}")).unwrap_or_else(|| panic!("{title}: {said}")).1;
        rest.split("\n==").next().unwrap_or(rest)
    };
    for strategy in ["round-robin", "least-loaded", "weighted-random", "consistent-hash", "sticky"] {
        let part = part(&format!("Strategy {strategy}"));
        assert!(part.contains("average load") && part.contains("3 nodes"), "{part}");
    }
    // A node may say so a moment after the group is settled, so that they cannot be counted here.
    let joined = part("Rebalanced: what moves");
    let starts: Vec<_> = joined.lines().filter(|line| line.contains(" starts ")).collect();
    assert!(!starts.is_empty() && starts.iter().all(|line| line.contains("node-4 starts")), "{joined}");
    let relieved = part("node-1 reports a high load");
    assert!(relieved.lines().filter(|line| line.contains("node-1 stops")).count() > 2, "{relieved}");
    assert!(part("node-4 is killed").contains(" starts "), "{said}");
    assert!(part("What was done").contains("none twice"), "{said}");
}
