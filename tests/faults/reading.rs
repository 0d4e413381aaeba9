//! A disk that cannot read, for a while, what an earlier process wrote.

use scaler_object_storage::{Durability, Error};

use crate::disk::{Call, Fault};
use crate::world::World;

// Invariant 13.
#[test]
fn what_cannot_be_read_is_an_error_and_comes_back_unharmed() {
    for length in [100, 5000, 100_000] {
        let mut world = World::new(Durability::Process);
        for number in 0..10 {
            world.put(&[number], (u64::from(number), length)).unwrap();
        }
        world.reopen_unread();
        world.disk.set(|attempt| (attempt.call == Call::Read).then_some(Fault::Refused(libc::EIO)));
        for _ in 0..2 {
            let error = world.store.get(&[3]).unwrap_err();
            assert!(matches!(error, Error::Io { action: "read", .. }), "{error}");
        }
        assert_eq!(world.store.info().damaged_objects, 0);
        assert_eq!(world.store.info().objects, 10);
        world.disk.heal();
        world.check();
        world.check_killed();
        world.reopen();
    }
}

// Invariants 1 and 14: overwrites and deletes work meanwhile, and last.
#[test]
fn what_could_not_be_read_does_not_come_back_after_a_delete() {
    for length in [100, 100_000] {
        for overwritten in [false, true] {
            let mut world = World::new(Durability::Process);
            world.put(b"id", (1, length)).unwrap();
            world.put(b"other", (2, length)).unwrap();
            world.reopen_unread();
            world.disk.set(|attempt| (attempt.call == Call::Read).then_some(Fault::Refused(libc::EIO)));
            world.store.get(b"id").unwrap_err();
            if overwritten {
                world.put(b"id", (3, length)).unwrap();
            } else {
                assert!(world.delete(b"id").unwrap());
            }
            world.disk.heal();
            world.check();
            world.check_killed();
            world.reopen();
        }
    }
}
