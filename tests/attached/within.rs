//! A keeper within a process that has the store open for other purposes as well.

use scaler_object_storage::{Error, Keeper, KeeperOptions};

use crate::common::{bytes, get};
use crate::place::Place;

#[test]
fn what_is_held_stays_as_it_is_when_the_keeper_ends_and_its_store_does_not() {
    let place = Place::new();
    let builder = place.builder().max_size_mb(32);
    let store = builder.clone().open().unwrap();
    let keeper = Keeper::listen(&store, builder.config(), KeeperOptions::default()).unwrap();
    let attached = builder.clone().attach().unwrap();
    let mut held = Vec::new();
    for number in 0..10 {
        store.put(b"id", &bytes(number, 100_000), b"").unwrap();
        held.push(get(&attached, b"id").data);
    }
    store.delete(b"id").unwrap();

    keeper.close();

    for _ in 0..2 {
        let full =
            (0..).find_map(|number: u64| store.put(&number.to_be_bytes(), &bytes(99 + number, 100_000), b"").err());
        assert!(matches!(full, Some(Error::Full { .. })), "{full:?}");
        store.clear().unwrap();
    }
    for (number, held) in held.iter().enumerate() {
        assert!(*held == bytes(number as u64, 100_000), "{number} has changed");
    }
    store.close().unwrap();
    assert!(held.iter().enumerate().all(|(number, held)| *held == bytes(number as u64, 100_000)));
}
