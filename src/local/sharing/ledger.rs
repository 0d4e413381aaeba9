//! The replication ledger: what is known of every dirty record on its way to Redis.
//!
//! The journal is the queue, and two walks go through it: the tail pushes what is new; the backlog pushes everything again after Redis has
//! lost all its data. What a walk has passed is pushed, except for the records that stand *apart*, each for a reason. What was pushed stays
//! dirty until it is *settled*, since a failover may undo what Redis has just acknowledged.

mod ahead;
mod apart;
mod pass;
mod questions;
mod state;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::local::journal::Lsn;
use ahead::SentAhead;
pub(crate) use apart::Obstacle;
use apart::{Apart, AsideRetry, Fate};
use pass::Pass;
use state::State;

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
        state.cut_off();
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
        state.cut_off();
        state.tail.resume();
        if let Some((_, walk)) = &mut state.backlog {
            walk.resume();
        }
        state.epoch
    }

    /// Redis has lost all its data: all records below the journal's `end` are dirty. It is read when nobody can take any of them for clean any more:
    /// what is written behind it, also as a copy, is told that Redis has lost it.
    pub fn lose_everything(&self, end: impl FnOnce() -> Lsn) {
        let state = &mut *self.0.lock();
        let end = end();
        state.epoch.0 += 1;
        state.cut_off();
        // What only the backlog before this one has sent stands in front of all that the tail has.
        let by_backlog = state.backlog.as_ref().map_or(Lsn::NONE, |(_, walk)| walk.sent_or_sending_below());
        let sent_below = state.tail.sent_or_sending_below().max(by_backlog);
        state.backlog = Some(Lsn::NONE..end).filter(|it| !it.is_empty()).map(|it| (it, Pass::at(Lsn::NONE, Lsn::NONE)));
        state.settled = state.settled.max(end);
        state.tail = Pass::at(state.settled, sent_below);
        // The backlog comes to the others. What stood in the way of these may do so still.
        state.apart.retain(|_, apart| apart.is_held());
        state.apart.values_mut().for_each(Apart::try_now);
        let State { apart, unnoted, settled, .. } = state;
        *unnoted = apart.keys().map(|lsn| (*lsn, *lsn < *settled)).collect();
    }

    /// Notes that the records of the walk up to `to` are about to be sent.
    pub fn sending(&self, epoch: Epoch, lane: Lane, to: Lsn) {
        self.within(epoch, |state| match (lane, &mut state.backlog) {
            (Lane::Tail, _) => state.tail.send(to),
            (Lane::Backlog, Some((_, walk))) => walk.send(to),
            (Lane::Backlog, None) => {}
        });
    }

    /// Notes that the walk has passed everything below `to`. What became of each record there was reported before.
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
            state.cut_off();
            state.tail.resume();
            if let Some((_, walk)) = &mut state.backlog {
                walk.resume();
            }
            others.into_iter().for_each(|lsn| state.note_sent(lsn));
        });
    }

    /// A round has failed since nothing of what was under way was carried out.
    pub fn refused(&self, epoch: Epoch) {
        self.within(epoch, |state| {
            drop(state.end_round());
            state.tail.refuse();
            if let Some((_, walk)) = &mut state.backlog {
                walk.refuse();
            }
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
            if let Some(copy) = state.sent_ahead.answered(lsn) {
                state.note_sent(copy);
            }
            let apart = state.apart.remove(&lsn);
            if apart.as_ref().is_some_and(Apart::is_set_aside) {
                state.aside_retry.succeeded();
            }
            if apart.as_ref().is_some_and(|apart| apart.was_lost) {
                return state.set_apart(lsn, id, Fate::Pushed { at: now }, apart.as_ref());
            }
            let was_apart = apart.is_some();
            let is_unsettled = lsn >= state.settled;
            if is_unsettled && lsn >= state.tail.position.max(state.tail.sent_or_sending_below()) {
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
        self.within(epoch, |state| {
            state.apart.remove(&lsn);
            state.sent_ahead.answered(lsn);
        });
    }

    /// Sets a record apart that could not be pushed, to be tried again later.
    pub fn hold(&self, epoch: Epoch, lsn: Lsn, id: &[u8], why: Obstacle) {
        self.within(epoch, |state| {
            // If it was refused, Redis has not had its copy either.
            if let Some(copy) = state.sent_ahead.answered(lsn).filter(|_| why == Obstacle::SetAside) {
                state.note_sent(copy);
            }
            let apart = state.apart.remove(&lsn);
            let again = apart.as_ref().is_some_and(Apart::is_set_aside);
            // One that is set aside is not sent while it cannot be read, and stays set aside.
            let why = if again && why == Obstacle::Unreadable { Obstacle::SetAside } else { why };
            if why == Obstacle::SetAside {
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
            let apart = state.apart.remove(&lsn);
            let fate = match apart.as_ref().and_then(Apart::tries) {
                Some(tries) => {
                    state.aside_retry.postponed(wait);
                    Fate::SetAside { tries }
                }
                None => Fate::Postponed { due: Instant::now() + wait },
            };
            state.set_apart(lsn, id, fate, apart.as_ref());
        });
    }

    /// Redis has lost this one record: it is dirty until it is pushed again. Does nothing and returns false if too many stand apart.
    pub fn lose(&self, lsn: Lsn, id: &[u8]) -> bool {
        let state = &mut *self.0.lock();
        let is_lost = state.set_lost(lsn, id);
        if is_lost {
            state.note_sent(lsn);
        }
        is_lost
    }

    /// As if Redis had lost the copy `to` of a dirty record, of which nobody knows whether it has been overruled since it was sent.
    pub fn lose_copy(&self, from: Lsn, to: Lsn, id: &[u8]) -> bool {
        let state = &mut *self.0.lock();
        let may_have_stood = state.may_have_stood(from);
        let is_lost = state.set_lost(to, id);
        if is_lost && may_have_stood {
            state.note_sent(to);
        }
        is_lost
    }

    /// A record was copied: what is known of it holds for its copy. The copy says of itself that it is dirty, and nothing around it has settled.
    pub fn moved(&self, from: Lsn, to: Lsn) {
        let state = &mut *self.0.lock();
        if let Some(mut apart) = state.apart.remove(&from) {
            if std::mem::take(&mut apart.is_under_way) && !apart.may_have_stood {
                state.sent_ahead.copied(from, to);
            }
            if let Some(copy) = state.apart.get(&to) {
                apart.was_lost |= copy.was_lost;
                apart.may_have_stood |= copy.may_have_stood;
            }
            state.apart.insert(to, apart);
            state.unnoted.remove(&from);
        } else if state.may_have_stood(from) {
            state.note_sent(to);
        } else if state.may_have_been_sent(from) {
            state.sent_ahead.copied(from, to);
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

    /// The records apart that are due, oldest first, and about to be sent. One that breaks connections is due alone, and as long as that can be only
    /// when nothing else below `end` is, as it may cost the others a new connection. `is_full`: Redis is, and those that wait for room are not due.
    pub fn due(&self, epoch: Epoch, now: Instant, records_max: usize, end: Lsn, is_full: bool) -> Due {
        self.within(epoch, |state| {
            let is_due = |apart: &Apart| apart.is_due(now) && !(is_full && apart.is_for_room());
            let due = state.apart.iter_mut().filter(|(_, apart)| is_due(apart)).take(records_max);
            let records: Vec<_> = due.map(|(lsn, apart)| (*lsn, apart.begin())).collect();
            if !records.is_empty() {
                return Due { records, is_set_aside: false };
            }
            let aside = state.next_aside(end).filter(|(due, _)| *due <= now).map(|(_, lsn)| lsn);
            let aside = aside.and_then(|lsn| Some((lsn, state.apart.get_mut(&lsn)?.begin())));
            Due { is_set_aside: aside.is_some(), records: aside.into_iter().collect() }
        })
    }

    /// The oldest record that waits for room, due or not: pushed as a probe of whether Redis has room by now.
    pub fn probe(&self, epoch: Epoch) -> Option<(Lsn, Vec<u8>)> {
        self.within(epoch, |state| {
            let (lsn, apart) = state.apart.iter_mut().find(|(_, apart)| apart.is_for_room())?;
            Some((*lsn, apart.begin()))
        })
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
            if let Some((range, _)) = state.backlog.take_if(|(range, _)| range.is_empty()) {
                state.tail.sent_below = state.tail.sent_below.max(range.end); // all of it was sent
            }
            state.apart.retain(|_, apart| !matches!(apart.fate, Fate::Pushed { at } if at <= before));
        });
    }
}

#[cfg(test)]
mod tests;
