//! What is found damaged, or given up, releases all that it held.

use std::fs;
use std::path::Path;

use scaler_object_storage::ObjectStore;

use crate::common::bytes;
use crate::{builder, segments};

const RECORD_HEADER_BYTES: usize = 96;

/// Objects of a store of 16 MiB that fill more than half of what may be live in it.
const LIMIT_MB: u64 = 16;
const LIVE_BYTES: usize = 9 << 20;

fn id(number: usize) -> Vec<u8> {
    format!("object {number:09}").into_bytes()
}

fn fill(directory: &Path, length: usize) -> usize {
    let store = builder(directory, LIMIT_MB).open().unwrap();
    let count = LIVE_BYTES / length;
    for number in 0..count {
        store.put(&id(number), &bytes(number as u64, length), b"").unwrap();
    }
    store.close().unwrap();
    count
}

/// Damages every body: those in segments of their own.
fn rot_bodies(directory: &Path) {
    for path in segments(directory, &["bodies", "body"]) {
        let mut content = fs::read(&path).unwrap();
        content.chunks_mut(4096).skip(1).for_each(|page| page[0] ^= 1);
        fs::write(path, content).unwrap();
    }
}

/// Where the ids that begin like this stand in a segment of records. A record begins at a multiple of 8, and so does its id.
fn ids_in(content: &[u8], beginning: &[u8; 7]) -> Vec<usize> {
    let is_id = |place: &usize| content[*place..].starts_with(beginning);
    (RECORD_HEADER_BYTES..(content.len() + 1).saturating_sub(16)).step_by(8).filter(is_id).collect()
}

/// Changes the segments of records wherever an id begins like this.
fn change_records(directory: &Path, beginning: &[u8; 7], change: impl Fn(&mut [u8], usize)) {
    for path in segments(directory, &["records"]) {
        let mut content = fs::read(&path).unwrap();
        for place in ids_in(&content, beginning) {
            change(&mut content, place);
        }
        fs::write(path, content).unwrap();
    }
}

/// Damages every record of these objects `at` bytes from its start, wherever it stands.
fn rot_records(directory: &Path, at: usize) {
    change_records(directory, b"object ", |content, place| content[place - RECORD_HEADER_BYTES + at] ^= 1);
}

/// In the header: its place, the clock, the body's hash, the data's length, the kind, and in the id.
const IN_HEADERS: [usize; 6] = [8, 18, 50, 72, 86, RECORD_HEADER_BYTES + 15];

#[track_caller]
fn assert_empty(store: &ObjectStore, what: &str) {
    assert_eq!(store.info().objects, 0, "{what}");
    // What only its hints can tell of a damaged record is let go in the background.
    crate::common::until(&format!("{what}: no payloads, no bytes"), || {
        let info = store.info();
        (info.payloads, info.payload_bytes) == (0, 0)
    });
}

/// As many new objects fit as were there.
#[track_caller]
fn assert_fits_again(store: &ObjectStore, count: usize, length: usize, what: &str) {
    for number in 0..count {
        let put = store.put(&[&b"new "[..], &id(number)].concat(), &bytes(1000 + number as u64, length), b"");
        assert!(put.is_ok(), "{what}: {number} of {count} fit again: {put:?}");
    }
    let info = store.info();
    assert_eq!((info.objects, info.payloads), (count as u64, count as u64), "{what}");
    assert_eq!(info.payload_bytes, (count * length) as u64, "{what}");
}

/// All are found damaged by reading them.
#[track_caller]
fn read_all(store: &ObjectStore, count: usize, what: &str) {
    for number in 0..count {
        assert!(store.get(&id(number)).unwrap().is_none(), "{what}: object {number} is served");
    }
    assert!(store.info().damaged_objects >= count as u64, "{what}: {}", store.info().damaged_objects);
}

// Invariants 7 and 14.
#[test]
fn damaged_bodies_hold_no_room() {
    for length in [20_000, 70_000, 400_000, 1_500_000] {
        let what = format!("bodies of {length} bytes");
        let place = tempfile::tempdir().unwrap();
        let count = fill(place.path(), length);
        rot_bodies(place.path());
        if length <= 64 << 10 {
            rot_records(place.path(), RECORD_HEADER_BYTES + 16 + 5000);
        }
        let store = builder(place.path(), LIMIT_MB).open().unwrap();
        read_all(&store, count, &what);
        assert_empty(&store, &what);
        assert_fits_again(&store, count, length, &what);
        store.close().unwrap();
        let store = builder(place.path(), LIMIT_MB).open().unwrap();
        assert_eq!(store.info().payload_bytes, (count * length) as u64, "{what}, opened again");
    }
}

// Invariants 7 and 14: what stands in the damaged header is not needed for that.
#[test]
fn objects_whose_headers_are_damaged_hold_no_room() {
    for length in [20_000, 400_000] {
        for at in IN_HEADERS {
            let what = format!("headers damaged at {at}, {length} bytes of data");
            let place = tempfile::tempdir().unwrap();
            let count = fill(place.path(), length);
            rot_records(place.path(), at);
            let store = builder(place.path(), LIMIT_MB).open().unwrap();
            read_all(&store, count, &what);
            assert_empty(&store, &what);
            assert_fits_again(&store, count, length, &what);
        }
    }
}

/// What a user may do to an object first, before anyone reads it.
const WAYS: [&str; 6] = ["put", "delete", "duplicate", "duplicate over it", "contains", "clear"];

fn meet(store: &ObjectStore, way: &str, id: &[u8]) {
    match way {
        "put" => store.put(id, b"new", b"").unwrap(),
        "delete" => drop(store.delete(id).unwrap()),
        "duplicate" => drop(store.duplicate(id, b"copy").unwrap()),
        "duplicate over it" => assert!(store.duplicate(b"healthy", id).unwrap()),
        "contains" => drop(store.contains(id).unwrap()),
        "clear" => store.clear().unwrap(),
        _ => unreachable!(),
    }
}

// Invariants 7 and 14.
#[test]
fn damaged_objects_hold_no_room_however_they_are_met() {
    for length in [20_000, 400_000] {
        for way in WAYS {
            for at in [None, Some(18), Some(RECORD_HEADER_BYTES + 15)] {
                let what = format!("{way}, {length} bytes, damaged at {at:?}");
                let place = tempfile::tempdir().unwrap();
                let count = fill(place.path(), length);
                match at {
                    Some(at) => rot_records(place.path(), at),
                    None if length > 64 << 10 => rot_bodies(place.path()),
                    None => rot_records(place.path(), RECORD_HEADER_BYTES + 16 + 5000),
                }
                let store = builder(place.path(), LIMIT_MB).open().unwrap();
                store.put(b"healthy", b"healthy", b"").unwrap();
                for number in 0..count {
                    meet(&store, way, &id(number));
                }
                for number in 0..count {
                    let found = store.get(&id(number)).unwrap().map(|object| object.data);
                    let expected = match way {
                        "put" => Some(&b"new"[..]),
                        "duplicate over it" => Some(&b"healthy"[..]),
                        _ => None,
                    };
                    assert!(found.as_deref() == expected, "{what}: object {number}");
                }
                // A copy of a damaged object is damaged.
                assert!(store.get(b"copy").unwrap().is_none(), "{what}: a copy is served");
                let kept = store.delete(b"healthy").unwrap();
                assert_eq!(kept, way != "clear", "{what}");
                for number in 0..count {
                    store.delete(&id(number)).unwrap();
                }
                assert_empty(&store, &what);
                assert_fits_again(&store, count, length, &what);
            }
        }
    }
}

// Invariants 7 and 14: those that share damaged bytes, and those whose own record is damaged.
#[test]
fn damaged_shared_payloads_hold_no_room() {
    for length in [20_000, 400_000] {
        for damage in ["the body", "all headers", "the holders' headers", "the sharers' headers"] {
            let what = format!("{length} bytes, {damage}");
            let place = tempfile::tempdir().unwrap();
            let store = builder(place.path(), LIMIT_MB).open().unwrap();
            let count = LIVE_BYTES / length;
            let holder = |number: usize| format!("holder {number:09}").into_bytes();
            for number in 0..count {
                store.put(&holder(number), &bytes(number as u64, length), b"").unwrap();
                assert!(store.duplicate(&holder(number), &id(number)).unwrap());
                // Half of the originals are gone.
                assert!(number % 2 == 0 || store.delete(&holder(number)).unwrap());
            }
            store.close().unwrap();
            // An id that is another one damages the header, whose checksum covers it.
            let rename = |from: &[u8; 7]| change_records(place.path(), from, |content, at| content[at] ^= 0x20);
            match damage {
                "the body" if length > 64 << 10 => rot_bodies(place.path()),
                "the body" => change_records(place.path(), b"holder ", |content, at| {
                    // Of a put: a delete is shorter.
                    if content[at - RECORD_HEADER_BYTES + 86] == 1 {
                        content[at + 16 + 5000] ^= 1;
                    }
                }),
                "all headers" => {
                    rename(b"holder ");
                    rename(b"object ");
                }
                "the holders' headers" => rename(b"holder "),
                "the sharers' headers" => rename(b"object "),
                _ => unreachable!(),
            }
            let store = builder(place.path(), LIMIT_MB).open().unwrap();
            for _ in 0..2 {
                for number in 0..count {
                    for id in [holder(number), id(number)] {
                        let is_whole = store.get(&id).unwrap().is_some();
                        // Whose header is whole keeps what it shares.
                        assert!(!is_whole || damage == "the sharers' headers", "{what}: object {number}");
                        store.delete(&id).unwrap();
                    }
                }
            }
            assert_empty(&store, &what);
            assert_fits_again(&store, count, length, &what);
        }
    }
}

// Invariants 7 and 14: found by reclaiming, which nobody asked to read them.
#[test]
fn damaged_objects_given_up_by_reclaiming_hold_no_room() {
    for at in [None, Some(18)] {
        let (count, length) = (150, 20_000);
        let place = tempfile::tempdir().unwrap();
        let store = builder(place.path(), LIMIT_MB).open().unwrap();
        for number in 0..count {
            store.put(&id(number), &bytes(number as u64, length), b"").unwrap();
        }
        store.close().unwrap();
        rot_records(place.path(), at.unwrap_or(RECORD_HEADER_BYTES + 16 + 5000));
        let store = builder(place.path(), LIMIT_MB).open().unwrap();
        let fillers = 20_u64;
        let mut rounds = 0;
        // Everything is overwritten until the segments with the damaged objects have gone.
        while store.info().damaged_objects < count as u64 {
            for number in 0..fillers {
                store.put(&number.to_le_bytes(), &bytes(10_000 + rounds * fillers + number, 30_000), b"").unwrap();
            }
            rounds += 1;
            assert!(rounds < 2000, "damaged at {at:?}: only {} are given up", store.info().damaged_objects);
        }
        let info = store.info();
        assert_eq!(
            (info.objects, info.payloads, info.payload_bytes),
            (fillers, fillers, fillers * 30_000),
            "damaged at {at:?}"
        );
        for number in 0..count {
            assert!(store.get(&id(number)).unwrap().is_none(), "object {number} is served");
        }
        for number in 0..fillers {
            assert!(store.delete(&number.to_le_bytes()).unwrap());
        }
        assert_empty(&store, &format!("damaged at {at:?}"));
        assert_fits_again(&store, LIVE_BYTES / length, length, &format!("damaged at {at:?}"));
    }
}
