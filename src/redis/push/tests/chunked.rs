//! Tests of chunked objects: crashes, expiries, lost chunks.

use std::cell::OnceCell;

use super::*;
use crate::redis::body::{Body, Raw};
use crate::redis::envelope::{CHUNK_BYTES, HEAD_BYTES};

fn large(fill: u8) -> Object {
    object(vec![fill; 2 * CHUNK_BYTES + 77])
}

fn ttls(world: &mut World) -> Vec<i64> {
    let keys = world.chunk_keys();
    keys.iter().map(|key| number(call(&mut world.link, &["TTL", key]))).collect()
}

#[test]
fn a_large_object_stands_in_chunks_that_stay() {
    let mut world = world();
    assert_eq!(world.push_one(put("id", 1, &large(1))), applied(None));
    assert_eq!(world.object("id"), Some(large(1)));
    assert_eq!(raw(&mut world.link, "t:6964").len(), HEAD_BYTES);
    assert_eq!(ttls(&mut world), [-1, -1, -1]);
    assert_eq!(world.heard(), [(Op::Put, "id".into(), 1)]);
    assert_eq!(world.push_one(put("id", 1, &large(1))), Ok(Pushed::Same));
    assert_eq!(ttls(&mut world), [-1, -1, -1]);
}

// docs/replication.md, Pushing 7: the replaced manifest's chunks go, when readers have had time to finish.
#[test]
fn the_chunks_of_a_replaced_manifest_expire() {
    for write in [put("id", 2, &object("small")), put("id", 2, &large(2)), delete("id", 2)] {
        let mut world = world();
        let replaced = put("id", 1, &large(1));
        world.push_one(replaced.clone()).unwrap();
        let old_keys = world.chunk_keys();
        assert_eq!(world.push_one(write.clone()), applied(Some(StoredValue::Ours(head_of(&replaced)))));
        for key in old_keys {
            let ttl = number(call(&mut world.link, &["TTL", &key]));
            assert!((1..=60).contains(&ttl), "{key}: {ttl}");
        }
        match &write.what {
            What::Put { object, .. } => assert_eq!(world.object("id"), Some(object.to_object())),
            What::Delete => assert_eq!(world.fetch("id"), Fetched::Tombstone(version(2))),
        }
    }
}

// docs/replication.md, Pushing 7: a crash between any two commands shows no half an object and leaks no chunk.
#[test]
fn a_push_that_stops_anywhere_leaves_nothing_for_ever() {
    let write = put("id", 1, &large(1));
    let What::Put { object, .. } = &write.what else { unreachable!() };

    // Stopped after the chunks: they expire by themselves, and the object does not exist.
    let mut world = world();
    world.pusher.send_chunks(&mut world.link, &write, false).unwrap().unwrap();
    assert!(ttls(&mut world).iter().all(|ttl| (1..=3600).contains(ttl)));
    assert_eq!(world.fetch("id"), Fetched::Missing);

    // Stopped after the manifest: readable, and pushing it again makes the chunks stay.
    let mut outcomes = Outcomes::new(1);
    let how = How { also_same: false, naming: false };
    world.pusher.apply(&mut world.link, std::slice::from_ref(&write), vec![0], how, &mut outcomes).unwrap();
    assert_eq!(world.object("id"), Some(object.to_object()));
    assert!(ttls(&mut world).iter().all(|ttl| (1..=3600).contains(ttl)));
    assert_eq!(world.push_one(write.clone()), Ok(Pushed::Same));
    assert_eq!(ttls(&mut world), [-1, -1, -1]);
}

#[test]
fn a_chunk_that_expired_meanwhile_is_sent_again() {
    let mut world = world();
    let write = put("id", 1, &large(1));
    world.push_one(write.clone()).unwrap();
    let lost = world.chunk_keys()[1].clone();
    call(&mut world.link, &["DEL", &lost]).unwrap();
    assert!(matches!(world.fetch("id"), Fetched::Damaged { .. }));
    assert_eq!(world.push_one(write.clone()), Ok(Pushed::Same));
    assert_eq!(world.object("id"), Some(large(1)));
    assert_eq!(ttls(&mut world), [-1, -1, -1]);
    // Also when it is lost after it was sent: whether it is there is asked when it is made to stay.
    call(&mut world.link, &["DEL", &lost]).unwrap();
    world.pusher.keep_chunks(&mut world.link, &write).unwrap().unwrap();
    assert_eq!(world.object("id"), Some(large(1)));
    assert_eq!(ttls(&mut world), [-1, -1, -1]);
}

// A push of the same version by another node keeps chunks alive that a replacement has just made to expire.
#[test]
fn chunks_kept_for_a_manifest_that_is_gone_expire_again() {
    let mut world = world();
    let write = put("id", 1, &large(1));
    world.push_one(write.clone()).unwrap();
    world.push_one(put("id", 2, &super::object("small"))).unwrap();
    world.pusher.keep_chunks(&mut world.link, &write).unwrap().unwrap();
    let ttls = ttls(&mut world);
    assert!(ttls.iter().all(|ttl| (1..=60).contains(ttl)), "{ttls:?}");
}

#[test]
fn a_large_object_that_is_refused_as_older_leaves_chunks_that_expire() {
    let mut world = world();
    let newer = put("id", 2, &object("small"));
    world.push_one(newer.clone()).unwrap();
    assert_eq!(world.push_one(put("id", 1, &large(1))), Ok(Pushed::Older(StoredValue::Ours(head_of(&newer)))));
    assert!(ttls(&mut world).iter().all(|ttl| (1..=3600).contains(ttl)));
}

// docs/replication.md, Pushing 9.
#[test]
fn object_and_chunks_end_with_the_deadline() {
    let mut world = world();
    let deadline = crate::redis::server::time(&mut world.link, &keys()).unwrap().redis_ms + 500_000;
    let with_deadline = |id: &str, object: &Object| {
        let mut write = put(id, 1, object);
        if let What::Put { deadline_ms, .. } = &mut write.what {
            *deadline_ms = deadline;
        }
        write
    };
    world.push(&[with_deadline("id", &large(1)), with_deadline("small", &object("x"))]);
    let mut keys = world.chunk_keys();
    keys.extend(["t:6964".into(), "t:736d616c6c".into()]);
    assert_eq!(keys.len(), 5);
    for key in keys {
        assert_eq!(number(call(&mut world.link, &["PEXPIRETIME", &key])), deadline as i64, "{key}");
    }
    // Over the script as well.
    call(&mut world.link, &["PERSIST", "t:736d616c6c"]).unwrap();
    let mut newer = with_deadline("small", &object("y"));
    newer.version.clock = 2;
    world.push_one(newer).unwrap();
    assert_eq!(number(call(&mut world.link, &["PEXPIRETIME", "t:736d616c6c"])), deadline as i64);
    // A deadline that is past: Redis takes it away.
    let mut past = put("past", 1, &object("x"));
    if let What::Put { deadline_ms, .. } = &mut past.what {
        *deadline_ms = 1;
    }
    world.push_one(past).unwrap();
    assert_eq!(world.fetch("past"), Fetched::Missing);
}

// Chunks that do not shrink are sent as they are; a later part of the object that does shrink is noticed.
#[test]
fn a_large_object_is_lent_hashed_while_it_is_sent_and_compressed_where_that_helps() {
    let mut world = world();
    let data = [noise(0, 3 << 20), vec![0; 20 << 20], noise(0, 1 << 20)].concat();
    for (clock, metadata) in [(1, &b"metadata"[..]), (2, b"")] {
        let what =
            What::Put { object: Body::Lent(Raw { metadata, data: &data }), body_hash: OnceCell::new(), deadline_ms: 0 };
        let write = Outgoing { id: b"large".to_vec(), version: version(clock), what, is_repeat: false };
        let pushed = world.pusher.push_one(&mut world.link, &write, &Deaf).unwrap();
        assert!(matches!(pushed, Ok(Pushed::Applied { .. })), "{pushed:?}");
        let stored = world.object("large").unwrap();
        assert!(stored.data == data && stored.metadata == metadata);
        assert_eq!(head_of(&write).body_hash, Raw { metadata, data: &data }.hash());
        let keys = world.pusher.keys.clone();
        let mut bytes = |chunk| {
            let mut length = redis::cmd("STRLEN");
            length.arg(keys.chunk(b"large", version(clock), chunk));
            world.link.run_one(length).unwrap()
        };
        assert_eq!(bytes(1), Ok(Value::Int((1 << 20) + 8)));
        assert!(matches!(bytes(18), Ok(Value::Int(10..20_000))));
    }
}

#[test]
fn an_object_with_a_refused_chunk_is_refused_and_the_connection_goes_on() {
    let mut world = world();
    let data = vec![7; 12 << 20];
    set_raw(&mut world.link, "other", b"value");
    let mut full = redis::cmd("CONFIG");
    full.arg(&["SET", "maxmemory", "1"]);
    world.link.run_one(full).unwrap().unwrap();
    let refusal = world.push_one(put("large", 1, &Object { data: data.into(), metadata: "".into() })).unwrap_err();
    assert!(refusal.starts_with("OOM"), "{refusal}");
    let mut get = redis::cmd("GET");
    get.arg("other");
    assert_eq!(world.link.run_one(get).unwrap(), Ok(Value::BulkString(b"value".to_vec())));
}

/// Chunks are compressed on two threads as long as they shrink.
#[test]
fn chunks_come_in_their_order_whichever_of_them_shrink() {
    let mut world = world();
    for (clock, shrinking) in (1..).zip(["11", "111", "1111111", "1011011", "1101110", "0111", "1110", "1001"]) {
        let chunks = shrinking.bytes().zip(1_u64..).map(|(shrinks, number)| match shrinks {
            b'1' => number.to_le_bytes().repeat(CHUNK_BYTES / 8),
            _ => noise(number, CHUNK_BYTES),
        });
        // A little shorter, so that metadata and data make as many chunks.
        let mut data = chunks.collect::<Vec<_>>().concat();
        data.truncate(data.len() - 1000);
        let object = Object { data: data.into(), metadata: vec![5; 500].into() };
        let pushed = world.push_one(put("id", clock, &object));
        assert!(matches!(pushed, Ok(Pushed::Applied { .. })), "{pushed:?}");
        assert!(world.object("id") == Some(object), "{shrinking}");
        let mut length = redis::cmd("STRLEN");
        length.arg(keys().chunk(b"id", version(clock), 1));
        let is_short = matches!(world.link.run_one(length).unwrap(), Ok(Value::Int(..100_000)));
        assert_eq!(is_short, shrinking.starts_with("11"), "{shrinking}");
    }
}
