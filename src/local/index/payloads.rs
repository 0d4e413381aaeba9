//! The payload table: which records share one payload, where that is stored, and the hashes by which equal payloads are found.

use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;

use super::weight::Weight;
use crate::local::journal::Lsn;
use crate::sync::RwLock;

/// Equal payloads are looked for among the last payloads that were stored, this many of them: about 40 MiB of memory at most.
const RECENT_PAYLOADS_MAX: usize = 1_000_000;

/// Shorter bodies are not looked up: a record that shares one would be as long as the body.
pub(crate) const EQUAL_BODY_BYTES_MIN: u64 = 1024;

/// The payloads that have, or had, sharers.
///
/// A payload's name is the lsn at which it was first stored. It keeps that name when its record, the holder, moves while it is shared. A
/// record that holds a payload with sharers is live even if its own id is gone.
#[derive(Default)]
pub(crate) struct Payloads {
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    shared: FxHashMap<Lsn, SharedPayload>,
    /// Payload names by body hash, in two generations: when `young` reaches half of the maximum, it replaces `old`.
    young: FxHashMap<u128, Lsn>,
    old: FxHashMap<u128, Lsn>,
}

/// A payload with sharers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SharedPayload {
    /// The record that holds the payload.
    pub holder: Lsn,
    /// What the holder takes.
    pub weight: Weight,
    /// Records that refer to the payload.
    pub sharers: u32,
    /// Whether an id still stands at the holder itself.
    pub owned: bool,
}

/// How a payload's record is moved: decided under the table's lock before the copy is appended, and carried out by `finish_move`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    /// Neither an id nor a sharer keeps the record.
    Dead,
    /// Nobody shares the payload. For the time of the move it is not remembered, so that no put of equal bytes can begin to share it.
    Alone { was_remembered: bool },
    /// It has sharers, who know it by its name.
    Shared,
}

impl Payloads {
    /// Calls `read` with the holder of a payload, if it is listed. The holder does not move while `read` runs.
    pub fn at_holder<T>(&self, payload: Lsn, read: impl FnOnce(Option<Lsn>) -> T) -> T {
        let state = self.state.read();
        read(state.shared.get(&payload).map(|shared| shared.holder))
    }

    /// What the holder of a payload with sharers takes.
    pub fn weight(&self, payload: Lsn) -> Option<Weight> {
        self.state.read().shared.get(&payload).map(|shared| shared.weight)
    }

    /// A payload with this hash, and its holder. The caller compares the bytes, then calls `acquire_equal`.
    pub fn find_equal(&self, body_hash: u128) -> Option<(Lsn, Lsn)> {
        let state = self.state.read();
        let payload = state.remembered(body_hash)?;
        Some((payload, state.shared.get(&payload).map_or(payload, |shared| shared.holder)))
    }

    /// Adds a sharer to a payload that `find_equal` found and that was compared. Returns false if it went or moved meanwhile.
    pub fn acquire_equal(&self, body_hash: u128, payload: Lsn, holder: Lsn, weight: Weight) -> bool {
        let mut state = self.state.write();
        if state.remembered(body_hash) != Some(payload) {
            return false;
        }
        match state.shared.entry(payload) {
            Entry::Occupied(mut listed) => {
                let shared = listed.get_mut();
                let is_there = shared.holder == holder;
                shared.sharers += u32::from(is_there);
                is_there
            }
            // Remembered but not listed: it has no sharers, so its own id still stands.
            Entry::Vacant(unlisted) => {
                unlisted.insert(SharedPayload { holder, weight, sharers: 1, owned: true });
                true
            }
        }
    }

    /// Adds a sharer to the payload of the id's own record at `holder`. The caller holds that id.
    pub fn acquire_owned(&self, payload: Lsn, holder: Lsn, weight: Weight) {
        let mut state = self.state.write();
        state.shared.entry(payload).or_insert(SharedPayload { holder, weight, sharers: 0, owned: true }).sharers += 1;
    }

    /// Adds a sharer to a payload that has one already. The caller holds the id that shares it. False if the payload is lost.
    pub fn acquire_shared(&self, payload: Lsn) -> bool {
        let mut state = self.state.write();
        state.shared.get_mut(&payload).map(|shared| shared.sharers += 1).is_some()
    }

    /// Removes a sharer. Returns the payload's record if that is dead now.
    pub fn release(&self, payload: Lsn) -> Option<SharedPayload> {
        let mut state = self.state.write();
        let shared = state.shared.get_mut(&payload)?;
        shared.sharers = shared.sharers.saturating_sub(1);
        if shared.sharers > 0 {
            return None;
        }
        let last = *shared;
        if last.owned && last.holder != payload {
            return None; // stays listed, because its name no longer says where it is
        }
        state.shared.remove(&payload);
        (!last.owned).then_some(last)
    }

    /// The id of the payload's own record is gone. Returns whether sharers keep the payload alive.
    pub fn owner_left(&self, payload: Lsn, body_hash: u128) -> bool {
        let mut state = self.state.write();
        let is_shared = match state.shared.get_mut(&payload) {
            Some(shared) if shared.sharers > 0 => {
                shared.owned = false;
                true
            }
            _ => {
                state.shared.remove(&payload);
                false
            }
        };
        // Forgotten, so that no put shares it any more: a payload without an id of its own should go soon.
        state.forget(body_hash, payload);
        is_shared
    }

    /// Remembers a payload's hash, so that later puts of equal bytes can share it.
    pub fn remember(&self, body_hash: u128, payload: Lsn) {
        self.state.write().remember(body_hash, payload);
    }

    /// Begins to move the payload's record from `from`. `is_owned`: the record counts for its id, which the caller holds.
    pub fn begin_move(&self, payload: Lsn, body_hash: u128, from: Lsn, is_owned: bool) -> Move {
        let mut state = self.state.write();
        let shared = state.shared.get(&payload).filter(|shared| shared.holder == from && shared.sharers > 0);
        if shared.is_some() {
            return Move::Shared;
        }
        if !is_owned {
            return Move::Dead;
        }
        state.shared.remove(&payload);
        Move::Alone { was_remembered: state.forget(body_hash, payload) }
    }

    /// The record was copied to `to`. Returns whether it is still live; then the copy counts from now on. The copy of a shared payload carries
    /// its name.
    pub fn finish_move(
        &self,
        begun: Move,
        payload: Lsn,
        body_hash: u128,
        to: Lsn,
        weight: Weight,
        is_owned: bool,
    ) -> bool {
        let mut state = self.state.write();
        match begun {
            Move::Dead => false,
            Move::Alone { was_remembered } => {
                if was_remembered {
                    state.remember(body_hash, to);
                }
                true
            }
            Move::Shared => match state.shared.entry(payload) {
                Entry::Occupied(mut listed) => {
                    listed.get_mut().holder = to;
                    listed.get_mut().weight = weight;
                    true
                }
                // The last sharer left meanwhile. If the record has an id, the payload stays listed under the name that the copy carries.
                Entry::Vacant(unlisted) => {
                    if is_owned {
                        unlisted.insert(SharedPayload { holder: to, weight, sharers: 0, owned: true });
                    }
                    is_owned
                }
            },
        }
    }

    /// The copy could not be made: a payload that was forgotten for the time of the move is remembered again.
    pub fn cancel_move(&self, begun: Move, payload: Lsn, body_hash: u128, from: Lsn, weight: Weight) {
        if let Move::Alone { was_remembered } = begun {
            let mut state = self.state.write();
            if payload != from {
                state.shared.insert(payload, SharedPayload { holder: from, weight, sharers: 0, owned: true });
            }
            if was_remembered {
                state.remember(body_hash, payload);
            }
        }
    }

    /// Whether sharers keep the record at `holder` alive.
    pub fn is_held(&self, payload: Lsn, holder: Lsn) -> bool {
        let state = self.state.read();
        state.shared.get(&payload).is_some_and(|shared| shared.holder == holder && shared.sharers > 0)
    }

    /// The payloads with sharers whose holder `is_asked` for.
    pub fn holders(&self, is_asked: impl Fn(Lsn) -> bool) -> Vec<(Lsn, SharedPayload)> {
        let state = self.state.read();
        let holders = state.shared.iter().filter(|(_, shared)| shared.sharers > 0 && is_asked(shared.holder));
        holders.map(|(payload, shared)| (*payload, *shared)).collect()
    }

    /// Forgets a payload whose bytes are lost, with all that is known of it.
    pub fn lose(&self, payload: Lsn) -> Option<SharedPayload> {
        self.state.write().shared.remove(&payload)
    }

    /// At open: a payload with its sharers counted.
    pub fn restore(&self, payload: Lsn, shared: SharedPayload) {
        self.state.write().shared.insert(payload, shared);
    }
}

impl State {
    fn remembered(&self, body_hash: u128) -> Option<Lsn> {
        self.young.get(&body_hash).or_else(|| self.old.get(&body_hash)).copied()
    }

    fn remember(&mut self, body_hash: u128, payload: Lsn) {
        if self.young.len() >= RECENT_PAYLOADS_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(body_hash, payload);
    }

    fn forget(&mut self, body_hash: u128, payload: Lsn) -> bool {
        let mut forgotten = false;
        for generation in [&mut self.young, &mut self.old] {
            if generation.get(&body_hash) == Some(&payload) {
                generation.remove(&body_hash);
                forgotten = true;
            }
        }
        forgotten
    }
}

// With the feature `shuttle`, locks work under the checker alone.
#[cfg(test)]
#[cfg(not(feature = "shuttle"))]
mod tests {
    use super::*;

    const HASH: u128 = 7;
    const OTHER_HASH: u128 = 8;

    fn at(offset: u32) -> Lsn {
        Lsn::new(1, offset)
    }

    fn weight(bytes: u64) -> Weight {
        Weight { stride: bytes, body_bytes: bytes, body: None }
    }

    /// Holder, stride, sharers, and whether it is owned.
    fn listed(payloads: &Payloads, payload: Lsn) -> Option<(Lsn, u64, u32, bool)> {
        let state = payloads.state.read();
        state.shared.get(&payload).map(|it| (it.holder, it.weight.stride, it.sharers, it.owned))
    }

    #[test]
    fn an_equal_payload_is_found_where_it_is_and_acquired_once_it_was_compared() {
        let payloads = Payloads::default();
        assert!(payloads.find_equal(HASH).is_none());
        assert!(!payloads.acquire_equal(HASH, at(1), at(1), weight(10)), "it went");
        payloads.remember(HASH, at(1));
        assert_eq!(payloads.find_equal(HASH), Some((at(1), at(1))));
        assert!(payloads.find_equal(OTHER_HASH).is_none());
        assert!(!payloads.acquire_equal(HASH, at(2), at(2), weight(10)), "another is remembered");
        assert!(payloads.acquire_equal(HASH, at(1), at(1), weight(10)));
        assert_eq!(listed(&payloads, at(1)), Some((at(1), 10, 1, true)));
        assert!(payloads.acquire_equal(HASH, at(1), at(1), weight(10)));
        assert_eq!(listed(&payloads, at(1)), Some((at(1), 10, 2, true)));
        assert!(!payloads.acquire_equal(HASH, at(1), at(5), weight(10)), "it is elsewhere");
        assert_eq!(listed(&payloads, at(1)), Some((at(1), 10, 2, true)));

        let begun = payloads.begin_move(at(1), HASH, at(1), true);
        assert!(payloads.finish_move(begun, at(1), HASH, at(5), weight(11), true));
        assert_eq!(payloads.find_equal(HASH), Some((at(1), at(5))));
        assert!(payloads.acquire_equal(HASH, at(1), at(5), weight(11)));
        assert_eq!(payloads.at_holder(at(1), |holder| holder), Some(at(5)));
        assert_eq!(payloads.at_holder(at(5), |holder| holder), None);
    }

    #[test]
    fn a_payload_dies_with_the_last_who_refers_to_it() {
        let payloads = Payloads::default();
        payloads.acquire_owned(at(1), at(1), weight(10));
        payloads.acquire_owned(at(1), at(1), weight(10));
        assert!(payloads.acquire_shared(at(1)) && !payloads.acquire_shared(at(2)));
        assert_eq!(listed(&payloads, at(1)), Some((at(1), 10, 3, true)));
        assert!(payloads.release(at(2)).is_none());
        assert!(payloads.release(at(1)).is_none());
        assert!(payloads.owner_left(at(1), HASH), "two share it");
        assert!(payloads.is_held(at(1), at(1)) && !payloads.is_held(at(1), at(2)) && !payloads.is_held(at(2), at(2)));
        assert!(payloads.release(at(1)).is_none());
        let last = payloads.release(at(1)).unwrap();
        assert_eq!((last.holder, last.weight, last.sharers, last.owned), (at(1), weight(10), 0, false));
        assert!(listed(&payloads, at(1)).is_none());
        assert!(payloads.release(at(1)).is_none(), "it is told once");
    }

    #[test]
    fn a_payload_whose_sharers_left_is_its_owners_alone() {
        let payloads = Payloads::default();
        payloads.acquire_owned(at(1), at(1), weight(10));
        assert!(payloads.release(at(1)).is_none());
        assert!(listed(&payloads, at(1)).is_none());
        assert!(!payloads.owner_left(at(1), HASH), "nobody shares it");

        // A payload whose name does not say where it is stays listed for as long as its owner stands.
        payloads.restore(at(2), SharedPayload { holder: at(9), weight: weight(10), sharers: 1, owned: true });
        assert!(payloads.release(at(2)).is_none());
        assert_eq!(listed(&payloads, at(2)), Some((at(9), 10, 0, true)));
        assert!(!payloads.is_held(at(2), at(9)) && payloads.holders(|_| true).is_empty());
        assert!(!payloads.owner_left(at(2), HASH));
        assert!(listed(&payloads, at(2)).is_none());
    }

    #[test]
    fn a_payload_whose_owner_left_is_offered_to_nobody() {
        let payloads = Payloads::default();
        for is_shared in [false, true] {
            payloads.remember(HASH, at(1));
            if is_shared {
                assert!(payloads.acquire_equal(HASH, at(1), at(1), weight(10)));
            }
            assert_eq!(payloads.owner_left(at(1), HASH), is_shared);
            assert!(payloads.find_equal(HASH).is_none());
            assert!(!payloads.acquire_equal(HASH, at(1), at(1), weight(10)));
        }
        payloads.remember(HASH, at(2));
        payloads.owner_left(at(3), HASH);
        assert_eq!(payloads.find_equal(HASH), Some((at(2), at(2))), "that of another stays");
    }

    #[test]
    fn a_payload_that_nobody_shares_moves_under_its_new_place() {
        let payloads = Payloads::default();
        payloads.remember(HASH, at(1));
        let begun = payloads.begin_move(at(1), HASH, at(1), true);
        assert_eq!(begun, Move::Alone { was_remembered: true });
        assert!(payloads.find_equal(HASH).is_none(), "nobody begins to share it meanwhile");
        assert!(payloads.finish_move(begun, at(1), HASH, at(5), weight(10), true));
        assert_eq!(payloads.find_equal(HASH), Some((at(5), at(5))));

        // A payload that was not remembered is not remembered after a move either.
        let begun = payloads.begin_move(at(2), OTHER_HASH, at(2), true);
        assert_eq!(begun, Move::Alone { was_remembered: false });
        assert!(payloads.finish_move(begun, at(2), OTHER_HASH, at(6), weight(10), true));
        assert!(payloads.find_equal(OTHER_HASH).is_none());

        // A name that no sharer knows any more is given up by a move.
        payloads.restore(at(3), SharedPayload { holder: at(7), weight: weight(10), sharers: 0, owned: true });
        let begun = payloads.begin_move(at(3), OTHER_HASH, at(7), true);
        assert_eq!(begun, Move::Alone { was_remembered: false });
        assert!(listed(&payloads, at(3)).is_none());
    }

    #[test]
    fn a_copy_that_could_not_be_made_leaves_all_as_it_was() {
        let payloads = Payloads::default();
        payloads.remember(HASH, at(1));
        let begun = payloads.begin_move(at(1), HASH, at(1), true);
        payloads.cancel_move(begun, at(1), HASH, at(1), weight(10));
        assert_eq!(payloads.find_equal(HASH), Some((at(1), at(1))));
        assert!(listed(&payloads, at(1)).is_none());

        let begun = payloads.begin_move(at(2), OTHER_HASH, at(2), true);
        payloads.cancel_move(begun, at(2), OTHER_HASH, at(2), weight(10));
        assert!(payloads.find_equal(OTHER_HASH).is_none());

        payloads.restore(at(3), SharedPayload { holder: at(7), weight: weight(10), sharers: 0, owned: true });
        let begun = payloads.begin_move(at(3), OTHER_HASH, at(7), true);
        payloads.cancel_move(begun, at(3), OTHER_HASH, at(7), weight(10));
        assert_eq!(listed(&payloads, at(3)), Some((at(7), 10, 0, true)));

        assert!(payloads.acquire_shared(at(3)));
        let begun = payloads.begin_move(at(3), OTHER_HASH, at(7), true);
        assert_eq!(begun, Move::Shared);
        payloads.cancel_move(begun, at(3), OTHER_HASH, at(7), weight(10));
        assert_eq!(listed(&payloads, at(3)), Some((at(7), 10, 1, true)));
    }

    #[test]
    fn a_shared_payload_keeps_its_name_when_it_moves() {
        let payloads = Payloads::default();
        payloads.acquire_owned(at(1), at(1), weight(10));
        assert_eq!(payloads.begin_move(at(1), HASH, at(4), false), Move::Dead, "it stands elsewhere");
        let begun = payloads.begin_move(at(1), HASH, at(1), true);
        assert_eq!(begun, Move::Shared);
        assert!(payloads.finish_move(begun, at(1), HASH, at(5), weight(20), true));
        assert_eq!(listed(&payloads, at(1)), Some((at(5), 20, 1, true)));
        assert_eq!((payloads.weight(at(1)), payloads.weight(at(5))), (Some(weight(20)), None));
        let held: Vec<_> =
            payloads.holders(|holder| holder == at(5)).into_iter().map(|it| (it.0, it.1.holder)).collect();
        assert_eq!(held, [(at(1), at(5))]);
        assert!(payloads.holders(|holder| holder == at(1)).is_empty());
        // Its last sharer leaves while it moves again: its owner stays, if it has one.
        for is_owned in [true, false] {
            payloads.restore(at(2), SharedPayload { holder: at(2), weight: weight(10), sharers: 1, owned: is_owned });
            let begun = payloads.begin_move(at(2), HASH, at(2), is_owned);
            assert_eq!(begun, Move::Shared);
            assert_eq!(payloads.release(at(2)).is_none(), is_owned);
            assert_eq!(payloads.finish_move(begun, at(2), HASH, at(6), weight(10), is_owned), is_owned);
            assert_eq!(listed(&payloads, at(2)), is_owned.then_some((at(6), 10, 0, true)));
        }
        assert_eq!(payloads.begin_move(at(8), HASH, at(8), false), Move::Dead);
        assert!(!payloads.finish_move(Move::Dead, at(8), HASH, at(9), weight(10), false));
    }

    #[test]
    fn a_lost_payload_is_forgotten_with_its_sharers() {
        let payloads = Payloads::default();
        payloads.acquire_owned(at(1), at(1), weight(10));
        let lost = payloads.lose(at(1)).unwrap();
        assert_eq!((lost.holder, lost.sharers), (at(1), 1));
        assert!(payloads.lose(at(1)).is_none() && !payloads.acquire_shared(at(1)));
    }

    #[test]
    fn the_last_payloads_are_remembered_and_their_number_is_bounded() {
        let payloads = Payloads::default();
        let count = RECENT_PAYLOADS_MAX as u32 / 4 * 5;
        for number in 1..=count {
            payloads.remember(u128::from(number), at(number));
            // It is forgotten also when it is in the older generation.
            if number == RECENT_PAYLOADS_MAX as u32 {
                assert!(payloads.find_equal(1).is_some());
                payloads.owner_left(at(1), 1);
                assert!(payloads.find_equal(1).is_none());
            }
        }
        let state = payloads.state.read();
        assert!(state.young.len() + state.old.len() <= RECENT_PAYLOADS_MAX);
        drop(state);
        assert_eq!(payloads.find_equal(u128::from(count)), Some((at(count), at(count))));
        let half_back = count - RECENT_PAYLOADS_MAX as u32 / 2 + 1;
        assert_eq!(payloads.find_equal(u128::from(half_back)), Some((at(half_back), at(half_back))));
    }
}
