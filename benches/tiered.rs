//! The `tiered` backend beside bare redis-rs, a bare TCP echo and, with `PYTHON`, the Python client.
//!
//! `make bench-tiered` runs it. All of it on this machine, over loopback, with one redis-server that keeps nothing on disk; what is
//! compared takes turns. A filter chooses a part: `-- hit`, `-- miss`, `-- throughput`, `-- lag`, `-- wake`, `-- large`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "common/bare_chain.rs"]
mod bare_chain;
#[path = "../tests/common/mod.rs"]
mod common;
#[path = "common/large.rs"]
mod large;
#[path = "common/mod.rs"]
mod measuring;

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bare_chain::{BARE_CHAIN, BareChain};
use common::redis::RedisServer;
use measuring::{
    Table, id, median, nanoseconds, only_listed, random_bytes, show_bytes, show_nanoseconds, show_ratio, wanted,
};
use redis::{Commands, Connection};

use scaler_object_storage::{ObjectStore, ValueFormat};
use tempfile::TempDir;

const ROUNDS: usize = 5;

/// Commands in a pipeline of the bare client.
const PIPELINE: usize = 512;

const SIZES: [usize; 3] = [1 << 10, 64 << 10, 1 << 20];

fn main() {
    if only_listed() {
        return;
    }
    if wanted("hit") || wanted("miss") {
        reads();
    }
    if wanted("throughput") {
        throughput();
    }
    if wanted("lag") {
        lag();
    }
    if wanted("wake") {
        wake();
    }
    if wanted("large") {
        large::large();
    }
    if wanted("python") {
        python();
    }
}

/// How well a payload compresses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Content {
    Random,
    /// Every other 64 bytes are zeros.
    Half,
}

impl Content {
    fn name(self) -> &'static str {
        if self == Content::Random { "random" } else { "half" }
    }

    fn payload(self, seed: u64, size: usize) -> Vec<u8> {
        let mut bytes = random_bytes(seed, size);
        if self == Content::Half {
            bytes.chunks_mut(128).for_each(|chunk| {
                let half = chunk.len() / 2;
                chunk[half..].fill(0);
            });
        }
        bytes
    }
}

struct Node {
    store: ObjectStore,
    _directory: TempDir,
}

fn scratch() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn open(redis: &RedisServer) -> Node {
    let directory = scratch();
    let store = ObjectStore::builder().tiered(directory.path(), redis.url()).max_size_mb(4096).open().unwrap();
    Node { store, _directory: directory }
}

fn flush(redis: &RedisServer, nodes: &[&Node]) {
    for node in nodes {
        node.store.clear().unwrap();
    }
    let _: () = redis.connection().del("bare").unwrap();
}

/// How often it is looked whether Redis has everything: each look takes time from Redis and from a core, which the bare client does not lose.
const DRAINED_LOOK: Duration = Duration::from_millis(1);

/// Until Redis has everything that was put.
fn drained(connection: &mut Connection, last: &[u8]) {
    let key = format!("scaler:obj:{}", last.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    while !connection.exists::<_, bool>(&key).unwrap() {
        std::thread::sleep(DRAINED_LOOK);
    }
}

fn reads() {
    let redis = RedisServer::start();
    let (a, b) = (open(&redis), open(&redis));
    let mut bare = redis.connection();
    let mut table = Table::new(["data", "content", "hit", "miss and fill", "redis-rs GET", "GET / hit", "miss / GET"]);
    for content in [Content::Random, Content::Half] {
        for size in SIZES {
            let count = if size > 100_000 { 60 } else { 400 };
            let (mut hits, mut misses, mut gets) = (Vec::new(), Vec::new(), Vec::new());
            for number in 0..count {
                let data = content.payload(number, size);
                a.store.put(&id(number), &data, b"").unwrap();
                let _: () = bare.set(format!("bare:{number}"), &data).unwrap();
            }
            drained(&mut bare, &id(count - 1));
            for number in 0..count {
                let start = Instant::now();
                let object = b.store.get(&id(number)).unwrap().unwrap();
                misses.push(nanoseconds(start));
                assert_eq!(object.data.len(), size);
                let start = Instant::now();
                let object = b.store.get(&id(number)).unwrap().unwrap();
                hits.push(nanoseconds(start));
                assert_eq!(object.data.len(), size);
                let start = Instant::now();
                let data: Vec<u8> = bare.get(format!("bare:{number}")).unwrap();
                gets.push(nanoseconds(start));
                assert_eq!(data.len(), size);
            }
            for number in 0..count {
                let _: () = bare.del(format!("bare:{number}")).unwrap();
            }
            flush(&redis, &[&a]);
            let (hit, miss, get) = (median(hits), median(misses), median(gets));
            table.row([
                show_bytes(size),
                content.name().to_owned(),
                show_nanoseconds(hit),
                show_nanoseconds(miss),
                show_nanoseconds(get),
                show_ratio(get / hit),
                show_ratio(miss / get),
            ]);
        }
    }
    println!("\nReading what this node holds, and what only Redis holds (p50)\n");
    table.print();
}

fn throughput() {
    let redis = RedisServer::start();
    let mut table = Table::new(["data", "content", "values", "replicated/s", "pipelined SET/s", "ratio", "target"]);
    for (content, format) in [
        (Content::Random, ValueFormat::Tiered),
        (Content::Half, ValueFormat::Tiered),
        (Content::Random, ValueFormat::Python),
    ] {
        for (size, count, target) in [(1 << 10, 100_000, "0.70x"), (64 << 10, 1500, "0.70x"), (4 << 20, 24, "-")] {
            let payloads: Vec<Vec<u8>> = (0..64).map(|seed| content.payload(seed, size)).collect();
            let data = |number: u64| {
                let mut data = payloads[number as usize % payloads.len()].clone();
                data[..8].copy_from_slice(&number.to_le_bytes());
                data
            };
            let objects: Vec<Vec<u8>> = (0..count).map(data).collect();
            let (mut ours, mut bare) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                ours.push(count as f64 / replicate(&redis, &objects, format));
                bare.push(count as f64 / pipelined(&redis, &objects));
            }
            let ratios = ours.iter().zip(&bare).map(|(ours, bare)| ours / bare).collect();
            table.row([
                show_bytes(size),
                content.name().to_owned(),
                format!("{format:?}").to_lowercase(),
                format!("{:.0}", median(ours)),
                format!("{:.0}", median(bare)),
                show_ratio(median(ratios)),
                if format == ValueFormat::Tiered { target } else { "-" }.to_owned(),
            ]);
        }
    }
    println!("\nReplication: what was written while Redis was away, from its return until it has everything\n");
    table.print();
}

/// Seconds that the replicator takes for objects that are in the journal already: it is opened on a directory in which they are dirty.
fn replicate(redis: &RedisServer, objects: &[Vec<u8>], format: ValueFormat) -> f64 {
    let directory = scratch();
    let local = ObjectStore::builder().local(directory.path()).max_size_mb(4096).open().unwrap();
    for (number, data) in (0..).zip(objects) {
        local.put(&id(number), data, b"").unwrap();
    }
    local.close().unwrap();
    measuring::settle(directory.path());
    let mut watcher = redis.connection();
    let start = Instant::now();
    let builder = ObjectStore::builder().tiered(directory.path(), redis.url()).max_size_mb(4096);
    let store = builder.redis_options(|options| options.value_format = format).open().unwrap();
    let opened = start.elapsed();
    let node = Node { store, _directory: directory };
    drained(&mut watcher, &id(objects.len() as u64 - 1));
    let seconds = (start.elapsed() - opened).as_secs_f64();
    node.store.close().unwrap();
    let _: () = redis::cmd("FLUSHALL").query(&mut watcher).unwrap();
    seconds
}

/// Seconds that a bare client takes for the same bytes.
fn pipelined(redis: &RedisServer, objects: &[Vec<u8>]) -> f64 {
    let mut connection = redis.connection();
    let batch = if objects[0].len() > 100_000 { 1 } else { PIPELINE.min((4 << 20) / objects[0].len()) };
    let start = Instant::now();
    for (first, chunk) in (0..).step_by(batch).zip(objects.chunks(batch)) {
        let mut pipeline = redis::pipe();
        for (number, data) in (first..).zip(chunk) {
            pipeline.set(&id(number)[..], data).ignore();
        }
        let _: () = pipeline.query(&mut connection).unwrap();
    }
    let seconds = start.elapsed().as_secs_f64();
    let _: () = redis::cmd("FLUSHALL").query(&mut connection).unwrap();
    seconds
}

/// From the begin of a put on an idle node until the other node has the object.
fn lag() {
    let redis = RedisServer::start();
    let (a, b) = (open(&redis), open(&redis));
    let (mut bare, mut chain) = (redis.connection(), BareChain::new(&redis));
    let mut table = Table::new(["data", "put to wait's end", "redis-rs SET and GET", "ratio", "bare chain", "ratio"]);
    for (turn, size) in (0..).zip(SIZES) {
        let (mut ours, mut theirs, mut chained) = (Vec::new(), Vec::new(), Vec::new());
        // Ids that were never deleted: a put above a delete takes Redis two turns.
        for number in turn * 1000..turn * 1000 + 200 {
            let data = random_bytes(number, size);
            let waiter = std::thread::spawn({
                let store = b.store.clone();
                move || {
                    let waited = store.wait(&id(number), None, None).unwrap();
                    (Instant::now(), waited)
                }
            });
            std::thread::sleep(Duration::from_millis(3));
            let start = Instant::now();
            a.store.put(&id(number), &data, b"").unwrap();
            let (end, _) = waiter.join().unwrap();
            ours.push((end - start).as_nanos() as f64);
            chained.push(chain.carry(&data));
            let start = Instant::now();
            let _: () = bare.set("bare", &data).unwrap();
            let _: Vec<u8> = bare.get("bare").unwrap();
            theirs.push(nanoseconds(start));
        }
        flush(&redis, &[&a]);
        let (ours, theirs, chained) = (median(ours), median(theirs), median(chained));
        table.row([
            show_bytes(size),
            show_nanoseconds(ours),
            show_nanoseconds(theirs),
            show_ratio(ours / theirs),
            show_nanoseconds(chained),
            show_ratio(ours / chained),
        ]);
    }
    println!("\nLag: a put on one idle node, a wait on the other (p50)\n");
    table.print();
    println!("\n{BARE_CHAIN}");
}

struct ServerProcess {
    address: SocketAddr,
    process: Child,
    _directory: TempDir,
}

impl ServerProcess {
    fn start(redis: &RedisServer) -> Self {
        let directory = scratch();
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|it| it.local_addr()).unwrap();
        let config = directory.path().join("config.toml");
        let text = format!(
            "[object_storage_server]\nbackend = \"tiered\"\n[object_storage_server.local]\npath = {:?}\n\
             [object_storage_server.redis]\nurl = {:?}\n",
            directory.path().join("store"),
            redis.url()
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_scaler_object_storage_server"));
        command.arg("--config").arg(config).args(["--logging-level", "ERROR"]).arg(format!("tcp://{address}"));
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let server = ServerProcess { address, process, _directory: directory };
        while TcpStream::connect(address).is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    fn connect(&self, identity: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
            .write_all(&[b"YMQ\x02", &(identity.len() as u64).to_le_bytes()[..], identity.as_bytes()].concat())
            .unwrap();
        let mut greeting = [0; 12];
        stream.read_exact(&mut greeting).unwrap();
        let mut name = vec![0; u64::from_le_bytes(greeting[4..].try_into().unwrap()) as usize];
        stream.read_exact(&mut name).unwrap();
        stream
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A request on Scaler's wire.
fn request(kind: u64, id: [u8; 32], payload: Option<&[u8]>) -> Vec<u8> {
    let length = payload.map_or(u64::MAX, |payload| payload.len() as u64);
    let words = [80, 9 << 32, 3 << 32 | 1 << 48, length, 1, kind, 4 << 32];
    let mut bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
    bytes.extend_from_slice(&id);
    if let Some(payload) = payload {
        bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
        bytes.extend_from_slice(payload);
    }
    bytes
}

/// From a SET on one server until the client that waits on the other one has its reply, beside a bare TCP echo.
fn wake() {
    const SIZE: usize = 1024;
    const REPLY_BYTES: usize = 8 + 80 + 8 + SIZE;
    let redis = RedisServer::start();
    let (a, b) = (ServerProcess::start(&redis), ServerProcess::start(&redis));
    let (mut setter, mut getter) = (a.connect("setter"), b.connect("getter"));
    let echo = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut echoed = TcpStream::connect(echo.local_addr().unwrap()).unwrap();
    echoed.set_nodelay(true).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = echo.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        let mut bytes = vec![0; REPLY_BYTES];
        while stream.read_exact(&mut bytes).is_ok() && stream.write_all(&bytes).is_ok() {}
    });
    let mut chain = BareChain::new(&redis);
    let (mut ours, mut echoes, mut chained) = (Vec::new(), Vec::new(), Vec::new());
    let mut reply = vec![0; REPLY_BYTES];
    for number in 0..500 {
        let (id, data) = (id(number), random_bytes(number, SIZE));
        getter.write_all(&request(1, id, None)).unwrap();
        std::thread::sleep(Duration::from_millis(4));
        let set = request(0, id, Some(&data));
        let start = Instant::now();
        setter.write_all(&set).unwrap();
        getter.read_exact(&mut reply).unwrap();
        ours.push(nanoseconds(start));
        assert!(reply.ends_with(&data));
        setter.read_exact(&mut [0; 88]).unwrap();
        let start = Instant::now();
        echoed.write_all(&reply).unwrap();
        echoed.read_exact(&mut reply).unwrap();
        echoes.push(nanoseconds(start));
        chained.push(chain.carry(&data));
    }
    let (ours, echo, bare) = (median(ours), median(echoes), median(chained));
    println!("\nWake-up: SET on one server, reply to the GET that waits on the other (1 KiB, idle, p50)\n");
    let mut table = Table::new(["SET to reply", "TCP echo", "ratio", "target", "bare chain", "ratio"]);
    table.row([
        show_nanoseconds(ours),
        show_nanoseconds(echo),
        show_ratio(ours / echo),
        "4x".to_owned(),
        show_nanoseconds(bare),
        show_ratio(ours / bare),
    ]);
    table.print();
    println!("\n{BARE_CHAIN}");
}

/// A plain SET and GET with the Python client, as the Python backend does them.
fn python() {
    let Some(python) = std::env::var_os("PYTHON") else {
        eprintln!("PYTHON does not name an interpreter that has the package redis: left out");
        return;
    };
    let redis = RedisServer::start();
    let node = open(&redis);
    let mut table =
        Table::new(["data", "Python SET", "Python GET", "our put", "our get (hit)", "SET / put", "GET / get"]);
    for size in SIZES {
        let output =
            Command::new(&python).args(["-c", PYTHON_PROGRAM, &redis.url(), &size.to_string()]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let [set, get]: [f64; 2] =
            text.split_whitespace().map(|word| word.parse().unwrap()).collect::<Vec<_>>().try_into().unwrap();
        let (mut puts, mut gets) = (Vec::new(), Vec::new());
        for number in 0..100 {
            let data = random_bytes(number, size);
            let start = Instant::now();
            node.store.put(&id(number), &data, b"").unwrap();
            puts.push(nanoseconds(start));
            let start = Instant::now();
            black_box(node.store.get(&id(number)).unwrap());
            gets.push(nanoseconds(start));
        }
        let (put, hit) = (median(puts), median(gets));
        table.row([
            show_bytes(size),
            show_nanoseconds(set),
            show_nanoseconds(get),
            show_nanoseconds(put),
            show_nanoseconds(hit),
            show_ratio(set / put),
            show_ratio(get / hit),
        ]);
    }
    println!("\nBeside the Python client (p50)\n");
    table.print();
}

const PYTHON_PROGRAM: &str = "
import os, statistics, sys, time, redis
client, size = redis.Redis.from_url(sys.argv[1]), int(sys.argv[2])
sets, gets = [], []
for number in range(100):
    data, key = os.urandom(size), f'python:{number}'
    start = time.perf_counter_ns(); client.set(key, data); sets.append(time.perf_counter_ns() - start)
    start = time.perf_counter_ns(); client.get(key); gets.append(time.perf_counter_ns() - start)
    client.delete(key)
print(statistics.median(sets), statistics.median(gets))
";
