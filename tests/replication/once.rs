//! What is wanted by one is not pushed by all.

use std::thread::spawn;

use scaler_object_storage::Waited;

use crate::common::redis::RedisServer;
use crate::common::{bytes, much_later, until};
use crate::world::{World, key, number, stands};

const HOLDERS: usize = 8;
const BYTES: usize = 300_000;

/// Invariant 4: Redis loses an object that many nodes hold.
#[test]
fn an_object_that_many_hold_and_one_wants_is_pushed_about_once() {
    let world = World::new(HOLDERS + 1);
    let redis = RedisServer::start();
    let open = |node| world.open(node, &redis.url(), |options| options.settle_ms = 200);
    let holders: Vec<_> = (0..HOLDERS).map(open).collect();
    let data = bytes(1, BYTES);
    holders[0].put(b"id", &data, b"").unwrap();
    until("it is pushed", || stands(&redis, "id"));
    for holder in &holders {
        until("it is held", || holder.get(b"id").unwrap().is_some() && holder.get_here(b"id").unwrap().is_some());
    }
    std::thread::sleep(std::time::Duration::from_millis(1500)); // it is settled: nobody pushes it of himself

    let before = number(&redis, "total_net_input_bytes");
    redis.cli(&["DEL", &key("id")]);
    let waiting = open(HOLDERS);
    let waiter = spawn(move || waiting.wait(b"id", much_later(), None).unwrap());
    let Waited::Object(object) = waiter.join().unwrap() else { panic!("not answered") };
    assert!(object.data == data);
    std::thread::sleep(std::time::Duration::from_millis(500)); // whoever else has heard of it would have pushed it by now
    let sent = number(&redis, "total_net_input_bytes") - before;
    assert!(sent < 3 * BYTES as u64, "{sent} bytes for an object of {BYTES}");
}
