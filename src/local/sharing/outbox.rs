//! The state of a store that shares its objects with other nodes: the ledger, the replication cursors, and which objects are suspect.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use parking_lot::Mutex;

use super::continuity::Continuity;
use super::hidden::Hidden;
use crate::local::catalog::cursors::Cursors;
use crate::local::index::changes::Changes;
use crate::local::journal::Lsn;
use crate::local::sharing::ledger::Ledger;

/// What the local tier needs to know in order to share its objects with other nodes.
#[derive(Clone, Debug)]
pub(crate) struct OutboxOptions {
    /// The prefix of the keys in Redis. Cursors hold for this prefix only.
    pub prefix: String,
    /// How long objects live, 0 for ever.
    pub object_ttl_ms: u64,
    /// How long tombstones are kept.
    pub tombstone_ttl_ms: u64,
    /// Whether Redis tells of a value which version it is.
    pub has_versions: bool,
    /// Wakes the replicator; has room for one message.
    pub wake: Sender<()>,
}

/// A broken connection is made anew in less: until then, whoever waits for Redis to take records goes on waiting.
const STUCK_MIN: Duration = Duration::from_secs(2);

/// The ledger of what Redis has yet to get, and how far the other nodes' events were heard. The records themselves stay in the journal,
/// which is the queue.
pub(crate) struct Outbox {
    pub options: OutboxOptions,
    pub ledger: Ledger,
    /// Whether Redis is the one for which the cursors hold.
    pub continuity: Arc<Continuity>,
    /// Records below are from before this open.
    pub opened_at: Lsn,
    hearing: Mutex<Hearing>,
    /// For values without versions: this open has heard what the stream tells of records of earlier opens, ...
    has_heard_past: AtomicBool,
    /// ... and the stream was complete.
    is_history_complete: AtomicBool,
    /// Objects below this lsn may have changed unheard: see `is_suspect`.
    suspect_below: AtomicU64,
    /// Of what is dirty, what is below this lsn may have been sent before events were missed.
    sent_below: AtomicU64,
    /// How often events may have been missed.
    losses: AtomicU64,
    /// No events are heard though Redis answers: every object that Redis has had is suspect.
    deaf: AtomicBool,
    /// Since when Redis has not taken everything that it was sent.
    stuck: Mutex<Option<Instant>>,
    /// Drops that the journal did not take.
    pub hidden: Hidden,
    /// The change counters: raised when objects that attached processes may remember become suspect.
    changes: Arc<Changes>,
}

/// What was suspect at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Suspicion {
    losses: u64,
    below: Lsn,
}

/// How far events were heard, under one lock.
struct Hearing {
    /// As loaded at open; updated here, persisted by the sealer.
    cursors: Cursors,
    /// Objects were evicted whose segment is not removed yet: the event cursor must not advance on disk (`set_evicting`).
    is_evicting: bool,
}

impl Outbox {
    /// `found`: the cursors in the catalog; `end`: the journal's end at open.
    pub fn new(options: OutboxOptions, found: Option<Cursors>, end: Lsn, changes: Arc<Changes>) -> Self {
        let found = found.filter(|found| found.prefix == options.prefix);
        let ledger = Ledger::new(found.as_ref().map(|found| found.replicated), end);
        let prefix = options.prefix.clone();
        let cursors = Cursors { prefix, ..found.unwrap_or_default() };
        let [suspect_below, sent_below] = [(); 2].map(|()| AtomicU64::new(cursors.suspect_below.to_u64()));
        let hearing = Mutex::new(Hearing { cursors, is_evicting: false });
        Outbox {
            options,
            opened_at: end,
            ledger,
            continuity: Arc::new(Continuity::new()),
            hearing,
            has_heard_past: AtomicBool::new(false),
            is_history_complete: AtomicBool::new(false),
            suspect_below,
            sent_below,
            losses: AtomicU64::new(0),
            deaf: AtomicBool::new(false),
            stuck: Mutex::new(None),
            hidden: Hidden::default(),
            changes,
        }
    }

    /// Tells the replicator that there is a record to push.
    #[inline]
    pub fn wake(&self) {
        // Full: it is woken already. Disconnected: the store is being closed.
        let _ = self.options.wake.try_send(());
    }

    /// Whether records of earlier opens may still be dirty.
    pub fn has_earlier_records(&self) -> bool {
        self.ledger.replicated() < self.opened_at
    }

    /// Whether this open has dirty records of earlier opens, and has yet to hear what the stream tells of them.
    pub fn needs_history(&self) -> bool {
        self.has_earlier_records() && !self.has_heard_past.load(Ordering::Acquire)
    }

    /// The stream is about to be read from its beginning. `is_whole`: it still has every entry that was ever added.
    pub fn begin_history_replay(&self, is_whole: bool) {
        self.is_history_complete.store(is_whole, Ordering::Release);
    }

    /// An entry of the stream was not understood.
    pub fn miss_history(&self) {
        self.is_history_complete.store(false, Ordering::Release);
    }

    /// The stream was read up to its end, as `begin_history_replay` announced.
    pub fn finish_history_replay(&self) {
        self.has_heard_past.store(true, Ordering::Release);
    }

    /// Whether another node's event may be later than the record at `lsn` though that record's own event was not heard: the stream may have
    /// lost it.
    pub fn may_be_overruled(&self, lsn: Lsn) -> bool {
        lsn < self.opened_at && !self.is_history_complete.load(Ordering::Acquire)
    }

    /// Whether dirty records are becoming fewer: there are some, and as far as is known Redis takes what it is sent, or did a moment ago.
    pub fn is_draining(&self, end: Lsn) -> bool {
        self.ledger.replicated() < end && self.stuck.lock().is_none_or(|since| since.elapsed() < STUCK_MIN)
    }

    /// Notes whether Redis takes what it is sent: it can be reached, and refuses nothing. A record that is set aside, or cannot be read, is no sign of
    /// the contrary.
    pub fn set_draining(&self, emptied: bool) {
        let mut stuck = self.stuck.lock();
        *stuck = if emptied { None } else { stuck.or_else(|| Some(Instant::now())) };
    }

    /// Whether Redis may lack the record at `lsn`. `is_clean` is the record's own flag.
    pub fn is_dirty(&self, lsn: Lsn, is_clean: bool) -> bool {
        self.ledger.is_dirty(lsn, is_clean)
    }

    /// The epoch of the Redis for which the cursors hold; empty if there is none yet.
    pub fn epoch(&self) -> String {
        self.hearing.lock().cursors.epoch.clone()
    }

    /// Notes that this is the epoch of the Redis for which the cursors hold, which is thereby confirmed.
    pub fn set_epoch(&self, epoch: String) {
        self.hearing.lock().cursors.epoch = epoch;
        self.continuity.confirm();
    }

    /// The last event acted upon (empty: none), and when the event reader was last in step.
    pub fn heard(&self) -> (String, u64) {
        let state = self.hearing.lock();
        (state.cursors.events.clone(), state.cursors.in_step_ms)
    }

    /// Notes that everything up to this event was acted upon.
    pub fn set_heard(&self, events: String, in_step_ms: u64) {
        let mut state = self.hearing.lock();
        state.cursors.events = events;
        state.cursors.in_step_ms = in_step_ms;
    }

    /// While objects are evicted whose segment is not yet removed, the event cursor is not persisted: an event about one of them leaves no
    /// record behind, and the next open would find the object again.
    pub fn set_evicting(&self, is_evicting: bool) {
        self.hearing.lock().is_evicting = is_evicting;
    }

    /// The cursors to store in the catalog once the journal is durable. None while the older ones must stay there.
    pub fn cursors(&self) -> Option<Cursors> {
        let state = self.hearing.lock();
        if state.is_evicting || !self.hidden.is_empty() || self.are_cursors_wrong() || state.cursors.epoch.is_empty() {
            return None;
        }
        Some(Cursors { replicated: self.ledger.replicated(), ..state.cursors.clone() })
    }

    /// Whether what the stored cursors say is clean may be missing in Redis: they are removed, and without them the next open takes everything for
    /// dirty.
    pub fn are_cursors_wrong(&self) -> bool {
        self.ledger.has_backlog() || self.continuity.is_lost()
    }

    /// Whether no events are heard: then every object that Redis has had is suspect.
    #[inline]
    pub fn is_deaf(&self) -> bool {
        self.deaf.load(Ordering::Acquire)
    }

    pub fn set_deaf(&self, deaf: bool) {
        self.deaf.store(deaf, Ordering::Release);
        if deaf {
            self.changes.raise_epoch();
        }
    }

    /// Events about records below `end` may have been missed: they become doubtful, and suspect once Redis has had them.
    pub fn suspect_below(&self, end: Lsn) {
        let mut state = self.hearing.lock();
        let cursors = &mut state.cursors;
        if cursors.suspect_below.is_none() {
            cursors.suspect_since_ms = cursors.in_step_ms;
        }
        cursors.suspect_below = cursors.suspect_below.max(end);
        self.suspect_below.store(cursors.suspect_below.to_u64(), Ordering::Release);
        self.changes.raise_epoch();
    }

    /// Records below `end` may have been sent before events were missed.
    pub fn doubt_sent_below(&self, end: Lsn) {
        self.sent_below.fetch_max(end.to_u64(), Ordering::AcqRel);
    }

    /// Whether the record at `lsn`, which is dirty, may have been sent, and overruled, before events were missed. Not where values have no versions:
    /// then Redis cannot tell whether it has a later one.
    pub fn was_sent_before_loss(&self, lsn: Lsn) -> bool {
        let is_early = || self.is_deaf() || lsn.to_u64() < self.sent_below.load(Ordering::Acquire);
        self.options.has_versions && is_early() && self.ledger.may_have_been_sent(lsn)
    }

    /// How often events may have been missed. Whoever keeps a fetched copy reads this before it asks whether the copy is current, and again
    /// when the copy stands: if it has changed, the copy may stand above the lsn that `suspect_below` was given.
    pub fn losses(&self) -> u64 {
        self.losses.load(Ordering::SeqCst)
    }

    /// Counts that events may have been missed. To be called before the journal's end is read that is given to `suspect_below`.
    pub fn count_loss(&self) {
        self.losses.fetch_add(1, Ordering::SeqCst);
    }

    /// What is suspect at this moment.
    pub fn suspicion(&self) -> Suspicion {
        Suspicion { losses: self.losses(), below: self.hearing.lock().cursors.suspect_below }
    }

    /// All that was suspect `then` was found to be checked or gone: there are no suspects, unless some came meanwhile. Those of a later gap were
    /// in step until then.
    pub fn suspect_none(&self, then: Suspicion) {
        let mut state = self.hearing.lock();
        if then.losses == self.losses() && then.below == state.cursors.suspect_below {
            state.cursors.suspect_below = Lsn::NONE;
            self.suspect_below.store(Lsn::NONE.to_u64(), Ordering::Release);
        }
    }

    /// A suspect's record was copied to `to`: the copy is suspect too. `dirty`: place and id of a dirty one, whose copy is pushed apart, as one that may
    /// have been sent before.
    pub fn suspect_moved(&self, to: Lsn, dirty: Option<(Lsn, &[u8])>) {
        let end = to.just_above();
        if dirty.is_some_and(|(from, id)| self.ledger.lose_copy(from, to, id)) {
            self.doubt_sent_below(end);
        }
        self.suspect_below(end);
    }

    /// Whether Redis would still have a tombstone, had a suspect been deleted unheard. The delete would be later than the write, which was
    /// `age_ms` ago, and later than the beginning of the gap.
    pub fn would_have_tombstone(&self, age_ms: u64, now_ms: u64) -> bool {
        let cursors = &self.hearing.lock().cursors;
        // If no events were lost, the question comes up because none are heard now: the gap began when the reader was last in step.
        let since_ms = if cursors.suspect_below.is_none() { cursors.in_step_ms } else { cursors.suspect_since_ms };
        let unheard_ms = now_ms.saturating_sub(since_ms);
        unheard_ms.min(age_ms) < self.options.tombstone_ttl_ms
    }

    #[inline]
    pub fn is_suspect(&self, lsn: Lsn) -> bool {
        self.is_deaf() || lsn.to_u64() < self.suspect_below.load(Ordering::Acquire)
    }

    #[inline]
    pub fn has_suspects(&self) -> bool {
        self.is_deaf() || self.suspect_below.load(Ordering::Acquire) > 0
    }
}
