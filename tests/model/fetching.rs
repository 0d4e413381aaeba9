//! Gets, and fetches from Redis on their behalf.

use crate::protocol::Protocol;
use crate::rules::Rule;
use crate::state::{Event, FOREIGN, Flight, Ordinal, Progress, Record, State, Suspect, Waiter};

impl Protocol {
    /// What a get that starts now is answered with at once.
    pub fn serves(&self, state: &State, node: usize, id: usize) -> Option<Ordinal> {
        let record = state.held(node, id)?;
        (!self.is_suspect(node, &record)).then_some(record.write)
    }

    /// Whether a record has to be checked before it is served.
    pub fn is_suspect(&self, node: usize, record: &Record) -> bool {
        let is_deaf = self.scope.deaf == Some(node as u8) && self.has(Rule::DeafSuspects);
        let is_settling = matches!(record.progress, Progress::Acknowledged | Progress::Ripe)
            && !self.scope.is_python()
            && self.has(Rule::SettlingSuspects);
        (record.is_clean() || is_settling) && (record.suspect != Suspect::No || is_deaf)
    }

    pub fn get(&self, state: &mut State, node: usize, id: usize) {
        state.left.gets -= 1;
        let place = state.place_mut(node, id);
        let is_registered = self.has(Rule::RegisterFirst);
        place.waiter = Some(Waiter { since: place.reached, is_registered, is_owed: false });
        place.flight.get_or_insert_default();
    }

    /// Somebody asks who waits for nothing: a program that looks whether the object exists, or who gives up.
    pub fn seek(&self, state: &mut State, node: usize, id: usize) {
        state.left.seeks -= 1;
        state.place_mut(node, id).flight.get_or_insert_default();
    }

    /// Who waits is looked after again. Where that would bring nothing, it makes no difference.
    pub fn may_fetch(&self, state: &State, node: usize, id: usize) -> bool {
        let place = state.place(node, id);
        let standing = state.redis.values[id];
        let waits = place.waiter.is_some_and(|waiter| waiter.is_registered);
        let is_suspect = state.held(node, id).is_some_and(|record| self.is_suspect(node, &record));
        let is_newer = place.tombstone == 0
            || (!self.is_versionless(state, standing) && state.version(standing) > state.version(place.tombstone));
        let is_delete_repeated = self.has(Rule::DeleteRepeated) && !place.again && !self.scope.is_python();
        let brings_something = state.redis_has(id) && (is_newer || is_delete_repeated);
        self.has(Rule::Recheck) && waits && (is_suspect || brings_something)
    }

    pub fn seek_again(&self, state: &mut State, node: usize, id: usize) {
        state.place_mut(node, id).flight.get_or_insert_default();
    }

    pub fn read(&self, state: &mut State, node: usize, id: usize) {
        let value = state.redis.values[id];
        if let Some(flight) = &mut state.place_mut(node, id).flight {
            flight.read = Some(value);
        }
    }

    pub fn is_versionless(&self, state: &State, value: Ordinal) -> bool {
        value != 0 && (self.scope.is_python() || state.write(value).node == FOREIGN)
    }

    /// Whether what Redis has is newer than a version; without one of its own, that is only known where there is none to compare with.
    pub fn is_newer_than(&self, state: &State, value: Ordinal, known: u8) -> bool {
        if self.is_versionless(state, value) { known == 0 } else { state.version(value) > known }
    }

    pub fn answer(&self, state: &mut State, node: usize, id: usize, write: Ordinal) {
        if let Some(waiter) = state.place_mut(node, id).waiter.take()
            && waiter.since > write
        {
            state.broken = 5;
        }
    }

    pub fn land(&self, state: &mut State, node: usize, id: usize) {
        let Some(flight) = state.place_mut(node, id).flight.take() else { return };
        let value = flight.read.unwrap_or(0);
        let version = if self.is_versionless(state, value) { 0 } else { state.version(value) };
        let is_overtaken = version < flight.heard && self.has(Rule::FlightRemembers);
        let is_doubted = flight.is_stale && self.has(Rule::FlightDoubted);
        if (is_overtaken || is_doubted) && !flight.is_repeated {
            let again = Flight { read: None, is_stale: false, is_repeated: true, ..flight };
            state.place_mut(node, id).flight = Some(again);
            return;
        }
        let is_current = !is_overtaken && !is_doubted;
        if self.check_suspect(state, node, id, value, is_current) {
            self.answer(state, node, id, value);
        } else if state.is_put(value) {
            self.land_object(state, node, id, value, version, is_current, &flight);
        } else {
            if value != 0 {
                self.learn(state, node, id, value);
            }
            self.answer_here(state, node, id);
        }
    }

    pub fn register(&self, state: &mut State, node: usize, id: usize) {
        if let Some(waiter) = &mut state.place_mut(node, id).waiter {
            waiter.is_registered = true;
        }
    }

    /// Whoever waits gets what is here by now.
    fn answer_here(&self, state: &mut State, node: usize, id: usize) {
        if let Some(write) = self.serves(state, node, id) {
            self.answer(state, node, id, write);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what was read, and how")]
    fn land_object(
        &self,
        state: &mut State,
        node: usize,
        id: usize,
        value: Ordinal,
        version: u8,
        is_current: bool,
        flight: &Flight,
    ) {
        let place = *state.place(node, id);
        let (record, compares) = (place.record, self.has(Rule::FillCompares));
        let is_versionless = self.is_versionless(state, value);
        let has_newer = record.is_some_and(|it| state.is_put(it.write) && state.version(it.write) >= version);
        if compares && has_newer {
            return self.answer_here(state, node, id);
        }
        let is_deleted = place.tombstone != 0 && (is_versionless || state.version(place.tombstone) >= version);
        if compares && is_deleted {
            let is_newer = self.is_newer_than(state, value, flight.known) || !self.has(Rule::EarlyIsNewer);
            let is_early = flight.deleted != 0 && is_newer && place.waiter.is_some_and(|it| it.since < flight.deleted);
            if is_early && self.has(Rule::EarlyAnswered) {
                self.answer(state, node, id, value);
            }
            if flight.deleted != 0 && !is_versionless && !self.has(Rule::EarlyNotKept) {
                self.keep(state, node, id, value);
            }
            if state.version(place.tombstone) > version && !is_versionless {
                self.repeat_delete(state, node, id);
            }
            return;
        }
        if is_current && (!is_versionless || !self.has(Rule::NoForeignFill)) {
            self.keep(state, node, id, value);
        }
        self.answer(state, node, id, value);
    }

    fn keep(&self, state: &mut State, node: usize, id: usize, value: Ordinal) {
        let place = state.place(node, id);
        let here = state.version(place.record.map_or(0, |record| record.write));
        if here > state.version(value) {
            state.broken = 8;
        }
        self.see(state, node, state.version(value));
        let record = Record { progress: Progress::Clean, ..Record::new(value) };
        let place = state.place_mut(node, id);
        (place.record, place.undead) = (Some(record), None);
    }

    /// Redis has said what it has of a suspect; whether that is the same.
    fn check_suspect(&self, state: &mut State, node: usize, id: usize, value: Ordinal, is_current: bool) -> bool {
        let suspect = state.held(node, id).filter(|record| self.is_suspect(node, record));
        let Some(record) = suspect else { return false };
        let is_dropped = match value {
            // Redis has lost what was pushed a moment ago.
            value if !record.is_clean() && (value == 0 || self.is_versionless(state, value)) => false,
            0 if record.suspect == Suspect::Long => self.has(Rule::LongLostSuspectDropped),
            0 => !self.has(Rule::LostSuspectKept),
            value if self.is_versionless(state, value) => true,
            value => state.version(value) > state.version(record.write),
        };
        if is_dropped {
            self.drop_record(state, node, id);
            return false;
        }
        let is_same = value == record.write;
        if !is_same {
            // Redis has lost it; how long it has been dirty, if it was, stays as it is.
            let record = Record { is_overdue: record.is_overdue, ..Record::new(record.write) };
            state.place_mut(node, id).record = Some(record);
        } else if is_current && let Some(record) = &mut state.place_mut(node, id).record {
            record.suspect = Suspect::No;
        }
        is_same && is_current
    }

    /// Asked now and then; where nobody could answer, or somebody is about to, that makes no difference.
    pub fn may_want(&self, state: &State, node: usize, id: usize) -> bool {
        let place = state.place(node, id);
        let waits = place.waiter.is_some_and(|waiter| waiter.is_registered);
        let is_live = |write: Ordinal| state.version(write) > state.version(place.tombstone);
        let could_answer = |other: usize| {
            let it = state.place(other, id);
            let is_new = |record: Record| matches!(record.progress, Progress::New | Progress::Named);
            let is_pushed = it.record.is_some_and(is_new) || it.again;
            let unread = state.redis.stream.iter().skip(usize::from(state.nodes[other].cursor));
            let is_asked =
                unread.into_iter().any(|event| matches!(event, Event::Want { id: of, .. } if usize::from(*of) == id));
            let is_checked = it.flight.is_some();
            other != node
                && state.held(other, id).is_some_and(|it| is_live(it.write))
                && !is_pushed
                && !is_asked
                && !is_checked
        };
        waits && self.has(Rule::Want) && !state.redis_has(id) && (0..state.nodes.len()).any(could_answer)
    }

    /// Asked in vain.
    pub fn want_more(&self, state: &mut State, node: usize, id: usize) {
        state.left.wants -= 1;
        self.want(state, node, id);
    }

    pub fn want(&self, state: &mut State, node: usize, id: usize) {
        let by = state.nodes[node].name;
        state.redis.stream.push(Event::Want { by, id: id as u8 });
    }
}
