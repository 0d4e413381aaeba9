//! Close, drop and open again.

use std::thread;

use scaler_object_storage::{Error, ObjectStore};

use crate::common::{Fixture, SIZES, bytes, get, object, persists};

contract!(
    a_closed_store_refuses_every_operation,
    closing_twice_is_fine,
    closing_one_handle_closes_all,
    bytes_handed_out_outlive_the_store,
    bytes_handed_out_outlive_what_a_later_store_writes,
    close_waits_for_no_one_and_nothing_panics,
    a_store_can_be_opened_again_after_close,
    a_store_can_be_opened_again_after_its_last_handle_is_dropped,
    flush_works_on_an_open_store,
);

fn a_closed_store_refuses_every_operation(fixture: &Fixture) {
    fn closed<T>(result: Result<T, Error>) {
        assert!(matches!(result, Err(Error::Closed)));
    }
    let store = fixture.open();
    store.put(b"id", b"data", b"").unwrap();

    store.close().unwrap();

    closed(store.put(b"id", b"data", b""));
    closed(store.writer(b"id", 4, b""));
    closed(store.get(b"id"));
    closed(store.contains(b"id"));
    closed(store.delete(b"id"));
    closed(store.duplicate(b"id", b"new"));
    closed(store.duplicate(b"id", b"id"));
    closed(store.wait(b"id", None, None));
    closed(store.get_or_park(b"missing", |_| ()));
    closed(store.duplicate_or_park(b"missing", b"new", |_| ()));
    closed(store.flush());
    closed(store.clear());
    assert_eq!(store.info().waiting_requests, 0);
}

fn closing_twice_is_fine(fixture: &Fixture) {
    let store = fixture.open();
    store.close().unwrap();
    store.close().unwrap();
}

fn closing_one_handle_closes_all(fixture: &Fixture) {
    let store = fixture.open();
    let other = store.clone();

    other.close().unwrap();

    assert!(matches!(store.get(b"id"), Err(Error::Closed)));
    store.close().unwrap();
}

fn bytes_handed_out_outlive_the_store(fixture: &Fixture) {
    let store = fixture.open();
    let held: Vec<_> = SIZES
        .iter()
        .map(|&size| {
            store.put(b"id", &bytes(size as u64, size), b"metadata").unwrap();
            get(&store, b"id")
        })
        .collect();

    store.close().unwrap();
    drop(store);

    for (held, &size) in held.iter().zip(SIZES) {
        assert!(*held == object(&bytes(size as u64, size), b"metadata"), "held data of {size} bytes");
    }
}

/// A store opened later in the directory cannot know who holds bytes of the earlier one.
fn bytes_handed_out_outlive_what_a_later_store_writes(fixture: &Fixture) {
    for deleted in [false, true] {
        let store = fixture.open();
        let held: Vec<_> = SIZES
            .iter()
            .map(|&size| {
                store.put(b"id", &bytes(size as u64, size), b"metadata").unwrap();
                get(&store, b"id")
            })
            .collect();
        if deleted {
            store.delete(b"id").unwrap();
        }
        drop(store);

        let store = fixture.open();
        for (number, &size) in SIZES.iter().chain(SIZES).enumerate() {
            store.put(&number.to_le_bytes(), &bytes(1000 + number as u64, size), b"").unwrap();
        }

        for (held, &size) in held.iter().zip(SIZES) {
            assert!(*held == object(&bytes(size as u64, size), b"metadata"), "held data of {size} bytes");
        }
    }
}

fn close_waits_for_no_one_and_nothing_panics(fixture: &Fixture) {
    for _ in 0..10 {
        let store = fixture.open();
        thread::scope(|scope| {
            for writer in 0..3_u64 {
                let store = &store;
                scope.spawn(move || {
                    for number in 0.. {
                        let id = [writer.to_le_bytes(), u64::to_le_bytes(number)].concat();
                        let acknowledged = store.put(&id, &bytes(number, 3000), b"").and_then(|()| {
                            store.duplicate(&id, b"shared")?;
                            store.get(&id)?;
                            store.delete(&id)
                        });
                        match acknowledged {
                            Ok(existed) => assert!(existed),
                            Err(Error::Closed) => return,
                            Err(error) => panic!("{error}"),
                        }
                    }
                });
            }
            let waiter = scope.spawn(|| store.wait(b"never", None, None));
            while !store.contains(b"shared").unwrap() {
                thread::yield_now();
            }
            store.close().unwrap();
            assert!(matches!(waiter.join().unwrap(), Err(Error::Closed)));
        });
    }
}

fn a_store_can_be_opened_again_after_close(fixture: &Fixture) {
    reopens(fixture, |store| store.close().unwrap());
}

fn a_store_can_be_opened_again_after_its_last_handle_is_dropped(fixture: &Fixture) {
    reopens(fixture, drop);
}

fn reopens(fixture: &Fixture, end: impl Fn(ObjectStore)) {
    let store = fixture.open();
    for &size in SIZES {
        store.put(size.to_string().as_bytes(), &bytes(size as u64, size), b"metadata").unwrap();
    }
    store.put(b"deleted", b"data", b"").unwrap();
    store.delete(b"deleted").unwrap();
    store.duplicate(b"1024", b"duplicate").unwrap();
    let before = store.info();
    let keeps = persists(&store);
    end(store);

    for _ in 0..3 {
        let store = fixture.open();
        if keeps {
            for &size in SIZES {
                let got = get(&store, size.to_string().as_bytes());
                assert!(got == object(&bytes(size as u64, size), b"metadata"), "data of {size} bytes");
            }
            assert!(get(&store, b"duplicate") == object(&bytes(1024, 1024), b"metadata"));
            let info = store.info();
            assert_eq!(
                (info.objects, info.payloads, info.payload_bytes),
                (before.objects, before.payloads, before.payload_bytes)
            );
        } else {
            assert_eq!(store.info().objects, 0);
        }
        assert_eq!(store.get(b"deleted").unwrap(), None);
        end(store);
    }
}

fn flush_works_on_an_open_store(fixture: &Fixture) {
    let store = fixture.open();
    store.flush().unwrap();
    store.put(b"id", b"data", b"").unwrap();
    store.flush().unwrap();
    assert_eq!(get(&store, b"id"), object(b"data", b""));
}
