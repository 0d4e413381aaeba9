//! `bench`: what a put, a hit and the way to Redis take on this machine.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::ArgMatches;
use scaler_object_storage::{ObjectStore, StoreConfig};
use serde_json::{Value, json};

use crate::Failure;
use crate::arguments::has;
use crate::output::{bytes, line, say};
use crate::source::Source;

const SIZES: [usize; 3] = [1 << 10, 64 << 10, 1 << 20];

/// Ids that are put and read in turn.
const OBJECTS: u64 = 64;

/// How long Redis is looked for.
const REDIS_WAIT_MS: u64 = 2000;

/// What a number of calls took.
struct Measured {
    what: &'static str,
    size: usize,
    /// Sorted.
    times: Vec<Duration>,
    took: Duration,
}

impl Measured {
    /// Calls this again and again, for as long as this.
    fn run(
        what: &'static str,
        size: usize,
        limit: Duration,
        mut call: impl FnMut(u64) -> Result<(), scaler_object_storage::Error>,
    ) -> Result<Measured, Failure> {
        let begun = Instant::now();
        let mut times = Vec::new();
        for number in 0.. {
            let called = Instant::now();
            call(number)?;
            times.push(called.elapsed());
            if begun.elapsed() >= limit {
                break;
            }
        }
        let took = begun.elapsed();
        times.sort_unstable();
        Ok(Measured { what, size, times, took })
    }

    fn at(&self, percent: usize) -> Duration {
        self.times.get(self.times.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default()
    }

    fn calls_per_second(&self) -> f64 {
        self.times.len() as f64 / self.took.as_secs_f64().max(f64::EPSILON)
    }

    fn row(&self) -> String {
        let rate = self.calls_per_second();
        // A hit hands bytes out where they stand: it carries none.
        let carried = match self.what {
            "hit" => "-".to_owned(),
            _ => format!("{}/s", bytes((rate * self.size as f64) as u64)),
        };
        let (half, most) = (in_words(self.at(50)), in_words(self.at(99)));
        format!("{:<14} {:>8}  {half:>9}  {most:>9}  {rate:>11.0}  {carried:>12}", self.what, bytes(self.size as u64))
    }

    fn json(&self) -> Value {
        json!({
            "what": self.what,
            "bytes": self.size,
            "calls": self.times.len(),
            "median_seconds": self.at(50).as_secs_f64(),
            "p99_seconds": self.at(99).as_secs_f64(),
            "calls_per_second": self.calls_per_second(),
        })
    }
}

fn in_words(time: Duration) -> String {
    match time.as_nanos() {
        ns @ 0..1000 => format!("{ns} ns"),
        ns @ 1000..1_000_000 => format!("{:.1} us", ns as f64 / 1e3),
        ns => format!("{:.1} ms", ns as f64 / 1e6),
    }
}

/// A directory that goes when this is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(within: &Path) -> Result<Scratch, Failure> {
        let path = within.join(format!(".scaler_object_storage_bench.{}", std::process::id()));
        std::fs::create_dir(&path).map_err(|error| format!("cannot make {}: {error}", path.display()))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            say(&format!("cannot remove {}: {error}", self.0.display()));
        }
    }
}

pub fn bench(matches: &mut ArgMatches) -> Result<ExitCode, Failure> {
    let is_json = has(matches, "json");
    let seconds = matches.remove_one::<u64>("seconds").unwrap_or(10);
    let named = matches.remove_one::<PathBuf>("directory");
    let config = Source::of_settings(matches)?.config;
    // Without HOME there is no place where the store would be.
    let store = config.local.directory().ok();
    let beside_store = store.as_deref().and_then(Path::parent).filter(|above| above.is_dir()).map(Path::to_path_buf);
    let within = named.or(beside_store).unwrap_or_else(std::env::temp_dir);
    // Puts and hits of each size, and of one size put and get in Redis.
    let limit = Duration::from_secs(seconds) / (2 * SIZES.len() as u32 + 2);
    if !is_json {
        line(&format!("in {}", within.display()))?;
        line(&format!(
            "{:<14} {:>8}  {:>9}  {:>9}  {:>11}  {:>12}",
            "", "size", "median", "99 %", "calls/s", "bytes/s"
        ))?;
    }
    let show = |measured: &Measured| line(&if is_json { measured.json().to_string() } else { measured.row() });
    local(&within, limit, show)?;
    if let Err(reason) = redis(&config, limit, show) {
        match is_json {
            true => line(&json!({ "what": "redis", "error": reason.to_string() }).to_string())?,
            false => line(&format!("Redis was not measured: {reason}"))?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A small number of different bytes, as large as they are to be.
fn data(size: usize, number: u64) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut data = Vec::with_capacity(size + 8);
    while data.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        data.extend_from_slice(&state.to_le_bytes());
    }
    data.truncate(size);
    data
}

fn local(within: &Path, limit: Duration, show: impl Fn(&Measured) -> std::io::Result<()>) -> Result<(), Failure> {
    let scratch = Scratch::new(within)?;
    let store = ObjectStore::builder().local(scratch.0.join("store")).max_size_mb(1024).open()?;
    for size in SIZES {
        let mut object = data(size, size as u64);
        let id = |number: u64| (number % OBJECTS).to_le_bytes();
        // Each time other bytes, so that none are shared.
        let mut put = |number: u64| {
            if let Some(first) = object.first_chunk_mut() {
                *first = number.to_le_bytes();
            }
            store.put(&id(number), &object, b"")
        };
        (0..OBJECTS).try_for_each(|number| put(u64::MAX - number))?;
        show(&Measured::run("put", size, limit, put)?)?;
        show(&Measured::run("hit", size, limit, |number| store.get(&id(number)).map(drop))?)?;
    }
    store.close()?;
    Ok(())
}

fn redis(
    config: &StoreConfig,
    limit: Duration,
    show: impl Fn(&Measured) -> std::io::Result<()>,
) -> Result<(), Failure> {
    let size = SIZES[0];
    let object = data(size, 1);
    let prefix = format!("{}bench:{}:", config.redis.key_prefix, std::process::id());
    let options = config.redis.clone();
    let builder = ObjectStore::builder().redis(options.url.clone()).redis_options(|redis| {
        *redis = options;
        redis.key_prefix = prefix;
        redis.connect_timeout_ms = redis.connect_timeout_ms.min(REDIS_WAIT_MS);
        // What is left by a run that is killed goes by itself.
        redis.object_ttl_seconds = 60;
    });
    let store = builder.open()?;
    let measured = || -> Result<(), Failure> {
        show(&Measured::run("Redis put", size, limit, |_| store.put(b"bench", &object, b""))?)?;
        show(&Measured::run("Redis get", size, limit, |_| store.get(b"bench").map(drop))?)?;
        Ok(())
    };
    let measured = measured();
    store.clear()?;
    store.close()?;
    measured
}
