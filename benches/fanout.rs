//! What a Redis has to do to tell many nodes of each other's writes, and how soon one that waits hears of its own.
//!
//! `make bench-fanout` runs it. One redis-server, over loopback, which keeps nothing on disk. The nodes are simulated, as a machine with two
//! cores has no room for a hundred: they send what the replicator and the event reader send, at the same pace, and leave out what a node
//! then does by itself. A filter chooses a part: `-- nodes`, `-- cost`, `-- memory`. `MEASURED_SECONDS` is how long each line is measured.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "common/mod.rs"]
mod measuring;
#[path = "common/simulated.rs"]
mod simulated;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::redis::RedisServer;
use measuring::{Table, id, nanoseconds, only_listed, percentile, random_bytes, show_nanoseconds, wanted};
use redis::{Commands, Connection, Value};
use scaler_object_storage::ObjectStore;
use simulated::{EVENT_BYTES, EVENT_OPS_MAX, EVENTS, Load, Tally};

/// Writes and deletes of all nodes together.
const WRITES_A_SECOND: f64 = 20_000.0;

const NODES: [usize; 4] = [1, 10, 50, 100];

/// The share of its core that Redis may need with the most nodes.
const TARGET: f64 = 0.7;

/// While Redis waited for its core for no larger a share of the time, what it did counts.
const STARVED_MAX: f64 = 0.1;

/// So often it is tried to find such a time.
const TRIES_MAX: usize = 5;

/// How often somebody waits for something.
const WAKE_EVERY: Duration = Duration::from_millis(10);

fn main() {
    if only_listed() {
        return;
    }
    if wanted("nodes") {
        nodes();
    }
    if wanted("cost") {
        cost();
    }
    if wanted("memory") {
        memory();
    }
}

fn measured_time() -> Duration {
    Duration::from_secs_f64(
        std::env::var("MEASURED_SECONDS").map_or(3.0, |text| text.parse().expect("MEASURED_SECONDS is a number")),
    )
}

/// What was seen while a load was on.
struct Seen {
    /// Shares of one core: what Redis used, and what it wanted besides and did not get.
    busy: f64,
    starved: f64,
    writes: f64,
    entries: f64,
    reads: f64,
    wakes: Vec<f64>,
}

impl Seen {
    /// What Redis would use if it were given as many writes as planned.
    fn at_full_rate(&self, planned: f64) -> f64 {
        self.busy * planned / self.writes
    }
}

/// Time that the thread which serves has run, and has waited to run: the kernel's own accounts, in nanoseconds.
fn cpu_seconds(process: &str) -> [f64; 2] {
    let text = std::fs::read_to_string(format!("/proc/{process}/schedstat")).unwrap();
    let mut numbers = text.split_whitespace().map(|word| word.parse::<f64>().unwrap() / 1e9);
    [numbers.next().unwrap(), numbers.next().unwrap()]
}

/// On a machine that does other things as well, Redis does not get its core at times, and then finds more in one go than it would: what is
/// measured is repeated, and the time counts in which it was starved least.
fn observe(load: Load) -> Seen {
    let redis = RedisServer::start();
    let process = redis.info("process_id");
    let running = load.start(&redis);
    let waking = Waking::start(&redis);
    std::thread::sleep(Duration::from_secs(1)); // everyone is connected and has found its pace
    let mut best: Option<Seen> = None;
    for _ in 0..TRIES_MAX {
        let (before, tally, start) = (cpu_seconds(&process), running.tally(), Instant::now());
        std::thread::sleep(measured_time());
        let (after, seconds) = (cpu_seconds(&process), start.elapsed().as_secs_f64());
        let Tally { writes, entries, reads } = running.tally().since(&tally);
        let seen = Seen {
            busy: (after[0] - before[0]) / seconds,
            starved: (after[1] - before[1]) / seconds,
            writes: writes as f64 / seconds,
            entries: entries as f64 / seconds,
            reads: reads as f64 / seconds,
            wakes: waking.since(start),
        };
        if best.as_ref().is_none_or(|best| seen.starved < best.starved) {
            best = Some(seen);
        }
        if best.as_ref().is_some_and(|best| best.starved < STARVED_MAX) {
            break;
        }
    }
    waking.stop();
    running.stop();
    best.unwrap()
}

/// One node that writes now and then, and one that waits for just that.
struct Waking {
    stopping: Arc<AtomicBool>,
    /// When each began, and how long it took in nanoseconds.
    times: Arc<Mutex<Vec<(Instant, f64)>>>,
    writer: std::thread::JoinHandle<()>,
}

impl Waking {
    fn start(redis: &RedisServer) -> Waking {
        let (times, stopping) = (Arc::<Mutex<Vec<_>>>::default(), Arc::new(AtomicBool::new(false)));
        let (mut writing, mut waiting) = (redis.connection(), redis.connection());
        let (woken, arrivals) = std::sync::mpsc::channel::<(Instant, usize)>();
        let is_stopping = Arc::clone(&stopping);
        let mut cursor: String =
            redis::cmd("XADD").arg(&[EVENTS, "*", "n", "waiter", "b", ""]).query(&mut waiting).unwrap();
        std::thread::spawn(move || {
            while !is_stopping.load(Ordering::Relaxed) {
                let key = await_event(&mut waiting, &mut cursor, &is_stopping);
                let Some(key) = key else { continue };
                let value: Vec<u8> = waiting.get(&key).unwrap();
                if woken.send((Instant::now(), value.len())).is_err() {
                    break;
                }
            }
        });
        let (recorded, is_stopping) = (Arc::clone(&times), Arc::clone(&stopping));
        let writer = std::thread::spawn(move || {
            for number in 0.. {
                if is_stopping.load(Ordering::Relaxed) {
                    break;
                }
                std::thread::sleep(WAKE_EVERY);
                let key = format!("{MARK}{number:012}");
                let mut batch = key.clone().into_bytes();
                batch.resize(EVENT_BYTES, 0);
                let mut pipeline = redis::pipe();
                pipeline.set(&key, random_bytes(number, 1024)).ignore();
                pipeline.cmd("XADD").arg(&[EVENTS, "*", "n", "waker", "b"]).arg(batch).ignore();
                let start = Instant::now();
                let _: () = pipeline.query(&mut writing).unwrap();
                let Ok((end, bytes)) = arrivals.recv_timeout(Duration::from_secs(30)) else {
                    assert!(is_stopping.load(Ordering::Relaxed), "the one who waits was not woken");
                    break;
                };
                assert_eq!(bytes, 1024);
                recorded.lock().unwrap().push((start, (end - start).as_nanos() as f64));
            }
        });
        Waking { stopping, times, writer }
    }

    fn since(&self, begin: Instant) -> Vec<f64> {
        self.times.lock().unwrap().iter().filter(|(start, _)| *start >= begin).map(|(_, time)| *time).collect()
    }

    fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.writer.join().unwrap();
    }
}

/// Begins the id of what is waited for.
const MARK: &str = "awaited:";

/// Reads as a node does in which somebody waits, until the awaited object is named.
fn await_event(connection: &mut Connection, cursor: &mut String, stopping: &AtomicBool) -> Option<String> {
    while !stopping.load(Ordering::Relaxed) {
        let mut pipeline = redis::pipe();
        pipeline.cmd("XREAD").arg(&["COUNT", "256", "BLOCK", "250", "STREAMS", EVENTS, cursor.as_str()]);
        pipeline.cmd("XRANGE").arg(&[EVENTS, cursor.as_str(), cursor.as_str()]);
        let (read, _past): (Value, Value) = pipeline.query(connection).unwrap();
        let Some([Value::Array(stream)]) = read.as_sequence() else { continue };
        let mut found = None;
        for entry in stream[1].as_sequence().unwrap() {
            let [Value::BulkString(id), Value::Array(fields)] = entry.as_sequence().unwrap() else {
                panic!("{entry:?}")
            };
            *cursor = String::from_utf8(id.clone()).unwrap();
            if let Value::BulkString(batch) = &fields[3]
                && batch.starts_with(MARK.as_bytes())
            {
                found = Some(String::from_utf8(batch[..MARK.len() + 12].to_vec()).unwrap());
            }
        }
        if found.is_some() {
            return found;
        }
    }
    None
}

fn nodes() {
    let mut table = Table::new([
        "nodes",
        "reading",
        "writes/s",
        "entries/s",
        "reads/s",
        "Redis",
        "of it for readers",
        "starved",
        "woken p50",
        "p99",
    ]);
    let mut most = 0.0;
    for nodes in NODES {
        let load = Load { nodes, readers: 0, rests: false, writes_a_second: WRITES_A_SECOND, packed: None };
        let alone = observe(load).at_full_rate(WRITES_A_SECOND);
        for rests in [false, true] {
            let mut seen = observe(Load { readers: nodes, rests, ..load });
            let busy = seen.at_full_rate(WRITES_A_SECOND);
            most = busy;
            table.row([
                nodes.to_string(),
                if rests { "what gathers".into() } else { "at once".into() },
                format!("{:.0}", seen.writes),
                format!("{:.0}", seen.entries),
                format!("{:.0}", seen.reads),
                format!("{:.0} %", 100.0 * busy),
                format!("{:.0} %", 100.0 * (busy - alone)),
                format!("{:.0} %", 100.0 * seen.starved),
                show_nanoseconds(percentile(&mut seen.wakes, 50.0)),
                show_nanoseconds(percentile(&mut seen.wakes, 99.0)),
            ]);
        }
    }
    println!(
        "\nOne Redis, {WRITES_A_SECOND:.0} writes and deletes a second in all: how much of its core it needs, and how long one takes who waits \
         for another node's object\n"
    );
    table.print();
    let verdict = if most < TARGET { "kept" } else { "MISSED" };
    println!("\nTarget: below {:.0} % with {} nodes that read what gathers: {verdict}.", 100.0 * TARGET, NODES[3]);
}

/// What an entry costs for each reader, and each event in it.
fn cost() {
    const READERS: usize = 50;
    const ENTRIES_A_SECOND: f64 = 1000.0;
    let mut table =
        Table::new(["reading", "events in an entry", "for each entry and reader", "for each event and reader"]);
    for rests in [false, true] {
        let mut single = 0.0;
        for packed in [1, 16, 128] {
            let writes_a_second = ENTRIES_A_SECOND * packed as f64;
            let load = Load { nodes: 1, readers: 0, rests, writes_a_second, packed: Some(packed) };
            let alone = observe(load);
            let seen = observe(Load { readers: READERS, ..load });
            // Base and whole differ in nothing but the readers.
            let each = |seen: &Seen| seen.busy / seen.entries;
            let entry = (each(&seen) - each(&alone)) / READERS as f64;
            if packed == 1 {
                single = entry;
            }
            table.row([
                if rests { "what gathers".into() } else { "at once".into() },
                packed.to_string(),
                show_nanoseconds(1e9 * entry),
                if packed == 1 { "-".into() } else { show_nanoseconds(1e9 * (entry - single) / (packed - 1) as f64) },
            ]);
        }
    }
    println!("\nWhat Redis does for each of {READERS} readers, at {ENTRIES_A_SECOND:.0} entries a second\n");
    table.print();
}

/// What things take in Redis, by what it says of its own memory, and in a node.
fn memory() {
    let mut table = Table::new(["what stands there", "bytes of memory each"]);
    let mut row = |what: &str, each: f64| table.row([what.to_owned(), format!("{each:.0}")]);
    for size in [0, 128, 1 << 10, 64 << 10] {
        for ttl in [0, 3600] {
            let what = format!("in Redis: an object of {}", measuring::show_bytes(size));
            let what = if ttl == 0 { what } else { format!("{what}, with object_ttl_seconds") };
            let stored = Stored::new(if size > 10_000 { 500 } else { 20_000 }, size, ttl);
            row(&what, stored.in_redis());
            if ttl == 0 && size == 0 {
                stored.delete();
                row("in Redis: a deleted object, for tombstone_ttl_seconds", stored.in_redis());
            }
        }
    }
    for packed in [1, EVENT_OPS_MAX] {
        let redis = RedisServer::start();
        let mut connection = redis.connection();
        let before = used_memory(&redis);
        let entries = 20_000 / packed;
        for _ in 0..entries {
            let mut add = redis::cmd("XADD");
            add.arg(&[EVENTS, "*", "n", "12345678", "b"]).arg(vec![1_u8; packed * EVENT_BYTES]);
            add.exec(&mut connection).unwrap();
        }
        let each = (used_memory(&redis) - before) / (entries * packed) as f64;
        let what = if packed == 1 { "an event, alone in its entry" } else { "an event among others in its entry" };
        row(&format!("in Redis: {what}"), each);
    }
    let before = measuring::rss_anon_bytes();
    let stored = Stored::new(1_000_000, 0, 0);
    let held = measuring::rss_anon_bytes();
    row("in a node: an object held", (held - before) / stored.count as f64);
    stored.delete();
    row(
        "in a node: a deleted object, for tombstone_ttl_seconds",
        (measuring::rss_anon_bytes() - before) / stored.count as f64,
    );
    println!(
        "\nMemory, by differences of used_memory and of the process; ids of 32 bytes, the default prefix, random data\n"
    );
    table.print();
}

fn used_memory(redis: &RedisServer) -> f64 {
    redis.info("used_memory").parse().unwrap()
}

/// Without the event stream, which is bounded.
fn used(redis: &RedisServer) -> f64 {
    used_memory(redis) - redis.cli(&["MEMORY", "USAGE", EVENTS, "SAMPLES", "0"]).trim().parse::<f64>().unwrap_or(0.0)
}

/// A node and its Redis, with so many objects in both.
struct Stored {
    redis: RedisServer,
    store: ObjectStore,
    _directory: tempfile::TempDir,
    count: u64,
    used_before: f64,
}

impl Stored {
    fn new(count: u64, size: usize, ttl: u64) -> Stored {
        let redis = RedisServer::start();
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let builder = ObjectStore::builder().tiered(directory.path(), redis.url()).max_size_mb(2048);
        let store = builder.redis_options(|options| options.object_ttl_seconds = ttl).open().unwrap();
        store.put(&id(count), b"", b"").unwrap();
        let stored = Stored { redis, store, _directory: directory, count, used_before: 0.0 };
        stored.until(|info| field(info, "keys") >= 1);
        let used_before = used(&stored.redis);
        for number in 0..count {
            stored.store.put(&id(number), &random_bytes(number, size), b"").unwrap();
        }
        stored.until(|info| field(info, "keys") > count);
        Stored { used_before, ..stored }
    }

    fn delete(&self) {
        for number in 0..self.count {
            self.store.delete(&id(number)).unwrap();
        }
        self.until(|info| field(info, "expires") >= self.count);
    }

    fn in_redis(&self) -> f64 {
        (used(&self.redis) - self.used_before) / self.count as f64
    }

    fn until(&self, is_so: impl Fn(&str) -> bool) {
        let start = Instant::now();
        while !is_so(&self.redis.info("db0")) {
            assert!(nanoseconds(start) < 300e9, "Redis does not get everything");
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(300)); // the answers are heard as well
    }
}

/// A number in what INFO says of a database: `keys=7,expires=0,...`.
fn field(info: &str, name: &str) -> u64 {
    let fields = info.split(',').filter_map(|field| field.split_once('='));
    fields.into_iter().find(|(found, _)| *found == name).map_or(0, |(_, value)| value.parse().unwrap())
}
