//! A disk that cannot read what an earlier process wrote.

use scaler_object_storage::Durability;

use crate::disk::{Call, Fault};
use crate::world::World;

// Invariant 7.
#[test]
fn what_the_disk_cannot_read_is_a_miss_and_counted_and_the_rest_is_served() {
    for length in [100, 5000, 100_000] {
        let mut world = World::new(Durability::Process);
        for number in 0..10 {
            world.put(&[number], (u64::from(number), length)).unwrap();
        }
        world.reopen_unread();
        let mut failed = false;
        world.disk.set(move |attempt| {
            let fails = attempt.call == Call::Read && !std::mem::replace(&mut failed, true);
            fails.then_some(Fault::Refused(libc::EIO))
        });
        assert_eq!(world.store.get(&[3]).unwrap(), None);
        assert_eq!(world.store.info().damaged_objects, 1);
        assert_eq!(world.store.info().objects, 9);
        world.model.forget(&[3]);
        world.check();
        world.put(&[3], (3, length)).unwrap();
        world.check_killed();
        world.reopen();
    }
}

// Invariant 1: the delete is acknowledged, whatever could be read when.
#[test]
fn what_could_not_be_read_does_not_come_back_after_a_delete() {
    for length in [100, 100_000] {
        let mut world = World::new(Durability::Process);
        world.put(b"id", (1, length)).unwrap();
        world.reopen_unread();
        world.disk.set(|attempt| (attempt.call == Call::Read).then_some(Fault::Refused(libc::EIO)));
        assert_eq!(world.store.get(b"id").unwrap(), None);
        world.disk.heal();
        world.put(b"id", (2, length)).unwrap();
        world.delete(b"id").unwrap();
        world.check_killed();
        world.reopen();
    }
}
