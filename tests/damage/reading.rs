//! A directory that is only read: what is seen in it is what an open would find, and nothing in it is changed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use scaler_object_storage::{Error, Listed, Object, ObjectState, ObjectStore};

use crate::common::{bytes, splitmix};
use crate::specimen::{Specimen, builder, copy_directory, flip, logged, segments, settle};

/// Everything in a directory: names, contents, and when each was last written.
fn everything(directory: &Path) -> BTreeMap<String, (Vec<u8>, std::time::SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(everything(&path));
            found.insert(path.display().to_string(), (Vec::new(), fs::metadata(&path).unwrap().modified().unwrap()));
        } else {
            let written = fs::metadata(&path).unwrap().modified().unwrap();
            found.insert(path.display().to_string(), (fs::read(&path).unwrap(), written));
        }
    }
    found
}

/// What a store shows of itself: what is listed, what a check of each object says, and the objects.
fn shown(store: &ObjectStore) -> BTreeMap<Vec<u8>, (u64, Option<Object>)> {
    let mut all = BTreeMap::new();
    for listed in store.objects() {
        let listed: Listed = listed.unwrap();
        if listed.id.as_bytes().is_empty() {
            continue;
        }
        let id = listed.id.as_bytes();
        let checked = store.describe(id, true).unwrap();
        let is_sound = checked.is_some_and(|it| !matches!(it.state, ObjectState::Damaged { .. }));
        let object = store.get(id).unwrap();
        assert_eq!(is_sound, object.is_some(), "{}: what is sound is served", listed.id);
        all.insert(id.to_vec(), (listed.data_bytes, object));
    }
    all
}

/// Reads the directory, and opens it afterwards: both see the same. Returns what an open was said to repair, and what to be lost.
fn read_and_opened(directory: &Path) -> (Vec<String>, Vec<String>) {
    // With hints, what is damaged may be known of that cannot be read; reading goes without them.
    fs::remove_dir_all(directory.join("catalog")).unwrap();
    let before = everything(directory);
    let (read, report) = ObjectStore::read_directory(directory).unwrap();
    let seen = shown(&read);
    assert!(matches!(read.put(b"new", b"it", b""), Err(Error::WritesRefused { .. } | Error::Io { .. })));
    assert!(matches!(read.put(b"new", &bytes(3, 200_000), b""), Err(Error::WritesRefused { .. } | Error::Io { .. })));
    assert!(matches!(read.delete(seen.keys().next().unwrap()), Err(Error::WritesRefused { .. })));
    let damaged = read.info().damaged_objects;
    read.close().unwrap();
    assert!(everything(directory) == before, "something in the directory was changed");
    let (opened, _) = logged(|| builder(directory).open().unwrap());
    let served = shown(&opened);
    assert_eq!(seen.keys().collect::<Vec<_>>(), served.keys().collect::<Vec<_>>());
    assert!(seen == served, "reading and opening see other objects");
    assert_eq!(damaged, opened.info().damaged_objects);
    (report.repairs(), report.damage())
}

#[test]
fn a_directory_is_read_without_being_changed() {
    let mut specimen = Specimen::typical();
    specimen.close();
    let copy = specimen.copy();
    let (repairs, damage) = read_and_opened(&copy);
    assert!(repairs.is_empty() && damage.is_empty(), "{repairs:?} {damage:?}");
    let (read, _) = ObjectStore::read_directory(&specimen.directory()).unwrap();
    assert_eq!(shown(&read).len(), specimen.live());
    for (id, states) in &specimen.history {
        assert_eq!(read.get(id).unwrap(), *states.last().unwrap(), "{}", String::from_utf8_lossy(id));
    }
}

/// An open removes files in which nothing counts any more.
#[test]
fn files_of_deleted_objects_are_left_alone() {
    let mut specimen = Specimen::empty();
    specimen.put("small", 1, 100);
    specimen.put("gone", 2, 1_200_000);
    specimen.put("gone too", 3, 90_000);
    specimen.delete("gone");
    specimen.delete("gone too");
    specimen.close();
    let copy = specimen.copy();
    assert!(!segments(&copy, "body").is_empty());
    let (repairs, damage) = read_and_opened(&copy);
    assert!(repairs.is_empty() && damage.is_empty(), "{repairs:?} {damage:?}");
}

#[test]
fn what_a_killed_process_left_is_seen_as_an_open_would_see_it() {
    let mut specimen = Specimen::typical();
    for number in 0..20 {
        specimen.put(&format!("late {number}"), number, 3000);
    }
    settle(&specimen.directory());
    let copy = specimen.copy();
    let (repairs, damage) = read_and_opened(&copy);
    assert!(damage.is_empty() && repairs.iter().any(|line| line.contains("was left open")), "{repairs:?} {damage:?}");

    // The last record is torn.
    let copy = specimen.copy();
    let last = segments(&copy, "records").pop().unwrap();
    let content = fs::read(&last).unwrap();
    flip(&last, content.iter().rposition(|byte| *byte != 0).unwrap() - 100, 3);
    let (repairs, damage) = read_and_opened(&copy);
    assert!(damage.is_empty() && repairs.iter().any(|line| line.contains("never written")), "{repairs:?} {damage:?}");
}

#[test]
fn a_damaged_directory_is_seen_as_an_open_would_see_it() {
    let mut specimen = Specimen::typical();
    specimen.close();
    let (mut random, mut damages) = (7, 0);
    for round in 0..40 {
        let copy = specimen.copy();
        let files = segments(&copy, ["records", "bodies"][round % 2]);
        let path = &files[splitmix(&mut random) as usize % files.len()];
        let length = fs::metadata(path).unwrap().len();
        flip(path, (splitmix(&mut random) % length) as usize, (round % 8) as u8);
        damages += read_and_opened(&copy).1.len();
    }
    assert!(damages > 0, "no flip was in a header");
}

#[test]
fn whoever_reads_a_directory_keeps_it_from_being_opened_and_is_kept_from_it_while_it_is() {
    let mut specimen = Specimen::empty();
    specimen.put("object", 1, 100);
    assert!(matches!(ObjectStore::read_directory(&specimen.directory()), Err(Error::Locked { .. })));
    specimen.close();
    let readers = [(); 2].map(|()| ObjectStore::read_directory(&specimen.directory()).unwrap().0);
    let refused = builder(&specimen.directory()).lock_wait(Duration::ZERO).open();
    assert!(matches!(refused, Err(Error::Locked { .. })), "{refused:?}");
    readers.into_iter().for_each(|reader| reader.close().unwrap());
    builder(&specimen.directory()).lock_wait(Duration::ZERO).open().unwrap();

    let nothing = tempfile::tempdir().unwrap();
    let refused = ObjectStore::read_directory(nothing.path()).unwrap_err();
    assert!(refused.to_string().contains("there is no store in it"), "{refused}");
    assert_eq!(fs::read_dir(nothing.path()).unwrap().count(), 0);
    let copy = specimen.place.path().join("newer");
    copy_directory(&specimen.directory(), &copy);
    fs::write(copy.join("FORMAT"), "scaler-object-storage format 77\n").unwrap();
    assert!(matches!(ObjectStore::read_directory(&copy), Err(Error::UnknownFormat { found: 77, .. })));
}
