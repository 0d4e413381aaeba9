//! Upkeep that comes to a sudden end.

use scaler_object_storage::{Durability, Error};

use crate::common::until;
use crate::disk::Call;
use crate::world::World;

// Invariant 13: a store that only seems to work would fill up, and say nothing.
#[test]
fn a_sealer_that_has_died_is_noticed_and_writes_are_refused() {
    let mut world = World::new(Durability::Process);
    world.put(b"earlier", (1, 5000)).unwrap();
    let store = world.store.clone();
    world.disk.set(|attempt| {
        let is_sealing = std::thread::current().name() == Some("sealer");
        assert!(
            !(is_sealing && matches!(attempt.call, Call::Write | Call::Create | Call::Sync)),
            "an error of the sealer"
        );
        None
    });
    let mut number = 0;
    let error = loop {
        number += 1;
        assert!(number < 100_000, "never noticed");
        if let Err(error) = store.put(b"other", &[number as u8; 3000], b"") {
            break error;
        }
    };
    assert!(matches!(error, Error::WritesRefused { .. }), "{error}");
    assert!(error.to_string().contains("sealer"), "{error}");
    until("reads go on", || store.get(b"earlier").unwrap().is_some());
    world.disk.heal();
    // It says that not all could be made durable.
    store.close().unwrap_err();
    world.try_reopen().unwrap();
    assert!(world.store.get(b"earlier").unwrap().is_some());
    world.put(b"after", (2, 5000)).unwrap();
}
