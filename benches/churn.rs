//! A store in which nothing stays: latencies of puts, gets and deletes while everything is overwritten and deleted at full speed.
//!
//! `SECONDS=60 cargo bench --bench churn`, or `make bench-churn`, which brings the stock server as well. A filter chooses a part:
//! `-- steady`, `-- "scaler/100 KiB"`, `-- tcp`. By environment: `SECONDS` for each measurement (20), `LIMIT_MB`, one or more
//! separated by commas in place of the usual ones, `THREADS` (4), `STOCK_SERVER` the stock server's program.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "common/mod.rs"]
mod common;
#[allow(dead_code, reason = "the echo and Redis are not churned")]
#[path = "common/contenders.rs"]
mod contenders;
#[allow(dead_code, reason = "loads of another shape are made here")]
#[path = "common/load.rs"]
mod load;

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{
    Id, Table, id, only_listed, random, random_bytes, settle, show_bytes, show_nanoseconds, show_ratio, wanted,
};
use hdrhistogram::Histogram;
use scaler_object_storage::{Error, ObjectStore};

const SECONDS_DEFAULT: u64 = 20;
const THREADS_DEFAULT: u64 = 4;

const STEADY_LIMITS_MB: [u64; 2] = [16, 1024];
const SCALER_LIMITS_MB: [u64; 2] = [1024, 8192];

/// How much of the limit is live in a steady store.
const LIVE_PERCENT: u64 = 60;

/// Shortest and longest data of steadily churned objects; each order of magnitude between them is as frequent as another.
const PROFILES: [(&str, usize, usize); 2] = [("small", 100, 8 << 10), ("mixed", 100, 200 << 10)];

const SCALER_SIZES: [usize; 2] = [100 << 10, 2 << 20];

/// What a record adds to its object, and what larger bodies are rounded to: so that what is live is known here.
const RECORD_BYTES: usize = 136;
const BODY_ALIGNMENT: usize = 4096;
const INLINE_BYTES_MAX: usize = 64 << 10;

/// The file that each thread of the bare reference writes over and over.
const BARE_FILE_BYTES: usize = 64 << 20;

const LATENCY_NS_MAX: u64 = 600_000_000_000;

fn main() {
    if only_listed() {
        return;
    }
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let scratch = scratch.path();
    for limit_mb in limits_mb(&STEADY_LIMITS_MB) {
        for profile in PROFILES {
            let (name, size_min, size_max) = profile;
            let label = format!("steady/{name}/{}", show_mb(limit_mb));
            if wanted(&label) {
                let bare = bare(scratch, size_max, |state| any_size(state, size_min, size_max));
                settle(scratch);
                let measured = in_store(scratch, limit_mb, |store| steady(store, limit_mb, profile));
                report(&label, &[("store", measured)], Some(&bare));
            }
        }
    }
    for size in SCALER_SIZES {
        let limits_mb = limits_mb(&SCALER_LIMITS_MB);
        let label = |limit_mb: u64| format!("scaler/{}/{}", show_bytes(size), show_mb(limit_mb));
        let tcp_label = |limit_mb: u64| format!("{}/tcp", label(limit_mb));
        if !limits_mb.iter().any(|limit_mb| wanted(&label(*limit_mb)) || wanted(&tcp_label(*limit_mb))) {
            continue;
        }
        let bare = bare(scratch, size, |_| size);
        settle(scratch);
        for &limit_mb in &limits_mb {
            if wanted(&label(limit_mb)) {
                let measured = in_store(scratch, limit_mb, |store| scaler(store, size));
                report(&label(limit_mb), &[("store", measured)], Some(&bare));
            }
            if wanted(&tcp_label(limit_mb)) {
                let ours = {
                    let ours = contenders::start_ours(scratch, limit_mb);
                    over_tcp(ours.address, size)
                };
                std::fs::remove_dir_all(scratch.join("store")).unwrap();
                settle(scratch);
                let mut servers = vec![("ours", ours)];
                if let Some(stock) = contenders::start_stock() {
                    servers.push(("stock", over_tcp(stock.address, size)));
                }
                report(&tcp_label(limit_mb), &servers, Some(&bare));
            }
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

fn limits_mb(usual: &[u64]) -> Vec<u64> {
    let chosen = std::env::var("LIMIT_MB").unwrap_or_default();
    if chosen.is_empty() {
        return usual.to_vec();
    }
    chosen
        .split(',')
        .map(|text| text.trim().parse().expect("LIMIT_MB is a number, or some, separated by commas"))
        .collect()
}

fn show_mb(mb: u64) -> String {
    if mb.is_multiple_of(1024) { format!("{} GB", mb >> 10) } else { format!("{mb} MB") }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Put,
    Get,
    Delete,
}

const OPERATIONS: [(Operation, &str); 3] =
    [(Operation::Put, "put"), (Operation::Get, "get"), (Operation::Delete, "delete")];

/// What one or all threads saw of one kind of operation.
#[derive(Clone)]
struct Seen {
    nanoseconds: Histogram<u64>,
    bytes: u64,
    refused: u64,
    /// How long the slowest refusal took.
    refused_ns_max: u64,
    reason: Option<String>,
}

impl Default for Seen {
    fn default() -> Self {
        let nanoseconds = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).unwrap();
        Seen { nanoseconds, bytes: 0, refused: 0, refused_ns_max: 0, reason: None }
    }
}

/// What one or all threads saw.
#[derive(Clone, Default)]
struct Measured {
    of: [Seen; 3],
    elapsed: Duration,
}

impl Measured {
    /// Runs an operation on `bytes` of data; None where it was refused.
    fn time<T, E: ToString>(
        &mut self,
        operation: Operation,
        bytes: usize,
        run: impl FnOnce() -> Result<T, E>,
    ) -> Option<T> {
        let start = Instant::now();
        let result = run();
        let nanoseconds = start.elapsed().as_nanos() as u64;
        let seen = &mut self.of[operation as usize];
        match result {
            Ok(value) => {
                seen.nanoseconds.saturating_record(nanoseconds);
                seen.bytes += bytes as u64;
                Some(value)
            }
            Err(error) => {
                seen.refused += 1;
                seen.refused_ns_max = seen.refused_ns_max.max(nanoseconds);
                seen.reason.get_or_insert_with(|| error.to_string());
                None
            }
        }
    }

    fn add(mut self, other: Measured) -> Measured {
        for (seen, more) in self.of.iter_mut().zip(other.of) {
            seen.nanoseconds.add(&more.nanoseconds).unwrap();
            seen.bytes += more.bytes;
            seen.refused += more.refused;
            seen.refused_ns_max = seen.refused_ns_max.max(more.refused_ns_max);
            seen.reason = seen.reason.take().or(more.reason);
        }
        self.elapsed = self.elapsed.max(other.elapsed);
        self
    }
}

/// Runs `work` on all threads until the time is over; `prepare` comes before, and does not count.
fn on_threads<S>(prepare: impl Fn(u64) -> S + Sync, turn: impl Fn(&mut S, &mut Measured) + Sync) -> Measured {
    let (count, duration) =
        (number("THREADS", THREADS_DEFAULT), Duration::from_secs(number("SECONDS", SECONDS_DEFAULT)));
    let ready = Barrier::new(count as usize);
    let work = |thread| {
        let mut state = prepare(thread);
        ready.wait();
        let mut measured = Measured::default();
        let start = Instant::now();
        while start.elapsed() < duration {
            turn(&mut state, &mut measured);
        }
        measured.elapsed = start.elapsed();
        measured
    };
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|thread| scope.spawn(move || work(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).reduce(Measured::add).unwrap()
    })
}

fn in_store(scratch: &Path, limit_mb: u64, measure: impl FnOnce(&ObjectStore) -> Measured) -> Measured {
    let directory = scratch.join("store");
    let store = ObjectStore::builder().local(&directory).max_size_mb(limit_mb).open().unwrap();
    let measured = measure(&store);
    if let Err(error) = store.close() {
        println!("close: {error}");
    }
    drop(store);
    std::fs::remove_dir_all(&directory).unwrap();
    settle(scratch);
    measured
}

/// An id that nobody has used.
fn new_id() -> Id {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    id(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Bytes from which data is cut, each at its own place: equal payloads would be shared.
fn pool(size_max: usize) -> Vec<u8> {
    random_bytes(1, size_max + (32 << 20))
}

fn cut<'a>(pool: &'a [u8], state: &mut u64, size: usize) -> &'a [u8] {
    let from = random(state) as usize % (pool.len() - size);
    &pool[from..][..size]
}

/// One thread's objects.
struct Churner {
    random: u64,
    live: Vec<(Id, usize)>,
    live_bytes: usize,
}

fn footprint(size: usize) -> usize {
    RECORD_BYTES + if size > INLINE_BYTES_MAX { size.next_multiple_of(BODY_ALIGNMENT) } else { size }
}

/// Each order of magnitude is as frequent as another.
fn any_size(state: &mut u64, size_min: usize, size_max: usize) -> usize {
    let uniform = random(state) as f64 / u64::MAX as f64;
    (size_min as f64 * (size_max as f64 / size_min as f64).powf(uniform)) as usize
}

fn steady(store: &ObjectStore, limit_mb: u64, (_, size_min, size_max): (&str, usize, usize)) -> Measured {
    let pool = &pool(size_max)[..];
    let budget = (limit_mb << 20) / 100 * LIVE_PERCENT / number("THREADS", THREADS_DEFAULT);
    let size = |state: &mut u64| any_size(state, size_min, size_max);
    let put_new = |churner: &mut Churner, measured: &mut Measured| {
        let (id, size) = (new_id(), size(&mut churner.random));
        let data = cut(pool, &mut churner.random, size);
        let done = measured.time(Operation::Put, size, || store.put(&id, data, b"")).is_some();
        if done {
            churner.live.push((id, size));
            churner.live_bytes += footprint(size);
        }
        done
    };
    let has_room = |churner: &Churner| churner.live_bytes + footprint(size_max) / 2 < budget as usize;
    let measured = on_threads(
        |thread| {
            let mut churner = Churner { random: thread, live: Vec::new(), live_bytes: 0 };
            while has_room(&churner) && put_new(&mut churner, &mut Measured::default()) {}
            churner
        },
        |churner, measured| {
            if churner.live.is_empty() {
                put_new(churner, measured);
                return;
            }
            let chosen = random(&mut churner.random) as usize % churner.live.len();
            let (id, old_size) = churner.live[chosen];
            if random(&mut churner.random).is_multiple_of(4) {
                measured.time(Operation::Get, old_size, || found(store.get(&id), old_size));
            }
            if random(&mut churner.random).is_multiple_of(2) {
                let size = size(&mut churner.random);
                let data = cut(pool, &mut churner.random, size);
                if measured.time(Operation::Put, size, || store.put(&id, data, b"")).is_some() {
                    churner.live[chosen].1 = size;
                    churner.live_bytes = churner.live_bytes + footprint(size) - footprint(old_size);
                }
            } else if measured.time(Operation::Delete, 0, || store.delete(&id)).is_some() {
                churner.live.swap_remove(chosen);
                churner.live_bytes -= footprint(old_size);
            }
            // As much is live as before, whatever the sizes were.
            while has_room(churner) && put_new(churner, measured) {}
            while churner.live_bytes > budget as usize {
                let Some((id, size)) = churner.live.pop() else { break };
                churner.live_bytes -= footprint(size);
                measured.time(Operation::Delete, 0, || store.delete(&id));
            }
        },
    );
    let info = store.info();
    let percent = |bytes: u64| bytes * 100 / info.capacity_bytes;
    eprintln!("{} % are payloads, {} % taken on disk", percent(info.payload_bytes), percent(info.physical_bytes));
    measured
}

fn found(result: Result<Option<scaler_object_storage::Object>, Error>, size: usize) -> Result<(), String> {
    match result {
        Ok(Some(object)) if object.data.len() == size => Ok(()),
        Ok(Some(object)) => Err(format!("{} bytes instead of {size}", object.data.len())),
        Ok(None) => Err("the object is missing".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// As Scaler uses a store: each object is set, read, and deleted.
fn scaler(store: &ObjectStore, size: usize) -> Measured {
    let pool = &pool(size)[..];
    on_threads(
        |thread| thread,
        |state, measured| {
            let (id, data) = (new_id(), cut(pool, state, size));
            if measured.time(Operation::Put, size, || store.put(&id, data, b"")).is_some() {
                measured.time(Operation::Get, size, || found(store.get(&id), size));
                measured.time(Operation::Delete, 0, || store.delete(&id));
            }
        },
    )
}

/// The same writes without a store.
fn bare(scratch: &Path, size_max: usize, size: impl Fn(&mut u64) -> usize + Sync) -> Measured {
    let pool = &pool(size_max)[..];
    eprintln!("measuring bare writes of up to {} ...", show_bytes(size_max));
    let measured = on_threads(
        |thread| {
            let path = scratch.join(format!("bare {thread}"));
            let file = OpenOptions::new().write(true).create(true).truncate(true).open(path).unwrap();
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, BARE_FILE_BYTES as u64).unwrap();
            (file, thread, 0)
        },
        |(file, state, offset), measured| {
            let size = size(state);
            let data = cut(pool, state, size);
            measured.time(Operation::Put, size, || file.write_all_at(data, *offset as u64));
            *offset += if size > INLINE_BYTES_MAX { size.next_multiple_of(BODY_ALIGNMENT) } else { size };
            *offset = if *offset + size_max > BARE_FILE_BYTES { 0 } else { *offset };
        },
    );
    for thread in 0..number("THREADS", THREADS_DEFAULT) {
        std::fs::remove_file(scratch.join(format!("bare {thread}"))).unwrap();
    }
    measured
}

/// A connection that is made when it is needed: a server closes it instead of saying no.
struct Client {
    address: SocketAddr,
    stream: Option<TcpStream>,
    random: u64,
    reply: Vec<u8>,
}

impl Client {
    /// `kind`: 0 set, 1 get, 2 delete. The reply's payload has `reply_bytes`.
    fn exchange(&mut self, kind: u64, id: &Id, payload: Option<&[u8]>, reply_bytes: usize) -> io::Result<()> {
        let result = self.try_exchange(kind, id, payload, reply_bytes);
        if result.is_err() {
            self.stream = None;
        }
        result
    }

    fn try_exchange(&mut self, kind: u64, id: &Id, payload: Option<&[u8]>, reply_bytes: usize) -> io::Result<()> {
        if self.stream.is_none() {
            let mut stream = TcpStream::connect(self.address)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(60)))?;
            load::greet(&mut stream)?;
            self.stream = Some(stream);
        }
        let stream = self.stream.as_mut().unwrap();
        let length = payload.map_or(u64::MAX, |payload| payload.len() as u64);
        let mut head = load::scaler_header(kind, if kind == 2 { 0 } else { length });
        head[8 + 48..][..32].copy_from_slice(id);
        if let Some(payload) = payload {
            head.extend_from_slice(&(payload.len() as u64).to_le_bytes());
            stream.write_all(&head)?;
            stream.write_all(payload)?;
        } else {
            stream.write_all(&head)?;
        }
        self.reply.resize(88 + if reply_bytes > 0 { 8 + reply_bytes } else { 0 }, 0);
        stream.read_exact(&mut self.reply)?;
        if self.reply[8 + 32] == kind as u8 { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}

fn over_tcp(address: SocketAddr, size: usize) -> Measured {
    let pool = &pool(size)[..];
    on_threads(
        |thread| Client { address, stream: None, random: thread, reply: Vec::new() },
        |client, measured| {
            let (id, data) = (new_id(), cut(pool, &mut client.random, size));
            if measured.time(Operation::Put, size, || client.exchange(0, &id, Some(data), 0)).is_some() {
                measured.time(Operation::Get, size, || client.exchange(1, &id, None, size));
                measured.time(Operation::Delete, 0, || client.exchange(2, &id, None, 0));
            }
        },
    )
}

fn report(label: &str, measured: &[(&str, Measured)], bare: Option<&Measured>) {
    println!("\n{label}, {} threads\n", number("THREADS", THREADS_DEFAULT));
    let mut table = Table::new([
        "",
        "operation",
        "per second",
        "MB/s",
        "p50",
        "p90",
        "p99",
        "p99.9",
        "p99.99",
        "max",
        "p99.9 / p50",
        "mean / bare",
        "refused",
    ]);
    let bare_put = bare.map(|bare| ("bare pwrite", Operation::Put, "put", bare));
    let rows = measured
        .iter()
        .flat_map(|(name, measured)| OPERATIONS.map(|(operation, word)| (*name, operation, word, measured)));
    for (name, operation, word, measured) in rows.chain(bare_put) {
        let seen = &measured.of[operation as usize];
        let times = &seen.nanoseconds;
        let (p50, p999) = (times.value_at_quantile(0.5) as f64, times.value_at_quantile(0.999) as f64);
        let at = |quantile| show_nanoseconds(times.value_at_quantile(quantile) as f64);
        let seconds = measured.elapsed.as_secs_f64();
        let against_bare = bare
            .filter(|_| operation == Operation::Put)
            .map_or(f64::NAN, |bare| times.mean() / bare.of[Operation::Put as usize].nanoseconds.mean());
        table.row([
            name.to_owned(),
            word.to_owned(),
            format!("{:.0}", times.len() as f64 / seconds),
            if seen.bytes > 0 { format!("{:.0}", seen.bytes as f64 / seconds / 1e6) } else { String::new() },
            show_nanoseconds(p50),
            at(0.9),
            at(0.99),
            show_nanoseconds(p999),
            at(0.9999),
            show_nanoseconds(times.max() as f64),
            show_ratio(p999 / p50),
            show_ratio(against_bare),
            match seen.refused {
                0 => "0".to_owned(),
                refused => format!("{refused}, after up to {}", show_nanoseconds(seen.refused_ns_max as f64)),
            },
        ]);
    }
    table.print();
    for (name, measured) in measured {
        for (operation, word) in OPERATIONS {
            if let Some(reason) = &measured.of[operation as usize].reason {
                println!("{name}, {word}: {reason}");
            }
        }
    }
}
