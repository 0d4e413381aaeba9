//! The `tiered` backend: the local tier in front, Redis behind it.
//!
//! ```text
//! put, delete, duplicate  -> journal, acknowledged -> replicator.rs   pushes what is dirty, announces it in the event stream
//! get                     -> journal, else         -> fetchers.rs     reads it from Redis, fills it into the journal
//! other nodes' writes     <- reader.rs             drops what is older here, fetches what somebody waits for
//! waits                   <- watcher.rs            looks again now and then, asks other nodes to push again
//! ```

mod backoff;
mod fetchers;
mod flights;
mod held;
mod lane;
mod reader;
mod replicator;
mod slots;
mod watcher;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

use fetchers::{Fetchers, Gate, Job};
use flights::Flights;
use watcher::Question;

use crate::error::Error;
use crate::local::{Known, LocalBackend, OutboxOptions, Place, Tier, Underlying};
use crate::object::{IdBytes, Object};
use crate::redis::{Keys, Link, RedisOptions, Target, server};
use crate::store::{Backend, OnDeleted, OnStored, StoreConfig, Usage, Waiters, Writer};

/// How long a delete of an id that is not held here waits for Redis to say whether it existed.
const EXISTS_WAIT_MAX: Duration = Duration::from_millis(100);

/// Ids that other nodes want and that wait to be pushed again: more are asked for again later.
const WANTED_IDS_MAX: usize = 4096;

const NO_ANSWER: &str = "no answer in time";

/// How long closing waits for threads that only listen; one that hangs on a connection ends by itself later.
const LISTENERS_WAIT_MAX: Duration = Duration::from_millis(500);

/// What the backend and its threads share.
pub(crate) struct TieredBackend {
    local: LocalBackend,
    waiters: Arc<Waiters>,
    target: Target,
    keys: Keys,
    options: RedisOptions,
    flights: Flights,
    fetchers: Fetchers,
    questions: Sender<Question>,
    /// Ids to push again, because other nodes want them or Redis has lost them.
    wanted: Sender<WantedId>,
    /// Held while Redis is asked for its epoch and until that is acted upon: of the threads that find another one, the second must not push
    /// before the first has begun to hear anew.
    epoch: Mutex<()>,
    health: Health,
    gate: Gate,
    closing: AtomicBool,
    running: Mutex<Option<Running>>,
}

/// What ends when the store is closed.
struct Running {
    /// Tells the replicator to drain, until when at most, and to stop then. Dropped, it stops at once.
    drain: Sender<Instant>,
    drained: Receiver<()>,
    /// Disconnected when the last of the other threads has ended.
    ended: Receiver<()>,
}

/// Whether Redis answers: so that the log says it once, not for every failure.
#[derive(Default)]
struct Health {
    is_away: AtomicBool,
    damaged: AtomicU64,
}

/// Where the threads take their work from.
struct Channels {
    jobs: Receiver<Job>,
    asked: Receiver<Question>,
    wanted: Receiver<WantedId>,
}

/// An id to push again.
struct WantedId {
    id: Vec<u8>,
    /// The record that Redis has lost, which is dirty until it is pushed.
    held: Option<Place>,
}

impl TieredBackend {
    /// Opens the local tier, and begins to share it. Redis need not be there. None where other processes have all the slots.
    pub fn open(config: &StoreConfig, under: Underlying, waiters: Arc<Waiters>) -> Result<Option<Arc<Self>>, Error> {
        Target::new(&config.redis)?;
        let (wake, woken) = bounded(1);
        let outbox = outbox_options(config, wake);
        let Some((local, slot)) = slots::take(&config.local, &under, &outbox)? else {
            tracing::warn!(
                "other processes have every slot of {}: this one runs without a local tier; raise local.slots",
                config.local.directory().display()
            );
            return Ok(None);
        };
        let (backend, channels) = Self::assemble(local, config, waiters)?;
        let backend = Arc::new(backend);
        match backend.start(config, under, slot, woken, channels) {
            Ok(running) => *backend.running.lock() = Some(running),
            Err(error) => {
                // The threads that were started end by themselves; the directory is free at once.
                backend.stop_threads();
                let _ = backend.local.close();
                return Err(Error::io("start the threads of", backend.local.place())(error));
            }
        }
        Ok(Some(backend))
    }

    fn assemble(
        local: LocalBackend,
        config: &StoreConfig,
        waiters: Arc<Waiters>,
    ) -> Result<(TieredBackend, Channels), Error> {
        let options = config.redis.clone();
        let (fetchers, jobs) = Fetchers::new();
        let (questions, asked) = bounded(watcher::QUESTIONS_MAX);
        let (wanted_sender, wanted) = bounded(WANTED_IDS_MAX);
        let backend = TieredBackend {
            local,
            waiters,
            target: Target::new(&options)?,
            keys: Keys::new(options.key_prefix.clone()),
            options,
            flights: Flights::default(),
            fetchers,
            questions,
            wanted: wanted_sender,
            epoch: Mutex::new(()),
            health: Health::default(),
            gate: Gate::default(),
            closing: AtomicBool::new(false),
            running: Mutex::new(None),
        };
        Ok((backend, Channels { jobs, asked, wanted }))
    }

    fn start(
        self: &Arc<Self>,
        config: &StoreConfig,
        under: Underlying,
        slot: u32,
        woken: Receiver<()>,
        channels: Channels,
    ) -> io::Result<Running> {
        let Channels { jobs, asked, wanted } = channels;
        let (drain, to_drain) = bounded(1);
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
            replicator::run(&backend, &woken, &wanted, &to_drain);
            drop(drained_sender);
        })?;
        // Closing does not wait for it: it may be in the middle of a read, and can do no more harm.
        let backend = Arc::clone(self);
        std::thread::Builder::new().name("event reader".into()).spawn(move || reader::run(&backend))?;
        spawn("watcher".into(), Box::new(move |backend| watcher::run(backend, &asked)))?;
        if config.local.slots > 1 {
            let config = config.clone();
            spawn("adopter".into(), Box::new(move |backend| slots::adopt(backend, &config, &under, slot)))?;
        }
        for number in 0..self.options.connection_pool_size.max(1) {
            let jobs = jobs.clone();
            spawn(format!("fetcher {number}"), Box::new(move |backend| fetchers::run(backend, &jobs)))?;
        }
        Ok(Running { drain, drained, ended })
    }

    /// Lets the threads end, but for the replicator, which is told when to.
    fn stop_threads(&self) {
        self.closing.store(true, Ordering::Release);
        self.fetchers.close();
    }

    /// The local tier, where this process is the one that opened it.
    fn tier(&self) -> Result<&Arc<Tier>, Error> {
        self.local.tier()
    }

    fn local_place(&self) -> String {
        self.local.place()
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// A connection for a thread that waits up to `response_timeout_ms` and `longer` for an answer.
    fn connect(&self, longer: Duration) -> Result<Link, Error> {
        let link = self.target.connect(Duration::from_millis(self.options.response_timeout_ms) + longer);
        match &link {
            Ok(_) => self.health.set_away(None),
            Err(error) => self.health.set_away(Some(error)),
        }
        link
    }

    /// Looks whether this is the Redis that the cursors are good for. If not, it has lost everything, and every object that is here
    /// is dirty again.
    fn check_epoch(&self, link: &mut Link) -> Result<(), Error> {
        let _checking = self.epoch.lock();
        let Some(outbox) = &self.tier()?.outbox else { return Ok(()) };
        let epoch = server::epoch(link, &self.keys)?;
        let known = outbox.epoch();
        if known != epoch && !known.is_empty() {
            // The stream is gone with the rest: hearing begins anew, before anything is pushed.
            outbox.set_heard(String::new(), outbox.heard().1);
        }
        self.begin_hearing(link)?;
        if known == epoch {
            return Ok(());
        }
        if !known.is_empty() {
            tracing::warn!(
                "Redis at {} has lost everything, or is another one: every object held here is pushed again",
                self.target.address()
            );
            outbox.make_dirty(self.tier()?.journal.end());
        }
        outbox.set_epoch(epoch);
        outbox.wake();
        Ok(())
    }

    /// How long a call waits for Redis.
    fn patience(&self) -> Duration {
        Duration::from_millis(self.options.response_timeout_ms.saturating_add(self.options.connect_timeout_ms))
    }

    /// Asks Redis whether an id exists that is not here.
    fn exists_elsewhere(&self, id: &[u8], deletes: bool, limit: Duration) -> Option<bool> {
        let (sender, receiver) = bounded(1);
        self.ask(
            id,
            deletes,
            limit,
            Box::new(move |exists| {
                let _ = sender.send(exists);
            }),
        );
        receiver.recv().ok().flatten()
    }

    /// The same; `answer` is told None where Redis has not answered in time.
    fn ask(&self, id: &[u8], deletes: bool, limit: Duration, answer: Box<dyn FnOnce(Option<bool>) + Send>) {
        let question = Question::new(id, deletes, Instant::now() + limit, answer);
        self.flights.ask(id);
        if !self.fetchers.try_send(Job::Exists(question.clone())) {
            question.answer(None);
            self.flights.answered(id);
            return;
        }
        if self.questions.try_send(question.clone()).is_err() {
            question.answer(None);
        }
    }

    /// Deletes here; whether the object existed, where that is known without asking Redis. Where it is not, the id counts as in
    /// flight, so that the delete does not overtake the question.
    fn delete_here(&self, id: &[u8]) -> Result<Option<bool>, Error> {
        let tier = self.tier()?;
        let _inside = tier.gate.enter()?;
        let known = tier.known(id)?;
        if known == Known::Nothing {
            self.flights.ask(id);
        }
        let existed = tier.delete_telling(id, &|known| self.flights.deleting(id, known)).inspect_err(|_| {
            if known == Known::Nothing {
                self.flights.answered(id);
            }
        })?;
        if existed || known != Known::Nothing {
            if known == Known::Nothing {
                self.flights.answered(id);
            }
            return Ok(Some(existed));
        }
        Ok(None)
    }
}

impl Backend for TieredBackend {
    fn put(&self, id: &[u8], data: &[u8], metadata: &[u8], stored: OnStored<'_>) -> Result<(), Error> {
        self.options.check_size(id, data.len() as u64 + metadata.len() as u64)?;
        self.local.put(id, data, metadata, stored)
    }

    fn writer(&self, id: &[u8], data_bytes: u64, metadata: &[u8]) -> Result<Box<dyn Writer>, Error> {
        self.options.check_size(id, data_bytes.saturating_add(metadata.len() as u64))?;
        self.local.writer(id, data_bytes, metadata)
    }

    fn get(&self, id: &[u8]) -> Result<Option<Object>, Error> {
        if let Some(object) = self.get_here(id)? {
            return Ok(Some(object));
        }
        let (sender, receiver) = bounded(1);
        self.fetch(id, Some(Box::new(move |fetched| drop(sender.send(fetched)))));
        match receiver.recv_timeout(self.patience()) {
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

    fn seek(&self, id: &[u8]) {
        self.fetch(id, None);
    }

    fn contains(&self, id: &[u8]) -> Result<bool, Error> {
        if self.get_here(id)?.is_some() {
            return Ok(true);
        }
        if self.tier()?.known(id)? != Known::Nothing {
            return Ok(self.get(id)?.is_some()); // the versions have to be compared
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

    fn usage(&self) -> Usage {
        let usage = self.local.usage();
        Usage { damaged_objects: usage.damaged_objects + self.health.damaged.load(Ordering::Relaxed), ..usage }
    }

    fn flush(&self) -> Result<(), Error> {
        self.local.flush()
    }

    fn clear(&self) -> Result<(), Error> {
        self.local.clear()?;
        let mut link = self.connect(Duration::ZERO)?;
        server::scan_ids(&mut link, &self.keys, |_, ids| {
            // Those that only the `redis` backend takes are none of this store's.
            let mut ids = ids.iter().filter(|id| IdBytes::ORDINARY.allow(id));
            ids.try_for_each(|id| self.local.delete(id).map(drop))
        })
    }

    fn close(&self) -> Result<(), Error> {
        let Some(Running { drain, drained, ended }) = self.running.lock().take() else { return Ok(()) };
        if self.tier().is_err() {
            std::mem::forget((drain, drained, ended));
            return self.local.close();
        }
        let limit = Duration::from_millis(self.options.drain_timeout_ms);
        let _ = drain.send(Instant::now() + limit);
        // A connection that hangs may take longer than that; the rest is pushed by the next open.
        let _ = drained.recv_timeout(limit + LISTENERS_WAIT_MAX);
        self.stop_threads();
        let _ = ended.recv_timeout(LISTENERS_WAIT_MAX);
        self.local.close()
    }

    fn place(&self) -> String {
        format!("{} and {}", self.local.place(), self.target.address())
    }

    fn name(&self) -> &'static str {
        "tiered"
    }
}

fn outbox_options(config: &StoreConfig, wake: Sender<()>) -> OutboxOptions {
    let options = &config.redis;
    OutboxOptions {
        slots: config.local.slots,
        prefix: options.key_prefix.clone(),
        object_ttl_ms: options.object_ttl_seconds.saturating_mul(1000),
        tombstone_ttl_ms: options.tombstone_ttl_seconds.saturating_mul(1000),
        wake,
    }
}

impl Health {
    fn count_damaged(&self) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
    }

    fn is_away(&self) -> bool {
        self.is_away.load(Ordering::Relaxed)
    }

    /// Says in the log that Redis went away, or is back; once.
    fn set_away(&self, error: Option<&Error>) {
        let was_away = self.is_away.swap(error.is_some(), Ordering::Relaxed);
        match error {
            Some(error) if !was_away => tracing::warn!("{error}; local work goes on, the rest follows when it is back"),
            None if was_away => tracing::info!("Redis is back"),
            _ => {}
        }
    }
}
