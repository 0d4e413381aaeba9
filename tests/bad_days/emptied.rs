use crate::common::redis::{Nodes, RedisServer};
use crate::common::{bytes, object, until};
use crate::world::{World, nodes};

#[test]
fn killed_and_restarted_empty_in_the_middle() {
    let mut server = RedisServer::start();
    let world = World::at_work(nodes(server.url()));
    world.goes_on();
    server.kill();
    world.goes_on();
    server.restart_empty();
    world.goes_on();
    world.ends_well();
}

#[test]
fn flushed_in_the_middle() {
    let server = RedisServer::start();
    let world = World::at_work(nodes(server.url()));
    for _ in 0..3 {
        world.goes_on();
        server.cli(&["FLUSHALL"]);
    }
    world.goes_on();
    world.ends_well();
}

/// What a node holds, though it is clean and settled, is pushed again by itself, so that a new node finds it.
#[test]
fn emptied_while_nobody_writes() {
    let objects = |number: u64| (number.to_le_bytes(), bytes(number, [10, 20_000, 2 << 20][number as usize % 3]));
    for flush in [true, false] {
        let mut server = RedisServer::start();
        let nodes = nodes(server.url()).with(|options| options.settle_ms = 100);
        let store = nodes.open();
        for (id, data) in (0..30).map(objects) {
            store.put(&id, &data, &id).unwrap();
        }
        let all_there = |reader: &scaler_object_storage::ObjectStore| {
            (0..30).map(objects).all(|(id, data)| reader.get(&id).is_ok_and(|found| found == Some(object(&data, &id))))
        };
        let redis = Nodes::new("redis", server.url()).open();
        until("all is in Redis", || all_there(&redis));
        // Settled, so that it is not for being new that it is pushed again.
        std::thread::sleep(std::time::Duration::from_millis(500));
        match flush {
            true => drop(server.cli(&["FLUSHALL"])),
            false => server.restart_empty(),
        }
        until("all is in Redis again", || all_there(&redis));
        assert!(all_there(&nodes.open()));
    }
}

/// A waiter on another node gets what only this node still holds.
#[test]
fn one_key_lost() {
    let server = RedisServer::start();
    let nodes = nodes(server.url()).with(|options| options.settle_ms = 100);
    let (a, b) = (nodes.open(), nodes.open());
    a.put(b"lost", b"data", b"").unwrap();
    let key = |server: &RedisServer| server.keys().into_iter().find(|key| key.ends_with(b"6c6f7374"));
    until("it is in Redis", || key(&server).is_some());
    std::thread::sleep(std::time::Duration::from_millis(500));
    let _: i64 = server.command(&[b"DEL".as_slice(), &key(&server).unwrap()]);
    let waited = b.wait(b"lost", crate::common::much_later(), None).unwrap();
    assert_eq!(waited, scaler_object_storage::Waited::Object(object(b"data", b"")));
}
