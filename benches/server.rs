//! Our server beside the stock server, redis-server and a bare TCP echo of the same bytes.
//!
//! `STOCK_SERVER=path/to/scaler_object_storage_server cargo bench --bench server`, which is what `make bench-server` runs. One
//! load generator, all servers at once, taking turns; a filter chooses a part: `-- get`, `-- "set/1 MiB"`, `-- 4x16`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "common/mod.rs"]
mod common;
#[path = "common/contenders.rs"]
mod contenders;
#[path = "common/load.rs"]
mod load;

use std::net::TcpListener;
use std::process::Command;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use common::{SIZES, Table, median, only_listed, percentile, settle, show_bytes, show_nanoseconds, show_ratio, wanted};
use contenders::{Contender, ECHO_PORT, start_all};
use load::{Batch, Connection, Dialect, Operation};

const ROUNDS: usize = 7;
const ROUNDS_LARGE: usize = 3;
const LARGE_BYTES: usize = 16 << 20;

/// How long one server gets in one round.
const TURN: Duration = Duration::from_millis(200);

/// The objects that gets and sets choose from.
const WORKING_SET_BYTES: usize = 64 << 20;
const WORKING_SET_COUNT_MAX: u64 = 1000;

/// (connections, requests in flight on each, largest size)
const SHAPES: [(usize, usize, usize); 2] = [(1, 1, usize::MAX), (4, 16, 1 << 20)];

fn main() {
    if only_listed() {
        return;
    }
    if let Ok(port) = std::env::var(ECHO_PORT) {
        let listener = TcpListener::bind(("127.0.0.1", port.parse().unwrap())).unwrap();
        return load::echo(&listener);
    }
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let contenders = start_all(scratch.path());
    let mut results = Vec::new();
    for &size in SIZES {
        for operation in [Operation::Get, Operation::Set] {
            for (connections, depth, size_max) in SHAPES {
                let case = Case { operation, size, connections, depth };
                if size <= size_max && wanted(&case.label()) {
                    eprintln!("measuring {} ...", case.label());
                    results.push((case, case.measure(&contenders)));
                    settle(scratch.path());
                }
            }
        }
    }
    print_results(&results);
    let redis_benchmark = wanted("redis-benchmark").then(|| redis_benchmark(&contenders)).flatten();
    print_targets(&results, redis_benchmark);
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Case {
    operation: Operation,
    size: usize,
    connections: usize,
    depth: usize,
}

/// What one server did in one case.
struct Measured {
    name: &'static str,
    /// Nanoseconds of an exchange (of the whole batch, where several are in flight).
    p50: f64,
    p99: f64,
    operations_per_second: f64,
}

impl Case {
    fn label(&self) -> String {
        let Case { operation, size, connections, depth } = self;
        format!("{}/{}/{connections}x{depth}", operation.name(), show_bytes(*size))
    }

    fn measure(&self, contenders: &[Contender]) -> Vec<Measured> {
        let count = (WORKING_SET_BYTES / self.size).max(2).min(WORKING_SET_COUNT_MAX as usize) as u64;
        let mut sides: Vec<Side> = contenders.iter().map(|contender| Side::new(*self, contender, count)).collect();
        let number = sides.len();
        for round in 0..if self.size < LARGE_BYTES { ROUNDS } else { ROUNDS_LARGE } {
            for turn in 0..number {
                sides[(turn + round) % number].take_turn(count);
            }
        }
        sides.into_iter().map(Side::measured).collect()
    }
}

/// One server in one case.
struct Side {
    name: &'static str,
    depth: usize,
    connections: Vec<Connection>,
    times: Vec<f64>,
    rates: Vec<f64>,
}

impl Side {
    fn new(case: Case, contender: &Contender, count: u64) -> Self {
        let Case { operation, size, connections, depth } = case;
        let open = |operation, depth, number| {
            let batch = Batch::new(contender.dialect, operation, size, depth);
            Connection::open(contender.address, batch, number).unwrap()
        };
        if contender.dialect != Dialect::Echo {
            open(Operation::Set, 1, 0).load(count).unwrap();
        }
        Side {
            name: contender.name,
            depth,
            connections: (0..connections).map(|number| open(operation, depth, number as u64)).collect(),
            times: Vec::new(),
            rates: Vec::new(),
        }
    }

    fn take_turn(&mut self, count: u64) {
        let start = Barrier::new(self.connections.len());
        let (times, rates): (Vec<_>, Vec<_>) = thread::scope(|scope| {
            let threads: Vec<_> = self
                .connections
                .iter_mut()
                .map(|connection| {
                    scope.spawn(|| {
                        start.wait();
                        let times = connection.run(count, TURN).unwrap();
                        let rate = times.len() as f64 / times.iter().sum::<f64>() * 1e9;
                        (times, rate)
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).unzip()
        });
        self.times.extend(times.into_iter().flatten());
        self.rates.push(rates.iter().sum::<f64>() * self.depth as f64);
    }

    fn measured(mut self) -> Measured {
        Measured {
            name: self.name,
            p50: percentile(&mut self.times, 50.0),
            p99: percentile(&mut self.times, 99.0),
            operations_per_second: median(self.rates),
        }
    }
}

fn print_results(results: &[(Case, Vec<Measured>)]) {
    for operation in [Operation::Get, Operation::Set] {
        for (connections, depth, _) in SHAPES {
            let of_shape =
                |case: &Case| (case.operation, case.connections, case.depth) == (operation, connections, depth);
            let of_shape: Vec<_> = results.iter().filter(|(case, _)| of_shape(case)).collect();
            if of_shape.is_empty() {
                continue;
            }
            println!("\n{}, {connections} x {depth} in flight\n", operation.name());
            let exchange = if depth == 1 { "" } else { " of a batch" };
            let mut table = Table::new([
                "size".to_owned(),
                "server".to_owned(),
                format!("p50{exchange}"),
                format!("p99{exchange}"),
                "operations/s".to_owned(),
                "MB/s".to_owned(),
                "p50 / echo's".to_owned(),
                "speed / stock's".to_owned(),
            ]);
            for (case, servers) in of_shape {
                let of = |name: &str| servers.iter().find(|measured| measured.name == name);
                for (place, server) in servers.iter().enumerate() {
                    let against_echo = of("echo").map_or(f64::NAN, |echo| server.p50 / echo.p50);
                    let against_stock = of("stock")
                        .map_or(f64::NAN, |stock| server.operations_per_second / stock.operations_per_second);
                    table.row([
                        if place == 0 { show_bytes(case.size) } else { String::new() },
                        server.name.to_owned(),
                        show_nanoseconds(server.p50),
                        show_nanoseconds(server.p99),
                        format!("{:.0}", server.operations_per_second),
                        format!("{:.0}", server.operations_per_second * case.size as f64 / 1e6),
                        show_ratio(against_echo),
                        show_ratio(against_stock),
                    ]);
                }
            }
            table.print();
        }
    }
}

/// Gets of 1 KiB per second, by redis' own load generator.
fn redis_benchmark(contenders: &[Contender]) -> Option<f64> {
    let redis = contenders.iter().find(|contender| contender.dialect == Dialect::Redis)?;
    let port = redis.address.port().to_string();
    let run = || {
        let arguments = ["-p", &port, "-c", "4", "-P", "16", "-d", "1024", "-t", "set,get", "-n", "400000", "--csv"];
        let output = Command::new("redis-benchmark").args(arguments).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find_map(|line| line.strip_prefix("\"GET\",\""))?.to_owned();
        line.split('"').next()?.parse::<f64>().ok()
    };
    Some(median((0..3).filter_map(|_| run()).collect()))
}

/// The rows of the speed table that are about the server.
fn print_targets(results: &[(Case, Vec<Measured>)], redis_benchmark: Option<f64>) {
    let mut table = Table::new(["target", "bound", "measured", "reached"]);
    let mut add = |what: String, bound: &str, value: String, reached: bool| {
        table.row([what, bound.to_owned(), value, if reached { "yes" } else { "NO" }.to_owned()]);
    };
    for (case, servers) in results {
        let of = |name: &str| servers.iter().find(|measured| measured.name == name);
        let Some(ours) = of("ours") else { continue };
        let label = case.label();
        if case.connections == 1 && case.size <= 64 << 10 {
            if let Some(echo) = of("echo") {
                let ratio = ours.p50 / echo.p50;
                add(format!("{label}: p50 / echo's"), "at most 1.25x", show_ratio(ratio), ratio <= 1.25);
            }
            if let Some(stock) = of("stock") {
                let ratio = stock.p50 / ours.p50;
                add(
                    format!("{label}: the stock server's p50 / ours"),
                    "at least 2.5x",
                    show_ratio(ratio),
                    ratio >= 2.5,
                );
            }
        }
        if let Some(stock) = of("stock").filter(|_| case.connections == 1 && case.size >= 1 << 20) {
            let ratio = ours.operations_per_second / stock.operations_per_second;
            add(format!("{label}: bytes/s / the stock server's"), "at least 1.5x", show_ratio(ratio), ratio >= 1.5);
        }
        if (case.connections, case.size, case.operation) == (4, 1024, Operation::Get) {
            let theirs = of("redis").map(|redis| ("redis, this load", redis.operations_per_second));
            for (name, theirs) in theirs.into_iter().chain(redis_benchmark.map(|rate| ("redis-benchmark", rate))) {
                let ratio = ours.operations_per_second / theirs;
                let value = format!("{} ({:.0}/s / {theirs:.0}/s)", show_ratio(ratio), ours.operations_per_second);
                add(format!("{label}: operations/s / {name}"), "at least 1x", value, ratio >= 1.0);
            }
        }
    }
    println!();
    table.print();
}
