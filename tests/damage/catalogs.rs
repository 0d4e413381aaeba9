//! Catalogs that are gone, damaged, or of another time.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::splitmix;
use crate::specimen::{Specimen, builder, copy_directory, examine, flip, segments};

/// Of a segment's header, the bytes before the seal's; and those without which nothing in the segment can be told from what was there before.
const HEADER_BYTES: usize = 32;

const NONCE: std::ops::Range<usize> = 24..32;

fn assert_all_served(specimen: &Specimen, directory: &Path, what: &str) {
    let findings = examine(specimen, directory);
    assert!(findings.missing.is_empty() && findings.outdated.is_empty(), "{what}: {findings:?}");
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(self::files(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

// Invariant 1.
#[test]
fn a_deleted_catalog_is_rebuilt() {
    let mut specimen = Specimen::typical();
    specimen.close();
    let copy = specimen.copy();
    fs::remove_dir_all(copy.join("catalog")).unwrap();
    assert_all_served(&specimen, &copy, "no catalog");
    for file in files(&specimen.directory().join("catalog")) {
        let copy = specimen.copy();
        fs::remove_file(copy.join(file.strip_prefix(specimen.directory()).unwrap())).unwrap();
        assert_all_served(&specimen, &copy, &format!("no {}", file.display()));
    }
}

// Invariants 1 and 11.
#[test]
fn a_damaged_catalog_is_rebuilt() {
    let mut specimen = Specimen::typical();
    specimen.close();
    let mut random = 5;
    for round in 0..60 {
        let copy = specimen.copy();
        let files = files(&copy.join("catalog"));
        let file = &files[splitmix(&mut random) as usize % files.len()];
        let length = fs::metadata(file).unwrap().len();
        if length == 0 {
            continue;
        }
        let position = splitmix(&mut random) % length;
        match round % 3 {
            0 => flip(file, position as usize, (round % 8) as u8),
            1 => fs::File::options().write(true).open(file).unwrap().set_len(position).unwrap(),
            _ => {
                let mut content = fs::read(file).unwrap();
                let end = (position as usize + 4096).min(content.len());
                content[position as usize..end].fill(0);
                fs::write(file, content).unwrap();
            }
        }
        assert_all_served(&specimen, &copy, &format!("{}: {position} of {length}, round {round}", file.display()));
    }
}

#[test]
fn what_is_not_a_catalog_is_set_aside() {
    let mut specimen = Specimen::typical();
    specimen.close();
    let copy = specimen.copy();
    fs::remove_dir_all(copy.join("catalog")).unwrap();
    fs::write(copy.join("catalog"), b"a file").unwrap();
    assert_all_served(&specimen, &copy, "a file");
}

// Invariant 1: hints of segments that have changed hands, or are gone, say nothing about those that are there.
#[test]
fn a_catalog_from_an_earlier_time_does_no_harm() {
    let mut specimen = Specimen::typical();
    specimen.close();
    let catalog = specimen.directory().join("catalog");
    let earlier = specimen.place.path().join("earlier");
    copy_directory(&catalog, &earlier);
    for opens in 0..3 {
        specimen.store = Some(crate::specimen::builder(&specimen.directory()).open().unwrap());
        for number in 0..200 {
            specimen.put(&format!("overwritten {}", number % 8), opens * 1000 + number, 20_000);
            specimen.put(&format!("more {number}"), number, 3000);
            specimen.delete(&format!("old {opens}"));
            specimen.delete(&format!("more {}", number / 2));
        }
        specimen.close();
        let copy = specimen.copy();
        fs::remove_dir_all(copy.join("catalog")).unwrap();
        copy_directory(&earlier, &copy.join("catalog"));
        assert_all_served(&specimen, &copy, "an earlier catalog");
    }
}

// Invariants 1 and 11.
#[test]
fn a_damaged_catalog_and_a_damaged_header_cost_at_most_the_segment_of_the_header() {
    let mut specimen = Specimen::empty();
    for number in 0..20_000 {
        specimen.put(&format!("object {number}"), number, number as usize % 50);
    }
    specimen.close();
    assert!(segments(&specimen.directory(), "records").len() > 1, "another segment has to be there");
    let mut random = 11;
    for round in 0..32 {
        let copy = specimen.copy();
        let database = copy.join("catalog/db");
        let mut content = fs::read(&database).unwrap();
        let start = splitmix(&mut random) as usize % content.len();
        let end = (start + 16_384).min(content.len());
        content[start..end].fill(0x55);
        fs::write(&database, content).unwrap();
        let position = round % HEADER_BYTES;
        flip(&segments(&copy, "records")[0], position, (round % 8) as u8);
        let store = builder(&copy).open().unwrap();
        let is_nonce = NONCE.contains(&position);
        let objects = store.info().objects;
        assert!(objects == 20_000 || is_nonce && objects >= 10_000, "{objects}, round {round}, catalog at {start}");
        let last = store.get(b"object 19999").unwrap();
        assert_eq!(last, specimen.now(b"object 19999"), "round {round}");
    }
}
