use crate::common::redis::Cluster;
use crate::world::{World, nodes};

#[test]
fn slots_move_while_nodes_work() {
    let cluster = Cluster::start();
    let world = World::at_work(nodes(cluster.url()));
    world.goes_on();
    // That of the events, which readers are blocked on, that of the epoch, and those of objects.
    let keys: Vec<Vec<u8>> = cluster.nodes().iter().flat_map(|node| node.keys()).collect();
    let special = ["scaler:obj:_events", "scaler:obj:_epoch"].map(|key| key.as_bytes().to_vec());
    for key in special.iter().chain(keys.iter().take(20)) {
        cluster.move_slot(cluster.slot(key), || world.goes_on_a_little());
    }
    world.goes_on();
    world.ends_well();
}

/// One of the masters is killed, and comes back with what it had.
#[test]
fn a_master_of_the_cluster_is_away_for_a_while() {
    let mut cluster = Cluster::start_persistent();
    let world = World::at_work(nodes(cluster.url()));
    world.goes_on();
    cluster.restart_node(0, || world.goes_on());
    world.goes_on();
    world.ends_well();
}
