//! What the stored directories hold, as formulas.

use std::collections::BTreeMap;

/// Data and metadata follow from these: equal ones are equal payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    pub seed: u64,
    pub length: usize,
}

/// Of bodies handed out as copies, inside a record, inside a record and handed out by map, and outside.
pub const LENGTHS: [usize; 4] = [100, 5000, 20_000, 70_000];

/// Data repeats a word for this long, so that it packs well; the word says where in which data it stands.
const STRETCH_BYTES: usize = 16 << 10;

impl Content {
    pub fn data(self) -> Vec<u8> {
        let mut data = Vec::with_capacity(self.length + STRETCH_BYTES);
        for number in 0..self.length.div_ceil(STRETCH_BYTES) as u64 {
            let word = (self.seed << 16 | number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            data.extend_from_slice(&word.to_le_bytes().repeat(STRETCH_BYTES / 8));
        }
        data.truncate(self.length);
        data
    }

    pub fn metadata(self) -> Vec<u8> {
        if self.seed.is_multiple_of(3) { Vec::new() } else { format!("about {}", self.seed).into_bytes() }
    }
}

/// What must be found in a directory of format 1: an object, or none.
pub fn format_1() -> BTreeMap<String, Option<Content>> {
    let mut expected = BTreeMap::new();
    let mut is = |id: String, seed: u64, length: usize| {
        expected.insert(id, Some(Content { seed, length }));
    };
    for n in 0..150 {
        is(format!("small {n}"), 1000 + n, 10 + 37 * n as usize);
    }
    is("empty".into(), 3000, 0);
    is("metadata alone".into(), 3001, 0);
    for n in 0..8 {
        is(format!("mapped {n}"), 4000 + n, 20_000 + n as usize);
    }
    for n in 0..4 {
        is(format!("external {n}"), 5000 + n, 70_000 + n as usize);
    }
    is("large".into(), 6000, 1_500_000);
    is("larger".into(), 6001, 2_100_000);
    is("streamed".into(), 6002, 300_000);
    for n in 0..20 {
        is(format!("overwritten {n}"), 7002 + 10 * n, LENGTHS[(n as usize + 2) % 4]);
    }
    for n in 0..8 {
        is(format!("put again {n}"), 8000 + n, LENGTHS[n as usize % 4]);
    }
    for n in 0..4 {
        is(format!("duplicate {n}"), 9000 + n, LENGTHS[n as usize]);
        is(format!("duplicate of a duplicate {n}"), 9000 + n, LENGTHS[n as usize]);
    }
    for (n, length) in (0..).zip([3000, 20_000, 80_000]) {
        is(format!("equal {n}"), 9100 + n, length);
        is(format!("equal as well {n}"), 9100 + n, length);
    }
    for n in 0..40 {
        is(format!("second life {n}"), 10_000 + n, 900 + 53 * n as usize);
    }
    for n in (0..150).step_by(10) {
        is(format!("small {n}"), 11_000 + n, 50 + n as usize);
        is(format!("small {}", n + 2), 13_000 + n, 20_001);
    }
    for n in 0..20 {
        is(format!("tail {n}"), 12_000 + n, LENGTHS[n as usize % 4]);
    }
    is("duplicate in the tail".into(), 5001, 70_001);
    let mut is_gone = |id: String| {
        expected.insert(id, None);
    };
    for n in 0..20 {
        is_gone(format!("deleted {n}"));
        is_gone(format!("filler {n}"));
    }
    for n in 0..4 {
        is_gone(format!("original {n}"));
    }
    for n in (0..150).step_by(10) {
        is_gone(format!("small {}", n + 1));
        is_gone(format!("small {}", n + 3));
    }
    is_gone("external 1".into());
    is_gone("never committed".into());
    is_gone("never put".into());
    expected
}
