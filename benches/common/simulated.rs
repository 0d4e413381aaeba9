//! Nodes as Redis sees them: what `src/replication/replicator.rs` and `reader.rs` send, and when.

use std::io::Write as _;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::common::redis::RedisServer;
use crate::measuring::id;

pub const EVENTS: &str = "scaler:obj:_events";

/// An event that names an id of 32 bytes.
pub const EVENT_BYTES: usize = 3 + 32 + 16;

/// What a small object takes: an envelope and 128 bytes.
const VALUE_BYTES: usize = 64 + 128;

// As in `src/redis/events.rs`, `src/replication/{reader,replicator,peers}.rs`.
pub const EVENT_OPS_MAX: usize = 128;
const ENTRIES_MAX: usize = 256;
const BATCH_MAX: usize = 1024;
const PACKED_MIN: usize = 128;
const GATHER: Duration = Duration::from_millis(25);

fn pause(nodes: usize) -> Duration {
    (Duration::from_micros(500) * nodes.saturating_sub(8) as u32).min(Duration::from_millis(50))
}

/// Does what the script of a delete does, which is `src/redis/scripts.rs`'s own: looks at the version that stands there, then puts a tombstone.
const DELETE: &str = "local head = redis.call('GETRANGE', KEYS[1], 0, 63) \
     local bytes = redis.call('STRLEN', KEYS[1]) \
     if head ~= ARGV[2] and #head >= 24 then \
       local order = 0 \
       for i = 1, 16 do \
         order = string.byte(head, 8 + i) - string.byte(ARGV[1], i) \
         if order ~= 0 then break end \
       end \
       if order > 0 then return {2, head, bytes} end \
     end \
     redis.call('DEL', KEYS[1]) redis.call('SET', KEYS[1], ARGV[5], 'PX', ARGV[4]) \
     return {0, head, bytes}";

#[derive(Clone, Copy)]
pub struct Load {
    /// That write; the more there are, the longer each of them gathers.
    pub nodes: usize,
    pub readers: usize,
    /// Whether readers rest between reads, as they do while nobody waits.
    pub rests: bool,
    pub writes_a_second: f64,
    /// In place of what nodes write: entries of so many events, and nothing else.
    pub packed: Option<usize>,
}

#[derive(Clone, Copy)]
pub struct Tally {
    pub writes: u64,
    pub entries: u64,
    pub reads: u64,
}

impl Tally {
    pub fn since(&self, before: &Tally) -> Tally {
        Tally {
            writes: self.writes - before.writes,
            entries: self.entries - before.entries,
            reads: self.reads - before.reads,
        }
    }
}

#[derive(Default)]
struct Shared {
    stopping: AtomicBool,
    writes: AtomicU64,
    entries: AtomicU64,
    reads: AtomicU64,
}

pub struct Running {
    shared: Arc<Shared>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    pub fn start(self, redis: &RedisServer) -> Running {
        let shared = Arc::new(Shared::default());
        let cursor = redis.cli(&["XADD", EVENTS, "*", "n", "first", "b", ""]).trim().to_owned();
        let hash = redis.cli(&["SCRIPT", "LOAD", DELETE]).trim().to_owned();
        let port = redis.port();
        let (writers, readers) = (Arc::clone(&shared), Arc::clone(&shared));
        let threads = vec![
            run(move |tasks| {
                for node in 0..self.nodes {
                    tasks.spawn_local(write(port, self, node, hash.clone(), Arc::clone(&writers)));
                }
            }),
            run(move |tasks| {
                for number in 0..self.readers {
                    // Nodes do not begin to read all at the same moment.
                    let start = GATHER.mul_f64(number as f64 / self.readers as f64);
                    tasks.spawn_local(read(port, self.rests, start, cursor.clone(), Arc::clone(&readers)));
                }
            }),
        ];
        Running { shared, threads }
    }
}

/// A thread for many connections.
fn run(begin: impl FnOnce(&mut tokio::task::JoinSet<()>) + Send + 'static) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let mut tasks = tokio::task::JoinSet::new();
            begin(&mut tasks);
            while let Some(ended) = tasks.join_next().await {
                ended.unwrap();
            }
        });
    })
}

impl Running {
    pub fn tally(&self) -> Tally {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Tally {
            writes: load(&self.shared.writes),
            entries: load(&self.shared.entries),
            reads: load(&self.shared.reads),
        }
    }

    pub fn stop(self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

impl Shared {
    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

/// Pushes what has come up since, as the replicator does: values and scripts, counters, then the entries that name them.
async fn write(port: u16, load: Load, node: usize, hash: String, shared: Arc<Shared>) {
    let mut client = Client::connect(port).await;
    let rate = load.writes_a_second / load.nodes as f64;
    let start = Instant::now();
    // Nodes do not write all at the same moment.
    let shift = node as f64 / load.nodes as f64;
    let (mut done, value) = (0_u64, [7; VALUE_BYTES]);
    let name = (node as u64).to_be_bytes();
    while !shared.is_stopping() {
        let begun = Instant::now();
        let due = (start.elapsed().as_secs_f64() * rate + shift) as u64 - done;
        let least = load.packed.unwrap_or(1) as u64;
        if due < least {
            tokio::time::sleep(Duration::from_secs_f64((least - due) as f64 / rate)).await;
            continue;
        }
        let count = due.min(load.packed.unwrap_or(BATCH_MAX) as u64);
        let mut batch = Vec::with_capacity(count as usize * EVENT_BYTES);
        let mut commands = 0;
        for number in done..done + count {
            // Each object is deleted by the write after the one that put it.
            let id = id(((node as u64) << 40) + number / 2);
            batch.extend_from_slice(&[1 + (number % 2) as u8, 32, 0]);
            batch.extend_from_slice(&id);
            batch.extend_from_slice(&[&number.to_be_bytes()[..], &name].concat());
            if load.packed.is_none() {
                let key = format!("scaler:obj:{}", id.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
                if number.is_multiple_of(2) {
                    client.add(&[b"SET", key.as_bytes(), &value, b"NX"]);
                } else {
                    let version = [9; 16];
                    let tombstone = [7; 64];
                    client.add(&[
                        b"EVALSHA",
                        hash.as_bytes(),
                        b"1",
                        key.as_bytes(),
                        &version,
                        b"",
                        b"0",
                        b"3600000",
                        &tombstone,
                    ]);
                }
                commands += 1;
            }
        }
        if load.packed.is_none() {
            client.add(&[b"INCRBY", b"scaler:obj:_meta:object_count", b"1"]);
            client.add(&[b"INCRBY", b"scaler:obj:_meta:total_size", b"1"]);
            commands += 2;
        }
        let entries = batch.chunks(EVENT_OPS_MAX * EVENT_BYTES);
        let entry_count = entries.len();
        for entry in entries {
            client.add(&[b"XADD", EVENTS.as_bytes(), b"MAXLEN", b"~", b"32768", b"*", b"n", &name, b"b", entry]);
        }
        client.ask(commands + entry_count).await;
        done += count;
        shared.writes.fetch_add(count, Ordering::Relaxed);
        shared.entries.fetch_add(entry_count as u64, Ordering::Relaxed);
        if (count as usize) < PACKED_MIN && load.packed.is_none() {
            tokio::time::sleep(pause(load.nodes).saturating_sub(begun.elapsed())).await;
        }
    }
}

/// Hears of everything, as the event reader does.
async fn read(port: u16, rests: bool, start: Duration, mut cursor: String, shared: Arc<Shared>) {
    let mut client = Client::connect(port).await;
    tokio::time::sleep(start).await;
    while !shared.is_stopping() {
        let at = cursor.as_bytes();
        client.add(&[b"XREAD", b"COUNT", b"256", b"BLOCK", b"250", b"STREAMS", EVENTS.as_bytes(), at]);
        client.add(&[b"XRANGE", EVENTS.as_bytes(), at, at]);
        client.ask(2).await;
        let answers = &client.answers;
        // The last id is that of the entry at the cursor, the first name is the stream's.
        let entries =
            answers.entries.checked_sub(1).expect("the entry at the cursor is gone: this reader was left behind");
        if entries > 0 {
            cursor = String::from_utf8(answers.bytes[answers.names[entries].clone()].to_vec()).unwrap();
        }
        shared.reads.fetch_add(1, Ordering::Relaxed);
        if rests && entries < ENTRIES_MAX {
            tokio::time::sleep(GATHER).await;
        }
    }
}

struct Client {
    stream: TcpStream,
    request: Vec<u8>,
    answers: Answers,
}

impl Client {
    async fn connect(port: u16) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, request: Vec::new(), answers: Answers::default() }
    }

    fn add(&mut self, words: &[&[u8]]) {
        write!(self.request, "*{}\r\n", words.len()).unwrap();
        for word in words {
            write!(self.request, "${}\r\n", word.len()).unwrap();
            self.request.extend_from_slice(word);
            self.request.extend_from_slice(b"\r\n");
        }
    }

    async fn ask(&mut self, count: usize) {
        self.stream.write_all(&self.request).await.unwrap();
        self.request.clear();
        self.answers.expect(count);
        while !self.answers.are_complete() {
            self.answers.bytes.reserve(64 << 10);
            assert!(
                self.stream.read_buf(&mut self.answers.bytes).await.unwrap() > 0,
                "Redis has closed the connection"
            );
        }
    }
}

/// Redis's answers, as far as they have come: looked through only once, so that the readers leave Redis its core.
#[derive(Default)]
struct Answers {
    bytes: Vec<u8>,
    at: usize,
    missing: usize,
    /// What comes first in each pair: the name of the stream, then ids of entries.
    names: Vec<Range<usize>>,
    /// Lists of four: the fields of an entry.
    entries: usize,
    begins_pair: bool,
}

impl Answers {
    fn expect(&mut self, count: usize) {
        *self = Answers { bytes: std::mem::take(&mut self.bytes), missing: count, ..Answers::default() };
        self.bytes.clear();
    }

    fn are_complete(&mut self) -> bool {
        while self.missing > 0 {
            let Some(length) = self.bytes[self.at..].iter().position(|byte| *byte == b'\n') else { return false };
            let line = &self.bytes[self.at..self.at + length - 1];
            let number = std::str::from_utf8(&line[1..]).ok().and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
            let mut next = self.at + length + 1;
            let (begins_pair, count) = (line == b"*2", usize::try_from(number).unwrap_or(0));
            match line[0] {
                b'*' => {
                    self.missing += count;
                    self.entries += usize::from(count == 4);
                }
                b'$' if number >= 0 => {
                    if self.bytes.len() < next + count + 2 {
                        return false;
                    }
                    if self.begins_pair {
                        self.names.push(next..next + count);
                    }
                    next += count + 2;
                }
                b'-' => panic!("{}", String::from_utf8_lossy(line)),
                _ => {}
            }
            (self.at, self.begins_pair) = (next, begins_pair);
            self.missing -= 1;
        }
        true
    }
}
