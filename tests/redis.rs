//! The `redis` backend beyond the contract: limits, a Redis that is not there, damage, what other stores and the Python backend write.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod common;

use common::redis::RedisServer;
use common::{bytes, get, object};
use scaler_object_storage::{
    Error, ID_BYTES_MAX, ObjectStore, ObjectStoreBuilder, REDIS_ID_BYTES_MAX, ValueFormat, Waited,
};

const KEY: &str = "scaler:obj:6964"; // of "id"

fn builder(server: &RedisServer) -> ObjectStoreBuilder {
    ObjectStore::builder().redis(server.url())
}

fn open(server: &RedisServer) -> ObjectStore {
    builder(server).open().unwrap()
}

#[test]
fn a_redis_that_is_not_there_is_an_error_at_open_and_later() {
    let mut server = RedisServer::start();
    let store = open(&server);
    store.put(b"id", b"data", b"").unwrap();
    server.kill();
    assert!(matches!(builder(&server).open(), Err(Error::Unreachable { .. })));
    assert!(matches!(store.get(b"id"), Err(Error::Unreachable { .. })));
    assert!(matches!(store.put(b"id", b"data", b""), Err(Error::Unreachable { .. })));
    assert!(matches!(store.delete(b"id"), Err(Error::Unreachable { .. })));
    // When it is back, the same store goes on, though its connections are dead.
    server.restart_empty();
    assert_eq!(store.get(b"id").unwrap(), None);
    store.put(b"id", b"again", b"").unwrap();
    assert_eq!(get(&store, b"id").data, b"again"[..]);
}

#[test]
fn an_object_above_max_object_size_is_refused_and_nothing_is_stored() {
    let server = RedisServer::start();
    let store = builder(&server).redis_options(|options| options.max_object_size_mb = 2).open().unwrap();
    store.put(b"id", b"before", b"").unwrap();
    let data = bytes(1, (2 << 20) + 1);
    let put = store.put(b"id", &data, b"").unwrap_err();
    let metadata_counts = store.put(b"id", &data[..2 << 20], b"m").unwrap_err();
    let streamed = store.writer(b"id", data.len() as u64, b"").map(drop).unwrap_err();
    for error in [put, metadata_counts, streamed] {
        assert!(matches!(error, Error::TooLarge { bytes_max, .. } if bytes_max == 2 << 20), "{error}");
    }
    assert_eq!(get(&store, b"id").data, b"before"[..]);
    store.put(b"id", &data[..2 << 20], b"").unwrap();
    assert!(get(&store, b"id").data == data[..2 << 20]);
    let unlimited = builder(&server).redis_options(|options| options.max_object_size_mb = 0).open().unwrap();
    unlimited.put(b"id", &data, b"").unwrap();
    assert!(get(&unlimited, b"id").data == data);
}

#[test]
fn several_stores_share_one_set_of_objects_and_another_prefix_is_another_set() {
    let server = RedisServer::start();
    let (one, other) = (open(&server), open(&server));
    let apart = builder(&server).redis_options(|options| options.key_prefix = "apart:".into()).open().unwrap();
    for round in 0..20_u8 {
        let (writer, reader) = if round % 2 == 0 { (&one, &other) } else { (&other, &one) };
        writer.put(b"id", &[round], b"").unwrap();
        assert_eq!(get(reader, b"id").data, [round][..]);
        assert!(reader.duplicate(b"id", b"copy").unwrap());
        assert!(reader.delete(b"id").unwrap());
        assert_eq!(writer.get(b"id").unwrap(), None);
        assert!(!writer.delete(b"id").unwrap());
        assert_eq!(get(writer, b"copy").data, [round][..]);
        assert!(!apart.contains(b"copy").unwrap());
    }
    apart.put(b"kept", b"", b"").unwrap();
    one.clear().unwrap();
    assert_eq!(other.get(b"copy").unwrap(), None);
    assert!(apart.contains(b"kept").unwrap());
}

// Invariant 7.
#[test]
fn a_damaged_object_is_a_miss_that_is_counted_and_can_be_overwritten() {
    let server = RedisServer::start();
    let store = open(&server);
    store.put(b"id", &bytes(1, 1000), b"").unwrap();
    let _: usize = server.command(&["SETRANGE", KEY, "500", "damage"]);
    assert_eq!(store.get(b"id").unwrap(), None);
    assert_eq!(store.info().damaged_objects, 1);
    store.put(b"id", b"new", b"").unwrap();
    assert_eq!(get(&store, b"id").data, b"new"[..]);
}

#[test]
fn a_refusal_of_redis_is_told_with_its_reason() {
    let server = RedisServer::start();
    let store = open(&server);
    store.put(b"id", b"data", b"").unwrap();
    let _: () = server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let error = store.put(b"other", b"data", b"").unwrap_err();
    assert!(matches!(&error, Error::Refused { action: "store", reason, .. } if reason.contains("OOM")), "{error}");
    assert!(store.delete(b"id").unwrap(), "a delete makes room");
    let _: () = server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    let _: usize = server.command(&["RPUSH", "scaler:obj:6c", "x"]);
    assert!(matches!(store.get(b"l"), Err(Error::Refused { action: "read", .. })));
    store.put(b"other", b"data", b"").unwrap();
}

#[test]
fn what_the_python_backend_writes_is_read_and_it_can_read_what_is_written_for_it() {
    let server = RedisServer::start();
    let store = open(&server);
    let _: () = server.command(&[b"SET", KEY.as_bytes(), b"\x02\0\0\0mddata"]);
    assert!(get(&store, b"id") == object(b"data", b"md"));
    assert!(store.contains(b"id").unwrap());
    store.put(b"id", b"newer", b"").unwrap();
    assert_eq!(get(&store, b"id").data, b"newer"[..]);

    let python = builder(&server).redis_options(|options| options.value_format = ValueFormat::Python).open().unwrap();
    python.put(b"id", b"last", b"m").unwrap();
    let value: Vec<u8> = server.command(&["GET", KEY]);
    assert_eq!(value, b"\x01\0\0\0mlast");
    assert!(get(&store, b"id") == object(b"last", b"m"));
    assert!(python.delete(b"id").unwrap());
    let exists: usize = server.command(&["EXISTS", KEY]);
    assert_eq!(exists, 0);
}

#[test]
fn a_count_looks_at_every_object_whoever_wrote_it() {
    let server = RedisServer::start();
    let store = open(&server);
    assert_eq!(store.count().unwrap(), (0, 0));
    server.command::<()>(&["SET".as_bytes(), KEY.as_bytes(), b"\x02\0\0\0mddata"]);
    server.command::<()>(&["SET", "scaler:obj:sub:6964", "another prefix's"]);
    for id in ["large", "deleted", "overwritten"] {
        store.put(id.as_bytes(), &vec![0; 3 << 20], b"metadata").unwrap();
    }
    store.put(b"overwritten", b"", b"").unwrap();
    store.delete(b"deleted").unwrap();
    assert_eq!(store.count().unwrap(), (3, 6 + 8 + (3 << 20)));
    store.clear().unwrap();
    assert_eq!(store.count().unwrap(), (0, 0));
    store.close().unwrap();
    assert!(matches!(store.count(), Err(Error::Closed)));
}

#[test]
fn objects_end_with_object_ttl() {
    let server = RedisServer::start();
    let store = builder(&server).redis_options(|options| options.object_ttl_seconds = 1000).open().unwrap();
    store.put(b"id", b"data", b"").unwrap();
    let ttl: i64 = server.command(&["TTL", KEY]);
    assert!((900..=1000).contains(&ttl), "{ttl}");
}

#[test]
fn too_few_replicas_are_told() {
    let server = RedisServer::start();
    let store = builder(&server)
        .redis_options(|options| {
            options.wait_replicas = 1;
            options.response_timeout_ms = 3000; // half of it is for the replicas
        })
        .open()
        .unwrap();
    let error = store.put(b"id", b"data", b"").unwrap_err();
    assert!(matches!(&error, Error::Refused { action: "replicate", .. }), "{error}");
    let _replica = RedisServer::settings().replica_of(&server).start();
    common::until("the replica has the object", || store.put(b"id", b"data", b"").is_ok());
}

/// As the Python backend does, this one takes ids that no other backend takes. A node with a local tier beside it sees the others.
#[test]
fn empty_and_long_ids_are_ids_like_others() {
    let server = RedisServer::start();
    for format in [ValueFormat::Tiered, ValueFormat::Python] {
        let open = || builder(&server).redis_options(|options| options.value_format = format).open().unwrap();
        let (one, other) = (open(), open());
        let directory = tempfile::tempdir().unwrap();
        let tiered = ObjectStore::builder().tiered(directory.path(), server.url()).max_size_mb(64);
        let tiered = tiered.redis_options(|options| options.value_format = format).open().unwrap();
        let (longest, copy) = (bytes(1, REDIS_ID_BYTES_MAX), bytes(2, ID_BYTES_MAX + 1));
        for (id, copy) in [(&b""[..], &copy[..]), (&longest, b"")] {
            let waiting = std::thread::scope(|scope| {
                let waiter = scope.spawn(|| other.wait(copy, common::much_later(), None).unwrap());
                common::until("it waits", || other.info().waiting_requests == 1);
                one.put(id, b"data", b"m").unwrap();
                assert!(one.duplicate(id, copy).unwrap());
                waiter.join().unwrap()
            });
            assert_eq!(waiting, Waited::Object(object(b"data", b"m")));
            assert!(other.contains(id).unwrap() && other.delete(id).unwrap() && other.delete(copy).unwrap());
            assert!(!one.contains(id).unwrap() && one.get(copy).unwrap().is_none());
        }
        // In chunks where the format has them.
        let large = bytes(3, (2 << 20) + 1);
        one.put(b"", &large, b"").unwrap();
        assert!(get(&other, b"").data == large);
        one.put(b"ordinary", b"data", b"").unwrap();
        common::until("it is seen", || tiered.get(b"ordinary").unwrap().is_some());
        assert!(matches!(tiered.get(b""), Err(Error::InvalidId { bytes_min: 1, bytes_max: ID_BYTES_MAX, .. })));
        one.clear().unwrap();
        assert!(other.get(b"").unwrap().is_none() && !other.contains(b"ordinary").unwrap());
    }
}
