//! Directories written by earlier programs: what they hold is found, today and from now on.
//!
//! `format-1.tar.gz` holds the directory `store` of a store of 16 MiB with process durability, written by version 0.1.0 in three
//! lives. The first put objects of every kind (inline, empty, metadata alone, handed out by map, external, larger than a segment,
//! streamed), overwrote twenty of them twice, deleted twenty, put eight deleted ones again, deleted originals after they had been
//! duplicated, stored equal payloads under two ids, and overwrote twenty fillers of 30 000 bytes until the oldest segments had been
//! reclaimed, what lived in them copied forward; then it deleted the fillers and closed. The second overwrote, deleted and put some
//! more, and closed. The third overwrote, deleted, duplicated and put into two segments, the last of which was never sealed, began
//! an object of 200 000 bytes that it did not commit, and was killed with SIGKILL: its spare segments are there as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod content;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use content::{Content, format_1};
use scaler_object_storage::ObjectStore;
use tempfile::TempDir;

/// The boot of the machine, as the stored `LOCK` has it: no machine's, so that each takes what it finds for unsynced.
const STORED_BOOT: &str = "00000000-0000-0000-0000-000000000000";

/// The stored directory, unpacked.
fn unpack(archive: &str) -> (TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats").join(archive);
    let status = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(place.path()).status().unwrap();
    assert!(status.success(), "tar: {status}");
    let directory = place.path().join("store");
    (place, directory)
}

fn open(directory: &Path) -> ObjectStore {
    ObjectStore::builder().local(directory).max_size_mb(16).open().unwrap()
}

#[track_caller]
fn assert_holds(store: &ObjectStore, expected: &BTreeMap<String, Option<Content>>, when: &str) {
    for (id, content) in expected {
        let found = store.get(id.as_bytes()).unwrap();
        let found_lengths = found.as_ref().map(|object| (object.data.len(), object.metadata.len()));
        let is_right = match (&found, content) {
            (Some(object), Some(content)) => object.data == content.data() && object.metadata == content.metadata(),
            (found, content) => found.is_none() && content.is_none(),
        };
        assert!(is_right, "{when}: {id} should be {content:?}, its lengths are {found_lengths:?}");
        assert_eq!(store.contains(id.as_bytes()).unwrap(), content.is_some(), "{when}: {id}");
    }
    let info = store.info();
    assert_eq!(info.objects, expected.values().flatten().count() as u64, "{when}");
    assert_eq!(info.damaged_objects, 0, "{when}");
    assert_eq!(store.count().unwrap(), (info.objects, info.payload_bytes), "{when}");
}

/// Contents, each counted once.
fn payload_bytes(expected: &BTreeMap<String, Option<Content>>) -> u64 {
    let payloads: BTreeMap<_, _> = expected.values().flatten().map(|content| (content.seed, content)).collect();
    payloads.values().map(|content| (content.length + content.metadata().len()) as u64).sum()
}

// Invariant 1.
#[test]
fn a_directory_of_format_1_is_opened_with_all_that_it_holds() {
    for rebooted in [true, false] {
        let (_place, directory) = unpack("format-1.tar.gz");
        if !rebooted {
            let lock = fs::read_to_string(directory.join("LOCK")).unwrap();
            let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
            fs::write(directory.join("LOCK"), lock.replace(STORED_BOOT, boot.trim())).unwrap();
        }
        let expected = format_1();
        let store = open(&directory);
        assert_holds(&store, &expected, "as it was left");
        assert_eq!(store.info().payload_bytes, payload_bytes(&expected));
        store.close().unwrap();
        assert_holds(&open(&directory), &expected, "opened again");
    }
}

// Invariant 1: the journal alone is the truth.
#[test]
fn a_directory_of_format_1_is_opened_without_its_catalog() {
    let (_place, directory) = unpack("format-1.tar.gz");
    fs::remove_dir_all(directory.join("catalog")).unwrap();
    let expected = format_1();
    let store = open(&directory);
    assert_holds(&store, &expected, "without a catalog");
    assert_eq!(store.info().payload_bytes, payload_bytes(&expected));
}

// Invariants 1, 2 and 5: what stood before does not come back.
#[test]
fn a_directory_of_format_1_can_be_gone_on_with() {
    let (_place, directory) = unpack("format-1.tar.gz");
    let mut expected = format_1();
    let store = open(&directory);
    let streamed = Content { seed: 6002, length: 300_000 };
    for (n, (id, content)) in expected.iter_mut().filter(|(id, _)| *id != "streamed").enumerate() {
        let new = Content { seed: 50_000 + n as u64, length: 11 * n };
        match n % 4 {
            0 => {
                store.put(id.as_bytes(), &new.data(), &new.metadata()).unwrap();
                *content = Some(new);
            }
            1 => {
                assert_eq!(store.delete(id.as_bytes()).unwrap(), content.is_some(), "{id}");
                *content = None;
            }
            2 => {
                assert!(store.duplicate(b"streamed", id.as_bytes()).unwrap());
                *content = Some(streamed);
            }
            _ => {}
        }
    }
    assert_holds(&store, &expected, "changed");
    store.close().unwrap();
    assert_holds(&open(&directory), &expected, "changed, and opened again");
    fs::remove_dir_all(directory.join("catalog")).unwrap();
    assert_holds(&open(&directory), &expected, "changed, and opened without its catalog");
}
