//! The process that is killed.

use std::fs::File;
use std::os::fd::FromRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use scaler_object_storage::{Durability, Error, Object, ObjectStore, Underlying};

use crate::common::splitmix;
use crate::content::Content;
use crate::mirror::MirrorDisk;
use crate::report::{Event, Report};

/// The environment variable that makes this program the child.
pub const ORDER: &str = "CRASH_CHILD";

/// Ids are put, deleted, overwritten; those from `TARGETS` on also get duplicates of those below.
pub const IDS: u8 = 40;
pub const TARGETS: u8 = 20;

const THREADS: u64 = 4;

/// So small that segments are sealed, reclaimed and their numbers move on within a round.
const SIZE_MB: u64 = 32;

/// What a child is to do.
#[derive(Clone, Debug)]
pub struct Order {
    pub directory: PathBuf,
    /// Where to keep what was synced, if the rest is to be lost.
    pub mirror: Option<PathBuf>,
    pub durability: Durability,
    pub seed: u64,
    /// How many operations each thread is to make before the store is closed; 0: until it is killed.
    pub operations: u64,
}

impl Order {
    pub fn encode(&self) -> String {
        let mirror = self.mirror.as_ref().map_or(String::new(), |path| path.display().to_string());
        let is_disk = u8::from(self.durability == Durability::Disk);
        format!("{}\n{mirror}\n{is_disk}\n{}\n{}", self.directory.display(), self.seed, self.operations)
    }

    /// The order that this process was given, if it is a child.
    pub fn received() -> Option<Order> {
        let text = std::env::var(ORDER).ok()?;
        let mut lines = text.split('\n');
        let mut next = || lines.next().unwrap();
        Some(Order {
            directory: next().into(),
            mirror: Some(next()).filter(|path| !path.is_empty()).map(PathBuf::from),
            durability: if next() == "1" { Durability::Disk } else { Durability::Process },
            seed: next().parse().unwrap(),
            operations: next().parse().unwrap(),
        })
    }
}

struct Child {
    store: ObjectStore,
    pipe: File,
    operations: AtomicU64,
}

/// Opens the store, says what is in it, and changes it.
pub fn run(order: &Order) -> ! {
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("child: {panic}");
        std::process::exit(101);
    }));
    // Sound: the parent made the writing end of a pipe this process's standard input, which nothing else here uses.
    let pipe = unsafe { File::from_raw_fd(0) };
    let mut builder = ObjectStore::builder().local(&order.directory).max_size_mb(SIZE_MB).durability(order.durability);
    if let Some(mirror) = &order.mirror {
        let disk = Arc::new(MirrorDisk::resume(&order.directory, mirror, order.seed));
        builder = builder.under(Underlying { disk, ..Underlying::default() });
    }
    let store = builder.open().unwrap();
    let child = Arc::new(Child { store, pipe, operations: AtomicU64::new(0) });
    child.look();
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (child, order) = (Arc::clone(&child), order.clone());
            std::thread::spawn(move || child.change(&order, thread))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    child.store.close().unwrap();
    child.report(Event::Closed, 0, 0, 0);
    std::process::exit(0);
}

pub fn id(number: u8) -> Vec<u8> {
    format!("object {number}").into_bytes()
}

impl Child {
    fn report(&self, event: Event, id: u8, operation: u64, value: u64) {
        Report { event, id, operation, value }.send(&self.pipe);
    }

    fn look(&self) {
        let info = self.store.info();
        self.report(Event::Opened, 0, 0, info.damaged_objects);
        let mut found = 0;
        for number in 0..IDS {
            match self.read(number) {
                Some(content) => {
                    found += 1;
                    self.report(Event::Found, number, 0, content.0);
                }
                None => self.report(Event::NotFound, number, 0, 0),
            }
        }
        assert_eq!(self.store.info().objects, found, "objects counted at open");
        self.report(Event::Looked, 0, 0, self.store.info().damaged_objects);
    }

    /// Reads an object, which must be something that somebody wrote.
    fn read(&self, number: u8) -> Option<Content> {
        let object = self.store.get(&id(number)).unwrap()?;
        let content = Content::of(&object);
        Some(content.unwrap_or_else(|| {
            let Object { data, metadata } = object;
            panic!("object {number} holds wrong bytes: {} of data, metadata {metadata:?}", data.len())
        }))
    }

    fn change(&self, order: &Order, thread: u64) {
        let mut random = order.seed ^ (thread << 32);
        let mut made = 0;
        while order.operations == 0 || made < order.operations {
            self.change_once(&mut random, thread);
            made += 1;
        }
    }

    fn change_once(&self, random: &mut u64, thread: u64) {
        let number = (splitmix(random) % u64::from(IDS)) as u8;
        // Of all rounds and threads, the only one with this number.
        let operation = self.operations.fetch_add(1, Ordering::Relaxed);
        let unique = splitmix(random) >> 10 ^ thread;
        let content = Content::choose(random, unique);
        let id = id(number);
        let done = match splitmix(random) % 100 {
            0..40 => {
                self.report(Event::StartedPut, number, operation, content.0);
                self.store.put(&id, content.data(), &content.metadata()).map(|()| true)
            }
            40..50 => {
                let is_committed = !splitmix(random).is_multiple_of(4);
                if is_committed {
                    self.report(Event::StartedPut, number, operation, content.0);
                }
                let streamed = self.stream(&id, content, is_committed);
                if !is_committed {
                    return;
                }
                streamed.map(|()| true)
            }
            50..70 => {
                self.report(Event::StartedDelete, number, operation, 0);
                self.store.delete(&id)
            }
            70..85 if number >= TARGETS => {
                let original = (splitmix(random) % u64::from(TARGETS)) as u8;
                self.report(Event::StartedDuplicate, number, operation, u64::from(original));
                self.store.duplicate(&super::child::id(original), &id)
            }
            99 => {
                self.report(Event::StartedFlush, 0, operation, 0);
                self.store.flush().map(|()| true)
            }
            _ => {
                self.read(number);
                return;
            }
        };
        match done {
            Ok(true) => self.report(Event::Done, number, operation, 0),
            Ok(false) | Err(Error::Full { .. }) => self.report(Event::Refused, number, operation, 0),
            Err(error) => panic!("operation {operation} on object {number}: {error}"),
        }
    }

    fn stream(&self, id: &[u8], content: Content, is_committed: bool) -> Result<(), Error> {
        let data = content.data();
        let mut writer = self.store.writer(id, data.len() as u64, &content.metadata())?;
        for piece in data.chunks(50_000) {
            writer.write(piece)?;
        }
        if is_committed { writer.commit() } else { Ok(()) }
    }
}
