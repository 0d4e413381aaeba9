//! What the ledger is asked: nothing here changes it.

use std::time::{Duration, Instant};

use super::apart::{Apart, Fate};
use super::pass::Pass;
use super::{Epoch, Lane, Ledger, Next};
use crate::local::journal::Lsn;

impl Ledger {
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

    /// When the next record apart is due, as `due` sees it.
    pub fn next_due(&self, end: Lsn, is_full: bool) -> Option<Instant> {
        let state = self.0.lock();
        let now = Instant::now();
        let apart = state.apart.values().filter(|apart| !(is_full && apart.is_for_room()));
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

    /// Whether this record may have been sent before, in this open or an earlier one, whatever Redis has said to that.
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

    /// Whether any record stands apart because Redis has no room for it.
    pub fn has_any_for_room(&self) -> bool {
        self.0.lock().apart.values().any(Apart::is_for_room)
    }

    /// Whether `APART_MAX` records stand apart that were not pushed.
    pub fn is_full(&self) -> bool {
        self.0.lock().is_full()
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

    /// The lsn below which everything that was pushed has settled.
    pub fn settled(&self) -> Lsn {
        let state = self.0.lock();
        let backlog = state.backlog.as_ref().map(|(range, _)| range.start);
        let apart = state.apart.iter().find(|(_, apart)| apart.is_pushed()).map(|(lsn, _)| *lsn);
        [backlog, apart].into_iter().flatten().fold(state.settled, Lsn::min)
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

    /// The first record below `end` that was not pushed, of those that are not set aside; None if all were.
    pub fn first_unpushed(&self, end: Lsn) -> Option<Lsn> {
        let state = self.0.lock();
        let tail = Some(state.tail.position).filter(|position| *position < end);
        let backlog = state.backlog.as_ref().filter(|(range, walk)| walk.position < range.end);
        let backlog = backlog.map(|(_, walk)| walk.position);
        let apart =
            state.apart.iter().find(|(_, apart)| !apart.is_pushed() && !apart.is_set_aside()).map(|(lsn, _)| *lsn);
        [tail, backlog, apart].into_iter().flatten().min()
    }

    /// The records apart that were not pushed.
    pub fn unpushed_apart(&self) -> Vec<(Lsn, Vec<u8>)> {
        let state = self.0.lock();
        let unpushed = state.apart.iter().filter(|(_, apart)| !apart.is_pushed());
        unpushed.map(|(lsn, apart)| (*lsn, apart.id.clone())).collect()
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
