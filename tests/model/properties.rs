//! What must always hold, by the numbers of the design. Those that begin with "quiet" are about moments at which the protocol has
//! nothing left to do.

use stateright::Property;

use crate::protocol::{Protocol, Step};
use crate::state::{FOREIGN, Ordinal, State};

pub const KEPT: &str = "3: what Redis may lack is neither evicted nor forgotten";
pub const READABLE: &str = "4: an acknowledged put is readable, and who waits is answered";
pub const DELETED: &str = "5: after a delete has reached a node, it does not return the object";
pub const AGREED: &str = "6: when it is quiet, nodes and Redis agree";
pub const AGREED_EARLY: &str = "6: also before what was acknowledged has settled";
pub const FILLS: &str = "8: a fill never replaces a newer write";

/// All, or the one that is asked for.
pub fn chosen(only: Option<&str>) -> Vec<Property<Protocol>> {
    all().into_iter().filter(|property| only.is_none_or(|only| only == property.name)).collect()
}

fn all() -> Vec<Property<Protocol>> {
    vec![
        Property::always(KEPT, is_kept),
        Property::always(READABLE, |model, state| is_readable(model, state) || !is_quiet(model, state)),
        Property::always(DELETED, is_deleted),
        Property::always(AGREED, |model, state| is_agreed(model, state) || !is_quiet(model, state)),
        Property::always(AGREED_EARLY, |model, state| is_agreed(model, state) || !is_calm(model, state)),
        Property::always(FILLS, |_, state: &State| state.broken != 8),
    ]
}

pub fn is_quiet(model: &Protocol, state: &State) -> bool {
    let mut steps = Vec::new();
    model.own_steps(state, &mut steps);
    steps.is_empty()
}

/// Whether there is nothing to do but to wait until what was acknowledged has settled. Not for values without versions: until they have settled
/// Redis cannot tell whether they were overruled.
fn is_calm(model: &Protocol, state: &State) -> bool {
    let mut steps = Vec::new();
    model.own_steps(state, &mut steps);
    !model.scope.is_python() && steps.iter().all(|step| matches!(step, Step::Settle { .. } | Step::Replicate))
}

fn ids(model: &Protocol) -> std::ops::Range<usize> {
    0..usize::from(model.scope.ids)
}

fn nodes(state: &State) -> std::ops::Range<usize> {
    0..state.nodes.len()
}

/// The newest write of each id is somewhere.
fn is_kept(model: &Protocol, state: &State) -> bool {
    ids(model).all(|id| {
        let (top, excused) = (state.top(id), state.excused[id]);
        let is_here = |node: usize| {
            let place = state.place(node, id);
            place.record.is_some_and(|record| record.write == top) || place.tombstone == top
        };
        let is_gone_rightly = match state.is_delete(top) {
            // Redis has no tombstones in that format.
            true => excused.is_expired || model.scope.is_python(),
            false => excused.is_lost || excused.may_return,
        };
        top == 0 || is_gone_rightly || state.redis.values[id] == top || nodes(state).any(is_here)
    })
}

fn is_readable(model: &Protocol, state: &State) -> bool {
    ids(model).all(|id| {
        let (top, excused) = (state.top(id), state.excused[id]);
        let is_full = model.scope.room.is_some() || model.scope.unsendable == Some(id as u8);
        let is_in_redis =
            !state.is_put(top) || excused.is_lost || excused.is_missed || is_full || state.redis.values[id] == top;
        is_in_redis && nodes(state).all(|node| is_answered(model, state, node, id))
    })
}

/// Nobody waits for what Redis or a node has, nor for what was promised.
fn is_answered(model: &Protocol, state: &State, node: usize, id: usize) -> bool {
    let place = state.place(node, id);
    let Some(waiter) = place.waiter else { return true };
    let is_refused = model.scope.room.is_some() || model.scope.unsendable == Some(id as u8);
    let is_live = |write: Ordinal| {
        let is_newer = state.version(write) > state.version(place.tombstone) || state.write(write).node == FOREIGN;
        state.is_put(write) && is_newer
    };
    let is_held = |other: usize| state.held(other, id).is_some_and(|it| is_live(it.write));
    let value = state.redis.values[id];
    let is_there = (value != 0 && is_live(value)) || (!is_refused && nodes(state).any(is_held));
    !waiter.is_owed && !is_there
}

fn is_deleted(model: &Protocol, state: &State) -> bool {
    let is_right = |(node, id): (usize, usize)| {
        let reached = state.place(node, id).reached;
        reached == 0 || model.serves(state, node, id).is_none_or(|write| write > reached)
    };
    state.broken != 5 && model.each().all(is_right)
}

fn is_agreed(model: &Protocol, state: &State) -> bool {
    ids(model).all(|id| {
        let (top, value, excused) = (state.top(id), state.redis.values[id], state.excused[id]);
        let is_right = |write: Ordinal| match state.is_put(value) {
            true => write == value || (state.write(value).node == FOREIGN && state.write(write).node != FOREIGN),
            // With nothing in Redis, what was deleted must still be nowhere.
            false => value == 0 && (state.is_put(top) || excused.may_return),
        };
        let is_full = top != 0 && model.is_refused(state, top, id);
        let is_highest =
            value == 0 || value == top || is_full || excused.is_lost || excused.is_missed || excused.may_return;
        let is_undone = state.is_delete(top) && state.is_put(value) && !excused.may_return;
        // What Redis lost unnoticed is pushed again when somebody wants it.
        let is_newer = |write: Ordinal| excused.is_missed && state.version(write) > state.version(value);
        let is_right = |write: Ordinal| is_right(write) || is_newer(write);
        let agrees = |node: usize| model.serves(state, node, id).is_none_or(is_right) || is_full;
        is_highest && !is_undone && nodes(state).all(agrees)
    })
}
