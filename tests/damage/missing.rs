//! Segments that are gone, or shorter than they were.

use std::fs;
use std::path::Path;

use crate::specimen::{Findings, Specimen, examine, segments};

fn damage_each(kind: &str, has_catalog: bool, damage: impl Fn(&Path), check: impl Fn(&Specimen, &Findings)) {
    let mut specimen = Specimen::typical();
    specimen.close();
    let mut missed = 0;
    for number in 0..segments(&specimen.directory(), kind).len() {
        let copy = specimen.copy();
        damage(&segments(&copy, kind)[number]);
        if !has_catalog {
            fs::remove_dir_all(copy.join("catalog")).unwrap();
        }
        let findings = examine(&specimen, &copy);
        missed += findings.missing.len();
        check(&specimen, &findings);
    }
    assert!(missed > 0, "nothing was missing");
}

fn truncate(path: &Path, part: u64) {
    let length = fs::metadata(path).unwrap().len();
    fs::File::options().write(true).open(path).unwrap().set_len(length * part / 8).unwrap();
}

/// What went with the segment is missing; it does not bring older versions or deleted objects back, and the rest is served.
fn with_hints(specimen: &Specimen, findings: &Findings) {
    assert!(findings.outdated.is_empty(), "{findings:?}");
    assert!(findings.missing.len() < specimen.live(), "{findings:?}");
    assert!(findings.damaged_objects >= findings.missing.len() as u64, "{findings:?}");
}

// Invariants 1, 7 and 11.
#[test]
fn a_missing_segment_of_records_costs_what_was_in_it_and_brings_nothing_back() {
    damage_each("records", true, |path| fs::remove_file(path).unwrap(), with_hints);
}

#[test]
fn a_truncated_segment_of_records_costs_what_was_in_its_end_and_brings_nothing_back() {
    for part in [0, 1, 4, 7] {
        damage_each("records", true, |path| truncate(path, part), with_hints);
    }
}

#[test]
fn a_missing_or_truncated_body_segment_costs_its_bodies_and_brings_nothing_back() {
    for kind in ["bodies", "body"] {
        for has_catalog in [true, false] {
            damage_each(kind, has_catalog, |path| fs::remove_file(path).unwrap(), with_hints);
            for part in [0, 1] {
                damage_each(kind, has_catalog, |path| truncate(path, part), with_hints);
            }
        }
    }
}

/// Without hints, what a segment superseded is known from newer segments alone.
#[test]
fn a_truncated_segment_without_a_catalog_is_served_as_far_as_it_goes() {
    for part in [1, 4, 7] {
        damage_each(
            "records",
            false,
            |path| truncate(path, part),
            |specimen, findings| {
                assert!(findings.missing.len() + findings.outdated.len() < specimen.live(), "{findings:?}");
            },
        );
    }
}
