//! Objects that arrive in pieces, one of which cannot be written.

use scaler_object_storage::{Durability, Error, ObjectStore};

use crate::builder_on;
use crate::common::{bytes, get, object};
use crate::disk::{Call, Fault, FaultyDisk};

const PIECE_BYTES: usize = 1 << 20;
const PIECES: usize = 10;

/// Two writers of ten MiB are admitted to a store of sixteen; there is room for one.
fn a_writer_that_found_no_room_commits_nothing(open: impl Fn() -> ObjectStore, persists: bool) {
    let store = open();
    store.put(b"id", b"the version before", b"before").unwrap();
    let before = store.info();
    let (first_data, second_data) = (bytes(1, PIECES * PIECE_BYTES), bytes(2, PIECES * PIECE_BYTES));
    let mut first = store.writer(b"first", first_data.len() as u64, b"").unwrap();
    let mut second = store.writer(b"id", second_data.len() as u64, b"").unwrap();
    for piece in first_data.chunks(PIECE_BYTES) {
        first.write(piece).unwrap();
    }
    let written: Vec<_> = second_data.chunks(PIECE_BYTES).map(|piece| second.write(piece)).collect();
    assert!(written.iter().any(|result| matches!(result, Err(Error::Full { .. }))), "there was room: {written:?}");

    let committed = second.commit();

    assert!(committed.is_err(), "it was committed");
    let unchanged = object(b"the version before", b"before");
    assert_eq!(get(&store, b"id"), unchanged);
    let after = store.info();
    assert_eq!(
        (after.objects, after.payloads, after.payload_bytes),
        (before.objects, before.payloads, before.payload_bytes)
    );

    first.commit().unwrap();
    assert!(get(&store, b"first") == object(&first_data, b""));
    // The room that the second had taken is there again.
    assert!(store.delete(b"first").unwrap());
    let mut third = store.writer(b"third", second_data.len() as u64, b"").unwrap();
    for piece in second_data.chunks(PIECE_BYTES) {
        third.write(piece).unwrap();
    }
    third.commit().unwrap();
    assert!(get(&store, b"third") == object(&second_data, b""));
    store.close().unwrap();
    if persists {
        let store = open();
        assert_eq!(get(&store, b"id"), unchanged);
        assert!(get(&store, b"third") == object(&second_data, b""));
        assert_eq!(store.info().damaged_objects, 0);
    }
}

// Invariant 13.
#[test]
fn a_writer_that_found_no_room_commits_nothing_in_the_local_store() {
    let place = tempfile::tempdir().unwrap();
    a_writer_that_found_no_room_commits_nothing(|| crate::builder(place.path(), 16).open().unwrap(), true);
}

// Invariant 13.
#[test]
fn a_writer_that_found_no_room_commits_nothing_in_memory() {
    let open = || ObjectStore::builder().memory().max_size_mb(16).open().unwrap();
    a_writer_that_found_no_room_commits_nothing(open, false);
}

/// The calls by which a large body comes to the disk.
const WRITING: [Call; 3] = [Call::Create, Call::Grow, Call::Write];

// Invariants 7 and 13: whichever piece failed, and though the disk works again when it is committed.
#[test]
fn a_writer_of_which_a_piece_failed_commits_nothing() {
    for (pieces, piece_bytes) in [(6, 30_000), (4, 100_000), (2, 9 << 20)] {
        for failing in 0..pieces {
            for errno in [libc::EIO, libc::ENOSPC] {
                for tries_again in [false, true] {
                    let what =
                        format!("piece {failing} of {pieces}, {piece_bytes} bytes, {errno}, again: {tries_again}");
                    a_failed_piece(pieces, piece_bytes, failing, errno, tries_again, &what);
                }
            }
        }
    }
}

fn a_failed_piece(pieces: usize, piece_bytes: usize, failing: usize, errno: i32, tries_again: bool, what: &str) {
    let place = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::default();
    let open = || builder_on(place.path(), 64, Durability::Process, &disk).open().unwrap();
    let store = open();
    store.put(b"id", b"the version before", b"").unwrap();
    let before = store.info();
    let data = bytes(7, pieces * piece_bytes);
    let mut writer = store.writer(b"id", data.len() as u64, b"metadata").unwrap();
    let mut failed = false;
    for (number, piece) in data.chunks(piece_bytes).enumerate() {
        if number == failing {
            disk.set(move |attempt| WRITING.contains(&attempt.call).then_some(Fault::Refused(errno)));
        }
        let written = writer.write(piece);
        disk.heal();
        failed |= written.is_err();
        // Also later pieces are refused: there is nothing to add them to.
        assert!(written.is_ok() || number >= failing, "{what}: {written:?}");
        if written.is_err() && tries_again {
            // Whatever this answers: it is too late.
            let _ = writer.write(piece);
        }
    }
    let committed = writer.commit();
    assert_eq!(committed.is_err(), failed, "{what}: {committed:?}");
    let expected = if failed { object(b"the version before", b"") } else { object(&data, b"metadata") };
    assert!(get(&store, b"id") == expected, "{what}");
    if failed {
        let after = store.info();
        let counted = |info: &scaler_object_storage::Info| (info.objects, info.payloads, info.payload_bytes);
        assert_eq!(counted(&after), counted(&before), "{what}");
    }
    store.close().unwrap();
    let store = open();
    assert!(get(&store, b"id") == expected, "{what}, opened again");
    assert_eq!(store.info().damaged_objects, 0, "{what}");
}
