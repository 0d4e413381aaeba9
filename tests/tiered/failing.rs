//! A disk that fails while other nodes are heard.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use scaler_object_storage::{ObjectStore, Underlying, Waited};

use crate::common::{much_later, until};
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
