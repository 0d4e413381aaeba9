use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A node of which nothing was heard for so long does not count.
const HEARD_WITHIN: Duration = Duration::from_secs(60);

/// Nodes that are told apart; more make no difference.
const PEERS_MAX: usize = 4096;

/// So few nodes are told of each write at once: Redis has to hand every event to every node.
const PEERS_AT_ONCE: usize = 8;

/// For each node more, a writer leaves so much time between two batches, ...
const PAUSE_PER_PEER: Duration = Duration::from_micros(250);

/// ... and not more than this.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// The nodes that write events, as far as they were heard lately.
#[derive(Default)]
pub(super) struct Peers {
    heard: Mutex<HashMap<u64, Instant>>,
    count: AtomicUsize,
}

impl Peers {
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

    /// The time from the beginning of a batch to that of the next, if that is not full: events that are packed cost Redis a fraction.
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
        assert_eq!(peers.pause(), Duration::from_millis(23));
        peers.heard(0..10_000, start);
        assert_eq!(peers.pause(), PAUSE_MAX);
        peers.heard(0..9, start + HEARD_WITHIN);
        assert_eq!(peers.pause(), PAUSE_PER_PEER, "the others are gone");
    }
}
