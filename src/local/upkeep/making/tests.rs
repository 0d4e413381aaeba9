use super::*;
use crate::local::journal::SegmentKind;
use crate::local::upkeep::by_hand::{ByHand, SEGMENT_BYTES, outbox};

const WANTED: Wanted = Wanted { bytes: 1000, is_disk_full: false, is_live: false };

/// What a look for room brings to one who waits for it.
fn make_room(store: &mut ByHand, wanted: Wanted) -> Looked {
    store.sealer.make_room(wanted, Patience::Caller).unwrap()
}

fn numbers(store: &ByHand, kind: SegmentKind) -> Vec<u32> {
    let segments = store.tier.segments.load();
    let mut numbers: Vec<_> = segments.values().filter(|it| it.kind == kind).map(|it| it.number).collect();
    numbers.sort_unstable();
    numbers
}

/// Two sealed segments of which nothing counts, between one that is kept and the one that is appended to, with which the store is
/// full.
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
    // What counts is not copied to no purpose.
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
        let looked = make_room(&mut store, Wanted { bytes, ..WANTED });
        assert_eq!(looked, expected, "{bytes} wanted, {left_bytes} left");
    }
    assert_eq!(make_room(&mut store, Wanted { is_disk_full: true, ..WANTED }), Looked::Barren);
    assert_eq!(make_room(&mut store, Wanted { is_live: true, ..WANTED }), Looked::Made);
    store.tier.space.add_live(60 << 20);
    assert_eq!(make_room(&mut store, Wanted { is_live: true, ..WANTED }), Looked::Barren);
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
    // It has given its room back.
    let _lease = (store.leave_room(0), _lease);
    assert_eq!(make_room(&mut store, WANTED), Looked::Barren);
}
