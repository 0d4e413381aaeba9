//! Objects that are put, shared and deleted again at the moment when they expire.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use scaler_object_storage::{Durability, Error, ObjectStore, Underlying};

use crate::common::{bytes, splitmix, until};

const LIFETIME: Duration = Duration::from_secs(1);
const RUN: Duration = Duration::from_secs(4);
/// Of each thread: so few that most expire.
const IDS: u64 = 40;

/// Contents that all threads share, by number.
fn content(number: u64) -> Vec<u8> {
    bytes(number, [9, 900, 2000, 20_000, 70_000, 150_000][number as usize % 6])
}

/// One thread, whose ids are its alone: what it has put is there for as long as it lives, and what it has deleted is not.
fn work(store: &ObjectStore, thread: u64) {
    let contents: Vec<_> = (0..12).map(content).collect();
    let mut known: HashMap<u64, (usize, Instant)> = HashMap::new();
    let (mut random, end) = (thread, Instant::now() + RUN);
    let id = |number: u64| [thread.to_le_bytes(), number.to_le_bytes()].concat();
    while Instant::now() < end {
        let (number, other) = (splitmix(&mut random) % IDS, splitmix(&mut random) % IDS);
        let chosen = splitmix(&mut random) as usize % contents.len();
        let began = Instant::now();
        let must_live = |known: &HashMap<u64, (usize, Instant)>, number: u64| {
            known.get(&number).is_some_and(|(_, put)| put.elapsed() < LIFETIME)
        };
        match splitmix(&mut random) % 8 {
            0..=2 => match store.put(&id(number), &contents[chosen], b"m") {
                Ok(()) => drop(known.insert(number, (chosen, began))),
                Err(error) => assert!(matches!(error, Error::Full { .. }), "{error}"),
            },
            3 => {
                let existed = store.delete(&id(number)).unwrap();
                assert!(existed || !must_live(&known, number), "it was gone before its time");
                assert!(!existed || known.contains_key(&number), "it was there though it had been deleted");
                known.remove(&number);
            }
            4 if other != number => match store.duplicate(&id(number), &id(other)) {
                Ok(true) => drop(known.insert(other, (known[&number].0, began))),
                Ok(false) => assert!(!must_live(&known, number), "it was gone before its time"),
                Err(error) => assert!(matches!(error, Error::Full { .. }), "{error}"),
            },
            _ => match store.get(&id(number)).unwrap() {
                Some(found) => assert!(found.data == contents[known[&number].0], "other bytes"),
                None => assert!(!must_live(&known, number), "it is gone before its time"),
            },
        }
    }
}

fn many_threads(builder: scaler_object_storage::ObjectStoreBuilder) {
    let store = builder.object_ttl(LIFETIME).open().unwrap();
    std::thread::scope(|scope| {
        (0..4).for_each(|thread| {
            drop(scope.spawn({
                let store = &store;
                move || work(store, thread)
            }))
        })
    });
    until("nothing is left, and nothing counted", || {
        let info = store.info();
        (info.objects, info.payloads, info.payload_bytes) == (0, 0, 0)
    });
    match store.stats().unwrap().local {
        Some(_) => until("nothing takes room", || store.stats().unwrap().local.unwrap().live_bytes == 0),
        None => until("nothing takes room", || store.info().physical_bytes == 0),
    }
    assert_eq!(store.info().damaged_objects, 0);
}

#[test]
fn local_with_collisions() {
    let directory = tempfile::tempdir().unwrap();
    let under = Underlying { fingerprint_mask: 7, ..Underlying::default() };
    many_threads(ObjectStore::builder().local(directory.path()).max_size_mb(64).under(under));
}

#[test]
fn local_short_of_room_with_durability_disk() {
    let directory = tempfile::tempdir().unwrap();
    many_threads(ObjectStore::builder().local(directory.path()).max_size_mb(16).durability(Durability::Disk));
}

#[test]
fn in_memory() {
    many_threads(ObjectStore::builder().memory().max_size_mb(64));
}

/// What a close interrupts, the next open does.
#[test]
fn a_close_while_much_expires_leaves_the_rest_to_the_next_open() {
    let directory = tempfile::tempdir().unwrap();
    let lifetime = Duration::from_secs(3);
    let open = || ObjectStore::builder().local(directory.path()).max_size_mb(64).object_ttl(lifetime).open().unwrap();
    let store = open();
    (0..20_000_u64).for_each(|number| store.put(&number.to_le_bytes(), b"data", b"").unwrap());
    until("it has begun", || store.stats().unwrap().local.unwrap().expired > 0);
    store.close().unwrap();
    let store = open();
    until("the rest is deleted", || store.info().objects == 0);
    assert_eq!(store.info().damaged_objects, 0);
}
