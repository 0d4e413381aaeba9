use scaler_object_storage::{ObjectStore, ObjectStoreBuilder};

use crate::common::until;
use crate::nodes::World;
use crate::order::reader;
use crate::wall::Wall;
use crate::{HOUR, WRONG};

/// How long objects live: longer than any test runs, shorter than clocks are wrong.
const TTL_SECONDS: u64 = HOUR as u64 / 2;

fn living(builder: ObjectStoreBuilder) -> ObjectStoreBuilder {
    builder.redis_options(|options| options.object_ttl_seconds = TTL_SECONDS)
}

fn open(world: &World, node: usize) -> ObjectStore {
    living(world.builder(node)).open().unwrap()
}

#[track_caller]
fn has(store: &ObjectStore, id: &[u8]) {
    let object = store.get(id).unwrap().unwrap_or_else(|| panic!("{} is gone", id.escape_ascii()));
    assert_eq!(object.data, "data");
    assert!(store.contains(id).unwrap());
}

fn remaining_ms(world: &World, id: &str) -> i64 {
    let key = id.bytes().fold("scaler:obj:".to_string(), |key, byte| format!("{key}{byte:02x}"));
    world.redis.command(&["PTTL", &key])
}

/// Lifetimes are measured on Redis's clock, by whichever node.
#[test]
fn an_object_lives_no_shorter_whatever_a_nodes_clock_says() {
    let wall = Wall::take();
    for wrong in WRONG {
        let world = World::new(2);
        let (a, b) = (open(&world, 0), wall.at(wrong, || open(&world, 1)));
        let redis = living(ObjectStore::builder().redis(world.redis.url())).open().unwrap();
        // Stored by a clock that is right; the clock of who reads is wrong.
        for (store, id) in [(&a, "tiered"), (&redis, "redis")] {
            store.put(id.as_bytes(), b"data", b"").unwrap();
            until("Redis has it", || redis.get(id.as_bytes()).unwrap().is_some());
            wall.at(wrong, || [&a, &b, &redis].map(|store| has(store, id.as_bytes())));
        }
        // And the other way round.
        for (store, id) in [(&a, "tiered, wrong"), (&b, "tiered, always wrong"), (&redis, "redis, wrong")] {
            wall.at(wrong, || store.put(id.as_bytes(), b"data", b"").unwrap());
            until("Redis has it, with its lifetime", || remaining_ms(&world, id) > 0);
            for store in [&a, &b, &redis] {
                has(store, id.as_bytes());
            }
        }
        assert!(a.duplicate(b"tiered", b"copy").unwrap());
        wall.at(wrong, || has(&a, b"copy"));
    }
}

/// Without Redis, a lifetime goes by this machine's clock, and not by what that is set to meanwhile.
#[test]
fn an_object_that_is_not_shared_lives_no_shorter_wherever_the_clock_is_set() {
    let wall = Wall::take();
    for wrong in WRONG {
        let directory = tempfile::tempdir().unwrap();
        let lifetime = std::time::Duration::from_secs(TTL_SECONDS);
        let memory = ObjectStore::builder().memory().object_ttl(lifetime).open().unwrap();
        let local = ObjectStore::builder().local(directory.path()).object_ttl(lifetime).open().unwrap();
        for store in [&memory, &local] {
            store.put(b"before", b"data", b"").unwrap();
            wall.at(wrong, || {
                has(store, b"before");
                store.put(b"meanwhile", b"data", b"").unwrap();
                has(store, b"meanwhile");
            });
            has(store, b"before");
            has(store, b"meanwhile");
        }
        // Behind at the next start, it is only found later that the time is over; ahead, there is nothing to tell that by.
        local.close().unwrap();
        let open = || ObjectStore::builder().local(directory.path()).object_ttl(lifetime).open().unwrap();
        let local = wall.at(wrong.min(0), open);
        has(&local, b"before");
        has(&local, b"meanwhile");
    }
}

/// Before Redis has told the time, it is as late as when the node last heard of others.
#[test]
fn an_object_outlives_an_open_without_redis_whatever_the_clock_says() {
    let wall = Wall::take();
    for wrong in WRONG {
        let mut world = World::new(1);
        let store = open(&world, 0);
        store.put(b"before", b"data", b"").unwrap();
        until("Redis has it", || reader(&world).get(b"before").unwrap().is_some());
        store.close().unwrap();
        world.redis.kill();

        wall.set(wrong);
        let store = open(&world, 0);
        assert_eq!(store.get(b"before").unwrap().unwrap().data, "data");
        store.put(b"without", b"data", b"").unwrap();
        assert_eq!(store.get(b"without").unwrap().unwrap().data, "data");
        store.close().unwrap();

        // Its lifetime begins when Redis is told of it, by whichever open.
        let store = open(&world, 0);
        assert_eq!(store.get(b"without").unwrap().unwrap().data, "data");
        world.redis.restart();
        until("Redis has it", || reader(&world).get(b"without").unwrap().is_some());
        let remaining = remaining_ms(&world, "without");
        // What is not known exactly of the time lengthens it, by milliseconds.
        assert!((1..2 * TTL_SECONDS as i64 * 1000).contains(&remaining), "{remaining}");
        wall.set(0);
        assert_eq!(store.get(b"before").unwrap().unwrap().data, "data");
        has(&store, b"without");
    }
}
