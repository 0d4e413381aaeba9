//! A store, a system under it that can fail, and a model of what the store must hold.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use scaler_object_storage::{Durability, Error, ObjectStore, ObjectStoreBuilder, Underlying};
use tempfile::TempDir;

use crate::common::splitmix;
use crate::disk::FaultyDisk;
use crate::model::{Content, Model, content_object, is_about_sync};
use crate::system::System;

const LENGTHS: [usize; 7] = [0, 100, 2000, 20_000, 65_000, 66_000, 700_000];
const IDS: u64 = 12;

/// Ends a test that would wait for ever.
const HANG: Duration = Duration::from_secs(40);

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub durability: Durability,
    pub max_size_mb: u64,
}

pub struct World {
    pub system: System,
    pub disk: FaultyDisk,
    pub settings: Settings,
    pub model: Model,
    store: Option<ObjectStore>,
    directory: PathBuf,
    random: u64,
    _place: Option<TempDir>,
}

/// A place for a store's directory, named as the kernel names it.
pub fn place() -> (TempDir, PathBuf) {
    let place = TempDir::new().unwrap();
    let path = place.path().canonicalize().unwrap();
    (place, path)
}

impl World {
    /// A new store.
    pub fn new(settings: Settings, seed: u64) -> Self {
        let (place, path) = place();
        World { _place: Some(place), ..Self::at(&path.join("store"), settings, seed) }
    }

    /// A new store in memory where the system has such a place: for what is not about the disk and would wait for it often.
    pub fn quick(settings: Settings, seed: u64) -> Self {
        let Ok(place) = TempDir::new_in("/dev/shm") else { return Self::new(settings, seed) };
        let path = place.path().canonicalize().unwrap();
        World { _place: Some(place), ..Self::at(&path.join("store"), settings, seed) }
    }

    /// A new store in a directory that is somebody else's to remove.
    pub fn at(directory: &Path, settings: Settings, seed: u64) -> Self {
        let mut world = Self::found(directory, settings, seed);
        world.open().unwrap();
        world
    }

    /// A store in a directory that is somebody else's to remove, not open yet.
    pub fn found(directory: &Path, settings: Settings, seed: u64) -> Self {
        World {
            system: System::below(directory),
            disk: FaultyDisk::default(),
            settings,
            model: Model::default(),
            store: None,
            directory: directory.into(),
            random: seed,
            _place: None,
        }
    }

    /// A store as this one's process would leave it, were it killed now; not open yet.
    pub fn killed(&self, seed: u64) -> Self {
        self.settle();
        self.copied(seed)
    }

    /// A store that has this one's directory as it is, not open yet.
    pub fn copied(&self, seed: u64) -> Self {
        let (place, path) = place();
        let directory = path.join("store");
        copy_directory(&self.directory, &directory);
        World { model: self.model.clone(), _place: Some(place), ..Self::found(&directory, self.settings, seed) }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn store(&self) -> &ObjectStore {
        self.store.as_ref().expect("open")
    }

    pub fn builder(&self) -> ObjectStoreBuilder {
        let under = Underlying { disk: Arc::new(self.disk.clone()), ..Underlying::default() };
        let builder = ObjectStore::builder().local(&self.directory).max_size_mb(self.settings.max_size_mb);
        builder.durability(self.settings.durability).under(under)
    }

    pub fn open(&mut self) -> Result<(), Error> {
        self.store = Some(self.builder().open()?);
        Ok(())
    }

    pub fn close(&mut self) -> Result<(), Error> {
        self.store.take().map_or(Ok(()), |store| store.close())
    }

    pub fn heal(&self) {
        self.system.heal();
        self.disk.heal();
    }

    pub fn put(&mut self, id: &[u8], content: Content) -> Result<(), Error> {
        let object = content_object(content);
        let result = self.store().put(id, &object.data, &object.metadata);
        self.model.tried(id, Some(content), &result);
        result
    }

    pub fn stream(&mut self, id: &[u8], content: Content) -> Result<(), Error> {
        let object = content_object(content);
        let write = || {
            let mut writer = self.store().writer(id, object.data.len() as u64, &object.metadata)?;
            for piece in object.data.chunks(40_000) {
                writer.write(piece)?;
            }
            writer.commit()
        };
        let result = write();
        self.model.tried(id, Some(content), &result);
        result
    }

    /// As `stream`, by somebody who goes on after a write that failed.
    pub fn stream_on(&mut self, id: &[u8], content: Content) -> Result<(), Error> {
        let object = content_object(content);
        let write = || {
            let mut writer = self.store().writer(id, object.data.len() as u64, &object.metadata)?;
            for piece in object.data.chunks(40_000) {
                let _ = writer.write(piece);
            }
            writer.commit()
        };
        let result = write();
        self.model.tried(id, Some(content), &result);
        result
    }

    pub fn delete(&mut self, id: &[u8]) -> Result<bool, Error> {
        let result = self.store().delete(id);
        if let Ok(existed) = result {
            self.model.said(id, existed);
        }
        self.model.tried(id, None, &result);
        result
    }

    pub fn duplicate(&mut self, original: &[u8], new: &[u8]) -> Result<bool, Error> {
        let result = self.store().duplicate(original, new);
        if let Ok(existed) = result {
            self.model.said(original, existed);
        }
        if !matches!(result, Ok(false)) {
            let states = self.model.states(original).into_iter().filter(Option::is_some).collect();
            self.model.tried_any(new, &states, &result);
        }
        result
    }

    pub fn clear(&mut self) -> Result<(), Error> {
        let result = self.store().clear();
        self.model.tried_clear(&result);
        result
    }

    pub fn get(&mut self, id: &[u8]) -> Result<(), Error> {
        let found = self.store().get(id)?;
        self.model.read(id, found.as_ref());
        self.model.said(id, self.store().contains(id)?);
        Ok(())
    }

    fn random(&mut self) -> u64 {
        splitmix(&mut self.random)
    }

    /// Some of everything, answers checked against the model. Returns what failed.
    pub fn live(&mut self, steps: usize) -> Vec<Error> {
        let mut failures = Vec::new();
        for _ in 0..steps {
            let id = [b'a' + (self.random() % IDS) as u8];
            let other = [b'a' + (self.random() % IDS) as u8];
            let content = (1 + self.random() % 40, LENGTHS[self.random() as usize % LENGTHS.len()]);
            let result = match self.random() % 40 {
                0..12 => self.put(&id, content),
                12..15 => self.stream(&id, content),
                15..20 => self.delete(&id).map(drop),
                20..24 if id != other => self.duplicate(&id, &other).map(drop),
                24..26 => self.store().flush(),
                26 => self.clear(),
                _ => self.get(&id),
            };
            self.model.sync_failed |= result.as_ref().is_err_and(is_about_sync);
            failures.extend(result.err());
            assert_eq!(self.store().info().damaged_objects, 0, "{failures:?}");
        }
        failures
    }

    /// As `live`, on a system that refuses nothing.
    #[track_caller]
    pub fn live_well(&mut self, steps: usize) {
        let failures = self.live(steps);
        assert!(failures.is_empty(), "{failures:?}");
    }

    /// The store holds what the model says.
    #[track_caller]
    pub fn check(&mut self) {
        self.model.check(self.store.as_ref().expect("open"));
    }

    /// Closes the store and opens it again; nothing fails but, after a failed sync, closing.
    #[track_caller]
    pub fn reopen(&mut self) {
        if let Err(error) = self.close() {
            assert!(self.model.sync_failed, "{error}");
        }
        self.open().unwrap();
        self.model.sync_failed = false;
        self.check();
    }

    /// Closes the store and opens it again, without looking at anything.
    #[track_caller]
    pub fn reopen_unread(&mut self) {
        self.close().unwrap();
        self.open().unwrap();
    }

    /// The catalog was never set aside.
    #[track_caller]
    pub fn check_catalog_kept(&self) {
        for entry in fs::read_dir(&self.directory).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(!name.starts_with("catalog."), "the catalog was set aside as {name}");
        }
    }

    /// Waits until the store changes nothing in its directory any more by itself. A copy that is taken while the catalog is written to is nothing
    /// that a killed process could leave.
    pub fn settle(&self) {
        let (mut before, mut quiet) = Default::default();
        soon("the directory rests", || {
            let now = (listing(&self.directory.join("journal")), changes(&self.directory.join("catalog")));
            quiet = if now == before { quiet + 1 } else { 0 };
            before = now;
            std::thread::sleep(Duration::from_millis(10));
            quiet >= 3
        });
    }
}

/// Waits until `condition` holds. The limit only ends a test that would hang.
#[track_caller]
pub fn soon(what: &str, mut condition: impl FnMut() -> bool) {
    let limit = Instant::now() + HANG;
    while !condition() {
        assert!(Instant::now() < limit, "still not so: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Names and lengths.
pub fn listing(directory: &Path) -> Vec<(PathBuf, u64)> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut listing: Vec<_> = entries.filter_map(|path| Some((path.clone(), fs::metadata(path).ok()?.len()))).collect();
    listing.sort();
    listing
}

/// Names, and when each was written to.
fn changes(directory: &Path) -> Vec<(PathBuf, SystemTime)> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let changed = |path: &PathBuf| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let mut changes: Vec<_> = entries.filter_map(|path| Some((path.clone(), changed(&path)?))).collect();
    changes.sort();
    changes
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
