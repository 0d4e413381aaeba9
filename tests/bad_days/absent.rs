use scaler_object_storage::Error;

use crate::common::redis::{Mode, Proxy, RedisServer};
use crate::common::{bytes, get, object, until};
use crate::world::{World, nodes};

#[test]
fn down_at_start() {
    let mut server = RedisServer::start();
    server.kill();
    let world = World::at_work(nodes(server.url()));
    world.goes_on();
    server.restart();
    world.goes_on();
    world.ends_well();
}

/// A firewall that swallows: connections are neither made nor refused.
#[test]
fn swallowed_at_start_and_later() {
    let server = RedisServer::start();
    let proxy = Proxy::to(&server);
    proxy.set(Mode::Blackhole);
    let world = World::at_work(nodes(server.url_at(proxy.port())));
    world.goes_on();
    proxy.set(Mode::Normal);
    world.goes_on();
    proxy.set(Mode::Blackhole);
    world.goes_on();
    proxy.reset_all();
    proxy.set(Mode::Normal);
    world.ends_well();
}

#[test]
fn gone_for_a_while_and_back_with_what_it_had() {
    let mut server = RedisServer::settings().persistent().start();
    let world = World::at_work(nodes(server.url()));
    for _ in 0..3 {
        world.goes_on();
        server.kill();
        world.goes_on();
        server.restart();
    }
    world.goes_on();
    world.ends_well();
}

/// What is not here and cannot be asked for is neither there nor missing.
#[test]
fn a_miss_without_redis_is_an_error_that_says_so() {
    let mut server = RedisServer::start();
    let nodes = nodes(server.url());
    let store = nodes.open();
    until("Redis is reached", || store.get(b"elsewhere").is_ok_and(|found| found.is_none()));
    server.kill();
    until("it notices", || store.get(b"elsewhere").is_err());
    let error = store.get(b"elsewhere").unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&server.port().to_string()), "{error}");
}

/// Invariant 3, across openings: what was never pushed is pushed by the next one, deletes included.
#[test]
fn closed_before_redis_comes() {
    let mut server = RedisServer::settings().persistent().start();
    let nodes = nodes(server.url());
    let directory = nodes.directory();
    let store = nodes.open_in(&directory).unwrap();
    store.put(b"deleted", b"data", b"").unwrap();
    let other = nodes.open();
    until("it is in Redis", || other.get(b"deleted").is_ok_and(|found| found.is_some()));
    server.kill();
    store.put(b"put", &bytes(1, 3 << 20), b"m").unwrap();
    store.delete(b"deleted").unwrap();
    store.close().unwrap();
    server.restart();
    assert!(!matches!(other.get(b"put"), Ok(Some(_))));
    let store = nodes.open_in(&directory).unwrap();
    assert_eq!(get(&store, b"put"), object(&bytes(1, 3 << 20), b"m"));
    until("it has been pushed", || other.get(b"put").is_ok_and(|found| found.is_some()));
    until("it is gone", || other.get(b"deleted").is_ok_and(|found| found.is_none()));
    assert!(!matches!(store.get(b"deleted"), Ok(Some(_))));
}
