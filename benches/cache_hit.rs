//! In-process get, put and put-get-delete of data that is in the page cache, beside other embedded stores and caches.
//!
//! `cargo bench --bench cache_hit` measures with criterion, then again with all peers taking turns, and ends in tables of the
//! latter. A filter chooses a part: `-- table`, `-- table/get`, `-- criterion/put/64 KiB`. The peers' settings are in
//! `common/peers.rs`. What is written stays below the kernel's dirty-background limit, and the disk settles between groups.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "common/mod.rs"]
mod common;
#[path = "common/peers.rs"]
mod peers;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{
    Id, Payloads, SIZES, Table, id, median, nanoseconds, only_listed, random, settle, show_bytes, show_nanoseconds,
    show_ratio, wanted,
};
use criterion::{Criterion, SamplingMode};
use peers::{Peer, open_all};

const OPERATIONS: [&str; 3] = ["get", "put", "put-get-delete"];

/// The place, behind the operations, of what the first get of each object after the open took.
const FIRST_GET: usize = OPERATIONS.len();

/// Rounds in which all peers take their turn; the table quotes the medians.
const ROUNDS: usize = 11;
const ROUNDS_LARGE: usize = 5;
const LARGE_BYTES: usize = 16 << 20;

/// How long one peer gets in one round.
const TURN: Duration = Duration::from_millis(20);

/// Data that one peer puts in one turn, at most; always at least one object.
const TURN_BYTES: usize = 16 << 20;
const TURN_COUNT_MAX: usize = 3000;

/// The working set that gets choose from: it fits the page cache, and not the caches of the peers.
const WORKING_SET_BYTES: usize = 256 << 20;
const WORKING_SET_COUNT_MAX: usize = 20_000;

/// What may be written before the disk is given time: less than the kernel's dirty-background limit, a tenth of the memory.
const WRITTEN_BYTES_MAX: usize = 512 << 20;

/// Counts what is written, and lets the disk settle when it is much.
struct Disk<'a> {
    directory: &'a Path,
    written_bytes: usize,
}

impl Disk<'_> {
    fn written(&mut self, peer: &dyn Peer, bytes: usize) {
        self.written_bytes += if peer.in_memory() { 0 } else { bytes };
        if self.written_bytes > WRITTEN_BYTES_MAX {
            settle(self.directory);
            self.written_bytes = 0;
        }
    }
}

fn main() {
    if only_listed() {
        return;
    }
    criterion_part();
    let mut medians = BTreeMap::new();
    for &size in SIZES {
        if OPERATIONS.iter().any(|operation| wanted(&label("table", operation, size))) {
            eprintln!("measuring {} ...", show_bytes(size));
            measure(size, &mut medians);
        }
    }
    print_tables(&medians);
}

fn label(part: &str, operation: &str, size: usize) -> String {
    format!("{part}/{operation}/{}", show_bytes(size))
}

/// (operation, size) -> peer, median in nanoseconds; in the order of the peers.
type Medians = BTreeMap<(usize, usize), Vec<(&'static str, f64)>>;

/// A directory of its own for each group, on the disk that the target directory is on.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn working_set_count(size: usize) -> usize {
    (WORKING_SET_BYTES / size).clamp(3, WORKING_SET_COUNT_MAX)
}

/// Numbers of ids that are not in the working set.
fn fresh() -> impl Iterator<Item = Id> {
    (WORKING_SET_COUNT_MAX as u64..).map(id)
}

/// The peers with the working set in them, and the nanoseconds that the first get of each object took on average. Those on disk are
/// opened anew after it was put: the first get finds the data in the page cache and nowhere else. Later ones find it also in what the
/// peer has chosen to keep: sled keeps values of 1 MiB and more however small its cache is.
fn open_filled(directory: &Path, ids: &[Id], payloads: &mut Payloads) -> Vec<(Box<dyn Peer>, f64)> {
    let mut disk = Disk { directory, written_bytes: 0 };
    for peer in open_all(directory).into_iter().filter(|peer| !peer.in_memory() && !peer.only_puts()) {
        for id in ids {
            let data = payloads.next();
            peer.put(id, data);
            disk.written(&*peer, data.len());
        }
    }
    settle(directory);
    let first_gets = |peer: Box<dyn Peer>| {
        if peer.only_puts() {
            return (peer, f64::NAN);
        }
        if peer.in_memory() {
            ids.iter().for_each(|id| peer.put(id, payloads.next()));
        }
        let start = Instant::now();
        ids.iter().for_each(|id| assert!(peer.get(id).is_some(), "{} has lost an object", peer.name()));
        let each = nanoseconds(start) / ids.len() as f64;
        (peer, each)
    };
    open_all(directory).into_iter().map(first_gets).collect()
}

fn measure(size: usize, medians: &mut Medians) {
    let directory = scratch();
    let mut payloads = Payloads::new(size);
    let ids: Vec<Id> = (0..working_set_count(size) as u64).map(id).collect();
    let (peers, first_gets): (Vec<_>, Vec<_>) = open_filled(directory.path(), &ids, &mut payloads).into_iter().unzip();
    if wanted(&label("table", "get", size)) {
        medians.insert((FIRST_GET, size), peers.iter().map(|peer| peer.name()).zip(first_gets).collect());
    }
    let mut disk = Disk { directory: directory.path(), written_bytes: 0 };
    let mut fresh = fresh();
    for (place, operation) in OPERATIONS.into_iter().enumerate() {
        if !wanted(&label("table", operation, size)) {
            continue;
        }
        let mut turns = vec![Vec::new(); peers.len()];
        for round in 0..if size < LARGE_BYTES { ROUNDS } else { ROUNDS_LARGE } {
            for turn in 0..peers.len() {
                // Nobody always comes first, or always behind the same neighbour.
                let number = (turn * 3 + round) % peers.len();
                let peer = &*peers[number];
                turns[number].push(match operation {
                    "get" => gets(peer, &ids),
                    "put" => puts(peer, &mut payloads, size, &mut fresh),
                    _ => puts_gets_deletes(peer, &mut payloads, size, &mut fresh),
                });
                if operation != "get" {
                    disk.written(peer, turn_count(size) * size);
                }
            }
        }
        let row = peers.iter().zip(turns).map(|(peer, turns)| (peer.name(), median(turns))).collect();
        medians.insert((place, size), row);
    }
    drop(peers);
    settle(directory.path());
}

/// Nanoseconds per get of a random object of the working set.
fn gets(peer: &dyn Peer, ids: &[Id]) -> f64 {
    const BATCH: usize = 16;
    if peer.only_puts() {
        return f64::NAN;
    }
    let mut state = 1;
    let mut count = 0;
    let start = Instant::now();
    while start.elapsed() < TURN {
        for _ in 0..BATCH.min(ids.len()) {
            let id = &ids[random(&mut state) as usize % ids.len()];
            black_box(peer.get(black_box(id)).expect("it is in the working set"));
            count += 1;
        }
    }
    nanoseconds(start) / f64::from(count)
}

/// Nanoseconds per put of a new object; they are deleted again behind the clock's back.
fn puts(peer: &dyn Peer, payloads: &mut Payloads, size: usize, fresh: &mut impl Iterator<Item = Id>) -> f64 {
    let ids: Vec<Id> = fresh.take(turn_count(size)).collect();
    let start = Instant::now();
    for id in &ids {
        peer.put(id, black_box(payloads.next()));
    }
    let each = nanoseconds(start) / ids.len() as f64;
    ids.iter().for_each(|id| peer.delete(id));
    each
}

/// Nanoseconds per put, get and delete of a new object.
fn puts_gets_deletes(
    peer: &dyn Peer,
    payloads: &mut Payloads,
    size: usize,
    fresh: &mut impl Iterator<Item = Id>,
) -> f64 {
    if peer.only_puts() {
        return f64::NAN;
    }
    let ids: Vec<Id> = fresh.take(turn_count(size)).collect();
    let start = Instant::now();
    for id in &ids {
        peer.put(id, black_box(payloads.next()));
        black_box(peer.get(id).expect("just put"));
        peer.delete(id);
    }
    nanoseconds(start) / ids.len() as f64
}

fn turn_count(size: usize) -> usize {
    (TURN_BYTES / size).clamp(1, TURN_COUNT_MAX)
}

fn print_tables(medians: &Medians) {
    let titles = OPERATIONS.into_iter().chain(["first get after the open, from the page cache"]);
    for (place, operation) in titles.enumerate() {
        let rows: Vec<_> = medians.iter().filter(|((of, _), _)| *of == place).collect();
        let Some((_, first)) = rows.first() else { continue };
        let shown = |name: &str| match name {
            "pwrite" => operation == "put",
            "memory" | "quick_cache" | "moka" => place != FIRST_GET,
            _ => true,
        };
        let what = if place == FIRST_GET { "mean" } else { "median" };
        println!("\n{operation}: {what} time of one, and how many times as long as with local\n");
        let head = first.iter().map(|(name, _)| *name).filter(|name| shown(name));
        let mut table = Table::new(std::iter::once("size").chain(head));
        for ((_, size), peers) in rows {
            let ours = peers[0].1;
            let cells = peers.iter().filter(|(name, _)| shown(name)).map(|(name, nanoseconds)| {
                let ratio =
                    if *name == "local" { String::new() } else { format!(" ({})", show_ratio(nanoseconds / ours)) };
                format!("{}{ratio}", show_nanoseconds(*nanoseconds))
            });
            table.row(std::iter::once(show_bytes(*size)).chain(cells));
        }
        table.print();
    }
    print_targets(medians);
}

/// The rows of the speed table that are about one process.
fn print_targets(medians: &Medians) {
    let mut table = Table::new(["target", "at least", "measured", "reached"]);
    let mut add = |what: &str, place: usize, size: usize, peer: &str, at_least: f64| {
        let ours = medians.get(&(if place == FIRST_GET { 0 } else { place }, size));
        let (Some(row), Some(ours)) = (medians.get(&(place, size)), ours) else { return };
        let Some((_, theirs)) = row.iter().find(|(name, _)| *name == peer) else { return };
        let ratio = theirs / ours[0].1;
        let reached = if ratio >= at_least { "yes" } else { "NO" };
        let what = format!("{what} {}: speed against {peer}", show_bytes(size));
        table.row([what, show_ratio(at_least), show_ratio(ratio), reached.to_owned()]);
    };
    add("get", 0, 128, "sled", 5.0);
    add("get against the first get", FIRST_GET, 128, "sled", 5.0);
    // What it was not asked for before: later gets of values of this size come from sled's own heap, and say nothing about the disk.
    add("get against the first get", FIRST_GET, 64 << 10, "sled", 5.0);
    add("get", 0, 128, "quick_cache", 0.25);
    add("put", 1, 128, "sled", 4.0);
    for &size in SIZES {
        add("put", 1, size, "sled", 1.0);
        add("put", 1, size, "fjall", 1.0);
    }
    add("put", 1, 64 << 10, "pwrite", 0.4);
    for size in [1 << 20, 16 << 20, 100 << 20] {
        add("put", 1, size, "pwrite", 0.5);
    }
    println!();
    table.print();
}

/// The same with criterion, peer after peer: for its statistics, and for comparing one version with the next. Puts beyond 1 MiB
/// are left to the table: criterion's samples would write more than the page cache takes.
fn criterion_part() {
    let mut criterion = Criterion::default()
        .without_plots()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
        .configure_from_args();
    for (operation, &size) in OPERATIONS.iter().flat_map(|operation| SIZES.iter().map(move |size| (operation, size))) {
        let name = label("criterion", operation, size);
        let selected = wanted(&name) || std::env::args().any(|filter| filter.starts_with(&name));
        if !selected || (*operation != "get" && size >= LARGE_BYTES) {
            continue;
        }
        let directory = scratch();
        let mut group = criterion.benchmark_group(name);
        group.sampling_mode(SamplingMode::Flat);
        let mut payloads = Payloads::new(size);
        let ids: Vec<Id> = (0..working_set_count(size) as u64).map(id).collect();
        let peers = match *operation {
            "get" => open_filled(directory.path(), &ids, &mut payloads).into_iter().map(|(peer, _)| peer).collect(),
            _ => open_all(directory.path()),
        };
        for peer in peers {
            if !peer.in_memory() {
                settle(directory.path());
            }
            let (mut state, mut fresh) = (1, fresh());
            // Puts go round a ring of ids, so that what is live does not grow.
            let ring: Vec<Id> = fresh.by_ref().take((TURN_BYTES / size).max(1)).collect();
            let mut ring = ring.iter().cycle();
            match *operation {
                "get" if peer.only_puts() => {}
                "get" => drop(group.bench_function(peer.name(), |bencher| {
                    bencher.iter(|| peer.get(&ids[random(&mut state) as usize % ids.len()]).expect("it was put"));
                })),
                "put" => drop(group.bench_function(peer.name(), |bencher| {
                    bencher.iter(|| peer.put(ring.next().expect("it has no end"), payloads.next()));
                })),
                _ if peer.only_puts() => {}
                _ => drop(group.bench_function(peer.name(), |bencher| {
                    bencher.iter(|| {
                        let id = fresh.next().expect("it has no end");
                        peer.put(&id, payloads.next());
                        black_box(peer.get(&id).expect("just put"));
                        peer.delete(&id);
                    });
                })),
            }
        }
        group.finish();
    }
    criterion.final_summary();
}
