//! A store on a disk that can fail, and a model of what it must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use scaler_object_storage::{Durability, Error, Object, ObjectStore, ObjectStoreBuilder, Underlying};
use tempfile::TempDir;

use crate::common::{bytes, object, splitmix};
use crate::disk::FaultyDisk;

pub struct World {
    place: TempDir,
    durability: Durability,
    pub disk: FaultyDisk,
    pub store: ObjectStore,
    pub model: Model,
}

/// What may stand under each id: more than one thing where a failure left it open.
#[derive(Clone, Default)]
pub struct Model(BTreeMap<Vec<u8>, BTreeSet<Option<Content>>>);

/// Seed and length of data; its metadata is the seed.
pub type Content = (u64, usize);

static POOL: LazyLock<Vec<u8>> = LazyLock::new(|| bytes(1, 32 << 20));

pub fn content_object((seed, length): Content) -> Object {
    let from = splitmix(&mut { seed }) as usize % (8 << 20);
    object(&POOL[from..from + length], &seed.to_le_bytes())
}

impl World {
    pub fn new(durability: Durability) -> Self {
        let place = TempDir::new().unwrap();
        let disk = FaultyDisk::default();
        let store = builder(&place.path().join("store"), durability, &disk).open().unwrap();
        World { place, durability, disk, store, model: Model::default() }
    }

    pub fn directory(&self) -> PathBuf {
        self.place.path().join("store")
    }

    pub fn put(&mut self, id: &[u8], content: Content) -> Result<(), Error> {
        let Object { data, metadata } = content_object(content);
        let result = self.store.put(id, &data, &metadata);
        self.model.tried(id, Some(content), &result);
        result
    }

    pub fn stream(&mut self, id: &[u8], content: Content) -> Result<(), Error> {
        let Object { data, metadata } = content_object(content);
        let write = || {
            let mut writer = self.store.writer(id, data.len() as u64, &metadata)?;
            for piece in data.chunks(40_000) {
                writer.write(piece)?;
            }
            writer.commit()
        };
        let result = write();
        self.model.tried(id, Some(content), &result);
        result
    }

    pub fn delete(&mut self, id: &[u8]) -> Result<bool, Error> {
        let result = self.store.delete(id);
        self.model.tried(id, None, &result);
        result
    }

    pub fn duplicate(&mut self, original: &[u8], new: &[u8]) -> Result<bool, Error> {
        let result = self.store.duplicate(original, new);
        let states = self.model.0.get(original).cloned().unwrap_or_else(|| BTreeSet::from([None]));
        for state in states {
            if !matches!(result, Ok(false)) {
                self.model.tried(new, state, &result);
            }
        }
        result
    }

    /// The store holds what the model says.
    #[track_caller]
    pub fn check(&mut self) {
        self.model.check(&self.store);
    }

    /// What a process that is killed now leaves holds what the model says; also without its catalog.
    #[track_caller]
    pub fn check_killed(&self) {
        self.settle();
        for keeps_catalog in [true, false] {
            let copy = self.place.path().join("copy");
            fs::remove_dir_all(&copy).unwrap_or_default();
            copy_directory(&self.directory(), &copy);
            if !keeps_catalog {
                fs::remove_dir_all(copy.join("catalog")).unwrap();
            }
            let store = builder(&copy, self.durability, &FaultyDisk::default()).open().unwrap();
            self.model.clone().check(&store);
            assert_eq!(store.info().damaged_objects, 0, "with catalog: {keeps_catalog}");
            store.close().unwrap();
        }
    }

    /// Closes the store, however that goes, and opens it on a healthy disk.
    #[track_caller]
    pub fn reopen(&mut self) {
        // It fails where the disk still does.
        let _ = self.store.close();
        self.disk.heal();
        self.store = builder(&self.directory(), self.durability, &self.disk).open().unwrap();
        self.model.check(&self.store);
        assert_eq!(self.store.info().damaged_objects, 0);
    }

    /// Closes the store and opens it again, without looking at anything.
    pub fn reopen_unread(&mut self) {
        self.store.close().unwrap();
        self.try_reopen().unwrap();
    }

    /// Closes the store and says what opening it on the disk as it is brings.
    pub fn try_reopen(&mut self) -> Result<(), Error> {
        let _ = self.store.close();
        self.store = builder(&self.directory(), self.durability, &self.disk).open()?;
        Ok(())
    }

    /// Waits until the store changes nothing in its directory any more by itself.
    pub fn settle(&self) {
        let (mut before, mut quiet) = (Vec::new(), 0);
        while quiet < 3 {
            let now = listing(&self.directory().join("journal"));
            quiet = if now == before { quiet + 1 } else { 0 };
            before = now;
            std::thread::sleep(Duration::from_millis(15));
        }
    }
}

impl Model {
    /// An operation that would have made the id's content `state`. One that failed may have had its effect only where the record
    /// was written and could not be synced.
    fn tried<T>(&mut self, id: &[u8], state: Option<Content>, result: &Result<T, Error>) {
        let states = self.0.entry(id.to_vec()).or_insert_with(|| BTreeSet::from([None]));
        match result {
            Ok(_) => *states = BTreeSet::from([state]),
            Err(Error::Io { action: "sync", .. }) => drop(states.insert(state)),
            Err(_) => {}
        }
    }

    #[track_caller]
    pub fn check(&mut self, store: &ObjectStore) {
        for (id, states) in &mut self.0 {
            let found = store.get(id).unwrap();
            let fits = |state: &&Option<Content>| state.map(content_object) == found;
            let state = states.iter().find(fits).copied();
            let name = String::from_utf8_lossy(id);
            let shown = found.as_ref().map(|object| (object.metadata.to_vec(), object.data.len()));
            *states = BTreeSet::from([state.unwrap_or_else(|| panic!("{name} is {shown:?}, not one of {states:?}"))]);
            assert_eq!(store.contains(id).unwrap(), found.is_some(), "{name}");
        }
        let objects = self.0.values().filter(|states| !states.contains(&None)).count();
        assert_eq!(store.info().objects, objects as u64);
    }
}

pub fn builder(directory: &Path, durability: Durability, disk: &FaultyDisk) -> ObjectStoreBuilder {
    let under = Underlying { disk: Arc::new(disk.clone()), ..Underlying::default() };
    ObjectStore::builder().local(directory).max_size_mb(32).durability(durability).under(under)
}

pub fn listing(directory: &Path) -> Vec<(PathBuf, u64)> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut listing: Vec<_> = entries.filter_map(|path| Some((path.clone(), fs::metadata(path).ok()?.len()))).collect();
    listing.sort();
    listing
}

pub fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        match fs::copy(&path, &target) {
            _ if path.is_dir() => copy_directory(&path, &target),
            Err(error) if error.kind() != ErrorKind::NotFound => panic!("{}: {error}", path.display()),
            // Removed meanwhile by the store.
            _ => {}
        }
    }
}
