//! Runs threads that overwrite, delete, share and move the same few records under a checker (shuttle), in as many orders as it gets to. Run
//! by `make test-interleavings`, which puts the checker's locks in place of the real ones.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shuttle::thread;

use super::*;
use crate::local::index::{Fingerprints, Table};
use crate::local::journal::Kind;
use crate::sync::Mutex;
use crate::version::Version;

const ITERATIONS: usize = 3000;

/// The oldest segment, which is reclaimed, and the one that everything is appended to.
const OLD: u32 = 1;
const NEW: u32 = 2;

const HASH: u128 = 7;

/// Counts what liveness tells, and stands in for the journal.
#[derive(Default)]
struct World(Mutex<State>);

#[derive(Default)]
struct State {
    live: BTreeMap<u32, i64>,
    payloads: i64,
    bodies: BTreeMap<BodyPlace0, Lsn>,
    released: BTreeSet<BodyPlace0>,
    records: BTreeMap<Lsn, (Vec<u8>, Header)>,
    next: u32,
    removed: bool,
}

type BodyPlace0 = (u32, u32);

impl Counts for Arc<World> {
    type Superseder = Lsn;

    fn add_live(&self, segment: u32, bytes: u64) {
        *self.0.lock().live.entry(segment).or_default() += bytes as i64;
    }

    fn remove_live(&self, segment: u32, bytes: u64) {
        *self.0.lock().live.entry(segment).or_default() -= bytes as i64;
    }

    fn payload_came(&self, _: u64) {
        self.0.lock().payloads += 1;
    }

    fn payload_went(&self, _: u64) {
        self.0.lock().payloads -= 1;
    }

    fn body_referred(&self, body: BodyPlace, record: Lsn) {
        self.0.lock().bodies.insert((body.segment, body.offset), record);
    }

    fn body_released(&self, body: BodyPlace, _: Lsn) {
        let mut state = self.0.lock();
        assert!(state.released.insert((body.segment, body.offset)), "a body is released twice");
    }
}

struct Store {
    world: Arc<World>,
    liveness: Liveness<Arc<World>>,
}

impl Store {
    fn new() -> Arc<Self> {
        let world = Arc::<World>::default();
        let index = Index::new(Fingerprints { seed: 1, mask: u64::MAX });
        Arc::new(Store { liveness: Liveness::new(index, Payloads::default(), Arc::clone(&world)), world })
    }

    fn fingerprint(&self, id: &[u8]) -> u64 {
        self.liveness.index.fingerprint(id)
    }

    /// The record that counts for the id. The caller holds the id.
    fn standing(&self, id: &[u8]) -> Option<Standing> {
        let fingerprint = self.fingerprint(id);
        let lsn = self.liveness.index.shard(fingerprint).table.read().find_fingerprint(fingerprint)?;
        let state = self.world.0.lock();
        assert!(!(state.removed && lsn.segment() == OLD), "an id stands in a removed segment");
        Some(Standing { lsn, header: state.records[&lsn].1 })
    }

    fn append(&self, segment: u32, id: &[u8], header: Header) -> Header {
        let mut state = self.world.0.lock();
        assert!(!(state.removed && segment == OLD), "appended to a removed segment");
        state.next += 64;
        let lsn = Lsn::new(segment, state.next);
        // A copy has the body of its original.
        let body_place = match header.lsn.is_none() && header.flags.has(Flags::EXTERNAL) {
            true => BodyPlace { segment: 9, offset: lsn.offset() },
            false => header.body_place,
        };
        let header = Header { lsn, body_place, ..header };
        state.records.insert(lsn, (id.to_vec(), header));
        header
    }

    /// A record with a body of its own, elsewhere.
    fn put(&self, segment: u32, id: &[u8]) {
        let fingerprint = self.fingerprint(id);
        let _writing = self.liveness.index.shard(fingerprint).writing.lock();
        let old = self.standing(id);
        let header = self.append(segment, id, header(Kind::Put, Flags::EXTERNAL));
        thread::yield_now(); // appended, and not yet entered
        self.liveness.enter(fingerprint, id, old.as_ref(), &header, header.lsn);
    }

    /// A put of equal bytes: shares them where it can.
    fn put_equal(&self, id: &[u8]) {
        let Some((payload, holder)) = self.liveness.payloads().find_equal(HASH) else { return self.put(NEW, id) };
        let weight = self.world.0.lock().records.get(&holder).map(|(_, header)| header.into());
        let Some(weight) = weight else { return self.put(NEW, id) };
        if !self.liveness.payloads().acquire_equal(HASH, payload, holder, weight) {
            return self.put(NEW, id);
        }
        let fingerprint = self.fingerprint(id);
        let _writing = self.liveness.index.shard(fingerprint).writing.lock();
        let old = self.standing(id);
        let shared = Header { payload, ..header(Kind::Put, Flags::SHARED) };
        let shared = self.append(NEW, id, shared);
        self.liveness.enter(fingerprint, id, old.as_ref(), &shared, shared.lsn);
    }

    fn delete(&self, id: &[u8]) {
        let fingerprint = self.fingerprint(id);
        let _writing = self.liveness.index.shard(fingerprint).writing.lock();
        if let Some(old) = self.standing(id) {
            let deleted = self.append(NEW, id, header(Kind::Delete, Flags::NONE));
            self.liveness.leave(fingerprint, id, &old, deleted.lsn, |_: &mut Table| {});
        }
    }

    /// Moves what counts out of the oldest segment, and removes it.
    fn reclaim(&self) {
        let records: Vec<_> = {
            let state = self.world.0.lock();
            state.records.iter().filter(|(lsn, _)| lsn.segment() == OLD).map(|(_, record)| record.clone()).collect()
        };
        for (id, header) in records.into_iter().filter(|(_, header)| header.kind.stores()) {
            let copy = |Copying { flags, payload }| -> Result<Lsn, ()> {
                thread::yield_now();
                Ok(self.append(NEW, &id, Header { flags, payload, ..header }).lsn)
            };
            self.liveness.relocate(self.fingerprint(&id), &id, &header, None, copy).unwrap();
        }
        let Remaining { indexed, holders } = self.liveness.remaining(OLD);
        assert!(indexed.is_empty() && holders.is_empty(), "{indexed:?} {holders:?} were not moved");
        self.world.0.lock().removed = true;
    }

    /// Checks that the counted live bytes are those of the records that count.
    fn check(&self) {
        let mut live: BTreeMap<u32, i64> = BTreeMap::new();
        let mut held: BTreeMap<Lsn, Header> = BTreeMap::new();
        let state = self.world.0.lock();
        let mut sharers: BTreeMap<Lsn, u32> = BTreeMap::new();
        for lsn in self.liveness.index.lsns() {
            let (_, header) = &state.records[&lsn];
            assert!(!(state.removed && lsn.segment() == OLD));
            if header.flags.has(Flags::SHARED) {
                *live.entry(lsn.segment()).or_default() += header.stride() as i64;
                *sharers.entry(header.payload).or_default() += 1;
            } else {
                held.insert(lsn, *header);
            }
        }
        let holders = self.liveness.payloads().holders(|_| true);
        let listed: BTreeMap<Lsn, u32> = holders.iter().map(|(payload, shared)| (*payload, shared.sharers)).collect();
        assert_eq!(listed, sharers, "sharers");
        for (_, shared) in holders {
            assert!(!(state.removed && shared.holder.segment() == OLD), "a payload stands in a removed segment");
            held.insert(shared.holder, state.records[&shared.holder].1);
        }
        for (lsn, header) in &held {
            *live.entry(lsn.segment()).or_default() += header.stride() as i64;
        }
        let counted = |segment| state.live.get(&segment).copied().unwrap_or(0);
        for segment in [OLD, NEW] {
            assert_eq!(counted(segment), live.get(&segment).copied().unwrap_or(0), "live bytes of segment {segment}");
        }
        assert_eq!(state.payloads, held.len() as i64, "payloads");
        let bodies: BTreeSet<_> =
            held.values().map(|header| (header.body_place.segment, header.body_place.offset)).collect();
        let all = state.records.values().filter(|(_, header)| header.has_body());
        let dead: BTreeSet<_> = all
            .map(|(_, header)| (header.body_place.segment, header.body_place.offset))
            .filter(|body| !bodies.contains(body))
            .collect();
        assert_eq!(state.released, dead, "released bodies");
    }
}

fn header(kind: Kind, flags: Flags) -> Header {
    Header {
        lsn: Lsn::NONE,
        version: Version::default(),
        supersedes: Lsn::NONE,
        deadline_ms: 0,
        body_hash: HASH,
        payload: Lsn::NONE,
        data_bytes: if kind == Kind::Delete { 0 } else { EQUAL_BODY_BYTES_MIN },
        metadata_bytes: 0,
        id_bytes: 1,
        kind,
        flags,
        body_place: BodyPlace::default(),
    }
}

type Act = fn(&Store);

/// Runs the acts side by side on what `before` has made, and checks what is left.
fn explore(before: &'static [Act], acts: &'static [Act]) {
    let run = move || {
        let store = Store::new();
        before.iter().for_each(|act| act(&store));
        let threads: Vec<_> = acts
            .iter()
            .map(|act| {
                let store = Arc::clone(&store);
                thread::spawn(move || act(&store))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        store.check();
    };
    shuttle::check_random(run, ITERATIONS);
    shuttle::check_pct(run, ITERATIONS, 3);
}

// Invariants 1 and 2.
#[test]
fn an_overwritten_record_and_its_segment_go_once() {
    explore(&[|it| it.put(OLD, b"a")], &[|it| it.put(NEW, b"a"), |it| it.delete(b"a"), |it| it.reclaim()]);
}

// Invariant 1: the put is in the segment before it is sealed, and is entered after.
#[test]
fn a_record_that_is_appended_and_not_yet_entered_keeps_its_segment() {
    explore(
        &[|it| it.put(OLD, b"b")],
        &[
            |it| {
                let fingerprint = it.fingerprint(b"a");
                let writing = it.liveness.index.shard(fingerprint).writing.lock();
                if it.world.0.lock().removed {
                    return;
                }
                let new = it.append(OLD, b"a", header(Kind::Put, Flags::EXTERNAL));
                thread::yield_now();
                it.liveness.enter(fingerprint, b"a", None, &new, new.lsn);
                drop(writing);
            },
            |it| {
                // Sealed: nothing is appended to it any more when it is reclaimed.
                let is_in = it.world.0.lock().records.values().any(|(id, _)| id == b"a");
                if is_in {
                    it.reclaim();
                }
            },
        ],
    );
}

// Invariant 1: what the last sharer leaves behind is subtracted once.
#[test]
fn a_last_sharer_that_leaves_while_the_payload_moves_is_counted_once() {
    explore(
        &[|it| it.put(OLD, b"a"), |it| it.put_equal(b"b"), |it| it.delete(b"a")],
        &[|it| it.delete(b"b"), |it| it.reclaim()],
    );
}

// Invariants 1 and 15.
#[test]
fn owners_and_sharers_come_and_go_while_the_payload_moves() {
    explore(
        &[|it| it.put(OLD, b"a"), |it| it.put_equal(b"b")],
        &[|it| it.delete(b"a"), |it| it.delete(b"b"), |it| it.put_equal(b"c"), |it| it.reclaim()],
    );
}

// Invariant 1.
#[test]
fn a_payload_is_moved_while_others_begin_to_share_it() {
    explore(
        &[|it| it.put(OLD, b"a")],
        &[
            |it| it.put_equal(b"b"),
            |it| {
                it.put_equal(b"c");
                it.delete(b"c");
            },
            |it| it.put(NEW, b"a"),
            |it| it.reclaim(),
        ],
    );
}
