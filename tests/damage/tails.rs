//! The end of a journal whose process was killed.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use scaler_object_storage::ObjectStore;

use crate::common::bytes;
use crate::specimen::{builder, copy_directory, segments, settle};

const COUNT: u64 = 30;

/// A store in the middle of its work, as a killed process leaves it.
struct Killed {
    _store: ObjectStore,
    directory: tempfile::TempDir,
}

fn data(seed: u64, number: u64) -> Vec<u8> {
    let mut data = bytes(seed * 1000 + number, 3000);
    data[2999] = 1; // so that the end can be told from the zeros behind it
    data
}

impl Killed {
    fn new(seed: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = builder(&directory.path().join("store")).open().unwrap();
        for number in 0..COUNT {
            store.put(&[number as u8 + 1], &data(seed, number), b"").unwrap();
        }
        settle(&directory.path().join("store"));
        Killed { _store: store, directory }
    }

    fn copy(&self) -> PathBuf {
        let copy = self.directory.path().join("copy");
        fs::remove_dir_all(&copy).unwrap_or_default();
        copy_directory(&self.directory.path().join("store"), &copy);
        copy
    }

    /// Where the last bytes are that are not zero.
    fn end(&self) -> u64 {
        let content = fs::read(&segments(&self.copy(), "records")[0]).unwrap();
        content.iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1
    }
}

/// How many objects are there: a prefix of those that were put.
fn count_served(directory: &std::path::Path, seed: u64) -> u64 {
    let store = builder(directory).open().unwrap();
    let served: Vec<bool> = (0..COUNT)
        .map(|number| match store.get(&[number as u8 + 1]).unwrap() {
            None => false,
            Some(object) => {
                assert_eq!(object.data, data(seed, number));
                true
            }
        })
        .collect();
    let count = served.iter().filter(|served| **served).count();
    assert!(served[..count].iter().all(|served| *served), "{served:?}");
    assert_eq!(store.info().objects, count as u64);
    assert_eq!(store.info().damaged_objects, 0);
    // It goes on from there, and keeps it.
    store.put(b"next", b"next", b"").unwrap();
    store.close().unwrap();
    let store = builder(directory).open().unwrap();
    assert_eq!(store.info().objects, count as u64 + 1);
    count as u64
}

// Invariant 1: `kill -9` cuts writes short.
#[test]
fn a_torn_tail_ends_where_it_was_torn() {
    let killed = Killed::new(1);
    let stride = 96 + 1 + 3000 + 7;
    let end = 64 + COUNT * stride - 7;
    assert_eq!(count_served(&killed.copy(), 1), COUNT);
    for cut in (0..4 * stride).step_by(97).chain([1, 2, stride - 1, stride, stride + 1, end - 64, end - 63]) {
        let copy = killed.copy();
        let path = &segments(&copy, "records")[0];
        let length = fs::metadata(path).unwrap().len();
        let file = File::options().write(true).open(path).unwrap();
        file.set_len(end - cut).unwrap();
        if cut % 2 == 0 {
            file.set_len(length).unwrap();
        }
        assert_eq!(count_served(&copy, 1), (end - cut + 7).saturating_sub(64) / stride, "cut {cut}");
    }
}

// A torn overwrite must not cost the version before it.
#[test]
fn a_torn_overwrite_leaves_the_version_before_it() {
    let killed = Killed::new(1);
    killed._store.put(&[1], &data(2, 0), b"").unwrap();
    let end = killed.end();
    for cut in [1, 500, 2999] {
        let copy = killed.copy();
        File::options().write(true).open(&segments(&copy, "records")[0]).unwrap().set_len(end - cut).unwrap();
        assert_eq!(count_served(&copy, 1), COUNT);
    }
}

/// Bytes of other records behind the end: what a disk block or a file held in an earlier life.
#[test]
fn records_behind_the_end_that_belong_elsewhere_are_not_taken_for_records() {
    let killed = Killed::new(1);
    let end = killed.end().next_multiple_of(8);
    // The same operations on another store put records with the same ids at the same places.
    let other = Killed::new(2);
    for number in 0..10u8 {
        for store in [&killed._store, &other._store] {
            store.put(&[100 + number], &bytes(u64::from(number), 100), b"").unwrap();
            store.delete(&[100 + number]).unwrap();
        }
    }
    assert_eq!(other.end().next_multiple_of(8), killed.end().next_multiple_of(8));
    other._store.put(b"foreign", b"of the same place in another store", b"").unwrap();
    let foreign = fs::read(&segments(&other.copy(), "records")[0]).unwrap();
    let own = fs::read(&segments(&killed.copy(), "records")[0]).unwrap();
    let behind = killed.end().next_multiple_of(8) as usize;

    // Of the same place in a segment with the same number: told by the nonce that seeds the checksums.
    let copy = killed.copy();
    let file = File::options().write(true).open(&segments(&copy, "records")[0]).unwrap();
    file.write_all_at(&foreign[behind..behind + 8192], behind as u64).unwrap();
    assert_eq!(count_served(&copy, 1), COUNT);

    // Of the same segment in another place: told by the lsn. The deleted objects would come back.
    let copy = killed.copy();
    let file = File::options().write(true).open(&segments(&copy, "records")[0]).unwrap();
    file.write_all_at(&own[end as usize..behind], behind as u64).unwrap();
    assert_eq!(count_served(&copy, 1), COUNT);
}
