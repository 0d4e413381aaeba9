//! Which records count (are live): the one owner of index entries, payload table and live bytes.
//!
//! There are three transitions, each made by a thread that holds the `writing` lock of the id's shard ("the caller holds the id"): a record
//! comes to count for its id (`enter`), an id loses its record (`leave`), a record moves (`relocate`). Each lets go what is superseded.
//!
//! Live bytes are estimates that say which segment to look at. Only the index and the payload table say that nothing in a segment counts:
//! see `remaining`.

use super::payloads::{EQUAL_BODY_BYTES_MIN, Move, Payloads, SharedPayload};
use super::weight::Weight;
use super::{Index, Table};
use crate::local::catalog::hints::Hint;
use crate::local::journal::{BodyPlace, Flags, Header, Lsn};

/// The record that counts for an id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    pub lsn: Lsn,
    pub header: Header,
}

/// What liveness tells of its transitions: live bytes, payloads, and which record a large body belongs to.
pub(crate) trait Counts {
    /// What made a body dead.
    type Superseder: Clone;

    fn add_live(&self, segment: u32, bytes: u64);
    fn remove_live(&self, segment: u32, bytes: u64);
    fn payload_came(&self, bytes: u64);
    fn payload_went(&self, bytes: u64);
    /// The record at `record` refers to the body now.
    fn body_referred(&self, body: BodyPlace, record: Lsn);
    /// No record refers to the body any more.
    fn body_released(&self, body: BodyPlace, by: Self::Superseder);
}

/// Flags and payload name that the copy of a record must have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copying {
    pub flags: Flags,
    /// The payload's name, if the record shares one, or if others know its own payload by name.
    pub payload: Lsn,
}

/// What became of a record that was to be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relocated {
    Moved(Lsn),
    /// The record did not count.
    Dead,
    /// The record ceased to count while it was being copied to this place.
    DiedMeanwhile(Lsn),
}

/// What still counts in a segment.
#[derive(Debug, Default)]
pub(crate) struct Remaining {
    /// Fingerprints and places of ids.
    pub indexed: Vec<(u64, Lsn)>,
    /// Names of payloads that are shared.
    pub holders: Vec<(Lsn, SharedPayload)>,
}

/// Index, payload table and live bytes, changed together.
pub(crate) struct Liveness<C> {
    pub index: Index,
    payloads: Payloads,
    pub counts: C,
}

impl<C: Counts> Liveness<C> {
    pub fn new(index: Index, payloads: Payloads, counts: C) -> Self {
        Liveness { index, payloads, counts }
    }

    pub fn payloads(&self) -> &Payloads {
        &self.payloads
    }

    /// From now on the record with this header counts for the id, in place of `old`. The caller holds the id.
    pub fn enter(&self, fingerprint: u64, id: &[u8], old: Option<&Standing>, new: &Header, by: C::Superseder) {
        self.counts.add_live(new.lsn.segment(), new.stride());
        if new.has_body() {
            self.counts.payload_came(new.body_bytes());
        }
        let mut table = self.index.shard(fingerprint).table.write();
        table.set(fingerprint, id, old.map(|old| old.lsn), new.lsn);
        table.tombstones.overtake(id, None);
        drop(table);
        if new.has_body() && new.body_bytes() >= EQUAL_BODY_BYTES_MIN {
            self.payloads.remember(new.body_hash, new.lsn);
        }
        if let Some(old) = old {
            self.supersede(old, by);
        }
    }

    /// The id has no record any more. `note` is called with the table under the same lock, so that both changes are seen together. The caller
    /// holds the id.
    pub fn leave(&self, fingerprint: u64, id: &[u8], old: &Standing, by: C::Superseder, note: impl FnOnce(&mut Table)) {
        let mut table = self.index.shard(fingerprint).table.write();
        table.remove(fingerprint, id, old.lsn);
        note(&mut table);
        drop(table);
        self.supersede(old, by);
    }

    fn supersede(&self, old: &Standing, by: C::Superseder) {
        let header = &old.header;
        if header.flags.has(Flags::SHARED) {
            self.counts.remove_live(old.lsn.segment(), header.stride());
            self.let_go(header.payload, by);
        } else if !self.payloads.owner_left(header.payload_name(), header.body_hash) {
            self.died(old.lsn, &header.into(), by);
        }
    }

    /// Gives back a reference to a payload; the last one lets the payload's record go.
    pub fn let_go(&self, payload: Lsn, by: C::Superseder) {
        if let Some(SharedPayload { holder, weight, .. }) = self.payloads.release(payload) {
            self.died(holder, &weight, by);
        }
    }

    fn died(&self, holder: Lsn, weight: &Weight, by: C::Superseder) {
        self.counts.remove_live(holder.segment(), weight.stride);
        self.counts.payload_went(weight.body_bytes);
        if let Some(body) = weight.body {
            self.counts.body_released(body, by);
        }
    }

    /// Lets go what a damaged record took, which only its hint tells. The caller holds the id, and has removed it from the index.
    pub fn lose(&self, lsn: Lsn, hint: &Hint, by: C::Superseder) {
        if hint.flags.has(Flags::SHARED) {
            self.counts.remove_live(lsn.segment(), hint.stride());
            self.let_go(hint.payload, by);
        } else if !self.payloads.owner_left(if hint.flags.has(Flags::NAMED) { hint.payload } else { lsn }, 0) {
            self.died(lsn, &hint.into(), by);
        }
    }

    /// Lets go a payload whose holder is lost though sharers still refer to it: these will be found damaged.
    pub fn lose_payload(&self, payload: Lsn, by: C::Superseder) {
        if let Some(SharedPayload { holder, weight, .. }) = self.payloads.lose(payload) {
            self.died(holder, &weight, by);
        }
    }

    /// Moves a record if it counts: `copy` appends it anew. `body` is the new place of its large body, if that has been moved already.
    pub fn relocate<E>(
        &self,
        fingerprint: u64,
        id: &[u8],
        from: &Header,
        body: Option<BodyPlace>,
        copy: impl FnOnce(Copying) -> Result<Lsn, E>,
    ) -> Result<Relocated, E> {
        let shard = self.index.shard(fingerprint);
        let _writing = shard.writing.lock();
        let is_indexed = shard.table.read().stands_at(fingerprint, id, from.lsn);
        let kept = from.flags.without(Flags::NAMED).without(Flags::DETACHED);
        let set = |to| shard.table.write().set(fingerprint, id, Some(from.lsn), to);
        if from.flags.has(Flags::SHARED) {
            if !is_indexed {
                return Ok(Relocated::Dead);
            }
            let to = copy(Copying { flags: kept, payload: from.payload })?;
            self.count_moved(from, to);
            set(to);
            return Ok(Relocated::Moved(to));
        }
        let payload = from.payload_name();
        let begun = self.payloads.begin_move(payload, from.body_hash, from.lsn, is_indexed);
        let copying = match begun {
            Move::Dead => return Ok(Relocated::Dead),
            Move::Alone { .. } => Copying { flags: kept, payload: Lsn::NONE },
            Move::Shared => Copying { flags: kept.with(Flags::NAMED), payload },
        };
        let flags = if is_indexed { copying.flags } else { copying.flags.with(Flags::DETACHED) };
        let old_weight = Weight::from(from);
        // The table is not locked while the copy is written.
        let to = copy(Copying { flags, ..copying })
            .inspect_err(|_| self.payloads.cancel_move(begun, payload, from.body_hash, from.lsn, old_weight))?;
        let weight = Weight { body: body.or(old_weight.body), ..old_weight };
        if !self.payloads.finish_move(begun, payload, from.body_hash, to, weight, is_indexed) {
            return Ok(Relocated::DiedMeanwhile(to));
        }
        self.count_moved(from, to);
        if let Some(body) = weight.body {
            self.counts.body_referred(body, to);
        }
        if is_indexed {
            set(to);
        }
        Ok(Relocated::Moved(to))
    }

    fn count_moved(&self, from: &Header, to: Lsn) {
        self.counts.add_live(to.segment(), from.stride());
        self.counts.remove_live(from.lsn.segment(), from.stride());
    }

    /// Whether the record counts, for its id or for the sharers of its payload. The caller holds the id.
    pub fn counts(&self, fingerprint: u64, id: &[u8], header: &Header) -> bool {
        self.index.shard(fingerprint).table.read().stands_at(fingerprint, id, header.lsn)
            || (header.has_body() && self.payloads.is_held(header.payload_name(), header.lsn))
    }

    /// What still counts in a sealed segment, which may be removed only when nothing does.
    ///
    /// Each shard's `writing` lock is taken once: a record is appended and entered under that lock, so whatever was appended to the segment
    /// before it was sealed has been entered by then.
    pub fn remaining(&self, segment: u32) -> Remaining {
        let mut indexed = Vec::new();
        for shard in self.index.shards() {
            let _writing = shard.writing.lock();
            indexed
                .extend(shard.table.read().lsns(self.index.fingerprints()).filter(|(_, lsn)| lsn.segment() == segment));
        }
        Remaining { indexed, holders: self.payloads.holders(|holder| holder.segment() == segment) }
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod interleavings;

// With the feature `shuttle`, locks work under the checker alone.
#[cfg(test)]
#[cfg(not(feature = "shuttle"))]
mod tests {
    use super::*;
    use crate::local::index::Fingerprints;
    use crate::local::journal::Kind;
    use crate::version::Version;

    struct Nothing;

    impl Counts for Nothing {
        type Superseder = ();

        fn add_live(&self, _: u32, _: u64) {}
        fn remove_live(&self, _: u32, _: u64) {}
        fn payload_came(&self, _: u64) {}
        fn payload_went(&self, _: u64) {}
        fn body_referred(&self, _: BodyPlace, _: Lsn) {}
        fn body_released(&self, _: BodyPlace, (): ()) {}
    }

    fn header(lsn: Lsn, flags: Flags, payload: Lsn) -> Header {
        Header {
            lsn,
            version: Version::default(),
            supersedes: Lsn::NONE,
            deadline_ms: 0,
            body_hash: 7,
            payload,
            data_bytes: EQUAL_BODY_BYTES_MIN,
            metadata_bytes: 0,
            id_bytes: 1,
            kind: Kind::Put,
            flags,
            body_place: BodyPlace::default(),
        }
    }

    // Invariant 1.
    #[test]
    fn a_segment_goes_only_when_neither_an_id_nor_a_sharer_refers_to_it() {
        let index = Index::new(Fingerprints { seed: 1, mask: u64::MAX });
        let liveness = Liveness::new(index, Payloads::default(), Nothing);
        let fingerprint = |id: &[u8]| liveness.index.fingerprint(id);
        let (first, second, sharer) = (Lsn::new(1, 64), Lsn::new(1, 128), Lsn::new(2, 64));
        let remaining = |segment| {
            let Remaining { mut indexed, holders } = liveness.remaining(segment);
            indexed.sort();
            (indexed, holders.into_iter().map(|(payload, shared)| (payload, shared.holder)).collect::<Vec<_>>())
        };
        let headers = [header(first, Flags::NONE, Lsn::NONE), header(second, Flags::NONE, Lsn::NONE)];
        liveness.enter(fingerprint(b"a"), b"a", None, &headers[0], ());
        liveness.enter(fingerprint(b"b"), b"b", None, &headers[1], ());
        assert!(liveness.payloads().acquire_equal(7, second, second, Weight::default()));
        liveness.enter(fingerprint(b"c"), b"c", None, &header(sharer, Flags::SHARED, second), ());

        let mut indexed = vec![(fingerprint(b"a"), first), (fingerprint(b"b"), second)];
        indexed.sort();
        assert_eq!(remaining(1), (indexed, vec![(second, second)]));
        assert_eq!(remaining(2), (vec![(fingerprint(b"c"), sharer)], vec![]));
        assert_eq!(remaining(3), (vec![], vec![]));
        let counts = |id: &[u8], header: &Header| liveness.counts(fingerprint(id), id, header);
        let moved = header(Lsn::new(1, 192), Flags::NONE, Lsn::NONE);
        assert!(counts(b"a", &headers[0]) && counts(b"b", &headers[1]) && !counts(b"a", &moved));
        for (id, header) in [b"a", b"b"].into_iter().zip(headers) {
            let old = Standing { lsn: header.lsn, header };
            liveness.leave(fingerprint(id), id, &old, (), |_| {});
        }
        assert!(!counts(b"a", &headers[0]), "neither its id nor anybody else refers to it");
        assert!(counts(b"b", &headers[1]), "others share it");
        assert_eq!(remaining(1), (vec![], vec![(second, second)]));
        let old = Standing { lsn: sharer, header: header(sharer, Flags::SHARED, second) };
        liveness.leave(fingerprint(b"c"), b"c", &old, (), |_| {});
        assert_eq!(remaining(1), (vec![], vec![]));
    }
}
