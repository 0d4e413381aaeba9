//! Directories of other programs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use scaler_object_storage::Error;

use crate::specimen::{Specimen, open_error};

fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut contents = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            contents.extend(self::contents(&path))
        } else {
            drop(contents.insert(path.clone(), fs::read(&path).unwrap()))
        }
    }
    contents
}

#[test]
fn a_directory_of_a_newer_format_is_refused_with_words_and_left_alone() {
    let mut specimen = Specimen::typical();
    specimen.close();
    let copy = specimen.copy();
    let format = fs::read_to_string(copy.join("FORMAT")).unwrap();
    fs::write(copy.join("FORMAT"), format.replace('1', "2")).unwrap();
    let before = contents(&copy);
    let error = open_error(&copy);
    assert!(matches!(error, Error::UnknownFormat { found: 2, known: 1, .. }), "{error}");
    assert!(error.to_string().contains("nothing was changed"), "{error}");
    assert_eq!(contents(&copy), before);
}

#[test]
fn a_format_that_cannot_be_read_is_refused_with_words_and_left_alone() {
    let mut specimen = Specimen::typical();
    specimen.close();
    for text in ["something else", "scaler-object-storage format one"] {
        let copy = specimen.copy();
        fs::write(copy.join("FORMAT"), text).unwrap();
        let before = contents(&copy);
        let error = open_error(&copy);
        assert!(error.to_string().contains("FORMAT"), "{error}");
        assert_eq!(contents(&copy), before);
    }
}
