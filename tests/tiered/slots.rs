use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use crate::common::{get, until};
use crate::nodes::World;

#[test]
fn a_second_store_in_the_directory_takes_a_slot_of_its_own() {
    let world = World::new(1);
    let open = || world.builder(0).slots(2).open().unwrap();
    let (first, second) = (open(), open());
    assert_eq!((first.info().backend, second.info().backend), ("tiered", "tiered"));
    assert_eq!(first.info().capacity_bytes, 128 << 20, "the limit is for the whole directory");
    first.put(b"id", b"data", b"").unwrap();
    until("it is shared", || second.get(b"id").unwrap().is_some());

    let third = world.builder(0).slots(2).lock_wait(Duration::ZERO).open().unwrap();
    assert_eq!(third.info().backend, "redis", "without a local tier");
    assert_eq!(get(&third, b"id").data, "data");
}

/// Invariant 3: what a process that is gone has left is pushed by a neighbour.
#[test]
fn a_slot_that_its_process_has_left_is_drained_by_a_neighbour() {
    let mut world = World::new(2);
    let open = |world: &World| world.builder(0).slots(2).open().unwrap();
    world.redis.kill();
    let (first, second) = (open(&world), open(&world));
    second.put(b"left", b"data", b"").unwrap();
    second.delete(b"gone").unwrap();
    second.close().unwrap();
    world.redis.restart();
    let elsewhere = world.open(1);
    until("it is pushed", || elsewhere.get(b"left").is_ok_and(|object| object.is_some()));
    drop(first);
}

/// Neighbours would otherwise open it again and again.
#[test]
fn a_slot_that_is_drained_is_left_alone_until_somebody_takes_it() {
    let world = World::new(1);
    let open = || world.builder(0).slots(3).open().unwrap();
    let (first, second, third) = (open(), open(), open());
    let place = third.info().place;
    let lock = Path::new(place.split_once(" and ").unwrap().0).join("LOCK");
    let pushed = || lock.metadata().unwrap().modified().unwrap() == SystemTime::UNIX_EPOCH;
    third.put(b"left", b"data", b"").unwrap();
    third.close().unwrap();
    until("a neighbour has pushed it", pushed);

    let changed = |metadata: Metadata| (metadata.ctime(), metadata.ctime_nsec());
    let since = changed(lock.metadata().unwrap());
    sleep(Duration::from_secs(6)); // longer than from one look of a neighbour to its next
    assert_eq!(changed(lock.metadata().unwrap()), since);

    let _fourth = open();
    assert!(!pushed());
    drop((first, second));
}
