//! What the benchmarks share: inputs, medians, tables.
#![allow(dead_code, reason = "each benchmark uses a part of it")]

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

/// The sizes of data that every table shows.
pub const SIZES: &[usize] = &[128, 1 << 10, 64 << 10, 1 << 20, 16 << 20, 100 << 20];

/// Ids of Scaler have 32 bytes.
pub type Id = [u8; 32];

/// Random bytes from which payloads are cut, each at its own place, so that no two are equal.
pub struct Payloads {
    pool: Vec<u8>,
    size: usize,
    next: usize,
}

impl Payloads {
    pub fn new(size: usize) -> Self {
        const PLACES: usize = 4 << 20;
        Payloads { pool: random_bytes(1, size + PLACES), size, next: 0 }
    }

    pub fn next(&mut self) -> &[u8] {
        const STRIDE: usize = 61; // prime to the number of places: each comes up once before any does again
        self.next = (self.next + STRIDE) % (self.pool.len() - self.size);
        &self.pool[self.next..][..self.size]
    }
}

pub fn random_bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&random(&mut state).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// The next number of a pseudo-random sequence.
pub fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Different, random-looking ids: no peer profits from their order.
pub fn id(number: u64) -> Id {
    let mut state = number;
    let mut id = [0; 32];
    id[..8].copy_from_slice(&random(&mut state).to_le_bytes());
    id[8..16].copy_from_slice(&number.to_le_bytes());
    id[16..24].copy_from_slice(&random(&mut state).to_le_bytes());
    id[24..].copy_from_slice(&random(&mut state).to_le_bytes());
    id
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The value that `percent` of the values do not exceed.
pub fn percentile(values: &mut [f64], percent: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = (values.len() as f64 * percent / 100.0) as usize;
    values.get(place.min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

pub fn nanoseconds(since: Instant) -> f64 {
    since.elapsed().as_nanos() as f64
}

/// Lets the disk finish what was written, so that its writeback does not slow down what is measured next.
pub fn settle(directory: &Path) {
    if let Ok(directory) = File::open(directory) {
        let _ = rustix::fs::syncfs(&directory);
    }
    std::thread::sleep(Duration::from_millis(50));
}

/// Anonymous memory of this process that is in RAM, in bytes.
pub fn rss_anon_bytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
    kilobytes.and_then(|text| text.trim().parse::<f64>().ok()).map_or(f64::NAN, |kilobytes| kilobytes * 1024.0)
}

/// `filter` as given on the command line: what does not contain it is skipped.
pub fn wanted(label: &str) -> bool {
    std::env::args().skip(1).find(|argument| !argument.starts_with('-')).is_none_or(|filter| label.contains(&filter))
}

/// Whether a test runner only asks for the list of tests; benchmarks have none.
pub fn only_listed() -> bool {
    std::env::args().any(|argument| argument == "--list")
}

pub fn show_bytes(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

pub fn show_nanoseconds(nanoseconds: f64) -> String {
    match nanoseconds {
        value if value.is_nan() => "-".to_owned(),
        value if value < 999.5 => format!("{value:.0} ns"),
        value if value < 9_995.0 => format!("{:.2} us", value / 1e3),
        value if value < 999_500.0 => format!("{:.0} us", value / 1e3),
        value if value < 9_995_000.0 => format!("{:.2} ms", value / 1e6),
        value => format!("{:.0} ms", value / 1e6),
    }
}

pub fn show_ratio(ratio: f64) -> String {
    match ratio {
        value if value.is_nan() => "-".to_owned(),
        value if value < 9.95 => format!("{value:.2}x"),
        value => format!("{value:.0}x"),
    }
}

/// A table in Markdown, with its columns aligned for a terminal.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new<S: Into<String>>(head: impl IntoIterator<Item = S>) -> Self {
        Table { rows: vec![head.into_iter().map(Into::into).collect()] }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub fn print(&self) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width =
            |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
        for (number, row) in self.rows.iter().enumerate() {
            let cells: Vec<_> = (0..columns)
                .map(|column| format!("{:>1$}", row.get(column).map_or("", String::as_str), width(column)))
                .collect();
            println!("| {} |", cells.join(" | "));
            if number == 0 {
                let rule: Vec<_> = (0..columns).map(|column| format!("{}:", "-".repeat(width(column) - 1))).collect();
                println!("| {} |", rule.join(" | "));
            }
        }
    }
}
