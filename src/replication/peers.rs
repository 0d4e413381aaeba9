//! How many other nodes there are, by their events, and how long a node gathers its own events because of that.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A node from which nothing was heard for so long does not count.
const HEARD_WITHIN: Duration = Duration::from_secs(60);

/// Most nodes that are counted; more make no difference.
const PEERS_MAX: usize = 4096;

/// With up to so many nodes, events are not gathered. With more they are, since Redis hands every event to every node.
const PEERS_AT_ONCE: usize = 8;

/// For each further node, a writer leaves so much time between two batches, ...
const PAUSE_PER_PEER: Duration = Duration::from_micros(500);

/// ... and not more than this.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// The nodes whose events were heard lately.
#[derive(Default)]
pub(super) struct Peers {
    heard: Mutex<HashMap<u64, Instant>>,
    count: AtomicUsize,
}

impl Peers {
    /// Notes the nodes whose events were just read.
    pub fn heard(&self, nodes: impl Iterator<Item = u64>, now: Instant) {
        let mut heard = self.heard.lock();
        for node in nodes {
            if heard.len() < PEERS_MAX || heard.contains_key(&node) {
                heard.insert(node, now);
            }
        }
        heard.retain(|_, last| now.saturating_duration_since(*last) < HEARD_WITHIN);
        self.count.store(heard.len(), Ordering::Relaxed);
    }

    /// How many were heard lately.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// The time between the beginnings of two batches that are not full: packed events cost Redis a fraction of single ones.
    pub fn pause(&self) -> Duration {
        let more = self.count.load(Ordering::Relaxed).saturating_sub(PEERS_AT_ONCE);
        (PAUSE_PER_PEER * more as u32).min(PAUSE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_nodes_there_are_the_more_is_packed() {
        let (peers, start) = (Peers::default(), Instant::now());
        assert_eq!(peers.pause(), Duration::ZERO);
        peers.heard(0..8, start);
        assert_eq!(peers.pause(), Duration::ZERO);
        peers.heard(0..100, start);
        assert_eq!(peers.pause(), Duration::from_millis(46));
        peers.heard(0..10_000, start);
        assert_eq!(peers.pause(), PAUSE_MAX);
        peers.heard(0..9, start + HEARD_WITHIN);
        assert_eq!(peers.pause(), PAUSE_PER_PEER, "the others are gone");
    }
}
