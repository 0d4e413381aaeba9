//! Put, get, contains, delete, clear.

use scaler_object_storage::{Error, ID_BYTES_MAX, METADATA_BYTES_MAX, ObjectStore, REDIS_ID_BYTES_MAX};

use crate::common::{Fixture, SIZES, bytes, get, object};

contract!(
    a_get_returns_what_was_put,
    data_of_any_size_comes_back_unchanged,
    data_beyond_64_mib_comes_back_unchanged,
    data_and_metadata_may_each_be_empty,
    metadata_up_to_its_limit_is_kept,
    metadata_beyond_its_limit_is_refused,
    a_missing_object_is_none,
    ids_may_be_any_bytes,
    ids_are_as_long_as_the_backend_takes,
    ids_that_share_a_prefix_are_different_objects,
    an_overwrite_replaces_data_and_metadata,
    an_overwrite_keeps_the_bytes_that_were_handed_out,
    a_delete_keeps_the_bytes_that_were_handed_out,
    a_clear_keeps_the_bytes_that_were_handed_out,
    a_delete_says_whether_the_object_existed,
    a_deleted_object_can_be_put_again,
    clear_deletes_every_object,
    info_counts_objects,
    clones_are_handles_on_one_store,
);

fn a_get_returns_what_was_put(fixture: &Fixture) {
    let store = fixture.open();

    store.put(b"greeting", b"Hello, World!", b"text/plain").unwrap();

    assert_eq!(store.get(b"greeting").unwrap(), Some(object(b"Hello, World!", b"text/plain")));
    assert!(store.contains(b"greeting").unwrap());
}

fn data_of_any_size_comes_back_unchanged(fixture: &Fixture) {
    let store = fixture.open();

    for &size in SIZES {
        store.put(size.to_string().as_bytes(), &bytes(size as u64, size), b"m").unwrap();
    }

    for &size in SIZES {
        let got = get(&store, size.to_string().as_bytes());
        assert!(got == object(&bytes(size as u64, size), b"m"), "data of {size} bytes");
    }
}

fn data_beyond_64_mib_comes_back_unchanged(fixture: &Fixture) {
    let store = fixture.open();

    for extra in [0, 1] {
        let data = bytes(extra, (64 << 20) + extra as usize);
        store.put(b"large", &data, b"metadata").unwrap();
        assert!(get(&store, b"large") == object(&data, b"metadata"), "64 MiB and {extra} bytes");
    }
}

fn data_and_metadata_may_each_be_empty(fixture: &Fixture) {
    let store = fixture.open();

    for (id, data, metadata) in [(&b"neither"[..], &b""[..], &b""[..]), (b"data", b"d", b""), (b"metadata", b"", b"m")]
    {
        store.put(id, data, metadata).unwrap();
        assert_eq!(get(&store, id), object(data, metadata));
        assert!(store.contains(id).unwrap());
    }
    assert_eq!(store.info().objects, 3);
}

fn metadata_up_to_its_limit_is_kept(fixture: &Fixture) {
    let store = fixture.open();

    for size in [1023, 1024, 16384, 65535, 65536, 65537, METADATA_BYTES_MAX] {
        let metadata = bytes(size as u64, size);
        store.put(b"id", b"data", &metadata).unwrap();
        assert!(get(&store, b"id") == object(b"data", &metadata), "metadata of {size} bytes");
    }
}

fn metadata_beyond_its_limit_is_refused(fixture: &Fixture) {
    let store = fixture.open();
    store.put(b"id", b"before", b"").unwrap();

    let too_much = vec![1; METADATA_BYTES_MAX + 1];

    assert!(matches!(store.put(b"id", b"data", &too_much), Err(Error::TooLarge { .. })));
    assert!(matches!(store.writer(b"id", 4, &too_much), Err(Error::TooLarge { .. })));
    assert_eq!(get(&store, b"id"), object(b"before", b""));
}

fn a_missing_object_is_none(fixture: &Fixture) {
    let store = fixture.open();
    store.put(b"here", b"data", b"").unwrap();

    assert_eq!(store.get(b"missing").unwrap(), None);
    assert!(!store.contains(b"missing").unwrap());
}

fn ids_may_be_any_bytes(fixture: &Fixture) {
    let store = fixture.open();

    for byte in 0..=255 {
        store.put(&[byte], &[byte], b"").unwrap();
    }

    for byte in 0..=255 {
        assert_eq!(get(&store, &[byte]), object(&[byte], b""));
    }
    assert_eq!(store.info().objects, 256);
}

fn ids_are_as_long_as_the_backend_takes(fixture: &Fixture) {
    let store = fixture.open();
    let id = |len: usize| bytes(7, len);
    let mut taken = vec![1, 2, 31, 32, 33, 255, 256, 257, ID_BYTES_MAX - 1, ID_BYTES_MAX];
    let refused = if store.info().backend == "redis" {
        taken.extend([0, ID_BYTES_MAX + 1, REDIS_ID_BYTES_MAX - 1, REDIS_ID_BYTES_MAX]);
        vec![REDIS_ID_BYTES_MAX + 1, 70_000]
    } else {
        vec![0, ID_BYTES_MAX + 1, REDIS_ID_BYTES_MAX, 70_000]
    };

    for len in &taken {
        store.put(&id(*len), &len.to_le_bytes(), b"").unwrap();
    }
    for len in &taken {
        assert_eq!(get(&store, &id(*len)), object(&len.to_le_bytes(), b""));
    }
    for len in refused {
        every_operation_refuses(&store, &id(len));
    }
    assert_eq!(store.info().objects, taken.len() as u64);
    assert_eq!(store.info().waiting_requests, 0);
    store.clear().unwrap();
    assert!(taken.iter().all(|len| store.get(&id(*len)).unwrap().is_none()));
    assert_eq!(store.info().objects, 0);
}

fn every_operation_refuses(store: &ObjectStore, id: &[u8]) {
    fn refused<T>(result: Result<T, Error>, len: usize) {
        let bytes_max = |bytes_max| [ID_BYTES_MAX, REDIS_ID_BYTES_MAX].contains(&bytes_max);
        assert!(
            matches!(result, Err(Error::InvalidId { len: refused, bytes_max: max, .. }) if refused == len && bytes_max(max))
        );
    }
    let valid: Vec<u8> = bytes(7, 1);
    refused(store.put(id, b"data", b""), id.len());
    refused(store.writer(id, 0, b""), id.len());
    refused(store.get(id), id.len());
    refused(store.contains(id), id.len());
    refused(store.delete(id), id.len());
    refused(store.duplicate(id, &valid), id.len());
    refused(store.duplicate(&valid, id), id.len());
    refused(store.wait(id, None, None), id.len());
    refused(store.get_or_park(id, |_| ()), id.len());
    refused(store.duplicate_or_park(id, &valid, |_| ()), id.len());
    refused(store.duplicate_or_park(&valid, id, |_| ()), id.len());
}

fn ids_that_share_a_prefix_are_different_objects(fixture: &Fixture) {
    let store = fixture.open();
    let ids: [&[u8]; 5] = [b"a", b"a\0", b"aa", b"a\0\0", b"\0a"];

    for id in ids {
        store.put(id, id, b"").unwrap();
    }
    assert!(store.delete(b"a").unwrap());

    assert_eq!(store.get(b"a").unwrap(), None);
    for id in &ids[1..] {
        assert_eq!(get(&store, id), object(id, b""));
    }
}

fn an_overwrite_replaces_data_and_metadata(fixture: &Fixture) {
    let store = fixture.open();

    for (old, new) in [(10, 20), (20, 10), (70_000, 10), (10, 70_000), (70_000, 0), (0, 70_000), (70_000, 80_000)] {
        store.put(b"id", &bytes(1, old), b"old").unwrap();
        store.put(b"id", &bytes(2, new), b"").unwrap();
        assert!(get(&store, b"id") == object(&bytes(2, new), b""), "{old} bytes overwritten with {new}");
    }
    assert_eq!(store.info().objects, 1);
}

fn an_overwrite_keeps_the_bytes_that_were_handed_out(fixture: &Fixture) {
    handed_out_bytes_survive(fixture, |store| {
        for &size in SIZES {
            store.put(size.to_string().as_bytes(), &vec![0xff; size], b"other").unwrap();
        }
    });
}

fn a_delete_keeps_the_bytes_that_were_handed_out(fixture: &Fixture) {
    handed_out_bytes_survive(fixture, |store| {
        for &size in SIZES {
            assert!(store.delete(size.to_string().as_bytes()).unwrap());
        }
    });
}

fn a_clear_keeps_the_bytes_that_were_handed_out(fixture: &Fixture) {
    handed_out_bytes_survive(fixture, |store| store.clear().unwrap());
}

fn handed_out_bytes_survive(fixture: &Fixture, change: impl Fn(&ObjectStore)) {
    let store = fixture.open();
    let mut handed_out = Vec::new();
    for &size in SIZES {
        let id = size.to_string();
        store.put(id.as_bytes(), &bytes(size as u64, size), id.as_bytes()).unwrap();
        handed_out.push((size, get(&store, id.as_bytes())));
    }

    change(&store);
    for round in 0..4 {
        for &size in SIZES {
            store.put(b"scribble", &bytes(1000 + round, size), b"scribble").unwrap();
        }
    }

    for (size, held) in handed_out {
        assert!(held == object(&bytes(size as u64, size), size.to_string().as_bytes()), "held data of {size} bytes");
    }
}

fn a_delete_says_whether_the_object_existed(fixture: &Fixture) {
    let store = fixture.open();
    store.put(b"id", b"data", b"").unwrap();

    assert!(!store.delete(b"missing").unwrap());
    assert!(store.delete(b"id").unwrap());
    assert!(!store.delete(b"id").unwrap());

    assert_eq!(store.get(b"id").unwrap(), None);
    assert!(!store.contains(b"id").unwrap());
    assert_eq!(store.info().objects, 0);
}

fn a_deleted_object_can_be_put_again(fixture: &Fixture) {
    let store = fixture.open();

    for version in 0..20_u64 {
        let data = bytes(version, 100 * version as usize);
        store.put(b"id", &data, b"").unwrap();
        assert!(get(&store, b"id") == object(&data, b""));
        assert!(store.delete(b"id").unwrap());
        assert_eq!(store.get(b"id").unwrap(), None);
    }
}

fn clear_deletes_every_object(fixture: &Fixture) {
    let store = fixture.open();
    for id in 0..1000_u32 {
        store.put(&id.to_le_bytes(), &bytes(u64::from(id), id as usize), b"").unwrap();
    }

    store.clear().unwrap();

    let info = store.info();
    assert_eq!((info.objects, info.payloads, info.payload_bytes), (0, 0, 0));
    for id in 0..1000_u32 {
        assert_eq!(store.get(&id.to_le_bytes()).unwrap(), None);
    }
    store.put(b"id", b"after", b"").unwrap();
    assert_eq!(get(&store, b"id"), object(b"after", b""));
    assert_eq!(store.info().objects, 1);
}

fn info_counts_objects(fixture: &Fixture) {
    let store = fixture.open();
    let counts = || {
        let info = store.info();
        (info.objects, info.payloads, info.payload_bytes)
    };
    assert_eq!(counts(), (0, 0, 0));

    store.put(b"a", &bytes(1, 100), b"four").unwrap();
    assert_eq!(counts(), (1, 1, 104));
    store.put(b"b", &bytes(2, 100_000), b"").unwrap();
    assert_eq!(counts(), (2, 2, 100_104));
    store.put(b"a", &bytes(3, 5000), b"").unwrap();
    assert_eq!(counts(), (2, 2, 105_000));
    store.delete(b"b").unwrap();
    assert_eq!(counts(), (1, 1, 5000));
    store.delete(b"b").unwrap();
    assert_eq!(counts(), (1, 1, 5000));
    store.delete(b"a").unwrap();
    assert_eq!(counts(), (0, 0, 0));

    let info = store.info();
    assert!(info.capacity_bytes > 0);
    assert_eq!(info.damaged_objects, 0);
    assert_eq!((info.waiting_requests, info.waiting_ids), (0, 0));
}

fn clones_are_handles_on_one_store(fixture: &Fixture) {
    let store = fixture.open();
    let other = store.clone();

    store.put(b"id", b"data", b"").unwrap();
    drop(store);

    assert_eq!(get(&other, b"id"), object(b"data", b""));
}
