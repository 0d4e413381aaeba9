use parking_lot::{RwLock, RwLockReadGuard};
use rustc_hash::FxHashMap;

use crate::local::journal::Lsn;

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

#[derive(Clone, Copy, Debug)]
pub(crate) struct Shared {
    /// The record that holds the payload.
    pub place: Lsn,
    /// Records that refer to it.
    pub sharers: u32,
    /// Whether an id still stands at `place` itself.
    pub owned: bool,
}

/// The table as it stands while this is held.
pub(crate) struct Places<'a>(RwLockReadGuard<'a, State>);

impl Places<'_> {
    pub fn place(&self, payload: Lsn) -> Option<Lsn> {
        self.0.shared.get(&payload).map(|shared| shared.place)
    }
}

impl Payloads {
    /// Where payloads are; they stay there while this is held.
    pub fn places(&self) -> Places<'_> {
        Places(self.state.read())
    }

    /// Takes a reference to a payload that may be equal, and says where it is. The caller compares, and releases it if it differs:
    /// without the reference it could be freed while it is compared.
    pub fn acquire_equal(&self, body_hash: u128) -> Option<(Lsn, Lsn)> {
        let mut state = self.state.write();
        let payload = *state.young.get(&body_hash).or_else(|| state.old.get(&body_hash))?;
        let shared = state.shared.entry(payload).or_insert(Shared { place: payload, sharers: 0, owned: true });
        shared.sharers += 1;
        Some((payload, shared.place))
    }

    /// Adds a sharer to the payload that stands, as an id's own, at `place`. The caller holds that id.
    pub fn acquire_owned(&self, payload: Lsn, place: Lsn) {
        let mut state = self.state.write();
        state.shared.entry(payload).or_insert(Shared { place, sharers: 0, owned: true }).sharers += 1;
    }

    /// Adds a sharer to a payload that has one already. The caller holds the id that shares it.
    pub fn acquire_shared(&self, payload: Lsn) -> bool {
        let mut state = self.state.write();
        state.shared.get_mut(&payload).map(|shared| shared.sharers += 1).is_some()
    }

    /// A sharer is gone; where the payload's record is, if that makes it dead.
    pub fn release(&self, payload: Lsn) -> Option<Lsn> {
        let mut state = self.state.write();
        let shared = state.shared.get_mut(&payload)?;
        shared.sharers = shared.sharers.saturating_sub(1);
        if shared.sharers > 0 {
            return None;
        }
        let Shared { place, owned, .. } = *shared;
        if owned && place != payload {
            return None; // listed on, because its name no longer says where it is
        }
        state.shared.remove(&payload);
        (!owned).then_some(place)
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
        let mut state = self.state.write();
        if state.young.len() >= RECENT_PAYLOADS_MAX / 2 {
            state.old = std::mem::take(&mut state.young);
        }
        state.young.insert(body_hash, payload);
    }

    /// Moves a payload's record: `copy` is told whether the payload has sharers, so that its name must be kept, and appends the
    /// record anew. Nobody can begin to share the payload meanwhile.
    pub fn relocate<E>(
        &self,
        payload: Lsn,
        body_hash: u128,
        copy: impl FnOnce(bool) -> Result<Lsn, E>,
    ) -> Result<Lsn, E> {
        let mut state = self.state.write();
        let is_shared = state.shared.get(&payload).is_some_and(|shared| shared.sharers > 0);
        let place = copy(is_shared)?;
        if let Some(shared) = state.shared.get_mut(&payload).filter(|_| is_shared) {
            shared.place = place;
            return Ok(place);
        }
        state.shared.remove(&payload);
        if state.forget(body_hash, payload) {
            state.young.insert(body_hash, place);
        }
        Ok(place)
    }

    /// What is known of a payload with sharers.
    pub fn shared(&self, payload: Lsn) -> Option<Shared> {
        self.state.read().shared.get(&payload).copied()
    }

    /// At open: a payload with its sharers counted.
    pub fn restore(&self, payload: Lsn, shared: Shared) {
        self.state.write().shared.insert(payload, shared);
    }
}

impl State {
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
