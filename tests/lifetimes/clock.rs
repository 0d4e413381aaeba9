//! Wall clocks that are set, and lifetimes.

use std::time::Duration;

use scaler_object_storage::ObjectStore;

use crate::wall::Wall;

/// README: where the clock is set while the store is open, objects live longer, never shorter.
#[test]
fn what_is_stored_right_after_the_clock_was_set_ahead_outlives_a_reopen() {
    let wall = Wall::take();
    let directory = tempfile::tempdir().unwrap();
    let open = || {
        ObjectStore::builder()
            .local(directory.path())
            .max_size_mb(16)
            .object_ttl(Duration::from_secs(1800))
            .open()
            .unwrap()
    };
    let store = open();
    wall.set(3600); // and it stays so
    store.put(b"id", b"data", b"").unwrap();
    assert!(store.get(b"id").unwrap().is_some());
    store.close().unwrap();
    let store = open();
    assert!(store.get(b"id").unwrap().is_some(), "it has lived for a moment of its half hour");
}

/// Before 1970.
#[test]
fn a_clock_before_1970_shortens_nothing_and_ends_what_is_over() {
    let wall = Wall::take();
    wall.set(-100 * crate::YEAR);
    let directory = tempfile::tempdir().unwrap();
    for builder in [ObjectStore::builder().memory(), ObjectStore::builder().local(directory.path()).max_size_mb(16)] {
        let store = builder.object_ttl(Duration::from_secs(2)).open().unwrap();
        let begun = std::time::Instant::now();
        store.put(b"id", b"data", b"").unwrap();
        assert!(store.get(b"id").unwrap().is_some());
        crate::common::until("it is gone", || store.get(b"id").unwrap().is_none());
        assert!(begun.elapsed() >= Duration::from_secs(2));
        crate::common::until("it is deleted", || store.info().objects == 0);
    }
}

/// A machine that starts with a clock far behind and has it put right a moment later.
#[test]
fn what_is_stored_after_the_clock_was_put_right_does_not_stay_for_a_day() {
    let wall = Wall::take();
    wall.set(-crate::YEAR);
    let directory = tempfile::tempdir().unwrap();
    let store = ObjectStore::builder()
        .local(directory.path())
        .max_size_mb(16)
        .object_ttl(Duration::from_secs(2))
        .open()
        .unwrap();
    wall.set(0);
    // Until the clock is read again.
    crate::common::until("a deadline is right", || {
        std::thread::sleep(Duration::from_millis(200));
        store.put(b"id", b"data", b"").unwrap();
        store.describe(b"id", false).unwrap().unwrap().expires_ms.unwrap() > crate::now_ms()
    });
    crate::common::until("it is gone", || store.get(b"id").unwrap().is_none());
}

/// A part of a second is no eternity, and never shortens a lifetime.
#[test]
fn a_lifetime_below_a_second_is_not_for_ever() {
    let store = ObjectStore::builder().memory().object_ttl(Duration::from_millis(500)).open().unwrap();
    store.put(b"id", b"data", b"").unwrap();
    assert!(store.describe(b"id", false).unwrap().unwrap().expires_ms.is_some(), "it lives for ever");
    let store = ObjectStore::builder().memory().object_ttl(Duration::from_millis(1900)).open().unwrap();
    let begun = std::time::Instant::now();
    store.put(b"id", b"data", b"").unwrap();
    crate::common::until("it is gone", || store.get(b"id").unwrap().is_none());
    assert!(begun.elapsed() >= Duration::from_millis(1900), "{:?}", begun.elapsed());
}
