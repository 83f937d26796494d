//! Elections: one leads at a time, whatever becomes of who leads, and an end wakes one who waits.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use coordd_client::recipes::{
    Candidate, Leader, LeaderElection, Leadership, Loss, Sessions, lead, leaderships,
};
use coordd_client::{Admin, Check, Client, ConnectOptions, CreateMode, Error, ErrorKind, ReadLevel};
use coordd_tests::{Contender, Ensemble, eventually};
use futures::StreamExt as _;

const TIMEOUT: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_secs(5);
const PATH: &str = "/app/scheduler";

fn campaign(client: &Client, candidate: Candidate) -> tokio::task::JoinHandle<Result<Leadership, Error>> {
    let election = LeaderElection::new(client, PATH);
    tokio::spawn(async move { election.campaign(&candidate).await })
}

async fn names(election: &LeaderElection) -> Vec<String> {
    election.candidates().await.expect("a list").into_iter().map(|candidate| candidate.id).collect()
}

async fn until_waiting(election: &LeaderElection, count: usize) {
    eventually(SOON, "the candidates wait", async || names(election).await.len() == count).await;
}

async fn elected(campaign: tokio::task::JoinHandle<Result<Leadership, Error>>) -> Leadership {
    let joined = tokio::time::timeout(SOON, campaign).await.expect("elected in time");
    joined.expect("no panic").expect("elected")
}

#[tokio::test(flavor = "multi_thread")]
async fn candidates_are_elected_by_priority_and_then_in_the_order_in_which_they_came() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    let election = LeaderElection::new(&client, PATH);
    assert_eq!(election.leader().await, Ok(None));
    let first = elected(campaign(&client, Candidate::new("first").address("here:1"))).await;
    let mut campaigns = Vec::new();
    for (name, priority) in [("second", 0), ("third", 0), ("urgent", 7)] {
        let other = ensemble.client(TIMEOUT).await;
        campaigns.push(campaign(&other, Candidate::new(name).priority(priority)));
        until_waiting(&election, campaigns.len()).await;
    }
    assert_eq!(names(&election).await, ["urgent", "second", "third"]);
    let leader = election.leader().await.expect("a read").expect("a leader");
    assert_eq!(
        (leader.id.as_str(), leader.address.as_str(), leader.epoch),
        ("first", "here:1", first.epoch())
    );

    let mut epoch = first.epoch();
    first.resign().await.expect("resigned");
    campaigns.rotate_right(1);
    for (campaign, name) in campaigns.into_iter().zip(["urgent", "second", "third"]) {
        let leadership = elected(campaign).await;
        assert_eq!(election.leader().await.expect("a read").expect("a leader").id, name);
        assert!(leadership.epoch() > epoch, "epochs grow");
        epoch = leadership.epoch();
        drop(leadership);
    }
    eventually(SOON, "nobody leads", async || election.leader().await == Ok(None)).await;

    let error = election.campaign(&Candidate::new("x").priority(100)).await.expect_err("too high");
    assert_eq!(error.kind, ErrorKind::BadArguments);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_that_is_given_up_leaves_nothing_and_holds_nobody_up() {
    let ensemble = Ensemble::start(3).await;
    let client = ensemble.client(TIMEOUT).await;
    let election = LeaderElection::new(&client, PATH);
    let first = elected(campaign(&client, Candidate::new("first"))).await;
    let quitter = campaign(&client, Candidate::new("quitter"));
    until_waiting(&election, 1).await;
    let patient = campaign(&client, Candidate::new("patient"));
    until_waiting(&election, 2).await;
    quitter.abort();
    eventually(SOON, "the candidacy is withdrawn", async || names(&election).await == ["patient"]).await;
    drop(first);
    let patient = elected(patient).await;
    // Given up at every moment there is: after so many polls.
    for polls in 0..12 {
        let candidate = Candidate::new("fickle");
        let mut campaign = Box::pin(election.campaign(&candidate));
        for _ in 0..polls {
            let _ = tokio::time::timeout(Duration::from_millis(1), &mut campaign).await;
        }
        drop(campaign);
    }
    drop(patient);
    // Also while it is being elected.
    for polls in 0..40 {
        let candidate = Candidate::new("fickle");
        let mut campaign = Box::pin(election.campaign(&candidate));
        for _ in 0..polls {
            let waited = tokio::time::timeout(Duration::from_micros(200), &mut campaign).await;
            if waited.is_ok() {
                break;
            }
        }
        drop(campaign);
    }
    eventually(SOON, "nothing is left", async || {
        client.children(PATH, ReadLevel::Linearizable).await.unwrap_or_default().is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leads_is_observed_and_what_is_proclaimed() {
    let ensemble = Ensemble::start(3).await;
    let (client, other) = (ensemble.client(TIMEOUT).await, ensemble.client(TIMEOUT).await);
    let mut observed = LeaderElection::new(&other, PATH).observe();
    let mut next = async || {
        let next = tokio::time::timeout(SOON, observed.next()).await.expect("in time");
        next.expect("it goes on").expect("a state")
    };
    assert_eq!(next().await, None);
    let leadership = elected(campaign(&client, Candidate::new("a").data(1))).await;
    let is = |leader: &Option<Leader>, id: &str, data: i64| {
        leader.as_ref().is_some_and(|leader| leader.id == id && leader.data == data.into())
    };
    assert!(is(&next().await, "a", 1));
    leadership.proclaim(2).await.expect("it leads");
    let seen = next().await;
    assert!(is(&seen, "a", 2) && seen.is_some_and(|leader| leader.epoch == leadership.epoch()));
    let successor = campaign(&client, Candidate::new("b").data(3));
    leadership.resign().await.expect("resigned");
    // Nobody for a moment, which may be missed.
    let mut seen = next().await;
    if seen.is_none() {
        seen = next().await;
    }
    assert!(is(&seen, "b", 3), "{seen:?}");
    drop(elected(successor).await);
    assert_eq!(next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leadership_that_an_operator_takes_away_is_lost_at_once_and_guards_its_writes() {
    let ensemble = Ensemble::start(3).await;
    let (client, operator) = (ensemble.client(TIMEOUT).await, ensemble.client(TIMEOUT).await);
    client.create("/app", "", CreateMode::Persistent).await.expect("a create");
    let leadership = elected(campaign(&client, Candidate::new("a"))).await;
    leadership.write(|client| client.set("/app", "mine", None)).await.expect("it leads");
    let late = leadership.client().expect("it leads");
    let lost = leadership.lost();
    operator.delete(leadership.path(), None).await.expect("a delete");
    assert_eq!(tokio::time::timeout(SOON, lost).await, Ok(Loss::Deleted));
    assert_eq!(leadership.check().expect_err("lost").kind, ErrorKind::GrantLost);
    assert_eq!(late.set("/app", "late", None).await.expect_err("guarded").kind, ErrorKind::GuardFailed);
    let successor = elected(campaign(&operator, Candidate::new("b"))).await;
    // Its end must not take the successor's znode along.
    drop(leadership);
    client.sync().await.expect("a sync");
    assert!(operator.exists(successor.path(), ReadLevel::Linearizable).await.expect("a read").is_some());
    let (data, _) = operator.get("/app", ReadLevel::Linearizable).await.expect("a read");
    assert_eq!(data, "mine");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_leader_of_a_thousand_candidates_wakes_one() {
    const CANDIDATES: usize = 1000;
    let ensemble = Ensemble::start(3).await;
    let (client, leading) = (ensemble.client(SOON).await, ensemble.client(TIMEOUT).await);
    let election = LeaderElection::new(&client, PATH);
    let leadership = elected(campaign(&leading, Candidate::new("the first"))).await;
    let polls: Arc<Vec<AtomicUsize>> = Arc::new((0..CANDIDATES).map(|_| AtomicUsize::new(0)).collect());
    let (elected_tx, mut elected_rx) = tokio::sync::mpsc::unbounded_channel();
    for index in 0..CANDIDATES {
        let (election, polls, elected_tx) = (election.clone(), polls.clone(), elected_tx.clone());
        tokio::spawn(async move {
            let candidate = Candidate::new(index.to_string());
            let mut campaign = pin!(election.campaign(&candidate));
            let leadership = poll_fn(|context| {
                polls[index].fetch_add(1, Ordering::Relaxed);
                campaign.as_mut().poll(context)
            })
            .await;
            let _ = elected_tx.send(leadership.expect("elected"));
        });
    }
    let counts = || polls.iter().map(|count| count.load(Ordering::Relaxed)).collect::<Vec<_>>();
    // Each watches one other, and the leader its own znode.
    eventually(Duration::from_secs(120), "a thousand watch one other", async || {
        ensemble.watches().await == CANDIDATES as u64 + 1
    })
    .await;
    let mut before = Vec::new();
    eventually(Duration::from_secs(120), "a thousand wait quietly", async || {
        before = counts();
        tokio::time::sleep(Duration::from_millis(300)).await;
        before == counts()
    })
    .await;
    assert_eq!(election.candidates().await.expect("a list").len(), CANDIDATES);

    let admin = ensemble.admin(ensemble.leader().await).await.expect("an operator");
    admin.kill_session(leading.session_id(), "the test").await.expect("the leader's session is ended");
    let second = tokio::time::timeout(SOON, elected_rx.recv()).await.expect("in time").expect("somebody");
    assert_ne!(second.epoch(), leadership.epoch());
    // What the death and the take-over set in motion is over when somebody else has seen it.
    client.sync().await.expect("a sync");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let woken = counts().iter().zip(&before).filter(|(now, before)| now > before).count();
    // The one that leads now, and the one that waited for it and now waits for the leader.
    assert_eq!(woken, 2, "of {CANDIDATES} candidates");
}

#[tokio::test(flavor = "multi_thread")]
async fn duties_stop_with_the_leadership_and_start_again_in_the_next_session() {
    let ensemble = Ensemble::start(3).await;
    let options = ConnectOptions::new().session_timeout(TIMEOUT);
    let sessions = Sessions::connect(ensemble.endpoints(), options).await.expect("a session");
    let operator = ensemble.client(TIMEOUT).await;
    let (started, running) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let leaked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let candidate = Candidate::new("a");
    struct Running(Arc<AtomicUsize>);
    impl Drop for Running {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let task = {
        let (sessions, started, running, leaked) =
            (sessions.clone(), started.clone(), running.clone(), leaked.clone());
        tokio::spawn(async move {
            lead(&sessions, PATH, &candidate, |leadership| {
                running.fetch_add(1, Ordering::SeqCst);
                let _running = Running(running.clone());
                started.fetch_add(1, Ordering::SeqCst);
                leaked.lock().expect("no panic").push(leadership);
                async move {
                    let _running = _running;
                    std::future::pending::<()>().await;
                }
            })
            .await
        })
    };
    let has_started = async |times: usize| {
        eventually(SOON, "the duties run", async || started.load(Ordering::SeqCst) == times).await;
        assert_eq!(running.load(Ordering::SeqCst), 1);
    };
    has_started(1).await;
    let session_id = sessions.newest().expect("a session").session_id();
    let admin = ensemble.admin(ensemble.leader().await).await.expect("an operator");
    admin.kill_session(session_id, "the test").await.expect("ended");
    has_started(2).await;
    let path = LeaderElection::new(&operator, PATH).leader_path();
    operator.delete(path, None).await.expect("a delete");
    has_started(3).await;
    {
        let leaked = leaked.lock().expect("no panic");
        let checks: Vec<_> = leaked.iter().map(|leadership| leadership.check().is_ok()).collect();
        assert_eq!(checks, [false, false, true]);
    }
    sessions.close().await.expect("closed");
    let end = tokio::time::timeout(SOON, task).await.expect("in time").expect("no panic");
    assert_eq!(end.expect_err("over").kind, ErrorKind::SessionClosed);
    assert_eq!(running.load(Ordering::SeqCst), 0);
}

async fn contender(ensemble: &Ensemble, name: &str) -> Contender {
    let args = ["--path", PATH, "--name", name, "--session-timeout", "2s"];
    Contender::spawn(ensemble, "election", &args).await
}

/// The zombie leader's writes are refused whichever way they come; `nothing` is what it must not write to.
async fn assert_powerless(zombie: &mut Contender, epoch: u64, operator: &Client) {
    for command in ["set /nothing 1000", "late /nothing 1000"] {
        zombie.send(command);
        let wrote = zombie.event(SOON, "wrote").await;
        assert_eq!(wrote.number("accepted"), 0, "{command}: {}", wrote.text);
    }
    // With a session that is alive, only the server stands in the way.
    let leader_path = LeaderElection::new(operator, PATH).leader_path();
    let late = operator.guarded([Check::epoch(leader_path, epoch)]);
    for _ in 0..1000 {
        let refused = late.set("/nothing", "late", None).await.expect_err("guarded");
        assert_eq!(refused.kind, ErrorKind::GuardFailed);
    }
    let stat =
        operator.exists("/nothing", ReadLevel::Linearizable).await.expect("a read").expect("it is there");
    assert_eq!(stat.version, 0, "nobody has written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_killed_stopped_or_cut_off_is_replaced_and_has_no_power_afterwards() {
    let ensemble = Ensemble::start(3).await;
    let operator = ensemble.client(SOON).await;
    operator.create("/nothing", "", CreateMode::Persistent).await.expect("a create");
    let election = LeaderElection::new(&operator, PATH);
    let mut killed = contender(&ensemble, "killed").await;
    let first = killed.event(SOON, "elected").await;
    let mut contenders = Vec::new();
    for name in ["stopped", "cut off", "last"] {
        contenders.push(contender(&ensemble, name).await);
        until_waiting(&election, contenders.len()).await;
    }
    let [mut stopped, mut cut_off, mut last] =
        <[Contender; 3]>::try_from(contenders).unwrap_or_else(|_| unreachable!("three"));
    let within = TIMEOUT + Duration::from_secs(1);

    killed.kill9();
    let second = stopped.event(within, "elected").await;
    assert!(second.number("epoch") > first.number("epoch"));

    stopped.pause();
    let third = cut_off.event(within, "elected").await;
    stopped.resume();
    let refused = stopped.event(SOON, "refused").await;
    assert!(refused.number("passed_ns") < third.number("at_ns"), "{} but {}", refused.text, third.text);
    assert_powerless(&mut stopped, second.number("epoch"), &operator).await;

    cut_off.cut_off();
    let lost = cut_off.event(within, "lost").await;
    let refused = cut_off.event(within, "refused").await;
    let fourth = last.event(within, "elected").await;
    assert!(lost.number("at_ns") < fourth.number("at_ns"), "told in time");
    assert!(refused.number("passed_ns") < fourth.number("at_ns"), "{} but {}", refused.text, fourth.text);
    cut_off.heal();
    assert_powerless(&mut cut_off, third.number("epoch"), &operator).await;

    last.send("set /nothing 10");
    assert_eq!(last.event(SOON, "wrote").await.number("accepted"), 10);
    last.send("release");
    assert!(last.wait_exit().await.success());
    assert_eq!(election.leader().await, Ok(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_two_lead_while_nodes_and_leaders_die() {
    const WRITES: &str = "append /log 2000";
    let mut ensemble = Ensemble::start(3).await;
    let operator = ensemble.client(SOON).await;
    operator.create("/log", "", CreateMode::Persistent).await.expect("a create");
    let mut contenders = Vec::new();
    for index in 0..6 {
        let mut contender = contender(&ensemble, &format!("contender-{index}")).await;
        if index == 0 {
            contender.event(SOON, "elected").await;
        }
        until_waiting(&LeaderElection::new(&operator, PATH), index).await;
        contenders.push(contender);
    }
    // Each writes as fast as it can, and is taken out of the game in the middle of it, while nodes die, too.
    for (index, contender) in contenders.iter_mut().enumerate() {
        if index > 0 {
            contender.event(TIMEOUT * 4, "elected").await;
        }
        contender.send(WRITES);
        let so_far = operator.children("/log", ReadLevel::Linearizable).await.expect("a list").len();
        eventually(SOON, "some writes", async || {
            operator.children("/log", ReadLevel::Linearizable).await.expect("a list").len() > so_far + 20
        })
        .await;
        let leader = ensemble.leader().await;
        if index % 2 == 0 {
            ensemble.kill9(leader);
        }
        match index % 3 {
            0 => contender.kill9(),
            1 => contender.pause(),
            _ => contender.cut_off(),
        }
        if index % 2 == 0 {
            ensemble.restart(leader);
            ensemble.wait_serving().await;
        }
    }
    for contender in &mut contenders {
        if contender.exited().is_none() {
            contender.resume();
            contender.heal();
        }
    }
    let mut epochs = Vec::new();
    for name in operator.children("/log", ReadLevel::Linearizable).await.expect("a list") {
        let (data, _) = operator.get(format!("/log/{name}"), ReadLevel::Local).await.expect("a read");
        let value: serde_json::Value = serde_json::from_slice(&data).expect("JSON");
        epochs.push(value["epoch"].as_u64().expect("an epoch"));
    }
    assert!(epochs.is_sorted(), "an epoch's writes come after those of a later one: {epochs:?}");
    epochs.dedup();
    assert_eq!(epochs.len(), contenders.len(), "each of them has written");
}

#[tokio::test(flavor = "multi_thread")]
async fn leaderships_come_one_after_the_other_and_across_sessions() {
    let ensemble = Ensemble::start(3).await;
    let sessions = Sessions::connect(ensemble.endpoints(), ConnectOptions::new().session_timeout(TIMEOUT))
        .await
        .expect("a session");
    let observer = ensemble.client(TIMEOUT).await;
    let mut won = leaderships(&sessions, PATH, &Candidate::new("a"));
    let mut next = async || {
        let next = tokio::time::timeout(SOON, won.next()).await.expect("in time");
        next.expect("it goes on").expect("elected")
    };
    let first = next().await;
    first.resign().await.expect("resigned");
    let second = next().await;
    let session_id = sessions.newest().expect("a session").session_id();
    let admin = Admin::connect(ensemble.endpoints()[0].as_str(), SOON).await.expect("an answer");
    admin.kill_session(session_id, "the test").await.expect("ended");
    // Whichever of the two is heard first.
    assert!(matches!(second.lost().await, Loss::SessionEnded | Loss::Deleted));
    let third = next().await;
    assert!(second.epoch() < third.epoch());
    assert_eq!(
        LeaderElection::new(&observer, PATH).leader().await.expect("a read").expect("a leader").epoch,
        third.epoch()
    );
    drop(third);
    sessions.close().await.expect("closed");
    let last = won.next().await.expect("why it ends").expect_err("closed");
    assert_eq!(last.kind, ErrorKind::SessionClosed);
}
