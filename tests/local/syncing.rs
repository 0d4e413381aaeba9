//! A sync that fails under somebody's wait: what is true then, and who is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, unbounded};
use scaler_object_storage::{Durability, Error, Object, ObjectStore, Parked, Ticket, Waited};

use crate::builder_on;
use crate::common::{bytes, get, object, until};
use crate::disk::{Call, Fault, FaultyDisk};

/// A store whose disk fails every sync once it is told to.
struct World {
    place: tempfile::TempDir,
    disk: FaultyDisk,
    store: ObjectStore,
}

impl World {
    fn new() -> Self {
        let (place, disk) = (tempfile::tempdir().unwrap(), FaultyDisk::default());
        let store = builder_on(place.path(), 64, Durability::Disk, &disk).open().unwrap();
        World { place, disk, store }
    }

    fn break_syncs(&self) {
        self.disk.set(|attempt| (attempt.call == Call::Sync).then_some(Fault::Refused(libc::EIO)));
    }

    fn reopen(&mut self) {
        // What could not be synced is said there as well.
        let _ = self.store.close();
        self.disk.heal();
        self.store = builder_on(self.place.path(), 64, Durability::Disk, &self.disk).open().unwrap();
    }
}

/// A parked request, and what became of it.
struct Waiter<T> {
    _ticket: Ticket,
    answers: Receiver<T>,
}

#[derive(Debug, PartialEq, Eq)]
enum Fate<T> {
    Waiting,
    Answered(T),
    /// Nobody will ever answer it.
    Dropped,
}

impl<T> Waiter<T> {
    fn fate(&self) -> Fate<T> {
        match self.answers.try_recv() {
            Ok(answer) => Fate::Answered(answer),
            Err(TryRecvError::Empty) => Fate::Waiting,
            Err(TryRecvError::Disconnected) => Fate::Dropped,
        }
    }
}

fn park(store: &ObjectStore, id: &[u8]) -> Waiter<Object> {
    let (sender, answers): (Sender<Object>, _) = unbounded();
    match store.get_or_park(id, move |object| drop(sender.send(object))).unwrap() {
        Parked::Waiting(ticket) => Waiter { _ticket: ticket, answers },
        Parked::Ready(_) => panic!("it is there"),
    }
}

fn park_duplicate(store: &ObjectStore, original: &[u8], new: &[u8]) -> Waiter<bool> {
    let (sender, answers) = unbounded();
    match store
        .duplicate_or_park(original, new, move |done: Result<(), Error>| {
            let _ = sender.send(done.is_ok());
        })
        .unwrap()
    {
        Parked::Waiting(ticket) => Waiter { _ticket: ticket, answers },
        Parked::Ready(()) => panic!("it is there"),
    }
}

/// A thread that waits until the object exists, or the store is closed.
fn wait(store: &ObjectStore, id: &[u8]) -> (thread::JoinHandle<Result<Waited, Error>>, Arc<AtomicBool>) {
    let ended = Arc::new(AtomicBool::new(false));
    let (store, id, has_ended) = (store.clone(), id.to_vec(), Arc::clone(&ended));
    let waiting = thread::spawn(move || {
        let waited = store.wait(&id, None, None);
        has_ended.store(true, Ordering::Release);
        waited
    });
    (waiting, ended)
}

#[derive(Clone, Copy, Debug)]
enum How {
    Put(usize),
    Writer(usize),
    Duplicate,
}

fn write(store: &ObjectStore, id: &[u8], how: How) -> Result<(), Error> {
    match how {
        How::Put(length) => store.put(id, &bytes(5, length), b"new"),
        How::Writer(length) => {
            let mut writer = store.writer(id, length as u64, b"new")?;
            writer.write(&bytes(5, length))?;
            writer.commit()
        }
        How::Duplicate => store.duplicate(b"original", id).map(|found| assert!(found)),
    }
}

fn content(how: How) -> Object {
    match how {
        How::Put(length) | How::Writer(length) => object(&bytes(5, length), b"new"),
        How::Duplicate => object(&bytes(4, 30_000), b"original"),
    }
}

const WAYS: [How; 6] =
    [How::Put(100), How::Put(20_000), How::Put(100_000), How::Writer(100), How::Writer(100_000), How::Duplicate];

// Invariant 9: a waiter is answered exactly where the object has come to be seen.
#[test]
fn whoever_waits_for_an_object_whose_sync_fails_is_answered_if_it_is_visible_and_waits_on_if_not() {
    for how in WAYS {
        let mut world = World::new();
        let store = world.store.clone();
        store.put(b"original", &bytes(4, 30_000), b"original").unwrap();
        let parked = park(&store, b"id");
        let duplicate = park_duplicate(&store, b"id", b"duplicate");
        let parked_for_duplicate = park(&store, b"duplicate");
        let (waiting, has_ended) = wait(&store, b"id");
        until("all wait", || store.info().waiting_requests == 4);
        world.break_syncs();

        write(&store, b"id", how).unwrap_err();

        let found = store.get(b"id").unwrap();
        assert_eq!(store.contains(b"id").unwrap(), found.is_some(), "{how:?}");
        assert!(found.is_none() || found == Some(content(how)), "{how:?}: something else is there");
        if found.is_some() {
            assert!(
                parked.fate() == Fate::Answered(content(how)),
                "{how:?}: it is visible, and the parked get was not answered"
            );
            until("the blocked wait has ended", || has_ended.load(Ordering::Acquire));
            let waited = waiting.join().unwrap();
            assert!(matches!(&waited, Ok(Waited::Object(object)) if *object == content(how)), "{how:?}: it is visible");
            // It cannot be made any more; that is an answer too.
            let Fate::Answered(is_made) = duplicate.fate() else {
                panic!("{how:?}: it is visible, and the parked duplicate was not answered")
            };
            assert_eq!(store.contains(b"duplicate").unwrap(), is_made || parked_for_duplicate.fate() != Fate::Waiting);
        } else {
            assert_eq!(parked.fate(), Fate::Waiting, "{how:?}: it is not visible");
            assert_eq!(duplicate.fate(), Fate::Waiting, "{how:?}: it is not visible");
            assert_eq!(parked_for_duplicate.fate(), Fate::Waiting, "{how:?}: it is not visible");
            // A wait that is dropped would end by itself, soon.
            thread::sleep(Duration::from_millis(30));
            assert!(!has_ended.load(Ordering::Acquire), "{how:?}: it is not visible, and the wait has ended");
            assert_eq!(store.info().waiting_requests, 4, "{how:?}");
            store.close().unwrap_err();
            assert!(matches!(waiting.join().unwrap(), Err(Error::Closed)), "{how:?}");
        }
        world.reopen();
        let after = world.store.get(b"id").unwrap();
        assert!(after.is_none() || after == Some(content(how)), "{how:?}: something else is there");
    }
}

// Invariants 1 and 13.
#[test]
fn an_overwrite_whose_sync_fails_shows_one_version_and_goes_on_to() {
    for how in WAYS {
        let mut world = World::new();
        let store = world.store.clone();
        store.put(b"original", &bytes(4, 30_000), b"original").unwrap();
        store.put(b"id", &bytes(3, 5000), b"before").unwrap();
        store.put(b"other", &bytes(6, 80_000), b"other").unwrap();
        world.break_syncs();

        write(&store, b"id", how).unwrap_err();

        let before = object(&bytes(3, 5000), b"before");
        let found = get(&store, b"id");
        assert!(found == before || found == content(how), "{how:?}");
        // Reads go on, writes are refused.
        assert!(get(&store, b"other") == object(&bytes(6, 80_000), b"other"));
        for refused in [
            store.put(b"later", b"data", b""),
            store.put(b"later", &bytes(8, 90_000), b""),
            store.delete(b"other").map(drop),
            store.duplicate(b"other", b"later").map(drop),
            store.clear(),
            store.flush(),
        ] {
            assert!(matches!(refused, Err(Error::WritesRefused { .. })), "{how:?}: {refused:?}");
        }
        assert!(store.get(b"later").unwrap().is_none());
        assert!(get(&store, b"id") == found, "{how:?}: it has changed by itself");
        assert!(get(&store, b"other") == object(&bytes(6, 80_000), b"other"));
        world.reopen();
        let found = get(&world.store, b"id");
        assert!(found == before || found == content(how), "{how:?}");
        world.store.put(b"later", b"data", b"").unwrap();
        assert_eq!(world.store.info().damaged_objects, 0);
    }
}

// Invariants 1 and 9: many writers share one sync, which fails.
#[test]
fn every_writer_that_shared_a_failed_sync_fails_and_whoever_waits_for_them_is_told_the_truth() {
    let mut world = World::new();
    let store = world.store.clone();
    let id = |number: u64| format!("object {number}").into_bytes();
    let length = |number: u64| [100, 20_000, 100_000][number as usize % 3];
    let parked: Vec<_> = (0..12).map(|number| park(&store, &id(number))).collect();
    world.break_syncs();
    let results: Vec<_> = thread::scope(|scope| {
        let put = |number| {
            let store = &store;
            scope.spawn(move || store.put(&id(number), &bytes(100 + number, length(number)), b""))
        };
        let threads: Vec<_> = (0..12).map(put).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for ((number, result), parked) in (0..).zip(&results).zip(&parked) {
        assert!(result.is_err(), "object {number} was acknowledged");
        let found = store.get(&id(number)).unwrap();
        let fate = parked.fate();
        match found {
            Some(found) => {
                assert!(fate == Fate::Answered(found), "object {number} is visible; its waiter: not answered")
            }
            None => assert_eq!(fate, Fate::Waiting, "object {number} is not visible"),
        }
    }
    world.reopen();
    for number in 0..12 {
        let found = world.store.get(&id(number)).unwrap();
        assert!(found.is_none_or(|found| found == object(&bytes(100 + number, length(number)), b"")));
    }
}

// Invariant 9: whoever parks after the failure is answered at once where the object is visible.
#[test]
fn who_asks_after_a_failed_sync_is_told_what_get_says() {
    let world = World::new();
    let store = &world.store;
    world.break_syncs();
    store.put(b"id", b"data", b"").unwrap_err();
    let found = store.get(b"id").unwrap();
    let waited = store.wait(b"id", Some(Instant::now() + Duration::from_millis(1)), None).unwrap();
    assert_eq!(waited, found.clone().map_or(Waited::TimedOut, Waited::Object));
    let parked = store.get_or_park(b"id", |_| ()).unwrap();
    assert_eq!(matches!(parked, Parked::Ready(_)), found.is_some());
}
