//! Catalogs that are gone, damaged, or of another time.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::splitmix;
use crate::specimen::{Specimen, copy_directory, examine, flip};

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
