use std::thread::sleep;
use std::time::Duration;

use scaler_object_storage::ObjectStore;
use xxhash_rust::xxh3::xxh3_64;

use crate::common::until;
use crate::nodes::World;
use crate::wall::Wall;
use crate::{HOUR, WRONG, YEAR};

/// What Redis has, asked past every node.
pub fn reader(world: &World) -> ObjectStore {
    ObjectStore::builder().redis(world.redis.url()).open().unwrap()
}

#[track_caller]
pub fn comes_to_have(redis: &ObjectStore, id: &[u8], data: Option<&[u8]>) {
    until(&format!("Redis has {data:?}"), || {
        redis.get(id).unwrap().map(|object| object.data.to_vec()) == data.map(<[u8]>::to_vec)
    });
}

pub fn key(id: &str) -> String {
    id.bytes().fold("scaler:obj:".to_string(), |key, byte| format!("{key}{byte:02x}"))
}

/// Gives the value in Redis a version so far ahead of today's: as a node would, whose clock is wrong.
fn date_ahead(world: &World, id: &str, seconds: u64) {
    copy_ahead(world, id, id, seconds);
}

/// The same for a copy of the value under another id.
pub fn copy_ahead(world: &World, from: &str, to: &str, seconds: u64) {
    let value = ahead(world.redis.command(&["GET", &key(from)]), seconds);
    let _: String = world.redis.command(&[b"SET", key(to).as_bytes(), &value]);
}

/// A value with a version that is so much later.
pub fn ahead(mut value: Vec<u8>, seconds: u64) -> Vec<u8> {
    let mut clock = u64::from_be_bytes(value[8..16].try_into().unwrap());
    clock += (seconds * 1000) << 16;
    value[8..16].copy_from_slice(&clock.to_be_bytes());
    value[36..40].fill(0);
    let checksum = xxh3_64(&value[..64]) as u32;
    value[36..40].copy_from_slice(&checksum.to_le_bytes());
    value
}

/// Versions: a delete exceeds what stands, however far ahead that is, though the node has never heard of it.
#[test]
fn a_blind_delete_beats_a_version_however_far_ahead() {
    let _wall = Wall::take();
    for ahead in [600, HOUR as u64, 10 * YEAR as u64] {
        let world = World::new(1);
        let redis = reader(&world);
        let ids: Vec<String> = (0..20).map(|number| format!("id {number}")).collect();
        for id in &ids {
            redis.put(id.as_bytes(), b"data", b"").unwrap();
            date_ahead(&world, id, ahead);
        }
        let node = world.open(0);
        for id in &ids {
            // Whether it existed is not known in time on a slow machine.
            node.delete(id.as_bytes()).unwrap();
        }
        for id in &ids {
            comes_to_have(&redis, id.as_bytes(), None);
            assert!(!node.contains(id.as_bytes()).unwrap());
        }
    }
}

/// The same of a put, which would otherwise be gone everywhere though it was acknowledged.
#[test]
fn a_blind_put_beats_a_version_that_no_clock_can_have_given() {
    let _wall = Wall::take();
    for ahead in [600, 10 * YEAR as u64] {
        let world = World::new(1);
        let redis = reader(&world);
        let sizes = [10, 2000, 100_000, 2 << 20];
        let first = |size| vec![1; size];
        for size in sizes {
            redis.put(size.to_string().as_bytes(), &first(size), b"").unwrap();
            date_ahead(&world, &size.to_string(), ahead);
        }
        let node = world.open(0);
        for size in sizes {
            node.put(size.to_string().as_bytes(), &vec![2; size], b"m").unwrap();
        }
        for size in sizes {
            comes_to_have(&redis, size.to_string().as_bytes(), Some(&vec![2; size]));
            assert_eq!(node.get(size.to_string().as_bytes()).unwrap().unwrap().metadata, "m");
        }
    }
}

/// Two nodes, of which one has a wall clock that is wrong, write one after the other, each when it has heard of what the other wrote.
fn take_turns(wall: &Wall, wrong: i64, other: i64, name: &str) {
    let world = World::new(3);
    let redis = reader(&world);
    let (a, b) = (wall.at(wrong, || world.open(0)), wall.at(other, || world.open(1)));
    let put = |clock: i64, store: &ObjectStore, id: &[u8], data: &[u8]| {
        world.until_all_is_heard_by(store);
        wall.at(clock, || store.put(id, data, b"").unwrap());
        comes_to_have(&redis, id, Some(data));
    };
    let delete = |clock: i64, store: &ObjectStore, id: &[u8]| {
        world.until_all_is_heard_by(store);
        wall.at(clock, || store.delete(id).unwrap());
        comes_to_have(&redis, id, None);
    };
    // Right after the open. What others wrote a moment ago is older than nodes differ in what they know of Redis's clock.
    let opened = |id: &[u8], data: Option<&[u8]>| {
        sleep(Duration::from_millis(300));
        let blind = wall.at(wrong, || {
            let blind = world.open(2);
            match data {
                Some(data) => blind.put(id, data, b"").unwrap(),
                None => drop(blind.delete(id).unwrap()),
            }
            blind
        });
        comes_to_have(&redis, id, data);
        blind
    };
    for round in 0..2 {
        let id = format!("{name} {round}");
        let id = id.as_bytes();
        // What the other wrote is in Redis, but not here, when it is overwritten and deleted.
        put(wrong, &a, id, b"1");
        put(other, &b, id, b"2");
        put(wrong, &a, id, b"3");
        delete(other, &b, id);
        put(wrong, &a, id, b"4");
        // And when it is here as well.
        until("it is there", || b.get(id).unwrap().is_some_and(|object| object.data == "4"));
        put(other, &b, id, b"5");
        until("it is there", || a.get(id).unwrap().is_some_and(|object| object.data == "5"));
        delete(wrong, &a, id);
        put(other, &b, id, b"6");
        let blind = opened(id, Some(b"7"));
        delete(other, &b, id);
        put(other, &a, id, b"8");
        drop(blind);
        drop(opened(id, None));
    }
}

#[test]
fn the_later_write_wins_whatever_a_nodes_clock_says() {
    let wall = Wall::take();
    for wrong in WRONG {
        take_turns(&wall, wrong, 0, &format!("{wrong} at one node"));
    }
    take_turns(&wall, 10 * YEAR, -10 * YEAR, "both");
}

/// A node that is opened while Redis is away, and dates what it writes by guess, is no obstacle for others afterwards.
#[test]
fn a_node_that_had_only_its_own_clock_is_no_obstacle() {
    let wall = Wall::take();
    for wrong in [HOUR, 10 * YEAR] {
        let mut world = World::new(2);
        world.redis.kill();
        let a = wall.at(wrong, || {
            let a = world.open(0);
            a.put(b"put", b"1", b"").unwrap();
            a.put(b"delete", b"1", b"").unwrap();
            a
        });
        world.redis.restart();
        let redis = reader(&world);
        for id in [b"put", b"delete".as_slice()] {
            comes_to_have(&redis, id, Some(b"1"));
        }
        let b = world.open(1);
        world.until_all_is_heard_by(&b);
        b.put(b"put", b"2", b"").unwrap();
        b.delete(b"delete").unwrap();
        comes_to_have(&redis, b"put", Some(b"2"));
        comes_to_have(&redis, b"delete", None);
        // And it has Redis's clock from now on.
        a.put(b"later", b"1", b"").unwrap();
        comes_to_have(&redis, b"later", Some(b"1"));
        world.until_all_is_heard_by(&b);
        b.put(b"later", b"2", b"").unwrap();
        comes_to_have(&redis, b"later", Some(b"2"));
    }
}
