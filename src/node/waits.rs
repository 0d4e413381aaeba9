//! What the keeper is to tell this process: that objects exist, and whether deleted ones existed.

use std::collections::HashMap;
use std::time::Instant;

use parking_lot::Mutex;

use crate::backend::OnDeleted;

/// What the keeper is to tell.
#[derive(Default)]
pub(super) struct Waits {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    objects: HashMap<u64, Wait>,
    deletes: HashMap<u64, Delete>,
    is_listening: bool,
}

struct Wait {
    id: Box<[u8]>,
    /// Those who began to wait before then are answered.
    since_before: Instant,
    /// The session whose keeper knows of it.
    session: Option<u64>,
}

struct Delete {
    answer: OnDeleted,
    /// The session whose keeper will say whether the object existed.
    session: Option<u64>,
}

/// Waits that somebody has to be told of, found when one connection listens.
#[derive(Default)]
pub(super) struct Found {
    /// Names and ids that the keeper of the session does not know of.
    pub unknown: Vec<(u64, Box<[u8]>)>,
    /// Names that it knows of, and that nobody waits for any more.
    pub idle: Vec<u64>,
    /// Those whom only a keeper that is gone could have told whether the object existed.
    pub forgotten: Vec<OnDeleted>,
}

impl Waits {
    /// Somebody waits for the id, and no keeper knows of it yet.
    pub fn add(&self, name: u64, id: &[u8]) {
        let wait = Wait { id: id.into(), since_before: Instant::now(), session: None };
        self.state.lock().objects.insert(name, wait);
    }

    /// The keeper of this session is about to know of it.
    pub fn register(&self, name: u64, session: u64) {
        if let Some(wait) = self.state.lock().objects.get_mut(&name) {
            wait.session = Some(session);
        }
    }

    /// The object of these names exists: the ids, and since before when those have waited who may have it.
    pub fn take(&self, names: &[u64]) -> Vec<(Box<[u8]>, Instant)> {
        let mut state = self.state.lock();
        let waits = names.iter().filter_map(|name| state.objects.remove(name));
        waits.map(|wait| (wait.id, wait.since_before)).collect()
    }

    pub fn add_delete(&self, name: u64, answer: OnDeleted) {
        self.state.lock().deletes.insert(name, Delete { answer, session: None });
    }

    /// What has to be done while the keeper of this session is listened to. `has_any` says whether somebody waits for an id.
    pub fn look_after(&self, session: u64, has_any: impl Fn(&[u8]) -> bool) -> Found {
        let (mut found, mut state) = (Found::default(), self.state.lock());
        state.objects.retain(|name, wait| {
            if !has_any(&wait.id) {
                found.idle.extend(wait.session.filter(|number| *number == session).map(|_| *name));
                return false;
            }
            if wait.session != Some(session) {
                // All of them have waited since before this keeper is asked.
                wait.since_before = Instant::now();
                found.unknown.push((*name, wait.id.clone()));
            }
            true
        });
        let is_forgotten = |_: &u64, delete: &mut Delete| delete.session.is_some_and(|number| number != session);
        found.forgotten = state.deletes.extract_if(is_forgotten).map(|(_, delete)| delete.answer).collect();
        found
    }

    /// Has `start` start the thread that listens, where there is none.
    pub fn listen_once<E>(&self, start: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let mut state = self.state.lock();
        if !state.is_listening {
            start()?;
            state.is_listening = true;
        }
        Ok(())
    }

    /// The keeper has told of these, of one object: since before when those have waited who may have it. They are waited for no more.
    pub fn told(&self, names: &[u64]) -> Option<Instant> {
        let mut state = self.state.lock();
        names.iter().filter_map(|name| state.objects.remove(name)).map(|wait| wait.since_before).max()
    }

    /// No keeper knows of these: the thread that listens registers them again.
    pub fn unregister(&self, names: &[u64]) {
        let mut state = self.state.lock();
        for name in names {
            if let Some(wait) = state.objects.get_mut(name) {
                wait.session = None;
            }
        }
    }

    pub fn take_delete(&self, name: u64) -> Option<OnDeleted> {
        self.state.lock().deletes.remove(&name).map(|delete| delete.answer)
    }

    /// The keeper of this session will say.
    pub fn delete_is_later(&self, name: u64, session: u64) {
        if let Some(delete) = self.state.lock().deletes.get_mut(&name) {
            delete.session = Some(session);
        }
    }

    /// Drops everything unanswered: the store is closed.
    pub fn close(&self) {
        let dropped = {
            let mut state = self.state.lock();
            (std::mem::take(&mut state.objects), std::mem::take(&mut state.deletes))
        };
        drop(dropped);
    }
}
