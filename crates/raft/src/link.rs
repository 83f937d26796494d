//! This node's way to the leader: an ordered stream that carries its batches and the signs of life of its sessions.
//!
//! The stream is also how a follower learns at once that the leader's process has died: the stream breaks, and a new
//! connection is refused. Then the follower drops the leader's lease and asks for an election, instead of waiting for
//! the lease to run out. Pre-vote keeps this harmless when only this follower sees it so.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use coordd_proto::peer;
use coordd_tree::{RULES, SessionId, Zxid};
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::raft::TransferLeaderRequest;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::NodeId;
use crate::convert::some_log_id_from_wire;
use crate::disk::Shortage;
use crate::leadership::Leadership;
use crate::network::{Lane, contradiction};
use crate::observer::{Observer, SignOfLife, hear};
use crate::replica::Node;
use crate::state_machine::DigestVerdict;

/// Signs of life are passed on so often.
const TOUCH_INTERVAL: Duration = Duration::from_millis(100);
/// Batches that are under way for so long without anything being applied are sent again.
const PATIENCE: Duration = Duration::from_secs(2);
/// A leader's frames are due several times a second; without any for so long the stream is given up.
const SILENCE: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(20);
/// How long a leader's successor may take, after it has resigned.
const SUCCESSION: Duration = Duration::from_millis(100);
/// A frame is closed when it has so many bytes of batches. One command is at most 12 MiB, and a frame at most 16.
const FRAME_BYTES: usize = 2 << 20;
/// How long a new connection may take before the leader counts as unreachable but not as dead.
const PROBE: Duration = Duration::from_millis(250);

/// Sessions heard from since they were last reported, and when the leader was last heard.
pub(crate) struct Contact {
    /// With the generation of the newest stream that was heard; 0 if a call was.
    touched: Mutex<HashMap<SessionId, Zxid>>,
    leader_heard: Mutex<Option<Instant>>,
}

impl Contact {
    pub(crate) fn new() -> Self {
        Contact { touched: Mutex::new(HashMap::new()), leader_heard: Mutex::new(None) }
    }

    pub(crate) fn touch(&self, SignOfLife { session, generation }: SignOfLife) {
        let mut touched = self.touched.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let newest = touched.entry(session).or_insert(generation);
        // A call counts whoever has the session, so it is not lost behind what an older stream says.
        *newest = if generation == 0 || *newest == 0 { 0 } else { generation.max(*newest) };
    }

    fn take_touched(&self) -> Vec<SignOfLife> {
        let mut touched = self.touched.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        touched.drain().map(|(session, generation)| SignOfLife { session, generation }).collect()
    }

    fn heard_leader(&self) {
        *self.leader_heard.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(Instant::now());
    }

    /// How long ago a leader that knows itself to lead was last heard; `None`: never.
    pub(crate) fn leader_silence(&self) -> Option<Duration> {
        self.leader_heard.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).map(|at| at.elapsed())
    }
}

/// Why a stretch of the way to the leader ended.
enum End {
    /// Somebody else leads, or nobody.
    LeadershipChanged,
    /// The way broke, or batches were lost on it.
    Broken,
    /// The peer answers, and says that it does not lead.
    NotLeading,
    /// The process is going down.
    Stopped,
}

/// Carries batches and touches to whoever leads, for ever.
pub(crate) async fn run_link<O: Observer>(node: Arc<Node<O>>) {
    let mut leadership = node.leadership.subscribe();
    loop {
        let current = *leadership.borrow_and_update();
        node.shared.proposer.rewind();
        let end = match current.leader {
            Some(_) if current.is_own => lead(&node, &mut leadership, current).await,
            Some(leader) if leader != node.id() => follow(&node, &mut leadership, current, leader).await,
            _ => match leadership.changed().await {
                Ok(()) => End::LeadershipChanged,
                Err(_) => End::Stopped,
            },
        };
        match end {
            End::Stopped => return,
            End::LeadershipChanged => {}
            End::Broken if current.is_own => tokio::time::sleep(RETRY / 2).await,
            End::NotLeading => {
                // It has resigned, and an election is under way that must not be disturbed by another; or it has just been
                // started again, and nobody leads.
                let other = leadership.wait_for(|now| !now.is_same_reign(current));
                if timeout(SUCCESSION, other).await.is_err() {
                    depose(&node, &mut leadership, current).await;
                }
            }
            End::Broken => {
                if is_refused(&node, current.leader).await && leadership.borrow().is_same_reign(current) {
                    depose(&node, &mut leadership, current).await;
                } else {
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

/// This node leads: its batches go straight into the leader's queue.
async fn lead<O: Observer>(
    node: &Node<O>,
    leadership: &mut watch::Receiver<Leadership>,
    reign: Leadership,
) -> End {
    node.clock.lead(reign.term, node.shared.read().tree.time_ms(), &node.peers.clocks);
    node.rules.lead();
    let mut losses = node.leader.losses();
    let mut tick = interval(TOUCH_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        while let Some(batch) = node.shared.proposer.next_batch() {
            node.leader.push(batch).await;
        }
        tokio::select! {
            () = node.shared.proposer.wake.notified() => {}
            _ = losses.changed() => return End::Broken,
            changed = leadership.changed() => {
                if changed.is_err() { return End::Stopped }
                if !leadership.borrow().is_same_reign(reign) { return End::LeadershipChanged }
            }
            _ = tick.tick() => {
                node.clock.settle(&node.peers.clocks);
                let touched = node.contact.take_touched();
                hear(&node.shared.observer, node.id(), &touched).await;
                if node.has_fresh_quorum() { node.contact.heard_leader() }
                if node.shared.proposer.is_stuck(PATIENCE) && node.has_fresh_quorum() { return End::Broken }
            }
        }
    }
}

/// Another node leads: batches and touches go over a stream to it.
async fn follow<O: Observer>(
    node: &Node<O>,
    leadership: &mut watch::Receiver<Leadership>,
    reign: Leadership,
    leader: NodeId,
) -> End {
    let Ok(mut client) = node.peers.client(leader, Lane::Bulk) else { return End::Broken };
    let (frames_tx, frames_rx) = tokio::sync::mpsc::channel(8);
    let mut told_low = (node.disk.is_low(), node.disk.memory_is_low());
    let header = Some(node.peers.header(leader));
    let first = peer::ForwardFrame {
        header,
        disk_is_low: told_low.0,
        memory_is_low: told_low.1,
        rules: RULES,
        ..Default::default()
    };
    if frames_tx.send(first).await.is_err() {
        return End::Broken;
    }
    let mut replies = match timeout(PROBE * 4, client.forward(ReceiverStream::new(frames_rx))).await {
        Ok(Ok(reply)) => reply.into_inner(),
        Ok(Err(status)) if status.code() == Code::Aborted => return End::NotLeading,
        Ok(Err(status)) => {
            tracing::debug!(leader, %status, "no stream to the leader");
            return End::Broken;
        }
        Err(_) => return End::Broken,
    };
    let mut tick = interval(TOUCH_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    let mut unverified: Option<peer::ForwardReply> = None;
    loop {
        let mut frame = peer::ForwardFrame::default();
        tokio::select! {
            () = node.shared.proposer.wake.notified() => {}
            changed = leadership.changed() => {
                if changed.is_err() { return End::Stopped }
                if !leadership.borrow().is_same_reign(reign) { return End::LeadershipChanged }
            }
            reply = replies.message() => match reply {
                Ok(Some(reply)) => {
                    heard = Instant::now();
                    node.contact.heard_leader();
                    let what = if reply.for_memory { Shortage::Memory } else { Shortage::Disk };
                    node.disk.refuse_growth(reply.growth_refused.then_some(what));
                    if reply.applied_index > 0 && unverified.is_none() {
                        unverified = Some(reply);
                    }
                }
                Ok(None) => return End::Broken,
                Err(status) if status.code() == Code::Aborted => return End::NotLeading,
                Err(status) => {
                    tracing::debug!(leader, %status, "the stream to the leader ended");
                    return End::Broken;
                }
            },
            _ = tick.tick() => {
                if heard.elapsed() > SILENCE || node.shared.proposer.is_stuck(PATIENCE) { return End::Broken }
                (frame.touched, frame.touched_generations) = SignOfLife::to_wire(&node.contact.take_touched());
                unverified = unverified.filter(|said| verify(node, said));
            }
        }
        let mut bytes = 0;
        while bytes < FRAME_BYTES
            && let Some(batch) = node.shared.proposer.next_batch()
        {
            bytes += batch.len();
            frame.batches.push(batch);
        }
        if bytes >= FRAME_BYTES {
            node.shared.proposer.wake.notify_one();
        }
        let low = (node.disk.is_low(), node.disk.memory_is_low());
        (frame.disk_is_low, frame.memory_is_low) = low;
        if frame.batches.is_empty() && frame.touched.is_empty() && low == told_low {
            continue;
        }
        told_low = low;
        match timeout(SILENCE, frames_tx.send(frame)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return End::Broken,
        }
    }
}

/// Compares this node's digest with the leader's (G8); says whether that is still to be done.
fn verify<O: Observer>(node: &Node<O>, said: &peer::ForwardReply) -> bool {
    let index = said.applied_index;
    match node.shared.compare_digest(index, said.digest) {
        DigestVerdict::Equal => false,
        DigestVerdict::Unknown => *node.shared.applied.borrow() < index,
        // Of a log that lost a part of this one's, which is no reason for this node to leave.
        DigestVerdict::Differs { .. } if is_of_another_log(node, said) => false,
        DigestVerdict::Differs { ours } => node.diverged(index, said.digest, ours),
    }
}

fn is_of_another_log<O: Observer>(node: &Node<O>, said: &peer::ForwardReply) -> bool {
    let Ok(Some(leaders)) = some_log_id_from_wire(said.applied) else { return false };
    let applied = node.raft.metrics().borrow_watched().last_applied;
    let own = |index| node.log.cached_log_id(index);
    applied.is_some_and(|applied| contradiction(&[leaders], applied, own).is_some())
}

/// A new connection to the peer is refused: nothing listens there, so the process is gone.
async fn is_refused<O: Observer>(node: &Node<O>, peer: Option<NodeId>) -> bool {
    let Some(address) = peer.and_then(|id| node.peers.address(id)) else { return false };
    match timeout(PROBE, TcpStream::connect(address)).await {
        Ok(Err(error)) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        _ => false,
    }
}

/// The leader of `reign` is gone: drops its lease and asks for an election until somebody leads. Pre-vote comes first,
/// so nothing happens while a majority still hears the leader.
async fn depose<O: Observer>(
    node: &Node<O>,
    leadership: &mut watch::Receiver<Leadership>,
    reign: Leadership,
) {
    let (Some(leader), Some(vote)) = (reign.leader, reign.vote) else { return };
    tracing::info!(leader, term = reign.term, "the leader is gone; asking for an election");
    // "Transferred to somebody else" is openraft's word for: this vote has no lease any more.
    let drop_lease = TransferLeaderRequest::new(vote, leader, None);
    if node.raft.handle_transfer_leader(drop_lease).await.is_err() {
        return;
    }
    for _ in 0..4 {
        if !leadership.borrow().is_same_reign(reign) || node.raft.trigger().elect(true).await.is_err() {
            return;
        }
        // Different on each node, so that two that ask for each other's vote do not stay in step.
        let wait = Duration::from_millis(40 + 25 * (node.id() % 4));
        let _ = timeout(wait, leadership.wait_for(|now| !now.is_same_reign(reign))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of what is heard between two reports, the sign of life that counts longest is reported.
    #[test]
    fn the_newest_stream_is_reported() {
        let contact = Contact::new();
        for (session, generation) in [(1, 5), (1, 9), (1, 7), (2, 5), (2, 0), (2, 9), (3, 4)] {
            contact.touch(SignOfLife { session, generation });
        }
        let mut touched = contact.take_touched();
        touched.sort_by_key(|sign| sign.session);
        let expected = [(1, 9), (2, 0), (3, 4)];
        assert_eq!(touched, expected.map(|(session, generation)| SignOfLife { session, generation }));
        assert!(contact.take_touched().is_empty());
    }

    /// A peer that knows only rules 1 sends sessions without generations.
    #[test]
    fn missing_generations_are_not_checked() {
        let signs = SignOfLife::from_wire(&[7, 8], &[3]);
        let expected = [(7, 3), (8, 0)].map(|(session, generation)| SignOfLife { session, generation });
        assert_eq!(signs, expected);
        assert_eq!(SignOfLife::to_wire(&signs), (vec![7, 8], vec![3, 0]));
    }
}
