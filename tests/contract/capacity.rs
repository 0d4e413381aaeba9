//! A full store refuses in clear words, loses nothing, and recovers.

use scaler_object_storage::{Error, ObjectStore};

use crate::common::{CAPACITY_MB_MIN, Fixture, bytes, get};

bounded_contract!(
    a_full_store_refuses_and_keeps_what_it_has,
    a_full_store_refuses_streamed_objects,
    deletes_make_room_again_and_again,
    overwrites_of_one_object_do_not_fill_the_store,
    dropped_writers_give_their_room_back,
    shared_bytes_are_paid_for_once,
    an_announced_length_takes_no_room,
    an_object_larger_than_the_store_is_refused,
    empty_objects_cannot_take_more_than_the_capacity,
);

const CAPACITY_BYTES: u64 = CAPACITY_MB_MIN << 20;

/// Puts different objects of `size` bytes until the store is full; returns how many it took.
fn fill(store: &ObjectStore, size: usize) -> u64 {
    for number in 0.. {
        match store.put(&number_id(number), &bytes(number, size), b"") {
            Ok(()) => assert!(number * (size as u64) < CAPACITY_BYTES, "more than the capacity was taken"),
            Err(error) => {
                assert_full(&error);
                return number;
            }
        }
    }
    unreachable!()
}

fn number_id(number: u64) -> [u8; 8] {
    number.to_le_bytes()
}

#[track_caller]
fn assert_full(error: &Error) {
    assert!(matches!(error, Error::Full { capacity_bytes, .. } if *capacity_bytes == CAPACITY_BYTES), "{error}");
}

fn a_full_store_refuses_and_keeps_what_it_has(fixture: &Fixture) {
    for size in [3000, 60_000, 1 << 20] {
        let store = fixture.open_smallest();
        store.clear().unwrap();
        let count = fill(&store, size);
        assert!(count * size as u64 >= CAPACITY_BYTES / 2, "only {count} objects of {size} bytes found room");

        assert_full(&store.put(&number_id(0), &bytes(1 << 40, size), b"").unwrap_err());

        assert_eq!(store.info().objects, count);
        for number in 0..count {
            assert!(get(&store, &number_id(number)).data == bytes(number, size), "object {number} of {size} bytes");
        }
    }
}

fn a_full_store_refuses_streamed_objects(fixture: &Fixture) {
    let store = fixture.open_smallest();
    let count = fill(&store, 1 << 20);

    let streamed = || {
        let data = bytes(1 << 40, 1 << 20);
        let mut writer = store.writer(b"streamed", data.len() as u64, b"")?;
        data.chunks(65_536).try_for_each(|piece| writer.write(piece))?;
        writer.commit()
    };

    assert_full(&streamed().unwrap_err());
    assert_eq!(store.get(b"streamed").unwrap(), None);
    assert_eq!(store.info().objects, count);
    for number in 0..4 {
        assert!(store.delete(&number_id(number)).unwrap());
    }
    streamed().unwrap();
    assert!(get(&store, b"streamed").data == bytes(1 << 40, 1 << 20));
}

fn deletes_make_room_again_and_again(fixture: &Fixture) {
    for size in [3000, 60_000, 1 << 20] {
        let store = fixture.open_smallest();
        store.clear().unwrap();
        let count = fill(&store, size);
        let mut evens: Vec<u64> = (0..count).step_by(2).collect();
        for round in 1..=5_u64 {
            for number in &evens {
                assert!(store.delete(&number_id(*number)).unwrap());
            }
            // Less than was deleted: space comes back in larger pieces than objects.
            evens.truncate(evens.len() * 8 / 10);
            for &number in &evens {
                store.put(&number_id(number), &bytes(round << 32 | number, size), b"").unwrap_or_else(|error| {
                    panic!("round {round}, object {number} of {count} of {size} bytes: {error}");
                });
            }
            for &number in &evens {
                assert!(get(&store, &number_id(number)).data == bytes(round << 32 | number, size));
            }
            for number in (1..count).step_by(2) {
                assert!(get(&store, &number_id(number)).data == bytes(number, size));
            }
        }
    }
}

fn overwrites_of_one_object_do_not_fill_the_store(fixture: &Fixture) {
    let store = fixture.open_smallest();
    for size in [3000_usize, 60_000, 2 << 20] {
        let rounds = 5 * CAPACITY_BYTES / size as u64;
        for round in 0..rounds {
            store.put(b"id", &bytes(round, size), b"").unwrap();
        }
        assert!(get(&store, b"id").data == bytes(rounds - 1, size));
    }
}

fn dropped_writers_give_their_room_back(fixture: &Fixture) {
    let store = fixture.open_smallest();
    for _ in 0..30 {
        let mut writer = store.writer(b"id", 4 << 20, b"").unwrap();
        for piece in 0..3 {
            writer.write(&bytes(piece, 1 << 20)).unwrap();
        }
    }
    store.put(b"id", &bytes(1, 4 << 20), b"").unwrap();
}

fn shared_bytes_are_paid_for_once(fixture: &Fixture) {
    let store = fixture.open_smallest();
    let data = bytes(1, 4 << 20);

    store.put(b"original", &data, b"").unwrap();
    for number in 0..20_u64 {
        assert!(store.duplicate(b"original", &number_id(number)).unwrap());
        store.put(&number_id(1000 + number), &data, b"").unwrap();
    }

    assert_eq!(store.info().objects, 41);
    assert!(get(&store, &number_id(1019)).data == data);
}

fn an_announced_length_takes_no_room(fixture: &Fixture) {
    let store = fixture.open_smallest();

    let writers: Vec<_> = (0..20).map(|id| store.writer(&number_id(id), 8 << 20, b"").unwrap()).collect();

    store.put(b"id", &bytes(1, 8 << 20), b"").unwrap();
    drop(writers);
}

fn an_object_larger_than_the_store_is_refused(fixture: &Fixture) {
    let store = fixture.open_smallest();
    store.put(b"id", b"before", b"").unwrap();
    let data = bytes(1, CAPACITY_BYTES as usize + 1);

    let put = store.put(b"id", &data, b"").unwrap_err();
    let streamed = store.writer(b"id", 1 << 50, b"").map(drop).unwrap_err();

    for error in [put, streamed] {
        assert!(matches!(error, Error::TooLarge { bytes_max, .. } if bytes_max <= CAPACITY_BYTES), "{error}");
    }
    assert_eq!(get(&store, b"id").data, b"before"[..]);
}

fn empty_objects_cannot_take_more_than_the_capacity(fixture: &Fixture) {
    let store = fixture.open_smallest();

    let taken = (0..2_000_000_u64).take_while(|number| store.put(&number_id(*number), b"", b"").is_ok()).count();

    assert!(taken < 2_000_000, "two million empty objects in {CAPACITY_MB_MIN} MiB");
    assert_eq!(store.info().objects, taken as u64);
    let physical_bytes = store.info().physical_bytes;
    assert!(physical_bytes <= CAPACITY_BYTES, "{physical_bytes} bytes with {taken} objects");
}
