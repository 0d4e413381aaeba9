//! Tests of which segments are reclaimed, and what is copied, evicted, moved or lost by that.

use std::time::Instant;

use super::*;
use crate::local::Underlying;
use crate::local::sharing::outbox::OutboxOptions;
use crate::local::upkeep::by_hand::{ByHand, Left, SEGMENT_BYTES, outbox};
use crate::local::upkeep::room::Victims;

fn records(count: u64, live_bytes: u64, dead_bytes: u64) -> Records {
    Records { oldest: None, count, live_bytes, dead_bytes }
}

#[test]
fn small_segments_are_merged_until_half_as_many_are_left_as_make_it_begin() {
    for (live_bytes, begins_above, ends_at) in [(0, 64, 32), (999, 64, 32), (3999, 70, 35)] {
        let are_scattered = |count, is_merging| records(count, live_bytes, 0).are_scattered(is_merging, 1000);
        assert!(!are_scattered(begins_above, false) && are_scattered(begins_above + 1, false), "{live_bytes}");
        assert!(!are_scattered(ends_at, true) && are_scattered(ends_at + 1, true), "{live_bytes}");
    }
}

#[test]
fn copying_is_worth_it_for_more_dead_bytes_than_live_ones_or_where_room_is_short() {
    let least = GARBAGE_BYTES_MIN;
    for (live_bytes, dead_bytes, is_worth_it) in
        [(0, least, false), (0, least + 1, true), (2 * least, 2 * least, false), (2 * least, 2 * least + 1, true)]
    {
        let records = records(9, live_bytes, dead_bytes);
        assert_eq!(records.are_worth_copying(false, 1000), is_worth_it, "{live_bytes}, {dead_bytes}");
        assert!(records.are_worth_copying(true, 1000));
    }
    assert!(!records(9, 0, 999).are_worth_copying(true, 1000));
    assert!(records(9, least, 1000).are_worth_copying(true, 1000));
}

/// Three segments: a sealed one in which everything counts, one with more dead bytes than the first has bytes, and the active one.
fn three_segments(outbox: Option<OutboxOptions>) -> (ByHand, [u32; 2]) {
    let mut store = ByHand::open(outbox);
    store.put(b"first", 5000);
    let first = store.seal();
    store.put(b"dead", 9000);
    store.put(b"second", 1000);
    let second = store.seal();
    store.put(b"dead", 20_000);
    (store, [first, second])
}

#[test]
fn what_is_live_and_what_is_dead_is_counted_of_records_alone() {
    let (store, [first, second]) = three_segments(None);
    store.put(b"body", 200_000);
    let segments = store.tier.segments.load();
    let segment = |number| &segments[&number];
    let Records { oldest, count, live_bytes, dead_bytes } = store.tier.records();
    assert_eq!((oldest.unwrap().number, count), (first, 3));
    let stride = |id: &[u8]| store.standing(id).unwrap().header.stride();
    assert_eq!(live_bytes, [&b"first"[..], b"second", b"dead", b"body"].map(stride).iter().sum::<u64>());
    let dead_in = |number| segment(number).bytes() - segment(number).live_bytes();
    assert_eq!(dead_bytes, dead_in(first) + dead_in(second));
    assert!(dead_bytes > 9000);
}

#[test]
fn the_oldest_of_many_segments_is_found() {
    let mut store = ByHand::open(None);
    let numbers: Vec<_> = (0..9u8)
        .map(|number| {
            store.put(&[number], 10);
            store.seal()
        })
        .collect();
    for number in numbers {
        assert_eq!(store.tier.oldest_sealed().unwrap().number, number);
        store.reclaim(number);
    }
    assert!(store.tier.oldest_sealed().is_none(), "what is appended to is not sealed");
}

#[test]
fn only_the_oldest_segment_is_reclaimed_and_only_where_there_is_reason_to() {
    let reclaimable =
        |store: &ByHand, is_wanted| store.tier.reclaimable(is_wanted, &mut false).map(|(it, _)| it.number);
    let (store, [first, second]) = three_segments(None);
    assert_eq!(reclaimable(&store, false), None);
    assert_eq!(reclaimable(&store, true), Some(first), "somebody waits for room");
    let lease = store.tier.space.lease_existing(50 << 20);
    assert_eq!(reclaimable(&store, false), Some(first), "room is short");
    drop(lease);
    assert_eq!(reclaimable(&store, false), None);
    store.tier.delete(b"first").unwrap();
    assert_eq!(reclaimable(&store, false), Some(first), "nothing in it counts");
    store.reclaim(first);
    assert_eq!(reclaimable(&store, false), None);
    store.tier.delete(b"second").unwrap();
    assert_eq!(reclaimable(&store, false), Some(second));
    store.reclaim(second);
    store.tier.delete(b"dead").unwrap();
    assert_eq!(reclaimable(&store, true), None, "it is appended to");

    for (options, expected) in [(None, false), (Some(outbox()), true)] {
        let (store, [first, _]) = three_segments(options);
        assert_eq!(reclaimable(&store, false), None);
        // Many live bytes, as counted.
        store.tier.space.add_live(50 << 20);
        assert_eq!(store.tier.room.wants_eviction(), expected);
        assert_eq!(reclaimable(&store, false), expected.then_some(first), "what others have may go");
    }
}

#[test]
fn many_small_segments_are_merged() {
    let mut store = ByHand::open(None);
    let mut is_merging = false;
    while !is_merging {
        assert!(store.tier.reclaimable(false, &mut is_merging).is_none() || is_merging);
        store.put(&store.tier.segments.record_segments().to_le_bytes(), 10);
        store.seal();
    }
    assert_eq!(store.tier.segments.record_segments() as u64, SEGMENTS_KEPT + 2);
    while let Some((oldest, _)) = store.tier.reclaimable(false, &mut is_merging) {
        assert!(is_merging);
        store.reclaim(oldest.number);
    }
    assert!(!is_merging);
    assert_eq!(store.tier.segments.record_segments() as u64, SEGMENTS_KEPT / 2);
    for number in 0..=SEGMENTS_KEPT as usize {
        store.check(&number.to_le_bytes(), 10);
    }
}

#[test]
fn the_segment_that_is_appended_to_is_sealed_when_half_of_one_is_dead() {
    let store = ByHand::open(None);
    assert!(!store.tier.has_dead_tail());
    for number in 0..10u8 {
        store.put(&[number], 60_000);
        assert!(!store.tier.has_dead_tail(), "all of it counts");
    }
    // Of a segment of one MiB.
    for number in 0..10u8 {
        assert_eq!(store.tier.has_dead_tail(), number >= 9, "{number}");
        store.tier.delete(&[number]).unwrap();
    }
    assert!(store.tier.has_dead_tail());

    // Half of one exactly, and a little more.
    let store = ByHand::open(None);
    let dead_bytes = || u64::from(store.tier.journal.end().offset());
    (0..8u8).for_each(|id| store.put(&[id], 60_000));
    let put_bytes = store.standing(&[0]).unwrap().header.stride();
    let before = dead_bytes();
    assert!(store.tier.delete(&[0]).unwrap());
    let delete_bytes = dead_bytes() - before;
    (1..8u8).for_each(|id| assert!(store.tier.delete(&[id]).unwrap()));
    let left_bytes = SEGMENT_BYTES / 2 - dead_bytes() - delete_bytes;
    store.put(b"x", 60_000 - (put_bytes - left_bytes) as usize);
    assert!(store.tier.delete(b"x").unwrap());
    assert_eq!(dead_bytes(), SEGMENT_BYTES / 2);
    assert!(!store.tier.has_dead_tail());
    store.put(b"x", 1);
    assert!(!store.tier.has_dead_tail());
    assert!(store.tier.delete(b"x").unwrap());
    assert!(store.tier.has_dead_tail());
}

#[test]
fn deletes_that_redis_may_not_know_of_are_no_reason_to_seal() {
    let store = ByHand::open(Some(outbox()));
    let number = store.tier.journal.end().segment();
    for id in 0u32.. {
        store.tier.delete(&id.to_le_bytes()).unwrap();
        if u64::from(store.tier.journal.end().offset()) > SEGMENT_BYTES / 4 * 3 {
            break;
        }
    }
    assert_eq!(store.tier.journal.end().segment(), number);
    assert!(!store.tier.has_dead_tail());
    store.settle();
    store.tier.index().owed().settle_below(number + 1);
    assert!(store.tier.has_dead_tail());
}

#[test]
fn dead_bytes_are_told_from_a_whole_segment_on() {
    let (store, [_, second]) = three_segments(None);
    assert_eq!(store.tier.sealed_dead_bytes(), 0);
    let dead_bytes = store.tier.records().dead_bytes;
    let segment = store.tier.segments.get(second).unwrap();
    let lease = segment.lease();
    assert!(lease.grow(segment.bytes() + SEGMENT_BYTES - dead_bytes - 1));
    assert_eq!(store.tier.sealed_dead_bytes(), 0);
    assert!(lease.grow(segment.bytes() + 1));
    assert_eq!(store.tier.sealed_dead_bytes(), SEGMENT_BYTES);
    assert!(lease.grow(segment.bytes() + 1));
    assert_eq!(store.tier.sealed_dead_bytes(), SEGMENT_BYTES + 1);
}

// Invariants 1 and 7.
#[test]
fn a_body_is_moved_where_it_is_still_the_records_own_and_there_is_a_hole() {
    let store = ByHand::open(None);
    let body = |id: u8| store.standing(&[id]).unwrap().header.body_place;
    (0..10).for_each(|id| store.put(&[id], 200_000));
    store.put(b"inline", 1000);
    let (from, to) = (body(0).segment, body(9).segment);
    assert_ne!(from, to);
    store.tier.move_body(store.place(&[0]), from).unwrap();
    assert_eq!(body(0).segment, from, "there is no hole");
    store.tier.delete(&[9]).unwrap();
    assert!(store.tier.reap_bodies().unwrap() > 0);
    for elsewhere in [to, to + 100] {
        store.tier.move_body(store.place(&[0]), elsewhere).unwrap();
        assert_eq!(body(0).segment, from, "it does not stand there");
    }
    let inline = store.place(b"inline");
    store.tier.move_body(inline, 0).unwrap();
    assert_eq!(store.place(b"inline"), inline, "it has no body of its own");
    store.tier.move_body(store.place(&[0]), from).unwrap();
    assert_eq!(body(0).segment, to);
    assert_eq!(store.tier.reap_bodies().unwrap(), 200_704, "where it was, there is room");
    (0..9).for_each(|id| store.check(&[id], 200_000));
}

fn is_dirty(store: &ByHand, id: &[u8]) -> bool {
    !store.standing(id).unwrap().header.flags.has(Flags::CLEAN)
}

// Invariant 3.
#[test]
fn a_copy_says_whether_redis_has_it() {
    let mut store = ByHand::open(Some(outbox()));
    store.put(b"clean", 100);
    store.settle();
    store.put(b"dirty", 100);
    let first = store.seal();
    store.reclaim(first);
    assert!(!is_dirty(&store, b"clean") && is_dirty(&store, b"dirty"));
    // The records of what Redis had are dirty again: it has lost everything.
    let second = store.seal();
    store.outbox().ledger.lose_everything(|| store.tier.journal.end());
    store.reclaim(second);
    assert!(is_dirty(&store, b"clean") && is_dirty(&store, b"dirty"));

    let mut alone = ByHand::open(None);
    alone.put(b"id", 100);
    let first = alone.seal();
    alone.reclaim(first);
    assert!(is_dirty(&alone, b"id"), "nothing is said of others");
}

/// Invariant 3: Redis loses everything between the moment in which the copy is found to be clean and that in which it stands.
#[test]
fn a_copy_that_says_that_redis_has_it_is_pushed_if_redis_has_lost_it_meanwhile() {
    for is_single in [false, true] {
        let store = ByHand::open(Some(outbox()));
        store.put(b"id", 100);
        store.settle();
        let (tier, ledger, from) = (&store.tier, &store.outbox().ledger, store.place(b"id"));
        let record = tier.record_at(from).unwrap();
        let copying = Copying { flags: record.header.flags, payload: Lsn::NONE };
        let end = tier.journal.end();
        let (to, says_clean) = tier.append_copy(&record, copying, None, Purpose::Copy).unwrap();
        assert!(says_clean && to >= end);
        if is_single {
            assert!(ledger.lose(from, b"id"))
        } else {
            ledger.lose_everything(|| end)
        }
        tier.note_copy(store.outbox(), &record, to, says_clean);
        assert!(ledger.is_dirty(to, true));
        assert!(ledger.due(ledger.epoch(), Instant::now(), 9, to, false).records.contains(&(to, b"id".to_vec())));
        assert!(ledger.unnoted(false).iter().any(|unnoted| unnoted.lsn == to), "the next open has to know");
    }
}

// Invariant 4: what was deleted would come back.
#[test]
fn deletes_that_redis_may_not_know_of_are_copied_and_others_are_not() {
    let mut store = ByHand::open(Some(outbox()));
    let tombstone = |store: &ByHand, id: &[u8]| {
        let fingerprint = store.tier.index().fingerprint(id);
        store.tier.index().shard(fingerprint).table.read().tombstones.get(id).unwrap()
    };
    store.tier.delete(b"known").unwrap();
    let known = tombstone(&store, b"known").lsn;
    store.settle();
    for _ in 0..2 {
        store.tier.delete(b"unknown").unwrap();
    }
    let unknown = tombstone(&store, b"unknown");
    let first = store.seal();
    assert_eq!((known.segment(), unknown.lsn.segment()), (first, first));
    store.reclaim(first);
    assert!(tombstone(&store, b"known").lsn.is_none());
    let copied = tombstone(&store, b"unknown");
    assert!(copied.lsn.segment() > first);
    assert_eq!(copied.version, unknown.version);
    let record = store.tier.record_at(copied.lsn).unwrap();
    assert_eq!(
        (record.id(), record.header.kind, record.header.version),
        (&b"unknown"[..], Kind::Delete, unknown.version)
    );
    let second = store.seal();
    assert_eq!(store.hints(second).len(), 1, "of two deletes, the later one; and nothing else");
}

// Invariant 1: what still refers to a segment would find another there, or nothing.
#[test]
fn what_no_hint_names_is_lost_with_its_segment() {
    let mut store = ByHand::open(None);
    for id in [&b"id"[..], b"original"] {
        store.put(id, 2000);
    }
    store.tier.duplicate(b"original", b"sharer", &mut |_| {}).unwrap();
    let first = store.seal();
    store.tier.duplicate(b"original", b"later sharer", &mut |_| {}).unwrap();
    let segment = store.segment(first);
    assert!(store.evacuate(first, &[]).unwrap());
    let Remaining { indexed, holders } = store.tier.liveness.remaining(first);
    assert!(indexed.is_empty() && holders.is_empty());
    store.tier.segments.remove(&segment).unwrap();
    for id in [&b"id"[..], b"original", b"sharer", b"later sharer"] {
        assert!(store.tier.get(id).unwrap().is_none());
    }
    assert_eq!(store.damaged_objects(), 4);
}

// Invariants 7 and 13.
#[test]
fn a_damaged_record_is_not_copied_and_all_that_it_took_is_let_go() {
    for damage in [ByHand::flip_header, ByHand::flip_body] {
        let mut store = ByHand::open(None);
        store.put(b"id", 500);
        store.put(b"whole", 400);
        let first = store.seal();
        let store = store.reopen(Left::All, Underlying::default(), None);
        damage(&store, b"id");
        store.reclaim(first);
        assert!(store.tier.get(b"id").unwrap().is_none());
        store.check(b"whole", 400);
        assert_eq!(store.damaged_objects(), 1);
        assert_eq!(payloads(&store), (1, 400));
    }
}

#[test]
fn a_segment_that_cannot_be_read_goes_where_nothing_in_it_counts() {
    for (kept, is_reclaimed) in [(None, true), (Some(&b"id"[..]), false), (Some(b"sharer"), false)] {
        let mut store = ByHand::open(None);
        store.put(b"id", 2000);
        store.put(b"overwritten", 100);
        let first = store.seal();
        store.put(b"overwritten", 200);
        store.tier.duplicate(b"id", b"sharer", &mut |_| {}).unwrap();
        for id in [&b"id"[..], b"sharer"] {
            assert!(kept == Some(id) || store.tier.delete(id).unwrap());
        }
        let (segment, hints) = (store.segment(first), store.hints(first));
        std::fs::remove_file(segment.path()).unwrap();
        segment.close_file();
        segment.unmap();
        assert_eq!(store.evacuate(first, &hints).is_ok(), is_reclaimed, "{kept:?}");
    }
}

#[test]
fn bytes_of_an_earlier_open_that_cannot_be_checked_keep_a_segment_only_where_they_count() {
    for (is_kept, is_reclaimed) in [(false, true), (true, false)] {
        let mut store = ByHand::open(None);
        store.put(b"id", 2000);
        let first = store.seal();
        let store = store.reopen(Left::All, Underlying::default(), None);
        assert!(is_kept || store.tier.delete(b"id").unwrap());
        let (segment, hints) = (store.segment(first), store.hints(first));
        // Mapped already: only the check reads the file.
        store.tier.segments.mapping(&segment).unwrap();
        std::fs::remove_file(segment.path()).unwrap();
        segment.close_file();
        assert_eq!(store.evacuate(first, &hints).is_ok(), is_reclaimed);
    }
}

/// Lets the object go as damaged, with an unreadable header.
fn lose(store: &ByHand, id: &[u8]) -> Lsn {
    let (fingerprint, lsn) = (store.tier.index().fingerprint(id), store.place(id));
    store.tier.lose(fingerprint, id, lsn, None, "a test says so");
    lsn
}

fn payloads(store: &ByHand) -> (u64, u64) {
    let counts = &store.tier.liveness.counts;
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    (load(&counts.payloads), load(&counts.payload_bytes))
}

// Invariant 7.
#[test]
fn what_a_damaged_record_took_is_let_go_as_soon_as_it_is_known() {
    let mut store = ByHand::open(None);
    store.put(b"body", 200_000);
    store.put(b"shared body", 200_000);
    store.tier.duplicate(b"shared body", b"sharer", &mut |_| {}).unwrap();
    store.put(b"inline", 1000);
    let body = |id: &[u8]| store.standing(id).unwrap().header.body_place;
    let (alone, shared) = (body(b"body"), body(b"shared body"));
    lose(&store, b"body");
    let shared_place = lose(&store, b"shared body");
    let inline_place = lose(&store, b"inline");
    assert_eq!(payloads(&store), (3, 401_000));

    store.tier.release_lost(|_| Ok(None)).unwrap();
    assert!(store.tier.bodies.find(alone).is_none(), "its body tells of it");
    assert!(store.tier.bodies.find(shared).is_some(), "others refer to it");
    assert_eq!(payloads(&store), (2, 201_000));
    let lost = |store: &ByHand| store.tier.lost.lock().iter().map(|(_, lsn)| *lsn).collect::<Vec<_>>();
    assert_eq!(lost(&store), [shared_place, inline_place], "of these, only hints tell");

    let number = store.seal();
    let hints = store.hints(number);
    let hint_at = |lsn: Lsn| Ok(hints.iter().find(|hint| hint.offset == lsn.offset()).copied());
    store.tier.release_lost(|lsn| if lsn == inline_place { hint_at(lsn) } else { Ok(None) }).unwrap();
    assert_eq!(payloads(&store), (1, 200_000));
    assert!(store.tier.bodies.find(shared).is_some());
    assert!(lost(&store).is_empty(), "its segment is sealed, and has no hint of it");
    assert!(store.tier.get(b"sharer").unwrap().is_some());
}

/// Without versions: once a record's event was heard, others' events are later than the record, and than its copy.
#[test]
fn what_was_announced_is_so_after_it_was_copied() {
    let mut store = ByHand::open(Some(outbox()));
    for id in [b"announced".as_slice(), b"on its way"] {
        store.put(id, 1000);
    }
    let version = |store: &ByHand, id: &[u8]| store.standing(id).unwrap().header.version;
    let announced = version(&store, b"announced");
    store.tier.apply_own_event(b"announced", announced).unwrap();
    let first = store.seal();
    let before = store.place(b"announced");
    store.reclaim(first);
    assert_ne!(store.place(b"announced"), before);
    for id in [b"announced".as_slice(), b"on its way"] {
        let of_another = crate::version::Version { node: 1, ..version(&store, id) };
        store.tier.apply_others_event(id, of_another).unwrap();
    }
    assert!(store.standing(b"announced").is_none());
    assert!(store.standing(b"on its way").is_some());
}

mod evicting;
