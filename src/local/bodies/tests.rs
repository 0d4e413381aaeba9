use std::path::Path;
use std::sync::Barrier;

use super::*;
use crate::local::disk::SystemDisk;
use crate::local::files::numbers::Numbers;

#[test]
fn free_stretches_merge_and_the_smallest_that_fits_is_taken() {
    let mut free = Free::default();
    free.insert(1, 4096, 8192);
    free.insert(1, 20480, 4096);
    free.insert(2, 4096, 65536);
    assert_eq!(free.take(4096, |_| true), Some((1, 20480)));
    assert_eq!(free.take(4096, |_| true), Some((1, 4096)));
    free.insert(1, 4096, 4096);
    free.insert(1, 20480, 4096);
    free.insert(1, 12288, 8192);
    assert_eq!(free.by_place.get(&(1, 4096)), Some(&20480));
    assert_eq!(free.by_bytes.len(), free.by_place.len());
    assert_eq!(free.take(1 << 20, |_| true), None);
    free.remove_segment(1);
    assert_eq!(free.take(4096, |_| true), Some((2, 4096)));
}

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
