//! Signals that arrive all the time, in every thread, end no call with an error, and none of them waits longer for that than it should
//! (invariant 14).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod storm;

use std::thread::{scope, spawn};
use std::time::{Duration, Instant};

use common::redis::{Authority, Nodes, RedisServer};
use common::{bytes, get, much_later, object};
use scaler_object_storage::{Durability, Error, ObjectStore, Waited};
use storm::{Storm, alone};

/// Objects that stand in a record, in a value of Redis's, and in chunks.
const SIZES: [usize; 5] = [100, 5_000, 70_000, 1 << 20, 3 << 20];

const WORKERS: usize = 3;
const AT_WORK: Duration = Duration::from_millis(1500);

/// Connections that a node makes, and some for the test's own commands. One that a signal broke would be made anew, and break again.
const CONNECTIONS_PER_NODE: u64 = 20;

/// Patient: under so many signals, and beside other tests, answers are slow.
fn nodes(backend: &'static str, url: String) -> Nodes {
    Nodes::new(backend, url).with(|options| {
        options.connect_timeout_ms = 30_000;
        options.response_timeout_ms = 60_000;
    })
}

/// Nothing fails while signals arrive, and what is read, here or on the other node, is what was written.
#[track_caller]
fn work(stores: &[ObjectStore]) {
    let storm = Storm::begin();
    let until = Instant::now() + AT_WORK;
    scope(|scope| {
        for worker in 0..WORKERS {
            let (writer, reader) = (&stores[worker % stores.len()], &stores[(worker + 1) % stores.len()]);
            scope.spawn(move || {
                let mut round = 0;
                while round < SIZES.len() || Instant::now() < until {
                    write_and_read(writer, reader, &format!("{worker} {round}"), SIZES[round % SIZES.len()]);
                    round += 1;
                }
            });
        }
    });
    storm.end();
}

#[track_caller]
fn write_and_read(writer: &ObjectStore, reader: &ObjectStore, id: &str, size: usize) {
    let data = bytes(size as u64, size);
    let expected = object(&data, id.as_bytes());
    let (waiting, awaited) = (reader.clone(), id.to_owned());
    let waiter = spawn(move || waiting.wait(awaited.as_bytes(), much_later(), None).unwrap());
    let id = id.as_bytes();
    writer.put(id, &data, id).unwrap();
    assert!(get(writer, id) == expected);
    assert!(waiter.join().unwrap() == Waited::Object(expected.clone()));
    assert!(get(reader, id) == expected);
    writer.delete(id).unwrap();
    assert_eq!(writer.get(id).unwrap(), None);
}

/// As [`work`], on stores of this server.
#[track_caller]
fn work_with(server: &RedisServer, stores: &[ObjectStore]) {
    work(stores);
    let made: u64 = server.info("total_connections_received").parse().unwrap();
    let most = CONNECTIONS_PER_NODE * stores.len() as u64;
    assert!(made <= most, "{made} connections were made: some have failed");
}

#[test]
fn over_tcp() {
    let _alone = alone();
    let server = RedisServer::start();
    work_with(&server, &[nodes("redis", server.url()).open()]);
}

#[test]
fn over_a_unix_socket() {
    let _alone = alone();
    let server = RedisServer::start();
    work_with(&server, &[nodes("redis", server.socket_url()).open()]);
}

#[test]
fn over_tls() {
    let _alone = alone();
    let authority = Authority::new();
    let server = RedisServer::settings().user("store", "hush").tls(&authority, true).start();
    let directory = tempfile::tempdir().unwrap();
    let [ca, cert, key] = authority.certify("client").write(directory.path());
    let nodes = nodes("redis", server.url()).with(move |options| {
        (options.tls_ca, options.tls_cert, options.tls_key) = (Some(ca.clone()), Some(cert.clone()), Some(key.clone()));
    });
    work_with(&server, &[nodes.open()]);
}

#[test]
fn on_two_nodes() {
    let _alone = alone();
    let server = RedisServer::start();
    let nodes = nodes("tiered", server.url());
    work_with(&server, &[nodes.open(), nodes.open()]);
}

#[test]
fn without_redis() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let store =
        ObjectStore::builder().local(directory.path()).max_size_mb(256).durability(Durability::Disk).open().unwrap();
    work(&[store]);
}

/// Opening makes connections, creates files and takes locks.
#[test]
fn while_stores_are_opened_and_closed() {
    let _alone = alone();
    let server = RedisServer::start();
    let sockets = nodes("tiered", server.socket_url());
    let ports = nodes("tiered", server.url());
    let storm = Storm::begin();
    let directory = sockets.directory();
    for (round, nodes) in [&sockets, &ports, &sockets, &ports].into_iter().enumerate() {
        let store = nodes.open_in(&directory).unwrap();
        let id = round.to_le_bytes();
        store.put(&id, &bytes(1, 100_000), b"").unwrap();
        assert!(get(&store, &0_usize.to_le_bytes()).data == bytes(1, 100_000));
        store.flush().unwrap();
        store.close().unwrap();
    }
    storm.end();
}

/// Each signal begins the wait for an answer anew, or for room to send: its time does not begin anew with it.
#[test]
fn a_redis_that_hangs_is_still_given_up() {
    let _alone = alone();
    let server = RedisServer::start();
    for url in [server.url(), server.socket_url()] {
        let nodes = Nodes::new("redis", url).with(|options| {
            options.connect_timeout_ms = 300;
            options.response_timeout_ms = 300;
        });
        let store = nodes.open();
        store.put(b"id", b"data", b"").unwrap();
        server.pause();
        let storm = Storm::begin();
        let unreachable = |failed: Result<(), Error>| assert!(matches!(failed, Err(Error::Unreachable { .. })));
        unreachable(store.get(b"id").map(drop));
        // More than the sockets take in.
        unreachable(store.put(b"large", &bytes(1, 32 << 20), b""));
        unreachable(nodes.try_open().map(drop));
        storm.end();
        server.resume();
        assert!(get(&store, b"id") == object(b"data", b""));
    }
}
