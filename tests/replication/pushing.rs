//! One record holds back no other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use scaler_object_storage::RedisOptions;
use tracing::Level;

use crate::common::redis::{Mode, Proxy, RedisServer};
use crate::common::{bytes, much_later, until};
use crate::log;
use crate::world::{World, backlog, key, number, objects, replication, stands};

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

/// While so many records stand apart that only deletes are pushed, those that are refused as well do not come to stand there too.
#[test]
fn however_much_redis_refuses_what_stands_apart_is_bounded() {
    const APART_MAX: u64 = 4096;
    const UNDER_WAY_MAX: u64 = 2 * 1024;
    let world = World::new(1);
    let redis = RedisServer::start();
    let store = world.open(0, &redis.url(), |_| ());
    store.put(b"before", b"data", b"").unwrap();
    until("it is pushed", || stands(&redis, "before"));
    redis.cli(&["ACL", "SETUSER", "default", "resetkeys", "%R~*", "~scaler:obj:_*"]);
    for number in 0..APART_MAX + 500 {
        store.put(format!("id {number}").as_bytes(), b"data", b"").unwrap();
    }
    until("it is full", || replication(&store).held_records >= APART_MAX);
    let refusals = replication(&store).refusals;
    const DELETES: u64 = 5000;
    for number in 0..DELETES {
        store.delete(format!("unknown {number}").as_bytes()).unwrap();
    }
    until("all are refused", || replication(&store).refusals >= refusals + DELETES);
    assert!(replication(&store).held_records <= APART_MAX + UNDER_WAY_MAX);
    redis.cli(&["ACL", "SETUSER", "default", "allkeys"]);
    until("all are pushed", || (0..DELETES).all(|number| stands(&redis, &format!("unknown {number}"))));
}

/// What was refused while Redis was full is pushed when it has room, and what is new, though another record goes on to be refused.
#[test]
fn after_redis_was_full_a_record_that_is_refused_for_another_reason_holds_back_no_other() {
    let world = World::new(1);
    let redis = RedisServer::start();
    let store = world.open(0, &redis.url(), |_| ());
    redis.cli(&["RPUSH", &key("list"), "x"]);
    store.put(b"list", b"data", b"").unwrap();
    until("it is refused", || replication(&store).held_records == 1);
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    store.put(b"also", b"data", b"").unwrap();
    until("both are refused", || replication(&store).held_records == 2);
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    store.put(b"new", b"data", b"").unwrap();
    until("the others are pushed", || stands(&redis, "also") && stands(&redis, "new"));
    assert_eq!(replication(&store).held_records, 1);
}

/// They may make room, as those of objects that were evicted here.
#[test]
fn while_redis_is_full_deletes_of_what_is_not_here_are_pushed() {
    let world = World::new(1);
    let redis = RedisServer::start();
    let store = world.open(0, &redis.url(), |_| ());
    store.put(b"before", b"data", b"").unwrap();
    until("it is pushed", || stands(&redis, "before"));
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    store.put(b"refused", b"data", b"").unwrap();
    until("it is refused", || replication(&store).held_records == 1);
    for id in ["one", "another"] {
        store.delete(id.as_bytes()).unwrap();
        until("its tombstone stands", || stands(&redis, id));
    }
    assert!(!stands(&redis, "refused"));
}

/// It was settled, and another node wants it: until its manifest stands and is made to stay, its chunks expire.
#[test]
fn the_chunks_of_a_wanted_object_stay_though_the_connection_broke_before_they_were_made_to() {
    let world = World::new(2);
    let redis = RedisServer::start();
    let proxy = Proxy::to(&redis);
    let store = world.open(0, &redis.url_at(proxy.port()), |options| options.settle_ms = 100);
    store.put(b"wanted", &bytes(1, 2 << 20), b"").unwrap();
    until("it has settled", || replication(&store).unsettled_bytes == 0 && replication(&store).dirty_records == 0);
    let other = world.open(1, &redis.url(), |_| ());
    other.put(b"first", b"data", b"").unwrap();
    until("it is pushed", || stands(&redis, "first"));
    let chunks = || redis.command::<Vec<String>>(&["KEYS", &format!("{}:*", key("wanted"))]);
    let lives = || chunks().iter().map(|chunk| redis.command::<i64>(&["TTL", chunk])).collect::<Vec<_>>();
    chunks().iter().for_each(|chunk| drop(redis.cli(&["DEL", chunk])));
    proxy.set(Mode::Delay(Duration::from_millis(400)));
    redis.cli(&["DEL", &key("wanted")]);
    std::thread::scope(|scope| {
        scope.spawn(|| other.wait(b"wanted", much_later(), None).unwrap());
        until("its manifest stands", || stands(&redis, "wanted"));
        proxy.set(Mode::Refuse);
        proxy.set(Mode::Normal);
    });
    until("they stay", || lives() == [-1, -1]);
}

/// A connection may have ended long before, which says nothing of Redis.
#[test]
fn what_was_put_before_a_close_is_pushed_though_the_connection_has_ended() {
    let redis = RedisServer::start();
    for _ in 0..5 {
        let world = World::new(1);
        let store = world.open(0, &redis.url(), |_| ());
        store.put(b"before", b"data", b"").unwrap();
        until("it is pushed", || replication(&store).dirty_records == 0 && stands(&redis, "before"));
        redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
        store.put(b"id", b"data", b"").unwrap();
        store.close().unwrap();
        assert!(stands(&redis, "id"));
        redis.cli(&["FLUSHALL"]);
    }
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
