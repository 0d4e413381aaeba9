//! Tests of what is freed, evicted and moved when room is wanted, and what is left alone.

use super::*;
use crate::local::journal::SegmentKind;
use crate::local::upkeep::by_hand::{ByHand, SEGMENT_BYTES, outbox};

const WANTED: RoomDemand = RoomDemand { bytes: 1000, is_disk_full: false, is_live: false };

/// What `make_room` brings for a caller that waits.
fn make_room(store: &mut ByHand, wanted: RoomDemand) -> Looked {
    store.sealer.make_room(wanted, Patience::Caller).unwrap()
}

fn numbers(store: &ByHand, kind: SegmentKind) -> Vec<u32> {
    let segments = store.tier.segments.load();
    let mut numbers: Vec<_> = segments.values().filter(|it| it.kind == kind).map(|it| it.number).collect();
    numbers.sort_unstable();
    numbers
}

/// A full store with two sealed segments in which nothing counts, between one that is kept and the active one.
fn with_dead_segments() -> (ByHand, Vec<u32>) {
    let mut store = ByHand::open(None);
    store.put(b"kept", 100);
    let mut sealed = vec![store.seal()];
    for round in 0..2u8 {
        (0..14u8).for_each(|id| store.put(&[round, id], 60_000));
        sealed.push(store.seal());
    }
    store.put(b"last", 100);
    for round in 0..2u8 {
        (0..14u8).for_each(|id| assert!(store.tier.delete(&[round, id]).unwrap()));
    }
    (store, sealed)
}

#[test]
fn what_is_not_worth_it_is_left_and_what_nothing_counts_in_goes() {
    let (mut store, sealed) = with_dead_segments();
    store.sealer.reclaim().unwrap();
    assert_eq!(numbers(&store, SegmentKind::Records)[..3], sealed);
    store.tier.delete(b"kept").unwrap();
    let (seen, live_bytes) = (store.tier.progress.seen(), store.tier.space.live_bytes());
    store.sealer.reclaim().unwrap();
    assert_eq!(numbers(&store, SegmentKind::Records), [store.place(b"last").segment()]);
    assert_ne!(store.tier.progress.seen(), seen, "who waits is told");
    assert_eq!(store.tier.space.live_bytes(), live_bytes);
    assert!(store.catalog().segments().unwrap().is_empty());
    store.check(b"last", 100);
}

#[test]
fn what_is_evicted_goes_though_its_segment_is_not_full() {
    let mut store = ByHand::open(Some(outbox()));
    store.put(b"id", 200_000);
    let body = store.standing(b"id").unwrap().header.body_place;
    store.settle();
    store.sealer.reclaim().unwrap();
    let first = store.place(b"id").segment();
    assert!(!store.segment(first).is_sealed(), "there is room");
    store.tier.space.add_live(50 << 20);
    store.sealer.reclaim().unwrap();
    assert!(store.standing(b"id").is_none());
    assert!(store.tier.segments.get(first).is_none());
    assert!(store.tier.bodies.find(body).is_none());
    assert_eq!(store.tier.bodies.reapable_bytes(), 0, "its body as well");
}

#[test]
fn where_older_segments_cannot_be_evicted_from_the_last_is_not_sealed() {
    let mut store = ByHand::open(Some(outbox()));
    store.put(b"dirty", 1000);
    let first = store.seal();
    store.put(b"last", 1000);
    store.tier.space.add_live(50 << 20);
    store.sealer.reclaim().unwrap();
    let last = store.place(b"last").segment();
    assert_eq!(numbers(&store, SegmentKind::Records), [first, last]);
    assert!(!store.segment(last).is_sealed());
    assert_eq!(store.tier.journal.end().segment(), last);

    let mut alone = ByHand::open(None);
    alone.put(b"id", 1000);
    alone.tier.space.add_live(50 << 20);
    alone.sealer.reclaim().unwrap();
    assert!(!alone.segment(alone.place(b"id").segment()).is_sealed(), "nobody else has it");
}

#[test]
fn room_is_there_for_a_segment_and_what_goes_with_it() {
    let mut store = ByHand::open(None);
    // A segment in which everything counts is not copied.
    store.put(b"kept", 100);
    store.seal();
    let enough = SEGMENT_BYTES + (1 << 16);
    for (bytes, left_bytes, expected) in [
        (1000, enough, Looked::Made),
        (1000, enough - 1, Looked::Barren),
        (3 << 20, enough + (2 << 20), Looked::Made),
        (3 << 20, enough + (2 << 20) - 1, Looked::Barren),
    ] {
        let _lease = store.leave_room(left_bytes);
        let looked = make_room(&mut store, RoomDemand { bytes, ..WANTED });
        assert_eq!(looked, expected, "{bytes} wanted, {left_bytes} left");
    }
    assert_eq!(make_room(&mut store, RoomDemand { is_disk_full: true, ..WANTED }), Looked::Barren);
    assert_eq!(make_room(&mut store, RoomDemand { is_live: true, ..WANTED }), Looked::Made);
    store.tier.space.add_live(60 << 20);
    assert_eq!(make_room(&mut store, RoomDemand { is_live: true, ..WANTED }), Looked::Barren);
    assert_eq!(make_room(&mut store, WANTED), Looked::Made, "files have room");
}

#[test]
fn dead_bodies_empty_segments_and_prepared_files_make_room_by_themselves() {
    let mut store = ByHand::open(None);
    store.put(b"kept", 200_000);
    store.put(b"dead", 200_000);
    store.tier.delete(b"dead").unwrap();
    let _lease = store.leave_room(0);
    assert_eq!(make_room(&mut store, WANTED), Looked::Made);
    assert_eq!(store.tier.bodies.reapable_bytes(), 0);
    assert_eq!(make_room(&mut store, WANTED), Looked::Barren);

    store.tier.delete(b"kept").unwrap();
    store.tier.reap_bodies().unwrap();
    assert_eq!(numbers(&store, SegmentKind::Bodies).len(), 1, "one is kept");
    assert_eq!(make_room(&mut store, WANTED), Looked::Made);
    assert!(numbers(&store, SegmentKind::Bodies).is_empty());
    drop(_lease);

    store.tier.journal.prepare().unwrap();
    let _lease = store.leave_room(0);
    assert_eq!(make_room(&mut store, WANTED), Looked::Made);
    assert!(!store.tier.journal.drop_prepared(), "it is done already");
}

#[test]
fn segments_are_reclaimed_until_there_is_room() {
    let (mut store, sealed) = with_dead_segments();
    assert_eq!(make_room(&mut store, WANTED), Looked::Made);
    assert_eq!(numbers(&store, SegmentKind::Records)[..3], sealed, "there is room");
    let lease = store.leave_room(SEGMENT_BYTES / 2);
    let seen = store.tier.progress.seen();
    assert_eq!(make_room(&mut store, WANTED), Looked::Made);
    let left = numbers(&store, SegmentKind::Records);
    assert!(!left.contains(&sealed[0]) && !left.contains(&sealed[1]), "the oldest go first");
    assert!(left.contains(&sealed[2]), "there is room: {left:?}");
    assert_ne!(store.tier.progress.seen(), seen, "who waits is told");
    store.check(b"kept", 100);
    drop(lease);
}

#[test]
fn of_dead_bytes_in_the_last_segment_alone_it_is_sealed() {
    let mut store = ByHand::open(None);
    (0..14u8).for_each(|id| store.put(&[id], 60_000));
    let first = store.place(&[0]).segment();
    let _lease = store.leave_room(0);
    assert_eq!(make_room(&mut store, WANTED), Looked::Barren);
    assert!(!store.segment(first).is_sealed(), "nothing in it is dead");
    (1..14u8).for_each(|id| assert!(store.tier.delete(&[id]).unwrap()));
    make_room(&mut store, WANTED);
    assert!(store.tier.segments.get(first).is_none_or(|it| it.is_sealed()));
    store.check(&[0], 60_000);
}

#[test]
fn bodies_are_moved_together_where_that_frees_a_file() {
    let mut store = ByHand::open(None);
    // Five to a segment.
    (0..10u8).for_each(|id| store.put(&[id], 200_000));
    let segments = numbers(&store, SegmentKind::Bodies);
    assert_eq!(segments.len(), 2);
    (1..6u8).for_each(|id| assert!(store.tier.delete(&[id]).unwrap()));
    store.tier.reap_bodies().unwrap();
    let _lease = store.leave_room(0);
    assert_eq!(make_room(&mut store, WANTED), Looked::Made);
    let body_of = |id: u8| store.standing(&[id]).unwrap().header.body_place.segment;
    assert_eq!(body_of(0), segments[1]);
    store.check(&[0], 200_000);
    (6..10u8).for_each(|id| store.check(&[id], 200_000));
}

#[test]
fn bodies_on_their_way_in_are_waited_for() {
    let mut store = ByHand::open(None);
    let reservation = store.tier.bodies.reserve(2 << 20).unwrap();
    let _lease = store.leave_room(0);
    assert_eq!(make_room(&mut store, WANTED), Looked::UnderWay);
    let waiting = Arc::clone(&store.tier.bodies);
    let waiting = waiting.waiting();
    assert_eq!(make_room(&mut store, WANTED), Looked::Barren, "it waits itself");
    drop(waiting);
    assert_eq!(make_room(&mut store, WANTED), Looked::UnderWay);
    drop(reservation);
    // The freed room is taken again.
    let _lease = (store.leave_room(0), _lease);
    assert_eq!(make_room(&mut store, WANTED), Looked::Barren);
}

/// Segments with ten inline, clean objects each, whose ids are numbered throughout.
fn with_clean_segments(count: u8) -> (ByHand, Vec<u32>) {
    let mut store = ByHand::open(Some(outbox()));
    let sealed = (0..count).map(|segment| {
        (10 * segment..10 * segment + 10).for_each(|id| store.put(&[id], 60_000));
        store.seal()
    });
    let sealed = sealed.collect();
    store.settle();
    (store, sealed)
}

/// Those of these objects that are still there.
fn left(store: &ByHand, ids: std::ops::Range<u8>) -> Vec<u8> {
    ids.filter(|id| store.standing(&[*id]).is_some()).collect()
}

// Invariant 3.
#[test]
fn who_waits_has_so_much_evicted_as_is_missing_the_oldest_first() {
    let (mut store, sealed) = with_clean_segments(4);
    store.put(b"dirty", 100);
    let lease = store.leave_room(SEGMENT_BYTES + (1 << 16));
    assert_eq!(make_room(&mut store, WANTED), Looked::Made);
    assert_eq!(left(&store, 0..40).len(), 40, "there is room");
    drop(lease);
    // A segment's worth is more than one of these, and less than two.
    let _lease = store.leave_room(0);
    assert_eq!(make_room(&mut store, WANTED), Looked::Made);
    assert_eq!(left(&store, 0..40), Vec::from_iter(20..40));
    assert_eq!(numbers(&store, SegmentKind::Records)[..2], sealed[2..]);
    store.check(b"dirty", 100);
}

// Invariant 3.
#[test]
fn of_large_bodies_no_more_go_than_are_to() {
    let mut store = ByHand::open(Some(outbox()));
    (0..12u8).for_each(|id| store.put(&[id], 200_000));
    store.put(b"dirty", 100);
    let first = store.seal();
    let ledger = &store.outbox().ledger;
    store.settle();
    assert!(ledger.lose(store.place(b"dirty"), b"dirty") && ledger.lose(store.place(&[0]), &[0]));
    let _lease = store.leave_room(0);
    assert_eq!(make_room(&mut store, WANTED), Looked::Made);
    // Six of them are more than a segment and what goes with it.
    assert_eq!(left(&store, 0..12), [0, 7, 8, 9, 10, 11]);
    assert_eq!(store.tier.bodies.reapable_bytes(), 0);
    assert!(store.tier.segments.get(first).is_none(), "the rest was copied");
    store.check(b"dirty", 100);
    store.check(&[0], 200_000);
}

#[test]
fn what_was_read_goes_only_for_one_who_waits_and_where_nothing_else_does() {
    let read = |store: &ByHand, ids: std::ops::Range<u8>| ids.for_each(|id| store.check(&[id], 60_000));
    let (mut store, _) = with_clean_segments(3);
    read(&store, 0..15);
    let _lease = store.leave_room(0);
    assert_eq!(make_room(&mut store, WANTED), Looked::Made);
    assert_eq!(left(&store, 0..30), Vec::from_iter(0..15));

    for (patience, expected) in [(Patience::Background, Looked::Barren), (Patience::Caller, Looked::Made)] {
        let (mut store, _) = with_clean_segments(3);
        read(&store, 0..30);
        let _lease = store.leave_room(0);
        assert_eq!(store.sealer.make_room(WANTED, patience).unwrap(), expected);
        let is_all_there = left(&store, 0..30).len() == 30;
        assert_eq!(is_all_there, patience == Patience::Background);
    }
}

#[test]
fn the_segment_that_is_appended_to_is_evicted_from_when_it_has_what_may_go() {
    for (is_clean, looked) in [(false, Looked::Barren), (true, Looked::Made)] {
        let mut store = ByHand::open(Some(outbox()));
        store.put(b"id", 1000);
        if is_clean {
            store.settle();
        }
        let first = store.place(b"id").segment();
        let _lease = store.leave_room(0);
        assert_eq!(make_room(&mut store, WANTED), looked);
        assert_eq!(store.standing(b"id").is_none(), is_clean);
        let left = store.tier.segments.get(first);
        assert_eq!(left.is_none(), is_clean);
        assert!(left.is_none_or(|it| !it.is_sealed()), "it is not sealed to no purpose");
    }
}

// Invariant 3.
#[test]
fn what_may_go_is_found_in_a_full_segment_that_is_not_sealed_yet() {
    let mut store = ByHand::open(Some(outbox()));
    store.put(b"dirty", 60_000);
    store.put(b"clean", 1000);
    assert!(store.tier.journal.seal_active());
    store.put(b"last", 100);
    store.settle();
    let ledger = &store.outbox().ledger;
    for id in [b"dirty".as_slice(), b"last"] {
        assert!(ledger.lose(store.place(id), id));
    }
    assert!(!store.segment(store.place(b"clean").segment()).is_sealed());
    let _lease = store.leave_room(0);
    assert_eq!(make_room(&mut store, WANTED), Looked::Made);
    assert!(store.standing(b"clean").is_none());
    store.check(b"dirty", 60_000);
    store.check(b"last", 100);
}

#[test]
fn what_is_dirty_is_not_copied_to_no_purpose_and_goes_when_redis_has_it() {
    let mut store = ByHand::open(Some(outbox()));
    (0..10u8).for_each(|id| store.put(&[id], 60_000));
    let first = store.seal();
    store.put(b"last", 100);
    let _lease = store.leave_room(0);
    for _ in 0..2 {
        assert_eq!(make_room(&mut store, WANTED), Looked::Barren);
        assert!(store.tier.segments.get(first).is_some());
    }
    store.settle();
    assert_eq!(make_room(&mut store, WANTED), Looked::Made);
    assert!(left(&store, 0..10).is_empty());
}

#[test]
fn ahead_of_need_the_last_segment_is_sealed_only_where_it_alone_may_be_evicted_from() {
    let mut store = ByHand::open(Some(outbox()));
    store.put(b"dirty", 1000);
    store.tier.space.add_live(50 << 20);
    store.sealer.reclaim().unwrap();
    let first = store.place(b"dirty").segment();
    assert!(!store.segment(first).is_sealed(), "nothing in it may go");
    store.seal();
    store.put(b"clean", 1000);
    store.settle();
    assert!(store.outbox().ledger.lose(store.place(b"dirty"), b"dirty"));
    store.sealer.reclaim().unwrap();
    assert!(!store.segment(store.place(b"clean").segment()).is_sealed(), "an older one comes first");
}

/// Both ahead of need and for one who waits.
#[test]
fn a_pass_ends_when_it_has_copied_much_and_the_next_goes_on() {
    for is_wanted in [false, true] {
        let (mut store, sealed) = with_clean_segments(3);
        let segment = store.segment(sealed[0]);
        let bytes = MERGED_BYTES_MAX - segment.live_bytes();
        segment.add_live(bytes);
        store.tier.space.add_live(bytes);
        let lease = is_wanted.then(|| store.leave_room(0));
        if !is_wanted {
            store.tier.space.add_live(50 << 20);
        }
        for ids in [10..30, 30..30] {
            match is_wanted {
                true => assert_eq!(make_room(&mut store, RoomDemand { bytes: 2 << 20, ..WANTED }), Looked::Made),
                false => store.sealer.reclaim().unwrap(),
            }
            assert_eq!(left(&store, 0..30), Vec::from_iter(ids), "is it wanted: {is_wanted}");
        }
        drop(lease);
    }
}

#[test]
fn a_wish_is_granted_step_by_step_and_once() {
    let (mut store, _) = with_clean_segments(4);
    let lease = store.leave_room(0);
    store.sealer.meet_unmet_demand().unwrap();
    assert_eq!(left(&store, 0..40).len(), 40, "nobody wishes for anything");
    let seen = store.tier.progress.seen();
    store.tier.room.wish(WANTED);
    store.sealer.meet_unmet_demand().unwrap();
    assert_eq!(left(&store, 0..40), Vec::from_iter(20..40));
    assert_eq!(store.tier.room.missing_bytes(WANTED), 0);
    assert_ne!(store.tier.progress.seen(), seen, "who waits is told");
    drop(lease);
    let lease = store.leave_room(0);
    store.sealer.meet_unmet_demand().unwrap();
    assert_eq!(left(&store, 0..40), Vec::from_iter(20..40));
    drop(lease);
    let seen = store.tier.progress.seen();
    store.tier.room.wish(WANTED);
    store.sealer.meet_unmet_demand().unwrap();
    assert_eq!(store.tier.progress.seen(), seen, "there is room: nothing was made");
}

#[test]
fn a_wish_that_cannot_be_granted_does_not_hold_up_the_rest() {
    let mut store = ByHand::open(Some(outbox()));
    store.put(b"dirty", 1000);
    let _lease = store.leave_room(0);
    let seen = store.tier.progress.seen();
    store.tier.room.wish(WANTED);
    store.sealer.meet_unmet_demand().unwrap();
    assert_eq!(store.tier.progress.seen(), seen);
    store.check(b"dirty", 1000);
}

#[test]
fn a_store_that_is_being_closed_makes_no_room() {
    let (mut store, sealed) = with_dead_segments();
    store.tier.delete(b"kept").unwrap();
    let _lease = store.leave_room(0);
    store.tier.gate.close();
    store.sealer.reclaim().unwrap();
    assert_eq!(make_room(&mut store, WANTED), Looked::Barren);
    assert_eq!(numbers(&store, SegmentKind::Records)[..3], sealed);

    let (mut store, sealed) = with_clean_segments(3);
    let _lease = store.leave_room(0);
    store.tier.gate.close();
    store.tier.room.wish(WANTED);
    store.sealer.meet_unmet_demand().unwrap();
    assert_eq!(make_room(&mut store, WANTED), Looked::Barren);
    assert_eq!(numbers(&store, SegmentKind::Records)[..3], sealed);
}
