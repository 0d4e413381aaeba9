//! What a node shows of how far replication is, and of what does not work.

use scaler_object_storage::{HealthState, ObjectStore, ReplicationStats};

use crate::common::{CAPACITY_MB_MIN, bytes, get, until};
use crate::nodes::World;

fn replication(store: &ObjectStore) -> ReplicationStats {
    store.stats().unwrap().replication.unwrap()
}

fn complaints(store: &ObjectStore) -> Vec<(String, String)> {
    let health = store.stats().unwrap().health;
    assert_eq!(health.state == HealthState::Degraded, !health.reasons.is_empty());
    health.reasons.into_iter().map(|reason| (reason.kind, reason.text)).collect()
}

#[test]
fn what_redis_does_not_have_is_counted_and_so_is_its_coming() {
    let mut world = World::new(1);
    let store = world.open(0);
    store.put(b"first", b"12345", b"").unwrap();
    until("it is pushed", || replication(&store).dirty_records == 0 && replication(&store).pushes == 1);
    assert_eq!(replication(&store).pushed_bytes, 5);
    world.redis.kill();
    for number in 0..10_u8 {
        store.put(&[number], &bytes(number.into(), 1000), b"").unwrap();
    }
    store.put(b"large", &bytes(99, 100_000), b"").unwrap();
    store.delete(b"first").unwrap();
    until("it is away", || !replication(&store).is_reachable);
    let behind = replication(&store);
    assert_eq!((behind.dirty_records, behind.dirty_bytes, behind.is_estimate), (12, 110_000, false), "{behind:?}");
    until("it is said", || complaints(&store).iter().any(|(kind, _)| kind == "redis_away"));
    let (_, text) = &complaints(&store)[0];
    assert!(text.contains(&world.redis.port().to_string()) && text.contains("local work goes on"), "{text}");
    // It grows with time.
    until("the oldest is old", || replication(&store).oldest_dirty_seconds > 2.5);
    world.redis.restart();
    until("all is pushed", || replication(&store).dirty_records == 0);
    let caught_up = replication(&store);
    assert!(caught_up.is_reachable && caught_up.oldest_dirty_seconds == 0.0 && caught_up.pushes >= 13, "{caught_up:?}");
    assert!(caught_up.connect_failures > 0 && caught_up.disconnects > 0 && caught_up.connects > 2, "{caught_up:?}");
    until("nothing is complained of", || complaints(&store).is_empty());
    until("it is settled", || replication(&store).unsettled_bytes == 0);
}

#[test]
fn what_other_nodes_have_is_fetched_filled_and_heard_of() {
    let world = World::new(2);
    let [a, b] = [0, 1].map(|node| world.open(node));
    a.put(b"id", b"12345", b"").unwrap();
    // What came before it heard anything is checked once more.
    until("it has come", || b.get(b"id").unwrap().is_some() && b.get_here(b"id").unwrap().is_some());
    assert_eq!(get(&b, b"id").data, "12345");
    let (stats, told) = (b.stats().unwrap(), replication(&b));
    assert!(told.fetches >= 1 && told.fills >= 1, "{told:?}");
    assert!(stats.operations.hits >= 1 && stats.operations.misses >= 1, "{:?}", stats.operations);
    world.until_all_is_heard_by(&b);
    assert!(replication(&b).events > 0 && replication(&b).peers >= 1);
    assert!(replication(&b).last_event_seconds.is_some());
}

/// Also where Redis has to be asked for the object itself, as this node knows of a delete that may be older.
#[test]
fn to_look_whether_an_object_exists_is_no_get() {
    let world = World::new(2);
    let [a, b] = [0, 1].map(|node| world.open(node));
    a.put(b"kept", b"12345", b"").unwrap();
    assert_eq!(get(&a, b"kept").data, "12345");
    a.put(b"id", b"", b"").unwrap();
    assert!(a.delete(b"id").unwrap());
    // A put that was made before the delete was heard of may be the older one.
    until("it exists", || {
        b.put(b"id", b"again", b"").unwrap();
        a.contains(b"id").unwrap()
    });
    let operations = a.stats().unwrap().operations;
    assert_eq!((operations.hits, operations.misses), (1, 0));
}

#[test]
fn what_redis_refuses_is_complained_of_with_its_reason() {
    let world = World::new(1);
    let store = world.open(0);
    // A Redis without room for an epoch is none that refuses single objects.
    until("it takes part", || world.redis.cli(&["EXISTS", "scaler:obj:_epoch"]) == "1");
    world.redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    store.put(b"id", &bytes(1, 1000), b"").unwrap();
    until("it is said", || {
        complaints(&store).iter().any(|(kind, text)| kind == "refused" && text.contains("OOM command not allowed"))
    });
    let told = replication(&store);
    assert!(told.refusals > 0 && told.held_records == 1 && told.dirty_records == 1, "{told:?}");
    assert!(told.is_reachable, "{told:?}");
    world.redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    until("it is taken", || complaints(&store).is_empty() && replication(&store).held_records == 0);
}

#[test]
fn what_is_evicted_is_counted() {
    let world = World::new(1);
    let builder = world.builder(0).max_size_mb(CAPACITY_MB_MIN);
    let store = builder.redis_options(|options| options.settle_ms = 20).open().unwrap();
    store.put(b"first", b"", b"").unwrap();
    world.until_announced("first");
    let count = 2 * (CAPACITY_MB_MIN << 20) / 3000;
    for number in 0..count {
        store.put(&number.to_be_bytes(), &bytes(number, 3000), b"").unwrap();
    }
    let local = store.stats().unwrap().local.unwrap();
    assert!(local.evictions > 0 && local.evicted_bytes >= local.evictions.saturating_sub(1) * 3000, "{local:?}");
    assert!(local.reclaimed_segments > 0, "{local:?}");
    // While it may still go on.
    until("it adds up", || {
        let stats = store.stats().unwrap();
        stats.objects + stats.local.unwrap().evictions == count + 1
    });
}

/// A look at everything that is behind would take too long.
#[test]
fn how_far_replication_is_behind_is_an_estimate_where_it_is_much() {
    let mut world = World::new(1);
    world.redis.kill();
    let store = world.open(0);
    const COUNT: u64 = 140_000;
    for number in 0..COUNT {
        store.put(&number.to_be_bytes(), b"12345678", b"").unwrap();
    }
    let behind = replication(&store);
    assert!(behind.is_estimate && behind.dirty_records.abs_diff(COUNT) < COUNT / 50, "{behind:?}");
    assert!(behind.dirty_bytes.abs_diff(8 * COUNT) < COUNT / 2, "{behind:?}");
    world.redis.restart();
}
