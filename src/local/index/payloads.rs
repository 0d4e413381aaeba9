use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;

use super::liveness::Weight;
use crate::local::journal::Lsn;
use crate::sync::RwLock;

/// Equal payloads are looked for among the last payloads that were stored, this many of them: about 40 MiB of memory at most.
const RECENT_PAYLOADS_MAX: usize = 1_000_000;

/// Shorter bodies are not looked up: a record that shares one would be as long as the body.
pub(crate) const EQUAL_BODY_BYTES_MIN: u64 = 1024;

/// Who shares whose bytes.
///
/// A payload's name is the lsn at which it was stored; it keeps the name when its record moves while it is shared. Only payloads
/// that have, or had, sharers are listed. A record that holds a listed payload is live even if its own id is gone.
#[derive(Default)]
pub(crate) struct Payloads {
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    shared: FxHashMap<Lsn, Shared>,
    /// Payload names by body hash, in two generations: when the young one is half of the maximum, it takes the old one's place.
    young: FxHashMap<u128, Lsn>,
    old: FxHashMap<u128, Lsn>,
}

/// A payload with sharers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shared {
    /// The record that holds the payload.
    pub holder: Lsn,
    /// What that record takes.
    pub weight: Weight,
    /// Records that refer to it.
    pub sharers: u32,
    /// Whether an id still stands at the holder itself.
    pub owned: bool,
}

/// How a payload's record is moved: decided before the copy is appended, with the table locked, and carried out afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    /// Neither an id nor a sharer keeps the record.
    Dead,
    /// Nobody shares the payload, and nobody can begin to before the move is done; later puts of equal bytes could.
    Alone { was_remembered: bool },
    /// It has sharers, who know it by its name.
    Shared,
}

impl Payloads {
    /// The holder of a payload. What `read` reads of it stays where it is meanwhile.
    pub fn at_holder<T>(&self, payload: Lsn, read: impl FnOnce(Option<Lsn>) -> T) -> T {
        let state = self.state.read();
        read(state.shared.get(&payload).map(|shared| shared.holder))
    }

    /// What the holder of a payload with sharers takes.
    pub fn weight(&self, payload: Lsn) -> Option<Weight> {
        self.state.read().shared.get(&payload).map(|shared| shared.weight)
    }

    /// A payload with this hash, and its holder: to be compared, then acquired.
    pub fn find_equal(&self, body_hash: u128) -> Option<(Lsn, Lsn)> {
        let state = self.state.read();
        let payload = state.remembered(body_hash)?;
        Some((payload, state.shared.get(&payload).map_or(payload, |shared| shared.holder)))
    }

    /// Adds a sharer to a payload that was found and is equal, unless it went or moved meanwhile.
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
            // Remembered and not listed: an id stands at it.
            Entry::Vacant(unlisted) => {
                unlisted.insert(Shared { holder, weight, sharers: 1, owned: true });
                true
            }
        }
    }

    /// Adds a sharer to the payload that stands, as an id's own, at `holder`. The caller holds that id.
    pub fn acquire_owned(&self, payload: Lsn, holder: Lsn, weight: Weight) {
        let mut state = self.state.write();
        state.shared.entry(payload).or_insert(Shared { holder, weight, sharers: 0, owned: true }).sharers += 1;
    }

    /// Adds a sharer to a payload that has one already. The caller holds the id that shares it.
    pub fn acquire_shared(&self, payload: Lsn) -> bool {
        let mut state = self.state.write();
        state.shared.get_mut(&payload).map(|shared| shared.sharers += 1).is_some()
    }

    /// A sharer is gone; the payload's record, if that makes it dead.
    pub fn release(&self, payload: Lsn) -> Option<Shared> {
        let mut state = self.state.write();
        let shared = state.shared.get_mut(&payload)?;
        shared.sharers = shared.sharers.saturating_sub(1);
        if shared.sharers > 0 {
            return None;
        }
        let last = *shared;
        if last.owned && last.holder != payload {
            return None; // listed on, because its name no longer says where it is
        }
        state.shared.remove(&payload);
        (!last.owned).then_some(last)
    }

    /// The id at the payload's own record is gone; whether others keep the payload alive.
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
        // Not offered as an equal any more: a detached payload is to go, not to gain sharers.
        state.forget(body_hash, payload);
        is_shared
    }

    /// Lets later puts of equal bytes share this payload.
    pub fn remember(&self, body_hash: u128, payload: Lsn) {
        self.state.write().remember(body_hash, payload);
    }

    /// Begins to move the payload's record from `from`. `is_owned`: an id stands at it, which the caller holds.
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

    /// The record has a copy at `to`; whether it is still live, so that the copy is from now on what counts. The copy of a shared one
    /// carries the payload's name.
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
                // The last sharer left meanwhile. The id, if there is one, stays, under the name that the copy has.
                Entry::Vacant(unlisted) => {
                    if is_owned {
                        unlisted.insert(Shared { holder: to, weight, sharers: 0, owned: true });
                    }
                    is_owned
                }
            },
        }
    }

    /// The copy could not be made: what was forgotten for its time is remembered again.
    pub fn cancel_move(&self, begun: Move, payload: Lsn, body_hash: u128, from: Lsn, weight: Weight) {
        if let Move::Alone { was_remembered } = begun {
            let mut state = self.state.write();
            if payload != from {
                state.shared.insert(payload, Shared { holder: from, weight, sharers: 0, owned: true });
            }
            if was_remembered {
                state.remember(body_hash, payload);
            }
        }
    }

    /// Whether sharers keep the record at this place.
    pub fn is_held(&self, payload: Lsn, holder: Lsn) -> bool {
        let state = self.state.read();
        state.shared.get(&payload).is_some_and(|shared| shared.holder == holder && shared.sharers > 0)
    }

    /// The holders of payloads with sharers for which that is asked.
    pub fn holders(&self, is_asked: impl Fn(Lsn) -> bool) -> Vec<(Lsn, Shared)> {
        let state = self.state.read();
        let holders = state.shared.iter().filter(|(_, shared)| shared.sharers > 0 && is_asked(shared.holder));
        holders.map(|(payload, shared)| (*payload, *shared)).collect()
    }

    /// Forgets a payload whose bytes are lost, with all that is known of it.
    pub fn lose(&self, payload: Lsn) -> Option<Shared> {
        self.state.write().shared.remove(&payload)
    }

    /// At open: a payload with its sharers counted.
    pub fn restore(&self, payload: Lsn, shared: Shared) {
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
