//! Quotas over the wire (G9).

use std::time::Duration;

use coordd_client::{CreateMode, ErrorKind, Quota, ReadLevel};
use coordd_tests::Ensemble;

const TIMEOUT: Duration = Duration::from_secs(10);

/// A hard quota refuses growth, and nothing else; a soft one shows.
#[tokio::test]
async fn a_hard_quota_refuses_growth_and_a_soft_one_shows() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    client.create("/q", "", CreateMode::Persistent).await.expect("a create");
    let quota =
        Quota { count_soft: Some(2), count_hard: Some(3), bytes_soft: Some(50), bytes_hard: Some(100) };
    client.set_quota("/q", quota).await.expect("a quota");

    client.create("/q/a", vec![1; 40], CreateMode::Persistent).await.expect("the second znode");
    let usage = client.get_quota("/q", ReadLevel::Local).await.expect("a quota");
    assert_eq!((usage.quota, usage.count, usage.bytes, usage.soft_exceeded), (quota, 2, 40, false));
    client.create("/q/b", "", CreateMode::Persistent).await.expect("over the soft limit");
    assert!(client.get_quota("/q", ReadLevel::Local).await.expect("a quota").soft_exceeded);
    let refused = client.create("/q/c", "", CreateMode::Persistent).await.expect_err("the fourth znode");
    assert_eq!(refused.kind, ErrorKind::QuotaExceeded);
    assert!(refused.message.contains('3'), "{refused}");
    let refused = client.set("/q/b", vec![1; 61], None).await.expect_err("too many bytes");
    assert_eq!(refused.kind, ErrorKind::QuotaExceeded);

    client.set("/q/b", vec![1; 60], None).await.expect("at the limit");
    client.set("/q/b", vec![1; 10], None).await.expect("less is always taken");
    client.delete("/q/a", None).await.expect("a delete is always taken");
    client.create("/q/c", "", CreateMode::Persistent).await.expect("there is room again");
    client.delete_quota("/q").await.expect("the quota goes");
    client.create("/q/d", vec![1; 200], CreateMode::Persistent).await.expect("no quota any more");
    let gone = client.get_quota("/q", ReadLevel::Local).await.expect_err("no quota");
    assert_eq!(gone.kind, ErrorKind::NoNode);
}

/// The quota is part of the replicated state: it holds on every node and after a change of leaders.
#[tokio::test]
async fn a_quota_holds_after_a_failover() {
    let mut ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    client.create("/q", "", CreateMode::Persistent).await.expect("a create");
    client.set_quota("/q", Quota { count_hard: Some(2), ..Quota::default() }).await.expect("a quota");
    client.create("/q/a", "", CreateMode::Persistent).await.expect("a create");
    ensemble.kill9(ensemble.leader().await);
    let refused = client.create("/q/b", "", CreateMode::Persistent).await.expect_err("over the quota");
    assert_eq!(refused.kind, ErrorKind::QuotaExceeded);
}
