use std::cell::Cell;
use std::thread::sleep;
use std::time::Duration;

use scaler_object_storage::ObjectStore;

use crate::common::{bytes, until};
use crate::nodes::World;

const IDS: [&[u8]; 3] = [b"small", b"large", b"copy"];

/// Whether another node has read everything that is stored on this one before its time was over.
fn are_read(a: &ObjectStore, b: &ObjectStore) -> bool {
    let large = bytes(1, 3 << 20);
    a.put(b"small", b"data", b"").unwrap();
    a.put(b"large", &large, b"").unwrap();
    if !a.duplicate(b"small", b"copy").unwrap() {
        return false;
    }
    let comes = |id: &[u8]| {
        until("it is there, or was", || b.get(id).unwrap().is_some() || a.get_here(id).unwrap().is_none());
        b.get(id).unwrap()
    };
    comes(b"large").is_some_and(|object| object.data == large) && comes(b"small").is_some() && comes(b"copy").is_some()
}

/// Pushing 9: the deadline is that of the object, in every tier.
#[test]
fn an_object_that_has_lived_its_time_is_nowhere() {
    // A slow machine needs more of it.
    for seconds in [2, 8, 32] {
        let world = World::new(2);
        let open =
            |node| world.builder(node).redis_options(|options| options.object_ttl_seconds = seconds).open().unwrap();
        let (a, b) = (open(0), open(1));
        if !are_read(&a, &b) {
            continue;
        }
        for store in [&a, &b] {
            for id in IDS {
                until("its time is over", || store.get_here(id).unwrap().is_none());
                assert!(!store.contains(id).unwrap() && store.get(id).unwrap().is_none());
                assert!(!store.duplicate(id, b"new").unwrap());
            }
        }
        let is_object = |key: &Vec<u8>| key.starts_with(b"scaler:obj:") && !key.starts_with(b"scaler:obj:_");
        until("Redis has forgotten it", || !world.redis.keys().iter().any(is_object));
        a.put(b"small", b"again", b"").unwrap();
        let is_seen = Cell::new(false);
        until("it is there again, or was", || {
            is_seen.set(b.get(b"small").unwrap().is_some_and(|object| object.data == "again"));
            is_seen.get() || a.get_here(b"small").unwrap().is_none()
        });
        if !is_seen.get() {
            continue;
        }
        drop(a);
        sleep(Duration::from_secs(seconds));
        // Until Redis has told the time, it may be there.
        let a = open(0);
        until("its time is over, also after reopening", || a.get(b"small").unwrap().is_none());
        return;
    }
    panic!("half a minute is not enough to read what was just stored");
}
