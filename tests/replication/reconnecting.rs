//! What happens when a node comes back to a Redis that others have used meanwhile.

use std::path::Path;

use scaler_object_storage::{ObjectStore, RedisOptions, ValueFormat};

use crate::common::redis::{Mode, Proxy, RedisServer};
use crate::common::{bytes, get, until};
use crate::world::{World, number, stands};

const COUNT: usize = 20;

fn id(number: usize) -> String {
    format!("id-{number}")
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

/// Values of the Python backend have no version: what is pushed again without having heard of the others undoes what they did.
#[test]
fn a_reconnect_undoes_nothing_that_others_did_meanwhile_with_values_without_versions() {
    let world = World::new(2);
    let redis = RedisServer::start();
    let proxy = Proxy::to(&redis);
    let change = |options: &mut RedisOptions| {
        options.value_format = ValueFormat::Python;
        options.settle_ms = 600_000;
    };
    let a = world.open(0, &redis.url_at(proxy.port()), change);
    let b = world.open(1, &redis.url(), change);
    share(&a, &b);
    proxy.set(Mode::Refuse);
    overrule(&b, &redis);
    a.put(b"late", b"of a", b"").unwrap();
    proxy.set(Mode::Normal);
    until("a has pushed all", || stands(&redis, "late"));

    let python = ObjectStore::builder().redis(redis.url()).open().unwrap();
    for number in 0..COUNT {
        for (name, store) in [("Redis", &python), ("a", &a), ("b", &b)] {
            let found = store.get(id(number).as_bytes()).unwrap().map(|object| object.data);
            match number % 2 {
                0 => assert!(found.is_none(), "{name} has {number} again, which b has deleted"),
                _ => assert!(found.is_some_and(|data| data == "of b"), "{name}: {number}"),
            }
        }
    }
}

/// The same for a node that was killed before it noted how far it had heard.
#[test]
fn what_a_killed_node_left_undoes_nothing_that_others_did_since_with_values_without_versions() {
    let world = World::new(3);
    let redis = RedisServer::start();
    let change = |options: &mut RedisOptions| {
        options.value_format = ValueFormat::Python;
        options.settle_ms = 600_000;
    };
    let (a, b) = (world.open(0, &redis.url(), change), world.open(1, &redis.url(), change));
    share(&a, &b);
    copy(world.directory(0), world.directory(2));
    drop(a);
    overrule(&b, &redis);
    let a = world.open(2, &redis.url(), change);
    a.put(b"late", b"of a", b"").unwrap();
    until("a has pushed all", || stands(&redis, "late"));
    for number in 0..COUNT {
        for store in [&a, &b] {
            let found = store.get(id(number).as_bytes()).unwrap().map(|object| object.data);
            let expected = (number % 2 == 1).then_some("of b");
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{number}");
        }
    }
}

/// What a process leaves that is killed now.
fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
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
