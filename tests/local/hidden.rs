//! Damage that shows late, or beside what is damaged.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::common::{bytes, get, until};
use crate::{builder, segments};

pub fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &target)
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

pub fn find(content: &[u8], needle: &[u8]) -> Option<usize> {
    content.windows(needle.len()).position(|it| it == needle)
}

// Invariants 1 and 13.
#[test]
fn what_damage_brings_back_does_not_share_bytes_with_the_living() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path();
    let store = builder(directory, 64).open().unwrap();
    let c = bytes(3, 240_000);
    store.put(b"f", &bytes(1, 200_000), b"").unwrap();
    store.put(b"a", &bytes(2, 200_000), b"").unwrap();
    store.put(b"keep", &bytes(5, 200_000), b"").unwrap();
    store.delete(b"f").unwrap();
    store.put(b"a", b"superseder", b"").unwrap();
    std::thread::sleep(Duration::from_secs(12));
    store.put(b"c", &c, b"").unwrap();
    store.close().unwrap();
    drop(store);
    // The record that superseded a's body is damaged; the catalog is lost.
    fs::remove_dir_all(directory.join("catalog")).unwrap();
    for path in segments(directory, &["records"]) {
        let mut content = fs::read(&path).unwrap();
        if let Some(at) = find(&content, b"superseder") {
            content[at - 3] ^= 1;
        }
        fs::write(&path, content).unwrap();
    }
    let store = builder(directory, 64).open().unwrap();
    assert!(get(&store, b"c").data == c);
    store.delete(b"a").unwrap();
    std::thread::sleep(Duration::from_secs(12));
    for n in 0..4_u64 {
        store.put(format!("more {n}").as_bytes(), &bytes(100 + n, 200_000), b"").unwrap();
    }
    assert!(get(&store, b"c").data == c, "c has changed");
}

// Invariants 1 and 13.
#[test]
fn what_damage_brings_back_does_not_take_bytes_of_the_living() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path();
    let store = builder(directory, 64).open().unwrap();
    let c = bytes(3, 240_000);
    store.put(b"a", &bytes(2, 80_000), b"").unwrap();
    store.put(b"f", &bytes(1, 170_000), b"").unwrap();
    store.put(b"keep", &bytes(5, 200_000), b"").unwrap();
    store.delete(b"f").unwrap();
    store.put(b"a", b"superseder", b"").unwrap();
    std::thread::sleep(Duration::from_secs(12));
    store.put(b"c", &c, b"").unwrap();
    store.close().unwrap();
    drop(store);
    fs::remove_dir_all(directory.join("catalog")).unwrap();
    for path in segments(directory, &["records"]) {
        let mut content = fs::read(&path).unwrap();
        if let Some(at) = find(&content, b"superseder") {
            content[at - 3] ^= 1;
        }
        fs::write(&path, content).unwrap();
    }
    let store = builder(directory, 64).open().unwrap();
    assert!(get(&store, b"c").data == c);
    for n in 0..4_u64 {
        store.put(format!("more {n}").as_bytes(), &bytes(100 + n, 100_000), b"").unwrap();
    }
    assert!(get(&store, b"c").data == c, "c has changed");
}

// Invariant 13.
#[test]
fn a_record_damaged_before_its_segment_is_sealed_releases_what_it_held() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path();
    let store = builder(directory, 64).open().unwrap();
    for n in 0..8_u64 {
        store.put(format!("object {n}").as_bytes(), &bytes(n, 4_000_000), b"").unwrap();
    }
    for path in segments(directory, &["records"]) {
        use std::os::unix::fs::FileExt;
        let content = fs::read(&path).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        for at in 0..content.len() - 8 {
            if content[at..].starts_with(b"object ") {
                file.write_all_at(&[0xff], (at - 96 + 86) as u64).unwrap();
            }
        }
    }
    for n in 0..8_u64 {
        assert!(store.get(format!("object {n}").as_bytes()).unwrap().is_none());
    }
    assert_eq!(store.info().objects, 0);
    until("nothing is counted", || store.info().payload_bytes == 0);
}

// Invariant 13.
#[test]
fn what_hints_do_not_name_is_released_when_its_segment_goes() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path();
    let store = builder(directory, 16).open().unwrap();
    for n in 0..3_u64 {
        store.put(format!("object {n}").as_bytes(), &bytes(n, 1_000_000), b"").unwrap();
    }
    for path in segments(directory, &["records"]) {
        use std::os::unix::fs::FileExt;
        let content = fs::read(&path).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        for at in 0..content.len() - 8 {
            if content[at..].starts_with(b"object ") {
                file.write_all_at(&[0xff], (at - 96 + 86) as u64).unwrap();
            }
        }
    }
    let first = segments(directory, &["records"])[0].clone();
    for n in 0..600_u64 {
        store.put(&(n % 10).to_le_bytes(), &bytes(n, 60_000), b"").unwrap();
    }
    crate::common::until("the oldest segment is reclaimed", || !first.exists());
    std::thread::sleep(Duration::from_secs(2));
    for n in 0..10_u64 {
        store.delete(&n.to_le_bytes()).unwrap();
    }
    assert_eq!((store.info().objects, store.info().payload_bytes), (0, 0));
}
// Invariants 1 and 11.
#[test]
fn a_store_opens_whatever_happened_to_its_catalog() {
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    let store = builder(&source, 64).open().unwrap();
    for n in 0..30_000_u64 {
        store.put(&n.to_le_bytes(), &bytes(n, 100), b"").unwrap();
    }
    store.close().unwrap();
    drop(store);
    let mut failed = Vec::new();
    let mut state = 42_u64;
    for round in 0..60 {
        let target = place.path().join("target");
        let _ = fs::remove_dir_all(&target);
        copy_all(&source, &target);
        let path = target.join("catalog/db");
        let mut content = fs::read(&path).unwrap();
        let length = content.len();
        for _ in 0..(1 + round % 4) {
            let at = (crate::common::splitmix(&mut state) % length as u64) as usize;
            let many = if round % 2 == 0 { 1 } else { 200.min(length - at) };
            for byte in &mut content[at..at + many] {
                *byte ^= 0x55
            }
        }
        fs::write(&path, content).unwrap();
        for attempt in 0..2 {
            match builder(&target, 64).open() {
                Ok(store) => {
                    let missing = (0..30_000_u64).filter(|n| store.get(&n.to_le_bytes()).unwrap().is_none()).count();
                    if missing > 0 {
                        failed.push(format!("round {round}.{attempt}: {missing} missing"))
                    }
                    if let Err(error) = store.close() {
                        failed.push(format!("round {round}.{attempt}: close: {error}"))
                    }
                }
                Err(error) => failed.push(format!("round {round}.{attempt}: {error}")),
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

// Invariant 7.
#[test]
fn a_body_of_an_earlier_open_is_checked_though_its_record_has_moved() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path();
    let store = builder(directory, 16).open().unwrap();
    store.put(b"big", &bytes(1, 200_000), b"").unwrap();
    store.close().unwrap();
    drop(store);
    let before = segments(directory, &["records"]);
    for path in segments(directory, &["bodies", "body"]) {
        let mut content = fs::read(&path).unwrap();
        content[4096 + 100] ^= 1;
        fs::write(&path, content).unwrap();
    }
    let store = builder(directory, 16).open().unwrap();
    for n in 0..600_u64 {
        store.put(&(n % 10).to_le_bytes(), &bytes(n, 60_000), b"").unwrap();
    }
    crate::common::until("the oldest segment is reclaimed", || segments(directory, &["records"])[0] != before[0]);
    let got = store.get(b"big").unwrap();
    assert!(got.is_none(), "wrong bytes are handed out; damaged: {}", store.info().damaged_objects);
}
