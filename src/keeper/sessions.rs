//! What the keeper knows of each attached process: what it holds, and what it waits for.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, unbounded};
use parking_lot::Mutex;

use super::presence::{Lifeline, SlotFile};
use crate::backend::{KeeperStats, Ticket};
use crate::local::{Placed, Reserved, slots};
use crate::node::messages::NO_SESSION;
use crate::object::Object;
use crate::random::random_u64;

/// What one process may wait for at a time.
const WAITS_MAX: usize = 1 << 16;

/// From its first greeting until no process has what it was given.
pub(super) struct Session {
    pub id: u64,
    /// Present where there was no room for slots when it began.
    lifeline: Option<Lifeline>,
    pins: Mutex<Pins>,
    /// Objects that were waited for, until the process takes them.
    claims: Mutex<HashMap<u64, Object>>,
    waits: Mutex<HashMap<u64, Wait>>,
    /// What is to be told: counted with the waits.
    tell: Sender<Notice>,
    pub to_tell: Receiver<Notice>,
    connections: AtomicUsize,
}

/// The slots, and what each holds.
#[derive(Default)]
struct Pins {
    /// None: it holds nothing.
    file: Option<SlotFile>,
    by_slot: HashMap<u16, Pin>,
}

impl Pins {
    fn cell(&self, slot: u16) -> Option<&AtomicU64> {
        self.file.as_ref()?.slots.get(slot)
    }
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
    /// One that has slots.
    pub fn with_slots(file: SlotFile) -> Arc<Session> {
        Self::begin(None, Pins { file: Some(file), ..Pins::default() })
    }

    /// One that holds nothing, as there is no room for slots; the end of a pipe for the process, which must get the only copy.
    pub fn without_slots() -> io::Result<(Arc<Session>, OwnedFd)> {
        let (lifeline, end) = Lifeline::make()?;
        Ok((Self::begin(Some(lifeline), Pins::default()), end))
    }

    fn begin(lifeline: Option<Lifeline>, pins: Pins) -> Arc<Session> {
        let (tell, to_tell) = unbounded();
        Arc::new(Session {
            id: random_u64().clamp(1, NO_SESSION - 1),
            lifeline,
            pins: Mutex::new(pins),
            claims: Mutex::default(),
            waits: Mutex::default(),
            tell,
            to_tell,
            connections: AtomicUsize::new(0),
        })
    }

    /// Whether the process has slots. It has none either where it did not get the file that was made for it.
    pub fn has_slots(&self) -> bool {
        self.pins.lock().file.as_ref().is_some_and(|file| !file.is_over())
    }

    /// Gives it slots; false where it has some by now.
    pub fn give_slots(&self, file: SlotFile) -> bool {
        let mut pins = self.pins.lock();
        let has_slots = pins.file.as_ref().is_some_and(|file| !file.is_over());
        let unused = if has_slots { Some(file) } else { pins.file.replace(file) };
        drop(pins);
        if let Some(unused) = unused {
            unused.remove();
        }
        !has_slots
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
        let asked = slots::asked(ticket);
        let mut pins = self.pins.lock();
        let Pins { file, by_slot } = &mut *pins;
        let Some(cell) = file.as_ref().and_then(|file| file.slots.get(slot)) else { return false };
        // Given up, and perhaps asked in and answered anew: what the slot holds by now stays.
        if cell.load(Ordering::Acquire) != asked {
            return false;
        }
        // Before the slot says so: from then on the process may read.
        let before = by_slot.insert(slot, Pin { words: [asked, word, remembered], held });
        let is_held = cell.compare_exchange(asked, word, Ordering::AcqRel, Ordering::Acquire).is_ok();
        let dropped = if is_held { None } else { by_slot.remove(&slot) };
        drop(pins);
        drop((before, dropped));
        is_held
    }

    /// The place that was written to through the slot.
    pub fn take_room(&self, slot: u16) -> Option<Reserved> {
        let pins = &mut self.pins.lock().by_slot;
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
        let Pins { file, by_slot } = &mut *pins;
        let is_given_back = |slot: &u16, pin: &mut Pin| {
            let cell = file.as_ref().and_then(|file| file.slots.get(*slot));
            cell.is_none_or(|cell| !pin.words.contains(&cell.load(Ordering::Acquire)))
        };
        let given_back: Vec<_> = by_slot.extract_if(is_given_back).collect();
        drop(pins);
        drop(given_back);
    }

    /// Takes back what the process only remembers of bodies that are dead, and drops what it has given back.
    pub fn take_back(&self, is_dead: &dyn Fn(u32, u64) -> bool) {
        let pins = self.pins.lock();
        for (slot, Pin { words: [_, _, remembered], held }) in &pins.by_slot {
            let Held::Object { segment, body_offset, .. } = held else { continue };
            let is_remembered = |cell: &&AtomicU64| cell.load(Ordering::Acquire) == *remembered;
            if let Some(cell) = pins.cell(*slot).filter(is_remembered)
                && is_dead(*segment, *body_offset)
            {
                // Unless it uses it again in this moment.
                let _ = cell.compare_exchange(*remembered, slots::FREE, Ordering::AcqRel, Ordering::Relaxed);
            }
        }
        drop(pins);
        self.release();
    }

    /// Adds what the process holds and waits for.
    pub fn add_stats(&self, stats: &mut KeeperStats) {
        stats.connections += self.connections.load(Ordering::SeqCst) as u64;
        stats.leases += self.pins.lock().by_slot.len() as u64;
        stats.waits += self.waits.lock().len() as u64;
    }

    /// Whether no process can use it any more: then its file is removed.
    pub fn is_over(&self) -> bool {
        if self.connections.load(Ordering::SeqCst) > 0 || self.lifeline.as_ref().is_some_and(|it| !it.is_over()) {
            return false;
        }
        let mut pins = self.pins.lock();
        if pins.file.as_ref().is_some_and(|file| !file.is_over()) {
            return false;
        }
        if let Some(file) = pins.file.take() {
            file.remove();
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
        self.pins.lock().by_slot.values().find_map(|pin| match &pin.held {
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
    use std::fs::File;
    use std::path::Path;

    use super::*;
    use crate::local::slots::Slots;
    use crate::store::ObjectStore;

    fn begin(directory: &Path) -> (Arc<Session>, File) {
        let (slots, file) = SlotFile::make(directory, None).unwrap();
        (Session::with_slots(slots), file)
    }

    #[test]
    fn an_answer_that_comes_late_holds_nothing() {
        let place = tempfile::tempdir().unwrap();
        let store = ObjectStore::builder().local(place.path()).max_size_mb(64).open().unwrap();
        store.put(b"id", &[7; 100_000], b"").unwrap();
        let object = store.get(b"id").unwrap().unwrap();
        let placed = store.local().unwrap().placed(&object.data).unwrap().unwrap();
        let (session, file) = begin(place.path());
        let process = Slots::map(&file).unwrap();
        let slot = process.get(5).unwrap();
        let held = slots::held(placed.segment, placed.offset);

        // Given up, and asked in again.
        slot.store(slots::asked(2), Ordering::Release);
        assert!(!session.hold(5, 1, object.clone(), &[], &placed));
        assert_eq!((slot.load(Ordering::Acquire), session.pins.lock().by_slot.len()), (slots::asked(2), 0));
        assert!(session.hold(5, 2, object.clone(), &[], &placed));
        assert_eq!(slot.load(Ordering::Acquire), held);
        // The answer to the first question, behind that to the second: it takes nothing away.
        assert!(!session.hold(5, 1, object.clone(), &[], &placed));
        session.release();
        assert_eq!((slot.load(Ordering::Acquire), session.pins.lock().by_slot.len()), (held, 1));
        slot.store(slots::FREE, Ordering::Release);
        session.release();

        let other = process.get(6).unwrap();
        other.store(slots::asked(3), Ordering::Release);
        assert!(session.hold(6, 3, object.clone(), &[], &placed));
        session.release();
        assert_eq!(session.pins.lock().by_slot.len(), 1, "it is held");
        other.store(slots::FREE, Ordering::Release);
        session.release();
        assert_eq!(session.pins.lock().by_slot.len(), 0, "it is given back");
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
        let (session, file) = begin(place.path());
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
    fn a_session_without_slots_holds_nothing_and_gets_some_once() {
        let place = tempfile::tempdir().unwrap();
        let store = ObjectStore::builder().local(place.path()).max_size_mb(64).open().unwrap();
        store.put(b"id", &[7; 100_000], b"").unwrap();
        let object = store.get(b"id").unwrap().unwrap();
        let placed = store.local().unwrap().placed(&object.data).unwrap().unwrap();
        let make = || SlotFile::make(place.path(), None).unwrap();
        let files = || std::fs::read_dir(place.path().join(slots::DIRECTORY)).unwrap().count();
        let (session, end) = Session::without_slots().unwrap();
        assert!(!session.has_slots() && !session.hold(5, 1, object.clone(), &[], &placed));
        assert!(!session.is_over());

        // The first file does not get there.
        let (slots, lost) = make();
        assert!(session.give_slots(slots) && session.has_slots());
        drop(lost);
        assert!(!session.has_slots() && !session.is_over());
        let (slots, file) = make();
        assert!(session.give_slots(slots));
        assert!(!session.give_slots(make().0));
        assert_eq!(files(), 1);

        let process = Slots::map(&file).unwrap();
        process.get(5).unwrap().store(slots::asked(1), Ordering::Release);
        assert!(session.hold(5, 1, object, &[], &placed));
        drop(end);
        assert!(!session.is_over(), "the process has the slots");
        drop((process, file));
        assert!(session.is_over());
        assert_eq!(files(), 0);
    }

    #[test]
    fn a_process_that_does_not_listen_is_told_no_more_than_it_may_wait_for() {
        let place = tempfile::tempdir().unwrap();
        let (session, _file) = begin(place.path());
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
        let (session, _file) = begin(place.path());
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
