//! A record that breaks the connection each time is set aside, by its name, and holds back no other.

use scaler_object_storage::{ObjectStore, Waited};
use tracing::Level;

use crate::common::redis::{Mode, Proxy, RedisServer};
use crate::common::{bytes, much_later, until};
use crate::log;
use crate::world::{World, backlog, key, objects, replication, stands};

/// With `proto-max-bulk-len` at its least, a value of a whole chunk breaks every connection that it comes by.
#[test]
fn a_record_that_breaks_the_connection_is_set_aside_and_named() {
    let world = World::new(1);
    let redis = RedisServer::settings().line("proto-max-bulk-len 1mb").start();
    let store = world.open(0, &redis.url(), |options| options.settle_ms = 600_000);
    for number in 0..100 {
        store.put(format!("before {number}").as_bytes(), b"data", b"").unwrap();
    }
    store.put(b"too large", &bytes(1, 1 << 20), b"").unwrap();
    for number in 0..100 {
        store.put(format!("after {number}").as_bytes(), b"data", b"").unwrap();
    }
    store.delete(b"after 0").unwrap();
    until("all others are pushed", || (1..100).all(|number| stands(&redis, &format!("after {number}"))));
    let named = || log::count(Level::WARN, &["746f6f206c61726765 with 1048576 bytes", "proto-max-bulk-len"]);
    until("it is named", || named() == 1);
    assert!(store.get_here(b"too large").unwrap().is_some() && !stands(&redis, "too large"));
    store.put(b"later", b"data", b"").unwrap();
    until("it goes on so", || stands(&redis, "later"));
    assert!(store.get(b"too large").unwrap().is_some());
    until("it is tried again", || log::has(Level::DEBUG, &["746f6f206c61726765 has broken the connection again"]));
    assert_eq!(named(), 1);
}

/// Several batches are under way when the connection breaks, and any record of theirs may be the one.
#[test]
fn a_record_that_breaks_the_connection_is_found_deep_in_a_backlog() {
    const RECORDS: u64 = 3000;
    let world = World::new(1);
    let redis = RedisServer::settings().line("proto-max-bulk-len 1mb").start();
    let proxy = Proxy::to(&redis);
    let put = |store: &ObjectStore| store.put(b"too large", &bytes(1, 1 << 20), b"").unwrap();
    let store = backlog(&world, &proxy, &redis.url_at(proxy.port()), RECORDS, put);
    proxy.set(Mode::Normal);
    until("all others are pushed", || objects(&redis) == 2 * RECORDS);
    let named = "746f6f206c61726765 with 1048576 bytes";
    until("it is named", || log::has(Level::WARN, &[named, "proto-max-bulk-len"]));
    assert!(store.get_here(b"too large").unwrap().is_some() && !stands(&redis, "too large"));
    assert!(stands(&redis, "before 0") && stands(&redis, &format!("after {}", RECORDS - 1)));
}

/// Redis refused it at first, so that it stands apart, and goes with whatever is new.
#[test]
fn a_record_that_was_refused_and_then_breaks_the_connection_holds_back_no_other() {
    let world = World::new(1);
    let redis = RedisServer::start();
    let store = world.open(0, &redis.url(), |options| options.settle_ms = 600_000);
    store.put(b"before", b"data", b"").unwrap();
    until("it is pushed", || stands(&redis, "before"));
    let but_large = ["~scaler:obj:6[0-9a-b]*", "~scaler:obj:_*", "%R~*"];
    redis.cli(&[&["ACL", "SETUSER", "default", "resetkeys"], &but_large[..]].concat());
    store.put(b"large", &bytes(1, 1 << 20), b"").unwrap();
    until("it is refused", || replication(&store).refusals > 0);
    redis.cli(&["CONFIG", "SET", "proto-max-bulk-len", "1mb"]);
    store.put(b"after", b"data", b"").unwrap();
    until("it is named", || log::has(Level::WARN, &["6c61726765 with 1048576 bytes", "proto-max-bulk-len"]));
    until("what came after it is pushed", || stands(&redis, "after"));
}

/// Redis was full, and refuses nothing any more, but a record that breaks connections still stands apart.
#[test]
fn after_redis_was_full_pushing_goes_on_though_a_record_is_set_aside() {
    let world = World::new(1);
    let redis = RedisServer::settings().line("proto-max-bulk-len 1mb").start();
    let store = world.open(0, &redis.url(), |_| ());
    store.put(b"too large", &bytes(1, 1 << 20), b"").unwrap();
    until("it is set aside", || replication(&store).held_records == 1);
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    store.put(b"refused", &bytes(2, 1000), b"").unwrap();
    until("it is refused", || replication(&store).refusals > 0);
    store.delete(b"refused").unwrap();
    until("that is pushed", || stands(&redis, "refused"));
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    store.put(b"after", b"data", b"").unwrap();
    until("it goes on", || stands(&redis, "after"));
}

/// Redis has lost single records that had settled long before, and one of them breaks the connection now.
#[test]
fn of_records_that_redis_has_lost_one_that_breaks_the_connection_is_found() {
    const RECORDS: u64 = 40;
    let world = World::new(1);
    let redis = RedisServer::start();
    let id = |number: u64| format!("id {number}");
    let store = world.open(0, &redis.url(), |options| options.settle_ms = 100);
    for number in 0..RECORDS {
        store.put(id(number).as_bytes(), &bytes(number, 100), b"").unwrap();
    }
    store.put(b"large", &bytes(1, 1 << 20), b"").unwrap();
    until("all have settled", || replication(&store).unsettled_bytes == 0 && replication(&store).dirty_records == 0);
    store.close().unwrap();
    let store = world.open(0, &redis.url(), |options| options.settle_ms = 600_000);
    store.put(b"first", b"data", b"").unwrap();
    until("it hears", || replication(&store).last_event_seconds.is_some());
    redis.cli(&["CONFIG", "SET", "proto-max-bulk-len", "1mb"]);
    for number in 0..RECORDS {
        redis.cli(&["DEL", &key(&id(number))]);
    }
    redis.cli(&["DEL", &key("large")]);
    redis.cli(&["DEL", "scaler:obj:_events"]);
    until("they are suspect", || replication(&store).has_suspects);
    for number in 0..RECORDS {
        store.get(id(number).as_bytes()).unwrap();
    }
    store.get(b"large").unwrap();
    until("it is named", || log::has(Level::WARN, &["6c61726765 with 1048576 bytes", "proto-max-bulk-len"]));
    store.put(b"after", b"data", b"").unwrap();
    until("all others are pushed", || {
        stands(&redis, "after") && (0..RECORDS).all(|number| stands(&redis, &id(number)))
    });
}

/// One record that Redis cannot take is no sign of a Redis that takes nothing: puts wait for the others to have made room.
#[test]
fn puts_are_not_refused_because_a_record_is_set_aside() {
    let world = World::new(1);
    let redis = RedisServer::settings().line("proto-max-bulk-len 1mb").start();
    let store = world.builder(0, &redis.url(), |options| options.settle_ms = 1000).max_size_mb(16).open().unwrap();
    store.put(b"too large", &bytes(1, 1 << 20), b"").unwrap();
    until("it is set aside", || replication(&store).held_records == 1);
    let put = |number: u64| store.put(format!("id-{number}").as_bytes(), &bytes(number, 256 << 10), b"");
    let refused: Vec<_> = (0..200).filter_map(|number| put(number).err()).collect();
    assert!(refused.is_empty(), "{} of 200 refused: {}", refused.len(), refused[0]);
}

/// It is tried again a second after it was found, and a close that waited for that would always send it once more.
#[test]
fn closing_does_not_wait_for_a_record_that_is_set_aside() {
    let redis = RedisServer::settings().line("proto-max-bulk-len 1mb").start();
    let proxy = Proxy::to(&redis);
    let closes_at_once = |_| {
        let world = World::new(1);
        let store = world.open(0, &redis.url_at(proxy.port()), |_| ());
        store.put(b"too large", &bytes(1, 1 << 20), b"").unwrap();
        until("it is set aside", || replication(&store).held_records == 1);
        let before = proxy.bytes();
        store.close().unwrap();
        let left = ["Redis does not have everything yet", world.directory(0).to_str().unwrap()];
        assert!(log::has(Level::WARN, &left));
        proxy.bytes() - before < 40_000
    };
    // Not on a machine that stands still for a second now.
    assert!((0..5).any(closes_at_once));
}

/// Records that Redis has stand in front of it.
#[test]
fn what_stands_in_front_of_a_record_that_breaks_the_connection_is_not_set_aside() {
    const FILLS: u64 = 3;
    let world = World::new(2);
    let redis = RedisServer::settings().line("proto-max-bulk-len 1mb").start();
    let other = world.open(1, &redis.url(), |_| ());
    let id = |number: u64| format!("fill {number}");
    (0..FILLS).for_each(|number| other.put(id(number).as_bytes(), b"filled", b"").unwrap());
    until("they stand", || (0..FILLS).all(|number| stands(&redis, &id(number))));
    let store = world.open(0, &redis.url(), |options| options.settle_ms = 600_000);
    store.put(b"before", b"data", b"").unwrap();
    until("it is pushed", || stands(&redis, "before"));
    (0..FILLS).for_each(|number| assert!(store.get(id(number).as_bytes()).unwrap().is_some()));
    store.put(b"behind fills", &bytes(1, 1 << 20), b"").unwrap();
    store.put(b"after", b"data", b"").unwrap();
    until("it is named", || {
        log::has(Level::WARN, &["626568696e642066696c6c73 with", "breaks the connection each time"])
    });
    until("what came after it is pushed", || stands(&redis, "after"));
    assert!(!log::has(Level::WARN, &["object 66696c6c", "breaks the connection"]));
    assert_eq!(replication(&store).held_records, 1);
}

/// Redis has lost it, and another node waits for it.
#[test]
fn a_record_that_breaks_the_connection_whenever_it_is_wanted_is_found() {
    let world = World::new(2);
    let redis = RedisServer::start();
    let store = world.open(0, &redis.url(), |options| options.settle_ms = 100);
    store.put(b"wanted large", &bytes(1, 1 << 20), b"").unwrap();
    until("it has settled", || replication(&store).unsettled_bytes == 0 && replication(&store).dirty_records == 0);
    let other = world.open(1, &redis.url(), |_| ());
    other.put(b"first", b"data", b"").unwrap();
    until("it is pushed", || stands(&redis, "first"));
    redis.cli(&["CONFIG", "SET", "proto-max-bulk-len", "1mb"]);
    redis.cli(&["DEL", &key("wanted large")]);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| other.wait(b"wanted large", much_later(), None).unwrap());
        until("it is named", || log::has(Level::WARN, &["77616e746564206c61726765 with", "breaks the connection"]));
        redis.cli(&["CONFIG", "SET", "proto-max-bulk-len", "512mb"]);
        assert!(matches!(waiting.join().unwrap(), Waited::Object(_)), "and is tried again");
    });
}

/// A newer write of its id has overtaken it, and Redis has that.
#[test]
fn a_record_set_aside_that_does_not_count_any_more_is_not_missed() {
    let world = World::new(1);
    let redis = RedisServer::settings().line("proto-max-bulk-len 1mb").start();
    let store = world.open(0, &redis.url(), |_| ());
    store.put(b"too large", &bytes(1, 1 << 20), b"").unwrap();
    until("it is set aside", || replication(&store).held_records == 1);
    store.delete(b"too large").unwrap();
    until("the tombstone stands", || stands(&redis, "too large"));
    store.close().unwrap();
    let left = ["Redis does not have everything yet", world.directory(0).to_str().unwrap()];
    assert!(!log::has(Level::WARN, &left));
}
