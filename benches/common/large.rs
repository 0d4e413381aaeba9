//! Puts of objects that stand in many chunks, beside one SET of the same bytes.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use redis::Commands;
use scaler_object_storage::ObjectStore;

use super::Content;
use crate::common::redis::RedisServer;
use crate::measuring::{Table, id, median, nanoseconds, show_bytes, show_nanoseconds, show_ratio};

const ROUNDS: usize = 9;

/// Each round begins with an empty Redis, and with another one that takes turns at being first. Each has the bytes just before, in memory of its
/// own, as the Python client has, which gets them over a pipe: 16 MiB may stand in the processor's cache then.
pub fn large() {
    let redis = RedisServer::start();
    let store = ObjectStore::builder().redis(redis.url()).open().unwrap();
    // Over TCP, as the others.
    let mut bare = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    let mut python = std::env::var_os("PYTHON").map(|python| Python::start(&python, &redis.url()));
    let mut table = Table::new([
        "data",
        "content",
        "our put",
        "redis-rs SET",
        "redis-py SET",
        "put / redis-rs",
        "put / redis-py",
        "target",
    ]);
    for content in [Content::Random, Content::Half] {
        for size in [16 << 20, 64 << 20, 100 << 20] {
            let data = content.payload(1, size);
            let (mut puts, mut sets, mut pythons) = (Vec::new(), Vec::new(), Vec::new());
            for number in 0..ROUNDS {
                let emptied = || drop(redis.cli(&["FLUSHALL", "SYNC"]));
                for turn in 0..3 {
                    emptied();
                    match (turn + number) % 3 {
                        0 => {
                            let fresh = data.clone();
                            let start = Instant::now();
                            store.put(&id(number as u64), &fresh, b"").unwrap();
                            puts.push(nanoseconds(start));
                        }
                        1 => {
                            let fresh = data.clone();
                            let start = Instant::now();
                            let _: () = bare.set("bare", &fresh).unwrap();
                            sets.push(nanoseconds(start));
                        }
                        _ => pythons.extend(python.as_mut().map(|python| python.set(&data))),
                    }
                }
                emptied();
            }
            let (put, set, python) = (median(puts), median(sets), median(pythons));
            table.row([
                show_bytes(size),
                content.name().to_owned(),
                show_nanoseconds(put),
                show_nanoseconds(set),
                show_nanoseconds(python),
                show_ratio(put / set),
                show_ratio(put / python),
                "1.00x of redis-py".to_owned(),
            ]);
        }
    }
    println!("\nLarge puts: `backend = \"redis\"`, beside one SET of the same bytes (p50)\n");
    table.print();
}

/// The Python client in a process of its own, which says how long each SET took.
struct Python {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Python {
    fn start(python: &std::ffi::OsStr, url: &str) -> Python {
        let mut command = Command::new(python);
        command.args(["-c", PROGRAM, url]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let (input, output) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        Python { process, input, output }
    }

    fn set(&mut self, data: &[u8]) -> f64 {
        self.input.write_all(&(data.len() as u64).to_le_bytes()).unwrap();
        self.input.write_all(data).unwrap();
        self.input.flush().unwrap();
        let mut line = String::new();
        self.output.by_ref().take(64).read_line(&mut line).unwrap();
        line.trim().parse().unwrap()
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const PROGRAM: &str = "
import struct, sys, time, redis
client = redis.Redis.from_url(sys.argv[1])
while head := sys.stdin.buffer.read(8):
    data = sys.stdin.buffer.read(struct.unpack('<Q', head)[0])
    start = time.perf_counter_ns(); client.set('python', data); print(time.perf_counter_ns() - start, flush=True)
";
