use crate::common::redis::{RedisServer, Sentinel};
use crate::world::{World, nodes};

/// The master dies with writes that it has acknowledged and its replica never got.
#[test]
fn the_master_is_killed() {
    let mut rig = Sentinel::start();
    let world = World::at_work(nodes(rig.url()));
    world.goes_on();
    rig.kill_master();
    world.goes_on();
    rig.revive();
    world.goes_on();
    world.ends_well();
}

/// The old master lives on as a replica, which refuses writes and forgets what it alone had.
#[test]
fn master_and_replica_are_exchanged() {
    let rig = Sentinel::start();
    let world = World::at_work(nodes(rig.url()));
    world.goes_on();
    rig.exchange();
    world.goes_on();
    world.ends_well();
}

/// `wait_replicas`: an object is not replicated before a replica has it, and what is local does not wait for that.
#[test]
fn replicas_that_are_waited_for_are_missing_for_a_while() {
    let master = RedisServer::start();
    let mut replica = RedisServer::settings().replica_of(&master).start();
    let nodes = nodes(master.url()).with(|options| options.wait_replicas = 1);
    let world = World::at_work(nodes);
    world.goes_on();
    replica.kill();
    world.goes_on();
    replica.restart();
    world.goes_on();
    world.ends_well();
}
