//! What nodes learn of each other's writes, and what they do when they may have missed some.

use crate::protocol::Protocol;
use crate::rules::Rule;
use crate::state::{Event, Link, Ordinal, Progress, Record, State, Suspect};

impl Protocol {
    pub fn hear(&self, state: &mut State, node: usize) {
        let event = state.redis.stream[usize::from(state.nodes[node].cursor)];
        state.nodes[node].cursor += 1;
        state.nodes[node].has_cursor = true;
        if self.has(Rule::DropJournaled) {
            // What former events dropped is durable before the cursor moves on.
            state.nodes[node].places.iter_mut().for_each(|place| place.undead = None);
        }
        let name = state.nodes[node].name;
        match event {
            Event::Wrote { by, write } if by != name => self.hear_write(state, node, write),
            Event::Want { by, id } if by != name => self.hear_want(state, node, usize::from(id)),
            _ => {}
        }
    }

    fn hear_write(&self, state: &mut State, node: usize, write: Ordinal) {
        let id = usize::from(state.write(write).id);
        self.learn(state, node, id, write);
        if state.is_delete(write) {
            return;
        }
        if state.version(state.place(node, id).tombstone) > state.version(write) {
            self.repeat_delete(state, node, id);
        } else if self.scope.is_python() {
            state.place_mut(node, id).tombstone = 0; // written again
        }
        let place = state.place_mut(node, id);
        if place.waiter.is_some_and(|waiter| waiter.is_registered) {
            place.flight.get_or_insert_default();
        }
    }

    /// A put has got through though a later delete is known here: Redis does not have the delete, or has it no more.
    pub fn repeat_delete(&self, state: &mut State, node: usize, id: usize) {
        let tombstone = state.place(node, id).tombstone;
        let is_held = state.held(node, id).is_some();
        let place = state.place_mut(node, id);
        if !self.has(Rule::DeleteRepeated) || !is_pushed(place.record) {
            return;
        }
        if self.has(Rule::RepeatIsDirty) && !is_held {
            place.record = Some(Record::new(tombstone));
        } else {
            place.again = true;
        }
    }

    fn hear_want(&self, state: &mut State, node: usize, id: usize) {
        let place = *state.place(node, id);
        let Some(record) = place.record else {
            state.place_mut(node, id).again = place.tombstone != 0;
            return;
        };
        if self.is_suspect(node, &record) && self.has(Rule::SuspectAnswersNoWant) {
            state.place_mut(node, id).flight.get_or_insert_default();
        } else {
            state.place_mut(node, id).again = is_pushed(place.record);
        }
    }

    /// The write is in Redis, or was: what is older here goes.
    pub fn learn(&self, state: &mut State, node: usize, id: usize, write: Ordinal) {
        let (version, deletes) = (state.version(write), state.is_delete(write));
        self.see(state, node, version);
        if let Some(flight) = &mut state.place_mut(node, id).flight {
            flight.heard = flight.heard.max(version);
        }
        if let Some(record) = state.held(node, id)
            && state.version(record.write) < version
            && self.has(Rule::EventDrops)
            && (record.is_clean() || self.has(Rule::EventDropsDirty))
        {
            self.drop_record(state, node, id);
            let may_follow = self.scope.is_python() && deletes && !record.is_clean();
            if may_follow && self.has(Rule::OvertakenBecomesDelete) {
                state.place_mut(node, id).record = Some(Record::new(write));
            }
        }
        let known = state.version(state.place(node, id).tombstone);
        let place = state.place_mut(node, id);
        if deletes {
            place.reached = place.reached.max(write);
            place.tombstone = if version > known { write } else { place.tombstone };
        }
    }

    pub fn drop_record(&self, state: &mut State, node: usize, id: usize) {
        let keeps_trace = self.has(Rule::DropJournaled) && self.has(Rule::CursorAfterDrops);
        let place = state.place_mut(node, id);
        let record = place.record.take();
        place.undead = record.filter(|_| !keeps_trace);
    }

    /// The entry that the cursor names is gone.
    pub fn lose_past(&self, state: &mut State, node: usize) {
        let node = &mut state.nodes[node];
        node.has_lost_past = self.has(Rule::LostPastNoticed) && node.has_cursor;
    }

    pub fn notice_lost_past(&self, state: &mut State, node: usize) {
        let suspect = if state.nodes[node].is_long_out { Suspect::Long } else { Suspect::Recently };
        let is_all = self.has(Rule::UnsettledSuspects);
        for id in 0..usize::from(self.scope.ids) {
            if let Some(record) = state.place(node, id).record
                && self.scope.is_python()
                && state.is_delete(record.write)
                && self.has(Rule::LostPastRepeatsDeletes)
            {
                state.place_mut(node, id).record = Some(Record::new(record.write));
            }
        }
        for place in &mut state.nodes[node].places {
            if let Some(record) = &mut place.record
                && (record.is_clean() || is_all)
                && record.suspect != Suspect::Long
            {
                record.suspect = suspect;
            }
            if let Some(flight) = &mut place.flight {
                flight.is_stale = true;
            }
        }
        self.hear_from_now(state, node);
    }

    fn hear_from_now(&self, state: &mut State, node: usize) {
        let end = state.redis.stream.len() as u8;
        let node = &mut state.nodes[node];
        (node.cursor, node.has_lost_past, node.is_long_out) = (end, false, false);
    }

    /// Redis has lost everything: all that is held here is dirty again.
    pub fn notice_epoch(&self, state: &mut State, node: usize) {
        for id in 0..usize::from(self.scope.ids) {
            let place = state.place_mut(node, id);
            if let Some(record) = &mut place.record {
                // An acknowledgement under way is of the former epoch.
                let is_late = record.progress == Progress::Stored && !self.has(Rule::AckOfEpoch);
                if self.has(Rule::EpochMakesDirty) && !is_late {
                    *record = Record::new(record.write);
                }
            }
            if let Some(flight) = &mut place.flight {
                flight.is_stale = true;
            }
        }
        state.nodes[node].epoch = state.redis.epoch;
        self.hear_from_now(state, node);
    }

    /// The process is killed and the directory opened again. `cursor` is the one that was persisted last.
    pub fn restart(&self, state: &mut State, node: usize, cursor: u8) {
        state.left.restarts -= 1;
        let trimmed = state.redis.trimmed;
        let is_undead_forever = !self.has(Rule::DropJournaled);
        {
            let node = &mut state.nodes[node];
            let is_same_cursor = cursor == node.cursor;
            node.link = Link::Fresh;
            if self.has(Rule::NameIsDrawn) {
                node.name += 3;
            }
            node.cursor = cursor;
            for place in &mut node.places {
                (place.flight, place.waiter, place.again) = (None, None, false);
                if place.record.is_none() && (is_same_cursor || is_undead_forever) {
                    place.record = place.undead;
                }
                place.undead = None;
                if !self.has(Rule::SuspectsPersist)
                    && let Some(record) = &mut place.record
                {
                    record.suspect = Suspect::No;
                }
            }
        }
        if cursor < trimmed {
            self.lose_past(state, node);
        }
        for id in 0..usize::from(self.scope.ids) {
            let record = state.place(node, id).record.filter(|record| state.is_delete(record.write));
            // Those of other nodes are only in memory: from here on it is Redis that remembers them.
            let place = state.place_mut(node, id);
            place.tombstone = record.map_or(0, |record| record.write);
            place.reached = place.tombstone;
        }
        self.unsettle(state, node);
    }
}

/// Whether the journal's turn has come to the record: before that, there is nothing to push again.
fn is_pushed(record: Option<Record>) -> bool {
    record.is_none_or(|record| !matches!(record.progress, Progress::New | Progress::Named))
}
