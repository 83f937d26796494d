use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{CheckOutcome, HealthPolicy, HealthStatus, TargetHealth, Transition};

const POLICY: HealthPolicy = HealthPolicy { failures: 3, quarantine: Duration::from_secs(30), successes: 2 };

fn passed() -> CheckOutcome {
    CheckOutcome::Passed { latency: Duration::from_millis(1) }
}

fn failed(why: &str) -> CheckOutcome {
    CheckOutcome::Failed { why: why.to_owned() }
}

/// Checks a second apart, in short: `+` passes, `-` fails, `?` is inconclusive; the answer is the status after each.
fn statuses(checks: &str) -> String {
    let mut health = TargetHealth::new(POLICY);
    let start = Instant::now();
    let status = |(second, check)| {
        let outcome = match check {
            '+' => passed(),
            '-' => failed("no"),
            _ => CheckOutcome::Inconclusive,
        };
        health.on_outcome(&outcome, start + Duration::from_secs(second));
        match health.status() {
            HealthStatus::Unknown => 'u',
            HealthStatus::Healthy => 'h',
            HealthStatus::Suspect => 's',
            HealthStatus::Quarantined => 'q',
        }
    };
    (0..).zip(checks.chars()).map(status).collect()
}

#[test]
fn the_status_follows_the_checks() {
    let table: [(String, String); 8] = [
        ("+".into(), "h".into()),
        ("--+".into(), "uuh".into()),
        ("---+".into(), "uuqq".into()),
        ("+--+--+".into(), "hsshssh".into()),
        ("+---+".into(), "hssqq".into()),
        ("?+-?-?-".into(), "uhssssq".into()),
        // Out for 30 s from the third failure on, though it passes from the next second on.
        (format!("---{}", "+".repeat(30)), format!("uu{}h", "q".repeat(30))),
        // The time is over, and two in a row are needed.
        (format!("{}+-++", "-".repeat(35)), format!("uu{}h", "q".repeat(36))),
    ];
    for (checks, expected) in table {
        assert_eq!(statuses(&checks), expected, "{checks}");
    }
}

#[test]
fn a_change_says_what_and_why() {
    let (mut health, start) = (TargetHealth::new(POLICY), Instant::now());
    let turned = |old, new| Some(Transition { old, new });
    let at = |seconds| start + Duration::from_secs(seconds);
    assert_eq!(health.on_outcome(&passed(), at(0)), turned(HealthStatus::Unknown, HealthStatus::Healthy));
    assert_eq!(health.on_outcome(&passed(), at(1)), None);
    let suspect = health.on_outcome(&failed("refused"), at(2));
    assert_eq!(suspect, turned(HealthStatus::Healthy, HealthStatus::Suspect));
    assert_eq!(health.on_outcome(&failed("refused"), at(3)), None);
    let out = health.on_outcome(&failed("no answer"), at(4));
    assert_eq!(out, turned(HealthStatus::Suspect, HealthStatus::Quarantined));
    assert_eq!((health.why(), health.failures_in_row(), health.quarantines()), ("no answer", 3, 1));
    assert_eq!(health.on_outcome(&passed(), at(40)), None);
    assert_eq!(
        health.on_outcome(&passed(), at(41)),
        turned(HealthStatus::Quarantined, HealthStatus::Healthy)
    );
    assert_eq!(health.why(), "2 checks in a row passed, after 37.0s");
    assert_eq!((health.checks(), health.failures(), health.successes_in_row()), (7, 3, 2));
    assert_eq!(health.latency().map(|latency| latency.last_us), Some(1_000));
    assert_eq!(health.forget(), turned(HealthStatus::Healthy, HealthStatus::Unknown));
    assert_eq!(health.on_outcome(&passed(), at(42)), turned(HealthStatus::Unknown, HealthStatus::Healthy));
}

proptest! {
    /// Against the rules, said over the whole history: who is in was not out for less than the least time, and it takes
    /// enough in a row to change.
    #[test]
    fn nobody_is_out_without_enough_failures_or_back_before_time_and_successes(
        failures in 1..5u32,
        successes in 1..5u32,
        quarantine in 0..20u64,
        checks in proptest::collection::vec((any::<bool>(), 0..10u64), 1..200),
    ) {
        let policy = HealthPolicy { failures, successes, quarantine: Duration::from_secs(quarantine) };
        let (mut health, start) = (TargetHealth::new(policy), Instant::now());
        let (mut second, mut in_row, mut out_since) = (0, 0i64, None);
        for (passes, pause) in checks {
            second += pause;
            let outcome = if passes { passed() } else { failed("no") };
            let change = health.on_outcome(&outcome, start + Duration::from_secs(second));
            in_row = match passes {
                true => in_row.max(0) + 1,
                false => in_row.min(0) - 1,
            };
            match out_since {
                None if in_row <= -i64::from(failures) => out_since = Some(second),
                Some(since) if in_row >= i64::from(successes) && second - since >= quarantine => out_since = None,
                _ => {}
            }
            prop_assert_eq!(health.status() == HealthStatus::Quarantined, out_since.is_some());
            prop_assert!(change.is_none_or(|change| change.old != change.new && change.new == health.status()));
            if passes && out_since.is_none() {
                prop_assert_eq!(health.status(), HealthStatus::Healthy);
            }
        }
    }
}
