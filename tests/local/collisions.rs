//! Ids with equal fingerprints: the index has 64 bits of an id, here only 5 to 8 of them, so that nearly all ids collide.

use std::collections::BTreeMap;
use std::path::Path;

use crate::common::{bytes, splitmix};
use scaler_object_storage::{ObjectStore, Underlying};

const LENGTHS: [usize; 6] = [0, 10, 2000, 30_000, 70_000, 1200];

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn open(directory: &Path, fingerprint_mask: u64) -> ObjectStore {
    let under = Underlying { fingerprint_mask, ..Underlying::default() };
    ObjectStore::builder().local(directory).max_size_mb(64).under(under).open().unwrap()
}

fn check(store: &ObjectStore, model: &Model, ids: u64) {
    for number in 0..ids {
        let id = number.to_be_bytes();
        let found = store.get(&id).unwrap().map(|object| object.data.to_vec());
        assert!(found.as_ref() == model.get(&id[..]), "{number}");
        assert_eq!(store.contains(&id).unwrap(), found.is_some(), "{number}");
    }
    let info = store.info();
    assert_eq!((info.objects, info.damaged_objects), (model.len() as u64, 0));
}

fn change(store: &ObjectStore, model: &mut Model, ids: u64, random: &mut u64) {
    let id = (splitmix(random) % ids).to_be_bytes();
    match splitmix(random) % 10 {
        0..5 => {
            let data = bytes(splitmix(random) % 50, LENGTHS[splitmix(random) as usize % LENGTHS.len()]);
            store.put(&id, &data, b"").unwrap();
            model.insert(id.to_vec(), data);
        }
        5..8 => assert_eq!(store.delete(&id).unwrap(), model.remove(&id[..]).is_some()),
        _ => {
            let original = (splitmix(random) % ids).to_be_bytes();
            let is_there = model.contains_key(&original[..]);
            assert_eq!(store.duplicate(&original, &id).unwrap(), is_there);
            if is_there {
                model.insert(id.to_vec(), model[&original[..]].clone());
            }
        }
    }
}

#[test]
fn ids_with_equal_fingerprints_are_told_apart_whatever_happens_to_them() {
    for (mask, ids, seed) in [(0xff, 1000, 1), (0x1f, 100, 2), (0x1f << 40, 100, 3), (0, 12, 4)] {
        let directory = tempfile::tempdir().unwrap();
        let (mut model, mut random) = (Model::new(), seed);
        let mut store = open(directory.path(), mask);
        for round in 0..6 {
            for _ in 0..300 {
                change(&store, &mut model, ids, &mut random);
            }
            check(&store, &model, ids);
            store.close().unwrap();
            if round % 2 == 0 {
                std::fs::remove_dir_all(directory.path().join("catalog")).unwrap();
            }
            store = open(directory.path(), mask);
            check(&store, &model, ids);
        }
        store.clear().unwrap();
        check(&store, &Model::new(), ids);
        drop(store);
        check(&open(directory.path(), mask), &Model::new(), ids);
    }
}

/// With a lock for each shard, and all ids in one of them.
#[test]
fn threads_with_colliding_ids_do_not_disturb_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), 0x3);
    let models: Vec<Model> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4u64)
            .map(|thread| {
                let store = &store;
                scope.spawn(move || {
                    let (mut model, mut random) = (Model::new(), thread);
                    for step in 0..800u64 {
                        let id = [thread as u8, (splitmix(&mut random) % 20) as u8];
                        if splitmix(&mut random).is_multiple_of(3) {
                            assert_eq!(store.delete(&id).unwrap(), model.remove(&id[..]).is_some());
                        } else {
                            let data = bytes(step % 9, LENGTHS[step as usize % LENGTHS.len()]);
                            store.put(&id, &data, b"").unwrap();
                            model.insert(id.to_vec(), data);
                        }
                        let found = store.get(&id).unwrap().map(|object| object.data.to_vec());
                        assert!(found.as_ref() == model.get(&id[..]));
                    }
                    model
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let model: Model = models.into_iter().flatten().collect();
    for reopened in [false, true] {
        let reopen = reopened.then(|| {
            store.close().unwrap();
            open(directory.path(), 0x3)
        });
        let store = reopen.as_ref().unwrap_or(&store);
        assert_eq!(store.info().objects, model.len() as u64);
        for (id, data) in &model {
            assert!(store.get(id).unwrap().unwrap().data == data[..]);
        }
    }
}
