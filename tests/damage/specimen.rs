//! A directory to damage, and what it held.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use scaler_object_storage::{Error, Object, ObjectStore, ObjectStoreBuilder};
use tempfile::TempDir;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::common::{bytes, object};

pub const LENGTHS: [usize; 8] = [0, 100, 1500, 4096, 20_000, 65_000, 70_000, 1_200_000];

pub struct Specimen {
    pub place: TempDir,
    /// What every id held, in order: None where it was deleted.
    pub history: BTreeMap<Vec<u8>, Vec<Option<Object>>>,
    pub store: Option<ObjectStore>,
}

pub fn builder(directory: &Path) -> ObjectStoreBuilder {
    ObjectStore::builder().local(directory).max_size_mb(64)
}

impl Specimen {
    pub fn empty() -> Self {
        let place = TempDir::new().unwrap();
        let store = builder(&place.path().join("store")).open().unwrap();
        Specimen { place, history: BTreeMap::new(), store: Some(store) }
    }

    /// Objects of every kind in several segments: overwritten, deleted, put again, shared, large. Each length has ids of its own.
    pub fn typical() -> Self {
        let mut specimen = Self::empty();
        for round in 0..3u64 {
            for (number, length) in (0..).zip(LENGTHS) {
                for kind in ["old", "overwritten", "deleted", "again"] {
                    let seed = 1 + number * 100 + round * 10 + kind.len() as u64;
                    if round == 0 || kind != "old" {
                        specimen.put(&format!("{kind} {number}"), seed, length);
                    }
                }
                if round != 1 {
                    specimen.delete(&format!("deleted {number}"));
                } else {
                    specimen.delete(&format!("again {number}"));
                }
                specimen.duplicate(&format!("again {number}"), &format!("duplicate {number}"));
            }
            // A new segment.
            specimen.reopen();
        }
        specimen
    }

    fn store(&self) -> &ObjectStore {
        self.store.as_ref().unwrap()
    }

    pub fn put(&mut self, id: &str, seed: u64, length: usize) {
        let object = object(&bytes(seed, length), id.as_bytes());
        self.store().put(id.as_bytes(), &object.data, &object.metadata).unwrap();
        self.history.entry(id.into()).or_default().push(Some(object));
    }

    pub fn delete(&mut self, id: &str) {
        if self.store().delete(id.as_bytes()).unwrap() {
            self.history.get_mut(id.as_bytes()).unwrap().push(None);
        }
    }

    pub fn duplicate(&mut self, original: &str, new: &str) {
        if self.store().duplicate(original.as_bytes(), new.as_bytes()).unwrap() {
            let object = self.history[original.as_bytes()].last().unwrap().clone();
            self.history.entry(new.into()).or_default().push(object);
        }
    }

    pub fn directory(&self) -> PathBuf {
        self.place.path().join("store")
    }

    pub fn close(&mut self) {
        self.store.take().unwrap().close().unwrap();
    }

    pub fn reopen(&mut self) {
        self.close();
        self.store = Some(builder(&self.directory()).open().unwrap());
    }

    /// A copy of the directory, to do with as one likes.
    pub fn copy(&self) -> PathBuf {
        let copy = self.place.path().join("copy");
        fs::remove_dir_all(&copy).unwrap_or_default();
        copy_directory(&self.directory(), &copy);
        copy
    }

    pub fn now(&self, id: &[u8]) -> Option<Object> {
        self.history[id].last().unwrap().clone()
    }

    pub fn live(&self) -> usize {
        self.history.values().filter(|states| states.last().unwrap().is_some()).count()
    }
}

/// What was found in a damaged directory.
#[derive(Debug, Default)]
pub struct Findings {
    /// Not served.
    pub missing: BTreeSet<String>,
    /// Served as they once were.
    pub outdated: BTreeSet<String>,
    pub damaged_objects: u64,
    pub log: Vec<String>,
}

/// Opens a damaged directory, reads everything, writes, deletes, and opens it again. Whatever is damaged: no bytes that nobody wrote,
/// what is not served is counted and named in the log, and writes do what they always do.
#[track_caller]
pub fn examine(specimen: &Specimen, directory: &Path) -> Findings {
    let mut findings = Findings::default();
    let (store, log) = logged(|| {
        let store = builder(directory).open().unwrap();
        for (id, states) in &specimen.history {
            let found = store.get(id).unwrap();
            let name = String::from_utf8(id.clone()).unwrap();
            if found == *states.last().unwrap() {
                continue;
            }
            match found {
                None => findings.missing.insert(name),
                Some(_) => {
                    assert!(states.contains(&found), "{name} holds what nobody wrote");
                    findings.outdated.insert(name)
                }
            };
        }
        store
    });
    findings.damaged_objects = store.info().damaged_objects;
    findings.log = log;
    if !findings.missing.is_empty() {
        assert!(findings.damaged_objects > 0, "not counted: {findings:?}");
        assert!(!findings.log.is_empty(), "not in the log: {findings:?}");
    }
    let served = specimen.live() - findings.missing.len();
    let resurrected = findings.outdated.iter().filter(|id| specimen.now(id.as_bytes()).is_none()).count();
    assert_eq!(store.info().objects, (served + resurrected) as u64, "{findings:?}");

    // From here on it is a store like any other.
    for (number, id) in specimen.history.keys().enumerate() {
        if number % 3 > 0 {
            store.put(id, &bytes(number as u64, number * 900), b"new").unwrap();
        }
        if number % 3 < 2 {
            store.delete(id).unwrap();
        }
    }
    let check = |store: &ObjectStore| {
        for (number, id) in specimen.history.keys().enumerate() {
            let expected = (number % 3 == 2).then(|| object(&bytes(number as u64, number * 900), b"new"));
            let name = String::from_utf8_lossy(id);
            assert_eq!(store.get(id).unwrap(), expected, "{name}, {findings:?}");
        }
    };
    check(&store);
    store.close().unwrap();
    check(&builder(directory).open().unwrap());
    findings
}

pub fn segments(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory.join("journal")).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some_and(|it| it == extension)).collect();
    paths.sort();
    paths
}

pub fn flip(path: &Path, position: usize, bit: u8) {
    let mut content = fs::read(path).unwrap();
    content[position] ^= 1 << bit;
    fs::write(path, content).unwrap();
}

pub fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_directory(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// Waits until the store has nothing to do in its directory.
pub fn settle(directory: &Path) {
    let listing = || {
        let entries = fs::read_dir(directory.join("journal")).unwrap().map(|entry| entry.unwrap());
        let mut listing: Vec<_> =
            entries.map(|entry| (entry.path(), entry.metadata().map_or(0, |it| it.len()))).collect();
        listing.sort();
        listing
    };
    let (mut before, mut quiet) = (Vec::new(), 0);
    while quiet < 4 {
        let now = listing();
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
        std::thread::sleep(std::time::Duration::from_millis(15));
    }
}

/// Runs something, and returns what this thread logged as errors and warnings.
pub fn logged<T>(run: impl FnOnce() -> T) -> (T, Vec<String>) {
    let log = Arc::new(Mutex::new(Vec::new()));
    let result = tracing::subscriber::with_default(Log(Arc::clone(&log)), run);
    let lines = log.lock().unwrap().clone();
    (result, lines)
}

struct Log(Arc<Mutex<Vec<String>>>);

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn event(&self, event: &Event<'_>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        self.0.lock().unwrap().push(message.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

pub fn open_error(directory: &Path) -> Error {
    match builder(directory).open() {
        Ok(_) => panic!("{} opens", directory.display()),
        Err(error) => error,
    }
}
