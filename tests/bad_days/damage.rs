//! Values of ours that Redis gives back otherwise than they were written. Invariants 7 and 11.

use scaler_object_storage::{ObjectStore, Waited};
use xxhash_rust::xxh3::xxh3_64;

use crate::common::redis::{Nodes, RedisServer};
use crate::common::{bytes, much_later, object, until};
use crate::world::nodes;

const SMALL: &[u8] = b"small";
const LARGE: &[u8] = b"large";

struct Specimen {
    server: RedisServer,
    nodes: Nodes,
    /// Has written both objects, and still holds them.
    holder: ObjectStore,
    /// Has nothing of its own.
    redis: ObjectStore,
}

fn small() -> Vec<u8> {
    bytes(1, 300)
}

fn large() -> Vec<u8> {
    bytes(2, (2 << 20) + 5)
}

fn key(id: &[u8]) -> Vec<u8> {
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("scaler:obj:{hex}").into_bytes()
}

impl Specimen {
    fn new() -> Specimen {
        let server = RedisServer::start();
        let nodes = nodes(server.url());
        let holder = nodes.open();
        holder.put(SMALL, &small(), b"m").unwrap();
        holder.put(LARGE, &large(), b"m").unwrap();
        let redis = Nodes::new("redis", server.url()).open();
        until("both are in Redis", || [SMALL, LARGE].iter().all(|id| redis.contains(id).unwrap()));
        until("and as they are", || redis.get(LARGE).unwrap() == Some(object(&large(), b"m")));
        Specimen { server, nodes, holder, redis }
    }

    fn value(&self, key: &[u8]) -> Vec<u8> {
        self.server.command(&[b"GET".as_slice(), key])
    }

    fn set(&self, key: &[u8], value: &[u8]) {
        let _: () = self.server.command(&[b"SET".as_slice(), key, value]);
    }

    fn chunks(&self, id: &[u8]) -> Vec<Vec<u8>> {
        let start = [key(id).as_slice(), b":"].concat();
        self.server.keys().into_iter().filter(|key| key.starts_with(&start)).collect()
    }

    /// Nobody gets anything but what was written, or nothing.
    fn nothing_wrong_is_seen(&self, what: &str) {
        nothing_wrong_is_in(&self.redis, what);
        let nodes = Nodes::new("tiered", self.server.url());
        nothing_wrong_is_in(&nodes.open(), what);
    }

    /// Whoever waits for it is answered, as a node still holds it, and Redis is whole again.
    fn it_is_repaired(&self, what: &str) {
        let waiting = self.nodes.open();
        for (id, data) in [(SMALL, small()), (LARGE, large())] {
            let waited = waiting.wait(id, much_later(), None).unwrap();
            assert!(waited == Waited::Object(object(&data, b"m")), "{what}: {waited:?}");
            assert_eq!(self.holder.get(id).unwrap(), Some(object(&data, b"m")), "{what}");
        }
        let redis = Nodes::new("redis", self.server.url()).open();
        until(&format!("{what} is repaired"), || {
            redis.get(SMALL).is_ok_and(|found| found == Some(object(&small(), b"m")))
                && redis.get(LARGE).is_ok_and(|found| found == Some(object(&large(), b"m")))
        });
    }
}

fn nothing_wrong_is_in(reader: &ObjectStore, what: &str) {
    for (id, data) in [(SMALL, small()), (LARGE, large())] {
        match reader.get(id) {
            Ok(found) => assert!(found.is_none_or(|found| found == object(&data, b"m")), "{what}"),
            Err(error) => assert!(crate::load::is_about_redis(&error), "{what}: {error}"),
        }
    }
}

#[test]
fn flipped_bits() {
    let specimen = Specimen::new();
    for key in [vec![key(SMALL), key(LARGE)], specimen.chunks(LARGE)].concat() {
        let value = specimen.value(&key);
        let step = (value.len() / 40).max(1);
        for place in (0..80.min(value.len())).chain((80..value.len()).step_by(step)) {
            let mut flipped = value.clone();
            flipped[place] ^= 1 << (place % 8);
            specimen.set(&key, &flipped);
            nothing_wrong_is_in(&specimen.redis, &format!("byte {place} of {}", String::from_utf8_lossy(&key)));
        }
        specimen.nothing_wrong_is_seen(&format!("the last byte of {}", String::from_utf8_lossy(&key)));
        specimen.set(&key, &value);
    }
}

#[test]
fn flipped_bits_are_repaired() {
    for place in [20, 60, 100] {
        let specimen = Specimen::new();
        let mut flipped = specimen.value(&key(SMALL));
        flipped[place] ^= 1;
        specimen.set(&key(SMALL), &flipped);
        specimen.it_is_repaired(&format!("a bit of byte {place}"));
    }
}

#[test]
fn truncated() {
    let specimen = Specimen::new();
    for key in [vec![key(SMALL), key(LARGE)], specimen.chunks(LARGE)].concat() {
        let value = specimen.value(&key);
        for len in [0, 1, 3, 4, 5, 8, 39, 40, 63, 64, 65, value.len() - 1].into_iter().filter(|len| *len < value.len())
        {
            specimen.set(&key, &value[..len]);
            specimen.nothing_wrong_is_seen(&format!("{len} bytes of {}", String::from_utf8_lossy(&key)));
        }
        specimen.set(&key, &[value.as_slice(), b"more"].concat());
        specimen.nothing_wrong_is_seen(&format!("more than {}", String::from_utf8_lossy(&key)));
        specimen.set(&key, &value);
    }
    let value = specimen.value(&key(SMALL));
    specimen.set(&key(SMALL), &value[..value.len() - 1]);
    specimen.it_is_repaired("a truncated value");
}

#[test]
fn a_missing_chunk() {
    let specimen = Specimen::new();
    let chunks = specimen.chunks(LARGE);
    assert_eq!(chunks.len(), 3);
    let _: i64 = specimen.server.command(&[b"DEL".as_slice(), &chunks[1]]);
    specimen.nothing_wrong_is_seen("without a chunk");
    specimen.it_is_repaired("a missing chunk");
}

#[test]
fn chunks_exchanged() {
    let specimen = Specimen::new();
    let chunks = specimen.chunks(LARGE);
    let (first, second) = (specimen.value(&chunks[0]), specimen.value(&chunks[1]));
    specimen.set(&chunks[0], &second);
    specimen.set(&chunks[1], &first);
    specimen.nothing_wrong_is_seen("with chunks exchanged");
    specimen.it_is_repaired("an exchange of chunks");
}

/// Lengths and counts that claim more than there is, in a head whose own checksum is right: nothing is allocated for them.
#[test]
fn huge_claimed_lengths() {
    let specimen = Specimen::new();
    for id in [SMALL, LARGE] {
        let value = specimen.value(&key(id));
        for (offset, length) in [(32, 4), (40, 8), (32, 16)] {
            for claim in [0xff, 0x7f, 0x0f] {
                let mut huge = value.clone();
                let last = offset + length - 1;
                huge[offset..last].fill(0xff);
                huge[last] = claim;
                specimen.set(&key(id), &huge);
                specimen.nothing_wrong_is_seen("a huge length");
                huge[36..40].fill(0);
                let checksum = xxh3_64(&huge[..64]) as u32;
                huge[36..40].copy_from_slice(&checksum.to_le_bytes());
                specimen.set(&key(id), &huge);
                specimen.nothing_wrong_is_seen("a huge length, with a checksum");
            }
        }
        specimen.set(&key(id), &value);
    }
    let mut python = u32::MAX.to_le_bytes().to_vec();
    python.extend(b"metadata");
    for claim in [u32::MAX >> 1, 1 << 28, 9] {
        python[..4].copy_from_slice(&claim.to_le_bytes());
        specimen.set(&key(SMALL), &python);
        specimen.nothing_wrong_is_seen("metadata that is longer than the value");
    }
}

/// Events that no node wrote.
#[test]
fn junk_in_the_stream_of_events() {
    let specimen = Specimen::new();
    let reader = specimen.nodes.open();
    for fields in [
        vec![b"a".to_vec(), b"b".to_vec()],
        vec![vec![], vec![]],
        vec![vec![0xff; 1000], vec![0xff; 100_000]],
        (0..100).map(|number| vec![number; 10]).collect(),
    ] {
        let mut words = vec![b"XADD".to_vec(), b"scaler:obj:_events".to_vec(), b"*".to_vec()];
        words.extend(fields);
        let _: String = specimen.server.command(&words);
    }
    // What comes behind is heard.
    specimen.holder.put(SMALL, b"new", b"").unwrap();
    until("the new one is seen", || reader.get(SMALL).is_ok_and(|found| found == Some(object(b"new", b""))));
    specimen.holder.delete(SMALL).unwrap();
    until("it is gone", || reader.get(SMALL).is_ok_and(|found| found.is_none()));
}
