//! What a process remembers is never older than what it would be told.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use scaler_object_storage::{Keeper, KeeperOptions, ObjectState, ObjectStore};

use crate::common::redis::RedisServer;
use crate::common::{bytes, get, until};
use crate::place::{Place, signal, stop};

const SIZES: [usize; 3] = [10, 40_000, 1 << 20];

#[test]
fn what_is_remembered_is_answered_without_the_keeper_for_a_second_and_no_longer() {
    let place = Place::new();
    let store = place.attach();
    let keeper = place.keeper().unwrap();
    for size in SIZES {
        store.put(b"id", &bytes(1, size), b"metadata").unwrap();
        // A machine that is busy may take longer than the second.
        until("a stopped keeper's object is remembered", || {
            get(&store, b"id");
            let begun = Instant::now();
            stop(keeper);
            let found = store.get(b"id");
            let took = begun.elapsed();
            signal(keeper, libc::SIGCONT);
            found.is_ok_and(|found| found.unwrap().data == bytes(1, size)) && took < Duration::from_millis(500)
        });
    }
    stop(keeper);
    std::thread::sleep(Duration::from_millis(1500));
    let late = store.get(b"id");
    signal(keeper, libc::SIGCONT);
    assert!(late.unwrap_err().to_string().contains("does not answer"));
}

/// One process writes ascending numbers, the other must never go back behind what the first has had acknowledged.
#[test]
fn a_get_sees_what_another_process_has_had_acknowledged_16() {
    let place = Place::new();
    let (writer, reader) = (place.attach(), place.attach());
    for size in SIZES {
        let content = |number: u64| {
            let mut data = vec![7; size];
            data[..8].copy_from_slice(&number.to_le_bytes());
            data
        };
        writer.put(b"id", &content(0), b"").unwrap();
        let (acknowledged, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 1..400_u64 {
                    if number % 10 == 0 {
                        writer.delete(b"id").unwrap();
                    }
                    writer.put(b"id", &content(number), b"").unwrap();
                    acknowledged.store(number, Ordering::SeqCst);
                    if number % 7 == 0 {
                        std::thread::sleep(Duration::from_micros(200)); // so that it comes to be remembered
                    }
                }
                is_over.store(true, Ordering::SeqCst);
            });
            while !is_over.load(Ordering::SeqCst) {
                let known = acknowledged.load(Ordering::SeqCst);
                if let Some(found) = reader.get(b"id").unwrap() {
                    let number = u64::from_le_bytes(found.data[..8].try_into().unwrap());
                    assert!(number >= known, "{number} after {known} was acknowledged");
                    assert!(found.data[8..].iter().all(|byte| *byte == 7));
                }
            }
        });
        writer.delete(b"id").unwrap();
        assert_eq!(reader.get(b"id").unwrap(), None);
    }
}

#[test]
fn what_was_remembered_of_a_killed_keeper_is_asked_for_again() {
    let place = Place::new();
    let (first, second) = (place.attach(), place.attach());
    for round in 0..5_u64 {
        for size in SIZES {
            let id = size.to_le_bytes();
            first.put(&id, &bytes(round, size), b"").unwrap();
            assert!(get(&second, &id).data == bytes(round, size));
            get(&second, &id);
        }
        place.kill_keeper();
        for size in SIZES {
            let id = size.to_le_bytes();
            // The first one has found the next keeper by now.
            until("it is written", || first.put(&id, &bytes(100 + round, size), b"").is_ok());
            assert!(get(&second, &id).data == bytes(100 + round, size), "an object of a keeper that is gone");
        }
    }
}

#[test]
fn what_is_only_remembered_takes_no_room_from_others_14() {
    let place = Place::new();
    let (writer, reader) = (place.attach(), place.attach());
    // More than half of what the store takes, of which the reader remembers each when it is deleted.
    let ids = |round: u8| (0..140_u8).map(move |number| [round, number]);
    let content = |id: [u8; 2]| bytes(u64::from(id[0]) * 256 + u64::from(id[1]), 1 << 20);
    for round in 0..4 {
        ids(round).for_each(|id| writer.put(&id, &content(id), b"").unwrap());
        ids(round).for_each(|id| assert!(get(&reader, &id).data == content(id)));
        ids(round).for_each(|id| assert!(writer.delete(&id).unwrap()));
    }
    ids(9).for_each(|id| writer.put(&id, &content(id), b"").unwrap());
    assert!(ids(0).all(|id| reader.get(&id).unwrap().is_none()));
}

/// What is remembered counts as read each time it has been moved, so the others, which nobody reads, are evicted before it.
#[test]
fn what_is_read_only_from_memory_is_not_evicted_as_unread() {
    let (redis, place) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let builder = || {
        let builder = ObjectStore::builder().tiered(place.path().join("kept"), redis.url()).max_size_mb(16);
        builder.redis_options(|options| options.settle_ms = 50)
    };
    let kept = builder().open().unwrap();
    let keeper = Keeper::listen(&kept, builder().config(), KeeperOptions::default()).unwrap();
    let (reader, writer) = (builder().attach().unwrap(), builder().attach().unwrap());
    let ids = [b"10".as_slice(), b"40000", b"200000"];
    for id in ids {
        let size = std::str::from_utf8(id).unwrap().parse().unwrap();
        writer.put(id, &bytes(1, size), b"").unwrap();
    }
    // Redis is not asked, so that what is evicted stays away.
    let read_all = || ids.iter().for_each(|id| assert!(reader.get_here(id).unwrap().is_some(), "{id:?} is evicted"));
    // Nearly twice what the store may have.
    for number in 0..20_u64 {
        read_all();
        writer.put(&number.to_le_bytes(), &bytes(number, 1 << 20), b"").unwrap();
        // Where somebody waits for room, what is read may go as well: so the next put comes when there is some again.
        until("there is room", || {
            read_all();
            let (info, written) = (kept.info(), kept.describe(&number.to_le_bytes(), false).unwrap());
            info.payload_bytes < info.capacity_bytes / 100 * 70 && written.unwrap().state == ObjectState::Clean
        });
    }
    read_all();
    assert_eq!(kept.get_here(&0_u64.to_le_bytes()).unwrap(), None, "nothing was evicted");
    drop((reader, writer));
    keeper.close();
}

// Invariants 4 and 5, across nodes.
#[test]
fn what_another_node_does_is_seen_in_spite_of_what_is_remembered() {
    let (redis, place) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let builder = |name| ObjectStore::builder().tiered(place.path().join(name), redis.url()).max_size_mb(64);
    let (kept, other) = (builder("kept").open().unwrap(), builder("other").open().unwrap());
    let keeper = Keeper::listen(&kept, builder("kept").config(), KeeperOptions::default()).unwrap();
    let reader = builder("kept").attach().unwrap();
    for number in 0..60_u64 {
        let data = bytes(number, SIZES[number as usize % 3]);
        match number % 4 {
            0 => reader.put(b"id", &data, b"").unwrap(),
            _ => other.put(b"id", &data, b"").unwrap(),
        }
        // Which of two writes is the newer one is certain only where the later writer knows of the earlier one.
        until("the other node has it", || other.get(b"id").unwrap().is_some_and(|object| object.data == data));
        until("the newest is read", || reader.get(b"id").unwrap().is_some_and(|object| object.data == data));
        // It is remembered from here on.
        (0..3).for_each(|_| assert!(get(&reader, b"id").data == data));
        if number % 5 == 0 {
            // Lost events: everything is checked.
            let _: u64 = redis.command(&["XTRIM", "scaler:obj:_events", "MAXLEN", "0"]);
        }
        if number % 7 == 0 {
            assert!(other.delete(b"id").unwrap());
            until("the delete is seen", || reader.get(b"id").unwrap().is_none());
        }
    }
    drop(reader);
    keeper.close();
}

// Invariant 5, of what the node could not keep.
#[test]
fn what_found_no_room_on_the_node_is_not_remembered_5() {
    let (redis, place) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let builder = |name: &str| ObjectStore::builder().tiered(place.path().join(name), redis.url()).max_size_mb(16);
    let other = builder("other").open().unwrap();
    other.put(b"id", &bytes(9, 60_000), b"").unwrap();
    until("Redis has it", || redis.cli(&["EXISTS", "scaler:obj:6964"]).trim() == "1");
    let kept = builder("kept").open().unwrap();
    let keeper = Keeper::listen(&kept, builder("kept").config(), KeeperOptions::default()).unwrap();
    let store = builder("kept").attach().unwrap();
    // Redis answers and takes nothing, so that what fills the node stays dirty there.
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let count =
        (0..).find(|number: &u64| store.put(&number.to_le_bytes(), &bytes(*number, 30_000), b"").is_err()).unwrap();
    for _ in 0..3 {
        assert!(get(&store, b"id").data == bytes(9, 60_000));
        assert_eq!(kept.get_here(b"id").unwrap(), None, "it found room beside {count} objects");
    }

    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    other.delete(b"id").unwrap();
    until("it is gone for the keeper", || kept.get(b"id").unwrap().is_none());

    assert!(store.get(b"id").unwrap().is_none(), "a deleted object is remembered");
    drop(store);
    keeper.close();
}
