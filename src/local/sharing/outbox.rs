use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_channel::Sender;
use parking_lot::Mutex;

use crate::local::catalog::cursors::Cursors;
use crate::local::journal::Lsn;

/// What makes the local tier one of several nodes' rather than a store of its own.
#[derive(Clone, Debug)]
pub(crate) struct OutboxOptions {
    /// What the keys in Redis begin with: cursors are good for this prefix only.
    pub prefix: String,
    /// How many local tiers share the directory's limit.
    pub slots: u32,
    /// How long objects live, 0 for ever.
    pub object_ttl_ms: u64,
    /// How long deletes are remembered.
    pub tombstone_ttl_ms: u64,
    /// Called, with room for one message, when there is something to push.
    pub wake: Sender<()>,
}

/// Which records Redis has and which are dirty, and how far events were heard. The records themselves stay where they are: the
/// journal is the queue.
pub(crate) struct Outbox {
    pub options: OutboxOptions,
    state: Mutex<State>,
    /// Clean objects below this lsn may have changed unheard: see `is_suspect`.
    suspect_below: AtomicU64,
    /// Redis takes what it is sent.
    emptied: AtomicBool,
}

struct State {
    /// Records below this are clean, but for those in `backlog` and `held`.
    settled: Lsn,
    /// Redis has lost everything: these are dirty again, whatever they say, and pushed behind what is new.
    backlog: Option<Range<Lsn>>,
    /// Refused, and to be tried again. Bounded by whoever holds them.
    held: BTreeSet<Lsn>,
    /// What was said at open, then what holds now.
    cursors: Cursors,
    /// Events may be acted upon that a crash would forget: the cursor must not advance on disk.
    uncertain: bool,
}

impl Outbox {
    /// `found`: the cursors in the catalog; `end`: the journal's end at open.
    pub fn new(options: OutboxOptions, found: Option<Cursors>, end: Lsn) -> Self {
        let found = found.filter(|found| found.prefix == options.prefix);
        let (settled, backlog) = match &found {
            Some(found) => (found.replicated, None),
            None => (end, Some(Lsn::NONE..end).filter(|range| !range.is_empty())),
        };
        let prefix = options.prefix.clone();
        let cursors = Cursors { prefix, ..found.unwrap_or_default() };
        let suspect_below = AtomicU64::new(cursors.suspect_below.to_u64());
        let state = State { settled, backlog, held: BTreeSet::new(), cursors, uncertain: false };
        Outbox { options, state: Mutex::new(state), suspect_below, emptied: AtomicBool::new(false) }
    }

    /// There is a record to push.
    #[inline]
    pub fn wake(&self) {
        // Full: the call is there already. Disconnected: the store is being closed.
        let _ = self.options.wake.try_send(());
    }

    /// Whether Redis takes what it is sent, so that dirty records become fewer.
    pub fn is_emptied(&self) -> bool {
        self.emptied.load(Ordering::Relaxed)
    }

    pub fn set_emptied(&self, emptied: bool) {
        self.emptied.store(emptied, Ordering::Relaxed);
    }

    /// When an object that is stored now expires, 0 for never.
    #[inline]
    pub fn deadline_ms(&self, now_ms: u64) -> u64 {
        match self.options.object_ttl_ms {
            0 => 0,
            ttl => now_ms.saturating_add(ttl),
        }
    }

    /// Whether Redis may lack the record at `place`, which says of itself whether it `is_clean`.
    pub fn is_dirty(&self, place: Lsn, is_clean: bool) -> bool {
        let state = self.state.lock();
        let in_backlog = state.backlog.as_ref().is_some_and(|backlog| backlog.contains(&place));
        in_backlog || state.held.contains(&place) || (place >= state.settled && !is_clean)
    }

    /// The oldest record that may be dirty.
    pub fn dirty_from(&self) -> Lsn {
        let state = self.state.lock();
        let held = state.held.first().copied().unwrap_or(state.settled);
        let backlog = state.backlog.as_ref().map_or(state.settled, |backlog| backlog.start);
        held.min(backlog).min(state.settled)
    }

    pub fn settled(&self) -> Lsn {
        self.state.lock().settled
    }

    pub fn settle(&self, below: Lsn) {
        let mut state = self.state.lock();
        state.settled = state.settled.max(below);
    }

    pub fn backlog(&self) -> Option<Range<Lsn>> {
        self.state.lock().backlog.clone()
    }

    pub fn settle_backlog(&self, below: Lsn) {
        let mut state = self.state.lock();
        state.backlog = state.backlog.take().map(|range| range.start.max(below)..range.end).filter(|it| !it.is_empty());
    }

    /// Redis has lost everything: all records below `end` are dirty.
    pub fn make_dirty(&self, end: Lsn) {
        let mut state = self.state.lock();
        state.backlog = Some(Lsn::NONE..end).filter(|range| !range.is_empty());
        state.settled = state.settled.max(end);
        state.held.clear();
    }

    pub fn hold(&self, place: Lsn) {
        self.state.lock().held.insert(place);
    }

    pub fn release(&self, place: Lsn) {
        self.state.lock().held.remove(&place);
    }

    /// The epoch of the Redis that the cursors are good for; empty where there is none yet.
    pub fn epoch(&self) -> String {
        self.state.lock().cursors.epoch.clone()
    }

    pub fn set_epoch(&self, epoch: String) {
        self.state.lock().cursors.epoch = epoch;
    }

    /// The last event acted upon (empty: none), and when this node was last in step.
    pub fn heard(&self) -> (String, u64) {
        let state = self.state.lock();
        (state.cursors.events.clone(), state.cursors.in_step_ms)
    }

    /// Everything up to this event was acted upon.
    pub fn set_heard(&self, events: String, in_step_ms: u64) {
        let mut state = self.state.lock();
        state.cursors.events = events;
        state.cursors.in_step_ms = in_step_ms;
    }

    /// While objects are forgotten whose records are still there, what is heard about them leaves no trace in the journal.
    pub fn set_uncertain(&self, uncertain: bool) {
        self.state.lock().uncertain = uncertain;
    }

    /// What to write into the catalog, once the journal is durable; None where an older state must stay there.
    pub fn cursors(&self) -> Option<Cursors> {
        let state = self.state.lock();
        if state.uncertain || state.backlog.is_some() || state.cursors.epoch.is_empty() {
            return None;
        }
        let replicated = state.held.first().copied().unwrap_or(state.settled).min(state.settled);
        Some(Cursors { replicated, ..state.cursors.clone() })
    }

    /// Whether the catalog's cursors are good for nothing until the backlog is pushed.
    pub fn has_backlog(&self) -> bool {
        self.state.lock().backlog.is_some()
    }

    /// The event stream has lost its past: clean objects are checked before they are served again.
    pub fn suspect_below(&self, end: Lsn) {
        let mut state = self.state.lock();
        let cursors = &mut state.cursors;
        if cursors.suspect_below.is_none() {
            cursors.suspect_since_ms = cursors.in_step_ms;
        }
        cursors.suspect_below = cursors.suspect_below.max(end);
        self.suspect_below.store(cursors.suspect_below.to_u64(), Ordering::Release);
    }

    /// The suspects are all checked or gone: who comes to be one from now on was heard of until now.
    pub fn suspect_none(&self) {
        let mut state = self.state.lock();
        state.cursors.suspect_below = Lsn::NONE;
        self.suspect_below.store(Lsn::NONE.to_u64(), Ordering::Release);
    }

    /// A suspect's record has a copy at `place`, which is suspect as well.
    pub fn suspect_moved(&self, place: Lsn) {
        self.suspect_below(Lsn::new(place.segment(), place.offset() + 1));
    }

    /// Whether Redis, had a suspect been deleted unheard, would still have a tombstone for it: a delete comes after the write, which was
    /// `age_ms` ago.
    pub fn would_have_tombstone(&self, age_ms: u64, now_ms: u64) -> bool {
        let unheard_ms = now_ms.saturating_sub(self.state.lock().cursors.suspect_since_ms);
        unheard_ms.min(age_ms) < self.options.tombstone_ttl_ms
    }

    #[inline]
    pub fn is_suspect(&self, place: Lsn) -> bool {
        place.to_u64() < self.suspect_below.load(Ordering::Acquire)
    }

    #[inline]
    pub fn has_suspects(&self) -> bool {
        self.suspect_below.load(Ordering::Acquire) > 0
    }
}
