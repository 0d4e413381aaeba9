//! What the keeper knows of each attached process: what it holds, and what it waits for.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, unbounded};
use parking_lot::Mutex;

use crate::backend::{KeeperStats, Ticket};
use crate::error::Error;
use crate::local::slots::{self, Slots};
use crate::local::{Lease, Placed, Reserved, is_locked};
use crate::object::Object;

/// What one process may wait for at a time.
const WAITS_MAX: usize = 1 << 16;

/// From its first greeting until its lock is free.
pub(super) struct Session {
    pub id: u64,
    path: PathBuf,
    slots: Slots,
    pins: Mutex<HashMap<u16, Pin>>,
    /// Objects that were waited for, until the process takes them.
    claims: Mutex<HashMap<u64, Object>>,
    waits: Mutex<HashMap<u64, Wait>>,
    /// What is to be told: counted with the waits.
    tell: Sender<Notice>,
    pub to_tell: Receiver<Notice>,
    connections: AtomicUsize,
    /// Its file's share of what the directory may take.
    _room: Option<Arc<Lease>>,
}

/// What a slot holds. The slot says whether it still does; what it holds, only this.
struct Pin {
    /// The slot as it is while it holds this: before the process has the answer, after, and while it only remembers it.
    words: [u64; 3],
    held: Held,
}

enum Held {
    Object {
        object: Object,
        /// Under which names it was claimed: until the slot is given back it may be claimed again.
        names: Box<[u64]>,
        segment: u32,
        /// Where its body begins, which is its metadata first.
        body_offset: u64,
    },
    Room(Box<Reserved>),
}

enum Wait {
    /// It is being parked.
    Parking,
    Parked(#[expect(dead_code, reason = "dropping it takes the wait back")] Ticket),
}

/// What the connection that listens is told.
pub(super) enum Notice {
    Exists { name: u64, object: Object },
    ToClaim { name: u64 },
    Deleted { name: u64, existed: bool },
}

/// Counts a connection of the session, until dropped.
pub(super) struct Connected(pub Arc<Session>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Session {
    /// Begins one; its file is for the process, which must get the only copy.
    pub fn begin(directory: &Path, room: Option<Arc<Lease>>) -> Result<(Arc<Session>, File), Error> {
        let sessions = directory.join(slots::DIRECTORY);
        match std::fs::create_dir(&sessions) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::io("make", &sessions)(error));
            }
            _ => {}
        }
        let (path, file, slots) = Slots::create(&sessions).map_err(Error::io("begin a session in", &sessions))?;
        let name = path.file_name().and_then(|name| name.to_str());
        let id = name.and_then(|name| u64::from_str_radix(name, 16).ok()).unwrap_or_default();
        let (tell, to_tell) = unbounded();
        let session = Session {
            id,
            path,
            slots,
            pins: Mutex::default(),
            claims: Mutex::default(),
            waits: Mutex::default(),
            tell,
            to_tell,
            connections: AtomicUsize::new(0),
            _room: room,
        };
        Ok((Arc::new(session), file))
    }

    pub fn connect(self: &Arc<Self>) -> Connected {
        self.connections.fetch_add(1, Ordering::SeqCst);
        Connected(Arc::clone(self))
    }

    /// Has the slot hold the object, which was claimed under these names; false where the process has given up asking in it.
    pub fn hold(&self, slot: u16, ticket: u64, object: Object, names: &[u64], place: &Placed) -> bool {
        let words = [slots::held(place.segment, place.offset), slots::remembered(place.segment, place.offset)];
        let body_offset = place.offset.saturating_sub(object.metadata.len() as u64);
        self.pin(slot, ticket, words, Held::Object { object, names: names.into(), segment: place.segment, body_offset })
    }

    /// Has the slot hold a place to write to.
    pub fn hold_room(&self, slot: u16, ticket: u64, reserved: Reserved) -> bool {
        let word = slots::writing(reserved.place.segment, reserved.place.offset);
        self.pin(slot, ticket, [word, word], Held::Room(Box::new(reserved)))
    }

    fn pin(&self, slot: u16, ticket: u64, [word, remembered]: [u64; 2], held: Held) -> bool {
        let Some(cell) = self.slots.get(slot) else { return false };
        let asked = slots::asked(ticket);
        let mut pins = self.pins.lock();
        // Given up, and perhaps asked in and answered anew: what the slot holds by now stays.
        if cell.load(Ordering::Acquire) != asked {
            return false;
        }
        // Before the slot says so: from then on the process may read.
        let before = pins.insert(slot, Pin { words: [asked, word, remembered], held });
        let is_held = cell.compare_exchange(asked, word, Ordering::AcqRel, Ordering::Acquire).is_ok();
        let dropped = if is_held { None } else { pins.remove(&slot) };
        drop(pins);
        drop((before, dropped));
        is_held
    }

    /// The place that was written to through the slot.
    pub fn take_room(&self, slot: u16) -> Option<Reserved> {
        let mut pins = self.pins.lock();
        if !matches!(pins.get(&slot)?.held, Held::Room(_)) {
            return None;
        }
        match pins.remove(&slot)?.held {
            Held::Room(reserved) => Some(*reserved),
            Held::Object { .. } => None,
        }
    }

    /// Drops what the process has given back.
    pub fn release(&self) {
        let mut pins = self.pins.lock();
        let is_given_back = |slot: &u16, pin: &mut Pin| {
            let word = self.slots.get(*slot).map(|cell| cell.load(Ordering::Acquire));
            word.is_none_or(|word| !pin.words.contains(&word))
        };
        let given_back: Vec<_> = pins.extract_if(is_given_back).collect();
        drop(pins);
        drop(given_back);
    }

    /// Takes back what the process only remembers of bodies that are dead, and drops what it has given back.
    pub fn take_back(&self, is_dead: &dyn Fn(u32, u64) -> bool) {
        for (slot, Pin { words: [_, _, remembered], held }) in self.pins.lock().iter() {
            let Held::Object { segment, body_offset, .. } = held else { continue };
            let is_remembered = |cell: &&AtomicU64| cell.load(Ordering::Acquire) == *remembered;
            if let Some(cell) = self.slots.get(*slot).filter(is_remembered)
                && is_dead(*segment, *body_offset)
            {
                // Unless it uses it again in this moment.
                let _ = cell.compare_exchange(*remembered, slots::FREE, Ordering::AcqRel, Ordering::Relaxed);
            }
        }
        self.release();
    }

    /// Adds what the process holds and waits for.
    pub fn add_stats(&self, stats: &mut KeeperStats) {
        stats.connections += self.connections.load(Ordering::SeqCst) as u64;
        stats.leases += self.pins.lock().len() as u64;
        stats.waits += self.waits.lock().len() as u64;
    }

    /// Whether no process can use it any more: then its file is removed.
    pub fn is_over(&self) -> bool {
        if self.connections.load(Ordering::SeqCst) > 0 {
            return false;
        }
        match is_locked(&self.path) {
            Ok(is_locked) if is_locked => return false,
            Ok(_) => {}
            Err(error) => {
                tracing::debug!("{}: {error}; looked at again later", self.path.display());
                return false;
            }
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!("{}: {error}; the next open removes it", self.path.display());
        }
        true
    }

    /// Whether it may wait for one more, under this name.
    pub fn may_wait(&self, name: u64) -> bool {
        if !self.may_be_told() || self.claims.lock().len() >= WAITS_MAX {
            return false;
        }
        let mut waits = self.waits.lock();
        let may_wait = waits.len() < WAITS_MAX;
        let before = if may_wait { waits.insert(name, Wait::Parking) } else { None };
        drop(waits);
        drop(before);
        may_wait
    }

    /// Whether it hears what it is told: no process has so much to hear that listens.
    pub fn may_be_told(&self) -> bool {
        self.to_tell.len() < WAITS_MAX
    }

    /// What was begun with `may_wait` is parked, unless it was answered meanwhile.
    pub fn parked(&self, name: u64, ticket: Ticket) {
        let mut ticket = Some(ticket);
        if let Some(wait) = self.waits.lock().get_mut(&name)
            && let Some(ticket) = ticket.take()
        {
            *wait = Wait::Parked(ticket);
        }
        drop(ticket);
    }

    /// It is not waited for any more.
    pub fn forget(&self, name: u64) {
        let wait = self.waits.lock().remove(&name);
        let claim = self.claims.lock().remove(&name);
        drop((wait, claim));
    }

    /// The object that was waited for under this name exists.
    pub fn answered(&self, name: u64) {
        let wait = self.waits.lock().remove(&name);
        drop(wait);
    }

    pub fn keep_for(&self, name: u64, object: Object) {
        self.claims.lock().insert(name, object);
    }

    /// The object that is kept for these names, or that a slot has got for one of them: a process that could not map it comes for a copy.
    pub fn claim(&self, names: &[u64]) -> Option<Object> {
        let mut claims = self.claims.lock();
        let claimed: Vec<Option<Object>> = names.iter().map(|name| claims.remove(name)).collect();
        drop(claims);
        claimed.into_iter().flatten().next().or_else(|| self.pinned(names))
    }

    fn pinned(&self, claimed: &[u64]) -> Option<Object> {
        self.pins.lock().values().find_map(|pin| match &pin.held {
            Held::Object { object, names, .. } if names.iter().any(|name| claimed.contains(name)) => {
                Some(object.clone())
            }
            _ => None,
        })
    }

    pub fn tell(&self, notice: Notice) {
        // Both ends are here.
        let _ = self.tell.send(notice);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ObjectStore;

    #[test]
    fn an_answer_that_comes_late_holds_nothing() {
        let place = tempfile::tempdir().unwrap();
        let store = ObjectStore::builder().local(place.path()).max_size_mb(64).open().unwrap();
        store.put(b"id", &[7; 100_000], b"").unwrap();
        let object = store.get(b"id").unwrap().unwrap();
        let placed = store.local().unwrap().placed(&object.data).unwrap().unwrap();
        let (session, file) = Session::begin(place.path(), None).unwrap();
        let process = Slots::map(&file).unwrap();
        let slot = process.get(5).unwrap();
        let held = slots::held(placed.segment, placed.offset);

        // Given up, and asked in again.
        slot.store(slots::asked(2), Ordering::Release);
        assert!(!session.hold(5, 1, object.clone(), &[], &placed));
        assert_eq!((slot.load(Ordering::Acquire), session.pins.lock().len()), (slots::asked(2), 0));
        assert!(session.hold(5, 2, object.clone(), &[], &placed));
        assert_eq!(slot.load(Ordering::Acquire), held);
        // The answer to the first question, behind that to the second: it takes nothing away.
        assert!(!session.hold(5, 1, object.clone(), &[], &placed));
        session.release();
        assert_eq!((slot.load(Ordering::Acquire), session.pins.lock().len()), (held, 1));
        slot.store(slots::FREE, Ordering::Release);
        session.release();

        let other = process.get(6).unwrap();
        other.store(slots::asked(3), Ordering::Release);
        assert!(session.hold(6, 3, object.clone(), &[], &placed));
        session.release();
        assert_eq!(session.pins.lock().len(), 1, "it is held");
        other.store(slots::FREE, Ordering::Release);
        session.release();
        assert_eq!(session.pins.lock().len(), 0, "it is given back");
        assert!(!session.hold(u16::MAX, 3, object, &[], &placed), "there is no such slot");
    }

    /// The process gives up and asks anew, while the keeper answers: what was given up must not be answered in the next question.
    #[test]
    fn a_question_that_is_given_up_while_it_is_answered_is_answered_or_not_and_the_next_one_stays() {
        const QUESTIONS: u64 = 600_000;
        let place = tempfile::tempdir().unwrap();
        let store = ObjectStore::builder().local(place.path()).max_size_mb(64).open().unwrap();
        store.put(b"id", &[7; 100_000], b"").unwrap();
        let object = store.get(b"id").unwrap().unwrap();
        let placed = store.local().unwrap().placed(&object.data).unwrap().unwrap();
        let (session, file) = Session::begin(place.path(), None).unwrap();
        let process = Slots::map(&file).unwrap();
        let slot = process.get(5).unwrap();
        let held = slots::held(placed.segment, placed.offset);
        let is_over = std::sync::atomic::AtomicBool::new(false);
        let mut given_up = Vec::new();
        let answered = std::thread::scope(|scope| {
            let keeper = scope.spawn(|| {
                let mut answered = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    let word = slot.load(Ordering::Acquire);
                    let ticket = word >> 3;
                    if word == slots::asked(ticket) && session.hold(5, ticket, object.clone(), &[], &placed) {
                        answered.push(ticket);
                    }
                }
                answered
            });
            for ticket in 1..QUESTIONS {
                let before = slot.swap(slots::asked(ticket), Ordering::AcqRel);
                if before == slots::asked(ticket - 1) {
                    given_up.push(ticket - 1);
                } else {
                    assert!(before == held || ticket == 1, "question {ticket} has found {before:#x}");
                }
                for _ in 0..ticket % 97 {
                    std::hint::spin_loop();
                }
            }
            is_over.store(true, Ordering::Relaxed);
            keeper.join().unwrap()
        });
        for ticket in answered {
            assert!(given_up.binary_search(&ticket).is_err(), "question {ticket} was given up, and answered");
        }
    }

    #[test]
    fn a_process_that_does_not_listen_is_told_no_more_than_it_may_wait_for() {
        let place = tempfile::tempdir().unwrap();
        let (session, _file) = Session::begin(place.path(), None).unwrap();
        for name in 0..WAITS_MAX as u64 {
            assert!(session.may_wait(name));
            session.answered(name);
            session.tell(Notice::ToClaim { name });
        }
        assert!(!session.may_wait(0) && !session.may_be_told());
        drop(session.to_tell.recv().unwrap());
        assert!(session.may_wait(0) && session.may_be_told());
    }

    #[test]
    fn a_process_waits_for_no_more_than_it_may() {
        let place = tempfile::tempdir().unwrap();
        let (session, _file) = Session::begin(place.path(), None).unwrap();
        assert!((0..WAITS_MAX as u64).all(|name| session.may_wait(name)));
        assert!(!session.may_wait(u64::MAX));
        session.forget(7);
        assert!(session.may_wait(u64::MAX));
        for name in 0..WAITS_MAX as u64 {
            session.forget(name);
            session.keep_for(name, Object::default());
        }
        assert!(!session.may_wait(1 << 40));
        assert!(session.claim(&[3]).is_some() && session.claim(&[3]).is_none());
    }
}
