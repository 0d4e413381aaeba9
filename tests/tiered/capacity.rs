use scaler_object_storage::{Error, ObjectStore};

use crate::common::{CAPACITY_MB_MIN, bytes, get, until};
use crate::nodes::World;

const CAPACITY_BYTES: u64 = CAPACITY_MB_MIN << 20;

fn id(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

/// Puts objects of `size` bytes, twice what the local tier takes.
fn put_more_than_fits(store: &ObjectStore, size: usize) -> u64 {
    let count = 2 * CAPACITY_BYTES / size as u64;
    for number in 0..count {
        store.put(&id(number), &bytes(number, size), b"").unwrap_or_else(|error| panic!("object {number}: {error}"));
    }
    count
}

/// What Redis has makes room for what is new, and is read from there.
#[test]
fn objects_that_redis_has_are_evicted_to_make_room() {
    for size in [3000, 40_000, 2_000_000] {
        let world = World::new(1);
        let open =
            || world.builder(0).max_size_mb(CAPACITY_MB_MIN).redis_options(|it| it.settle_ms = 20).open().unwrap();
        let store = open();
        // Until Redis takes what it is sent, nothing can be evicted.
        store.put(b"first", b"", b"").unwrap();
        world.until_announced("first");
        let count = put_more_than_fits(&store, size);
        let info = store.info();
        assert!(info.physical_bytes <= CAPACITY_BYTES, "{size} bytes each: {info:?}");
        assert!(info.objects < count, "{size} bytes each: {info:?}");
        for number in 0..count {
            assert!(get(&store, &id(number)).data == bytes(number, size), "object {number} of {size} bytes");
        }
        store.close().unwrap();
        let store = open();
        for number in (0..count).step_by(7) {
            assert!(get(&store, &id(number)).data == bytes(number, size), "object {number} of {size} bytes, reopened");
        }
        assert_eq!(store.info().damaged_objects, 0);
    }
}

/// Invariant 3.
#[test]
fn dirty_objects_are_never_evicted() {
    let mut world = World::new(2);
    let store = world.builder(0).max_size_mb(CAPACITY_MB_MIN).open().unwrap();
    world.redis.kill();
    let mut count = 0;
    let refused = loop {
        match store.put(&id(count), &bytes(count, 3000), b"") {
            Ok(()) => count += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::Full { .. }), "{refused}");
    assert!(count * 3000 > CAPACITY_BYTES / 2, "only {count} objects");
    for number in 0..count {
        assert!(get(&store, &id(number)).data == bytes(number, 3000), "object {number}");
    }
    assert!(store.delete(&id(0)).unwrap(), "deletes still work");
    world.redis.restart();
    let other = world.open(1);
    for number in 1..count {
        until("it is pushed", || other.get(&id(number)).is_ok_and(|object| object.is_some()));
    }
    until("there is room again", || store.put(b"more", &bytes(1, 100_000), b"").is_ok());
}
