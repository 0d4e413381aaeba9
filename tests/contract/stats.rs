//! What a store shows of itself.

use scaler_object_storage::{HealthState, Stats};

use crate::common::{Fixture, bytes, get, until};

contract!(what_is_asked_of_a_store_is_counted, who_waits_is_seen, a_closed_store_has_no_numbers);

fn what_is_asked_of_a_store_is_counted(fixture: &Fixture) {
    let store = fixture.open();
    assert_eq!(store.stats().unwrap().operations, Default::default());
    let held: Vec<_> = (0..100).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
    store.put(b"small", b"12345", b"metadata").unwrap();
    store.put(b"large", &bytes(1, 200_000), b"").unwrap();
    let mut writer = store.writer(b"streamed", 100_000, b"").unwrap();
    writer.write(&bytes(2, 100_000)).unwrap();
    writer.commit().unwrap();
    // An attached process remembers what it has read, so each is read once.
    assert_eq!(get(&store, b"small").data.len() + get(&store, b"large").data.len(), 200_005);
    assert!(store.get(b"nothing").unwrap().is_none() && store.get_here(b"nothing either").unwrap().is_none());
    assert!(store.duplicate(b"small", b"copy").unwrap());
    assert!(!store.duplicate(b"nothing", b"copy").unwrap());
    store.delete(b"small").unwrap();
    store.delete(b"nothing").unwrap();

    let stats = store.stats().unwrap();
    let operations = &stats.operations;
    assert_eq!((operations.puts, operations.put_bytes), (3, 300_005));
    assert_eq!((operations.hits, operations.read_bytes), (2, 200_005));
    // An attached process looks for an original itself before it says that there is none.
    assert_eq!(operations.misses, if stats.keeper.is_some() { 3 } else { 2 });
    assert_eq!((operations.deletes, operations.duplicates), (2, 1));
    assert_eq!((stats.objects, stats.damaged_objects), (3, 0));
    assert_eq!((stats.health.state, stats.health.reasons.len()), (HealthState::Ok, 0), "{:?}", stats.health);
    let info = store.info();
    assert_eq!((&*stats.backend, &*stats.place), (info.backend, &*info.place));
    // A store in memory has no descriptor of its own, and a keeper is another process.
    let process = &stats.process;
    assert!(stats.keeper.is_some() || process.descriptors.unwrap() >= held.len() as u64, "{process:?}");
    assert!(process.threads.unwrap() > 0 && process.resident_bytes.unwrap() > 0, "{process:?}");
    assert!(process.descriptors_max >= process.descriptors.unwrap() && stats.open_seconds > 0.0, "{process:?}");
    // Each backend tells of its parts, and of no others.
    let has_directory = matches!(info.backend, "local" | "tiered");
    assert_eq!(stats.local.is_some(), has_directory);
    assert_eq!(
        (stats.replication.is_some(), stats.redis.is_some()),
        (info.backend == "tiered", info.backend == "redis")
    );
    if let Some(local) = &stats.local {
        assert!(local.record_segments > 0 && local.body_segments > 0 && local.live_bytes > 300_000, "{local:?}");
    }
    let json = serde_json::to_string(&stats).unwrap();
    assert_eq!(serde_json::from_str::<Stats>(&json).unwrap(), stats);
}

fn who_waits_is_seen(fixture: &Fixture) {
    let store = fixture.open();
    std::thread::scope(|scope| {
        let waiting: Vec<_> = [&b"one"[..], b"two", b"two"]
            .map(|id| scope.spawn(|| store.wait(id, crate::common::much_later(), None).unwrap()))
            .into();
        until("they wait", || {
            let waits = store.stats().unwrap().waits;
            // Those of one attached process wait for an id together.
            waits.ids == 2 && (2..=3).contains(&waits.requests) && waits.oldest_seconds > 0.0
        });
        store.put(b"one", b"", b"").unwrap();
        store.put(b"two", b"", b"").unwrap();
        waiting.into_iter().for_each(|it| drop(it.join().unwrap()));
    });
    until("nobody waits", || {
        let waits = store.stats().unwrap().waits;
        (waits.requests, waits.ids, waits.oldest_seconds) == (0, 0, 0.0) && waits.begun >= 2
    });
}

fn a_closed_store_has_no_numbers(fixture: &Fixture) {
    let store = fixture.open();
    store.close().unwrap();
    assert!(matches!(store.stats(), Err(scaler_object_storage::Error::Closed)));
}
