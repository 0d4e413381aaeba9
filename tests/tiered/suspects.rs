//! Objects that may have changed unheard (Hearing 5).

use std::cell::Cell;
use std::time::Duration;

use scaler_object_storage::{ObjectStore, RedisOptions, Underlying};

use crate::common::{CAPACITY_MB_MIN, bytes, get, until};
use crate::nodes::{World, operation};

const WANT: u8 = 3;

const KEY: &str = "scaler:obj:6964"; // of "id"

/// A node that holds clean objects, and has heard of nothing else for a while.
fn node_with(world: &World, ids: &[&str], change: impl FnOnce(&mut RedisOptions), under: Underlying) -> ObjectStore {
    let builder = world.builder(0).redis_options(|options| options.settle_ms = 50).redis_options(change).under(under);
    let store = builder.max_size_mb(CAPACITY_MB_MIN).open().unwrap();
    for id in ids {
        store.put(id.as_bytes(), id.as_bytes(), b"").unwrap();
        world.until_announced(id);
    }
    // Settled, or they are not checked yet.
    std::thread::sleep(Duration::from_millis(600));
    store
}

/// The stream loses its past, and the node has noticed.
fn lose_the_past(world: &World, store: &ObjectStore) {
    world.redis.cli(&["DEL", "scaler:obj:_events"]);
    until("it begins to hear anew", || world.redis.cli(&["XLEN", "scaler:obj:_events"]) != "0");
    world.until_all_is_heard_by(store);
}

/// The stream has an entry of which the node understands nothing, and the node has read it.
fn tell_the_unknown(world: &World, store: &ObjectStore) {
    world.redis.cli(&["XADD", "scaler:obj:_events", "*", "v", "9", "what", "nobody knows"]);
    world.until_all_is_heard_by(store);
}

/// Until a delete that was not heard of would have been forgotten (`tombstone_ttl_seconds` is 1).
fn outlive_tombstones() {
    std::thread::sleep(Duration::from_millis(1500));
}

/// Invariant 5: until it settles, what this node wrote is dirty. It is checked all the same.
#[test]
fn what_was_overwritten_unheard_before_it_settled_is_found_out() {
    let ways: [fn(&World, &ObjectStore); 2] = [lose_the_past, tell_the_unknown];
    for (length, doubt) in [10, 5000].into_iter().flat_map(|length| ways.map(|way| (length, way))) {
        let world = World::new(1);
        let store = world.builder(0).redis_options(|options| options.settle_ms = 3_600_000).open().unwrap();
        let elsewhere = ObjectStore::builder().redis(world.redis.url());
        let elsewhere = elsewhere.redis_options(|options| options.key_prefix = "elsewhere:".into()).open().unwrap();
        store.put(b"id", &bytes(1, length), b"").unwrap();
        world.until_announced("id");
        // Another node's write of which no event tells, and which is newer for certain, as that node has seen this one.
        world.redis.cli(&["COPY", KEY, "elsewhere:6964"]);
        elsewhere.put(b"id", &bytes(2, length), b"").unwrap();
        world.redis.cli(&["RENAME", "elsewhere:6964", KEY]);
        assert_eq!(get(&store, b"id").data, bytes(1, length), "nobody can know");
        doubt(&world, &store);
        until("the newest is read", || get(&store, b"id").data == bytes(2, length));
    }
}

/// A node's own write that has been pushed and does not settle, has been overwritten by another node unheard, and is known to be doubtful.
/// It is `old` here and `new` in Redis.
fn overwritten_unheard(world: &World) -> ObjectStore {
    let builder = world.builder(0).redis_options(|options| options.settle_ms = 3_600_000);
    let store = builder.max_size_mb(CAPACITY_MB_MIN).open().unwrap();
    let elsewhere = ObjectStore::builder().redis(world.redis.url());
    let elsewhere = elsewhere.redis_options(|options| options.key_prefix = "elsewhere:".into()).open().unwrap();
    store.put(b"id", b"old", b"").unwrap();
    world.until_announced("id");
    world.redis.cli(&["COPY", KEY, "elsewhere:6964"]);
    elsewhere.put(b"id", b"new", b"").unwrap();
    world.redis.cli(&["RENAME", "elsewhere:6964", KEY]);
    lose_the_past(world, &store);
    store
}

/// Until the oldest segment is reclaimed: what counts in it is copied.
fn reclaim_oldest(world: &World, store: &ObjectStore) {
    let files = world.directory(0).join("journal").read_dir().unwrap().map(|entry| entry.unwrap().path());
    let oldest = files.filter(|path| path.extension().is_some_and(|it| it == "records")).min().unwrap();
    let number = Cell::new(0);
    until("it is reclaimed", || {
        number.set(number.get() + 1);
        store.put(b"other", &bytes(number.get(), 50_000), b"").unwrap();
        !oldest.exists()
    });
}

/// Redis takes no object any more, and the node knows.
fn fill_redis(world: &World, store: &ObjectStore) {
    world.redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    store.put(b"refused", b"data", b"").unwrap();
    until("Redis refuses it", || world.redis.info("errorstat_OOM").starts_with("count="));
}

/// Invariant 5: what was pushed is to be pushed again over a new connection, which a full Redis does not let happen.
#[test]
fn what_was_overwritten_unheard_is_found_out_though_it_is_to_be_pushed_again() {
    let world = World::new(1);
    let store = overwritten_unheard(&world);
    fill_redis(&world, &store);
    world.redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    until("it is to be pushed again", || store.stats().unwrap().replication.unwrap().dirty_records > 1);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(get(&store, b"id").data, "new");
}

/// Invariant 5: the copy that was made to make room is to be pushed, and what it is of was pushed.
#[test]
fn what_was_overwritten_unheard_is_found_out_though_it_was_copied_to_make_room() {
    let world = World::new(1);
    let store = overwritten_unheard(&world);
    fill_redis(&world, &store);
    reclaim_oldest(&world, &store);
    assert_eq!(get(&store, b"id").data, "new");
}

/// Invariant 3: nobody has deleted what Redis had a moment ago and lacks now, however long tombstones last.
#[test]
fn what_redis_has_lost_before_it_settled_is_pushed_again() {
    let world = World::new(1);
    let unsettled = |options: &mut RedisOptions| (options.settle_ms, options.tombstone_ttl_seconds) = (3_600_000, 1);
    let store = node_with(&world, &["id"], unsettled, Underlying::default());
    lose_the_past(&world, &store);
    outlive_tombstones();
    world.redis.cli(&["DEL", KEY]);
    until("it is pushed", || {
        assert_eq!(get(&store, b"id").data, "id");
        world.redis.cli(&["EXISTS", KEY]) == "1"
    });
}

/// Invariant 3: what a full Redis does not take back is dirty in the next open too, after tombstones have expired.
#[test]
fn what_redis_has_lost_and_refuses_is_kept_by_the_next_open() {
    let world = World::new(1);
    let short = |options: &mut RedisOptions| {
        (options.settle_ms, options.tombstone_ttl_seconds, options.drain_timeout_ms) = (50, 3, 500);
    };
    let writer = ObjectStore::builder().redis(world.redis.url()).open().unwrap();
    writer.put(b"id", b"data", b"").unwrap();
    let open = || world.builder(0).redis_options(short).max_size_mb(CAPACITY_MB_MIN).open().unwrap();
    let store = open();
    assert_eq!(get(&store, b"id").data, "data");
    lose_the_past(&world, &store);
    fill_redis(&world, &store);
    world.redis.cli(&["DEL", KEY]);
    assert_eq!(get(&store, b"id").data, "data", "it was in step a moment ago");
    let dirty = |store: &ObjectStore| store.stats().unwrap().replication.unwrap().dirty_records;
    until("it is dirty", || dirty(&store) == 2);
    store.close().unwrap();
    std::thread::sleep(Duration::from_millis(3500));
    let store = open();
    assert_eq!(get(&store, b"id").data, "data", "it stands nowhere else");
    world.redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    until("Redis has it again", || world.redis.cli(&["EXISTS", KEY]) == "1");
}

/// Invariant 3: the same for a copy that nobody had to check, as no event was missed.
#[test]
fn what_somebody_wanted_and_redis_refused_is_pushed_by_the_next_open() {
    let world = World::new(1);
    let writer = ObjectStore::builder().redis(world.redis.url()).open().unwrap();
    let short = |options: &mut RedisOptions| (options.settle_ms, options.drain_timeout_ms) = (50, 500);
    let open = || world.builder(0).redis_options(short).max_size_mb(CAPACITY_MB_MIN).open().unwrap();
    let store = open();
    world.until_all_is_heard_by(&store);
    writer.put(b"id", b"data", b"").unwrap();
    assert_eq!(get(&store, b"id").data, "data");
    world.redis.cli(&["DEL", KEY]);
    world.redis.cli(&["RPUSH", KEY, "a list"]);
    world.announce(&[operation(WANT, b"id", 0)]);
    until("it is refused", || store.stats().unwrap().replication.unwrap().refusals > 0);
    store.close().unwrap();
    world.redis.cli(&["DEL", KEY]);
    let store = open();
    until("Redis has it again", || world.redis.cli(&["EXISTS", KEY]) == "1");
    assert_eq!(get(&store, b"id").data, "data");
}

/// What Redis refuses to say is not that it has nothing.
#[test]
fn a_suspect_that_redis_does_not_let_look_up_is_kept() {
    let mut world = World::new(1);
    let store = node_with(&world, &["id"], |options| options.tombstone_ttl_seconds = 1, Underlying::default());
    lose_the_past(&world, &store);
    outlive_tombstones();
    world.redis.cli(&["DEL", KEY]);
    world.redis.cli(&["RPUSH", KEY, "a list"]);
    assert_eq!(get(&store, b"id").data, "id");
    world.redis.kill();
    assert_eq!(get(&store, b"id").data, "id");
}

/// Invariant 4: what Redis has lost is pushed again, though not at the first try.
#[test]
fn a_suspect_that_redis_has_lost_is_pushed_when_there_is_room() {
    let world = World::new(1);
    let store = node_with(&world, &["id"], |_| {}, Underlying::default());
    lose_the_past(&world, &store);
    world.redis.cli(&["DEL", KEY]);
    world.redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    until("Redis refuses it", || {
        assert_eq!(get(&store, b"id").data, "id");
        world.redis.info("errorstat_OOM").starts_with("count=")
    });
    world.redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    until("it is pushed", || world.redis.cli(&["EXISTS", KEY]) == "1");
}

#[test]
fn a_suspect_whose_fingerprint_another_id_has_is_checked_as_well() {
    let world = World::new(1);
    let under = Underlying { fingerprint_mask: 0, ..Underlying::default() };
    let store = node_with(&world, &["first", "id"], |options| options.tombstone_ttl_seconds = 1, under);
    lose_the_past(&world, &store);
    // What has the fingerprint is none.
    store.put(b"first", b"new", b"").unwrap();
    outlive_tombstones();
    world.redis.cli(&["DEL", KEY]);
    until("it is checked", || store.get(b"id").unwrap().is_none());
    assert_eq!(get(&store, b"first").data, "new");
}

#[test]
fn what_was_trusted_is_checked_again_when_more_is_missed() {
    let world = World::new(1);
    let store = node_with(&world, &["id"], |options| options.tombstone_ttl_seconds = 1, Underlying::default());
    for _ in 0..2 {
        lose_the_past(&world, &store);
        assert_eq!(get(&store, b"id").data, "id");
    }
    lose_the_past(&world, &store);
    outlive_tombstones();
    world.redis.cli(&["DEL", KEY]);
    until("it is checked", || store.get(b"id").unwrap().is_none());
}

#[test]
fn a_suspect_that_was_copied_to_make_room_is_still_one() {
    let world = World::new(1);
    let store = node_with(&world, &["id"], |options| options.tombstone_ttl_seconds = 1, Underlying::default());
    assert_eq!(get(&store, b"id").data, "id"); // what was read is not evicted
    lose_the_past(&world, &store);
    reclaim_oldest(&world, &store);
    outlive_tombstones();
    world.redis.cli(&["DEL", KEY]);
    until("it is checked", || store.get(b"id").unwrap().is_none());
}
