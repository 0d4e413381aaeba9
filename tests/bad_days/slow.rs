use std::time::Duration;

use crate::common::redis::{Mode, Proxy, RedisServer};
use crate::world::{World, nodes};

#[test]
fn a_tenth_of_a_second_to_every_answer() {
    let server = RedisServer::start();
    let proxy = Proxy::to(&server);
    proxy.set(Mode::Delay(Duration::from_millis(100)));
    let world = World::at_work(nodes(server.url_at(proxy.port())));
    world.goes_on();
    world.goes_on();
    world.ends_well();
}
