use std::time::Duration;

use scaler_object_storage::{ObjectStore, Waited};

use crate::common::redis::{Mode, Proxy, RedisServer};
use crate::common::{bytes, much_later, until};
use crate::nodes::World;

fn waiting(store: &ObjectStore, id: &'static [u8]) -> std::thread::JoinHandle<Waited> {
    let waits = store.info().waiting_requests;
    let waiter = store.clone();
    let thread = std::thread::spawn(move || waiter.wait(id, much_later(), None).unwrap());
    until("it waits", || store.info().waiting_requests > waits);
    thread
}

#[track_caller]
fn data_of(waited: Waited) -> Vec<u8> {
    let Waited::Object(object) = waited else { panic!("not answered") };
    object.data.to_vec()
}

/// Invariant 4, for nodes without a local tier.
#[test]
fn a_waiter_without_a_local_tier_is_answered() {
    let redis = RedisServer::start();
    let [a, b] = [0, 1].map(|_| ObjectStore::builder().redis(redis.url()).open().unwrap());
    let waiter = waiting(&b, b"id");
    a.put(b"id", b"data", b"").unwrap();
    assert_eq!(data_of(waiter.join().unwrap()), b"data");
}

/// Invariant 4.
#[test]
fn a_duplicate_that_waits_is_made_when_the_original_appears_on_the_other_node() {
    let world = World::new(2);
    let [a, b] = &world.open_all()[..] else { panic!() };
    let (sender, done) = std::sync::mpsc::channel();
    let parked = b.duplicate_or_park(b"id", b"copy", move |result| sender.send(result.is_ok()).unwrap());
    let waiter = waiting(b, b"copy");
    let data = bytes(1, 3_000_000);
    a.put(b"id", &data, b"").unwrap();
    assert!(done.recv().unwrap());
    assert!(data_of(waiter.join().unwrap()) == data);
    drop(parked);
}

/// Invariant 4; the writer sends no events, as the Python backend does.
#[test]
fn a_waiter_is_answered_by_a_writer_that_sends_no_events() {
    let world = World::new(1);
    let a = world.open(0);
    let waiter = waiting(&a, b"id");
    let mut value = 4u32.to_le_bytes().to_vec();
    value.extend_from_slice(b"metadata");
    let _: () = world.redis.command(&[&b"SET"[..], b"scaler:obj:6964", &value]);
    assert_eq!(data_of(waiter.join().unwrap()), b"data");
    assert!(a.get_here(b"id").unwrap().is_none(), "it is not kept: nobody would say when it is gone");
}

/// Hearing 6: Redis has lost a single write that it acknowledged, and the node that made it still holds it.
#[test]
fn a_waiter_makes_the_node_that_holds_the_object_push_it_again() {
    let world = World::new(2);
    let [a, b] = &world.open_all()[..] else { panic!() };
    a.put(b"id", b"data", b"").unwrap();
    world.until_announced("id");
    std::thread::sleep(Duration::from_millis(800)); // settled
    let _: i64 = world.redis.command(&[&b"DEL"[..], b"scaler:obj:6964"]);
    let waiter = waiting(b, b"id");
    assert_eq!(data_of(waiter.join().unwrap()), b"data");
}

/// Invariant 7: and the bad copy is repaired.
#[test]
fn a_damaged_value_is_a_miss_until_a_node_that_holds_the_object_repairs_it() {
    let world = World::new(2);
    let proxy = Proxy::to(&world.redis);
    let a = world.builder(0).redis_options(|options| options.url = world.redis.url_at(proxy.port())).open().unwrap();
    let b = world.open(1);
    a.put(b"id", b"data that is long enough", b"").unwrap();
    world.until_announced("id");
    // Whoever hears of a put while it fetches fetches once more.
    world.until_all_is_heard_by(&b);
    // Nobody repairs it before it is asked for.
    proxy.set(Mode::Refuse);
    let _: i64 = world.redis.command(&[&b"SETRANGE"[..], b"scaler:obj:6964", b"70", b"flip"]);
    assert!(b.get(b"id").unwrap().is_none());
    assert_eq!(b.info().damaged_objects, 1);
    proxy.set(Mode::Normal);
    until("it is repaired", || b.get(b"id").unwrap().is_some());
    assert_eq!(a.info().damaged_objects, 0);
}
