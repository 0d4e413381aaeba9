//! Tests of when the stretch of a large body may be freed, and when it may not.

use std::path::Path;
use std::sync::Barrier;

use super::*;
use crate::local::disk::SystemDisk;
use crate::local::files::numbers::Numbers;

fn bodies(place: &Path) -> Arc<Bodies> {
    let journal = place.join("journal");
    std::fs::create_dir(&journal).unwrap();
    let space = Space::new(64 << 20);
    let numbers = Numbers::open(place).unwrap();
    let disk = Arc::new(SystemDisk);
    let segments = Segments::new(journal, disk, Arc::clone(&space), Arc::default(), Default::default(), numbers, 1);
    Arc::new(Bodies::new(Arc::new(segments), space))
}

fn put(bodies: &Arc<Bodies>, record: Lsn) -> BodyPlace {
    let mut reservation = bodies.reserve(100_000).unwrap();
    reservation.write(&[7; 1000]).unwrap();
    let place = reservation.place();
    reservation.keep(record);
    place
}

// Invariant 1: a power loss would bring the record back, without its body.
#[test]
fn withheld_room_stays_until_what_superseded_it_is_durable() {
    let place = tempfile::tempdir().unwrap();
    let bodies = bodies(place.path());
    let (first, second) = (put(&bodies, Lsn::new(9, 64)), put(&bodies, Lsn::new(9, 264)));
    let segment = bodies.segments.get(first.segment).unwrap();
    segment.set_withheld(true);
    bodies.release(first, Lsn::new(9, 400).into());
    bodies.release(second, Lsn::new(9, 1000).into());
    bodies.reap(Lsn::new(9, 500)).1.unwrap();
    assert!(segment.path().exists(), "the second is dead, and not yet free");
    bodies.stop_withholding(&segment).unwrap();
    assert!(segment.path().exists(), "the same, where nobody reads it any more");
    let (_, removed) = bodies.reap(Lsn::new(9, 5000));
    removed.unwrap();
    bodies.reap(Lsn::new(9, 5000)).1.unwrap();
    bodies.reserve(100_000).unwrap();
}

// Invariants 7 and 15.
#[test]
fn room_is_free_once_though_bodies_die_while_withholding_ends() {
    let place = tempfile::tempdir().unwrap();
    let bodies = bodies(place.path());
    let lsn = Lsn::new(9, 64);
    let kept = put(&bodies, lsn);
    let segment = bodies.segments.get(kept.segment).unwrap();
    for round in 0..3000 {
        let places: Vec<_> = (0..4).map(|_| put(&bodies, lsn)).collect();
        {
            let mut stretches = bodies.stretches.lock();
            segment.set_withheld(true);
            stretches.free.remove_segment(segment.number);
        }
        let barrier = Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                barrier.wait();
                places.iter().for_each(|place| bodies.release(*place, lsn.into()));
                bodies.reap(Lsn::new(9, 500)).1.unwrap();
            });
            scope.spawn(|| {
                barrier.wait();
                bodies.stop_withholding(&segment).unwrap();
            });
        });
        let stretches = bodies.stretches.lock();
        let mut at = 0;
        for ((_, offset), bytes) in &stretches.free.by_place {
            assert!(u64::from(*offset) >= at, "round {round}: free twice: {:?}", stretches.free.by_place);
            at = u64::from(*offset) + bytes;
        }
        let free_bytes: u64 = stretches.free.by_place.values().sum();
        assert_eq!(free_bytes, segment.bytes() - BODY_ALIGNMENT - 102_400, "round {round}");
        assert_eq!(free_bytes, stretches.free.bytes);
    }
}

fn put_bytes(bodies: &Arc<Bodies>, body_bytes: u64, record: Lsn) -> BodyPlace {
    let mut reservation = bodies.reserve(body_bytes).unwrap();
    reservation.write(&vec![7; body_bytes as usize]).unwrap();
    let place = reservation.place();
    reservation.keep(record);
    place
}

fn segment(bodies: &Bodies, place: BodyPlace) -> Arc<Segment> {
    bodies.segments.get(place.segment).unwrap()
}

fn lsn(offset: u32) -> Lsn {
    Lsn::new(9, offset)
}

#[test]
fn only_bodies_of_which_several_fit_share_a_segment() {
    let place = tempfile::tempdir().unwrap();
    let bodies = bodies(place.path());
    let largest = (bodies.segment_bytes / SHARED_SEGMENT_PART - BODY_ALIGNMENT) / BODY_ALIGNMENT * BODY_ALIGNMENT;
    let shared: Vec<_> = (1..SHARED_SEGMENT_PART).map(|_| put_bytes(&bodies, largest, lsn(64))).collect();
    assert!(shared.iter().all(|it| it.segment == shared[0].segment));
    assert_eq!(segment(&bodies, shared[0]).kind, SegmentKind::Bodies);
    let own = put_bytes(&bodies, largest + 1, lsn(64));
    assert_eq!(segment(&bodies, own).kind, SegmentKind::Body);
    assert_eq!(segment(&bodies, own).bytes(), largest + 2 * BODY_ALIGNMENT);
}

// Invariants 1 and 15.
#[test]
fn a_body_goes_when_what_superseded_it_is_durable_and_nobody_reads_it() {
    let place = tempfile::tempdir().unwrap();
    let bodies = bodies(place.path());
    let kept = put(&bodies, lsn(64));
    let dead = put(&bodies, lsn(264));
    let live_bytes = bodies.space.live_bytes();
    assert_eq!(live_bytes, segment(&bodies, kept).live_bytes());
    let (holes, stretch_bytes) = (bodies.hole_bytes(), live_bytes / 2);

    assert!(bodies.read_segments().is_empty());
    let read = bodies.find(dead).unwrap();
    assert_eq!(bodies.read_segments(), [dead.segment]);
    bodies.release(dead, lsn(400).into());
    assert!(bodies.find(dead).is_none() && bodies.find(kept).is_some());
    assert_eq!((bodies.space.live_bytes(), segment(&bodies, kept).live_bytes()), (stretch_bytes, stretch_bytes));
    assert_eq!(bodies.reapable_bytes(), 0);
    assert_eq!(bodies.reap(lsn(500)).0, 0, "it is read");
    assert_eq!(bodies.read_segments(), [dead.segment]);
    drop(read);
    assert_eq!(bodies.reapable_bytes(), stretch_bytes);
    assert_eq!(bodies.reap(lsn(400)).0, 0, "what superseded it is not durable");
    assert_eq!(bodies.hole_bytes(), holes);
    assert_eq!(bodies.reap(lsn(401)).0, stretch_bytes);
    assert_eq!((bodies.hole_bytes(), bodies.reapable_bytes()), (holes + stretch_bytes, 0));
    assert!(bodies.read_segments().is_empty());
    // Released twice, it goes once.
    bodies.release(dead, lsn(400).into());
    assert_eq!(bodies.reap(lsn(500)).0, 0);
    assert_eq!(bodies.space.live_bytes(), stretch_bytes);
}

// Invariant 1.
#[test]
fn a_body_waits_for_the_body_that_superseded_it() {
    let place = tempfile::tempdir().unwrap();
    let bodies = bodies(place.path());
    let (old, new) = (put(&bodies, lsn(64)), put_bytes(&bodies, 300_000, lsn(264)));
    let by = Superseder { lsn: lsn(264), body: Some(segment(&bodies, new)), gone: None };
    bodies.release(old, by);
    assert_eq!(bodies.reap(lsn(500)).0, 0);
    bodies.sync_superseders().unwrap();
    assert!(bodies.reap(lsn(500)).0 > 0);
}

#[test]
fn a_body_that_nothing_superseded_goes_with_the_segment_of_its_record() {
    let place = tempfile::tempdir().unwrap();
    let bodies = bodies(place.path());
    let kept = put(&bodies, lsn(64));
    let gone = put(&bodies, lsn(264));
    bodies.release(gone, Superseder::with_segment(9));
    assert_eq!((bodies.reapable_bytes(), bodies.reap(lsn(500)).0), (0, 0));
    bodies.segments_gone(8);
    assert_eq!((bodies.reapable_bytes(), bodies.reap(lsn(500)).0), (0, 0));
    bodies.segments_gone(9);
    let bytes = bodies.reapable_bytes();
    assert!(bytes > 0);
    assert_eq!(bodies.reap(lsn(500)).0, bytes);
    assert!(bodies.find(kept).is_some());
}

#[test]
fn dead_bodies_that_are_read_count_as_pinned() {
    let place = tempfile::tempdir().unwrap();
    let bodies = bodies(place.path());
    let body = put_bytes(&bodies, 8 << 20, lsn(64));
    let path = segment(&bodies, body).path().to_owned();
    let read = bodies.find(body).unwrap();
    bodies.release(body, lsn(100).into());
    assert!(bodies.space.is_pinned_down());
    drop(read);
    bodies.reap(lsn(500)).1.unwrap();
    assert!(!bodies.space.is_pinned_down() && !path.exists());
    assert_eq!(bodies.space.physical_bytes(), 0);

    let body = put_bytes(&bodies, 8 << 20, lsn(64));
    bodies.release(body, lsn(100).into());
    assert!(!bodies.space.is_pinned_down(), "nobody reads it");
    bodies.reap(lsn(500)).1.unwrap();
    bodies.space.add_pinned(1);
    assert!(!bodies.space.is_pinned_down());
}

#[test]
fn empty_segments_are_kept_for_the_next_bodies_until_room_is_wanted() {
    let place = tempfile::tempdir().unwrap();
    let bodies = bodies(place.path());
    let empty = |count: usize| {
        let mut all = Vec::new();
        while bodies.segments.load().len() < count {
            all.push(put(&bodies, lsn(64)));
        }
        assert!(!bodies.drop_empty().unwrap());
        all.into_iter().for_each(|body| bodies.release(body, lsn(100).into()));
        bodies.reap(lsn(500)).1.unwrap();
        bodies.segments.load().len()
    };
    assert_eq!(empty(12), 8, "an eighth of the limit");
    assert_eq!(bodies.hole_bytes(), 8 * (bodies.segment_bytes - BODY_ALIGNMENT));
    assert!(bodies.drop_empty().unwrap() && !bodies.drop_empty().unwrap());
    assert!(bodies.segments.load().is_empty());
    assert_eq!((bodies.hole_bytes(), bodies.space.physical_bytes()), (0, 0));
    assert_eq!(empty(5), 5);
    let others = bodies.space.lease_existing(bodies.space.ordinary_room() - (10 << 20));
    bodies.trim_empty().unwrap();
    assert_eq!(bodies.segments.load().len(), 1, "less than a quarter of the limit is left");
    assert_eq!(empty(3), 1);
    drop(others);
    assert_eq!(empty(3), 3);
}

#[test]
fn room_that_was_reserved_and_not_kept_comes_back() {
    let place = tempfile::tempdir().unwrap();
    let bodies = bodies(place.path());
    put(&bodies, lsn(64));
    let (holes, live_bytes) = (bodies.hole_bytes(), bodies.space.live_bytes());
    let reservation = bodies.reserve(100_000).unwrap();
    assert!(bodies.hole_bytes() < holes);
    drop(reservation);
    assert_eq!((bodies.hole_bytes(), bodies.space.live_bytes()), (holes, live_bytes));
    let large = bodies.reserve(8 << 20).unwrap();
    let path = segment(&bodies, large.place()).path().to_owned();
    drop(large);
    assert!(!path.exists());
}

#[test]
fn a_large_body_takes_room_as_its_bytes_arrive() {
    let place = tempfile::tempdir().unwrap();
    let bodies = bodies(place.path());
    let body_bytes = GROWTH_BYTES + 3 * BODY_ALIGNMENT;
    let mut reservation = bodies.reserve(body_bytes).unwrap();
    let segment = segment(&bodies, reservation.place());
    assert_eq!(segment.bytes(), BODY_ALIGNMENT + GROWTH_BYTES);
    let piece = vec![7; GROWTH_BYTES as usize];
    reservation.write(&piece).unwrap();
    assert_eq!(segment.bytes(), BODY_ALIGNMENT + GROWTH_BYTES, "so far it fits");

    let other = bodies.space.lease_existing(60 << 20);
    assert!(matches!(reservation.write(&[8; 10]), Err(NoFile::NoRoom)));
    assert_eq!(segment.bytes(), BODY_ALIGNMENT + GROWTH_BYTES);
    drop(other);
    reservation.write(&[8; 10]).unwrap();
    assert_eq!(segment.bytes(), BODY_ALIGNMENT + body_bytes);
    assert_eq!(std::fs::metadata(segment.path()).unwrap().len(), segment.bytes());
    let written = std::fs::read(segment.path()).unwrap();
    let at = BODY_ALIGNMENT as usize + piece.len();
    assert_eq!(written[at - 1..at + 10], [7, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8]);
}

#[test]
fn a_body_is_known_by_the_record_that_refers_to_it_now() {
    let place = tempfile::tempdir().unwrap();
    let bodies = bodies(place.path());
    let (first, second) = (put_bytes(&bodies, 70_000, lsn(64)), put_bytes(&bodies, 80_000, lsn(264)));
    assert_eq!(bodies.of_record(lsn(64)), Some((first, 70_000)));
    assert_eq!(bodies.of_record(lsn(264)), Some((second, 80_000)));
    bodies.referred(first, lsn(500));
    assert_eq!((bodies.of_record(lsn(64)), bodies.of_record(lsn(500))), (None, Some((first, 70_000))));
}

#[test]
fn the_sparsest_segment_is_emptied_into_holes_of_others() {
    let place = tempfile::tempdir().unwrap();
    let bodies = bodies(place.path());
    assert!(bodies.sparsest().is_none());
    let all: Vec<_> = (1..=18).map(|number| put(&bodies, lsn(64 * number))).collect();
    let (full, sparse) = (all[0].segment, all[17].segment);
    let in_full = all.iter().filter(|it| it.segment == full).count();
    assert_eq!(all.iter().filter(|it| it.segment == sparse).count() + in_full, 18);
    let large = put_bytes(&bodies, 200_000, lsn(6400));
    assert_eq!(large.segment, sparse);
    // One hole in the first, more room in the second.
    bodies.release(all[0], lsn(10_000).into());
    bodies.release(all[17], lsn(10_000).into());
    bodies.release(all[16], lsn(10_000).into());
    bodies.reap(lsn(20_000)).1.unwrap();
    let holes_of = |number: u32| -> u64 {
        let stretches = bodies.stretches.lock();
        stretches.free.by_place.iter().filter(|((at, _), _)| *at == number).map(|(_, bytes)| *bytes).sum()
    };
    assert!(holes_of(sparse) > holes_of(full) && holes_of(full) > 0);
    let (segment, records) = bodies.sparsest().unwrap();
    assert_eq!(segment.number, sparse);
    assert_eq!(records.len(), 18 - in_full - 2 + 1);
    assert_eq!(records[0], lsn(6400), "the largest first");

    let moved = bodies.reserve_elsewhere(100_000, sparse).unwrap().unwrap();
    assert_eq!(moved.place().segment, full);
    assert!(bodies.reserve_elsewhere(100_000, sparse).unwrap().is_none());
    assert_eq!(bodies.reserve_elsewhere(100_000, full).unwrap().unwrap().place().segment, sparse);
    // Nobody is to write where former readers may look.
    segment.set_withheld(true);
    assert!(bodies.sparsest().is_none_or(|(segment, _)| segment.number == full));
}

// Invariants 1 and 7.
#[test]
fn at_open_what_no_record_refers_to_is_free_and_nothing_else() {
    let place = tempfile::tempdir().unwrap();
    let before = bodies(place.path());
    let all: Vec<_> = (0..6).map(|_| put_bytes(&before, 100_000, lsn(64))).collect();
    let own = put_bytes(&before, 300_000, lsn(64));
    let shared = segment(&before, all[0]);
    let own_path = segment(&before, own).path().to_owned();

    let space = Space::new(64 << 20);
    let after = Bodies::new(Arc::clone(&before.segments), Arc::clone(&space));
    let count_before = shared.live_bytes();
    assert!(after.restore(all[1], 100_000, &shared, lsn(164)));
    assert!(!after.restore(all[1], 1, &shared, lsn(64)), "a newer record has these bytes");
    let within = BodyPlace { offset: all[1].offset + BODY_ALIGNMENT as u32, ..all[1] };
    assert!(!after.restore(within, 1, &shared, lsn(64)));
    let around = BodyPlace { offset: all[1].offset - BODY_ALIGNMENT as u32, ..all[1] };
    assert!(!after.restore(around, BODY_ALIGNMENT + 1, &shared, lsn(64)));
    let behind = BodyPlace { offset: all[2].offset, ..all[1] };
    assert!(after.restore(behind, 0, &shared, lsn(264)), "it begins where the other ends");
    assert!(after.restore(around, BODY_ALIGNMENT, &shared, lsn(364)), "it ends where the other begins");
    let stretch_bytes = u64::from(all[2].offset - all[1].offset);
    assert_eq!(space.live_bytes(), stretch_bytes + 2 * BODY_ALIGNMENT);
    assert_eq!(shared.live_bytes() - count_before, space.live_bytes());
    assert_eq!(after.of_record(lsn(164)), Some((all[1], 100_000)));

    // An earlier open's stretches are not known to this one.
    all.iter().for_each(|_| shared.stretch_went());
    segment(&before, own).stretch_went();
    after.restore_free().unwrap();
    assert!(!own_path.exists() && shared.path().exists());
    let taken_end = u64::from(behind.offset) + BODY_ALIGNMENT;
    let free: Vec<_> = after.stretches.lock().free.by_place.iter().map(|(at, bytes)| (at.1, *bytes)).collect();
    assert_eq!(
        free,
        [
            (BODY_ALIGNMENT as u32, u64::from(around.offset) - BODY_ALIGNMENT),
            (taken_end as u32, shared.bytes() - taken_end),
        ]
    );
}

#[test]
fn a_stretch_that_is_used_up_is_not_listed() {
    let mut free = Free::default();
    free.insert(1, 4096, 8192);
    assert_eq!(free.take(8192, |_| true), Some((1, 4096)));
    assert!(free.by_place.is_empty() && free.by_bytes.is_empty() && free.bytes == 0);

    let place = tempfile::tempdir().unwrap();
    let bodies = bodies(place.path());
    let segment = segment(&bodies, put(&bodies, lsn(64)));
    let all = BodyPlace { segment: segment.number, offset: BODY_ALIGNMENT as u32 };
    let after = Bodies::new(Arc::clone(&bodies.segments), Arc::clone(&bodies.space));
    assert!(after.restore(all, segment.bytes() - BODY_ALIGNMENT, &segment, lsn(64)));
    after.restore_free().unwrap();
    assert!(after.stretches.lock().free.by_place.is_empty());
}

// Invariants 7 and 15.
#[test]
fn room_of_a_segment_that_is_not_withheld_is_not_freed_again() {
    let place = tempfile::tempdir().unwrap();
    let bodies = bodies(place.path());
    let segment = segment(&bodies, put(&bodies, lsn(64)));
    let reservation = bodies.reserve(100_000).unwrap();
    let holes = bodies.hole_bytes();
    bodies.stop_withholding(&segment).unwrap();
    assert_eq!(bodies.hole_bytes(), holes);
    drop(reservation);
}
