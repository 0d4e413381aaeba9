//! The `tiered` backend's operations, and how its threads begin and end. The state that they share is in `node`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::Poll;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

use super::attention::Attention;
use super::counters::Counters;
use super::flights::Flights;
use super::health::Health;
use super::jobs::{ASKING_MAX, Channels, Fetchers, Gate, QUESTIONS_MAX};
use super::node::{Drain, Running, TieredBackend};
use super::peers::Peers;
use super::wants::Wants;
use super::{fetchers, reader, replicator, watcher};
use crate::backend::{Backend, ListPosition, Listed, OnDeleted, OnStored, Page, Stats, Usage, Waiters, Writer};
use crate::error::Error;
use crate::interrupt;
use crate::local::{Known, LocalBackend, LocalOptions, OutboxOptions, Underlying};
use crate::long_work::LongWork;
use crate::object::{IdBytes, Object};
use crate::redis::{Keys, RedisOptions, Target, ValueFormat, listing, server};
use crate::version::Version;

/// How long a delete of an id that is not held here waits for Redis to say whether it existed.
const EXISTS_WAIT_MAX: Duration = Duration::from_millis(100);

/// How often a drain looks whether everything is pushed.
const DRAIN_LOOK: Duration = Duration::from_millis(2);

const NO_ANSWER: &str = "no answer in time";

/// How long closing waits for threads other than the replicator; one that hangs on a connection ends by itself later.
const LISTENERS_WAIT_MAX: Duration = Duration::from_millis(500);

impl TieredBackend {
    /// Opens the local tier, and begins to share it. Redis need not be there.
    pub fn open(
        local: &LocalOptions,
        redis: &RedisOptions,
        under: Underlying,
        waiters: Arc<Waiters>,
    ) -> Result<Arc<Self>, Error> {
        Target::new(redis)?;
        let (wake, woken) = bounded(1);
        let outbox = outbox_options(redis, wake.clone());
        let local = LocalBackend::open_with(local, under, Some(outbox))?;
        let (backend, channels) = Self::assemble(local, redis, waiters)?;
        let backend = Arc::new(backend);
        match backend.start(wake, woken, channels) {
            Ok(running) => *backend.running.lock() = Some(running),
            Err(error) => {
                // The threads that were started end by themselves; the directory is free at once.
                backend.stop_threads();
                let _ = backend.local.close();
                return Err(Error::io("start the threads of", backend.local.place())(error));
            }
        }
        Ok(backend)
    }

    /// The local tier's backend.
    pub fn local(&self) -> &Arc<LocalBackend> {
        &self.local
    }

    fn assemble(
        local: LocalBackend,
        options: &RedisOptions,
        waiters: Arc<Waiters>,
    ) -> Result<(TieredBackend, Channels), Error> {
        let (fetchers, jobs) = Fetchers::new();
        let (questions, asked) = bounded(QUESTIONS_MAX);
        let (asking, to_ask) = bounded(ASKING_MAX);
        let backend = TieredBackend {
            local: Arc::new(local),
            waiters,
            target: Target::new(options)?,
            keys: Keys::new(options.key_prefix.clone()),
            options: options.clone(),
            flights: Flights::default(),
            fetchers,
            questions,
            wants: Wants::default(),
            asking,
            to_ask,
            epoch: Mutex::new(()),
            health: Health::default(),
            counters: Counters::default(),
            attention: Attention::default(),
            peers: Peers::default(),
            gate: Gate::default(),
            closing: AtomicBool::new(false),
            running: Mutex::new(None),
        };
        Ok((backend, Channels { jobs, asked }))
    }

    fn start(self: &Arc<Self>, wake: Sender<()>, woken: Receiver<()>, channels: Channels) -> io::Result<Running> {
        let Channels { jobs, asked } = channels;
        let (until, to_drain) = bounded(1);
        let drain = Drain::new(until, wake);
        let (drained_sender, drained) = bounded(1);
        let (ending, ended) = bounded::<()>(0);
        let spawn = |name: String, run: Box<dyn FnOnce(&TieredBackend) + Send>| {
            let (backend, ending) = (Arc::clone(self), ending.clone());
            let run = move || {
                run(&backend);
                drop(ending);
            };
            std::thread::Builder::new().name(name).spawn(run).map(drop)
        };
        let backend = Arc::clone(self);
        std::thread::Builder::new().name("replicator".into()).spawn(move || {
            replicator::run(&backend, &woken, &to_drain);
            drop(drained_sender);
        })?;
        // Closing does not wait for this thread: it may be in the middle of a read, and the local tier refuses whatever it does after that.
        let backend = Arc::clone(self);
        std::thread::Builder::new().name("event reader".into()).spawn(move || reader::run(&backend))?;
        spawn("watcher".into(), Box::new(move |backend| watcher::run(backend, &asked)))?;
        for number in 0..self.options.connection_pool_size.max(1) {
            let jobs = jobs.clone();
            spawn(format!("fetcher {number}"), Box::new(move |backend| fetchers::run(backend, &jobs)))?;
        }
        Ok(Running { drain, drained, ended })
    }
}

impl Backend for TieredBackend {
    fn check_size(&self, id: &[u8], bytes: u64) -> Result<(), Error> {
        self.options.check_size(id, bytes)
    }

    fn put(&self, id: &[u8], data: &[u8], metadata: &[u8], stored: OnStored<'_>) -> Result<(), Error> {
        self.options.check_size(id, data.len() as u64 + metadata.len() as u64)?;
        self.local.put(id, data, metadata, stored)
    }

    fn writer(&self, id: &[u8], data_bytes: u64, metadata: &[u8]) -> Result<Box<dyn Writer>, Error> {
        self.options.check_size(id, data_bytes.saturating_add(metadata.len() as u64))?;
        self.local.writer(id, data_bytes, metadata)
    }

    fn get(&self, id: &[u8]) -> Result<Option<Object>, Error> {
        let found = self.get_here(id);
        if !matches!(found, Ok(None)) {
            return found;
        }
        let found = self.get_elsewhere(id)?;
        if found.is_some() {
            self.counters.fetched_gets.add(1);
        }
        Ok(found)
    }

    fn get_elsewhere(&self, id: &[u8]) -> Result<Option<Object>, Error> {
        let (sender, receiver) = bounded(1);
        self.fetch(id, Some(Box::new(move |fetched| drop(sender.send(fetched)))));
        match interrupt::recv_timeout(&receiver, self.patience()) {
            Ok(fetched) => Ok(fetched?),
            Err(RecvTimeoutError::Timeout) => Err(self.unanswered(NO_ANSWER).into()),
            Err(RecvTimeoutError::Disconnected) => Err(Error::Closed),
        }
    }

    #[inline]
    fn get_here(&self, id: &[u8]) -> Result<Option<Object>, Error> {
        let tier = self.tier()?;
        let found = tier.get(id)?;
        if found.is_some() && tier.suspect(id)?.is_some() {
            return Ok(None);
        }
        Ok(found)
    }

    fn get_at_once(&self, id: &[u8]) -> Result<Poll<Option<Object>>, Error> {
        Ok(self.get_here(id)?.map_or(Poll::Pending, |object| Poll::Ready(Some(object))))
    }

    fn seek(&self, id: &[u8]) {
        self.attention.call();
        self.fetch(id, None);
    }

    fn contains(&self, id: &[u8]) -> Result<bool, Error> {
        if self.get_here(id)?.is_some() {
            return Ok(true);
        }
        if self.tier()?.known(id)? != Known::Nothing {
            // The versions have to be compared. It is no get, and counts as none.
            return Ok(self.get_elsewhere(id)?.is_some());
        }
        self.exists_elsewhere(id, false, self.patience()).ok_or_else(|| self.unanswered(NO_ANSWER).into())
    }

    fn delete(&self, id: &[u8]) -> Result<bool, Error> {
        match self.delete_here(id)? {
            Some(existed) => Ok(existed),
            None => {
                let existed = self.exists_elsewhere(id, true, EXISTS_WAIT_MAX).unwrap_or(false);
                self.flights.answered(id);
                Ok(existed)
            }
        }
    }

    fn delete_later(&self, id: &[u8], answer: OnDeleted) -> Result<Option<bool>, Error> {
        let existed = self.delete_here(id)?;
        if existed.is_none() {
            self.ask(id, true, EXISTS_WAIT_MAX, Box::new(move |exists| answer(exists.unwrap_or(false))));
            self.flights.answered(id);
        }
        Ok(existed)
    }

    fn duplicate(&self, original: &[u8], new: &[u8], stored: OnStored<'_>) -> Result<bool, Error> {
        let tier = self.tier()?;
        if tier.suspect(original)?.is_some() {
            return Ok(false);
        }
        self.local.duplicate(original, new, stored)
    }

    /// What is on this node, as `count` counts it.
    fn list(&self, from: &ListPosition, limit: usize) -> Result<Page, Error> {
        self.local.list(from, limit)
    }

    fn describe(&self, id: &[u8], verify: bool) -> Result<Option<Listed>, Error> {
        if let Some(here) = self.local.describe(id, verify)? {
            return Ok(Some(here));
        }
        if matches!(self.tier()?.known(id)?, Known::Deleted(_)) {
            return Ok(None);
        }
        let mut link = self.connect(Duration::ZERO)?;
        listing::describe(&mut link, &self.keys, id, verify, self.options.object_bytes_max())
    }

    fn restore(
        &self,
        id: &[u8],
        object: &Object,
        version: Version,
        deadline_ms: u64,
        stored: OnStored<'_>,
    ) -> Result<bool, Error> {
        self.options.check_size(id, object.len() as u64)?;
        self.local.restore(id, object, version, deadline_ms, stored)
    }

    fn usage(&self) -> Usage {
        let usage = self.local.usage();
        Usage { damaged_objects: usage.damaged_objects + self.health.damaged(), ..usage }
    }

    fn add_stats(&self, stats: &mut Stats) -> Result<(), Error> {
        stats.set_usage(self.usage());
        self.tier()?.add_stats(stats);
        // What Redis had to be asked for is a miss.
        let fetched = self.counters.fetched_gets.get();
        stats.operations.hits = stats.operations.hits.saturating_sub(fetched);
        stats.operations.misses += fetched;
        self.add_replication_stats(stats)
    }

    fn drain(&self, limit: Duration) -> Result<bool, Error> {
        let tier = self.tier()?;
        let Some(outbox) = tier.outbox() else { return Ok(true) };
        let (end, limit) = (tier.end(), Instant::now() + limit);
        outbox.wake();
        while !outbox.ledger.is_pushed(end) {
            // While Redis is away a drain ends at once; the rest is pushed when it is back.
            if Instant::now() >= limit || self.is_closing() || self.health.is_away() {
                return Ok(false);
            }
            std::thread::sleep(DRAIN_LOOK);
        }
        Ok(true)
    }

    fn flush(&self) -> Result<(), Error> {
        self.local.flush()
    }

    fn clear(&self) -> Result<(), Error> {
        self.local.clear()?;
        let mut link = self.connect(Duration::ZERO)?;
        let mut work = LongWork::begin("deleted", self.target.address());
        server::scan_ids(&mut link, &self.keys, |_, ids| {
            // Ids that only the `redis` backend takes are not this store's.
            let mut ids = ids.iter().filter(|id| IdBytes::ORDINARY.allow(id));
            ids.try_for_each(|id| {
                work.step();
                self.local.delete(id).map(drop)
            })
        })
    }

    fn close(&self) -> Result<(), Error> {
        self.close_within(Duration::from_millis(self.options.drain_timeout_ms))
    }

    fn close_undrained(&self) -> Result<(), Error> {
        self.close_within(Duration::ZERO)
    }

    fn place(&self) -> String {
        format!("{} and {}", self.local.place(), self.target.address())
    }

    fn name(&self) -> &'static str {
        "tiered"
    }
}

impl TieredBackend {
    /// Closes it; Redis has so long to take what it lacks.
    fn close_within(&self, limit: Duration) -> Result<(), Error> {
        let Some(Running { drain, drained, ended }) = self.running.lock().take() else { return Ok(()) };
        if self.tier().is_err() {
            std::mem::forget((drain, drained, ended));
            return self.local.close();
        }
        drain.begin(Instant::now() + limit);
        // A connection that hangs may take longer than that; the rest is pushed by the next open.
        let _ = drained.recv_timeout(limit + LISTENERS_WAIT_MAX);
        self.stop_threads();
        let _ = ended.recv_timeout(LISTENERS_WAIT_MAX);
        self.local.close()
    }
}

fn outbox_options(options: &RedisOptions, wake: Sender<()>) -> OutboxOptions {
    OutboxOptions {
        prefix: options.key_prefix.clone(),
        object_ttl_ms: options.object_ttl_seconds.saturating_mul(1000),
        tombstone_ttl_ms: options.tombstone_ttl_seconds.saturating_mul(1000),
        has_versions: options.value_format != ValueFormat::Python,
        wake,
    }
}
