//! The numbers that are shown: a snapshot each second, the last one for whoever asks, and what it tells of the last minutes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use parking_lot::Mutex;
use serde::Serialize;

use crate::server::latency::Latency;
use crate::server::stats::{ServerStats, ServerWatch};
use crate::{HealthState, ObjectStore, Stats};

/// How often a snapshot is taken.
const EVERY: Duration = Duration::from_secs(1);

/// How many are remembered: ten minutes.
const HISTORY: usize = 600;

/// What the server is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub(super) enum Phase {
    Starting,
    Ready,
    Stopping,
}

/// A snapshot, and what it tells beside the one before.
#[derive(Debug)]
pub(super) struct Sample {
    pub taken: Instant,
    pub stats: Stats,
    pub server: ServerStats,
    pub point: Point,
}

/// One second of the history. Rates are for a second.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Point {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    pub is_degraded: bool,
    /// Gets, puts, deletes and duplicates, by whatever way they came.
    pub operations: f64,
    pub gets: f64,
    pub puts: f64,
    /// Which part of the gets found their object here; none without gets.
    pub hit_part: Option<f64>,
    /// Times of clients' requests in seconds; none where there were none.
    pub median_seconds: Option<f64>,
    pub late_seconds: Option<f64>,
    /// Bytes read and put.
    pub read_bytes: f64,
    pub put_bytes: f64,
    pub objects: u64,
    pub physical_bytes: u64,
    pub dirty_records: u64,
    pub oldest_dirty_seconds: f64,
    pub waiting: u64,
    pub oldest_wait_seconds: f64,
}

/// What the threads of the status server share.
pub(super) struct Board {
    phase: AtomicU8,
    source: Mutex<Option<(ObjectStore, ServerWatch)>>,
    latest: ArcSwapOption<Sample>,
    history: Mutex<VecDeque<Point>>,
    /// Why the last snapshot could not be taken.
    trouble: Mutex<Option<String>>,
}

impl Default for Board {
    fn default() -> Self {
        Board {
            phase: AtomicU8::new(Phase::Starting as u8),
            source: Mutex::default(),
            latest: ArcSwapOption::empty(),
            history: Mutex::default(),
            trouble: Mutex::default(),
        }
    }
}

/// What `/status.json` has.
#[derive(Serialize)]
pub(super) struct Status<'a> {
    state: Phase,
    /// How old the numbers are; none where there are none.
    age_seconds: Option<f64>,
    /// Why there are no newer ones.
    trouble: Option<String>,
    stats: Option<&'a Stats>,
    server: Option<&'a ServerStats>,
    latency_bounds_seconds: Vec<f64>,
    now: Option<&'a Point>,
}

impl Board {
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Ready,
            _ => Phase::Stopping,
        }
    }

    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// Where snapshots are taken from now on. What was there is dropped here, and not by the thread that uses it at the moment, if it does.
    pub fn set_source(&self, source: Option<(ObjectStore, ServerWatch)>) {
        let before = std::mem::replace(&mut *self.source.lock(), source);
        drop(before);
    }

    pub fn latest(&self) -> Option<Arc<Sample>> {
        self.latest.load_full()
    }

    /// Why all is not well, in sentences.
    pub fn complaints(&self) -> Vec<String> {
        let sample = self.latest();
        let reasons = sample.iter().flat_map(|sample| &sample.stats.health.reasons).map(|reason| reason.text.clone());
        reasons.chain(self.trouble.lock().clone()).collect()
    }

    pub fn status_json(&self) -> serde_json::Result<String> {
        let sample = self.latest();
        let sample = sample.as_deref();
        serde_json::to_string(&Status {
            state: self.phase(),
            age_seconds: sample.map(|sample| sample.taken.elapsed().as_secs_f64()),
            trouble: self.trouble.lock().clone(),
            stats: sample.map(|sample| &sample.stats),
            server: sample.map(|sample| &sample.server),
            latency_bounds_seconds: Latency::bounds(),
            now: sample.map(|sample| &sample.point),
        })
    }

    pub fn history_json(&self) -> serde_json::Result<String> {
        let history: Vec<Point> = self.history.lock().iter().cloned().collect();
        serde_json::to_string(&history)
    }

    fn sample(&self) {
        let Some((store, server)) = self.source.lock().clone() else { return };
        let taken = Instant::now();
        let stats = match store.stats() {
            Ok(stats) => stats,
            Err(error) => return *self.trouble.lock() = Some(format!("there are no new numbers: {error}")),
        };
        let server = server.stats();
        let before = self.latest.load();
        let point = Point::of(&stats, &server, before.as_deref(), taken);
        self.latest.store(Some(Arc::new(Sample { taken, stats, server, point: point.clone() })));
        let mut history = self.history.lock();
        while history.len() >= HISTORY {
            history.pop_front();
        }
        history.push_back(point);
        *self.trouble.lock() = None;
    }
}

impl Point {
    fn of(stats: &Stats, server: &ServerStats, before: Option<&Sample>, taken: Instant) -> Point {
        let elapsed = before.map_or(0.0, |before| taken.saturating_duration_since(before.taken).as_secs_f64());
        let earlier = before.map(|before| &before.stats.operations);
        let more = |now: u64, earlier: Option<u64>| earlier.map_or(0.0, |earlier| now.saturating_sub(earlier) as f64);
        let rate = |more: f64| if elapsed > 0.0 { more / elapsed } else { 0.0 };
        let operations = &stats.operations;
        let hits = more(operations.hits, earlier.map(|earlier| earlier.hits));
        let misses = more(operations.misses, earlier.map(|earlier| earlier.misses));
        let puts = more(operations.puts, earlier.map(|earlier| earlier.puts));
        let deletes = more(operations.deletes, earlier.map(|earlier| earlier.deletes));
        let duplicates = more(operations.duplicates, earlier.map(|earlier| earlier.duplicates));
        let recent = before.map(|before| recent(server, &before.server)).unwrap_or_default();
        let replication = stats.replication.as_ref();
        Point {
            // A clock before 1970 is shown as 1970.
            at_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64),
            is_degraded: stats.health.state == HealthState::Degraded,
            operations: rate(hits + misses + puts + deletes + duplicates),
            gets: rate(hits + misses),
            puts: rate(puts),
            hit_part: (hits + misses > 0.0).then(|| hits / (hits + misses)),
            median_seconds: recent.quantile(0.5),
            late_seconds: recent.quantile(0.99),
            read_bytes: rate(more(operations.read_bytes, earlier.map(|earlier| earlier.read_bytes))),
            put_bytes: rate(more(operations.put_bytes, earlier.map(|earlier| earlier.put_bytes))),
            objects: stats.objects,
            physical_bytes: stats.physical_bytes,
            dirty_records: replication.map_or(0, |replication| replication.dirty_records),
            oldest_dirty_seconds: replication.map_or(0.0, |replication| replication.oldest_dirty_seconds),
            waiting: stats.waits.requests,
            oldest_wait_seconds: stats.waits.oldest_seconds,
        }
    }
}

/// The times of all requests since `before` but of those that waited, which say nothing of the server.
fn recent(now: &ServerStats, before: &ServerStats) -> Latency {
    let operations = now.operations.iter().filter(|(name, _)| *name != "wait");
    operations.fold(Latency::default(), |all, (name, latency)| {
        all.and(&before.operations.get(name).map_or_else(|| latency.clone(), |before| latency.since(before)))
    })
}

/// Takes a snapshot each second, and at once when it is woken, until `woken` is disconnected.
pub(super) fn run(board: &Board, woken: &Receiver<()>) {
    loop {
        match woken.recv_timeout(EVERY) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => board.sample(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
