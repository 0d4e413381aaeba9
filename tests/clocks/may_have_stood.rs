//! A write that Redis refuses because of a version that no clock can have given is made again above it, but not if it may have stood in Redis
//! before: then whoever wrote what stands there may have known of it.

use std::time::Duration;

use scaler_object_storage::{ObjectStore, ReplicationStats};

use crate::common::redis::{Mode, Proxy};
use crate::common::until;
use crate::nodes::World;
use crate::order::{ahead, comes_to_have, copy_ahead, key, reader};
use crate::wall::Wall;

/// How far the clock of the other node is wrong.
const SECONDS: u64 = 600;

fn replication(node: &ObjectStore) -> ReplicationStats {
    node.stats().unwrap().replication.unwrap()
}

/// A node that reaches Redis by this port, and the Redis, past every node, which has "later" under "other".
fn node_at(world: &World, port: u16) -> (ObjectStore, ObjectStore) {
    node_with(world, port, 2000)
}

/// The same; it waits so long for an answer.
fn node_with(world: &World, port: u16, response_timeout_ms: u64) -> (ObjectStore, ObjectStore) {
    let url = world.redis.url_at(port);
    let node = ObjectStore::builder().tiered(world.directory(0), url);
    let node = node.redis_options(|options| options.response_timeout_ms = response_timeout_ms).open().unwrap();
    let redis = reader(world);
    redis.put(b"other", b"later", b"").unwrap();
    world.until_all_is_heard_by(&node);
    node.put(b"before", b"data", b"").unwrap();
    comes_to_have(&redis, b"before", Some(b"data"));
    (node, redis)
}

/// Closes the node, which pushes first what it has to, and looks what Redis has under `id` then.
fn in_the_end(node: &ObjectStore, redis: &ObjectStore) -> Option<Vec<u8>> {
    node.put(b"last", b"data", b"").unwrap();
    comes_to_have(redis, b"last", Some(b"data"));
    node.close().unwrap();
    redis.get(b"id").unwrap().map(|object| object.data.to_vec())
}

/// A node whose put of `id` Redis refuses at first; and the Redis, past every node.
fn refused_at_first(world: &World, port: u16, but_these: &[&str]) -> (ObjectStore, ObjectStore) {
    let (node, redis) = node_at(world, port);
    world.redis.cli(&[&["ACL", "SETUSER", "default", "resetkeys", "%R~*"], but_these].concat());
    node.put(b"id", b"earlier", b"").unwrap();
    until("it is refused", || replication(&node).refusals > 0);
    (node, redis)
}

/// Another node, which has a clock that is wrong, has read what stands there, and overwrites it.
fn overwritten(world: &World, redis: &ObjectStore, node: &ObjectStore, then: impl FnOnce()) {
    until("Redis has it", || redis.get(b"id").unwrap().is_some());
    copy_ahead(world, "other", "id", SECONDS);
    then();
    until("the later write has come", || node.get(b"id").unwrap().unwrap().data == "later");
    comes_to_have(redis, b"id", Some(b"later"));
}

/// Redis is a replica until it has refused what the node sends, and `copy` is what another node has written to `id` before the node comes again.
fn demoted_for_a_while(world: &World, proxy: &Proxy, node: &ObjectStore, write: impl FnOnce()) {
    let disconnects = replication(node).disconnects;
    world.redis.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    write();
    until("it is refused", || replication(node).disconnects > disconnects);
    proxy.set(Mode::Refuse);
    world.redis.cli(&["REPLICAOF", "NO", "ONE"]);
    let _: u64 = world.redis.command(&["COPY", &key("copy"), &key("id"), "REPLACE"]);
    proxy.set(Mode::Normal);
}

/// Versions: a put that was refused may stand in Redis all the same, once it was sent again over a connection that broke.
#[test]
fn a_put_that_was_refused_and_then_cut_off_undoes_no_later_write() {
    let _wall = Wall::take();
    let world = World::new(1);
    let proxy = Proxy::to(&world.redis);
    let (node, redis) = refused_at_first(&world, proxy.port(), &["~scaler:obj:_*"]);
    let disconnects = replication(&node).disconnects;
    proxy.set(Mode::Delay(Duration::from_secs(3600)));
    world.redis.cli(&["ACL", "SETUSER", "default", "allkeys"]);
    overwritten(&world, &redis, &node, || {
        until("its answer is waited for no more", || replication(&node).disconnects > disconnects);
        proxy.set(Mode::Normal);
    });
}

/// The same for one of which only the event was refused.
#[test]
fn a_put_whose_event_was_refused_undoes_no_later_write() {
    let _wall = Wall::take();
    let world = World::new(1);
    let (node, redis) = refused_at_first(&world, world.redis.port(), &["~scaler:obj:6*", "~scaler:obj:_m*"]);
    overwritten(&world, &redis, &node, || drop(world.redis.cli(&["ACL", "SETUSER", "default", "allkeys"])));
}

/// The same for a delete that was sent ahead of other records, as Redis was full and that might make room.
#[test]
fn a_delete_that_was_sent_while_redis_was_full_undoes_no_later_write() {
    let _wall = Wall::take();
    let world = World::new(1);
    let (node, redis) = node_at(&world, world.redis.port());
    node.put(b"id", b"earlier", b"").unwrap();
    comes_to_have(&redis, b"id", Some(b"earlier"));
    world.redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    node.put(b"more", b"data", b"").unwrap();
    until("Redis is full", || replication(&node).refusals > 0);
    node.delete(b"id").unwrap();
    comes_to_have(&redis, b"id", None);
    let value = ahead(world.redis.command(&["GET", &key("other")]), SECONDS);
    let set: &[u8] = b"#!lua flags=allow-oom\nreturn redis.call('SET', KEYS[1], ARGV[1])";
    let _: String = world.redis.command(&[&b"EVAL"[..], set, b"1", key("id").as_bytes(), &value]);
    world.redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    comes_to_have(&redis, b"more", Some(b"data"));
    assert_eq!(in_the_end(&node, &redis).unwrap(), b"later");
}

/// The same for a large one that others can read, though its chunks cannot be made to stay.
#[test]
fn a_large_put_whose_chunks_may_not_stay_undoes_no_later_write() {
    let _wall = Wall::take();
    let world = World::new(1);
    let (node, redis) = node_at(&world, world.redis.port());
    world.redis.cli(&["ACL", "SETUSER", "default", "-persist"]);
    node.put(b"id", &vec![1; 2 << 20], b"").unwrap();
    until("it is refused", || replication(&node).refusals > 0);
    overwritten(&world, &redis, &node, || drop(world.redis.cli(&["ACL", "SETUSER", "default", "+persist"])));
}

/// The same for a delete that was carried out, though its tombstone was refused.
#[test]
fn a_delete_whose_tombstone_was_refused_undoes_no_later_write() {
    let _wall = Wall::take();
    let world = World::new(1);
    let (node, redis) = node_at(&world, world.redis.port());
    node.put(b"id", b"earlier", b"").unwrap();
    comes_to_have(&redis, b"id", Some(b"earlier"));
    copy_ahead(&world, "other", "copy", SECONDS);
    world.redis.cli(&["ACL", "SETUSER", "default", "-set"]);
    node.delete(b"id").unwrap();
    until("it is refused", || replication(&node).refusals > 0);
    assert!(redis.get(b"id").unwrap().is_none());
    let _: u64 = world.redis.command(&["COPY", &key("copy"), &key("id"), "REPLACE"]);
    world.redis.cli(&["ACL", "SETUSER", "default", "+set"]);
    assert_eq!(in_the_end(&node, &redis).unwrap(), b"later");
}

/// What would have been given to a connection that had ended was not sent.
#[test]
fn a_put_that_finds_the_connection_ended_is_made_again() {
    let _wall = Wall::take();
    let is_made_again = |_| {
        let world = World::new(1);
        let proxy = Proxy::to(&world.redis);
        let (node, redis) = node_at(&world, proxy.port());
        let disconnects = replication(&node).disconnects;
        proxy.set(Mode::Refuse);
        node.put(b"id", b"ours", b"").unwrap();
        until("it is found out", || replication(&node).disconnects > disconnects);
        copy_ahead(&world, "other", "id", SECONDS);
        proxy.set(Mode::Normal);
        in_the_end(&node, &redis).unwrap() == b"ours"
    };
    // Not where the put came before the end.
    assert!((0..5).any(is_made_again));
}

/// Nor was what a server refused that is no master.
#[test]
fn a_put_that_no_master_was_given_is_made_again() {
    let _wall = Wall::take();
    let world = World::new(1);
    let proxy = Proxy::to(&world.redis);
    let (node, redis) = node_at(&world, proxy.port());
    copy_ahead(&world, "other", "copy", SECONDS);
    demoted_for_a_while(&world, &proxy, &node, || node.put(b"id", b"ours", b"").unwrap());
    assert_eq!(in_the_end(&node, &redis).unwrap(), b"ours");
}

/// Nor a delete, whose script that server does not know.
#[test]
fn a_delete_that_no_master_was_given_is_made_again() {
    let _wall = Wall::take();
    let world = World::new(1);
    let proxy = Proxy::to(&world.redis);
    let (node, redis) = node_at(&world, proxy.port());
    copy_ahead(&world, "other", "copy", SECONDS);
    world.redis.cli(&["SCRIPT", "FLUSH"]);
    demoted_for_a_while(&world, &proxy, &node, || _ = node.delete(b"id").unwrap());
    assert_eq!(in_the_end(&node, &redis), None);
}

/// Nor what was written while Redis was away, though Redis has lost everything since.
#[test]
fn a_put_that_was_never_sent_is_made_again_though_redis_was_emptied() {
    let _wall = Wall::take();
    let world = World::new(1);
    let proxy = Proxy::to(&world.redis);
    let (node, redis) = node_at(&world, proxy.port());
    let disconnects = replication(&node).disconnects;
    proxy.set(Mode::Refuse);
    node.put(b"first", b"data", b"").unwrap();
    until("it is found out", || replication(&node).disconnects > disconnects);
    node.put(b"id", b"ours", b"").unwrap();
    let value = ahead(world.redis.command(&["GET", &key("other")]), SECONDS);
    world.redis.cli(&["FLUSHALL"]);
    let _: String = world.redis.command(&[b"SET", key("id").as_bytes(), &value]);
    proxy.set(Mode::Normal);
    comes_to_have(&redis, b"before", Some(b"data"));
    assert_eq!(in_the_end(&node, &redis).unwrap(), b"ours");
}

/// A part of the batch was carried out before the server became a replica.
#[test]
fn a_put_that_was_carried_out_before_the_server_was_demoted_undoes_no_later_write() {
    let _wall = Wall::take();
    let world = World::new(1);
    let proxy = Proxy::to(&world.redis);
    let (node, redis) = node_with(&world, proxy.port(), 20_000);
    copy_ahead(&world, "other", "copy", SECONDS);
    proxy.set(Mode::Delay(Duration::from_millis(500)));
    node.put(b"busy", b"data", b"").unwrap(); // while that is under way the others gather
    until("it is under way", || redis.get(b"busy").unwrap().is_some());
    node.put(b"id", b"earlier", b"").unwrap();
    node.put(b"big", &vec![1; 2 << 20], b"").unwrap();
    until("the chunks stand", || {
        world.redis.keys().iter().filter(|key| key.starts_with(b"scaler:obj:626967:")).count() == 2
    });
    demoted_for_a_while(&world, &proxy, &node, || ());
    assert_eq!(in_the_end(&node, &redis).unwrap(), b"later");
}
