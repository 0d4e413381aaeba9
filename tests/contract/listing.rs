//! What is stored can be listed, page by page, described, checked, and stored anew with the version that it had.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use scaler_object_storage::{Error, ListPosition, Listed, ObjectState, ObjectStore, Version};

use crate::common::{Fixture, bytes, object, persists};

contract!(
    every_object_is_listed_once,
    an_object_that_stays_is_listed_while_others_come_and_go,
    one_object_is_described,
    a_position_that_makes_no_sense_is_refused,
);

/// Every object by its id; fails where one is listed twice, but for `redis`, which may do that.
fn listed(store: &ObjectStore, limit: usize) -> BTreeMap<Vec<u8>, Listed> {
    let (mut all, mut from) = (BTreeMap::new(), ListPosition::default());
    loop {
        let page = store.list(&from, limit).unwrap();
        assert!(store.info().backend == "redis" || page.objects.len() <= limit);
        for object in page.objects {
            let twice = all.insert(object.id.as_bytes().to_vec(), object);
            assert!(twice.is_none() || store.info().backend == "redis", "{twice:?} is listed twice");
        }
        match page.next {
            Some(next) => from = next,
            None => return all,
        }
    }
}

fn every_object_is_listed_once(fixture: &Fixture) {
    let store = fixture.open();
    assert!(listed(&store, 7).is_empty());
    let mut expected = BTreeMap::new();
    for number in 0..300_u64 {
        let id = number.to_le_bytes();
        store.put(&id, &bytes(number, number as usize * 7), &bytes(number, number as usize % 5)).unwrap();
        expected.insert(id.to_vec(), (number * 7, number % 5));
    }
    store.put(&7_u64.to_le_bytes(), b"again", b"").unwrap();
    expected.insert(7_u64.to_le_bytes().to_vec(), (5, 0));
    for number in 0..50_u64 {
        store.delete(&number.to_le_bytes()).unwrap();
        expected.remove(number.to_le_bytes().as_slice());
    }
    assert!(store.duplicate(&99_u64.to_le_bytes(), b"a duplicate").unwrap());
    expected.insert(b"a duplicate".to_vec(), (99 * 7, 4));
    store.put(b"large", &bytes(1, 300_000), b"m").unwrap();
    expected.insert(b"large".to_vec(), (300_000, 1));

    for limit in [1, 2, 100, 1000, usize::MAX] {
        let found = listed(&store, limit);
        let sizes = found.iter().map(|(id, it)| (id.clone(), (it.data_bytes, it.metadata_bytes)));
        assert_eq!(sizes.collect::<BTreeMap<_, _>>(), expected, "pages of {limit}");
        for object in found.values() {
            assert!(!matches!(object.state, ObjectState::Damaged { .. }), "{object:?}");
            assert!(!object.place.is_empty() && object.version.is_some_and(|version| version.ms() > 1 << 40));
        }
    }
    let ids: BTreeSet<_> = store.objects().map(|object| object.unwrap().id.as_bytes().to_vec()).collect();
    assert_eq!(ids, expected.into_keys().collect());
    if persists(&store) && store.info().backend != "redis" && store.info().backend != "tiered" {
        let before = listed(&store, 1000);
        store.close().unwrap();
        assert!(matches!(store.list(&ListPosition::default(), 1), Err(Error::Closed)));
        assert_eq!(listed(&fixture.open(), 13).into_keys().collect::<Vec<_>>(), before.into_keys().collect::<Vec<_>>());
    }
}

fn an_object_that_stays_is_listed_while_others_come_and_go(fixture: &Fixture) {
    let store = fixture.open();
    let staying = |number: u64| [b"stays".as_slice(), &number.to_le_bytes()].concat();
    for number in 0..200 {
        store.put(&staying(number), b"it", b"").unwrap();
    }
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0_u64.. {
                if ended.load(Ordering::Acquire) {
                    break;
                }
                store.put(&number.to_le_bytes(), b"it comes", b"").unwrap();
                store.delete(&(number / 2).to_le_bytes()).unwrap();
                store.put(&staying(number % 200), b"it is overwritten", b"").unwrap();
            }
        });
        for _ in 0..3 {
            let (mut found, mut from) = (BTreeSet::new(), Some(ListPosition::default()));
            while let Some(position) = from {
                let page = store.list(&position, 11).unwrap();
                found.extend(page.objects.into_iter().map(|object| object.id.as_bytes().to_vec()));
                from = page.next;
            }
            let missing: Vec<_> = (0..200).filter(|number| !found.contains(&staying(*number))).collect();
            if !missing.is_empty() {
                ended.store(true, Ordering::Release);
            }
            assert!(missing.is_empty(), "{missing:?} are missing");
        }
        ended.store(true, Ordering::Release);
    });
}

fn one_object_is_described(fixture: &Fixture) {
    let store = fixture.open();
    assert_eq!(store.describe(b"nothing", false).unwrap(), None);
    for (id, size) in [(b"small".as_slice(), 3), (b"large", 3 << 20)] {
        let data = bytes(5, size);
        store.put(id, &data, b"metadata").unwrap();
        let quick = store.describe(id, false).unwrap().unwrap();
        let whole = store.describe(id, true).unwrap().unwrap();
        assert_eq!((quick.data_bytes, quick.metadata_bytes, quick.id.as_bytes()), (size as u64, 8, id));
        assert_eq!((whole.data_bytes, whole.version, &whole.id), (quick.data_bytes, quick.version, &quick.id));
        assert!(!matches!(whole.state, ObjectState::Damaged { .. }), "{whole:?}");
        let before = quick.version;
        store.put(id, &data, b"metadata").unwrap();
        let after = store.describe(id, false).unwrap().unwrap().version;
        assert!(after >= before, "{after:?} is not later than {before:?}");
        store.delete(id).unwrap();
        assert_eq!(store.describe(id, true).unwrap(), None);
    }
    assert!(matches!(store.describe(&[1; 70_000], false), Err(Error::InvalidId { .. })));
}

fn a_position_that_makes_no_sense_is_refused(fixture: &Fixture) {
    // Of another store, which lists in another order.
    let [memory, other] = [ObjectStore::builder().memory().open().unwrap(), fixture.open()];
    for number in 0..3_u8 {
        memory.put(&[number; 3], b"it", b"").unwrap();
    }
    let position = memory.list(&ListPosition::default(), 1).unwrap().next.unwrap();
    match other.list(&position, 10) {
        Err(Error::Config(reason)) => assert!(reason.contains("position"), "{reason}"),
        found => assert!(other.info().backend == "memory", "{found:?}"),
    }
}

mod restored {
    use super::*;

    fn restored_objects_keep_their_version(fixture: &Fixture) {
        let store = fixture.open();
        // Of an hour ago, so that what is written now is later.
        let now = store_version(&store);
        let version = Version { clock: now.clock - (3_600_000 << 16), node: 7 };
        let earlier = Version { clock: version.clock - 1, node: 9 };
        let (first, second) = (object(&bytes(1, 100_000), b"m"), object(b"another", b""));
        assert!(store.restore(b"id", &first, version, 0).unwrap());
        assert_eq!(store.get(b"id").unwrap(), Some(first.clone()));
        assert_eq!(store.describe(b"id", true).unwrap().unwrap().version, Some(version));
        for older in [version, earlier] {
            assert!(!store.restore(b"id", &second, older, 0).unwrap());
        }
        assert_eq!(store.get(b"id").unwrap(), Some(first));
        let later = Version { clock: version.clock, node: 8 };
        assert!(store.restore(b"id", &second, later, 0).unwrap());
        assert_eq!(store.describe(b"id", false).unwrap().unwrap().version, Some(later));
        store.put(b"id", b"today's", b"").unwrap();
        assert!(store.describe(b"id", false).unwrap().unwrap().version > Some(later));
        assert!(!store.restore(b"id", &second, later, 0).unwrap());
        assert_eq!(store.get(b"id").unwrap().unwrap().data, "today's");
    }

    fn store_version(store: &ObjectStore) -> Version {
        store.put(b"now", b"", b"").unwrap();
        store.describe(b"now", false).unwrap().unwrap().version.unwrap()
    }

    #[test]
    fn in_each_store_of_its_own() {
        for backend in ["memory", "local", "redis", "tiered"] {
            restored_objects_keep_their_version(&Fixture::new(backend));
        }
    }

    #[test]
    fn an_attached_process_gives_no_versions() {
        let fixture = Fixture::new("attached");
        let refused = fixture.open().restore(b"id", &object(b"it", b""), Version::default(), 0).unwrap_err();
        assert!(matches!(refused, Error::Config(_)), "{refused}");
    }
}
