//! The state under the ledger's lock, and what follows from it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Instant;

use super::ahead::SentAhead;
use super::apart::{Apart, AsideRetry, Fate};
use super::pass::Pass;
use super::{APART_MAX, Epoch};
use crate::local::journal::Lsn;

/// The state under the ledger's lock.
pub(super) struct State {
    pub epoch: Epoch,
    /// Records below are clean, except those in the backlog and those apart.
    pub settled: Lsn,
    pub tail: Pass,
    /// After a total loss of Redis: the records in this range are dirty again, whatever their flags say. What is new is pushed before them.
    pub backlog: Option<(Range<Lsn>, Pass)>,
    pub apart: BTreeMap<Lsn, Apart>,
    /// Of the records apart, those that the next open may take for clean: whether it has to, as everything around was settled when they came to stand
    /// apart, or has to if the records say so.
    pub unnoted: BTreeMap<Lsn, bool>,
    pub aside_retry: AsideRetry,
    /// Records that the tail has yet to pass, and that were sent already.
    pub sent_ahead: SentAhead,
}

impl State {
    /// Has a record stand apart; `before`: as it stood apart until now.
    pub fn set_apart(&mut self, lsn: Lsn, id: &[u8], fate: Fate, before: Option<&Apart>) {
        if before.is_none() {
            self.unnoted.insert(lsn, lsn < self.settled);
        }
        let was_lost = before.is_some_and(|before| before.was_lost);
        let stood = before.map_or_else(|| self.may_have_stood(lsn), |before| before.may_have_stood);
        let may_have_stood = stood || fate.was_sent();
        self.apart.insert(lsn, Apart { id: id.to_vec(), fate, was_lost, may_have_stood, is_under_way: false });
    }

    /// Whether Redis may have had this record: it was sent, and Redis did not refuse it. What is under way for the first time does not count.
    pub fn may_have_stood(&self, lsn: Lsn) -> bool {
        if let Some(apart) = self.apart.get(&lsn) {
            return apart.may_have_stood;
        }
        let was_sent = match &self.backlog {
            Some((range, walk)) if range.contains(&lsn) => lsn < self.tail.sent_below || walk.has_sent(lsn),
            _ => self.tail.has_sent(lsn),
        };
        was_sent || self.sent_ahead.contains(lsn)
    }

    pub fn may_have_been_sent(&self, lsn: Lsn) -> bool {
        let by_walk = match &self.backlog {
            Some((range, walk)) if range.contains(&lsn) => {
                lsn < self.tail.sent_below || lsn < walk.sent_or_sending_below()
            }
            _ => lsn < self.tail.sent_or_sending_below(),
        };
        by_walk || self.may_have_stood(lsn) || self.sent_ahead.is_copy(lsn)
    }

    /// Notes that this record, which no walk has passed, may stand in Redis.
    pub fn note_sent(&mut self, lsn: Lsn) {
        match self.apart.get_mut(&lsn) {
            Some(apart) => apart.may_have_stood = true,
            None => self.sent_ahead.insert(lsn, &mut self.tail),
        }
    }

    /// Nothing is under way any more. Returns the copies that were made meanwhile of what was sent for the first time.
    pub fn end_round(&mut self) -> impl Iterator<Item = Lsn> + use<> {
        self.apart.values_mut().for_each(|apart| apart.is_under_way = false);
        self.sent_ahead.unanswered()
    }

    /// Nobody knows what became of what is under way.
    pub fn cut_off(&mut self) {
        self.end_round().for_each(|copy| self.note_sent(copy));
    }

    /// Has a record stand apart as lost by Redis until it is pushed again. Does nothing and returns false if too many stand apart.
    pub fn set_lost(&mut self, lsn: Lsn, id: &[u8]) -> bool {
        if self.apart.len() >= APART_MAX && !self.apart.contains_key(&lsn) {
            return false;
        }
        if !self.apart.contains_key(&lsn) {
            self.set_apart(lsn, id, Fate::Lost, None);
        }
        if let Some(apart) = self.apart.get_mut(&lsn) {
            if apart.is_pushed() {
                apart.fate = Fate::Lost;
            }
            apart.was_lost = true;
        }
        true
    }

    pub fn is_in_backlog(&self, lsn: Lsn) -> bool {
        self.backlog.as_ref().is_some_and(|(range, _)| range.contains(&lsn))
    }

    /// Whether both walks are at their ends.
    pub fn has_passed(&self, end: Lsn) -> bool {
        self.tail.position >= end && self.backlog.as_ref().is_none_or(|(range, walk)| walk.position >= range.end)
    }

    pub fn is_full(&self) -> bool {
        self.apart.values().filter(|apart| !apart.is_pushed()).count() >= APART_MAX
    }

    /// The record set aside that is tried next, the one that was tried least, and when: once everything else below `end` is pushed, or the walks stand
    /// still since so many records stand apart; or much later, if it does not come to that.
    pub fn next_aside(&self, end: Lsn) -> Option<(Instant, Lsn)> {
        let aside = self.apart.iter().filter_map(|(lsn, apart)| Some((apart.tries()?, *lsn)));
        let (_, lsn) = aside.min()?;
        let is_quiet = self.has_passed(end) || self.is_full();
        Some((if is_quiet { self.aside_retry.due } else { self.aside_retry.overdue }, lsn))
    }

    /// The backlog's walk, if `lsn` is in the backlog.
    pub fn backlog_of(&mut self, lsn: Lsn) -> Option<&mut Pass> {
        self.backlog.as_mut().filter(|(range, _)| range.contains(&lsn)).map(|(_, walk)| walk)
    }
}
