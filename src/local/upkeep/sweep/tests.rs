//! Tests of what is deleted as it is over, what of the rest is remembered, and what a pass that fails leaves to the next.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::*;
use crate::local::Underlying;
use crate::local::disk::{Disk, DiskFile, SystemDisk};
use crate::local::index::{Index, SHARD_COUNT};
use crate::local::journal::{Kind, NewRecord, Purpose, Segment};
use crate::local::upkeep::by_hand::{ByHand, Left, outbox};
use crate::local::upkeep::room::Eviction;
use crate::local::write::Restored;
use crate::object::Object;
use crate::version::Version;

const HOUR_MS: u64 = 3_600_000;

/// A time limit that no wait in these tests reaches.
const LONG: Duration = Duration::from_secs(30);

/// All ids are in one shard then, and hardly any has the fingerprint of another.
fn one_shard() -> Underlying {
    Underlying { fingerprint_mask: 0xffff_ffff, ..Underlying::default() }
}

fn ids(count: u64) -> Vec<Vec<u8>> {
    (0..count).map(|number| number.to_le_bytes().to_vec()).collect()
}

fn expiry(store: &ByHand) -> &Expiry {
    store.tier.expiry.as_ref().unwrap()
}

fn passed_ms(store: &ByHand) -> u64 {
    store.tier.journal.time().passed_ms()
}

fn has_expired(store: &ByHand) -> u64 {
    store.tier.work.expired.get()
}

/// False if the deadline is over already.
fn put_until(store: &ByHand, id: &[u8], deadline_ms: u64) -> bool {
    let object = Object { data: Bytes::from_static(b"data"), metadata: Bytes::new() };
    let restored = Restored { version: Version { clock: 1, node: 1 }, deadline_ms };
    store.tier.restore(id, &object, &restored, &mut |_| {}).unwrap()
}

/// Puts objects that are over when this returns.
fn put_expired(store: &ByHand, ids: &[Vec<u8>]) {
    let mut last_ms = 0;
    for id in ids {
        let mut lifetime_ms = 2;
        loop {
            let deadline_ms = passed_ms(store) + lifetime_ms;
            if put_until(store, id, deadline_ms) {
                last_ms = last_ms.max(deadline_ms);
                break;
            }
            lifetime_ms *= 2;
        }
    }
    while passed_ms(store) <= last_ms {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn objects(store: &ByHand) -> u64 {
    store.tier.index().object_count()
}

/// Makes the segment's file unreadable, until it is brought back.
fn hide(segment: &Segment) -> PathBuf {
    let hidden = segment.path().with_extension("hidden");
    std::fs::rename(segment.path(), &hidden).unwrap();
    segment.close_file();
    segment.unmap();
    hidden
}

/// Steps of a pass until it is over, and how many of them failed.
fn steps(store: &ByHand, sweep: &mut Sweep) -> (usize, usize) {
    let (mut steps, mut failed) = (0, 0);
    loop {
        failed += usize::from(store.tier.expire_some(sweep).is_err());
        steps += 1;
        if !sweep.under_way {
            return (steps, failed);
        }
        assert!(steps <= SHARD_COUNT, "it has no end");
    }
}

#[test]
fn for_who_wants_room_all_goes_that_is_over_and_nothing_else() {
    // Of more than one shard, and of more places in one than are taken at a time.
    for under in [Underlying::default(), one_shard()] {
        let store = ByHand::open_on(under, None);
        let count = 2 * PLACES_AT_A_TIME as u64 + 1;
        let deadline_ms = passed_ms(&store) + HOUR_MS;
        store.put(b"for ever", 10);
        for (id, deadline_ms) in [(b"1", deadline_ms + 1), (b"2", deadline_ms), (b"3", deadline_ms + 2)] {
            assert!(put_until(&store, id, deadline_ms));
        }
        put_expired(&store, &ids(count));
        let seen = store.tier.progress.seen();
        assert!(store.tier.expire_now().unwrap());
        assert_ne!(store.tier.progress.seen(), seen, "who waits is told");
        assert_eq!((has_expired(&store), objects(&store)), (count, 4));
        assert!(!expiry(&store).is_possible(deadline_ms) && expiry(&store).is_possible(deadline_ms + 1));
        assert!(expiry(&store).begin(), "it is over");
        expiry(&store).end(true);

        // One more, which is told as well.
        put_expired(&store, &ids(1));
        let seen = store.tier.progress.seen();
        assert!(store.tier.expire_now().unwrap());
        assert_ne!(store.tier.progress.seen(), seen);
        assert_eq!((has_expired(&store), objects(&store)), (count + 1, 4));
    }
}

#[test]
fn where_nothing_is_over_nothing_is_freed() {
    let mut store = ByHand::open(None);
    store.put(b"for ever", 10);
    let segment = store.seal();
    let seen = store.tier.progress.seen();
    assert!(!store.tier.expire_now().unwrap());
    assert!(!expiry(&store).is_possible(u64::MAX), "it is known then");
    let segment = store.segment(segment);
    let hidden = hide(&segment);
    assert!(!store.tier.expire_now().unwrap(), "nothing is read again");
    std::fs::rename(hidden, segment.path()).unwrap();
    assert_eq!((store.tier.progress.seen(), has_expired(&store)), (seen, 0));
    store.check(b"for ever", 10);

    // What Redis has is let go elsewhere.
    let shared = ByHand::open(Some(outbox()));
    assert!(!shared.tier.expire_now().unwrap());
    shared.tier.expire_some(&mut Sweep::default()).unwrap();
}

#[test]
fn a_store_that_is_being_closed_deletes_nothing() {
    let store = ByHand::open_on(one_shard(), None);
    put_expired(&store, &ids(2));
    store.tier.gate.close();
    assert!(!store.tier.expire_now().unwrap());
    for shard in store.tier.index().shards().take(1) {
        let expired = store.tier.expire_in(expiry(&store), shard, &mut None);
        assert!(matches!(expired, Err(Error::Closed)), "{expired:?}");
    }
    assert_eq!((has_expired(&store), objects(&store)), (0, 2));

    // A pass ends with that, and is not whole.
    let store = ByHand::open_living(3600);
    put_expired(&store, &ids(200));
    store.tier.gate.close();
    let mut sweep = Sweep::default();
    assert!(matches!(store.tier.expire_some(&mut sweep), Err(Error::Closed)));
    assert!(!sweep.under_way && expiry(&store).is_possible(1) && expiry(&store).begin());
    assert_eq!(objects(&store), 200);
}

#[test]
fn of_two_that_go_through_the_index_the_first_takes_the_notes() {
    let store = ByHand::open(None);
    put_expired(&store, &ids(20));
    assert!(expiry(&store).begin());
    assert!(store.tier.expire_now().unwrap());
    assert_eq!(objects(&store), 0);
    assert!(!expiry(&store).begin(), "it is under way still");
    assert!(expiry(&store).is_possible(1), "nobody has said that all was seen");

    let store = ByHand::open_living(3600);
    put_expired(&store, &ids(20));
    assert!(expiry(&store).begin());
    let mut sweep = Sweep::default();
    store.tier.expire_some(&mut sweep).unwrap();
    assert!(!sweep.under_way && !expiry(&store).begin());
    assert_eq!(objects(&store), 20);
}

#[test]
fn without_anybody_who_wants_room_it_goes_step_by_step() {
    let store = ByHand::open_living(3600);
    let count = 40 * SHARD_COUNT as u64;
    let deadline_ms = passed_ms(&store) + HOUR_MS;
    assert!(put_until(&store, b"later", deadline_ms));
    put_expired(&store, &ids(count));
    // As an earlier pass has left it.
    let mut sweep = Sweep { next_shard: SHARD_COUNT, under_way: false, has_failed: true };
    store.tier.expire_some(&mut sweep).unwrap();
    let is_in_first = |id: &&Vec<u8>| Index::shard_number(store.tier.index().fingerprint(id)) < SHARDS_AT_A_TIME;
    let of_first = ids(count).iter().filter(is_in_first).count() as u64;
    assert!(sweep.under_way && 0 < of_first && of_first < count);
    assert_eq!(has_expired(&store), of_first, "of some shards");
    assert_eq!(steps(&store, &mut sweep), (SHARD_COUNT.div_ceil(SHARDS_AT_A_TIME) - 1, 0));
    assert_eq!((has_expired(&store), objects(&store)), (count, 1));
    assert!(!expiry(&store).is_possible(deadline_ms) && expiry(&store).is_possible(deadline_ms + 1));
    assert!(!expiry(&store).is_due(deadline_ms) && expiry(&store).is_due(u64::MAX), "it does not rest");
    assert!(expiry(&store).begin());

    // Not due: such a store is not known to have lifetimes.
    let store = ByHand::open(None);
    put_expired(&store, &ids(20));
    let mut sweep = Sweep::default();
    store.tier.expire_some(&mut sweep).unwrap();
    assert!(!sweep.under_way && expiry(&store).begin());
    assert_eq!(objects(&store), 20);
}

/// Two sealed segments with 50 objects each that are over, which an earlier open wrote.
fn two_segments(seconds: u64, under: Underlying) -> (ByHand, [u32; 2]) {
    let mut store = ByHand::open_on(under.clone(), None);
    let ids = ids(100);
    put_expired(&store, &ids[..50]);
    let first = store.seal();
    put_expired(&store, &ids[50..]);
    let second = store.seal();
    (store.reopen_living(Left::All, under, None, seconds), [first, second])
}

#[test]
fn what_cannot_be_read_is_left_for_another_time_and_the_rest_goes() {
    let (store, [first, second]) = two_segments(0, Underlying::default());
    let segment = store.segment(first);
    let hidden = hide(&segment);
    assert!(store.tier.expire_now().unwrap(), "some of it");
    assert_eq!((has_expired(&store), objects(&store)), (50, 50));
    assert!(expiry(&store).is_possible(1) && expiry(&store).begin());
    expiry(&store).end(false);
    let error = store.tier.expire_now().unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    std::fs::rename(hidden, segment.path()).unwrap();
    assert!(store.tier.expire_now().unwrap());
    assert_eq!((has_expired(&store), objects(&store)), (100, 0));
    assert!(!expiry(&store).is_possible(u64::MAX));
    assert!(store.tier.segments.get(second).is_some(), "reclaiming is not done here");

    // Step by step. In one shard, so that it is the first step that fails.
    let (store, [first, _]) = two_segments(3600, one_shard());
    hide(&store.segment(first));
    let mut sweep = Sweep::default();
    assert_eq!(steps(&store, &mut sweep), (SHARD_COUNT / SHARDS_AT_A_TIME, 1));
    assert_eq!((has_expired(&store), objects(&store)), (50, 50));
    assert!(expiry(&store).is_possible(1), "not all was seen");
    assert!(!expiry(&store).is_due(u64::MAX), "not at once again");
    assert!(expiry(&store).begin());
}

#[test]
fn a_pass_of_which_two_steps_fail_is_not_whole() {
    let mut store = ByHand::open(None);
    for step in 0..2 {
        let is_of = |id: &Vec<u8>| Index::shard_number(store.tier.index().fingerprint(id)) / SHARDS_AT_A_TIME == step;
        put_expired(&store, &[ids(10_000).into_iter().find(is_of).unwrap()]);
    }
    let segment = store.seal();
    let store = store.reopen_living(Left::All, Underlying::default(), None, 3600);
    hide(&store.segment(segment));
    assert_eq!(steps(&store, &mut Sweep::default()), (SHARD_COUNT / SHARDS_AT_A_TIME, 2));
    assert!(expiry(&store).is_possible(1) && !expiry(&store).is_due(u64::MAX));
}

#[test]
fn what_is_damaged_keeps_nothing_from_being_known() {
    let store = ByHand::open(None);
    put_expired(&store, &ids(3));
    // What this open has written is not checked again.
    let store = store.reopen(Left::All, Underlying::default(), None);
    store.flip_header(&ids(1)[0]);
    assert!(store.tier.expire_now().unwrap());
    assert_eq!((has_expired(&store), objects(&store)), (2, 1));
    assert!(!expiry(&store).is_possible(u64::MAX), "all was seen");
    assert!(store.tier.get(&ids(1)[0]).unwrap().is_none());
}

#[test]
fn a_journal_that_takes_no_deletes_ends_a_pass() {
    for seconds in [0, 3600] {
        let store = ByHand::open_living(seconds);
        let count = 40 * SHARD_COUNT as u64;
        put_expired(&store, &ids(count));
        store.tier.journal.refuse_writes("a test");
        let mut sweep = Sweep::default();
        let error = match seconds {
            0 => store.tier.expire_now().unwrap_err(),
            _ => store.tier.expire_some(&mut sweep).unwrap_err(),
        };
        assert!(matches!(error, Error::WritesRefused { .. }), "{error}");
        assert_eq!((has_expired(&store), objects(&store)), (0, count));
        assert!(!sweep.under_way && expiry(&store).is_possible(1) && !expiry(&store).is_due(u64::MAX));
        assert!(expiry(&store).begin());
    }
}

#[test]
fn where_there_is_no_room_for_all_deletes_some_go_and_it_is_known_that_there_are_more() {
    const COUNT: u64 = 6000;
    let mut store = ByHand::open(None);
    let ids: Vec<_> = (0..COUNT).map(|number| [&number.to_le_bytes()[..], &[b'.'; 500][..]].concat()).collect();
    put_expired(&store, &ids);
    store.seal();
    // Made by the first pass of upkeep: the reserve, of which deletes may take a segment.
    store.tier.refill_spares().unwrap();
    let lease = store.leave_room(0);
    assert!(store.tier.expire_now().unwrap());
    let expired = has_expired(&store);
    assert!(0 < expired && expired < COUNT, "{expired}");
    assert!(expiry(&store).is_possible(1));
    let error = store.tier.expire_now().unwrap_err();
    assert!(matches!(error, Error::Full { bytes: 0, .. }), "{error}");
    assert_eq!(has_expired(&store), expired);
    drop(lease);
    store.seal();
    assert!(store.tier.expire_now().unwrap());
    assert_eq!((has_expired(&store), objects(&store)), (COUNT, 0));
}

#[test]
fn only_what_is_over_is_deleted_by_its_id() {
    let store = ByHand::open(None);
    store.put(b"kept", 10);
    put_expired(&store, &ids(1));
    let mut found = Vec::new();
    for shard in store.tier.index().shards() {
        let places = shard.table.read().places_behind(store.tier.index().fingerprints(), None, usize::MAX);
        found.extend(store.tier.expired_of(expiry(&store), shard, &places, &mut None));
    }
    assert_eq!(found, ids(1), "each once");
    assert!(!store.tier.delete_expired(b"kept").unwrap());
    assert!(!store.tier.delete_expired(b"none").unwrap());
    assert!(store.tier.delete_expired(&ids(1)[0]).unwrap());
    assert!(!store.tier.delete_expired(&ids(1)[0]).unwrap());
    store.check(b"kept", 10);
    assert_eq!(objects(&store), 1);
}

#[test]
fn what_somebody_else_deletes_meanwhile_is_not_counted() {
    let store = ByHand::open_on(one_shard(), None);
    let tier = &store.tier;
    let mut ids = ids(2);
    ids.sort_by_key(|id| tier.index().fingerprint(id));
    put_expired(&store, &ids[..1]);
    let later_ms = passed_ms(&store) + HOUR_MS;
    assert!(put_until(&store, &ids[1], later_ms));
    assert!(expiry(&store).begin());
    expiry(&store).end(true);
    let shard = tier.index().shard(tier.index().fingerprint(&ids[0]));
    let writing = shard.writing.lock();
    std::thread::scope(|scope| {
        let expiring = scope.spawn(|| tier.expire_in(expiry(&store), shard, &mut None).unwrap());
        let begun = Instant::now();
        while !expiry(&store).is_possible(later_ms + 1) {
            assert!(begun.elapsed() < LONG, "it does not note what it has seen");
            std::thread::sleep(Duration::from_millis(1));
        }
        // It has seen both, and waits for the lock.
        let old = store.standing(&ids[0]).unwrap();
        let lsn = tier.journal.append(&NewRecord::bare(&ids[0], Kind::Delete, old.lsn), Purpose::Delete).unwrap().lsn;
        tier.liveness.leave(tier.index().fingerprint(&ids[0]), &ids[0], &old, lsn.into(), |_| {});
        drop(writing);
        assert_eq!(expiring.join().unwrap(), 0);
    });
    assert_eq!((has_expired(&store), objects(&store)), (0, 1));
}

type OnOpen = Box<dyn FnOnce() + Send>;

/// A disk that calls a test once when this file is opened.
#[derive(Clone, Default)]
struct Watched(Arc<Mutex<Option<(PathBuf, OnOpen)>>>);

impl Disk for Watched {
    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        SystemDisk.create(path, bytes)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let called = self.0.lock().take_if(|(watched, _)| watched == path);
        if let Some((_, on_open)) = called {
            on_open();
        }
        SystemDisk.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        SystemDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        SystemDisk.remove(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        SystemDisk.sync_directory(path)
    }
}

/// Two objects, each in a segment of its own: while the first is read from the disk, the other one is moved.
#[test]
fn what_is_moved_meanwhile_is_found_where_it_is() {
    let disk = Watched::default();
    let under = || Underlying { disk: Arc::new(disk.clone()), ..one_shard() };
    let mut store = ByHand::open_on(under(), None);
    let mut ids = ids(2);
    ids.sort_by_key(|id| store.tier.index().fingerprint(id));
    let deadline_ms = passed_ms(&store) + HOUR_MS;
    assert!(put_until(&store, &ids[0], deadline_ms + 1));
    let first = store.seal();
    assert!(put_until(&store, &ids[1], deadline_ms));
    let second = store.seal();

    let store = store.reopen(Left::All, under(), None);
    assert!(expiry(&store).begin());
    expiry(&store).end(true);
    let (tier, segment, hints) = (Arc::clone(&store.tier), store.segment(second), store.hints(second));
    for number in [first, second] {
        store.segment(number).close_file();
        store.segment(number).unmap();
    }
    let on_open = move || {
        assert!(tier.evacuate(&segment, &hints, &Eviction::ahead_of_need(&tier.room)).unwrap());
        tier.segments.remove(&segment).unwrap();
    };
    *disk.0.lock() = Some((store.segment(first).path().to_owned(), Box::new(on_open)));
    let shard = store.tier.index().shard(store.tier.index().fingerprint(&ids[1]));
    let mut unreadable = None;
    assert_eq!(store.tier.expire_in(expiry(&store), shard, &mut unreadable).unwrap(), 0);
    assert!(store.place(&ids[1]).segment() > second, "it was moved");
    assert!(unreadable.is_none(), "{unreadable:?}");
    assert!(!expiry(&store).is_possible(deadline_ms) && expiry(&store).is_possible(deadline_ms + 1), "it was seen");
}
