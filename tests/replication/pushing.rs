//! One record holds back no other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use scaler_object_storage::{ObjectStore, RedisOptions, ReplicationStats};
use tracing::Level;

use crate::common::redis::{Mode, Proxy, RedisServer};
use crate::common::{bytes, until};
use crate::log;
use crate::world::{World, key, number, stands};

/// A delete that waits for a moment is no sign of a Redis that takes nothing: puts wait for it to have made room, and are not refused.
#[test]
fn puts_are_not_refused_because_deletes_wait() {
    let world = World::new(1);
    let redis = RedisServer::start();
    let store = world.builder(0, &redis.url(), |options| options.settle_ms = 100).max_size_mb(16).open().unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..2_u32 {
            let (store, is_over) = (&store, &is_over);
            scope.spawn(move || {
                for number in 0_u32.. {
                    if is_over.load(Ordering::SeqCst) {
                        break;
                    }
                    let id = format!("unknown {thread} {number}");
                    store.delete(id.as_bytes()).unwrap();
                }
            });
        }
        let put = |number: u64| store.put(format!("id-{number}").as_bytes(), &bytes(number, 256 << 10), b"");
        let refused: Vec<_> = (0..200).filter_map(|number| put(number).err()).collect();
        is_over.store(true, Ordering::SeqCst);
        assert!(refused.is_empty(), "{} of 200 refused: {}", refused.len(), refused[0]);
    });
}

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

/// A store with so many records of 2000 bytes that Redis has yet to get, more than go together, and then what `put` writes, and as many again.
fn backlog(world: &World, proxy: &Proxy, url: &str, records: u64, put: impl FnOnce(&ObjectStore)) -> ObjectStore {
    proxy.set(Mode::Refuse);
    let store = world.open(0, url, |options| options.settle_ms = 600_000);
    let write = |name: &str| {
        for number in 0..records {
            store.put(format!("{name} {number}").as_bytes(), &bytes(number, 2000), b"").unwrap();
        }
    };
    write("before");
    put(&store);
    write("after");
    store
}

fn replication(store: &ObjectStore) -> ReplicationStats {
    store.stats().unwrap().replication.unwrap()
}

/// How many objects of the backlog Redis has.
fn objects(redis: &RedisServer) -> u64 {
    redis.command::<Vec<String>>(&["KEYS", "scaler:obj:6*"]).len() as u64
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

/// Nothing is wrong with records that are not read any more because the store is closed.
#[test]
fn closing_in_the_middle_of_a_backlog_sets_nothing_apart() {
    let world = World::new(1);
    let redis = RedisServer::start();
    let proxy = Proxy::to(&redis);
    proxy.set(Mode::Refuse);
    let store = world.open(0, &redis.url_at(proxy.port()), |options| options.drain_timeout_ms = 100);
    for number in 0..20_000_u64 {
        store.put(format!("id {number}").as_bytes(), &bytes(number, 100), b"").unwrap();
    }
    proxy.set(Mode::Delay(Duration::from_millis(700)));
    until("it pushes", || objects(&redis) > 0);
    store.close().unwrap();
    until("its threads have ended", || number(&redis, "connected_clients") == 1);
    assert!(!log::has(Level::WARN, &["the object store is closed", "stays here until it can be read"]));
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

/// Where connections break whatever goes over them, no record is at fault, and all of them come through in the end.
#[test]
fn a_backlog_comes_through_connections_that_break_again_and_again() {
    const RECORDS: u64 = 3000;
    let world = World::new(1);
    let redis = RedisServer::start();
    let proxy = Proxy::to(&redis);
    let store = backlog(&world, &proxy, &redis.url_at(proxy.port()), RECORDS, |_| ());
    proxy.set(Mode::ResetAfter(3_000_000));
    until("all are pushed", || objects(&redis) == 2 * RECORDS);
    proxy.set(Mode::Normal);
    store.put(b"then", b"data", b"").unwrap();
    until("it goes on", || stands(&redis, "then"));
    assert!(proxy.resets() > 3, "{}", proxy.resets());
    for name in ["before", "after"] {
        for number in 0..RECORDS {
            assert!(stands(&redis, &format!("{name} {number}")), "{name} {number}");
        }
    }
    assert!(!log::has(Level::WARN, &["breaks the connection each time", "with 2000 bytes"]));
}

/// A hung Redis ends no question of its own accord: a delete is answered all the same, also while a want is on its way.
#[test]
fn a_delete_of_what_is_not_here_is_answered_while_redis_hangs() {
    let world = World::new(1);
    let redis = RedisServer::start();
    let store = world.open(0, &redis.url(), |options| {
        (options.connect_timeout_ms, options.response_timeout_ms) = (600_000, 600_000);
    });
    store.put(b"id", b"data", b"").unwrap();
    until("it is pushed", || stands(&redis, "id"));
    let waiting = store.clone();
    let waiter = std::thread::spawn(move || waiting.wait(b"awaited", crate::common::much_later(), None));
    until("it waits", || store.info().waiting_requests == 1);
    redis.pause();
    // Long enough for the waiter to be looked after, and others to be asked for what it waits for.
    std::thread::sleep(Duration::from_secs(3));
    // Otherwise this would hang for as long as Redis may take for its answers, longer than any test.
    for number in 0..20 {
        assert!(!store.delete(format!("unknown {number}").as_bytes()).unwrap());
    }
    redis.resume();
    store.put(b"awaited", b"data", b"").unwrap();
    waiter.join().unwrap().unwrap();
}

/// Invariants 5 and 8: an object may be written here, pushed, settled and evicted while a fetch is under way that read what stood before.
#[test]
fn a_fetch_that_outlives_a_put_and_its_eviction_installs_nothing_old() {
    for delay_ms in [2000, 4000, 8000, 16_000] {
        let world = World::new(2);
        let redis = RedisServer::start();
        let proxy = Proxy::to(&redis);
        let there = world.open(1, &redis.url(), |_| {});
        there.put(b"id", &bytes(1, 1000), b"").unwrap();
        until("it is shared", || stands(&redis, "id"));
        let url = redis.url_at(proxy.port());
        // The fetch connects while replies are late, so its time limit for that is above all delays.
        let change = |options: &mut RedisOptions| (options.settle_ms, options.connect_timeout_ms) = (10, 60_000);
        let here = world.builder(0, &url, change).max_size_mb(16).open().unwrap();
        here.put(b"first", b"", b"").unwrap();
        until("it pushes", || stands(&redis, "first"));
        proxy.set(Mode::Delay(Duration::from_millis(delay_ms)));
        redis.command::<String>(&["CONFIG", "RESETSTAT"]);
        let getting = here.clone();
        let getter = std::thread::spawn(move || getting.get(b"id"));
        until("Redis was asked", || redis.command::<String>(&["INFO", "commandstats"]).contains("cmdstat_getrange"));
        std::thread::sleep(Duration::from_millis(20));
        proxy.set(Mode::Normal);
        here.put(b"id", &bytes(2, 1000), b"").unwrap();
        until("it is evicted", || {
            for number in 0..45_u64 {
                here.put(format!("other {number}").as_bytes(), &bytes(number, 300_000), b"").unwrap();
            }
            here.get_here(b"id").unwrap().is_none()
        });
        if getter.is_finished() {
            continue; // too slow for this delay
        }
        getter.join().unwrap().unwrap();
        assert!(here.get(b"id").unwrap().unwrap().data == bytes(2, 1000), "what stood before came back");
        return;
    }
    panic!("no fetch took long enough");
}
