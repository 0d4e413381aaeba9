//! What a store must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use scaler_object_storage::{Error, Object, ObjectStore};

use crate::common::{bytes, object, splitmix};

/// Seed and length of data; its metadata is the seed.
pub type Content = (u64, usize);

type State = Option<Content>;

static POOL: LazyLock<Vec<u8>> = LazyLock::new(|| bytes(1, 12 << 20));

pub fn content_object((seed, length): Content) -> Object {
    let from = splitmix(&mut { seed }) as usize % (8 << 20);
    object(&POOL[from..from + length], &seed.to_le_bytes())
}

/// What may stand under each id: more than one thing where a failed operation may have had its effect.
#[derive(Clone, Default)]
pub struct Model {
    states: BTreeMap<Vec<u8>, BTreeSet<State>>,
    /// A sync failed: which effects the disk has is known only to the next open.
    pub sync_failed: bool,
}

/// Whether an error says that a sync of the journal failed, now or earlier. The catalog's are no reason to refuse a write.
pub fn is_about_sync(error: &Error) -> bool {
    match error {
        Error::Io { action: "sync", path, .. } => !path.iter().any(|name| name == "catalog"),
        error => matches!(error, Error::WritesRefused { .. }),
    }
}

impl Model {
    pub fn ids(&self) -> Vec<Vec<u8>> {
        self.states.keys().cloned().collect()
    }

    pub fn states(&self, id: &[u8]) -> BTreeSet<State> {
        self.states.get(id).cloned().unwrap_or_else(|| BTreeSet::from([None]))
    }

    /// An operation that would have made the id's content `state`.
    pub fn tried<T>(&mut self, id: &[u8], state: State, result: &Result<T, Error>) {
        self.tried_any(id, &BTreeSet::from([state]), result);
    }

    /// An operation that would have made the id's content one of `states`.
    pub fn tried_any<T>(&mut self, id: &[u8], states: &BTreeSet<State>, result: &Result<T, Error>) {
        let before = self.states(id);
        let after = match result {
            Ok(_) => states.clone(),
            Err(error) if is_about_sync(error) => {
                self.sync_failed = true;
                &before | states
            }
            Err(_) => before,
        };
        self.states.insert(id.to_vec(), after);
    }

    /// Every object was to be deleted. Where that failed, some may be.
    pub fn tried_clear(&mut self, result: &Result<(), Error>) {
        for states in self.states.values_mut() {
            match result {
                Ok(()) => *states = BTreeSet::from([None]),
                Err(_) => drop(states.insert(None)),
            }
        }
        self.sync_failed |= result.as_ref().is_err_and(is_about_sync);
    }

    /// What was read is one of the things that may stand there.
    #[track_caller]
    pub fn read(&mut self, id: &[u8], found: Option<&Object>) {
        let states = self.states(id);
        let fits = |state: &&State| state.map(content_object).as_ref() == found;
        let Some(state) = states.iter().find(fits) else {
            let shown = found.map(|object| (object.metadata.to_vec(), object.data.len()));
            panic!("{} is {shown:?}, not one of {states:?}", String::from_utf8_lossy(id));
        };
        if !self.sync_failed {
            self.states.insert(id.to_vec(), BTreeSet::from([*state]));
        }
    }

    /// An operation says whether the object exists.
    #[track_caller]
    pub fn said(&self, id: &[u8], exists: bool) {
        let states = self.states(id);
        let fits = |state: &State| state.is_some() == exists;
        assert!(states.iter().any(fits), "{}: exists: {exists}, but is {states:?}", String::from_utf8_lossy(id));
    }

    /// The store reads, and holds what the model says.
    #[track_caller]
    pub fn check(&mut self, store: &ObjectStore) {
        for id in self.ids() {
            let name = String::from_utf8_lossy(&id);
            let found = store.get(&id).unwrap_or_else(|error| panic!("{name} cannot be read: {error}"));
            self.read(&id, found.as_ref());
            assert_eq!(store.contains(&id).unwrap(), found.is_some(), "{name}");
        }
        let info = store.info();
        assert_eq!(info.damaged_objects, 0);
        if !self.sync_failed {
            let objects = self.states.values().filter(|states| !states.contains(&None)).count();
            assert_eq!(info.objects, objects as u64);
        }
    }
}
