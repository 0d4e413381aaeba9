//! A store that is full of what has expired takes puts, at once, though a delete of a tiny object needs as much room as the object did.

use std::time::Duration;

use scaler_object_storage::{Error, ObjectStore};

use crate::common::{bytes, until};

/// More than there is room for. Some may expire before the store is full.
const MOST: u64 = 150_000;

fn id(round: u8, number: u64, length: usize) -> Vec<u8> {
    let mut id = vec![b'.'; length];
    id[..8].copy_from_slice(&number.to_le_bytes());
    id[8] = round;
    id
}

/// Puts until the store is full; returns how many there was room for.
fn fill(store: &ObjectStore, round: u8, id_bytes: usize, length: usize) -> u64 {
    let put = |number| store.put(&id(round, number, id_bytes), &bytes(number, length), b"");
    (0..MOST).find(|number| matches!(put(*number), Err(Error::Full { .. }))).unwrap_or(MOST)
}

/// `next`: the length of what is put then, by `threads` threads.
fn takes_puts(id_bytes: usize, length: usize, threads: u64, next: usize) {
    let directory = tempfile::tempdir().unwrap();
    let builder = ObjectStore::builder().local(directory.path()).max_size_mb(16);
    let store = builder.clone().object_ttl(Duration::from_secs(5)).open().unwrap();
    let count = fill(&store, 0, id_bytes, length);
    store.close().unwrap();
    // Opened without lifetimes, nothing is deleted before somebody wants room.
    let store = builder.open().unwrap();
    until("the last is gone", || store.get(&id(0, count - 1, id_bytes)).unwrap().is_none());
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let store = &store;
            scope.spawn(move || {
                let put = store.put(&id(1, thread, id_bytes), &bytes(1 << 40 | thread, next), b"");
                assert!(put.is_ok(), "{count} objects have expired, and there is no room: {put:?}");
            });
        }
    });
    let again = fill(&store, 2, id_bytes, length);
    assert!(again > count / 3, "only {again} of {count} found room again");
    until("nothing expired counts", || store.info().objects == again + threads);
    assert_eq!(store.info().damaged_objects, 0);
}

#[test]
fn a_store_full_of_expired_empty_objects_takes_puts() {
    takes_puts(12, 0, 1, 10);
}

#[test]
fn a_store_full_of_expired_objects_with_long_ids_takes_puts() {
    takes_puts(512, 0, 4, 10);
}

#[test]
fn a_store_full_of_expired_small_objects_takes_large_puts() {
    takes_puts(12, 100, 4, 1 << 20);
}

/// The same in a store with lifetimes that is never closed.
#[test]
fn a_store_with_lifetimes_is_never_full_of_expired_empty_objects() {
    let directory = tempfile::tempdir().unwrap();
    let lifetime = Duration::from_secs(3);
    let store = ObjectStore::builder().local(directory.path()).max_size_mb(16).object_ttl(lifetime).open().unwrap();
    for round in 0..3 {
        let count = fill(&store, round, 12, 0);
        until("the last is gone", || store.get(&id(round, count - 1, 12)).unwrap().is_none());
        store.put(&id(9, round.into(), 12), b"", b"").unwrap();
    }
}
