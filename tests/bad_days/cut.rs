use crate::common::redis::{Mode, Proxy, RedisServer};
use crate::world::{World, nodes};

/// From cutting the first greeting to cutting chunks in the middle.
#[test]
fn every_connection_reset_after_some_bytes() {
    let server = RedisServer::start();
    let proxy = Proxy::to(&server);
    let world = World::at_work(nodes(server.url_at(proxy.port())));
    world.goes_on();
    for bytes in [1, 100, 1000, 30_000, 500_000, 5_000_000] {
        let resets = proxy.resets();
        proxy.set(Mode::ResetAfter(bytes));
        world.goes_on();
        crate::common::until("connections are reset", || proxy.resets() > resets);
    }
    proxy.set(Mode::Normal);
    world.ends_well();
}

#[test]
fn every_connection_reset_now_and_then() {
    let server = RedisServer::start();
    let proxy = Proxy::to(&server);
    let world = World::at_work(nodes(server.url_at(proxy.port())));
    for round in 0..10 {
        world.goes_on();
        match round % 3 {
            0 => proxy.reset_all(),
            1 => proxy.set(Mode::Refuse),
            _ => proxy.set(Mode::Normal),
        }
    }
    proxy.set(Mode::Normal);
    world.ends_well();
}
