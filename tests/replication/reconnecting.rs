//! What happens when a node comes back to a Redis that others have used meanwhile.

use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use scaler_object_storage::{ObjectStore, RedisOptions, ValueFormat};
use tracing::Level;

use crate::common::redis::{Mode, Proxy, RedisServer};
use crate::common::{bytes, get, until};
use crate::log;
use crate::world::{World, copy, number, stands};

/// An entry of a stream: its id, and its fields with their values.
type Entry = (String, Vec<(String, Vec<u8>)>);

const COUNT: usize = 20;

fn id(number: usize) -> String {
    format!("id-{number}")
}

/// Values of the Python backend have no version. Nothing settles, and a node that is closed pushes first what it has to.
fn unversioned(options: &mut RedisOptions) {
    options.value_format = ValueFormat::Python;
    options.settle_ms = 600_000;
    options.drain_timeout_ms = 240_000;
}

/// Closes a node, which has pushed then everything that it was to push, also what went again.
fn close(node: ObjectStore) {
    node.close().unwrap();
    let place = node.info().place;
    let directory = place.split(" and ").next().unwrap();
    assert!(!log::has(Level::WARN, &["Redis does not have everything yet", directory]), "{directory}");
}

/// Waits until a node has heard everything that was announced so far.
fn until_all_is_heard_by(node: &ObjectStore, redis: &RedisServer) {
    let other = ObjectStore::builder().redis(redis.url()).redis_options(unversioned).open().unwrap();
    node.put(b"heard", b"", b"").unwrap();
    until("it is pushed", || stands(redis, "heard"));
    assert!(other.delete(b"heard").unwrap());
    until("its delete is heard", || node.get(b"heard").unwrap().is_none());
}

/// Objects of `a`, which `b` reads.
fn share(a: &ObjectStore, b: &ObjectStore) {
    for number in 0..COUNT {
        a.put(id(number).as_bytes(), b"of a", b"").unwrap();
    }
    for number in 0..COUNT {
        until("it is pushed", || b.get(id(number).as_bytes()).unwrap().is_some());
    }
}

/// Every second object is deleted, the others are written anew.
fn overrule(b: &ObjectStore, redis: &RedisServer) {
    for number in 0..COUNT {
        match number % 2 {
            0 => assert!(b.delete(id(number).as_bytes()).unwrap()),
            _ => b.put(id(number).as_bytes(), b"of b", b"").unwrap(),
        }
    }
    b.put(b"last", b"of b", b"").unwrap();
    until("b has pushed all", || stands(redis, "last") && !stands(redis, &id(COUNT - 2)));
}

/// What `overrule` has left.
fn overruled(number: usize, name: &str, store: &ObjectStore) {
    let found = store.get(id(number).as_bytes()).unwrap().map(|object| object.data);
    match number % 2 {
        0 => assert!(found.is_none(), "{name} has {number} again, which b has deleted"),
        _ => assert!(found.is_some_and(|data| data == "of b"), "{name}: {number}"),
    }
}

/// Values of the Python backend have no version: what is pushed again without having heard of the others undoes what they did.
#[test]
fn a_reconnect_undoes_nothing_that_others_did_meanwhile_with_values_without_versions() {
    let world = World::new(2);
    let redis = RedisServer::start();
    let proxy = Proxy::to(&redis);
    let a = world.open(0, &redis.url_at(proxy.port()), unversioned);
    let b = world.open(1, &redis.url(), unversioned);
    share(&a, &b);
    proxy.set(Mode::Refuse);
    overrule(&b, &redis);
    a.put(b"late", b"of a", b"").unwrap();
    proxy.set(Mode::Normal);
    until("a has pushed what is new", || stands(&redis, "late"));
    until_all_is_heard_by(&a, &redis);

    let python = ObjectStore::builder().redis(redis.url()).open().unwrap();
    for number in 0..COUNT {
        for (name, store) in [("Redis", &python), ("a", &a), ("b", &b)] {
            overruled(number, name, store);
        }
    }
    close(a);
    for number in 0..COUNT {
        for (name, store) in [("Redis", &python), ("b", &b)] {
            overruled(number, name, store);
        }
    }
}

/// The entry of the cursor is gone, and the node hears what the stream still has behind it: else it would serve what it wrote itself until that
/// has settled.
#[test]
fn what_the_stream_has_behind_a_lost_cursor_is_heard_with_values_without_versions() {
    let world = World::new(2);
    let redis = RedisServer::start();
    let proxy = Proxy::to(&redis);
    let a = world.open(0, &redis.url_at(proxy.port()), unversioned);
    let b = world.open(1, &redis.url(), unversioned);
    share(&a, &b);
    until_all_is_heard_by(&a, &redis);
    proxy.set(Mode::Refuse);
    let before: Vec<Entry> = redis.command(&["XRANGE", "scaler:obj:_events", "-", "+"]);
    overrule(&b, &redis);
    for (entry, _) in before {
        redis.cli(&["XDEL", "scaler:obj:_events", &entry]);
    }
    proxy.set(Mode::Normal);
    for number in 0..COUNT {
        until("a has heard of it", || a.get(id(number).as_bytes()).unwrap().is_none_or(|it| it.data == "of b"));
        overruled(number, "a", &a);
    }
}

/// The same for a node that was killed before it noted how far it had heard.
#[test]
fn what_a_killed_node_left_undoes_nothing_that_others_did_since_with_values_without_versions() {
    let world = World::new(3);
    let redis = RedisServer::start();
    let (a, b) = (world.open(0, &redis.url(), unversioned), world.open(1, &redis.url(), unversioned));
    share(&a, &b);
    copy(world.directory(0), world.directory(2));
    drop(a);
    overrule(&b, &redis);
    let a = world.open(2, &redis.url(), unversioned);
    a.put(b"late", b"of a", b"").unwrap();
    until("a has pushed what is new", || stands(&redis, "late"));
    until_all_is_heard_by(&a, &redis);
    for number in 0..COUNT {
        for (name, store) in [("a", &a), ("b", &b)] {
            overruled(number, name, store);
        }
    }
    close(a);
    let python = ObjectStore::builder().redis(redis.url()).open().unwrap();
    for number in 0..COUNT {
        overruled(number, "Redis", &python);
    }
}

/// Bytes may stay on the way while a connection is long given up.
#[test]
fn what_comes_late_over_a_cut_connection_undoes_nothing_with_values_without_versions() {
    let world = World::new(2);
    let redis = RedisServer::start();
    let proxy = Proxy::to(&redis);
    let a = world.open(0, &redis.url_at(proxy.port()), |options| {
        options.value_format = ValueFormat::Python;
        options.response_timeout_ms = 300;
        options.drain_timeout_ms = 0;
    });
    let b = world.open(1, &redis.url(), |options| options.value_format = ValueFormat::Python);
    share(&a, &b);
    proxy.set(Mode::Blackhole);
    for number in 0..COUNT {
        a.put(id(number).as_bytes(), b"late", b"").unwrap();
    }
    // Longer than an answer is waited for.
    sleep(Duration::from_millis(600));
    drop(a);
    overrule(&b, &redis);
    // Only who asks for it, and what is on the way, has connections then.
    drop(b);
    assert!(number(&redis, "connected_clients") > 1);
    proxy.set(Mode::Normal);
    until("what was on the way came through", || number(&redis, "connected_clients") == 1);
    let python = ObjectStore::builder().redis(redis.url()).open().unwrap();
    for number in 0..COUNT {
        overruled(number, "Redis", &python);
    }
}

/// How many large objects there are: pushing them takes a while.
const LARGE: usize = 300;

/// Large objects of `a`, which `b` reads.
fn share_large(a: &ObjectStore, b: &ObjectStore) {
    for number in 0..LARGE {
        a.put(id(number).as_bytes(), &bytes(number as u64, 200_000), b"").unwrap();
    }
    until("they are pushed", || b.get(id(LARGE - 1).as_bytes()).unwrap().is_some());
}

/// While `a` pushes them again, `b` writes them anew, the last ones first.
fn overtake(b: ObjectStore, redis: &RedisServer, before: u64) {
    until("a pushes again", || number(redis, "total_net_input_bytes") > before + (4 << 20));
    for number in (0..LARGE).rev() {
        b.put(id(number).as_bytes(), b"of b", b"").unwrap();
        if number % 10 == 0 {
            sleep(Duration::from_millis(2));
        }
    }
    close(b);
}

fn of_b(redis: &RedisServer) {
    let python = ObjectStore::builder().redis(redis.url()).open().unwrap();
    for number in 0..LARGE {
        assert_eq!(get(&python, id(number).as_bytes()).data.len(), 4, "{number}");
    }
}

/// What Redis may have forgotten goes again, while others go on writing.
#[test]
fn what_goes_again_undoes_nothing_that_others_do_meanwhile_with_values_without_versions() {
    let world = World::new(2);
    // It may forget, and does not: without this a busy Redis answers before the end of the stream is in its file.
    let mut redis = RedisServer::settings().line("appendonly yes").line("appendfsync always").start();
    let proxy = Proxy::to(&redis);
    let a = world.builder(0, &redis.url_at(proxy.port()), unversioned).max_size_mb(256).open().unwrap();
    let b = world.open(1, &redis.url(), unversioned);
    share_large(&a, &b);
    proxy.set(Mode::Refuse);
    redis.kill();
    redis.restart();
    b.put(b"of b", b"", b"").unwrap();
    until("b is back", || stands(&redis, "of b"));
    a.put(b"of a", b"", b"").unwrap();
    let before = number(&redis, "total_net_input_bytes");
    proxy.set(Mode::Normal);
    overtake(b, &redis, before);
    close(a);
    of_b(&redis);
}

/// The same for what a killed node had pushed, and does not know of.
#[test]
fn what_a_killed_node_left_undoes_nothing_that_others_do_meanwhile_with_values_without_versions() {
    let world = World::new(3);
    let redis = RedisServer::start();
    let open = |node| world.builder(node, &redis.url(), unversioned).max_size_mb(256).open().unwrap();
    let (a, b) = (open(0), open(1));
    share_large(&a, &b);
    copy(world.directory(0), world.directory(2));
    close(a);
    let before = number(&redis, "total_net_input_bytes");
    let a = open(2);
    overtake(b, &redis, before);
    close(a);
    of_b(&redis);
}

/// An event that tells of a write long after now: versions of whoever hears it are above that.
fn announce_ahead(redis: &RedisServer, id: &str) {
    let ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64 + 50_000;
    let (clock, node) = ((ms << 16).to_be_bytes(), 7_u64.to_be_bytes());
    let batch = [&[1, id.len() as u8, 0], id.as_bytes(), &clock, &node].concat();
    let mut add = redis::cmd("XADD");
    add.arg("scaler:obj:_events").arg("*").arg("n").arg(&node[..]).arg("b").arg(batch);
    add.query::<String>(&mut redis.connection()).unwrap();
}

/// Who reads a value does not read its version, so what is written after it may have a lower one.
#[test]
fn a_node_that_is_opened_again_undoes_nothing_though_its_versions_are_higher_with_values_without_versions() {
    let world = World::new(2);
    let redis = RedisServer::start();
    let a = world.open(0, &redis.url(), unversioned);
    a.put(b"first", b"of a", b"").unwrap();
    until("a takes part", || stands(&redis, "first"));
    announce_ahead(&redis, "other");
    // Read until its own event comes after that one.
    until("a has heard that", || {
        a.put(b"probe", b"of a", b"").unwrap();
        sleep(Duration::from_millis(50));
        let events: Vec<Entry> = redis.command(&["XREVRANGE", "scaler:obj:_events", "+", "-", "COUNT", "1"]);
        let batch = &events[0].1[1].1;
        let ms = u64::from_be_bytes(batch[batch.len() - 16..batch.len() - 8].try_into().unwrap()) >> 16;
        u128::from(ms) > SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() + 10_000
    });
    a.put(b"id", b"of a", b"").unwrap();
    until("it is pushed", || stands(&redis, "id"));
    until_all_is_heard_by(&a, &redis);
    drop(a);
    let b = world.open(1, &redis.url(), unversioned);
    until("b reads it", || b.get(b"id").unwrap().is_some_and(|object| object.data == "of a"));
    b.put(b"id", b"of b", b"").unwrap();
    b.put(b"behind it", b"of b", b"").unwrap();
    until("b has pushed all", || stands(&redis, "behind it"));
    let a = world.open(0, &redis.url(), unversioned);
    a.put(b"late", b"of a", b"").unwrap();
    until("a has pushed what is new", || stands(&redis, "late"));
    until_all_is_heard_by(&a, &redis);
    let python = ObjectStore::builder().redis(redis.url()).open().unwrap();
    for store in [&python, &a, &b] {
        assert_eq!(get(store, b"id").data, "of b");
    }
    close(a);
    assert_eq!(get(&python, b"id").data, "of b");
}

/// ... and nothing is lost that has a lower one.
#[test]
fn a_node_that_is_opened_again_pushes_what_it_owes_though_its_versions_are_lower_with_values_without_versions() {
    let world = World::new(3);
    let redis = RedisServer::start();
    let proxy = Proxy::to(&redis);
    let python = ObjectStore::builder().redis(redis.url()).redis_options(unversioned).open().unwrap();
    let a = world.open(0, &redis.url_at(proxy.port()), |options| {
        unversioned(options);
        options.drain_timeout_ms = 0;
    });
    a.put(b"first", b"of a", b"").unwrap();
    until("a takes part", || stands(&redis, "first"));
    python.put(b"id", b"of another", b"").unwrap();
    assert_eq!(get(&a, b"id").data, "of another");
    proxy.set(Mode::Refuse);
    // As what a has read would be announced by a node whose clock is ahead.
    announce_ahead(&redis, "id");
    a.put(b"id", b"of a", b"").unwrap();
    copy(world.directory(0), world.directory(2));
    drop(a);
    let a = world.open(2, &redis.url(), unversioned);
    a.put(b"late", b"of a", b"").unwrap();
    until("a has pushed what is new", || stands(&redis, "late"));
    close(a);
    assert_eq!(get(&python, b"id").data, "of a");
}

/// Everything unsettled goes again after a cut; what stands there already is not sent once more.
#[test]
fn after_a_cut_only_what_redis_lacks_is_sent_again() {
    const BYTES: usize = 600_000;
    let world = World::new(1);
    let redis = RedisServer::start();
    let proxy = Proxy::to(&redis);
    let store = world.open(0, &redis.url_at(proxy.port()), |options| options.settle_ms = 600_000);
    for number in 0..COUNT {
        // The last ones are cut into chunks.
        let size = if number < COUNT - 2 { BYTES } else { 4 * BYTES };
        store.put(id(number).as_bytes(), &bytes(number as u64, size), b"").unwrap();
    }
    let sent = || number(&redis, "total_net_input_bytes");
    let until_pushed = |last: &str| {
        store.put(last.as_bytes(), b"data", b"").unwrap();
        until("it is pushed", || stands(&redis, last));
    };
    until_pushed("last");
    until("the large ones are pushed", || (0..COUNT).all(|number| stands(&redis, &id(number))));
    until_pushed("behind them");
    let before = sent();
    assert!(before > (COUNT * BYTES) as u64);
    redis.cli(&["DEL", &crate::world::key(&id(3))]);
    proxy.reset_all();
    until_pushed("after the cut");
    until("what it lacks is pushed again", || stands(&redis, &id(3)));
    assert!(sent() - before < 2 * BYTES as u64, "{} bytes were sent again", sent() - before);
    let reader = ObjectStore::builder().redis(redis.url()).open().unwrap();
    for number in [0, 3, COUNT - 1] {
        assert!(!get(&reader, id(number).as_bytes()).data.is_empty());
    }
}

/// Of a batch whose answers never came, nobody knows whether Redis has it: what stands there is not sent once more.
#[test]
fn what_was_under_way_at_a_cut_is_looked_for_before_it_is_sent_again() {
    const BYTES: usize = 600_000;
    let world = World::new(1);
    let redis = RedisServer::start();
    let proxy = Proxy::to(&redis);
    let change = |options: &mut RedisOptions| (options.settle_ms, options.response_timeout_ms) = (600_000, 2000);
    let store = world.open(0, &redis.url_at(proxy.port()), change);
    let pushes = |store: &ObjectStore| store.stats().unwrap().replication.unwrap().pushes;
    store.put(b"first", b"data", b"").unwrap();
    until("it pushes", || pushes(&store) == 1);
    proxy.set(Mode::Delay(Duration::from_secs(3600)));
    store.put(b"id", &bytes(1, BYTES), b"").unwrap();
    until("Redis has it", || stands(&redis, "id"));
    until("its answer is waited for no more", || !store.stats().unwrap().replication.unwrap().is_reachable);
    let before = proxy.bytes();
    proxy.set(Mode::Normal);
    until("both are pushed again", || pushes(&store) >= 3);
    assert!(proxy.bytes() - before < BYTES as u64, "{} bytes went over the wire again", proxy.bytes() - before);
}
