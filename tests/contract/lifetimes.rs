//! Objects that live for a time.

use std::time::{Duration, Instant};

use scaler_object_storage::{Error, ObjectStore, ObjectStoreBuilder, Waited};

use crate::common::{CAPACITY_MB_MIN, Fixture, bytes, get, much_later, until};

const LIFETIME: Duration = Duration::from_secs(1);

contract!(an_object_lives_its_time_and_is_gone_then, who_waits_for_what_has_expired_gets_the_next);

/// With the others, Redis lets go what has expired, or eviction does where room is wanted.
mod bounded {
    use super::*;

    bounded_contract!(what_has_expired_gives_its_room_back, what_has_expired_gives_way_at_once);
}

fn living(fixture: &Fixture, change: impl FnOnce(ObjectStoreBuilder) -> ObjectStoreBuilder) -> ObjectStore {
    fixture.open_built(change(fixture.builder().object_ttl(LIFETIME)))
}

fn an_object_lives_its_time_and_is_gone_then(fixture: &Fixture) {
    let store = living(fixture, |builder| builder);
    let begun = Instant::now();
    for (id, length) in [(&b"small"[..], 5), (b"large", 200_000)] {
        store.put(id, &bytes(7, length), b"metadata").unwrap();
    }
    let mut writer = store.writer(b"streamed", 100_000, b"").unwrap();
    writer.write(&bytes(2, 100_000)).unwrap();
    writer.commit().unwrap();
    assert!(store.duplicate(b"large", b"copy").unwrap());
    let ids = [&b"small"[..], b"large", b"streamed", b"copy"];
    for id in ids {
        until("it is gone", || store.get(id).unwrap().is_none());
        assert!(begun.elapsed() >= LIFETIME, "{} is gone after {:?}", id.escape_ascii(), begun.elapsed());
    }
    for id in ids {
        assert!(!store.contains(id).unwrap() && store.describe(id, true).unwrap().is_none());
        assert!(!store.duplicate(id, b"another copy").unwrap());
        assert!(!store.delete(id).unwrap(), "{} is deleted though it is gone", id.escape_ascii());
    }
    assert_eq!(store.objects().count(), 0);
}

fn who_waits_for_what_has_expired_gets_the_next(fixture: &Fixture) {
    let store = living(fixture, |builder| builder);
    store.put(b"id", b"first", b"").unwrap();
    until("it is gone", || store.get(b"id").unwrap().is_none());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| store.wait(b"id", much_later(), None).unwrap());
        until("it waits", || store.stats().unwrap().waits.requests == 1);
        store.put(b"id", b"second", b"").unwrap();
        assert!(matches!(waiting.join().unwrap(), Waited::Object(object) if object.data == "second"));
    });
}

fn id_of(seed: u64, number: u64) -> [u8; 8] {
    (seed + number).to_le_bytes()
}

/// Puts different objects until the store is full, or until some have expired meanwhile; returns how many it took.
fn fill(store: &ObjectStore, seed: u64, length: usize) -> u64 {
    let most = ((2 * CAPACITY_MB_MIN) << 20) / length as u64;
    for number in 0..most {
        if let Err(error) = store.put(&id_of(seed, number), &bytes(seed + number, length), b"") {
            assert!(matches!(error, Error::Full { .. }), "{error}");
            return number;
        }
    }
    most
}

fn what_has_expired_gives_its_room_back(fixture: &Fixture) {
    let store = living(fixture, |builder| builder.max_size_mb(CAPACITY_MB_MIN));
    store.put(b"inline", b"12345", b"").unwrap();
    (0..40_u64).for_each(|number| store.put(&number.to_le_bytes(), &bytes(number, 100_000), b"").unwrap());
    until("nothing is left, and nothing counted", || {
        let info = store.info();
        (info.objects, info.payloads, info.payload_bytes) == (0, 0, 0)
    });
    if store.info().backend != "memory" {
        let local = || store.stats().unwrap().local.unwrap();
        until("nothing takes room, and all are counted", || (local().live_bytes, local().expired) == (0, 41));
    }
}

/// A store is not full of what nobody can read any more, at no moment.
fn what_has_expired_gives_way_at_once(fixture: &Fixture) {
    let store = living(fixture, |builder| builder.max_size_mb(CAPACITY_MB_MIN));
    for (round, length) in [3000, 60_000, 1 << 20, 3000].into_iter().enumerate() {
        let seed = (round as u64) << 32;
        let count = fill(&store, seed, length);
        assert!(count > 0, "no room for anything of {length} bytes though all has expired");
        until("the last one is gone", || store.get(&id_of(seed, count - 1)).unwrap().is_none());
    }
    store.put(b"id", b"data", b"").unwrap();
    assert_eq!(get(&store, b"id").data, "data");
}
