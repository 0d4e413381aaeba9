use std::time::Duration;

use crate::common::{bytes, get, until};
use crate::nodes::World;

/// Pushing 9: the deadline is that of the object, in every tier.
#[test]
fn an_object_that_has_lived_its_time_is_nowhere() {
    let world = World::new(2);
    let open = |node| world.builder(node).redis_options(|options| options.object_ttl_seconds = 2).open().unwrap();
    let (a, b) = (open(0), open(1));
    let large = bytes(1, 3 << 20);
    a.put(b"small", b"data", b"").unwrap();
    a.put(b"large", &large, b"").unwrap();
    assert!(a.duplicate(b"small", b"copy").unwrap());
    for id in [&b"small"[..], b"large", b"copy"] {
        until("it is there", || b.get(id).unwrap().is_some());
    }
    assert!(get(&b, b"large").data == large);
    for store in [&a, &b] {
        for id in [&b"small"[..], b"large", b"copy"] {
            until("its time is over", || store.get_here(id).unwrap().is_none());
            assert!(!store.contains(id).unwrap() && store.get(id).unwrap().is_none());
            assert!(!store.duplicate(id, b"new").unwrap());
        }
    }
    let is_object = |key: &Vec<u8>| key.starts_with(b"scaler:obj:") && !key.starts_with(b"scaler:obj:_");
    until("Redis has forgotten it", || !world.redis.keys().iter().any(is_object));
    a.put(b"small", b"again", b"").unwrap();
    until("it is there again", || b.get(b"small").unwrap().is_some_and(|object| object.data == "again"));
    drop(a);
    std::thread::sleep(Duration::from_secs(2));
    assert!(open(0).get(b"small").unwrap().is_none(), "also after reopening");
}
