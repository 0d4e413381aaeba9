use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use parking_lot::Mutex;

use super::hidden::Hidden;
use crate::local::catalog::cursors::Cursors;
use crate::local::index::changes::Changes;
use crate::local::journal::Lsn;
use crate::local::sharing::ledger::Ledger;

/// What makes the local tier one of several nodes' rather than a store of its own.
#[derive(Clone, Debug)]
pub(crate) struct OutboxOptions {
    /// What the keys in Redis begin with: cursors are good for this prefix only.
    pub prefix: String,
    /// How long objects live, 0 for ever.
    pub object_ttl_ms: u64,
    /// How long deletes are remembered.
    pub tombstone_ttl_ms: u64,
    /// Called, with room for one message, when there is something to push.
    pub wake: Sender<()>,
}

/// A connection that is made anew is back after less: until then, who waits for Redis goes on waiting.
const STUCK_MIN: Duration = Duration::from_secs(2);

/// What this node shares with others: the ledger of what Redis has yet to get, and how far the others' events were heard. The records
/// themselves stay where they are: the journal is the queue.
pub(crate) struct Outbox {
    pub options: OutboxOptions,
    pub ledger: Ledger,
    /// Records below are from before this open.
    pub opened_at: Lsn,
    hearing: Mutex<Hearing>,
    /// Where values have no version: what the stream tells of records of earlier opens was heard by this one, ...
    has_heard_past: AtomicBool,
    /// ... and it told all.
    knows_past: AtomicBool,
    /// Clean objects below this lsn may have changed unheard: see `is_suspect`.
    suspect_below: AtomicU64,
    /// How often events may have been missed.
    losses: AtomicU64,
    /// Nothing is heard, though Redis could be asked: every clean object may have changed.
    deaf: AtomicBool,
    /// Since when Redis has taken nothing, or not everything.
    stuck: Mutex<Option<Instant>>,
    /// What was heard of, and could not be noted.
    pub hidden: Hidden,
    /// Told whenever objects cease to be served that were.
    changes: Arc<Changes>,
}

struct Hearing {
    /// As loaded at open; updated here, persisted by the sealer.
    cursors: Cursors,
    /// Evicted, or dropped, but the record that says so is not in the journal: the cursor must not advance on disk.
    is_evicting: bool,
}

impl Outbox {
    /// `found`: the cursors in the catalog; `end`: the journal's end at open.
    pub fn new(options: OutboxOptions, found: Option<Cursors>, end: Lsn, changes: Arc<Changes>) -> Self {
        let found = found.filter(|found| found.prefix == options.prefix);
        let ledger = Ledger::new(found.as_ref().map(|found| found.replicated), end);
        let prefix = options.prefix.clone();
        let cursors = Cursors { prefix, ..found.unwrap_or_default() };
        let suspect_below = AtomicU64::new(cursors.suspect_below.to_u64());
        let hearing = Mutex::new(Hearing { cursors, is_evicting: false });
        Outbox {
            options,
            opened_at: end,
            ledger,
            hearing,
            has_heard_past: AtomicBool::new(false),
            knows_past: AtomicBool::new(false),
            suspect_below,
            losses: AtomicU64::new(0),
            deaf: AtomicBool::new(false),
            stuck: Mutex::new(None),
            hidden: Hidden::default(),
            changes,
        }
    }

    /// There is a record to push.
    #[inline]
    pub fn wake(&self) {
        // Full: the call is there already. Disconnected: the store is being closed.
        let _ = self.options.wake.try_send(());
    }

    /// Whether there may be records of an earlier open that Redis was not seen to have.
    pub fn has_earlier_records(&self) -> bool {
        self.ledger.replicated() < self.opened_at
    }

    /// Whether this open has yet to hear what the stream tells of records of earlier ones.
    pub fn lacks_past(&self) -> bool {
        self.has_earlier_records() && !self.has_heard_past.load(Ordering::Acquire)
    }

    /// The stream is about to be heard from its beginning; `is_whole`: it has everything that was ever added to it.
    pub fn hears_past(&self, is_whole: bool) {
        self.knows_past.store(is_whole, Ordering::Release);
    }

    /// That was done.
    pub fn has_heard_past(&self) {
        self.has_heard_past.store(true, Ordering::Release);
    }

    /// Whether something that was heard may have come later than the record at `lsn` though the event of the record was not heard.
    pub fn may_be_overruled(&self, lsn: Lsn) -> bool {
        lsn < self.opened_at && !self.knows_past.load(Ordering::Acquire)
    }

    /// Whether dirty records become fewer: there are some, and Redis takes what it is sent, or did so a moment ago, as far as is known.
    pub fn is_draining(&self, end: Lsn) -> bool {
        self.ledger.replicated() < end && self.stuck.lock().is_none_or(|since| since.elapsed() < STUCK_MIN)
    }

    /// Redis takes what it is sent, or does not.
    pub fn set_draining(&self, emptied: bool) {
        let mut stuck = self.stuck.lock();
        *stuck = if emptied { None } else { stuck.or_else(|| Some(Instant::now())) };
    }

    /// Whether Redis may lack the record at `lsn`, which says of itself whether it `is_clean`.
    pub fn is_dirty(&self, lsn: Lsn, is_clean: bool) -> bool {
        self.ledger.is_dirty(lsn, is_clean)
    }

    /// The epoch of the Redis that the cursors are good for; empty where there is none yet.
    pub fn epoch(&self) -> String {
        self.hearing.lock().cursors.epoch.clone()
    }

    pub fn set_epoch(&self, epoch: String) {
        self.hearing.lock().cursors.epoch = epoch;
    }

    /// The last event acted upon (empty: none), and when this node was last in step.
    pub fn heard(&self) -> (String, u64) {
        let state = self.hearing.lock();
        (state.cursors.events.clone(), state.cursors.in_step_ms)
    }

    /// Everything up to this event was acted upon.
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

    /// What to write into the catalog, once the journal is durable; None where an older state must stay there.
    pub fn cursors(&self) -> Option<Cursors> {
        let state = self.hearing.lock();
        if state.is_evicting || !self.hidden.is_empty() || self.ledger.has_backlog() || state.cursors.epoch.is_empty() {
            return None;
        }
        Some(Cursors { replicated: self.ledger.replicated(), ..state.cursors.clone() })
    }

    /// Whether nothing is heard of the others: then no clean object is served unchecked.
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

    /// The event stream has lost its past: clean objects are checked before they are served again.
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

    /// How often events may have been missed. Whoever keeps a copy that was fetched looks before it asks whether the copy is current, and again
    /// when the copy stands: where that has changed, the copy may have come to stand behind what `suspect_below` was told.
    pub fn losses(&self) -> u64 {
        self.losses.load(Ordering::SeqCst)
    }

    /// Before the end is taken that `suspect_below` is told.
    pub fn count_loss(&self) {
        self.losses.fetch_add(1, Ordering::SeqCst);
    }

    /// The suspects are all checked or gone: who comes to be one from now on was heard of until now.
    pub fn suspect_none(&self) {
        let mut state = self.hearing.lock();
        state.cursors.suspect_below = Lsn::NONE;
        self.suspect_below.store(Lsn::NONE.to_u64(), Ordering::Release);
    }

    /// A suspect's record has a copy at `lsn`, which is suspect as well.
    pub fn suspect_moved(&self, lsn: Lsn) {
        self.suspect_below(Lsn::new(lsn.segment(), lsn.offset() + 1));
    }

    /// Whether Redis, had a suspect been deleted unheard, would still have a tombstone for it: a delete comes after the write, which was
    /// `age_ms` ago.
    pub fn would_have_tombstone(&self, age_ms: u64, now_ms: u64) -> bool {
        let cursors = &self.hearing.lock().cursors;
        // Without a lost past, it is asked because nothing has been heard since then.
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
