//! What goes wrong, and what makes room.

use crate::protocol::Protocol;
use crate::rules::Rule;
use crate::state::{IDS_MAX, Link, Ordinal, Progress, Replica, State, Suspect};

impl Protocol {
    pub fn evict(&self, state: &mut State, node: usize, id: usize) {
        state.left.evictions -= 1;
        let Some(record) = state.place_mut(node, id).record.take() else { return };
        // Redis was emptied a moment ago, or has lost this one, and the node does not know yet.
        let is_unknown = state.nodes[node].epoch != state.redis.epoch || state.excused[id].is_missed;
        if is_unknown && record.is_clean() && record.write == state.top(id) {
            state.excused[id].is_lost = true;
        }
    }

    /// A replica becomes the master. What it does not have was acknowledged all the same.
    pub fn fail_over(&self, state: &mut State) {
        state.left.failovers -= 1;
        let Some(Replica { values, entries }) = state.redis.replica else { return };
        (0..IDS_MAX).for_each(|id| self.release(state, None, id));
        state.redis.values = values;
        state.redis.stream.truncate(entries.max(0) as usize);
        for node in 0..state.nodes.len() {
            state.nodes[node].link = Link::Gone;
            if i16::from(state.nodes[node].cursor) > i16::from(entries) {
                state.nodes[node].cursor = entries.max(0) as u8;
                self.lose_past(state, node);
            }
        }
    }

    /// A connection breaks, and with it the answers that were under way.
    pub fn break_link(&self, state: &mut State, node: usize) {
        state.left.breaks -= 1;
        state.nodes[node].link = Link::Gone;
    }

    /// The stream is trimmed to its last entries.
    pub fn trim(&self, state: &mut State, kept: u8) {
        state.left.trims -= 1;
        let trimmed = state.redis.stream.len() as u8 + 1 - kept;
        state.redis.trimmed = state.redis.trimmed.max(trimmed);
        for node in 0..state.nodes.len() {
            let cursor = state.nodes[node].cursor;
            if cursor < trimmed {
                state.nodes[node].cursor = cursor.max(trimmed - 1);
                self.lose_past(state, node);
            }
        }
    }

    /// FLUSHALL, or an empty restart.
    pub fn flush(&self, state: &mut State) {
        state.left.flushes -= 1;
        (0..IDS_MAX).for_each(|id| self.release(state, None, id));
        state.redis.epoch += 1;
        state.redis.values = [0; IDS_MAX];
        state.redis.stream.clear();
        state.redis.trimmed = 0;
        if let Some(replica) = &mut state.redis.replica {
            *replica = Replica { values: [0; IDS_MAX], entries: 0 };
        }
        state.nodes.iter_mut().for_each(|node| node.cursor = 0);
        for id in 0..IDS_MAX {
            state.excused[id].is_lost |= !is_held_somewhere(state, id);
        }
    }

    /// Redis evicts an object, or loses it in a way of its own.
    pub fn lose_value(&self, state: &mut State, id: usize) {
        state.left.lost_values -= 1;
        self.release(state, None, id);
        state.redis.values[id] = 0;
        state.excused[id].is_missed = true;
        state.excused[id].is_lost |= !is_held_somewhere(state, id);
        if let Some(replica) = &mut state.redis.replica {
            replica.values[id] = 0;
        }
    }

    /// Tombstones expire everywhere at about the same time, where they are settled. No fetch takes that long.
    pub fn may_expire(&self, state: &State, id: usize) -> bool {
        let value = state.redis.values[id];
        let is_done = |node: usize| {
            let place = state.place(node, id);
            let is_settled = place.record.is_none_or(|it| it.write != value || it.is_clean());
            is_settled && place.flight.is_none() && !place.again
        };
        let is_replicated = state.redis.replica.is_none_or(|replica| replica.values[id] == value);
        state.is_delete(value) && is_replicated && (0..state.nodes.len()).all(is_done)
    }

    pub fn expire_tombstone(&self, state: &mut State, id: usize) {
        state.left.expiries -= 1;
        let value = std::mem::take(&mut state.redis.values[id]);
        if let Some(replica) = &mut state.redis.replica {
            replica.values[id] = 0;
        }
        state.excused[id].is_expired = true;
        for node in 0..state.nodes.len() {
            let has_heard_all = state.has_heard_all(node);
            state.nodes[node].is_long_out |= !has_heard_all;
            self.forget_tombstone(state, node, id, value);
        }
    }

    fn forget_tombstone(&self, state: &mut State, node: usize, id: usize, value: Ordinal) {
        let version = state.version(value);
        let place = state.place_mut(node, id);
        place.reached = 0;
        if let Some(waiter) = &mut place.waiter {
            waiter.since = 0;
        }
        if place.tombstone == value {
            place.tombstone = 0;
        }
        let Some(mut record) = place.record else { return };
        if record.write == value {
            state.place_mut(node, id).record = None;
        } else if state.version(record.write) < version {
            // It has not heard of the delete, for as long as the tombstone stood.
            if record.suspect == Suspect::Recently {
                record.suspect = Suspect::Long;
            }
            record.is_overdue = !record.is_clean();
            state.place_mut(node, id).record = Some(record);
        }
    }

    /// The node forgets its delete before it is settled.
    pub fn expire_own_tombstone(&self, state: &mut State, node: usize, id: usize) {
        state.left.expiries -= 1;
        let place = state.place_mut(node, id);
        (place.record, place.tombstone) = (None, 0);
    }

    /// The push cannot read a record, and goes on to the next as if this one had been pushed.
    pub fn skip_unreadable(&self, state: &mut State, node: usize, id: usize) {
        state.left.unreadable -= 1;
        debug_assert!(!self.has(Rule::UnreadableIsHeld));
        if let Some(record) = &mut state.place_mut(node, id).record {
            record.progress = Progress::Acknowledged;
        }
    }
}

fn is_held_somewhere(state: &State, id: usize) -> bool {
    let top = state.top(id);
    let is_held = |node: usize| state.place(node, id).record.is_some_and(|record| record.write == top);
    (0..state.nodes.len()).any(is_held)
}
