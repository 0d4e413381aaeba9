use std::cell::Cell;
use std::time::Duration;

use scaler_object_storage::{RedisOptions, Waited};

use crate::common::{bytes, get, much_later, until};
use crate::nodes::World;

/// Invariant 4.
#[test]
fn a_put_is_readable_on_the_other_node_whatever_its_size() {
    let world = World::new(2);
    let [a, b] = &world.open_all()[..] else { panic!() };
    for (number, size) in [0, 1, 100, 70_000, 1 << 20, (1 << 20) + 1, 5_000_000].into_iter().enumerate() {
        let id = [b'a', number as u8];
        let data = bytes(number as u64, size);
        a.put(&id, &data, b"meta").unwrap();
        until("it is there", || b.get(&id).unwrap().is_some());
        let object = get(b, &id);
        assert!(object.data == data && &object.metadata[..] == b"meta", "{size} bytes");
        assert!(b.get_here(&id).unwrap().is_some(), "{size} bytes: kept");
    }
}

/// Invariant 4.
#[test]
fn a_waiter_is_answered_by_a_put_on_the_other_node() {
    let world = World::new(2);
    let [a, b] = &world.open_all()[..] else { panic!() };
    let waiting = std::thread::spawn({
        let b = b.clone();
        move || b.wait(b"id", much_later(), None).unwrap()
    });
    until("it waits", || b.info().waiting_requests == 1);
    a.put(b"id", b"data", b"").unwrap();
    let Waited::Object(object) = waiting.join().unwrap() else { panic!("not answered") };
    assert_eq!(&object.data[..], b"data");
}

/// Invariants 5 and 6.
#[test]
fn an_overwrite_and_a_delete_reach_the_node_that_holds_a_copy() {
    let world = World::new(2);
    let [a, b] = &world.open_all()[..] else { panic!() };
    a.put(b"id", b"one", b"").unwrap();
    until("it is there", || b.get(b"id").unwrap().is_some());
    b.put(b"id", b"two", b"").unwrap();
    until("it is overwritten", || get(a, b"id").data == "two");
    assert!(a.delete(b"id").unwrap());
    until("it is deleted", || b.get(b"id").unwrap().is_none());
    std::thread::sleep(Duration::from_millis(300));
    assert!(a.get(b"id").unwrap().is_none() && b.get(b"id").unwrap().is_none());
}

#[test]
fn a_delete_of_what_only_the_other_node_holds_says_that_it_existed() {
    let world = World::new(2);
    let [a, b] = &world.open_all()[..] else { panic!() };
    let tries = Cell::new(0_u8);
    // Where Redis does not answer within a tenth of a second, it says no.
    until("a delete is answered in time", || {
        let id = [b'd', tries.get()];
        tries.set(tries.get().wrapping_add(1));
        a.put(&id, b"data", b"").unwrap();
        until("it is there", || b.contains(&id).unwrap());
        let existed = b.delete(&id).unwrap();
        assert!(!b.delete(&id).unwrap());
        until("it is deleted", || a.get(&id).unwrap().is_none());
        existed
    });
    assert!(!b.delete(b"never").unwrap());
}

#[test]
fn a_duplicate_of_what_the_other_node_holds_is_an_object_of_its_own() {
    let world = World::new(2);
    let [a, b] = &world.open_all()[..] else { panic!() };
    a.put(b"id", b"data", b"").unwrap();
    until("it is there", || b.contains(b"id").unwrap());
    assert!(b.duplicate(b"id", b"copy").unwrap());
    b.delete(b"id").unwrap();
    until("it is shared", || a.get(b"copy").unwrap().is_some_and(|object| object.data == "data"));
    until("the original is gone", || a.get(b"id").unwrap().is_none());
}

/// Invariant 3.
#[test]
fn what_was_not_pushed_before_closing_is_pushed_by_the_next_open() {
    let mut world = World::new(2);
    world.redis.kill();
    let a = world.open(0);
    a.put(b"id", b"data", b"").unwrap();
    a.close().unwrap();
    world.redis.restart();
    let (_a, b) = (world.open(0), world.open(1));
    until("it is pushed", || b.get(b"id").is_ok_and(|object| object.is_some()));
}

/// After which the replicator looks again by itself: `CLOCK_EVERY` in src/replication/replicator.rs. If that becomes shorter, so must this.
const REST: Duration = Duration::from_secs(60);

#[test]
fn closing_an_idle_store_ends_its_rest() {
    let world = World::new(1);
    let unhurried = |options: &mut RedisOptions| (options.settle_ms, options.drain_timeout_ms) = (3_600_000, 600_000);
    let store = world.builder(0).redis_options(unhurried).open().unwrap();
    store.put(b"id", b"data", b"").unwrap();
    world.until_announced("id");
    std::thread::sleep(Duration::from_millis(300)); // until the replicator has the answer, and rests
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || ended.send(store.close()));
    end.recv_timeout(REST / 2).expect("closed before the replicator looks by itself").unwrap();
}

/// Invariant 10.
#[test]
fn a_connection_that_redis_has_closed_costs_no_answer() {
    let world = World::new(2);
    let [a, b] = &world.open_all()[..] else { panic!() };
    let ids = (0..40).map(|number| format!("{number}")).collect::<Vec<_>>();
    for id in &ids {
        a.put(id.as_bytes(), b"data", b"").unwrap();
        world.until_announced(id);
    }
    let (before, after) = ids.split_at(20);
    std::thread::scope(|scope| {
        for id in before {
            scope.spawn(move || b.get(id.as_bytes()).unwrap().unwrap());
        }
    });
    world.redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    for (number, id) in after.iter().enumerate() {
        match number % 2 {
            0 => assert!(b.get(id.as_bytes()).unwrap().is_some()),
            _ => assert!(b.contains(id.as_bytes()).unwrap()),
        }
    }
}
