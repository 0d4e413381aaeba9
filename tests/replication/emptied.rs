//! A Redis that has lost everything, and refuses what a node needs to find that out or to act upon it.

use std::thread::sleep;
use std::time::Duration;

use scaler_object_storage::{ObjectStore, ValueFormat};
use tracing::Level;

use crate::common::redis::{Cluster, RedisServer};
use crate::common::{bytes, get, until};
use crate::log;
use crate::world::{World, copy, key, stands};

/// Of the objects that fill a node.
const BYTES: usize = 400_000;

/// What Redis is told, and what makes it well again.
const REFUSALS: [[&[&str]; 2]; 3] = [
    [&["CONFIG", "SET", "maxmemory", "1mb"], &["CONFIG", "SET", "maxmemory", "0"]],
    [&["ACL", "SETUSER", "node", "-set"], &["ACL", "SETUSER", "node", "+set"]],
    [&["ACL", "SETUSER", "node", "-get"], &["ACL", "SETUSER", "node", "+get"]],
];

fn with_user() -> RedisServer {
    RedisServer::settings().user("node", "secret").start()
}

fn open(world: &World, node: usize, redis: &RedisServer) -> ObjectStore {
    world.builder(node, &redis.url(), |options| options.settle_ms = 50).max_size_mb(16).open().unwrap()
}

fn all_settled(store: &ObjectStore) -> bool {
    store.stats().unwrap().replication.is_some_and(|it| it.dirty_records == 0 && it.unsettled_bytes == 0)
}

/// Invariants 3 and 10: what is clean was in the Redis that is gone, and nothing is evicted while Redis does not say that it is the one that it was.
fn evicts_nothing([refuse, allow]: [&[&str]; 2]) {
    for is_killed in [false, true] {
        let (world, redis) = (World::new(2), with_user());
        let store = open(&world, 0, &redis);
        let ids: Vec<_> = (0..32).map(|number| format!("old {number}")).collect();
        for (number, id) in ids.iter().enumerate() {
            store.put(id.as_bytes(), &bytes(number as u64, BYTES), b"").unwrap();
        }
        until("all is settled", || all_settled(&store));
        let is_held = |id: &&String| store.get_here(id.as_bytes()).unwrap().is_some();
        let held: Vec<_> = ids.iter().filter(is_held).collect();
        assert!(held.len() > 20, "{}", held.len());
        redis.cli(&["FLUSHALL"]);
        redis.cli(refuse);
        until("it is noticed", || log::has(Level::WARN, &["not heard", &redis.port().to_string()]));
        let store = if is_killed {
            copy(world.directory(0), world.directory(1));
            drop(store);
            open(&world, 1, &redis)
        } else {
            store
        };
        for number in 0..16 {
            // It may be full.
            let _ = store.put(format!("new {number}").as_bytes(), &bytes(number, 100_000), b"");
        }
        redis.cli(allow);
        until("all that it held is in Redis again", || held.iter().all(|id| stands(&redis, id)));
        for id in held {
            let number = ids.iter().position(|other| other == id).unwrap();
            assert!(get(&store, id.as_bytes()).data == bytes(number as u64, BYTES), "{refuse:?} {is_killed} {id}");
        }
    }
}

#[test]
fn nothing_is_evicted_for_a_redis_that_is_full_and_may_be_another_one() {
    evicts_nothing(REFUSALS[0]);
}

#[test]
fn nothing_is_evicted_for_a_redis_that_takes_no_set_and_may_be_another_one() {
    evicts_nothing(REFUSALS[1]);
}

#[test]
fn nothing_is_evicted_for_a_redis_that_answers_no_get_and_may_be_another_one() {
    evicts_nothing(REFUSALS[2]);
}

/// Invariant 13: that an emptied Redis has nothing of an object does not tell that it was deleted.
#[test]
fn reads_drop_nothing_while_redis_does_not_say_that_it_is_the_one_that_it_was() {
    for value_format in [ValueFormat::Tiered, ValueFormat::Python] {
        for [refuse, allow] in REFUSALS {
            let (world, redis) = (World::new(2), with_user());
            let stores = [0, 1].map(|node| {
                world.open(node, &redis.url(), |options| {
                    // Long enough for tombstones to tell nothing.
                    (options.settle_ms, options.tombstone_ttl_seconds) = (50, 1);
                    options.value_format = value_format;
                })
            });
            stores[0].put(b"id", b"data", b"").unwrap();
            until("both read it", || stores.iter().all(|store| store.get(b"id").unwrap().is_some()));
            // Only values with versions are kept where they were read.
            let holders = if value_format == ValueFormat::Tiered { &stores[..] } else { &stores[..1] };
            until("it is settled", || all_settled(&stores[0]));
            redis.cli(&["FLUSHALL"]);
            redis.cli(refuse);
            let warned = || log::count(Level::WARN, &["not heard", &redis.port().to_string()]) == 2;
            until("both have noticed", warned);
            sleep(Duration::from_millis(1500));
            for store in holders {
                for _ in 0..3 {
                    assert_eq!(get(store, b"id").data, "data", "{value_format:?} {refuse:?}");
                }
            }
            redis.cli(allow);
            until("it is in Redis again", || stands(&redis, "id"));
            assert!(stores.iter().all(|store| get(store, b"id").data == "data"));
        }
    }
}

/// Invariant 4: it has neither the event stream nor the epoch's first part.
#[test]
fn what_a_master_of_a_cluster_has_lost_is_pushed_again_though_nobody_asks() {
    let (world, mut cluster) = (World::new(1), Cluster::start());
    let store = world.open(0, &cluster.url(), |options| options.settle_ms = 50);
    let ids: Vec<_> = (0..30).map(|number| format!("id {number}")).collect();
    ids.iter().for_each(|id| store.put(id.as_bytes(), b"data", b"").unwrap());
    until("all is settled", || all_settled(&store));
    let others =
        ["_events", "_epoch"].map(|name| cluster.node_of(cluster.slot(format!("scaler:obj:{name}").as_bytes())));
    let emptied = (0..3).find(|node| !others.contains(node)).unwrap();
    let objects = |cluster: &Cluster| {
        let keys = cluster.nodes()[emptied].keys();
        keys.iter().filter(|name| ids.iter().any(|id| **name == key(id).as_bytes())).count()
    };
    let before = objects(&cluster);
    assert!(before > 0);
    cluster.restart_node(emptied, || {});
    until("it has them again", || objects(&cluster) == before);
    assert!(log::has(Level::WARN, &["has lost everything", &cluster.nodes()[0].port().to_string()]));
}
