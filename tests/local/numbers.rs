//! Segment numbers: never used again, and what happens at their end.

use std::fs;
use std::path::Path;

use scaler_object_storage::{Object, ObjectStore};
use xxhash_rust::xxh3::xxh3_64;

use crate::common::{bytes, object, until};
use crate::{builder, process, segments};

fn numbers(directory: &Path) -> Vec<u32> {
    let paths = segments(directory, &["records", "bodies", "body"]);
    let mut numbers: Vec<u32> =
        paths.iter().map(|path| path.file_stem().unwrap().to_str().unwrap().parse().unwrap()).collect();
    numbers.sort();
    numbers
}

/// Makes segments, the newest of which is removed again; the first and the last number that they had.
fn use_numbers(store: &ObjectStore, directory: &Path) -> (u32, u32) {
    let before = numbers(directory);
    store.put(b"small", b"data", b"").unwrap();
    store.put(b"large", &bytes(1, 2_000_000), b"").unwrap();
    let mut new = numbers(directory);
    new.retain(|number| !before.contains(number));
    let (first, last) = (new[0], new[new.len() - 1]);
    let newest = segments(directory, &["body"]).pop().unwrap();
    assert!(newest.to_str().unwrap().contains(&last.to_string()), "the large body is not the newest");
    assert!(store.delete(b"large").unwrap());
    until("its room is free", || !newest.exists());
    (first, last)
}

// Invariants 1 and 15: what names a segment by its number never means another one.
#[test]
fn a_segments_number_is_never_used_again_after_a_kill() {
    const TEST: &str = "numbers::a_segments_number_is_never_used_again_after_a_kill";
    if let Some(directory) = process::directory() {
        let store = builder(&directory, 16).open().unwrap();
        let (first, last) = use_numbers(&store, &directory);
        println!("\nnumbers: {first} {last}");
        process::kill_self();
    }
    let place = tempfile::tempdir().unwrap();
    let mut highest = 0;
    for life in 0..3 {
        let output = process::start(TEST, &place.path().join("store")).wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = said.lines().find_map(|line| line.strip_prefix("numbers: "));
        let Some((first, last)) = line.and_then(|line| line.split_once(' ')) else {
            panic!("{said}{}", String::from_utf8_lossy(&output.stderr))
        };
        let (first, last): (u32, u32) = (first.parse().unwrap(), last.parse().unwrap());
        assert!(first > highest, "life {life} used number {first}, the one before had used up to {highest}");
        highest = last;
    }
}

// Invariant 15.
#[test]
fn a_segments_number_is_never_used_again_after_a_close() {
    let place = tempfile::tempdir().unwrap();
    let mut highest = 0;
    for life in 0..3 {
        let store = builder(place.path(), 16).open().unwrap();
        let (first, last) = use_numbers(&store, place.path());
        assert!(first > highest, "life {life} used number {first}, the one before had used up to {highest}");
        highest = last;
        store.close().unwrap();
    }
}

const LAST: u32 = u32::MAX;

/// The header of a segment of records with the largest number, as a store would have written it.
fn last_header() -> Vec<u8> {
    let fields = [&b"SOSseg\x01\x00"[..], &LAST.to_le_bytes(), &1_u32.to_le_bytes(), &7_u64.to_le_bytes()].concat();
    let mut header = [&xxh3_64(&fields).to_le_bytes()[..], &fields].concat();
    header.resize(4096, 0);
    header
}

/// Opens and works, or says what to do and has changed nothing.
fn opens_or_says_why(directory: &Path, held: &[(Vec<u8>, Object)], what: &str) {
    let file = format!("{LAST}");
    let mut acknowledged: Vec<(Vec<u8>, Object)> = Vec::new();
    for life in 0..3_u64 {
        let store = match builder(directory, 16).open() {
            Ok(store) => store,
            Err(error) => {
                assert!(error.to_string().contains(&file), "{what}: {error}");
                assert_eq!(life, 0, "{what}: it was opened before: {error}");
                for entry in fs::read_dir(directory.join("journal")).unwrap() {
                    let path = entry.unwrap().path();
                    if path.to_str().unwrap().contains(&file) {
                        fs::remove_file(path).unwrap();
                    }
                }
                assert!(!what.contains("removed"), "{error}");
                return opens_or_says_why(directory, held, "with that file removed");
            }
        };
        for (id, object) in held.iter().chain(&acknowledged) {
            let found = store.get(id).unwrap();
            let name = String::from_utf8_lossy(id);
            assert!(found.as_ref() == Some(object), "{what}: {name}, life {life}, there: {}", found.is_some());
        }
        for (number, length) in (0..).zip([100, 20_000, 100_000, 1_500_000]) {
            let id = format!("new {life} {number}").into_bytes();
            let object = object(&bytes(life * 10 + number, length), b"new");
            // Without any number left it may say so.
            match store.put(&id, &object.data, &object.metadata) {
                Ok(()) => acknowledged.push((id, object)),
                Err(_) => assert!(store.get(&id).unwrap().is_none(), "{what}: it failed, and is there"),
            }
        }
        for (id, object) in held.iter().chain(&acknowledged) {
            let found = store.get(id).unwrap();
            let name = String::from_utf8_lossy(id);
            assert!(found.as_ref() == Some(object), "{what}: {name}, life {life}, there: {}", found.is_some());
        }
        let _ = store.close();
    }
}

// Invariants 1 and 11.
#[test]
fn a_file_with_the_largest_number_takes_nothing_from_the_rest() {
    let foreign: [(&str, Vec<u8>); 6] = [
        ("records", Vec::new()),
        ("records", bytes(1, 5000)),
        ("records", last_header()),
        ("bodies", bytes(2, 8192)),
        ("body", Vec::new()),
        ("records.damaged", bytes(3, 100)),
    ];
    for has_catalog in [true, false] {
        for (ending, content) in &foreign {
            let place = tempfile::tempdir().unwrap();
            let store = builder(place.path(), 16).open().unwrap();
            let held: Vec<_> = (0..)
                .zip([0, 100, 20_000, 100_000, 1_500_000])
                .map(|(number, length)| {
                    (format!("held {number}").into_bytes(), object(&bytes(50 + number, length), b"m"))
                })
                .collect();
            for (id, object) in &held {
                store.put(id, &object.data, &object.metadata).unwrap();
            }
            store.close().unwrap();
            if !has_catalog {
                fs::remove_dir_all(place.path().join("catalog")).unwrap();
            }
            fs::write(place.path().join("journal").join(format!("{LAST}.{ending}")), content).unwrap();
            let what = format!("{LAST}.{ending} of {} bytes, with catalog: {has_catalog}", content.len());
            opens_or_says_why(place.path(), &held, &what);
        }
    }
}
