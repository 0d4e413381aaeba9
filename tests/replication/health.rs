//! A node that silently stops taking part.

use scaler_object_storage::{Error, ObjectStore};
use tracing::Level;

use crate::common::redis::RedisServer;
use crate::common::{get, until};
use crate::log;
use crate::world::{World, stands};

fn with_user() -> RedisServer {
    RedisServer::settings().user("node", "secret").start()
}

/// Invariant 5: it cannot hear that an object was deleted, and asks.
#[test]
fn a_node_that_may_not_read_the_stream_serves_nothing_that_was_deleted_and_says_so() {
    let world = World::new(2);
    let redis = with_user();
    let [a, b] = [0, 1].map(|node| world.open(node, &redis.url(), |options| options.settle_ms = 100));
    for id in [b"deleted", b"changed"] {
        a.put(id, b"old", b"").unwrap();
        until("it is held", || b.get(id).unwrap().is_some() && b.get_here(id).unwrap().is_some());
    }
    // The other one hears nothing from here on, but for what its present read brings.
    redis.cli(&["ACL", "SETUSER", "node", "-xread"]);
    until("both say so", || log::count(Level::WARN, &["not heard", "xread", &redis.port().to_string()]) == 2);
    a.delete(b"deleted").unwrap();
    a.put(b"changed", b"new", b"").unwrap();
    // An event alone says nothing: those of what is pushed again come twice.
    until("it is pushed", || a.stats().unwrap().replication.is_some_and(|replication| replication.dirty_records == 0));
    assert!(b.get(b"deleted").unwrap().is_none(), "it was deleted elsewhere");
    assert_eq!(get(&b, b"changed").data, "new");
    for _ in 0..3 {
        assert_eq!(get(&b, b"changed").data, "new");
    }

    redis.cli(&["ACL", "SETUSER", "node", "+xread"]);
    until("it is said, too", || log::has(Level::INFO, &["heard again"]));
    until("it is served from here again", || b.get_here(b"changed").unwrap().is_some());
}

/// Two nodes on which nothing settles; the second one has written `id`, and now neither may read the stream.
fn deaf_nodes(world: &World) -> (RedisServer, [ObjectStore; 2]) {
    let redis = with_user();
    let [a, b] = [0, 1].map(|node| world.open(node, &redis.url(), |options| options.settle_ms = 3_600_000));
    b.put(b"id", b"old", b"").unwrap();
    until("the other one has it", || a.get(b"id").unwrap().is_some());
    redis.cli(&["ACL", "SETUSER", "node", "-xread"]);
    until("both say so", || log::count(Level::WARN, &["not heard", "xread", &redis.port().to_string()]) == 2);
    (redis, [a, b])
}

/// Invariant 5: what it wrote itself a moment ago, too.
#[test]
fn a_node_that_may_not_read_the_stream_checks_what_it_wrote_before_it_settles() {
    let world = World::new(2);
    let (_redis, [a, b]) = deaf_nodes(&world);
    assert_eq!(get(&b, b"id").data, "old");
    a.put(b"id", b"new", b"").unwrap();
    until("it is pushed", || a.stats().unwrap().replication.is_some_and(|replication| replication.dirty_records == 0));
    assert_eq!(get(&b, b"id").data, "new");
}

/// Invariant 5: also while what was pushed is about to be pushed again, over a new connection.
#[test]
fn a_node_that_may_not_read_the_stream_checks_what_it_is_about_to_push_again() {
    let world = World::new(2);
    let (redis, [a, b]) = deaf_nodes(&world);
    a.put(b"id", b"new", b"").unwrap();
    let unpushed = |store: &ObjectStore| store.stats().unwrap().replication.unwrap().dirty_records;
    until("it is pushed", || unpushed(&a) == 0);
    redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    b.put(b"other", b"data", b"").unwrap();
    until("it is about to be pushed again", || unpushed(&b) > 1);
    assert_eq!(get(&b, b"id").data, "new");
}

#[test]
fn a_node_whose_redis_is_a_replica_says_that_nothing_is_pushed() {
    let world = World::new(1);
    let master = RedisServer::start();
    let replica = RedisServer::settings().replica_of(&master).start();
    until("it replicates", || replica.info("master_link_status") == "up");
    let store = world.open(0, &replica.url(), |_| {});
    store.put(b"id", b"data", b"").unwrap();
    until("it is said", || log::has(Level::WARN, &["nothing can be pushed", "READONLY"]));
    assert_eq!(get(&store, b"id").data, "data");
    replica.cli(&["REPLICAOF", "NO", "ONE"]);
    until("it is pushed", || stands(&replica, "id"));
    until("that is said, too", || log::has(Level::INFO, &["pushed to Redis again"]));
}

#[test]
fn a_node_that_may_not_give_one_command_says_which_and_what_that_means() {
    let world = World::new(1);
    let redis = with_user();
    redis.cli(&["ACL", "SETUSER", "node", "-eval", "-persist"]);
    let store = world.open(0, &redis.url(), |_| {});
    until("it is said", || log::has(Level::WARN, &["does not permit EVAL", "overwrites and deletes", "PERSIST"]));
    // While it runs.
    store.put(b"one", b"data", b"").unwrap();
    until("it is pushed", || stands(&redis, "one"));
    redis.cli(&["ACL", "SETUSER", "node", "-set"]);
    store.put(b"id", b"data", b"").unwrap();
    until("it is said", || log::has(Level::WARN, &["refuses object 6964", "NOPERM"]));
    redis.cli(&["ACL", "SETUSER", "node", "+set"]);
    until("it is pushed", || stands(&redis, "id"));
    until("that is said, too", || log::has(Level::INFO, &["takes again what it has refused"]));
}

#[test]
fn a_redis_that_has_refused_something_for_some_seconds_is_told_of_once_with_its_words_and_what_they_mean() {
    let world = World::new(1);
    let redis = RedisServer::start();
    // Somebody else's key stands where the object has to.
    redis.cli(&["SADD", "scaler:obj:7761726e6564", "other"]);
    let store = world.open(0, &redis.url(), |_| {});
    store.put(b"warned", b"data", b"").unwrap();
    let said =
        || log::count(Level::WARN, &["Redis lacks some of what was written here", "WRONGTYPE", "redis.key_prefix"]);
    until("it is said", || said() == 1);
    store.put(b"other", b"data", b"").unwrap();
    until("the other is pushed", || stands(&redis, "other"));
    redis.cli(&["DEL", "scaler:obj:7761726e6564"]);
    until("that it is over is said, too", || log::has(Level::INFO, &["Redis has what it lacked"]));
    assert_eq!(said(), 1);
}

#[test]
fn a_redis_without_a_command_says_which_though_it_quotes_any_bytes() {
    let world = World::new(1);
    let redis = RedisServer::settings().line("rename-command XADD \"\"").start();
    let store = world.open(0, &redis.url(), |_| {});
    store.put(b"\xff\xfe", b"data", b"").unwrap();
    until("it is said", || {
        log::has(Level::WARN, &["nothing can be pushed", "does not serve this store", "unknown command 'XADD'"])
    });
    assert!(!log::has(Level::WARN, &["Parse"]));
    let untold = RedisServer::settings().user("node", "secret").rights("~* &* +@all -time").start();
    let world = World::new(1);
    let _store = world.open(0, &untold.url(), |_| {});
    until("it is said", || log::has(Level::WARN, &["tell the time (TIME)", "NOPERM", "permit this"]));
}

#[test]
fn a_wrong_password_is_said_once_and_is_no_outage() {
    let world = World::new(1);
    let redis = with_user();
    let store = world.open(0, &redis.url().replace("secret", "hush"), |_| {});
    store.put(b"id", b"data", b"").unwrap();
    let port = redis.port().to_string();
    let said = || log::count(Level::WARN, &["does not serve this store", "WRONGPASS", "follows when it does", &port]);
    until("it is said", || said() == 1);
    assert!(store.get(b"missing").is_err_and(|error| matches!(error, Error::Denied { .. })));
    redis.cli(&["ACL", "SETUSER", "node", ">hush"]);
    until("it is pushed", || stands(&redis, "id"));
    assert_eq!(said(), 1);
    assert!(!log::has(Level::WARN, &["cannot be reached", &port]));
}

#[test]
fn a_stop_says_what_redis_lacks_and_nothing_if_it_lacks_nothing() {
    let world = World::new(1);
    let directory = world.directory(0).display().to_string();
    let said = || log::count(Level::WARN, &["does not have everything yet", &directory, "cannot be reached"]);
    let open = || world.open(0, "redis://127.0.0.1:1/0", |options| options.drain_timeout_ms = 100);
    open().close().unwrap();
    let store = open();
    assert!(store.get(b"missing").is_err());
    store.close().unwrap();
    assert_eq!(said(), 0);
    let store = open();
    store.put(b"id", b"data", b"").unwrap();
    store.close().unwrap();
    until("it is said", || said() == 1);
}

#[test]
fn too_few_replicas_are_said_once() {
    let world = World::new(1);
    let redis = RedisServer::start();
    let store = world.open(0, &redis.url(), |options| options.wait_replicas = 1);
    store.put(b"id", b"data", b"").unwrap();
    let said = || log::count(Level::WARN, &["0 of 1 replicas have what was pushed", "redis.wait_replicas"]);
    until("it is said", || said() == 1);
    let _replica = RedisServer::settings().replica_of(&redis).start();
    until("that it is over is said, too", || log::has(Level::INFO, &["the replicas have what was pushed"]));
    assert_eq!(said(), 1);
}

/// Invariants 1 and 3: whether Redis has what an event names cannot be seen, so that what is held here may be all that there is.
#[test]
fn a_node_that_may_not_look_keeps_what_only_it_has() {
    let world = World::new(2);
    let redis = with_user();
    let [a, b] = [0, 1].map(|node| world.open(node, &redis.url(), |options| options.settle_ms = 100));
    a.put(b"id", b"first", b"").unwrap();
    until("it has come", || b.get(b"id").unwrap().is_some());
    // Neither may replace what stands there, nor see it; both may announce.
    redis.cli(&["ACL", "SETUSER", "node", "-get", "-getrange", "-mget", "-eval", "-evalsha"]);
    a.put(b"id", b"second", b"").unwrap();
    // More than the clocks of two nodes differ by.
    std::thread::sleep(std::time::Duration::from_millis(500));
    b.put(b"id", b"third", b"").unwrap();
    let announced = || redis.cli(&["XRANGE", "scaler:obj:_events", "-", "+"]).matches("id").count();
    until("both have announced it", || announced() >= 3);
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(get(&a, b"id").data, "second");
    redis.cli(&["ACL", "SETUSER", "node", "+@all"]);
    until("they agree on the later one", || [&a, &b].iter().all(|node| get(node, b"id").data == "third"));
}
