//! Room in a small store that other nodes fill as well: what Redis has goes, and only callers wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use scaler_object_storage::{Error, Object, ObjectStore, Parked, RedisOptions, Underlying, Waited};

use crate::common::{CAPACITY_MB_MIN, bytes, get, much_later, until};
use crate::disk::{Call, Fault, FaultyDisk};
use crate::nodes::World;

/// Objects that take two thirds of the smallest store: fewer bytes than those from which on room is made ahead of need.
const COUNT: u64 = 20;
const BYTES: usize = 560_000;

fn id(number: u64) -> Vec<u8> {
    format!("object {number}").into_bytes()
}

/// The smallest store there is, with one thread that fetches.
fn small(world: &World, node: usize, settle_ms: u64) -> ObjectStore {
    let options = |options: &mut RedisOptions| {
        options.settle_ms = settle_ms;
        options.connection_pool_size = 1;
    };
    let store = world.builder(node).max_size_mb(CAPACITY_MB_MIN).redis_options(options).open().unwrap();
    // Until Redis takes what it is sent, no put waits for that.
    store.put(b"first", b"", b"").unwrap();
    world.until_announced("first");
    store
}

fn fill(store: &ObjectStore) {
    (0..COUNT).for_each(|number| store.put(&id(number), &bytes(number, BYTES), b"").unwrap());
}

/// Invariant 14: between the room that is made ahead of need and the limit there is none in which nothing is done.
#[test]
fn no_put_is_refused_beside_what_can_be_evicted() {
    for large in [2_500_000, 4_000_000, 8_000_000, 12_500_000] {
        let world = World::new(1);
        let store = small(&world, 0, 20);
        fill(&store);
        store.put(b"large", &bytes(99, large), b"").unwrap_or_else(|error| panic!("{large} bytes: {error}"));
        assert!(get(&store, b"large").data == bytes(99, large));
        for number in 0..COUNT {
            assert!(get(&store, &id(number)).data == bytes(number, BYTES), "{large} bytes: object {number}");
        }
        assert_eq!(store.info().damaged_objects, 0);
    }
}

/// From the first moment on, before Redis was asked anything.
#[test]
fn no_put_is_refused_beside_what_can_be_evicted_just_after_an_open() {
    let world = World::new(1);
    fill(&small(&world, 0, 20));
    for round in 0..8 {
        let store = world
            .builder(0)
            .max_size_mb(CAPACITY_MB_MIN)
            .redis_options(|options| options.settle_ms = 20)
            .open()
            .unwrap();
        let put = |number: u64| {
            store.put(format!("{round} {number}").as_bytes(), &bytes(round * 100 + number, 3_000_000), b"")
        };
        (0..3).for_each(|number| put(number).unwrap_or_else(|error| panic!("round {round}: {error}")));
    }
}

/// The same where all of them are in use, and were read.
#[test]
fn no_put_is_refused_beside_what_was_read_and_can_be_evicted() {
    let world = World::new(1);
    let store = small(&world, 0, 20);
    fill(&store);
    (0..COUNT).for_each(|number| drop(get(&store, &id(number))));
    store.put(b"large", &bytes(99, 8_000_000), b"").unwrap();
    assert!(get(&store, b"large").data == bytes(99, 8_000_000));
}

/// A put makes as much room as it needs, and not more.
#[test]
fn what_need_not_go_stays() {
    let world = World::new(1);
    let store = small(&world, 0, 20);
    fill(&store);
    store.put(b"large", &bytes(99, 4_000_000), b"").unwrap();
    let objects = store.info().objects;
    assert!(objects >= COUNT / 2, "{objects} of {COUNT}");
}

#[test]
fn a_small_store_comes_to_hold_large_objects_that_are_read_from_elsewhere() {
    let world = World::new(2);
    let (a, b) = (world.open(0), small(&world, 1, 20));
    fill(&b);
    for number in 100..106 {
        a.put(&id(number), &bytes(number, 3_500_000), b"").unwrap();
        world.until_announced(&format!("object {number}"));
        until("it is held", || {
            assert!(get(&b, &id(number)).data == bytes(number, 3_500_000));
            b.get_here(&id(number)).unwrap().is_some()
        });
    }
    // Without Redis, what is held is there.
    world.redis.pause();
    assert!(get(&b, &id(105)).data == bytes(105, 3_500_000));
    world.redis.resume();
}

/// Node `b` is full: Redis takes what it writes, but nothing counts as replicated for ten minutes, and of what is dead much is held.
struct Full {
    world: World,
    a: ObjectStore,
    b: ObjectStore,
    held: Vec<Object>,
}

/// Fits into an empty store, and into this one when what is held is let go.
const LARGE_BYTES: usize = 5_000_000;

impl Full {
    fn new() -> Self {
        let world = World::new(2);
        let (a, b) = (world.open(0), small(&world, 1, 600_000));
        b.put(b"shared", b"data", b"").unwrap();
        fill(&b);
        let held: Vec<Object> = (0..8).map(|number| get(&b, &id(number))).collect();
        (0..8).for_each(|number| assert!(b.delete(&id(number)).unwrap()));
        world.until_announced("shared");
        for (name, len) in [("large", LARGE_BYTES), ("small", 10)] {
            a.put(name.as_bytes(), &bytes(7, len), b"").unwrap();
            world.until_announced(name);
        }
        until("it is shared", || a.get(b"shared").unwrap().is_some());
        Full { world, a, b, held }
    }

    /// Puts what there is no room for.
    fn put(&self) -> std::thread::JoinHandle<Result<(), scaler_object_storage::Error>> {
        let b = self.b.clone();
        std::thread::spawn(move || b.put(b"put", &bytes(8, LARGE_BYTES), b""))
    }

    /// Small gets are answered, and deletes of other nodes are heard.
    fn expect_answers(&self) {
        assert_eq!(get(&self.b, b"small").data, bytes(7, 10));
        assert!(self.a.delete(b"shared").unwrap());
        until("the delete is heard", || self.b.get_here(b"shared").unwrap().is_none());
    }
}

/// Invariants 5 and 14. The put is refused after some time, if it finds no room; a fetch that waited as well, begun later, would end later.
#[test]
fn a_fetch_of_what_there_is_no_room_for_holds_nobody_up() {
    let mut full = Full::new();
    let put = full.put();
    let large = std::thread::spawn({
        let b = full.b.clone();
        move || get(&b, b"large")
    });
    let waiter = std::thread::spawn({
        let b = full.b.clone();
        move || b.wait(b"awaited", much_later(), None).unwrap()
    });
    until("it waits", || full.b.info().waiting_requests == 1);
    full.a.put(b"awaited", &bytes(9, LARGE_BYTES), b"").unwrap();
    full.world.until_announced("awaited");
    full.expect_answers();
    assert!(large.join().unwrap().data == bytes(7, LARGE_BYTES));
    assert!(matches!(waiter.join().unwrap(), Waited::Object(object) if object.data == bytes(9, LARGE_BYTES)));
    assert!(!put.is_finished(), "a fetch has waited as long as a put");
    full.held.clear();
    put.join().unwrap().unwrap();
}

/// What the duplicate of another node's object takes, somebody has to wait for: none of those who fetch and hear.
#[test]
fn a_parked_duplicate_that_finds_no_room_holds_nobody_up() {
    let mut full = Full::new();
    let is_done = Arc::new(AtomicBool::new(false));
    let (done, noted) = (Arc::clone(&is_done), Arc::clone(&is_done));
    let (sender, receiver) = std::sync::mpsc::channel();
    let parked = full.b.duplicate_or_park(b"awaited", b"copy", move |result| {
        noted.store(true, Ordering::SeqCst);
        sender.send(result).unwrap();
    });
    let Ok(Parked::Waiting(_ticket)) = parked else { panic!("it is not there yet") };
    full.a.put(b"awaited", &bytes(9, LARGE_BYTES), b"").unwrap();
    full.world.until_announced("awaited");
    until("it is taken", || full.b.info().waiting_requests == 0);
    full.expect_answers();
    assert!(!done.load(Ordering::SeqCst), "somebody has waited for the duplicate");
    full.held.clear();
    receiver.recv().unwrap().unwrap();
    assert!(get(&full.b, b"copy").data == bytes(9, LARGE_BYTES));
}

/// Closing ends the wait, and the thread that waits.
#[test]
fn closing_ends_a_duplicate_that_waits_for_room() {
    let full = Full::new();
    let (sender, receiver) = std::sync::mpsc::channel();
    let parked = full.b.duplicate_or_park(b"large", b"copy", move |result| sender.send(result).unwrap());
    let Ok(Parked::Waiting(_ticket)) = parked else { panic!("it is not here") };
    until("it is taken", || full.b.info().waiting_requests == 0);
    full.b.close().unwrap();
    assert!(!matches!(receiver.recv(), Ok(Ok(()))));
    let b = small(&full.world, 1, 600_000);
    assert!(b.get_here(b"copy").unwrap().is_none());
}

/// Invariant 5, without room for a record of it; and the event is heard again by the next open.
#[test]
fn what_other_nodes_delete_is_gone_here_though_it_cannot_be_noted() {
    let world = World::new(2);
    let disk = FaultyDisk::default();
    let under = || Underlying { disk: Arc::new(disk.clone()), ..Underlying::default() };
    let open = || world.builder(1).redis_options(|options| options.settle_ms = 20).under(under()).open().unwrap();
    let (a, b) = (world.open(0), open());
    // From now on it is in step, so that nothing that it holds is suspect.
    world.until_all_is_heard_by(&b);
    for id in [&b"gone"[..], b"mine"] {
        b.put(id, b"data", b"").unwrap();
        until("it is shared", || a.get(id).unwrap().is_some());
    }
    b.flush().unwrap();
    disk.set(|attempt| (attempt.call == Call::Write).then_some(Fault::Refused(libc::ENOSPC)));
    assert!(a.delete(b"gone").unwrap());
    until("the delete is heard", || b.get(b"gone").unwrap().is_none());
    assert!(!b.contains(b"gone").unwrap() && b.get_here(b"gone").unwrap().is_none());
    assert_eq!(get(&b, b"mine").data, "data");
    // At close it is noted how far was heard: not so far.
    let _ = b.close();
    disk.heal();
    let b = open();
    until("it is heard again", || b.get(b"gone").unwrap().is_none());
    assert_eq!(get(&b, b"mine").data, "data");
}

/// Invariant 14: a delete of what is not here is kept until Redis knows of it, which takes room like a put. When Redis is back, everything
/// goes on.
#[test]
fn deletes_of_what_is_not_here_keep_to_the_limit_while_redis_is_away() {
    let mut world = World::new(1);
    let store = small(&world, 0, 20);
    store.put(b"kept", &bytes(1, 10_000), b"").unwrap();
    world.redis.kill();
    let id = |number: u32| format!("{number:0500}").into_bytes();
    let limit = CAPACITY_MB_MIN << 20;
    let mut most = 0;
    let refused = (0..60_000).find_map(|number| {
        most = most.max(store.info().physical_bytes);
        store.delete(&id(number)).err()
    });
    assert!(matches!(refused, Some(Error::Full { .. })), "{refused:?}");
    assert!(most <= limit, "{most} of {limit} bytes");
    // What stands here frees more than it takes.
    assert!(store.delete(b"kept").unwrap());
    world.redis.restart();
    until("it takes deletes again", || store.delete(b"again").is_ok());
    until("it takes puts again", || store.put(b"large", &bytes(2, 8_000_000), b"").is_ok());
}

/// Invariant 14: what is dead comes free behind what Redis has yet to get, which is copied.
#[test]
fn dead_bytes_behind_dirty_objects_come_free_while_redis_is_away() {
    let mut world = World::new(1);
    let store = small(&world, 0, 20);
    world.redis.kill();
    (0..3000).for_each(|number| store.put(&id(number), &bytes(number, 900), b"").unwrap());
    for number in 0..3000 {
        store.put(b"again", &bytes(number, 20_000), b"").unwrap_or_else(|error| panic!("put {number}: {error}"));
    }
    assert!((0..3000).all(|number| get(&store, &id(number)).data == bytes(number, 900)));
}
