//! Redis's own clock is set.

use scaler_object_storage::{ObjectStore, ObjectStoreBuilder};

use crate::HOUR;
use crate::common::until;
use crate::liar::Liar;
use crate::nodes::World;
use crate::order::{comes_to_have, reader};
use crate::wall::Wall;

fn living(world: &World, liar: &Liar, node: usize, ttl_seconds: i64) -> ObjectStoreBuilder {
    ObjectStore::builder()
        .tiered(world.directory(node), world.redis.url_at(liar.port()))
        .max_size_mb(256)
        .redis_options(|options| {
            options.connection_pool_size = 2;
            options.response_timeout_ms = 30_000;
            options.object_ttl_seconds = ttl_seconds as u64;
        })
}

/// What is stored before, while and after it is ahead.
#[test]
fn a_redis_whose_clock_jumps_ahead_and_back_costs_nothing() {
    let _wall = Wall::take();
    let world = World::new(2);
    let (liar, redis) = (Liar::to(&world.redis), reader(&world));
    let open = |node| living(&world, &liar, node, HOUR / 2).open().unwrap();
    let a = open(0);
    a.put(b"before", b"data", b"").unwrap();
    a.put(b"overwritten", b"1", b"").unwrap();
    a.put(b"deleted", b"1", b"").unwrap();
    comes_to_have(&redis, b"deleted", Some(b"1"));
    liar.set(HOUR, &[&a], &redis);
    a.put(b"meanwhile", b"data", b"").unwrap();
    a.put(b"overwritten", b"2", b"").unwrap();
    a.put(b"deleted", b"2", b"").unwrap();
    comes_to_have(&redis, b"deleted", Some(b"2"));
    let has = |id: &[u8]| assert_eq!(a.get_here(id).unwrap().map(|object| object.data), Some("data".into()));
    has(b"before");
    liar.set(0, &[&a], &redis);
    a.put(b"after", b"data", b"").unwrap();
    for id in ["before", "meanwhile", "after"] {
        has(id.as_bytes());
    }
    // A node that does not know of the step.
    let b = open(1);
    world.until_all_is_heard_by(&b);
    b.put(b"overwritten", b"3", b"").unwrap();
    b.delete(b"deleted").unwrap();
    comes_to_have(&redis, b"overwritten", Some(b"3"));
    comes_to_have(&redis, b"deleted", None);
    for id in ["before", "meanwhile", "after"] {
        until("the other node has it", || b.get(id.as_bytes()).unwrap().is_some());
    }
}

#[test]
fn a_redis_whose_clock_jumps_back_costs_nothing() {
    let wall = Wall::take();
    let world = World::new(3);
    let (liar, redis) = (Liar::to(&world.redis), reader(&world));
    let open = |node| living(&world, &liar, node, 10 * HOUR).open().unwrap();
    let (a, b) = (open(0), open(1));
    for id in ["overwritten", "deleted", "blind"] {
        a.put(id.as_bytes(), b"1", b"").unwrap();
        comes_to_have(&redis, id.as_bytes(), Some(b"1"));
    }
    liar.set(-HOUR, &[&a, &b], &redis);
    // Their versions have not gone back.
    world.until_all_is_heard_by(&b);
    b.put(b"overwritten", b"2", b"").unwrap();
    b.delete(b"deleted").unwrap();
    comes_to_have(&redis, b"overwritten", Some(b"2"));
    comes_to_have(&redis, b"deleted", None);
    // Nor does one begin with such, which is opened now, on the same machine as Redis.
    wall.at(-HOUR, || {
        let blind = open(2);
        blind.put(b"first", b"", b"").unwrap();
        comes_to_have(&redis, b"first", Some(b""));
        blind.delete(b"blind").unwrap();
        blind.put(b"overwritten", b"3", b"").unwrap();
        comes_to_have(&redis, b"blind", None);
        comes_to_have(&redis, b"overwritten", Some(b"3"));
    });
    until("it is heard", || a.get(b"overwritten").unwrap().is_some_and(|object| object.data == "3"));
}
