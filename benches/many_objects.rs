//! Many small objects alive at once: how long the store takes to open, what an object takes of memory, and whether gets and puts
//! are as fast as in an empty store.
//!
//! `OBJECTS=10000000 cargo bench --bench many_objects` for the ten million of the speed table; the default is a million.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "common/mod.rs"]
mod common;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
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

/// Turns of the full and the empty store in which they are taken.
const TURNS: u64 = 10;

/// Objects that are read again and again.
const HOT_COUNT: u64 = 1000;

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
    // The empty one has as many objects as it needs to be read from: as many as are read again and again in the full one.
    for number in 0..HOT_COUNT {
        empty.put(&id(number), &[0; DATA_BYTES], b"").unwrap();
    }
    let first_gets = gets(&store, count, 1);
    let (mut of_full, mut any, mut of_empty) = (Samples::default(), Vec::new(), Samples::default());
    for _ in 0..TURNS {
        of_full.take(&store, count / HOT_COUNT);
        any.extend(gets(&store, count, 1));
        of_empty.take(&empty, 1);
    }

    println!("\n{count} live objects of {DATA_BYTES} bytes\n");
    let mut table = Table::new(["what", "measured", "in an empty store", "ratio", "at most"]);
    let seconds = format!("{:.2} s", opened / 1e9);
    table.row(["open".to_owned(), seconds, String::new(), String::new(), "2 s for ten million".to_owned()]);
    let bytes = format!("{opened_bytes:.1} B");
    table.row(["memory of an object".to_owned(), bytes, String::new(), String::new(), "40 B".to_owned()]);
    let p50 = |mut samples: Vec<f64>| percentile(&mut samples, 50.0);
    let (hot, put) = (p50(of_full.gets), p50(of_full.puts));
    let (empty_hot, empty_put) = (p50(of_empty.gets), p50(of_empty.puts));
    for (what, full, empty) in [
        ("put, p50".to_owned(), put, empty_put),
        (format!("get, p50, of the same {HOT_COUNT}"), hot, empty_hot),
        ("get, p50, of any".to_owned(), p50(any), empty_hot),
        ("get, p50, of any, the first after the open".to_owned(), p50(first_gets), empty_hot),
    ] {
        table.row([what, show_nanoseconds(full), show_nanoseconds(empty), show_ratio(full / empty), "2x".to_owned()]);
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

/// Another sequence for every turn.
fn turn_seed() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed) << 32
}

/// Nanoseconds of gets of random ones of the objects 0, `step`, 2 `step`, ... below `count`.
fn gets(store: &ObjectStore, count: u64, step: u64) -> Vec<f64> {
    let mut state = turn_seed();
    (0..SAMPLES / TURNS)
        .map(|_| {
            let id = id(random(&mut state) % (count / step) * step);
            let start = Instant::now();
            let got = store.get(&id).unwrap();
            let each = nanoseconds(start);
            assert_eq!(got.expect("it was put").data.len(), DATA_BYTES);
            each
        })
        .collect()
}

/// Nanoseconds of single operations.
#[derive(Default)]
struct Samples {
    gets: Vec<f64>,
    puts: Vec<f64>,
}

impl Samples {
    /// Gets of the objects 0, `step`, 2 `step`, ...; puts of new ones, deleted again so that the store keeps its size.
    fn take(&mut self, store: &ObjectStore, step: u64) {
        self.gets.extend(gets(store, HOT_COUNT * step, step));
        let fresh = (0..SAMPLES / TURNS).map(|number| id((1 << 40) + number));
        let data = [7; DATA_BYTES];
        for id in fresh.clone() {
            let start = Instant::now();
            store.put(&id, &data, b"").unwrap();
            self.puts.push(nanoseconds(start));
        }
        fresh.for_each(|id| assert!(store.delete(&id).unwrap()));
    }
}
