use std::time::{Duration, Instant};

use crate::common::redis::RedisServer;
use crate::common::{bytes, get, object};
use crate::world::{World, nodes};

/// Longer than every timeout of the nodes; a minute with `PAUSE_SECONDS=60`.
fn pause() -> Duration {
    Duration::from_secs(std::env::var("PAUSE_SECONDS").map_or(3, |seconds| seconds.parse().unwrap()))
}

#[test]
fn paused_for_longer_than_the_timeouts() {
    let server = RedisServer::start();
    let world = World::at_work(nodes(server.url()));
    world.goes_on();
    let end = Instant::now() + pause();
    server.pause();
    while Instant::now() < end {
        world.goes_on();
    }
    server.resume();
    world.goes_on();
    world.ends_well();
}

/// Redis stands still, and so would everything that waits for it: the test would hang.
#[test]
fn what_is_local_does_not_wait_for_redis() {
    let server = RedisServer::start();
    let nodes = nodes(server.url()).with(|options| options.response_timeout_ms = 3_600_000);
    let store = nodes.open();
    store.put(b"before", b"data", b"").unwrap();
    server.pause();
    for number in 0..2000_u64 {
        let (id, data) = (number.to_le_bytes(), bytes(number, [100, 5000, 100_000][number as usize % 3]));
        store.put(&id, &data, b"").unwrap();
        assert_eq!(get(&store, &id), object(&data, b""));
        if number % 2 == 0 {
            assert!(store.duplicate(&id, b"copy").unwrap());
            assert!(store.delete(&id).unwrap());
        }
        assert_eq!(get(&store, b"before"), object(b"data", b""));
    }
    assert_eq!(store.info().objects, 2 + 1000);
    server.resume();
}
