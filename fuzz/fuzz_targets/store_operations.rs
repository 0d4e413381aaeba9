//! A sequence of operations on a store does what it does to a map: on `memory`, and on `local` with the store reopened at any point.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use scaler_object_storage::{Object, ObjectStore, Parked, Ticket};
use tempfile::TempDir;

#[derive(Arbitrary, Debug)]
struct Input {
    /// One in eight runs on `local`, which is slower by far.
    backend: u8,
    operations: Vec<Operation>,
}

#[derive(Arbitrary, Debug)]
enum Operation {
    Put { id: Id, content: Content },
    Stream { id: Id, content: Content, piece_bytes: u16, written_bytes: Option<u32> },
    Get { id: Id },
    Contains { id: Id },
    Delete { id: Id },
    Duplicate { original: Id, new: Id },
    ParkGet { id: Id },
    ParkDuplicate { original: Id, new: Id },
    DropTickets,
    Clear,
    Flush,
    Reopen { close: bool },
}

/// Few different ids, so that operations meet; of any length that is valid.
#[derive(Arbitrary, Debug)]
struct Id {
    byte: u8,
    long: bool,
}

impl Id {
    fn bytes(&self) -> Vec<u8> {
        vec![self.byte % 4; if self.long { 512 } else { 1 }]
    }
}

/// Few different contents, so that payloads are shared.
#[derive(Arbitrary, Debug)]
struct Content {
    seed: u8,
    size: u8,
    metadata_bytes: u16,
}

/// On both sides of the limits at which a backend changes how it keeps bytes.
const SIZES: [usize; 12] = [0, 1, 10, 100, 500, 1023, 1024, 5000, 16_384, 16_385, 65_536, 65_537];

impl Content {
    fn object(&self) -> Object {
        let fill = self.seed % 3;
        let data = vec![fill; SIZES[usize::from(self.size) % SIZES.len()]];
        Object { data: data.into(), metadata: vec![fill + 100; usize::from(self.metadata_bytes % 2000)].into() }
    }
}

struct Run {
    store: Option<ObjectStore>,
    directory: Option<TempDir>,
    model: BTreeMap<Vec<u8>, Object>,
    handed_out: Vec<(Object, Object)>,
    /// Requests that are parked: the ids that they wait for, in order, with what a duplicate makes.
    parked: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    tickets: Vec<Ticket>,
    answered: Arc<AtomicU64>,
}

fuzz_target!(|input: Input| {
    let directory = input.backend.is_multiple_of(8).then(scratch);
    let mut run = Run {
        store: None,
        directory,
        model: BTreeMap::new(),
        handed_out: Vec::new(),
        parked: Vec::new(),
        tickets: Vec::new(),
        answered: Arc::default(),
    };
    run.store = Some(run.open());
    for operation in input.operations.iter().take(100) {
        run.perform(operation);
        run.check();
    }
    run.tickets.clear();
    for (held, expected) in &run.handed_out {
        assert!(held == expected, "handed-out bytes have changed");
    }
});

impl Run {
    fn open(&self) -> ObjectStore {
        let builder = match &self.directory {
            None => ObjectStore::builder().memory(),
            Some(directory) => ObjectStore::builder().local(directory.path()),
        };
        builder.max_size_mb(256).open().unwrap()
    }

    fn store(&self) -> &ObjectStore {
        self.store.as_ref().unwrap()
    }

    fn perform(&mut self, operation: &Operation) {
        match operation {
            Operation::Put { id, content } => {
                let object = content.object();
                self.store().put(&id.bytes(), &object.data, &object.metadata).unwrap();
                self.exists(id.bytes(), object);
            }
            Operation::Stream { id, content, piece_bytes, written_bytes } => {
                let object = content.object();
                let announced = object.data.len();
                let mut writer = self.store().writer(&id.bytes(), announced as u64, &object.metadata).unwrap();
                let written = written_bytes.map_or(announced, |bytes| bytes as usize % (announced + 1));
                for piece in object.data[..written].chunks(usize::from(*piece_bytes).max(64)) {
                    writer.write(piece).unwrap();
                }
                assert_eq!(writer.commit().is_ok(), written == announced);
                if written == announced {
                    self.exists(id.bytes(), object);
                }
            }
            Operation::Get { id } => {
                let got = self.store().get(&id.bytes()).unwrap();
                self.expect(&id.bytes(), got);
            }
            Operation::Contains { id } => {
                assert_eq!(self.store().contains(&id.bytes()).unwrap(), self.model.contains_key(&id.bytes()));
            }
            Operation::Delete { id } => {
                let existed = self.store().delete(&id.bytes()).unwrap();
                assert_eq!(existed, self.model.remove(&id.bytes()).is_some());
            }
            Operation::Duplicate { original, new } => {
                let existed = self.store().duplicate(&original.bytes(), &new.bytes()).unwrap();
                let object = self.model.get(&original.bytes()).cloned();
                assert_eq!(existed, object.is_some());
                if let Some(object) = object.filter(|_| original.bytes() != new.bytes()) {
                    self.exists(new.bytes(), object);
                }
            }
            Operation::ParkGet { id } => {
                let answered = Arc::clone(&self.answered);
                let answer = move |_| {
                    answered.fetch_add(1, Ordering::Relaxed);
                };
                match self.store().get_or_park(&id.bytes(), answer).unwrap() {
                    Parked::Ready(object) => self.expect(&id.bytes(), Some(object)),
                    Parked::Waiting(ticket) => self.parks(ticket, id.bytes(), None),
                }
            }
            Operation::ParkDuplicate { original, new } => {
                let answered = Arc::clone(&self.answered);
                let done = move |result: Result<(), _>| {
                    result.unwrap();
                    answered.fetch_add(1, Ordering::Relaxed);
                };
                match self.store().duplicate_or_park(&original.bytes(), &new.bytes(), done).unwrap() {
                    Parked::Ready(()) => {
                        let object = self.model[&original.bytes()].clone();
                        if original.bytes() != new.bytes() {
                            self.exists(new.bytes(), object);
                        }
                    }
                    Parked::Waiting(ticket) => self.parks(ticket, original.bytes(), Some(new.bytes())),
                }
            }
            Operation::DropTickets => {
                self.tickets.clear();
                self.parked.clear();
            }
            Operation::Clear => {
                self.store().clear().unwrap();
                self.model.clear();
            }
            Operation::Flush => self.store().flush().unwrap(),
            Operation::Reopen { close } => self.reopen(*close),
        }
    }

    /// The object has come to exist: who waits for it is answered, duplicates make objects in turn.
    fn exists(&mut self, id: Vec<u8>, object: Object) {
        let before = self.parked.len() as u64;
        let mut made = std::collections::VecDeque::from([id]);
        while let Some(id) = made.pop_front() {
            self.model.insert(id.clone(), object.clone());
            let (woken, parked) = std::mem::take(&mut self.parked).into_iter().partition(|(awaited, _)| *awaited == id);
            self.parked = parked;
            made.extend(woken.into_iter().filter_map(|(_, new): (Vec<u8>, Option<Vec<u8>>)| new));
        }
        let answered = self.answered.swap(0, Ordering::Relaxed);
        assert_eq!(answered, before - self.parked.len() as u64, "not everyone who waited was answered");
    }

    fn parks(&mut self, ticket: Ticket, awaited: Vec<u8>, new: Option<Vec<u8>>) {
        assert!(!self.model.contains_key(&awaited));
        self.tickets.push(ticket);
        self.parked.push((awaited, new));
    }

    fn expect(&mut self, id: &[u8], got: Option<Object>) {
        let expected = self.model.get(id);
        assert!(got.as_ref() == expected, "an object differs from the model");
        self.handed_out.extend(got.zip(expected.cloned()));
    }

    fn reopen(&mut self, close: bool) {
        let store = self.store.take().unwrap();
        self.tickets.clear();
        self.parked.clear();
        if store.info().backend == "memory" {
            self.model.clear();
        }
        if close {
            store.close().unwrap();
        }
        drop(store);
        self.store = Some(self.open());
    }

    fn check(&self) {
        let info = self.store().info();
        let contents: BTreeSet<_> = self.model.values().map(|object| (&object.data, &object.metadata)).collect();
        assert_eq!(info.objects, self.model.len() as u64);
        assert!(info.payloads >= contents.len() as u64 && info.payloads <= info.objects);
        assert_eq!(info.waiting_requests, self.parked.len() as u64);
        assert_eq!(info.damaged_objects, 0);
    }
}

/// In memory where that is possible: what is tested is not the disk.
fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}
