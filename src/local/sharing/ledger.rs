//! What is known of every dirty record on its way to Redis.
//!
//! The journal is the queue: two walks go through it, the tail with what is new, and the backlog with everything, after Redis has lost all it
//! had. What a walk has passed is pushed but for the records that stand *apart*, each with what has become of it. What was pushed stays
//! dirty until it is *settled*: Redis may forget for a while what it has acknowledged.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::backoff::Backoff;
use crate::local::journal::Lsn;

/// Records that stand apart: with more, nothing is pushed that could come to be another one, but for deletes, which may make room.
pub(crate) const APART_MAX: usize = 4096;

/// What was acknowledged within this time is settled together.
const BUCKET: Duration = Duration::from_millis(100);

/// What is refused for good is tried again this seldom, ...
const REFUSED_RETRY_MAX: Duration = Duration::from_secs(60);

/// ... and what breaks the connection again and again, for the sake of all others, still less often: each time, everything else waits for a new
/// one.
const SET_ASIDE_RETRY_MAX: Duration = Duration::from_secs(600);
const SET_ASIDE_RETRY_MIN: Duration = Duration::from_secs(1);

/// Up to which loss a push belongs: what is said of a push that another one has overtaken says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Epoch(u64);

/// The two walks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Tail,
    Backlog,
}

/// Why a record stands apart that was not pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// Redis takes everything else.
    Refused,
    /// It cannot be read now.
    Unreadable,
    /// The connection breaks each time that it is sent.
    SetAside,
}

/// A record that stands apart, by its place.
struct Apart {
    id: Vec<u8>,
    way: Way,
}

enum Way {
    Held {
        why: Held,
        due: Instant,
        backoff: Backoff,
    },
    /// Something else has to happen first; it is no failure.
    Postponed {
        due: Instant,
    },
    /// Redis had it and has it no more: it is pushed again.
    Lost,
    /// Pushed at this time, when the walk had long settled what was around it.
    Pushed {
        at: Instant,
    },
}

/// What was acknowledged, up to a place, before a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Acknowledged {
    until: Instant,
    below: Lsn,
}

/// How far a walk through the journal has come, and since when Redis has what lies behind.
#[derive(Debug)]
struct Walk {
    /// Everything below was pushed, or overtaken, or stands apart.
    position: Lsn,
    acknowledged: VecDeque<Acknowledged>,
    /// What is below may have been sent before, so that it may stand in Redis already.
    sent_below: Lsn,
}

struct State {
    epoch: Epoch,
    /// Records below are clean, but for those in the backlog and those apart.
    settled: Lsn,
    tail: Walk,
    /// Redis has lost everything: these are dirty again, whatever they say, and pushed behind what is new.
    backlog: Option<(Range<Lsn>, Walk)>,
    apart: BTreeMap<Lsn, Apart>,
}

/// Which records Redis has and which are dirty. One lock; every call that follows from a push names the epoch of the push.
pub(crate) struct Ledger(Mutex<State>);

/// Where the next batch comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Next {
    pub lane: Lane,
    pub from: Lsn,
    pub until: Lsn,
    /// What is below may stand in Redis already.
    pub sent_below: Lsn,
}

/// Records apart whose time has come.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Due {
    pub records: Vec<(Lsn, Vec<u8>)>,
    /// They are one that breaks connections: to be sent alone.
    pub is_set_aside: bool,
}

impl Walk {
    /// `sent_below`: as far as an earlier life of this store may have come.
    fn at(position: Lsn, sent_below: Lsn) -> Self {
        Walk { position, acknowledged: VecDeque::new(), sent_below }
    }

    /// Goes back to where everything behind is settled.
    fn restart(&mut self, from: Lsn) {
        self.sent_below = self.sent_below.max(self.position);
        self.position = from;
        self.acknowledged.clear();
    }

    fn acknowledge(&mut self, now: Instant) {
        match self.acknowledged.back_mut() {
            Some(last) if now <= last.until => last.below = self.position,
            Some(last) if last.below == self.position => {}
            _ => self.acknowledged.push_back(Acknowledged { until: now + BUCKET, below: self.position }),
        }
    }

    /// A record that the walk had passed was pushed only now: what was acknowledged before does not reach over it.
    fn pushed_late(&mut self, lsn: Lsn, now: Instant) {
        let earlier = self.acknowledged.iter_mut().filter(|it| it.until < now);
        earlier.for_each(|it| it.below = it.below.min(lsn));
        self.acknowledge(now);
    }

    /// Up to where everything was acknowledged before that moment.
    fn settled(&mut self, before: Instant) -> Option<Lsn> {
        let mut settled = None;
        while let Some(first) = self.acknowledged.front()
            && first.until <= before
        {
            settled = Some(first.below);
            self.acknowledged.pop_front();
        }
        settled
    }
}

impl Apart {
    fn due(&self) -> Option<Instant> {
        match self.way {
            Way::Held { due, .. } | Way::Postponed { due } => Some(due),
            Way::Lost | Way::Pushed { .. } => None,
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        matches!(self.way, Way::Lost) || self.due().is_some_and(|due| due <= now)
    }

    fn is_held(&self) -> bool {
        matches!(self.way, Way::Held { .. })
    }

    fn is_pushed(&self) -> bool {
        matches!(self.way, Way::Pushed { .. })
    }

    fn is_set_aside(&self) -> bool {
        matches!(self.way, Way::Held { why: Held::SetAside, .. })
    }
}

impl State {
    /// What is in the backlog, if `lsn` is.
    fn backlog_of(&mut self, lsn: Lsn) -> Option<&mut Walk> {
        self.backlog.as_mut().filter(|(range, _)| range.contains(&lsn)).map(|(_, walk)| walk)
    }
}

impl Ledger {
    /// `settled`: up to where an earlier life has settled everything; None: nothing is known, all below `end` may be lost.
    pub fn new(settled: Option<Lsn>, end: Lsn) -> Self {
        let everything = Some(Lsn::NONE..end).filter(|range| !range.is_empty());
        let (settled, backlog) = match settled {
            Some(settled) => (settled, None),
            None => (end, everything.map(|range| (range, Walk::at(Lsn::NONE, Lsn::NONE)))),
        };
        let tail = Walk::at(settled, end);
        Ledger(Mutex::new(State { epoch: Epoch::default(), settled, tail, backlog, apart: BTreeMap::new() }))
    }

    /// Carries out what belongs to this epoch, unless that is over.
    fn within<T: Default>(&self, epoch: Epoch, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.0.lock();
        if state.epoch == epoch { act(&mut state) } else { T::default() }
    }

    pub fn epoch(&self) -> Epoch {
        self.0.lock().epoch
    }

    /// What was acknowledged may be forgotten: everything that is not settled goes again. The epoch that begins so.
    pub fn push_again(&self) -> Epoch {
        let mut state = self.0.lock();
        state.epoch.0 += 1;
        let settled = state.settled;
        state.tail.restart(settled);
        if let Some((range, walk)) = &mut state.backlog {
            walk.restart(range.start);
        }
        state.apart.values_mut().filter(|apart| apart.is_pushed()).for_each(|apart| apart.way = Way::Lost);
        state.epoch
    }

    /// What was acknowledged is known not to be forgotten: only what was under way goes again. The epoch that begins so.
    pub fn resume(&self) -> Epoch {
        let mut state = self.0.lock();
        state.epoch.0 += 1;
        state.epoch
    }

    /// Redis has lost everything: all records below `end` are dirty.
    pub fn lose_everything(&self, end: Lsn) {
        let mut state = self.0.lock();
        state.epoch.0 += 1;
        state.backlog = Some(Lsn::NONE..end).filter(|it| !it.is_empty()).map(|it| (it, Walk::at(Lsn::NONE, Lsn::NONE)));
        state.settled = state.settled.max(end);
        state.tail = Walk::at(state.settled, state.tail.sent_below);
        state.apart.clear();
    }

    /// Where to go on; None where all is passed. New before old.
    pub fn next(&self, epoch: Epoch, end: Lsn) -> Option<Next> {
        self.within(epoch, |state| {
            let Walk { position: from, sent_below, .. } = state.tail;
            if from < end {
                return Some(Next { lane: Lane::Tail, from, until: end, sent_below });
            }
            let (range, Walk { position: from, sent_below, .. }) = state.backlog.as_ref()?;
            let next = Next { lane: Lane::Backlog, from: *from, until: range.end, sent_below: *sent_below };
            (*from < range.end).then_some(next)
        })
    }

    /// All up to this place was pushed, or overtaken, or stands apart.
    pub fn advance(&self, epoch: Epoch, lane: Lane, to: Lsn) {
        self.within(epoch, |state| match (lane, &mut state.backlog) {
            (Lane::Tail, _) => state.tail.position = state.tail.position.max(to),
            (Lane::Backlog, Some((_, walk))) => walk.position = walk.position.max(to),
            (Lane::Backlog, None) => {}
        });
    }

    /// Redis has acknowledged all that was passed.
    pub fn acknowledge(&self, epoch: Epoch, now: Instant) {
        self.within(epoch, |state| {
            state.tail.acknowledge(now);
            if let Some((_, walk)) = &mut state.backlog {
                walk.acknowledge(now);
            }
        });
    }

    /// This record was pushed.
    pub fn pushed(&self, epoch: Epoch, lsn: Lsn, id: &[u8], now: Instant) {
        self.within(epoch, |state| {
            let was_apart = state.apart.remove(&lsn).is_some();
            let is_unsettled = lsn >= state.settled;
            let walk = if is_unsettled { Some(&mut state.tail) } else { state.backlog_of(lsn) };
            match walk {
                Some(walk) if lsn >= walk.position => {} // the walk is about to pass it
                Some(walk) if was_apart => walk.pushed_late(lsn, now),
                Some(_) => {}
                // Long settled as far as the walk is concerned: now it is pushed again, or at last.
                None => {
                    if was_apart || state.apart.len() < APART_MAX {
                        state.apart.insert(lsn, Apart { id: id.to_vec(), way: Way::Pushed { at: now } });
                    }
                }
            }
        });
    }

    /// This record need not be pushed any more: a newer one of its id has taken its place.
    pub fn overtaken(&self, epoch: Epoch, lsn: Lsn) {
        self.within(epoch, |state| drop(state.apart.remove(&lsn)));
    }

    /// This record could not be pushed, and is tried again later.
    pub fn hold(&self, epoch: Epoch, lsn: Lsn, id: &[u8], why: Held) {
        self.within(epoch, |state| {
            let longest = if why == Held::SetAside { SET_ASIDE_RETRY_MAX } else { REFUSED_RETRY_MAX };
            let mut backoff = match state.apart.remove(&lsn) {
                Some(Apart { way: Way::Held { why: before, backoff, .. }, .. }) if before == why => backoff,
                _ => Backoff::up_to(longest),
            };
            let wait = backoff.failed();
            let wait = if why == Held::SetAside { wait.max(SET_ASIDE_RETRY_MIN) } else { wait };
            let way = Way::Held { why, due: Instant::now() + wait, backoff };
            state.apart.insert(lsn, Apart { id: id.to_vec(), way });
        });
    }

    /// This record is pushed a little later.
    pub fn postpone(&self, epoch: Epoch, lsn: Lsn, id: &[u8], wait: Duration) {
        self.within(epoch, |state| {
            let way = Way::Postponed { due: Instant::now() + wait };
            state.apart.insert(lsn, Apart { id: id.to_vec(), way });
        });
    }

    /// Redis has lost this one record: it is dirty until it is pushed again. False, and nothing done, where too many stand apart.
    pub fn lose(&self, lsn: Lsn, id: &[u8]) -> bool {
        let mut state = self.0.lock();
        if state.apart.len() >= APART_MAX && !state.apart.contains_key(&lsn) {
            return false;
        }
        let lost = || Apart { id: id.to_vec(), way: Way::Lost };
        let apart = state.apart.entry(lsn).or_insert_with(lost);
        if apart.is_pushed() {
            *apart = lost();
        }
        true
    }

    /// Records apart whose time has come, oldest first.
    pub fn due(&self, epoch: Epoch, now: Instant, records_max: usize) -> Due {
        self.within(epoch, |state| {
            let named = |(lsn, apart): (&Lsn, &Apart)| (*lsn, apart.id.clone());
            let due = || state.apart.iter().filter(|(_, apart)| apart.is_due(now));
            let records: Vec<_> = due().filter(|(_, it)| !it.is_set_aside()).take(records_max).map(named).collect();
            if !records.is_empty() {
                return Due { records, is_set_aside: false };
            }
            let records: Vec<_> = due().take(1).map(named).collect();
            Due { is_set_aside: !records.is_empty(), records }
        })
    }

    /// The oldest that Redis refuses, whether its time has come or not: to ask with, whether there is room by now.
    pub fn oldest_refused(&self, epoch: Epoch) -> Due {
        self.within(epoch, |state| {
            let refused = |apart: &Apart| matches!(apart.way, Way::Held { why: Held::Refused, .. });
            let first = state.apart.iter().find(|(_, apart)| refused(apart));
            Due {
                records: first.map(|(lsn, apart)| (*lsn, apart.id.clone())).into_iter().collect(),
                is_set_aside: false,
            }
        })
    }

    /// When the next of those apart is due.
    pub fn next_due(&self) -> Option<Instant> {
        let state = self.0.lock();
        let now = Instant::now();
        state.apart.values().filter_map(|apart| if apart.is_due(now) { Some(now) } else { apart.due() }).min()
    }

    pub fn is_apart(&self, lsn: Lsn) -> bool {
        self.0.lock().apart.contains_key(&lsn)
    }

    /// How many records could not be pushed, for whatever reason.
    pub fn held_count(&self) -> usize {
        self.0.lock().apart.values().filter(|apart| apart.is_held()).count()
    }

    /// Whether as many stand apart as may.
    pub fn is_full(&self) -> bool {
        self.0.lock().apart.values().filter(|apart| !apart.is_pushed()).count() >= APART_MAX
    }

    /// Settles what was acknowledged more than `settle` before the moment at which Redis was proven to be still the one that acknowledged it.
    pub fn settle(&self, epoch: Epoch, proven: Instant, settle: Duration) {
        let Some(before) = proven.checked_sub(settle) else { return };
        self.within(epoch, |state| {
            if let Some(settled) = state.tail.settled(before) {
                state.settled = state.settled.max(settled);
            }
            if let Some((range, walk)) = &mut state.backlog
                && let Some(settled) = walk.settled(before)
            {
                range.start = range.start.max(settled);
            }
            state.backlog = state.backlog.take().filter(|(range, _)| !range.is_empty());
            state.apart.retain(|_, apart| !matches!(apart.way, Way::Pushed { at } if at <= before));
        });
    }

    /// When something can be settled next.
    pub fn next_settled(&self, settle: Duration) -> Option<Instant> {
        let state = self.0.lock();
        let walks = [Some(&state.tail), state.backlog.as_ref().map(|(_, walk)| walk)];
        let walks = walks.into_iter().flatten().filter_map(|walk| walk.acknowledged.front().map(|it| it.until));
        let apart = state.apart.values().filter_map(|apart| match apart.way {
            Way::Pushed { at } => Some(at),
            _ => None,
        });
        walks.chain(apart).min().map(|at| at + settle)
    }

    /// Whether Redis may lack the record at `lsn`, which says of itself whether it `is_clean`.
    pub fn is_dirty(&self, lsn: Lsn, is_clean: bool) -> bool {
        let state = self.0.lock();
        let in_backlog = state.backlog.as_ref().is_some_and(|(range, _)| range.contains(&lsn));
        in_backlog || state.apart.contains_key(&lsn) || (lsn >= state.settled && !is_clean)
    }

    /// Everything below is clean.
    pub fn replicated(&self) -> Lsn {
        let state = self.0.lock();
        let backlog = state.backlog.as_ref().map_or(state.settled, |(range, _)| range.start);
        let apart = state.apart.first_key_value().map_or(state.settled, |(lsn, _)| *lsn);
        apart.min(backlog).min(state.settled)
    }

    /// While this stays as it is, what was dirty is.
    pub fn moment(&self) -> (Lsn, Lsn, usize) {
        let state = self.0.lock();
        let backlog = state.backlog.as_ref().map_or(Lsn::NONE, |(range, _)| range.start);
        (state.settled, backlog, state.apart.len())
    }

    pub fn has_backlog(&self) -> bool {
        self.0.lock().backlog.is_some()
    }

    /// Whether Redis has everything below `end`, settled or not.
    pub fn is_pushed(&self, end: Lsn) -> bool {
        let state = self.0.lock();
        let is_passed = state.backlog.as_ref().is_none_or(|(range, walk)| walk.position >= range.end);
        state.tail.position >= end && is_passed && state.apart.values().all(Apart::is_pushed)
    }
}

#[cfg(test)]
mod tests;
