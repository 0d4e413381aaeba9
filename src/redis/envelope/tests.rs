//! Tests of the layout of values: golden bytes, damage, and claimed lengths.

use super::*;

const VERSION: Version = Version { clock: 0x0102_0304_0506_0708, node: 0x1112_1314_1516_1718 };

fn object(metadata: &[u8], data: &[u8]) -> (Object, u128) {
    let body = [metadata, data].concat();
    (Object { data: data.to_vec().into(), metadata: metadata.to_vec().into() }, xxh3_128(&body))
}

fn encoded(compress: bool, object: &Object, hash: u128) -> Vec<u8> {
    let mut value = Vec::new();
    let head = Head::put(VERSION, object, hash, 77);
    Encoder::new(compress).object(head, object, |bytes| value.extend_from_slice(bytes));
    value
}

fn decoded(value: &[u8]) -> Result<Object, String> {
    Head::decode(value).and_then(|head| decode_object(&head, value.to_vec()))
}

#[test]
fn an_envelope_has_the_documented_layout() {
    let (object, hash) = object(b"m", b"data");
    let value = encoded(true, &object, hash);
    assert_eq!(value[..8], [0xff, b'S', b'O', b'S', 1, 1, 0, 0]);
    assert_eq!(value[8..24], [1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18]);
    assert_eq!(value[24..36], [77, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(value[40..48], [4, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(value[48..64], hash.to_le_bytes());
    assert_eq!(&value[64..], b"mdata");
    let mut zeroed = value[..64].to_vec();
    zeroed[36..40].fill(0);
    assert_eq!(value[36..40], xxh3_64(&zeroed).to_le_bytes()[..4]);
    assert!(u32::from_le_bytes(MAGIC) > 512 << 20, "no length of the Python backend");
    assert_eq!(decoded(&value), Ok(object));
}

#[test]
fn compression_is_kept_only_where_it_shrinks() {
    let (text, hash) = object(b"kind=text", &b"abcdefgh".repeat(1000));
    let value = encoded(true, &text, hash);
    assert!(value.len() < 1000);
    assert_eq!(Head::decode(&value).unwrap().codec, Codec::Lz4);
    assert_eq!(decoded(&value), Ok(text.clone()));
    assert_eq!(decoded(&encoded(false, &text, hash)), Ok(text));

    let noise: Vec<u8> = (0..500u64).flat_map(|n| xxh3_64(&n.to_le_bytes()).to_le_bytes()).collect();
    let (noise, hash) = object(b"", &noise);
    let value = encoded(true, &noise, hash);
    assert_eq!(Head::decode(&value).unwrap().codec, Codec::None);
    assert_eq!(decoded(&value), Ok(noise));
}

// Invariant 7: bytes that are not what was stored are never handed out.
#[test]
fn a_flipped_bit_or_a_cut_is_found() {
    for compress in [false, true] {
        let (object, hash) = object(b"metadata", &b"some data ".repeat(20));
        let value = encoded(compress, &object, hash);
        for position in 0..value.len() {
            let mut flipped = value.clone();
            flipped[position] ^= 0x10;
            assert!(decoded(&flipped).is_err(), "byte {position}");
            assert!(decoded(&value[..position]).is_err(), "cut at {position}");
        }
        assert!(decoded(&[&value[..], b"x"].concat()).is_err(), "more than there should be");
    }
}

fn forged(change: impl FnOnce(&mut [u8; HEAD_BYTES])) -> [u8; HEAD_BYTES] {
    let (object, hash) = object(b"m", b"data");
    let mut head = Head::put(VERSION, &object, hash, 0).encode();
    change(&mut head);
    let checksum = checksum(&head);
    head[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 4].copy_from_slice(&checksum.to_le_bytes());
    head
}

// Invariant 11: a claimed length is checked before anything is allocated for it.
#[test]
fn implausible_lengths_are_refused_though_the_checksum_is_right() {
    assert!(Head::decode(&forged(|_| ())).is_ok());
    let huge = forged(|head| head[40..48].copy_from_slice(&u64::MAX.to_le_bytes()));
    let manifest_of_little = forged(|head| head[KIND_OFFSET] = Kind::Manifest as u8);
    let manifest_of_too_much = forged(|head| {
        head[KIND_OFFSET] = Kind::Manifest as u8;
        head[40..48].copy_from_slice(&(1u64 << 41).to_le_bytes());
    });
    let object_of_too_much = forged(|head| head[40..48].copy_from_slice(&(CHUNK_BYTES as u64).to_le_bytes()));
    let metadata = forged(|head| head[32..36].copy_from_slice(&u32::MAX.to_le_bytes()));
    let tombstone_with_body = forged(|head| head[KIND_OFFSET] = Kind::Tombstone as u8);
    let unknown_kind = forged(|head| head[KIND_OFFSET] = 9);
    let unknown_codec = forged(|head| head[6] = 9);
    let unknown_format = forged(|head| head[4] = 9);
    for head in [
        huge,
        manifest_of_little,
        manifest_of_too_much,
        object_of_too_much,
        metadata,
        tombstone_with_body,
        unknown_kind,
        unknown_codec,
        unknown_format,
    ] {
        assert!(Head::decode(&head).is_err(), "{head:?}");
    }
}

#[test]
fn a_large_body_stands_in_chunks() {
    let (object, hash) = object(&[7; 100], &[b'x'; 2 * CHUNK_BYTES]);
    let head = Head::put(VERSION, &object, hash, 0);
    assert_eq!((head.kind, head.chunk_count), (Kind::Manifest, 3));
    assert_eq!(Head::decode(&head.encode()), Ok(head));
    let mut body = Vec::new();
    let mut encoder = Encoder::new(true);
    for chunk in 0..head.chunk_count {
        let value = encoder.chunk(chunk_of((&object).into(), chunk), true).pieces().concat();
        assert!(value.len() < CHUNK_BYTES / 2, "compressed");
        assert_eq!(value[..4], [1, 0, 0, 0]);
        assert_eq!(value[4..8], (head.chunk_bytes(chunk) as u32).to_le_bytes());
        body.extend_from_slice(&decode_chunk(value.clone(), head.chunk_bytes(chunk)).unwrap());
        assert!(decode_chunk(value, head.chunk_bytes(chunk) - 1).is_err());
    }
    assert_eq!(head.object(body.clone().into()), Ok(object));
    body[5] ^= 1;
    assert!(head.object(body.into()).is_err());
}

#[test]
fn a_body_of_one_chunk_stands_in_the_value() {
    let (object, hash) = object(&[7; 100], &vec![b'x'; CHUNK_BYTES - 100]);
    assert_eq!(Head::put(VERSION, &object, hash, 0).kind, Kind::Object);
    assert_eq!(decoded(&encoded(true, &object, hash)), Ok(object));
}

#[test]
fn versions_are_ordered_as_their_bytes_are() {
    let versions = [(0, 0), (0, 1), (0, u64::MAX), (1, 0), (255, 9), (256, 0), (u64::MAX, 0)];
    let bytes = versions.map(|(clock, node)| version_bytes(Version { clock, node }));
    assert!(bytes.is_sorted_by(|a, b| a < b));
    assert_eq!(stated_version(&Head::tombstone(VERSION).encode()), Some(VERSION));
}
