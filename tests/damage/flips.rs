//! Single bits that changed on the disk.

use std::fs;
use std::path::Path;

use crate::common::splitmix;
use crate::specimen::{Specimen, examine, flip, segments};

const SEGMENT_HEADER_BYTES: usize = 64;

const RECORD_HEADER_BYTES: usize = 96;

fn without_catalog(directory: &Path) {
    fs::remove_dir_all(directory.join("catalog")).unwrap();
}

/// One object, and those that share its bytes.
const OBJECTS_HIT_MAX: usize = 3;

// Invariants 1 and 7.
#[test]
fn a_flipped_bit_anywhere_costs_at_most_what_it_is_in() {
    let mut specimen = Specimen::typical();
    specimen.close();
    let mut random = 1;
    let mut missed = 0;
    for round in 0..160 {
        let copy = specimen.copy();
        let kind = ["records", "records", "bodies", "body"][round % 4];
        let files = segments(&copy, kind);
        let path = &files[splitmix(&mut random) as usize % files.len()];
        let length = fs::metadata(path).unwrap().len();
        flip(path, (splitmix(&mut random) % length) as usize, (round % 8) as u8);
        let has_catalog = round % 3 > 0;
        if !has_catalog {
            without_catalog(&copy);
        }
        let findings = examine(&specimen, &copy);
        missed += findings.missing.len();
        assert!(findings.missing.len() <= OBJECTS_HIT_MAX, "{findings:?}");
        // With hints, a damaged newer version hides the older ones; without, its own header may be what is damaged.
        assert!(findings.outdated.len() <= usize::from(!has_catalog), "{findings:?}");
    }
    assert!(missed > 20, "{missed}: hardly any flip was in something that counts");
}

// Invariants 1 and 7.
#[test]
fn a_flipped_bit_in_a_segments_header_costs_nothing_while_there_is_a_catalog() {
    let mut specimen = Specimen::typical();
    specimen.close();
    for kind in ["records", "bodies", "body"] {
        for position in 0..SEGMENT_HEADER_BYTES {
            let copy = specimen.copy();
            let files = segments(&copy, kind);
            flip(&files[position % files.len()], position, (position % 8) as u8);
            let findings = examine(&specimen, &copy);
            assert!(findings.missing.is_empty() && findings.outdated.is_empty(), "{position} of {kind}: {findings:?}");
        }
    }
}

#[test]
fn a_flipped_bit_in_a_segments_header_costs_no_more_than_the_segment_without_a_catalog() {
    let mut specimen = Specimen::typical();
    specimen.close();
    for position in 0..SEGMENT_HEADER_BYTES {
        let copy = specimen.copy();
        let files = segments(&copy, "records");
        flip([&files[0], files.last().unwrap()][position % 2], position, (position % 8) as u8);
        without_catalog(&copy);
        let findings = examine(&specimen, &copy);
        let is_nonce = (24..32).contains(&position);
        assert!(is_nonce || findings.missing.is_empty() && findings.outdated.is_empty(), "{position}: {findings:?}");
    }
}

/// Where the newest record of an id begins, and in which segment.
fn newest_record(directory: &Path, id: &str) -> (std::path::PathBuf, usize) {
    for path in segments(directory, "records").into_iter().rev() {
        let content = fs::read(&path).unwrap();
        let mut found = content.windows(id.len()).enumerate().filter(|(at, window)| {
            // The record's own lsn stands in it, and the id's length.
            let Some(start) = at.checked_sub(RECORD_HEADER_BYTES) else { return false };
            *window == id.as_bytes()
                && content[start + 8..start + 12] == (start as u32).to_le_bytes()
                && content[start + 84..start + 86] == (id.len() as u16).to_le_bytes()
        });
        if let Some((at, _)) = found.next_back() {
            return (path, at - RECORD_HEADER_BYTES);
        }
    }
    panic!("{id} has no record");
}

// Invariants 1, 7 and 11: what a damaged header says is not believed, in particular not when its object is overwritten or deleted.
#[test]
fn a_flipped_bit_in_a_records_header_or_id_costs_that_object_alone() {
    let mut specimen = Specimen::typical();
    specimen.close();
    for (turn, id) in ["overwritten 2", "overwritten 6", "duplicate 4", "old 7", "deleted 3"].into_iter().enumerate() {
        let (path, start) = newest_record(&specimen.directory(), id);
        let name = path.file_name().unwrap();
        for position in (turn % 2..RECORD_HEADER_BYTES + id.len()).step_by(2) {
            let copy = specimen.copy();
            flip(&copy.join("journal").join(name), start + position, (position % 8) as u8);
            let findings = examine(&specimen, &copy);
            let others: Vec<_> = findings.missing.iter().filter(|missing| *missing != id).collect();
            assert!(others.is_empty() && findings.outdated.is_empty(), "{position} of {id}: {findings:?}");
        }
    }
}

// Invariants 7 and 11: nor when it is duplicated.
#[test]
fn a_damaged_object_is_not_duplicated() {
    let mut specimen = Specimen::typical();
    specimen.close();
    for id in ["overwritten 2", "overwritten 6", "duplicate 4"] {
        let (path, start) = newest_record(&specimen.directory(), id);
        let name = path.file_name().unwrap();
        for position in 0..RECORD_HEADER_BYTES {
            let copy = specimen.copy();
            flip(&copy.join("journal").join(name), start + position, (position % 8) as u8);
            let store = crate::specimen::builder(&copy).open().unwrap();
            if store.duplicate(id.as_bytes(), b"new").unwrap() {
                let found = store.get(b"new").unwrap();
                assert!(found.is_none() || found == specimen.now(id.as_bytes()), "{position} of {id}");
            }
            for (id, states) in &specimen.history {
                let found = store.get(id).unwrap();
                assert!(found.is_none() || found == *states.last().unwrap());
            }
        }
    }
}
