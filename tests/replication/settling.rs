//! Invariant 3: what is not in Redis for good is not forgotten.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use scaler_object_storage::{ObjectStore, Underlying};

use crate::common::redis::{Proxy, RedisServer};
use crate::common::{bytes, get, until};
use crate::disk::{Call, Fault, FaultyDisk};
use crate::world::{World, stands};

fn replica_of(master: &RedisServer) -> RedisServer {
    let replica = RedisServer::settings().replica_of(master).start();
    until("it replicates", || replica.info("master_link_status") == "up");
    replica
}

/// A demoted master goes on to answer, PING as well, and has forgotten what nobody else has.
#[test]
fn what_only_a_demoted_master_acknowledged_is_pushed_to_todays_master() {
    let world = World::new(1);
    let old = RedisServer::start();
    let new = replica_of(&old);
    let proxy = Proxy::to(&old);
    let store = world.open(0, &old.url_at(proxy.port()), |options| options.settle_ms = 1500);
    store.put(b"before", b"data", b"").unwrap();
    until("both have it", || stands(&new, "before"));
    new.cli(&["REPLICAOF", "NO", "ONE"]);
    // The name leads to the new master, connections to the old one stay open.
    proxy.lead_to(&new);
    store.put(b"id", b"data", b"").unwrap();
    until("it is pushed", || stands(&old, "id"));
    old.cli(&["REPLICAOF", "127.0.0.1", &new.port().to_string()]);
    until("it was demoted", || old.info("role") == "slave" && old.info("master_link_status") == "up");
    for id in ["before", "id"] {
        until("today's master has it", || stands(&new, id));
    }
    drop(store);
}

/// The server is the same, and master at every look; but between two of them it was not.
#[test]
fn what_a_master_forgot_while_it_was_none_is_pushed_again() {
    let world = World::new(1);
    let redis = RedisServer::start();
    let other = replica_of(&redis);
    let store = world.open(0, &redis.url(), |options| options.settle_ms = 3000);
    store.put(b"before", b"data", b"").unwrap();
    until("both have it", || stands(&other, "before"));
    other.cli(&["REPLICAOF", "NO", "ONE"]);
    store.put(b"id", b"data", b"").unwrap();
    until("it is pushed", || stands(&redis, "id"));
    redis.cli(&["REPLICAOF", "127.0.0.1", &other.port().to_string()]);
    until("it has what the other has", || redis.info("master_link_status") == "up");
    redis.cli(&["REPLICAOF", "NO", "ONE"]);
    assert!(!stands(&redis, "id"));
    until("it is pushed again", || stands(&redis, "id"));
    drop(store);
}

/// An error is no absence: one descriptor too few at the first push after an open made an object evictable that Redis never had.
#[test]
fn an_object_that_cannot_be_read_for_a_moment_is_pushed_when_it_can() {
    let world = World::new(1);
    let mut redis = RedisServer::start();
    redis.kill();
    let ids = ["small", "large", "huge"];
    let content = |number: usize| bytes(number as u64, [100, 200_000, 3 << 20][number]);
    let change = |options: &mut scaler_object_storage::RedisOptions| {
        options.settle_ms = 200;
        options.drain_timeout_ms = 0;
    };
    let store = world.open(0, &redis.url(), change);
    for (number, id) in ids.iter().enumerate() {
        store.put(id.as_bytes(), &content(number), b"").unwrap();
    }
    store.close().unwrap();

    let disk = FaultyDisk::default();
    let under = Underlying { disk: Arc::new(disk.clone()), ..Underlying::default() };
    let store = world.builder(0, &redis.url(), change).under(under).open().unwrap();
    let refused = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&refused);
    disk.set(move |attempt| {
        let is_refused = attempt.call == Call::Open && attempt.path.to_string_lossy().contains("journal");
        counted.fetch_add(usize::from(is_refused), Ordering::SeqCst);
        is_refused.then_some(Fault::Refused(libc::EMFILE))
    });
    redis.restart();
    store.put(b"new", b"data", b"").unwrap();
    until("a record could not be read", || refused.load(Ordering::SeqCst) > 3);
    until("what can be read is pushed meanwhile", || stands(&redis, "new"));
    disk.heal();
    let reader = ObjectStore::builder().redis(redis.url()).open().unwrap();
    for (number, id) in ids.iter().enumerate() {
        until("it is pushed after all", || stands(&redis, id));
        assert!(get(&reader, id.as_bytes()).data == content(number), "{id}");
    }
    drop(store);
}
