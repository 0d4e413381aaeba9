//! Objects whose data arrives in pieces.

use scaler_object_storage::{Error, ObjectStore};

use crate::common::{Fixture, SIZES, bytes, get, object};

contract!(
    a_committed_writer_makes_the_object_exist,
    pieces_of_any_size_make_the_same_object,
    data_beyond_64_mib_can_be_streamed,
    nothing_exists_before_the_commit,
    a_dropped_writer_leaves_no_trace,
    a_writer_refuses_more_than_was_announced,
    a_writer_that_got_too_much_cannot_be_committed,
    a_commit_refuses_less_than_was_announced,
    the_last_commit_wins,
    a_commit_over_an_object_keeps_the_bytes_that_were_handed_out,
    a_commit_after_close_fails,
);

fn stream(store: &ObjectStore, id: &[u8], data: &[u8], piece_bytes: usize, metadata: &[u8]) {
    let mut writer = store.writer(id, data.len() as u64, metadata).unwrap();
    for piece in data.chunks(piece_bytes) {
        writer.write(piece).unwrap();
    }
    writer.commit().unwrap();
}

fn a_committed_writer_makes_the_object_exist(fixture: &Fixture) {
    let store = fixture.open();

    for &size in SIZES {
        let data = bytes(size as u64, size);
        stream(&store, size.to_string().as_bytes(), &data, 60_000, b"metadata");
    }

    for &size in SIZES {
        let got = get(&store, size.to_string().as_bytes());
        assert!(got == object(&bytes(size as u64, size), b"metadata"), "data of {size} bytes");
    }
    let info = store.info();
    assert_eq!((info.objects, info.payloads), (SIZES.len() as u64, SIZES.len() as u64));
    assert_eq!(info.payload_bytes, SIZES.iter().map(|size| *size as u64 + 8).sum::<u64>());
}

fn pieces_of_any_size_make_the_same_object(fixture: &Fixture) {
    let store = fixture.open();
    let data = bytes(1, 200_000);

    for piece_bytes in [1, 1000, 4096, 65_536, 65_537, 199_999, 200_000] {
        store.clear().unwrap();
        stream(&store, b"id", &data, piece_bytes, b"");
        assert!(get(&store, b"id") == object(&data, b""), "pieces of {piece_bytes} bytes");
    }

    let mut writer = store.writer(b"with empty pieces", 3, b"").unwrap();
    for piece in [&b""[..], b"a", b"", b"bc", b""] {
        writer.write(piece).unwrap();
    }
    writer.commit().unwrap();
    assert_eq!(get(&store, b"with empty pieces"), object(b"abc", b""));
}

fn data_beyond_64_mib_can_be_streamed(fixture: &Fixture) {
    let store = fixture.open();
    let data = bytes(1, (64 << 20) + 1);

    stream(&store, b"large", &data, 1 << 20, b"metadata");

    assert!(get(&store, b"large") == object(&data, b"metadata"));
}

fn nothing_exists_before_the_commit(fixture: &Fixture) {
    let store = fixture.open();
    for size in [5, 100_000] {
        store.put(b"old", b"old", b"").unwrap();
        for id in [&b"old"[..], b"new"] {
            let before = store.get(id).unwrap();
            let mut writer = store.writer(id, size as u64, b"").unwrap();
            assert_eq!(store.get(id).unwrap(), before);
            writer.write(&bytes(1, size)).unwrap();

            assert_eq!(store.get(id).unwrap(), before);
            assert_eq!(store.contains(id).unwrap(), before.is_some());

            writer.commit().unwrap();
            assert!(get(&store, id) == object(&bytes(1, size), b""));
            store.delete(b"new").unwrap();
        }
    }
}

fn a_dropped_writer_leaves_no_trace(fixture: &Fixture) {
    let store = fixture.open();
    store.put(b"old", b"old", b"").unwrap();
    let before = store.info();

    for size in [0, 5, 100_000, 1 << 20] {
        for id in [&b"old"[..], b"new"] {
            let mut writer = store.writer(id, size as u64, b"metadata").unwrap();
            writer.write(&bytes(1, size)).unwrap();
            drop(writer);
        }
    }

    assert_eq!(get(&store, b"old"), object(b"old", b""));
    assert_eq!(store.get(b"new").unwrap(), None);
    let after = store.info();
    assert_eq!((after.objects, after.payloads), (before.objects, before.payloads));
    assert_eq!(after.payload_bytes, before.payload_bytes);
}

fn a_writer_refuses_more_than_was_announced(fixture: &Fixture) {
    let store = fixture.open();
    store.put(b"id", b"before", b"").unwrap();

    for announced in [0, 5, 100_000] {
        let mut writer = store.writer(b"id", announced, b"").unwrap();
        writer.write(&bytes(1, announced as usize)).unwrap();
        let refused = writer.write(b"x");
        assert!(matches!(
            refused,
            Err(Error::LengthMismatch { written, announced: limit, .. }) if written == announced + 1 && limit == announced
        ));
    }

    assert_eq!(get(&store, b"id"), object(b"before", b""));
}

fn a_writer_that_got_too_much_cannot_be_committed(fixture: &Fixture) {
    let store = fixture.open();
    store.put(b"id", b"before", b"").unwrap();

    let mut writer = store.writer(b"id", 5, b"").unwrap();
    writer.write(b"12345").unwrap();
    writer.write(b"6").unwrap_err();

    assert!(matches!(writer.commit(), Err(Error::LengthMismatch { .. })));
    assert_eq!(get(&store, b"id"), object(b"before", b""));
}

fn a_commit_refuses_less_than_was_announced(fixture: &Fixture) {
    let store = fixture.open();
    store.put(b"id", b"before", b"").unwrap();

    for (announced, written) in [(1, 0), (6, 5), (100_000, 99_999)] {
        let mut writer = store.writer(b"id", announced, b"").unwrap();
        writer.write(&bytes(1, written as usize)).unwrap();
        let refused = writer.commit();
        assert!(matches!(
            refused,
            Err(Error::LengthMismatch { written: had, announced: limit, .. }) if had == written && limit == announced
        ));
    }

    assert_eq!(get(&store, b"id"), object(b"before", b""));
    assert_eq!(store.info().payloads, 1);
}

fn the_last_commit_wins(fixture: &Fixture) {
    let store = fixture.open();
    for size in [10, 100_000] {
        let mut first = store.writer(b"id", size as u64, b"first").unwrap();
        let mut second = store.writer(b"id", size as u64, b"second").unwrap();
        first.write(&bytes(1, size)).unwrap();
        second.write(&bytes(2, size)).unwrap();

        second.commit().unwrap();
        store.put(b"id", b"between", b"").unwrap();
        first.commit().unwrap();

        assert!(get(&store, b"id") == object(&bytes(1, size), b"first"));
        assert_eq!(store.info().payloads, 1);
    }
}

fn a_commit_over_an_object_keeps_the_bytes_that_were_handed_out(fixture: &Fixture) {
    let store = fixture.open();
    for &size in SIZES {
        store.put(b"id", &bytes(1, size), b"1").unwrap();
        let held = get(&store, b"id");

        stream(&store, b"id", &bytes(2, size), 60_000, b"2");

        assert!(held == object(&bytes(1, size), b"1"), "held data of {size} bytes");
        assert!(get(&store, b"id") == object(&bytes(2, size), b"2"), "data of {size} bytes");
    }
}

fn a_commit_after_close_fails(fixture: &Fixture) {
    let store = fixture.open();
    let mut writer = store.writer(b"id", 5, b"").unwrap();
    writer.write(b"12345").unwrap();

    store.close().unwrap();

    assert!(matches!(writer.commit(), Err(Error::Closed)));
}
