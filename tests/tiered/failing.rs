//! What goes wrong while other nodes are heard.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use scaler_object_storage::{Keeper, KeeperOptions, ObjectStore, Underlying, Waited};

use crate::common::{get, much_later, until};
use crate::disk::{Call, Fault, FaultyDisk};
use crate::nodes::{World, operation, version_ahead};

/// Invariant 4: whoever waits for what was announced beside it is answered later.
#[test]
fn an_event_that_cannot_be_acted_upon_leaves_no_fetch_behind() {
    let world = World::new(1);
    let disk = FaultyDisk::default();
    let under = Underlying { disk: Arc::new(disk.clone()), ..Underlying::default() };
    let store = world.builder(0).under(under).open().unwrap();
    store.put(b"held", b"data", b"").unwrap();
    world.until_all_is_heard_by(&store);
    let waiter = std::thread::spawn({
        let store = store.clone();
        move || store.wait(b"id", much_later(), None).unwrap()
    });
    until("it waits", || store.info().waiting_requests == 1);

    let has_failed = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&has_failed);
    disk.set(move |attempt| {
        let is_failing = attempt.call == Call::Write && attempt.amount > 0;
        noted.fetch_or(is_failing, Ordering::SeqCst);
        is_failing.then_some(Fault::Refused(libc::EIO))
    });
    world.announce(&[operation(1, b"id", 1), operation(2, b"held", version_ahead())]);
    until("the disk has failed", || has_failed.load(Ordering::SeqCst));
    disk.heal();
    let writer = ObjectStore::builder().redis(world.redis.url()).open().unwrap();
    writer.put(b"id", b"data", b"").unwrap();
    assert!(matches!(waiter.join().unwrap(), Waited::Object(object) if object.data == "data"));
    until("the event is acted upon after all", || store.get(b"held").unwrap().is_none());
}

/// Invariant 11: what is told of a version that no clock will ever reach is exceeded as far as that goes, and nothing else is drawn into it.
#[test]
fn a_version_at_the_end_of_all_time_harms_no_other_id() {
    let world = World::new(1);
    let store = world.open(0);
    world.until_all_is_heard_by(&store);
    world.announce(&[operation(2, b"id", u64::MAX), operation(1, b"other", u64::MAX)]);
    world.until_all_is_heard_by(&store);
    store.put(b"id", b"data", b"").unwrap();
    store.put(b"other", b"data", b"").unwrap();
    let writer = ObjectStore::builder().redis(world.redis.url()).open().unwrap();
    until("it is pushed", || writer.get(b"other").unwrap().is_some());
    writer.put(b"other", b"new", b"").unwrap();
    until("a later write wins", || get(&store, b"other").data == "new");
}

/// What Redis does not have is the keeper's to push when it is back; a process that ends need not wait for that.
#[test]
fn an_attached_process_does_not_wait_for_a_redis_that_is_away() {
    let mut world = World::new(1);
    let builder = |world: &World| world.builder(0).redis_options(|options| options.drain_timeout_ms = 3_600_000);
    let store = builder(&world).open().unwrap();
    let keeper = Keeper::listen(&store, builder(&world).config(), KeeperOptions::default()).unwrap();
    let attached = builder(&world).attach().unwrap();
    world.redis.kill();
    attached.put(b"id", b"data", b"").unwrap();
    attached.close().unwrap();
    world.redis.restart();
    let elsewhere = ObjectStore::builder().redis(world.redis.url()).open().unwrap();
    until("it is pushed", || elsewhere.get(b"id").is_ok_and(|object| object.is_some()));
    keeper.close();
}
