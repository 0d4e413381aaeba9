//! What a process remembers is never older than what it would be told.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

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
