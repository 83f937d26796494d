use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tun_rs::SyncDevice;

use super::{HostId, Link};

/// Room for the largest packet of a device.
const PACKET_BYTES_MAX: usize = 16 << 10;
/// Where the address of the receiver ends, in the header of an IPv4 packet.
const DESTINATION_LAST_BYTE: usize = 19;

/// Connects hosts: a thread a host takes what it sends and hands it on, as the link says.
#[derive(Clone)]
pub(crate) struct Switch {
    shared: Arc<Shared>,
}

struct Shared {
    devices: Mutex<HashMap<HostId, Arc<SyncDevice>>>,
    /// Links that are not perfect.
    links: Mutex<HashMap<(HostId, HostId), Link>>,
    late: Mutex<BinaryHeap<Reverse<Late>>>,
    is_earlier: Condvar,
    dice: Mutex<StdRng>,
    dropped: AtomicU64,
    delayed: AtomicU64,
    duplicated: AtomicU64,
}

/// A packet under way, ordered by when it arrives.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Late {
    due: Instant,
    to: HostId,
    packet: Vec<u8>,
}

/// What became of the packets so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) dropped: u64,
    pub(crate) delayed: u64,
    pub(crate) duplicated: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Switch {
    pub(crate) fn new(seed: u64) -> Switch {
        let shared = Arc::new(Shared {
            devices: Mutex::default(),
            links: Mutex::default(),
            late: Mutex::default(),
            is_earlier: Condvar::new(),
            dice: Mutex::new(StdRng::seed_from_u64(seed)),
            dropped: AtomicU64::new(0),
            delayed: AtomicU64::new(0),
            duplicated: AtomicU64::new(0),
        });
        let delivering = shared.clone();
        std::thread::spawn(move || delivering.deliver_late());
        Switch { shared }
    }

    /// Takes and hands over the packets of a host from now on.
    pub(crate) fn connect(&self, host: HostId, device: Arc<SyncDevice>) {
        lock(&self.shared.devices).insert(host, device.clone());
        let shared = self.shared.clone();
        std::thread::spawn(move || {
            let mut packet = vec![0; PACKET_BYTES_MAX];
            // An error is the end of the device.
            while let Ok(length) = device.recv(&mut packet) {
                let is_connected =
                    lock(&shared.devices).get(&host).is_some_and(|connected| Arc::ptr_eq(connected, &device));
                if !is_connected {
                    return;
                }
                shared.take(host, &packet[..length]);
            }
        });
    }

    /// Its packets go nowhere, and its device is given back with the next one that it sends.
    pub(crate) fn disconnect(&self, host: HostId) {
        lock(&self.shared.devices).remove(&host);
    }

    /// What becomes of the packets in one direction from now on. What is under way already arrives.
    pub(crate) fn set(&self, from: HostId, to: HostId, link: Link) {
        let mut links = lock(&self.shared.links);
        match link == Link::default() {
            true => drop(links.remove(&(from, to))),
            false => drop(links.insert((from, to), link)),
        }
    }

    /// All links are perfect.
    pub(crate) fn heal(&self) {
        lock(&self.shared.links).clear();
    }

    pub(crate) fn traffic(&self) -> Traffic {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Shared { dropped, delayed, duplicated, .. } = &*self.shared;
        Traffic { dropped: count(dropped), delayed: count(delayed), duplicated: count(duplicated) }
    }
}

impl Shared {
    fn take(&self, from: HostId, packet: &[u8]) {
        let is_ipv4 = packet.first().is_some_and(|byte| byte >> 4 == 4);
        let Some(to) = packet.get(DESTINATION_LAST_BYTE).copied().filter(|_| is_ipv4) else { return };
        let link = lock(&self.links).get(&(from, to)).copied();
        let Some(link) = link else {
            return self.hand_over(to, packet);
        };
        let (is_lost, comes_twice, lateness) = {
            let mut dice = lock(&self.dice);
            let lateness = link.delay + link.jitter.mul_f64(dice.random());
            (link.cut || dice.random_bool(link.loss), dice.random_bool(link.duplicated), lateness)
        };
        if is_lost {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.duplicated.fetch_add(u64::from(comes_twice), Ordering::Relaxed);
        for _ in 0..=u8::from(comes_twice) {
            match lateness {
                Duration::ZERO => self.hand_over(to, packet),
                _ => self.delay(to, packet, lateness),
            }
        }
    }

    fn delay(&self, to: HostId, packet: &[u8], lateness: Duration) {
        self.delayed.fetch_add(1, Ordering::Relaxed);
        let late = Late { due: Instant::now() + lateness, to, packet: packet.to_vec() };
        lock(&self.late).push(Reverse(late));
        self.is_earlier.notify_one();
    }

    fn hand_over(&self, to: HostId, packet: &[u8]) {
        let device = lock(&self.devices).get(&to).cloned();
        if let Some(device) = device {
            // A device that takes no more has lost the packet, as a network does.
            drop(device.send(packet));
        }
    }

    fn deliver_late(&self) -> ! {
        let mut late = lock(&self.late);
        loop {
            let now = Instant::now();
            let wait = match late.peek() {
                None => Duration::from_secs(3600),
                Some(Reverse(first)) => first.due.saturating_duration_since(now),
            };
            if wait.is_zero() {
                if let Some(Reverse(first)) = late.pop() {
                    drop(late);
                    self.hand_over(first.to, &first.packet);
                    late = lock(&self.late);
                }
            } else {
                let waited = self.is_earlier.wait_timeout(late, wait);
                late = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
            }
        }
    }
}
