use scaler_object_storage::ObjectStore;

use crate::common::redis::{Nodes, RedisServer};
use crate::common::{bytes, get, object, until};
use crate::world::nodes;

const MIB: usize = 1 << 20;

fn id(number: u64) -> [u8; 8] {
    number.to_le_bytes()
}

/// None stands in chunks, which stay for a minute after a delete, for their readers.
fn data(number: u64) -> Vec<u8> {
    bytes(number, [100, 300_000, 900_000][number as usize % 3])
}

fn has(store: &ObjectStore, number: u64) -> bool {
    store.get(&id(number)).is_ok_and(|found| found == Some(object(&data(number), b"m")))
}

/// A full Redis takes no objects but deletes, which make room for the objects.
#[test]
fn out_of_memory() {
    let server = RedisServer::settings().line("maxmemory 32mb").line("maxmemory-policy noeviction").start();
    let nodes = nodes(server.url());
    let (a, b) = (nodes.open(), nodes.open());
    for number in 0..120 {
        a.put(&id(number), &data(number), b"m").unwrap();
    }
    until("Redis refuses", || server.info("errorstat_OOM").starts_with("count="));
    for number in 0..120 {
        assert_eq!(get(&a, &id(number)), object(&data(number), b"m"));
    }
    // Another node as well: what is there can be read, new things wait for their turn.
    b.put(b"of the other", b"data", b"").unwrap();
    assert_eq!(get(&b, b"of the other"), object(b"data", b""));
    for number in 0..100 {
        assert!(a.delete(&id(number)).unwrap());
    }
    let redis = Nodes::new("redis", server.url()).open();
    until("what is left is in Redis", || (100..120).all(|number| has(&redis, number)));
    until("what is left is readable elsewhere", || (100..120).all(|number| has(&b, number)));
    until("what was deleted is gone", || (0..100).all(|number| b.get(&id(number)).is_ok_and(|found| found.is_none())));
    until("the other's is there as well", || redis.get(b"of the other").is_ok_and(|found| found.is_some()));
}

/// Invariant 10: memory stays bounded however much waits for Redis. It waits in the journal.
#[test]
fn much_that_waits_takes_no_memory() {
    let mut server = RedisServer::start();
    server.kill();
    let nodes = nodes(server.url());
    let store = nodes.open();
    store.put(b"first", &vec![1; MIB], b"").unwrap();
    let before = anonymous_bytes();
    for number in 0..150_u64 {
        store.put(&id(number), &bytes(number, MIB), b"m").unwrap();
    }
    for number in 1000..20_000_u64 {
        store.put(&id(number), &[7; 100], b"m").unwrap();
    }
    let grown = anonymous_bytes().saturating_sub(before);
    assert!(grown < 80 * MIB, "{} MiB more for 150 MiB that wait", grown / MIB);
    server.restart();
    let redis = Nodes::new("redis", server.url()).open();
    until("all of it is in Redis", || redis.contains(&id(19_999)).is_ok_and(|found| found));
    let grown = anonymous_bytes().saturating_sub(before);
    assert!(grown < 120 * MIB, "{} MiB more after pushing 150 MiB", grown / MIB);
}

fn anonymous_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
}

/// A key of ours that someone else has taken is refused for good, and holds back nothing else.
#[test]
fn a_key_of_another_type() {
    let server = RedisServer::start();
    let nodes = nodes(server.url());
    let (a, b) = (nodes.open(), nodes.open());
    server.cli(&["RPUSH", "scaler:obj:7461 6b656e".replace(' ', "").as_str(), "a list"]);
    a.put(b"taken", b"data", b"").unwrap();
    a.put(b"free", b"data", b"").unwrap();
    until("the other object arrives", || b.get(b"free").is_ok_and(|found| found.is_some()));
    assert!(!matches!(b.get(b"taken"), Ok(Some(_))));
    assert_eq!(get(&a, b"taken"), object(b"data", b""));
    server.cli(&["DEL", "scaler:obj:74616b656e"]);
    until("it arrives when the key is free", || b.get(b"taken").is_ok_and(|found| found.is_some()));
}
