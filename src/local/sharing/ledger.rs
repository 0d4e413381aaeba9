//! The replication ledger: what is known of every dirty record on its way to Redis.
//!
//! The journal is the queue, and two walks go through it: the tail pushes what is new; the backlog pushes everything again after Redis has
//! lost all its data. What a walk has passed is pushed, except for the records that stand *apart*, each for a reason. What was pushed stays
//! dirty until it is *settled*, since a failover may undo what Redis has just acknowledged.

mod apart;
mod pass;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::local::journal::Lsn;
pub(crate) use apart::Obstacle;
use apart::{Apart, AsideRetry, Fate};
use pass::{Pass, SentAhead};

/// Most records that stand apart, but for those of the batches under way. With so many, only deletes are pushed, which may make room: any other record
/// could come to stand apart too.
pub(crate) const APART_MAX: usize = 4096;

/// Numbers the times that pushing began anew, after a loss or on a new connection. What a push of an earlier epoch reports is ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Epoch(u64);

/// The two walks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Tail,
    Backlog,
}

/// The state under the ledger's lock.
struct State {
    epoch: Epoch,
    /// Records below are clean, except those in the backlog and those apart.
    settled: Lsn,
    tail: Pass,
    /// After a total loss of Redis: the records in this range are dirty again, whatever their flags say. What is new is pushed before them.
    backlog: Option<(Range<Lsn>, Pass)>,
    apart: BTreeMap<Lsn, Apart>,
    /// Of the records apart, those that the next open may take for clean: whether it has to, as everything around was settled when they came to stand
    /// apart, or has to if the records say so.
    unnoted: BTreeMap<Lsn, bool>,
    aside_retry: AsideRetry,
    /// Records that the tail has yet to pass, and that were sent already.
    sent_ahead: SentAhead,
}

/// Which records are dirty, and which are settled. One lock; every call that reports on a push names the epoch of that push.
pub(crate) struct Ledger(Mutex<State>);

/// Where the next batch of a walk is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Next {
    pub lane: Lane,
    pub from: Lsn,
    pub until: Lsn,
    /// What is below may stand in Redis already.
    pub sent_below: Lsn,
}

/// A record apart that the next open may take for clean.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unnoted {
    pub lsn: Lsn,
    pub id: Vec<u8>,
    /// The next open takes it for clean whatever the record says of itself.
    pub was_settled: bool,
}

/// Records apart whose time has come.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Due {
    pub records: Vec<(Lsn, Vec<u8>)>,
    /// It is a single record that breaks connections: to be sent alone.
    pub is_set_aside: bool,
}

impl State {
    /// Has a record stand apart; `before`: as it stood apart until now.
    fn set_apart(&mut self, lsn: Lsn, id: &[u8], fate: Fate, before: Option<&Apart>) {
        if before.is_none() {
            self.unnoted.insert(lsn, lsn < self.settled);
        }
        let was_lost = before.is_some_and(|before| before.was_lost);
        let stood = before.map_or_else(|| self.may_have_stood(lsn), |before| before.may_have_stood);
        let may_have_stood = stood || fate.was_sent();
        self.apart.insert(lsn, Apart { id: id.to_vec(), fate, was_lost, may_have_stood });
    }

    /// Whether Redis may have had this record: it was sent, and Redis did not refuse it. What is under way for the first time does not count.
    fn may_have_stood(&self, lsn: Lsn) -> bool {
        match self.apart.get(&lsn) {
            Some(apart) => apart.may_have_stood,
            None => self.is_in_backlog(lsn) || self.tail.has_sent(lsn) || self.sent_ahead.contains(lsn),
        }
    }

    fn may_have_been_sent(&self, lsn: Lsn) -> bool {
        self.may_have_stood(lsn) || lsn < self.tail.sent_or_sending_below()
    }

    /// Notes that this record, which no walk has passed, may stand in Redis.
    fn note_sent(&mut self, lsn: Lsn) {
        match self.apart.get_mut(&lsn) {
            Some(apart) => apart.may_have_stood = true,
            None => self.sent_ahead.insert(lsn, &mut self.tail),
        }
    }

    fn is_in_backlog(&self, lsn: Lsn) -> bool {
        self.backlog.as_ref().is_some_and(|(range, _)| range.contains(&lsn))
    }

    /// Whether both walks are at their ends.
    fn has_passed(&self, end: Lsn) -> bool {
        self.tail.position >= end && self.backlog.as_ref().is_none_or(|(range, walk)| walk.position >= range.end)
    }

    fn is_full(&self) -> bool {
        self.apart.values().filter(|apart| !apart.is_pushed()).count() >= APART_MAX
    }

    /// The record set aside that is tried next, the one that was tried least, and when: once everything else below `end` is pushed, or the walks stand
    /// still since so many records stand apart; or much later, if it does not come to that.
    fn next_aside(&self, end: Lsn) -> Option<(Instant, Lsn)> {
        let aside = self.apart.iter().filter_map(|(lsn, apart)| Some((apart.tries()?, *lsn)));
        let (_, lsn) = aside.min()?;
        let is_quiet = self.has_passed(end) || self.is_full();
        Some((if is_quiet { self.aside_retry.due } else { self.aside_retry.overdue }, lsn))
    }

    /// The backlog's walk, if `lsn` is in the backlog.
    fn backlog_of(&mut self, lsn: Lsn) -> Option<&mut Pass> {
        self.backlog.as_mut().filter(|(range, _)| range.contains(&lsn)).map(|(_, walk)| walk)
    }
}

impl Ledger {
    /// `settled`: up to where earlier opens have settled everything; None if that is not known: then all below `end` is dirty.
    pub fn new(settled: Option<Lsn>, end: Lsn) -> Self {
        let everything = Some(Lsn::NONE..end).filter(|range| !range.is_empty());
        let (settled, backlog) = match settled {
            Some(settled) => (settled, None),
            None => (end, everything.map(|range| (range, Pass::at(Lsn::NONE, Lsn::NONE)))),
        };
        let tail = Pass::at(settled, end);
        Ledger(Mutex::new(State {
            epoch: Epoch::default(),
            settled,
            tail,
            backlog,
            apart: BTreeMap::new(),
            unnoted: BTreeMap::new(),
            aside_retry: AsideRetry::new(),
            sent_ahead: SentAhead::default(),
        }))
    }

    /// Calls `act` if `epoch` is the present one, and does nothing otherwise.
    fn within<T: Default>(&self, epoch: Epoch, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.0.lock();
        if state.epoch == epoch { act(&mut state) } else { T::default() }
    }

    pub fn epoch(&self) -> Epoch {
        self.0.lock().epoch
    }

    /// Redis may have lost what it acknowledged: everything that is not settled is pushed again. Returns the epoch that begins.
    pub fn push_again(&self) -> Epoch {
        let mut state = self.0.lock();
        state.epoch.0 += 1;
        let settled = state.settled;
        state.tail.restart(settled);
        if let Some((range, walk)) = &mut state.backlog {
            walk.restart(range.start);
        }
        state.apart.values_mut().filter(|apart| apart.is_pushed()).for_each(|apart| apart.fate = Fate::Lost);
        state.epoch
    }

    /// Redis is known to have what it acknowledged: only what was under way is pushed again. Returns the epoch that begins.
    pub fn resume(&self) -> Epoch {
        let mut state = self.0.lock();
        state.epoch.0 += 1;
        state.tail.resume();
        if let Some((_, walk)) = &mut state.backlog {
            walk.resume();
        }
        state.epoch
    }

    /// Redis has lost all its data: all records below `end` are dirty.
    pub fn lose_everything(&self, end: Lsn) {
        let mut state = self.0.lock();
        state.epoch.0 += 1;
        state.backlog = Some(Lsn::NONE..end).filter(|it| !it.is_empty()).map(|it| (it, Pass::at(Lsn::NONE, Lsn::NONE)));
        state.settled = state.settled.max(end);
        state.tail = Pass::at(state.settled, state.tail.sent_or_sending_below());
        state.apart.clear();
        state.unnoted.clear();
    }

    /// Where the next batch is read, the tail before the backlog. None if both walks are at their ends.
    pub fn next(&self, epoch: Epoch, end: Lsn) -> Option<Next> {
        self.within(epoch, |state| {
            let Pass { position: from, sent_below, .. } = state.tail;
            if from < end {
                return Some(Next { lane: Lane::Tail, from, until: end, sent_below });
            }
            let (range, Pass { position: from, sent_below, .. }) = state.backlog.as_ref()?;
            let next = Next { lane: Lane::Backlog, from: *from, until: range.end, sent_below: *sent_below };
            (*from < range.end).then_some(next)
        })
    }

    /// Notes that the records of the walk up to `to` are about to be sent.
    pub fn sending(&self, epoch: Epoch, lane: Lane, to: Lsn) {
        self.within(epoch, |state| match (lane, &mut state.backlog) {
            (Lane::Tail, _) => state.tail.send(to),
            (Lane::Backlog, Some((_, walk))) => walk.send(to),
            (Lane::Backlog, None) => {}
        });
    }

    /// Notes that the walk has passed everything below `to`.
    pub fn advance(&self, epoch: Epoch, lane: Lane, to: Lsn) {
        self.within(epoch, |state| match (lane, &mut state.backlog) {
            (Lane::Tail, _) => {
                state.tail.position = state.tail.position.max(to);
                state.sent_ahead.passed(state.tail.position);
            }
            (Lane::Backlog, Some((_, walk))) => walk.position = walk.position.max(to),
            (Lane::Backlog, None) => {}
        });
    }

    /// Notes that this record, which no walk has passed, may stand in Redis, whatever else becomes of it.
    pub fn may_stand(&self, epoch: Epoch, lsn: Lsn) {
        self.within(epoch, |state| state.note_sent(lsn));
    }

    /// A round has failed: nobody knows what became of what was under way, the walks' next records and `others`.
    pub fn failed(&self, epoch: Epoch, others: impl IntoIterator<Item = Lsn>) {
        self.within(epoch, |state| {
            state.tail.resume();
            if let Some((_, walk)) = &mut state.backlog {
                walk.resume();
            }
            others.into_iter().for_each(|lsn| state.note_sent(lsn));
        });
    }

    /// Notes that Redis has acknowledged everything the walks have passed.
    pub fn acknowledge(&self, epoch: Epoch, now: Instant) {
        self.within(epoch, |state| {
            state.tail.acknowledge(now);
            if let Some((_, walk)) = &mut state.backlog {
                walk.acknowledge(now);
            }
        });
    }

    /// Notes that this record was pushed.
    pub fn pushed(&self, epoch: Epoch, lsn: Lsn, id: &[u8], now: Instant) {
        self.within(epoch, |state| {
            let apart = state.apart.remove(&lsn);
            if apart.as_ref().is_some_and(Apart::is_set_aside) {
                state.aside_retry.succeeded();
            }
            if apart.as_ref().is_some_and(|apart| apart.was_lost) {
                return state.set_apart(lsn, id, Fate::Pushed { at: now }, apart.as_ref());
            }
            let was_apart = apart.is_some();
            let is_unsettled = lsn >= state.settled;
            if is_unsettled && lsn >= state.tail.sent_or_sending_below() {
                return state.sent_ahead.insert(lsn, &mut state.tail);
            }
            let walk = if is_unsettled { Some(&mut state.tail) } else { state.backlog_of(lsn) };
            match walk {
                Some(walk) if lsn >= walk.position => {} // the walk is about to pass it
                Some(walk) if was_apart => walk.pushed_late(lsn, now),
                Some(_) => {}
                // The walks have settled what is around it: the record is kept apart until it is settled itself.
                None => {
                    if was_apart || state.apart.len() < APART_MAX {
                        state.set_apart(lsn, id, Fate::Pushed { at: now }, apart.as_ref());
                    }
                }
            }
        });
    }

    /// Notes that this record need not be pushed any more, as a newer one of its id stands.
    pub fn overtaken(&self, epoch: Epoch, lsn: Lsn) {
        self.within(epoch, |state| drop(state.apart.remove(&lsn)));
    }

    /// Sets a record apart that could not be pushed, to be tried again later.
    pub fn hold(&self, epoch: Epoch, lsn: Lsn, id: &[u8], why: Obstacle) {
        self.within(epoch, |state| {
            let apart = state.apart.remove(&lsn);
            if why == Obstacle::SetAside {
                let again = apart.as_ref().is_some_and(Apart::is_set_aside);
                if !again && !state.apart.values().any(Apart::is_set_aside) {
                    state.aside_retry = AsideRetry::new(); // what that says is of records that are gone
                }
                state.aside_retry.failed(again);
            }
            let fate = Fate::held(why, apart.as_ref());
            state.set_apart(lsn, id, fate, apart.as_ref());
        });
    }

    /// Sets a record apart that is to be pushed after `wait`.
    pub fn postpone(&self, epoch: Epoch, lsn: Lsn, id: &[u8], wait: Duration) {
        self.within(epoch, |state| {
            let fate = Fate::Postponed { due: Instant::now() + wait };
            let apart = state.apart.remove(&lsn);
            state.set_apart(lsn, id, fate, apart.as_ref());
        });
    }

    /// Redis has lost this one record: it is dirty until it is pushed again. Does nothing and returns false if too many stand apart.
    pub fn lose(&self, lsn: Lsn, id: &[u8]) -> bool {
        let mut state = self.0.lock();
        if state.apart.len() >= APART_MAX && !state.apart.contains_key(&lsn) {
            return false;
        }
        if !state.apart.contains_key(&lsn) {
            state.set_apart(lsn, id, Fate::Lost, None);
        }
        if let Some(apart) = state.apart.get_mut(&lsn) {
            if apart.is_pushed() {
                apart.fate = Fate::Lost;
            }
            (apart.was_lost, apart.may_have_stood) = (true, true);
        }
        true
    }

    /// A record was copied: what is known of it holds for its copy. The copy says of itself that it is dirty, and nothing around it has settled.
    pub fn moved(&self, from: Lsn, to: Lsn) {
        let state = &mut *self.0.lock();
        if let Some(mut apart) = state.apart.remove(&from) {
            if let Some(copy) = state.apart.get(&to) {
                apart.was_lost |= copy.was_lost;
                apart.may_have_stood |= copy.may_have_stood;
            }
            state.apart.insert(to, apart);
            state.unnoted.remove(&from);
        } else if state.may_have_been_sent(from) {
            state.note_sent(to);
        }
        state.sent_ahead.remove(from);
    }

    /// The records apart that the next open may take for clean (`noted`). `also_pushed`: also those that Redis has, and that have not settled.
    pub fn unnoted(&self, also_pushed: bool) -> Vec<Unnoted> {
        let State { apart, unnoted, .. } = &mut *self.0.lock();
        unnoted.retain(|lsn, _| apart.contains_key(lsn));
        let standing = unnoted.iter().filter_map(|(lsn, settled)| apart.get(lsn).map(|apart| (*lsn, *settled, apart)));
        let wanted = standing.filter(|(_, _, apart)| also_pushed || !apart.is_pushed());
        wanted.map(|(lsn, was_settled, apart)| Unnoted { lsn, id: apart.id.clone(), was_settled }).collect()
    }

    /// The next open will not take the record at `lsn` for clean, or it does not stand there any more.
    pub fn noted(&self, lsn: Lsn) {
        self.0.lock().unnoted.remove(&lsn);
    }

    /// The records apart that are due, oldest first. One that breaks connections is due alone, and as long as that can be only when nothing else below
    /// `end` is, as it may cost the others a new connection.
    pub fn due(&self, epoch: Epoch, now: Instant, records_max: usize, end: Lsn) -> Due {
        self.within(epoch, |state| {
            let due = state.apart.iter().filter(|(_, apart)| apart.is_due(now)).take(records_max);
            let records: Vec<_> = due.map(|(lsn, apart)| (*lsn, apart.id.clone())).collect();
            if !records.is_empty() {
                return Due { records, is_set_aside: false };
            }
            let aside = state.next_aside(end).filter(|(due, _)| *due <= now).map(|(_, lsn)| lsn);
            let aside = aside.and_then(|lsn| Some((lsn, state.apart.get(&lsn)?.id.clone())));
            Due { is_set_aside: aside.is_some(), records: aside.into_iter().collect() }
        })
    }

    /// The oldest record that Redis refuses, due or not: pushed as a probe of whether Redis has room by now.
    pub fn oldest_refused(&self, epoch: Epoch) -> Due {
        self.within(epoch, |state| {
            let first = state.apart.iter().find(|(_, apart)| apart.is_refused());
            Due {
                records: first.map(|(lsn, apart)| (*lsn, apart.id.clone())).into_iter().collect(),
                is_set_aside: false,
            }
        })
    }

    /// When the next record apart is due, as `due` sees it.
    pub fn next_due(&self, end: Lsn) -> Option<Instant> {
        let state = self.0.lock();
        let now = Instant::now();
        let apart = state.apart.values();
        let apart = apart.filter_map(|apart| if apart.is_due(now) { Some(now) } else { apart.due() }).min();
        let aside = state.next_aside(end).map(|(due, _)| due);
        apart.into_iter().chain(aside).min()
    }

    /// Whether this record is set aside, since it breaks connections.
    pub fn is_set_aside(&self, lsn: Lsn) -> bool {
        self.0.lock().apart.get(&lsn).is_some_and(Apart::is_set_aside)
    }

    pub fn is_apart(&self, lsn: Lsn) -> bool {
        self.0.lock().apart.contains_key(&lsn)
    }

    /// Whether Redis may have had this record before what is under way now: it was sent, and Redis did not refuse it.
    pub fn may_have_stood(&self, lsn: Lsn) -> bool {
        self.0.lock().may_have_stood(lsn)
    }

    /// Whether this record was sent before, in this open or an earlier one, whatever Redis has said to that.
    pub fn may_have_been_sent(&self, lsn: Lsn) -> bool {
        self.0.lock().may_have_been_sent(lsn)
    }

    /// Whether this record was pushed, and has not settled.
    pub fn is_settling(&self, lsn: Lsn) -> bool {
        let state = self.0.lock();
        match (state.apart.get(&lsn), &state.backlog) {
            (Some(apart), _) => apart.is_pushed(),
            (None, Some((range, walk))) if range.contains(&lsn) => lsn < walk.position,
            (None, _) => (state.settled..state.tail.position).contains(&lsn),
        }
    }

    /// What was not pushed yet: stretches of the journal, each with whether it is the backlog, and the records that stand apart in front of them.
    pub fn unpushed(&self, end: Lsn) -> (Vec<(Lsn, Lsn, bool)>, Vec<Lsn>) {
        let state = self.0.lock();
        let mut walks = Vec::new();
        if state.tail.position < end {
            walks.push((state.tail.position, end, false));
        }
        if let Some((range, walk)) = &state.backlog
            && walk.position < range.end
        {
            walks.push((walk.position, range.end, true));
        }
        let is_ahead = |lsn: &Lsn| walks.iter().any(|(from, until, _)| (*from..*until).contains(lsn));
        let apart = state.apart.iter().filter(|(lsn, apart)| !apart.is_pushed() && !is_ahead(lsn));
        let apart = apart.map(|(lsn, _)| *lsn).collect();
        (walks, apart)
    }

    /// How many records could not be pushed.
    pub fn held_count(&self) -> usize {
        self.0.lock().apart.values().filter(|apart| apart.is_held()).count()
    }

    /// Whether any record stands apart because Redis refuses it.
    pub fn has_refused(&self) -> bool {
        self.0.lock().apart.values().any(Apart::is_refused)
    }

    /// Whether `APART_MAX` records stand apart that were not pushed.
    pub fn is_full(&self) -> bool {
        self.0.lock().is_full()
    }

    /// Settles what was acknowledged more than `settle` before `proven`, the moment at which the present master was proven to have it.
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
            state.apart.retain(|_, apart| !matches!(apart.fate, Fate::Pushed { at } if at <= before));
        });
    }

    /// When something can be settled next.
    pub fn next_settled(&self, settle: Duration) -> Option<Instant> {
        let state = self.0.lock();
        let walks = [Some(&state.tail), state.backlog.as_ref().map(|(_, walk)| walk)];
        let walks = walks.into_iter().flatten().filter_map(Pass::unsettled_since);
        let apart = state.apart.values().filter_map(|apart| match apart.fate {
            Fate::Pushed { at } => Some(at),
            _ => None,
        });
        walks.chain(apart).min().map(|at| at + settle)
    }

    /// Whether Redis may lack the record at `lsn`. `is_clean` is the record's own flag.
    pub fn is_dirty(&self, lsn: Lsn, is_clean: bool) -> bool {
        let state = self.0.lock();
        state.is_in_backlog(lsn) || state.apart.contains_key(&lsn) || (lsn >= state.settled && !is_clean)
    }

    /// The lsn below which everything is clean.
    pub fn replicated(&self) -> Lsn {
        let state = self.0.lock();
        let backlog = state.backlog.as_ref().map_or(state.settled, |(range, _)| range.start);
        let apart = state.apart.first_key_value().map_or(state.settled, |(lsn, _)| *lsn);
        apart.min(backlog).min(state.settled)
    }

    /// A value that changes whenever dirty records may have become clean.
    pub fn moment(&self) -> (Lsn, Lsn, usize) {
        let state = self.0.lock();
        let backlog = state.backlog.as_ref().map_or(Lsn::NONE, |(range, _)| range.start);
        (state.settled, backlog, state.apart.len())
    }

    pub fn has_backlog(&self) -> bool {
        self.0.lock().backlog.is_some()
    }

    /// The first record below `end` that was not pushed; None if all were.
    pub fn first_unpushed(&self, end: Lsn) -> Option<Lsn> {
        let state = self.0.lock();
        let tail = Some(state.tail.position).filter(|position| *position < end);
        let backlog = state.backlog.as_ref().filter(|(range, walk)| walk.position < range.end);
        let backlog = backlog.map(|(_, walk)| walk.position);
        let apart = state.apart.iter().find(|(_, apart)| !apart.is_pushed()).map(|(lsn, _)| *lsn);
        [tail, backlog, apart].into_iter().flatten().min()
    }

    /// Whether a record stands apart that was not pushed.
    pub fn has_unpushed_apart(&self) -> bool {
        self.0.lock().apart.values().any(|apart| !apart.is_pushed())
    }

    /// Whether everything below `end` was pushed, settled or not.
    pub fn is_pushed(&self, end: Lsn) -> bool {
        let state = self.0.lock();
        state.has_passed(end) && state.apart.values().all(Apart::is_pushed)
    }

    /// Whether everything below `end` was pushed but what is set aside.
    pub fn is_pushed_but_aside(&self, end: Lsn) -> bool {
        let state = self.0.lock();
        state.has_passed(end) && state.apart.values().all(|apart| apart.is_pushed() || apart.is_set_aside())
    }
}

#[cfg(test)]
mod tests;
