//! Duplicates and equal payloads: ids that share bytes.

use scaler_object_storage::ObjectStore;

use crate::common::{Fixture, SIZES, bytes, get, object};

contract!(
    a_duplicate_has_the_content_of_its_original,
    a_duplicate_shares_the_payload,
    a_duplicate_outlives_its_original,
    an_original_outlives_its_duplicate,
    an_overwritten_original_leaves_its_duplicates_alone,
    a_duplicate_of_a_duplicate_outlives_both,
    a_duplicate_over_an_existing_object_replaces_it,
    a_duplicate_onto_itself_changes_nothing,
    a_duplicate_of_a_missing_original_changes_nothing,
    equal_payloads_are_stored_once,
    equal_payloads_die_with_their_last_object,
    an_equal_payload_put_again_over_itself_is_kept,
    payloads_that_differ_in_one_byte_are_not_shared,
    equal_data_with_other_metadata_keeps_its_own_metadata,
);

/// (objects, payloads)
fn counts(store: &ObjectStore) -> (u64, u64) {
    let info = store.info();
    (info.objects, info.payloads)
}

fn a_duplicate_has_the_content_of_its_original(fixture: &Fixture) {
    let store = fixture.open();

    for &size in SIZES {
        let data = bytes(size as u64, size);
        store.put(b"original", &data, b"metadata").unwrap();
        assert!(store.duplicate(b"original", b"new").unwrap());
        assert!(get(&store, b"new") == object(&data, b"metadata"), "data of {size} bytes");
        assert!(get(&store, b"original") == object(&data, b"metadata"), "data of {size} bytes");
    }
}

fn a_duplicate_shares_the_payload(fixture: &Fixture) {
    let store = fixture.open();
    for (size, seed) in [(100, 1), (5000, 2), (100_000, 3)] {
        store.clear().unwrap();
        store.put(b"original", &bytes(seed, size), b"").unwrap();

        for new in 0..10_u8 {
            assert!(store.duplicate(b"original", &[new]).unwrap());
        }

        assert_eq!(counts(&store), (11, fixture.payloads(1, 11)));
        assert_eq!(store.info().payload_bytes, fixture.payloads(1, 11) * size as u64);
    }
}

fn a_duplicate_outlives_its_original(fixture: &Fixture) {
    let store = fixture.open();
    for &size in SIZES {
        let data = bytes(size as u64, size);
        store.put(b"original", &data, b"m").unwrap();
        store.duplicate(b"original", b"new").unwrap();

        assert!(store.delete(b"original").unwrap());

        assert_eq!(store.get(b"original").unwrap(), None);
        assert!(get(&store, b"new") == object(&data, b"m"), "data of {size} bytes");
        assert_eq!(counts(&store), (1, fixture.payloads(1, 1)));
        assert!(store.delete(b"new").unwrap());
        assert_eq!(counts(&store), (0, fixture.payloads(0, 0)));
    }
}

fn an_original_outlives_its_duplicate(fixture: &Fixture) {
    let store = fixture.open();
    let data = bytes(1, 100_000);
    store.put(b"original", &data, b"").unwrap();
    store.duplicate(b"original", b"new").unwrap();

    assert!(store.delete(b"new").unwrap());

    assert_eq!(store.get(b"new").unwrap(), None);
    assert!(get(&store, b"original") == object(&data, b""));
    assert_eq!(counts(&store), (1, fixture.payloads(1, 1)));
}

fn an_overwritten_original_leaves_its_duplicates_alone(fixture: &Fixture) {
    let store = fixture.open();
    store.put(b"original", &bytes(1, 100_000), b"first").unwrap();
    store.duplicate(b"original", b"new").unwrap();

    store.put(b"original", &bytes(2, 100_000), b"second").unwrap();

    assert!(get(&store, b"new") == object(&bytes(1, 100_000), b"first"));
    assert!(get(&store, b"original") == object(&bytes(2, 100_000), b"second"));
    assert_eq!(counts(&store), (2, fixture.payloads(2, 2)));
}

fn a_duplicate_of_a_duplicate_outlives_both(fixture: &Fixture) {
    let store = fixture.open();
    for size in [100, 20_000, 100_000] {
        let data = bytes(1, size);
        store.put(b"a", &data, b"").unwrap();
        assert!(store.duplicate(b"a", b"b").unwrap());
        assert!(store.duplicate(b"b", b"c").unwrap());

        assert!(store.delete(b"a").unwrap());
        assert!(store.delete(b"b").unwrap());

        assert!(get(&store, b"c") == object(&data, b""));
        assert_eq!(counts(&store), (1, fixture.payloads(1, 1)));
    }
}

fn a_duplicate_over_an_existing_object_replaces_it(fixture: &Fixture) {
    let store = fixture.open();
    store.put(b"original", &bytes(1, 5000), b"o").unwrap();
    store.put(b"new", &bytes(2, 100_000), b"n").unwrap();
    let held = get(&store, b"new");

    assert!(store.duplicate(b"original", b"new").unwrap());

    assert!(get(&store, b"new") == object(&bytes(1, 5000), b"o"));
    assert!(held == object(&bytes(2, 100_000), b"n"), "bytes handed out");
    assert_eq!(counts(&store), (2, fixture.payloads(1, 2)));
    assert_eq!(store.info().payload_bytes, fixture.payloads(1, 2) * 5001);
}

fn a_duplicate_onto_itself_changes_nothing(fixture: &Fixture) {
    let store = fixture.open();
    store.put(b"id", &bytes(1, 5000), b"m").unwrap();

    assert!(store.duplicate(b"id", b"id").unwrap());
    assert!(!store.duplicate(b"missing", b"missing").unwrap());

    assert!(get(&store, b"id") == object(&bytes(1, 5000), b"m"));
    assert_eq!(counts(&store), (1, fixture.payloads(1, 1)));
    assert!(store.delete(b"id").unwrap());
    assert_eq!(counts(&store), (0, fixture.payloads(0, 0)));
}

fn a_duplicate_of_a_missing_original_changes_nothing(fixture: &Fixture) {
    let store = fixture.open();
    store.put(b"new", b"old content", b"").unwrap();

    assert!(!store.duplicate(b"missing", b"new").unwrap());
    assert!(!store.duplicate(b"missing", b"other").unwrap());

    assert_eq!(get(&store, b"new"), object(b"old content", b""));
    assert_eq!(store.get(b"other").unwrap(), None);
    assert_eq!(store.get(b"missing").unwrap(), None);
    assert_eq!(counts(&store), (1, fixture.payloads(1, 1)));
}

fn equal_payloads_are_stored_once(fixture: &Fixture) {
    let store = fixture.open();
    for size in [1024, 16_384, 65_536, 65_537, 1 << 20] {
        store.clear().unwrap();
        let data = bytes(size as u64, size);

        for id in 0..8_u8 {
            store.put(&[id], &data, b"").unwrap();
        }
        let mut writer = store.writer(b"streamed", size as u64, b"").unwrap();
        data.chunks(1000).for_each(|piece| writer.write(piece).unwrap());
        writer.commit().unwrap();

        assert_eq!(counts(&store), (9, fixture.payloads(1, 9)), "payloads of {size} bytes");
        assert_eq!(store.info().payload_bytes, fixture.payloads(1, 9) * size as u64);
        assert!(get(&store, &[7]).data == data);
        assert!(get(&store, b"streamed").data == data);
    }
}

fn equal_payloads_die_with_their_last_object(fixture: &Fixture) {
    let store = fixture.open();
    let data = bytes(1, 70_000);
    for _ in 0..3 {
        store.put(b"a", &data, b"").unwrap();
        store.put(b"b", &data, b"").unwrap();
        store.duplicate(b"b", b"c").unwrap();
        assert_eq!(counts(&store), (3, fixture.payloads(1, 3)));

        assert!(store.delete(b"a").unwrap());
        assert!(store.delete(b"b").unwrap());
        assert!(get(&store, b"c") == object(&data, b""));
        assert_eq!(counts(&store), (1, fixture.payloads(1, 1)));
        assert!(store.delete(b"c").unwrap());
        assert_eq!((counts(&store), store.info().payload_bytes), ((0, 0), 0));
    }
}

fn an_equal_payload_put_again_over_itself_is_kept(fixture: &Fixture) {
    let store = fixture.open();
    let data = bytes(1, 70_000);

    for _ in 0..3 {
        store.put(b"id", &data, b"").unwrap();
        assert!(get(&store, b"id") == object(&data, b""));
        assert_eq!(counts(&store), (1, fixture.payloads(1, 1)));
    }
    assert!(store.delete(b"id").unwrap());
    assert_eq!(counts(&store), (0, fixture.payloads(0, 0)));
}

fn payloads_that_differ_in_one_byte_are_not_shared(fixture: &Fixture) {
    let store = fixture.open();
    for size in [1024, 16_384, 100_000] {
        let data = bytes(1, size);
        store.put(b"id", &data, b"").unwrap();
        for place in [0, size / 2, size - 1] {
            let mut other = data.clone();
            other[place] ^= 1;

            store.put(b"other", &other, b"").unwrap();

            assert!(get(&store, b"other").data == other);
            assert!(get(&store, b"id").data == data);
            assert_eq!(counts(&store), (2, fixture.payloads(2, 2)));
        }
        store.put(b"longer", &[&data[..], b"x"].concat(), b"").unwrap();
        assert_eq!(get(&store, b"longer").data.len(), size + 1);
        store.delete(b"longer").unwrap();
    }
}

fn equal_data_with_other_metadata_keeps_its_own_metadata(fixture: &Fixture) {
    let store = fixture.open();
    for size in [1, 1024, 100_000] {
        let data = bytes(1, size);

        store.put(b"a", &data, b"metadata of a").unwrap();
        store.put(b"b", &data, b"metadata of b").unwrap();
        store.put(b"c", &data, b"").unwrap();

        assert!(get(&store, b"a") == object(&data, b"metadata of a"));
        assert!(get(&store, b"b") == object(&data, b"metadata of b"));
        assert!(get(&store, b"c") == object(&data, b""));
    }
}
