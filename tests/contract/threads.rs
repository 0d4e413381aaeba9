//! Many threads on overlapping ids: nobody reads what is older than what was acknowledged, or a part of an object.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;

use scaler_object_storage::{Object, ObjectStore};

use crate::common::{CAPACITY_MB_MIN, Fixture, bytes, get, splitmix};

contract!(
    a_get_sees_the_newest_acknowledged_write_and_all_of_it,
    concurrent_equal_payloads_are_whole_and_counted_right,
    concurrent_duplicates_are_whole_and_counted_right,
);

const ID_COUNT: usize = 6;
const VERSION_COUNT: u64 = 600;

/// One id, written by one thread: version after version, every fourth a delete.
#[derive(Default)]
struct Register {
    /// The version whose write has begun last.
    begun: AtomicU64,
    /// A version that every read which begins now sees, or a newer one: it was acknowledged, or another read saw it.
    seen: AtomicU64,
}

fn is_delete(version: u64) -> bool {
    version % 4 == 3
}

/// An object's content tells its version in every byte.
fn content(id: usize, version: u64) -> (Vec<u8>, Vec<u8>) {
    let size = [10, 900, 1100, 17_000, 70_000, 140_000][(version as usize / 4) % 6] + (version as usize % 4);
    let mut data = version.to_le_bytes().to_vec();
    data.extend(bytes((id as u64) << 32 | version, size));
    (data, version.to_be_bytes().to_vec())
}

/// The version that an object tells, after checking that all of it is of that version (invariant 7).
fn version_of(id: usize, object: &Object) -> u64 {
    let version = u64::from_le_bytes(object.data[..8].try_into().unwrap());
    let (data, metadata) = content(id, version);
    assert!(object.data == data && object.metadata == metadata, "id {id}: a part of version {version}");
    version
}

/// Invariant 2: a single-writer register is linearizable if each read returns a version between those that had been seen when it
/// began and those begun when it ended.
fn a_get_sees_the_newest_acknowledged_write_and_all_of_it(fixture: &Fixture) {
    let store = fixture.builder().max_size_mb(4 * CAPACITY_MB_MIN).open().unwrap();
    let registers: Vec<Register> = (0..ID_COUNT).map(|_| Register::default()).collect();
    // Version 0 exists from the start.
    for id in 0..ID_COUNT {
        let (data, metadata) = content(id, 0);
        store.put(&[id as u8], &data, &metadata).unwrap();
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let (store, registers) = (&store, &registers);
                scope.spawn(move || {
                    for version in 1..=VERSION_COUNT {
                        for id in (0..ID_COUNT).filter(|id| id % 2 == writer) {
                            write(store, id, version, &registers[id]);
                        }
                    }
                })
            })
            .collect();
        for reader in 0..3 {
            let (store, registers, done) = (&store, &registers, &done);
            scope.spawn(move || {
                let mut random = reader;
                while !done.load(SeqCst) {
                    let id = splitmix(&mut random) as usize % ID_COUNT;
                    read(store, id, &registers[id], splitmix(&mut random).is_multiple_of(4));
                }
            });
        }
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, SeqCst);
    });
    for (id, register) in registers.iter().enumerate() {
        assert_eq!(register.begun.load(SeqCst), VERSION_COUNT);
        read(&store, id, register, false);
    }
}

fn write(store: &ObjectStore, id: usize, version: u64, register: &Register) {
    let name = [id as u8];
    register.begun.store(version, SeqCst);
    let (data, metadata) = content(id, version);
    if is_delete(version) {
        assert!(store.delete(&name).unwrap(), "id {id}: version {} was not there", version - 1);
    } else if version % 8 == 5 {
        let mut writer = store.writer(&name, data.len() as u64, &metadata).unwrap();
        data.chunks(30_000).for_each(|piece| writer.write(piece).unwrap());
        writer.commit().unwrap();
    } else if version % 8 == 6 {
        let staged = [b's', id as u8];
        store.put(&staged, &data, &metadata).unwrap();
        assert!(store.duplicate(&staged, &name).unwrap());
        assert!(store.delete(&staged).unwrap());
    } else {
        store.put(&name, &data, &metadata).unwrap();
    }
    register.seen.fetch_max(version, SeqCst);
}

fn read(store: &ObjectStore, id: usize, register: &Register, only_whether: bool) {
    let name = [id as u8];
    let oldest = register.seen.load(SeqCst);
    let found = if only_whether {
        store.contains(&name).unwrap().then_some(None)
    } else {
        store.get(&name).unwrap().map(|object| Some(version_of(id, &object)))
    };
    let newest = register.begun.load(SeqCst);
    let version = match found {
        Some(Some(version)) => Some(version).filter(|version| (oldest..=newest).contains(version)),
        Some(None) => (oldest..=newest).find(|version| !is_delete(*version)),
        None => (oldest..=newest).find(|version| is_delete(*version)),
    };
    let version = version.unwrap_or_else(|| panic!("id {id}: read {found:?} between versions {oldest} and {newest}"));
    register.seen.fetch_max(version, SeqCst);
}

fn concurrent_equal_payloads_are_whole_and_counted_right(fixture: &Fixture) {
    let store = fixture.builder().max_size_mb(4 * CAPACITY_MB_MIN).open().unwrap();
    thread::scope(|scope| {
        for thread in 0..4_u64 {
            let store = &store;
            scope.spawn(move || {
                let mut random = thread;
                for _ in 0..1500 {
                    // Threads put the same few payloads under ids of their own, and drop them again.
                    let payload = splitmix(&mut random) % 3;
                    let id = [thread as u8, splitmix(&mut random) as u8 % 4];
                    let data = bytes(payload, 1024 << (payload * 3));
                    store.put(&id, &data, b"").unwrap();
                    assert!(get(store, &id).data == data);
                    if splitmix(&mut random).is_multiple_of(2) {
                        assert!(store.delete(&id).unwrap());
                    }
                }
                for id in 0..4 {
                    store.delete(&[thread as u8, id]).unwrap();
                }
            });
        }
    });
    let info = store.info();
    assert_eq!((info.objects, info.payloads, info.payload_bytes), (0, 0, 0));
}

fn concurrent_duplicates_are_whole_and_counted_right(fixture: &Fixture) {
    let store = fixture.builder().max_size_mb(4 * CAPACITY_MB_MIN).open().unwrap();
    thread::scope(|scope| {
        for thread in 0..4_u64 {
            let store = &store;
            scope.spawn(move || {
                let mut random = thread;
                for _ in 0..3000 {
                    let id = splitmix(&mut random) as usize % 5;
                    let other = splitmix(&mut random) as u8 % 5;
                    match splitmix(&mut random) % 4 {
                        0 => {
                            let version = splitmix(&mut random) >> 8;
                            let (data, metadata) = content(0, version);
                            store.put(&[id as u8], &data, &metadata).unwrap();
                        }
                        1 => drop(store.delete(&[id as u8]).unwrap()),
                        2 => drop(store.duplicate(&[id as u8], &[other]).unwrap()),
                        _ => {
                            if let Some(object) = store.get(&[id as u8]).unwrap() {
                                version_of(0, &object);
                            }
                        }
                    }
                }
            });
        }
    });
    let left: Vec<Object> = (0..5).filter_map(|id| store.get(&[id]).unwrap()).collect();
    for object in &left {
        version_of(0, object);
    }
    let distinct: std::collections::BTreeSet<_> = left.iter().map(|object| object.data.clone()).collect();
    let info = store.info();
    let payloads = fixture.payloads(distinct.len() as u64, left.len() as u64);
    assert_eq!((info.objects, info.payloads), (left.len() as u64, payloads));
    for id in 0..5 {
        store.delete(&[id]).unwrap();
    }
    let info = store.info();
    assert_eq!((info.objects, info.payloads, info.payload_bytes), (0, 0, 0));
}
