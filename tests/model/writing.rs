//! Writes, and their way to Redis.

use crate::protocol::Protocol;
use crate::rules::Rule;
use crate::state::{Event, Link, Ordinal, Progress, Record, State, Write};

impl Protocol {
    fn new_write(&self, state: &mut State, node: usize, id: usize, deletes: bool) -> Ordinal {
        let scope = &self.scope;
        let ordinal = state.writes.len() as u8 + 1;
        let mut clock = ordinal;
        if node == 1 {
            clock += scope.always_ahead + if self.has(Rule::RedisClock) { 0 } else { scope.ahead };
        }
        let place = state.place(node, id);
        let known = state.version(place.record.map_or(0, |record| record.write)).max(state.version(place.tombstone));
        if self.has(Rule::ExceedsKnown) && known / 4 >= clock {
            clock = known / 4 + 1;
        }
        if self.has(Rule::ClockMerges) && state.nodes[node].clock >= clock {
            clock = state.nodes[node].clock + 1;
        }
        let version = clock * 4 + node as u8;
        self.see(state, node, version);
        state.writes.push(Write { id: id as u8, node: node as u8, deletes, version });
        ordinal
    }

    /// The node's clock goes on from what it has seen. Where all clocks are right, that makes no difference.
    pub fn see(&self, state: &mut State, node: usize, version: u8) {
        let scope = &self.scope;
        if scope.ahead + scope.always_ahead > 0 && (!scope.is_far_ahead || node == 1) {
            let node = &mut state.nodes[node];
            node.clock = node.clock.max(version / 4);
        }
    }

    pub fn put(&self, state: &mut State, node: usize, id: usize) {
        state.left.puts -= 1;
        let write = self.new_write(state, node, id, false);
        let version = state.version(write);
        let place = state.place_mut(node, id);
        (place.record, place.undead, place.again) = (Some(Record::new(write)), None, false);
        if let Some(flight) = &mut place.flight
            && self.has(Rule::FlightRemembersOwn)
        {
            flight.heard = flight.heard.max(version);
        }
        self.answer(state, node, id, write);
    }

    pub fn delete(&self, state: &mut State, node: usize, id: usize) {
        state.left.deletes -= 1;
        let is_held = state.held(node, id).is_some();
        let place = state.place(node, id);
        let known = state.version(place.tombstone);
        // What the first delete finds that a fetch brings, or is about to bring.
        let brought = place.flight.filter(|flight| flight.deleted == 0);
        let brought = brought.map_or(0, |flight| flight.read.unwrap_or(state.redis.values[id]));
        let is_brought =
            state.is_put(brought) && state.redis.values[id] == brought && self.is_newer_than(state, brought, known);
        let write = self.new_write(state, node, id, true);
        let place = state.place_mut(node, id);
        place.reached = write;
        if let Some(flight) = &mut place.flight {
            if flight.deleted == 0 {
                (flight.deleted, flight.known) = (write, known);
            }
            if let Some(waiter) = &mut place.waiter
                && is_brought
                && waiter.is_registered
            {
                waiter.is_owed = true;
            }
        }
        if is_held || self.has(Rule::BlindDelete) {
            (place.record, place.undead, place.again) = (Some(Record::new(write)), None, false);
            if self.has(Rule::OwnTombstone) {
                place.tombstone = write;
            }
        }
    }

    /// Another program writes, in the format without versions.
    pub fn foreign_put(&self, state: &mut State, id: usize) {
        state.left.foreign -= 1;
        state.writes.push(Write { id: id as u8, node: crate::state::FOREIGN, deletes: false, version: 0 });
        state.redis.values[id] = state.writes.len() as u8;
        state.excused[id].is_lost = true;
    }

    pub fn may_push(&self, state: &State, node: usize, id: usize) -> bool {
        let place = state.place(node, id);
        let Some(record) = place.record else { return false };
        let is_new = matches!(record.progress, Progress::New | Progress::Named);
        is_new
            && self.may_send(state, node)
            && !self.is_refused(state, record.write, id)
            && !(state.is_delete(record.write) && place.flight.is_some() && self.has(Rule::DeleteAfterFetch))
            && (self.has(Rule::OrderIsPerId) || self.is_next(state, node, record.write))
            && (self.has(Rule::NamedAfterwards) || record.progress == Progress::Named)
    }

    fn may_send(&self, state: &State, node: usize) -> bool {
        match state.nodes[node].link {
            Link::Up => true,
            // Who hears nothing would never send anything.
            Link::Fresh => !self.has(Rule::HearFirst) || self.scope.deaf == Some(node as u8),
            Link::Gone => false,
        }
    }

    /// Whether nothing older is still to be sent.
    fn is_next(&self, state: &State, node: usize, write: Ordinal) -> bool {
        let records = state.nodes[node].places.iter().filter_map(|place| place.record);
        !records.into_iter().any(|it| it.write < write && matches!(it.progress, Progress::New | Progress::Named))
    }

    /// Whether Redis is full, or the connection breaks.
    pub fn is_refused(&self, state: &State, write: Ordinal, id: usize) -> bool {
        if self.scope.unsendable == Some(id as u8) {
            return true;
        }
        let Some(room) = self.scope.room else { return false };
        let is_full = (0..crate::state::IDS_MAX).filter(|id| state.redis_has(*id)).count() >= usize::from(room);
        if state.is_delete(write) { is_full && !self.has(Rule::DeletePassesFullRedis) } else { is_full }
    }

    /// The XADD rides behind a SET NX that turns out to have met a value.
    pub fn may_name_early(&self, state: &State, node: usize, id: usize) -> bool {
        let Some(record) = state.place(node, id).record else { return false };
        let meets_value = state.redis.values[id] != 0 && state.is_put(record.write);
        record.progress == Progress::New
            && self.may_send(state, node)
            && ((self.scope.named_early && meets_value) || !self.has(Rule::NamedAfterwards))
    }

    pub fn name_early(&self, state: &mut State, node: usize, id: usize) {
        let Some(record) = state.place(node, id).record else { return };
        self.set_progress(state, node, id, Progress::Named);
        let event = Event::Wrote { by: state.nodes[node].name, write: record.write };
        state.redis.stream.push(event);
    }

    pub fn push(&self, state: &mut State, node: usize, id: usize) {
        let Some(record) = state.place(node, id).record else { return };
        let (write, standing) = (record.write, state.redis.values[id]);
        let was_standing = standing == write;
        if self.is_newer(state, standing, write) {
            return self.refused(state, node, id, standing);
        }
        // Who was cut off for longer than the tombstone stood, and has nothing more to hear, cannot know.
        let is_late = state.nodes[node].link == Link::Up || state.has_heard_all(node);
        state.excused[id].may_return |= record.is_overdue && is_late;
        self.store(state, node, id, write);
        let named = match self.has(Rule::NamedAfterwards) {
            false => Progress::Acknowledged,
            true if was_standing && !self.has(Rule::RepeatIsNamed) => Progress::Acknowledged,
            true => Progress::Stored,
        };
        self.set_progress(state, node, id, named);
    }

    /// Whether Redis would refuse `write` because of what stands there.
    fn is_newer(&self, state: &State, standing: Ordinal, write: Ordinal) -> bool {
        !self.scope.is_python() && self.has(Rule::GuardedWrite) && state.version(standing) > state.version(write)
    }

    fn store(&self, state: &mut State, node: usize, id: usize, write: Ordinal) {
        self.release(state, Some(node), id);
        let is_del = self.scope.is_python() && state.is_delete(write);
        state.redis.values[id] = if is_del { 0 } else { write };
    }

    /// Somebody else than `by` has changed what a fetch would bring: nothing is owed any more.
    pub fn release(&self, state: &mut State, by: Option<usize>, id: usize) {
        let others = state.nodes.iter_mut().enumerate().filter(|(node, _)| Some(*node) != by);
        others.filter_map(|(_, node)| node.places[id].waiter.as_mut()).for_each(|waiter| waiter.is_owed = false);
    }

    /// Redis has something newer.
    fn refused(&self, state: &mut State, node: usize, id: usize, standing: Ordinal) {
        if state.is_delete(standing) {
            let place = state.place_mut(node, id);
            place.reached = place.reached.max(standing);
        }
        if self.has(Rule::RefusedIsDropped) {
            self.learn(state, node, id, standing);
            if let Some(record) = state.place(node, id).record
                && state.version(record.write) < state.version(standing)
            {
                state.place_mut(node, id).record = None;
            }
        } else {
            self.set_progress(state, node, id, Progress::Acknowledged);
        }
    }

    fn set_progress(&self, state: &mut State, node: usize, id: usize, progress: Progress) {
        let is_settled = progress == Progress::Acknowledged && !self.has(Rule::SettleLater);
        if let Some(record) = &mut state.place_mut(node, id).record {
            record.progress = if is_settled { Progress::Clean } else { progress };
        }
    }

    pub fn name(&self, state: &mut State, node: usize, id: usize) {
        let Some(record) = state.place(node, id).record else { return };
        let event = Event::Wrote { by: state.nodes[node].name, write: record.write };
        state.redis.stream.push(event);
        self.set_progress(state, node, id, Progress::Acknowledged);
    }

    /// With time, what was acknowledged reaches the replicas, unless the master was demoted before.
    pub fn may_replicate(&self, state: &State) -> bool {
        let records = || state.nodes.iter().flat_map(|node| &node.places).filter_map(|place| place.record);
        state.redis.replica.is_some() && records().any(|record| record.progress == Progress::Acknowledged)
    }

    pub fn replicate(&self, state: &mut State) {
        let Some(replica) = &mut state.redis.replica else { return };
        (replica.values, replica.entries) = (state.redis.values, state.redis.stream.len() as i8);
        for node in state.nodes.iter_mut().filter(|node| node.link != Link::Gone) {
            for record in node.places.iter_mut().filter_map(|place| place.record.as_mut()) {
                if record.progress == Progress::Acknowledged {
                    record.progress = Progress::Ripe;
                }
            }
        }
    }

    pub fn may_settle(&self, state: &State, node: usize, id: usize) -> bool {
        let (node, record) = (&state.nodes[node], state.place(node, id).record);
        let has_proof = node.link != Link::Gone && node.epoch == state.redis.epoch;
        let is_time_over = record.is_some_and(|record| match record.progress {
            Progress::Ripe => true,
            Progress::Acknowledged => state.redis.replica.is_none() || node.link == Link::Gone,
            _ => false,
        });
        // Its reader notices an empty Redis long before the time is over.
        is_time_over && (has_proof || (!self.has(Rule::SettleOnProof) && node.link == Link::Gone))
    }

    pub fn settle(&self, state: &mut State, node: usize, id: usize) {
        if let Some(record) = &mut state.place_mut(node, id).record {
            record.progress = Progress::Clean;
        }
    }

    /// Another connection: what was acknowledged on the former one may be forgotten.
    pub fn reconnect(&self, state: &mut State, node: usize) {
        state.nodes[node].link = Link::Fresh;
        self.unsettle(state, node);
    }

    pub fn unsettle(&self, state: &mut State, node: usize) {
        for id in 0..usize::from(self.scope.ids) {
            let Some(record) = state.place(node, id).record else { continue };
            let is_again =
                self.has(Rule::PushedAgain) && (self.has(Rule::DeletesPushedAgain) || state.is_put(record.write));
            // What was not acknowledged is not known to be there.
            let is_open = matches!(record.progress, Progress::Named | Progress::Stored);
            if is_open || (is_again && !record.is_clean()) {
                self.set_progress(state, node, id, Progress::New);
            }
        }
    }

    pub fn may_push_again(&self, state: &State, node: usize, id: usize) -> bool {
        let place = state.place(node, id);
        let Some(write) = self.to_repeat(state, node, id) else { return false };
        let is_ahead = state.is_delete(write) && place.flight.is_some() && self.has(Rule::DeleteAfterFetch);
        let is_deaf = self.scope.deaf == Some(node as u8);
        let has_heard = state.has_heard_all(node) || is_deaf || !self.has(Rule::WantAfterHearing);
        place.again && has_heard && self.may_send(state, node) && !is_ahead && !self.is_refused(state, write, id)
    }

    /// What a node knows of an id, to be pushed again; not what the journal's turn brings anyway.
    fn to_repeat(&self, state: &State, node: usize, id: usize) -> Option<Ordinal> {
        let place = state.place(node, id);
        match place.record {
            Some(record) if !matches!(record.progress, Progress::New | Progress::Named) => Some(record.write),
            Some(_) => None,
            None => Some(place.tombstone).filter(|tombstone| *tombstone != 0),
        }
    }

    /// Writes what another node wants, or a delete that Redis has lost, and names it.
    pub fn push_again(&self, state: &mut State, node: usize, id: usize) {
        state.place_mut(node, id).again = false;
        let Some(write) = self.to_repeat(state, node, id) else { return };
        if state.held(node, id).is_some_and(|record| self.is_suspect(node, &record))
            && self.has(Rule::SuspectAnswersNoWant)
        {
            state.place_mut(node, id).flight.get_or_insert_default();
            return;
        }
        let standing = state.redis.values[id];
        if self.is_newer(state, standing, write) {
            return self.learn(state, node, id, standing);
        }
        state.excused[id].may_return |= state.place(node, id).record.is_some_and(|record| record.is_overdue);
        self.store(state, node, id, write);
        let event = Event::Wrote { by: state.nodes[node].name, write };
        state.redis.stream.push(event);
    }
}
