//! What the fuzz targets check of what stands in Redis.

use super::envelope::{self, CHUNK_BYTES, Codec, Encoder, Head};
use super::{events, python};
use crate::object::Object;

/// Decodes any bytes as a value, a chunk, a value of the Python backend: nothing panics, and what decodes survives being encoded again.
pub fn value(bytes: &[u8]) {
    if let Ok(head) = Head::decode(bytes) {
        assert_eq!(Head::decode(&head.encode()), Ok(head));
        if let Ok(object) = envelope::decode_object(&head, bytes.to_vec()) {
            again(&object, &head);
        }
    }
    for raw_bytes in [0, 1, bytes.len(), CHUNK_BYTES] {
        if let Ok(chunk) = envelope::decode_chunk(bytes.to_vec(), raw_bytes) {
            assert_eq!(chunk.len(), raw_bytes);
        }
    }
    if let Ok(object) = python::decode(bytes.to_vec()) {
        let mut value = Vec::new();
        python::encode(&object, |piece| value.extend_from_slice(piece));
        assert_eq!(value, bytes);
    }
}

fn again(object: &Object, head: &Head) {
    for compress in [false, true] {
        let mut value = Vec::new();
        Encoder::new(compress).object(*head, object, |piece| value.extend_from_slice(piece));
        let decoded = Head::decode(&value).and_then(|head| envelope::decode_object(&head, value));
        assert_eq!(decoded.as_ref(), Ok(object));
    }
}

/// Encodes an object of these bytes and changes one byte: it never decodes to a different object.
pub fn damaged(metadata: &[u8], data: &[u8], place: usize, change: u8) {
    let object = Object { data: data.to_vec().into(), metadata: metadata.to_vec().into() };
    let body_hash = xxhash_rust::xxh3::xxh3_128(&[metadata, data].concat());
    let head = Head::put(crate::version::Version { clock: 1, node: 2 }, &object, body_hash, 0);
    if head.chunk_count > 0 {
        return;
    }
    let mut value = Vec::new();
    Encoder::new(true).object(Head { codec: Codec::None, ..head }, &object, |piece| value.extend_from_slice(piece));
    let length = value.len();
    if let Some(byte) = value.get_mut(place % length) {
        *byte ^= change;
    }
    if let Ok(read) = Head::decode(&value).and_then(|head| envelope::decode_object(&head, value)) {
        assert_eq!(read, object);
    }
}

/// Decodes any bytes as a batch of events: what decodes survives being encoded again.
pub fn events(bytes: &[u8]) {
    let mut found = Vec::new();
    if events::unpack(7, bytes, &mut found) {
        assert!(found.len() <= events::EVENT_OPS_MAX);
        assert_eq!(events::pack_events(&found), bytes);
    } else {
        assert!(found.is_empty());
    }
}
