//! Many small objects alive at once: how long the store takes to open, what an object takes of memory, and whether gets and puts
//! are as fast as in an empty store.
//!
//! `OBJECTS=10000000 cargo bench --bench many_objects` for the ten million of the speed table; the default is a million.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "common/mod.rs"]
mod common;

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use common::{
    Payloads, Table, id, nanoseconds, only_listed, percentile, random, rss_anon_bytes, settle, show_nanoseconds,
    show_ratio,
};
use scaler_object_storage::ObjectStore;

const DATA_BYTES: usize = 128;
const OBJECTS_DEFAULT: u64 = 1_000_000;

/// Gets and puts that are timed one by one.
const SAMPLES: u64 = 200_000;

/// Names the directory to fill to the process that fills it: the one that measures starts with a clean heap.
const FILL: &str = "FILL_DIRECTORY";

fn main() {
    if only_listed() {
        return;
    }
    let count = std::env::var("OBJECTS").map_or(OBJECTS_DEFAULT, |text| text.parse().expect("OBJECTS is a number"));
    if let Some(directory) = std::env::var_os(FILL) {
        return fill(Path::new(&directory), count);
    }
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (full, empty) = (scratch.path().join("full"), scratch.path().join("empty"));
    eprintln!("putting {count} objects of {DATA_BYTES} bytes ...");
    let filled = Command::new(std::env::current_exe().unwrap()).env(FILL, &full).status().unwrap();
    assert!(filled.success());
    settle(scratch.path());

    let before = rss_anon_bytes();
    let start = Instant::now();
    let store = open(&full);
    let opened = nanoseconds(start);
    let opened_bytes = (rss_anon_bytes() - before) / count as f64;
    assert_eq!(store.info().objects, count);

    let empty = open(&empty);
    // Each kind in turns of both stores; the empty one has as many objects as it needs to be read from.
    (0..1000).for_each(|number| empty.put(&id(number), &[0; DATA_BYTES], b"").unwrap());
    let (mut of_full, mut of_empty) = (Samples::default(), Samples::default());
    for turn in 0..10 {
        of_full.take(&store, count, turn);
        of_empty.take(&empty, 1000, turn);
    }

    println!("\n{count} live objects of {DATA_BYTES} bytes\n");
    let mut table = Table::new(["what", "measured", "in an empty store", "ratio", "at most"]);
    let seconds = format!("{:.2} s", opened / 1e9);
    table.row(["open".to_owned(), seconds, String::new(), String::new(), "2 s for ten million".to_owned()]);
    let bytes = format!("{opened_bytes:.1} B");
    table.row(["memory of an object".to_owned(), bytes, String::new(), String::new(), "40 B".to_owned()]);
    let (full, empty) = (of_full.medians(), of_empty.medians());
    for (what, full, empty) in [("get, p50", full.0, empty.0), ("put, p50", full.1, empty.1)] {
        let ratio = show_ratio(full / empty);
        table.row([what.to_owned(), show_nanoseconds(full), show_nanoseconds(empty), ratio, "2x".to_owned()]);
    }
    table.print();
}

fn open(directory: &Path) -> ObjectStore {
    ObjectStore::builder().local(directory).open().unwrap()
}

fn fill(directory: &Path, count: u64) {
    let store = open(directory);
    let before = rss_anon_bytes();
    let mut payloads = Payloads::new(DATA_BYTES);
    let start = Instant::now();
    for number in 0..count {
        store.put(&id(number), payloads.next(), b"").unwrap();
    }
    let each = nanoseconds(start) / count as f64;
    let bytes = (rss_anon_bytes() - before) / count as f64;
    eprintln!("put: {} each on average; memory while filling: {bytes:.1} B an object", show_nanoseconds(each));
    let start = Instant::now();
    store.close().unwrap();
    eprintln!("close: {:.2} s", start.elapsed().as_secs_f64());
}

/// Nanoseconds of single operations.
#[derive(Default)]
struct Samples {
    gets: Vec<f64>,
    puts: Vec<f64>,
}

impl Samples {
    fn take(&mut self, store: &ObjectStore, count: u64, turn: u64) {
        let mut state = turn;
        for _ in 0..SAMPLES / 10 {
            let id = id(random(&mut state) % count);
            let start = Instant::now();
            let got = store.get(&id).unwrap();
            self.gets.push(nanoseconds(start));
            assert_eq!(got.expect("it was put").data.len(), DATA_BYTES);
        }
        // New ids, deleted again, so that the store keeps its size.
        let fresh = (0..SAMPLES / 10).map(|number| id((1 << 40) + number));
        let data = [7; DATA_BYTES];
        for id in fresh.clone() {
            let start = Instant::now();
            store.put(&id, &data, b"").unwrap();
            self.puts.push(nanoseconds(start));
        }
        fresh.for_each(|id| assert!(store.delete(&id).unwrap()));
    }

    fn medians(&mut self) -> (f64, f64) {
        (percentile(&mut self.gets, 50.0), percentile(&mut self.puts, 50.0))
    }
}
