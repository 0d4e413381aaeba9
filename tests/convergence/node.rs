//! A node: a store, and threads that read and write in it what they are told to.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use scaler_object_storage::{
    Error, Object, ObjectStore, ObjectStoreBuilder, Parked, RedisOptions, Ticket, ValueFormat, Waited,
};

use crate::clock::{nanoseconds, set_ahead};
use crate::common::splitmix;
use crate::content::Content;
use crate::hardship::{limit_descriptors, send_signals};
use crate::report::{Command, Event, Report};
use crate::settings::{Extra, Settings};

/// The environment variable that makes this program a node.
pub const ORDER: &str = "CONVERGENCE_NODE";

const THREADS: u64 = 3;

/// How many ids are read and written at a time. Others take their place, so that each has its last write at another moment.
const IDS_AT_A_TIME: u64 = 6;

/// How long until the next id takes the place of the oldest.
pub const ID_EVERY: Duration = Duration::from_millis(60);

/// One id in so many gets duplicates, of the others.
const TARGET_EVERY: u64 = 4;

/// Which node to be.
#[derive(Clone, Debug)]
pub struct Order {
    /// The seed of its world.
    pub world: u64,
    pub directory: PathBuf,
    pub url: String,
    pub settings: Settings,
    pub node: u64,
    /// How often it was open before.
    pub life: u64,
    /// By how many seconds its time of day is ahead, where it is a process of its own.
    pub ahead: i64,
}

impl Order {
    pub fn encode(&self) -> String {
        let settings = self.settings.encode();
        let Order { world, directory, url, node, life, ahead, .. } = self;
        format!("{world}\n{}\n{url}\n{settings}\n{node}\n{life}\n{ahead}", directory.display())
    }

    /// The order that this process was given, if it is a node.
    pub fn received() -> Option<Order> {
        let text = std::env::var(ORDER).ok()?;
        let mut lines = text.split('\n');
        let mut next = || lines.next().unwrap();
        Some(Order {
            world: next().parse().unwrap(),
            directory: next().into(),
            url: next().to_owned(),
            settings: Settings::decode(next()),
            node: next().parse().unwrap(),
            life: next().parse().unwrap(),
            ahead: next().parse().unwrap(),
        })
    }
}

/// A store as all nodes open it.
pub fn builder(directory: &Path, url: &str, settings: &Settings) -> ObjectStoreBuilder {
    let builder = ObjectStore::builder().tiered(directory, url).max_size_mb(settings.size_mb);
    builder.redis_options(|options| self::options(settings, options))
}

pub fn options(settings: &Settings, options: &mut RedisOptions) {
    options.connection_pool_size = 2;
    options.settle_ms = 500;
    options.connect_timeout_ms = 500;
    options.response_timeout_ms = 500;
    options.tombstone_ttl_seconds = 3600;
    options.drain_timeout_ms = settings.drain_ms;
    if settings.has(Extra::Python) {
        options.value_format = ValueFormat::Python;
    }
}

pub fn id(round: u64, number: u64) -> Vec<u8> {
    format!("round {round} object {number}").into_bytes()
}

/// What an object holds, which must be something that somebody wrote (invariant 7).
pub fn content(id: u64, object: &Object) -> Content {
    let Object { data, metadata } = object;
    Content::of(object)
        .unwrap_or_else(|| panic!("object {id} holds wrong bytes: {} of data, metadata {metadata:?}", data.len()))
}

struct Node {
    store: ObjectStore,
    settings: Settings,
    stream: Mutex<UnixStream>,
    /// Of all nodes and lives, the only one with these high bits.
    name: u64,
    operations: AtomicU64,
    round: AtomicU64,
    began: AtomicU64,
    stops: AtomicBool,
    waits: Mutex<Vec<Wait>>,
}

/// A request that was parked.
struct Wait {
    id: u64,
    answered: Arc<AtomicBool>,
    _ticket: Ticket,
}

/// Opens the store and obeys until it is told to close, or whoever tells is gone.
pub fn serve(order: &Order, stream: UnixStream) {
    let _ending = Ending(stream.try_clone().unwrap());
    if order.settings.is_process(order.node) {
        set_ahead(order.ahead);
    }
    let store = builder(&order.directory, &order.url, &order.settings).open().unwrap();
    let mut commands = stream.try_clone().unwrap();
    let node = Arc::new(Node {
        store,
        settings: order.settings.clone(),
        stream: Mutex::new(stream),
        name: order.node << 44 | order.life << 32,
        operations: AtomicU64::new(0),
        round: AtomicU64::new(0),
        began: AtomicU64::new(0),
        stops: AtomicBool::new(false),
        waits: Mutex::default(),
    });
    node.report(Event::Opened, 0, 0, 0);
    let mut workers = Vec::new();
    while let Some(command) = Command::receive(&mut commands) {
        match command {
            Command::Begin { round, seed, began } => workers = node.begin(round, seed, began),
            Command::Stop => {
                node.stop(std::mem::take(&mut workers));
                node.report(Event::Stopped, 0, 0, 0);
            }
            Command::Look { ids } => node.look(ids),
            Command::Clock { ahead } => set_ahead(ahead),
            Command::Descriptors { more } => limit_descriptors(more),
            Command::Signals { are_sent } => send_signals(are_sent),
            Command::Close => break,
        }
    }
    // In the middle of whatever the workers do.
    node.store.close().unwrap();
    node.stop(workers);
    node.report(Event::Closed, 0, 0, 0);
}

/// Tells the other side that this node has ended, however it did.
struct Ending(UnixStream);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

impl Node {
    fn report(&self, event: Event, id: u64, operation: u64, value: u64) {
        let mut stream = self.stream.lock();
        // Who does not listen any more has seen enough.
        let _ = Report { event, id: id as u16, operation, value, at: nanoseconds() }.send(&mut *stream);
    }

    fn begin(self: &Arc<Self>, round: u64, seed: u64, began: u64) -> Vec<JoinHandle<()>> {
        self.stops.store(false, Ordering::SeqCst);
        self.waits.lock().clear();
        self.round.store(round, Ordering::SeqCst);
        self.began.store(began, Ordering::SeqCst);
        let worker = |thread: u64| {
            let node = Arc::clone(self);
            let mut random = seed ^ thread << 40;
            std::thread::spawn(move || {
                while !node.stops.load(Ordering::SeqCst) {
                    node.act(&mut random);
                    std::thread::sleep(Duration::from_micros(splitmix(&mut random) % 12_000));
                }
            })
        };
        (0..THREADS).map(worker).collect()
    }

    fn stop(&self, workers: Vec<JoinHandle<()>>) {
        self.stops.store(true, Ordering::SeqCst);
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    }

    fn act(self: &Arc<Self>, random: &mut u64) {
        let passed = Duration::from_nanos(nanoseconds().saturating_sub(self.began.load(Ordering::SeqCst)));
        let first = (passed.as_millis() / ID_EVERY.as_millis()) as u64;
        let number = first + splitmix(random) % IDS_AT_A_TIME;
        let operation = self.name | self.operations.fetch_add(1, Ordering::Relaxed);
        let id = id(self.round.load(Ordering::SeqCst), number);
        let is_target = number % TARGET_EVERY == TARGET_EVERY - 1;
        match splitmix(random) % 100 {
            0..26 => self.put(&id, number, operation, random),
            26..40 => self.delete(&id, number, operation),
            40..55 if is_target => self.duplicate(&id, number, operation, random),
            55..75 => self.wait(&id, number, operation, random),
            _ => {
                self.report(Event::StartedGet, number, operation, 0);
                self.read(number, operation, self.store.get(&id));
            }
        }
    }

    /// Whether an operation may end with this: nothing is known of what it did then.
    fn may_fail(&self, error: &Error) -> bool {
        match error {
            Error::Closed | Error::Unreachable { .. } | Error::Denied { .. } => true,
            Error::Refused { .. } => self.settings.has(Extra::Rights),
            Error::Io { .. } | Error::Catalog { .. } => self.settings.has(Extra::Descriptors),
            _ => false,
        }
    }

    /// How a write ended.
    fn wrote(&self, number: u64, operation: u64, result: Result<bool, Error>) {
        match result {
            Ok(true) => self.report(Event::Done, number, operation, 0),
            Ok(false) | Err(Error::Full { .. }) => self.report(Event::Refused, number, operation, 0),
            Err(error) if self.may_fail(&error) => self.report(Event::Failed, number, operation, 0),
            Err(error) => panic!("operation {operation} on object {number}: {error}"),
        }
    }

    /// How a get ended.
    fn read(&self, number: u64, operation: u64, result: Result<Option<Object>, Error>) {
        match result {
            Ok(Some(object)) => self.report(Event::Got, number, operation, content(number, &object).0),
            Ok(None) => self.report(Event::GotNothing, number, operation, 0),
            Err(error) if self.may_fail(&error) => self.report(Event::Failed, number, operation, 0),
            Err(error) => panic!("operation {operation} on object {number}: {error}"),
        }
    }

    fn put(&self, id: &[u8], number: u64, operation: u64, random: &mut u64) {
        let content = Content::choose(random, operation);
        self.report(Event::StartedPut, number, operation, content.0);
        let put = self.store.put(id, content.data(), &content.metadata());
        self.wrote(number, operation, put.map(|()| true));
    }

    fn delete(&self, id: &[u8], number: u64, operation: u64) {
        self.report(Event::StartedDelete, number, operation, 0);
        // Of what is not there as well: another node may have it.
        self.wrote(number, operation, self.store.delete(id).map(|_| true));
    }

    fn duplicate(self: &Arc<Self>, new: &[u8], number: u64, operation: u64, random: &mut u64) {
        let original = number - 1 - splitmix(random) % (TARGET_EVERY - 1);
        self.report(Event::StartedDuplicate, number, operation, original);
        let original_id = id(self.round.load(Ordering::SeqCst), original);
        if splitmix(random).is_multiple_of(2) {
            return self.wrote(number, operation, self.store.duplicate(&original_id, new));
        }
        let (node, answered) = (Arc::clone(self), Arc::new(AtomicBool::new(false)));
        let is_answered = Arc::clone(&answered);
        let parked = self.store.duplicate_or_park(&original_id, new, move |done| {
            is_answered.store(true, Ordering::SeqCst);
            node.wrote(number, operation, done.map(|()| true));
        });
        match parked {
            Ok(Parked::Ready(())) => self.wrote(number, operation, Ok(true)),
            Ok(Parked::Waiting(_ticket)) => self.waits.lock().push(Wait { id: original, answered, _ticket }),
            Err(error) => self.wrote(number, operation, Err(error)),
        }
    }

    fn wait(self: &Arc<Self>, id: &[u8], number: u64, operation: u64, random: &mut u64) {
        self.report(Event::StartedGet, number, operation, 0);
        if splitmix(random).is_multiple_of(4) {
            let deadline = Instant::now() + Duration::from_millis(splitmix(random) % 100);
            match self.store.wait(id, Some(deadline), None) {
                Ok(Waited::Object(object)) => self.read(number, operation, Ok(Some(object))),
                Ok(_) => self.report(Event::Failed, number, operation, 0),
                Err(error) => self.read(number, operation, Err(error)),
            }
            return;
        }
        let (node, answered) = (Arc::clone(self), Arc::new(AtomicBool::new(false)));
        let is_answered = Arc::clone(&answered);
        let parked = self.store.get_or_park(id, move |object| {
            is_answered.store(true, Ordering::SeqCst);
            node.read(number, operation, Ok(Some(object)));
        });
        match parked {
            Ok(Parked::Ready(object)) => self.read(number, operation, Ok(Some(object))),
            Ok(Parked::Waiting(_ticket)) => self.waits.lock().push(Wait { id: number, answered, _ticket }),
            Err(error) => self.read(number, operation, Err(error)),
        }
    }

    fn look(&self, ids: u64) {
        let round = self.round.load(Ordering::SeqCst);
        for number in 0..ids {
            match self.store.get(&id(round, number)) {
                Ok(Some(object)) => self.report(Event::Holds, number, 0, content(number, &object).0),
                Ok(None) => self.report(Event::HoldsNothing, number, 0, 0),
                Err(_) => self.report(Event::Unclear, number, 0, 0),
            }
        }
        let mut waits = self.waits.lock();
        waits.retain(|wait| !wait.answered.load(Ordering::SeqCst));
        for wait in waits.iter() {
            self.report(Event::StillWaiting, wait.id, 0, 0);
        }
        self.report(Event::Looked, 0, 0, self.store.info().damaged_objects);
    }
}
