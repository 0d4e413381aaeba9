//! Processes that come while a disk is full: there is no room for the slots of their sessions, or for anything else.

use std::cell::RefCell;
use std::fs;

use scaler_object_storage::ObjectStore;

use crate::common::mounted::Mounted;
use crate::common::{get, until};
use crate::full_disk::SMALL;
use crate::place::Place;
use crate::worker::{Worker, attach as attach_order, content, seed_and_len};

/// In a thread of its own, as others would see what it mounts as well.
fn on_a_thread(run: impl FnOnce() + Send + 'static) {
    std::thread::spawn(run).join().unwrap();
}

/// A place whose directory of sessions is a small disk of its own, which others can fill up; the journal's is another, with room.
fn with_small_sessions(run: impl FnOnce(&Place, &Mounted) + Send + 'static) {
    on_a_thread(|| {
        let place = Place::new();
        drop(place.attach());
        place.kill_keeper();
        if let Some(disk) = Mounted::at(&place.path().join("sessions"), 1) {
            run(&place, &disk);
        }
    });
}

/// A place on a disk that others can fill up.
fn on_a_disk(run: impl FnOnce(&Place, &Mounted) + Send + 'static) {
    on_a_thread(|| {
        let place = Place::new();
        if let Some(disk) = Mounted::at(place.path().parent().unwrap(), 40) {
            run(&place, &disk);
        }
    });
}

fn attach(place: &Place) -> ObjectStore {
    place.builder().max_size_mb(SMALL.size_mb).attach().unwrap()
}

/// Files of sessions.
fn sessions(place: &Place) -> Vec<String> {
    let names = fs::read_dir(place.path().join("sessions")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != "ballast").collect()
}

/// Whether the process maps files of the journal.
fn maps_bodies(worker: &Worker) -> bool {
    fs::read_to_string(format!("/proc/{}/maps", worker.id())).unwrap().contains("/journal/")
}

fn leases(store: &ObjectStore) -> u64 {
    store.stats().unwrap().keeper.unwrap().leases
}

/// What it reads is mapped and held, as by any process, sooner or later.
fn becomes_normal(worker: &mut Worker, store: &ObjectStore, id: &str) {
    let shared = RefCell::new(worker);
    until("it has slots", || {
        let worker = &mut *shared.borrow_mut();
        worker.does(&format!("hold {id}"));
        maps_bodies(worker) && leases(store) > 0
    });
    let worker = shared.into_inner();
    assert_eq!(worker.order("check"), "unchanged");
    worker.does("drop");
}

fn put(store: &ObjectStore, id: &str, seed: u64, length: usize) {
    let (data, metadata) = content(seed, length);
    store.put(id.as_bytes(), &data, &metadata).unwrap();
}

// Invariants 1, 2, 11 and 14.
#[test]
fn without_room_for_its_slots_a_process_does_everything_with_copies() {
    with_small_sessions(|place, disk| {
        let store = attach(place);
        put(&store, "small", 1, 100);
        put(&store, "large", 2, 600_000);
        let mut other = Worker::with(place, SMALL);
        disk.fill();
        let before = sessions(place);

        let mut late = Worker::with(place, SMALL);

        assert_eq!(late.order("get small"), "1 100");
        late.does("hold large");
        assert!(!maps_bodies(&late) && leases(&store) == 0, "it has a copy");
        late.does("put small-put 3 100");
        late.does("put large-put 4 700000");
        late.does("begin streamed 5 500000");
        for length in [40_000, 30_000, 200_000, 500_000] {
            late.does(&format!("piece {length}"));
        }
        assert_eq!(other.order("get streamed"), "absent");
        late.does("commit");
        late.does("begin never 6 300000");
        late.does("piece 200000");
        for (id, content) in [("small-put", "3 100"), ("large-put", "4 700000"), ("streamed", "5 500000")] {
            assert_eq!(other.order(&format!("get {id}")), content);
            assert_eq!(late.order(&format!("get {id}")), content);
        }

        for id in ["small-told", "large-told", "small-own", "large-own", "long"] {
            assert_eq!(late.order(&format!("wait {id}")), "parked");
        }
        other.does("put small-told 7 100");
        other.does("put large-told 8 300000");
        late.does("put small-own 9 100");
        late.does("put large-own 10 300000");
        for (id, content) in
            [("small-told", "7 100"), ("large-told", "8 300000"), ("small-own", "9 100"), ("large-own", "10 300000")]
        {
            assert_eq!(late.order(&format!("answered {id}")), content);
        }

        assert_eq!(late.order("delete large"), "yes");
        assert_eq!(other.order("get large"), "absent");
        other.does("put large 11 600000");
        assert_eq!(late.order("check"), "unchanged");
        late.does("fork 1");
        assert_eq!(late.order("child"), "unchanged");
        assert_eq!(late.order("get large"), "11 600000");
        late.does("drop");
        assert_eq!((sessions(place), late.order("get never").as_str()), (before.clone(), "absent"));

        disk.free();
        becomes_normal(&mut late, &store, "large");
        assert_eq!(sessions(place).len(), before.len() + 1);
        // In the session in which it waits already.
        other.does("put long 12 300000");
        assert_eq!(late.order("answered long"), "12 300000");
    });
}

// Invariants 1, 2 and 15.
#[test]
fn a_process_without_slots_goes_to_the_next_keeper_and_leaves_nothing_with_the_last_one() {
    with_small_sessions(|place, disk| {
        let store = attach(place);
        put(&store, "large", 1, 600_000);
        disk.fill();
        let mut late = Worker::with(place, SMALL);
        assert_eq!(late.order("wait later"), "parked");
        late.does("begin streamed 2 500000");
        late.does("piece 200000");

        place.kill_keeper();

        let piece = late.order("piece 200000");
        assert!(piece.contains("its keeper has ended") || piece.contains("cannot be reached"), "{piece}");
        let commit = late.order("commit");
        assert!(commit.starts_with("error WriteFailed"), "{commit}");
        assert_eq!(late.order("get large"), "1 600000");
        assert_eq!(late.order("get streamed"), "absent");
        late.does("put streamed 3 500000");
        put(&store, "later", 4, 300_000);
        assert_eq!(late.order("answered later"), "4 300000");
        assert_eq!(seed_and_len(&get(&store, b"streamed")), Some((3, 500_000)));
    });
}

// Invariant 15.
#[test]
fn a_process_without_slots_is_attached_until_it_ends() {
    with_small_sessions(|place, disk| {
        let store = attach(place);
        put(&store, "id", 1, 100_000);
        let attached = || store.stats().unwrap().keeper.unwrap().attached;
        disk.fill();
        let late = Worker::with(place, SMALL);
        let mut other = Worker::with(place, SMALL);
        assert_eq!(attached(), 3);
        late.kill();
        until("it has ended", || attached() == 2);
        // It was there all the time, with a connection or without.
        assert_eq!(other.order("at-once 20 id"), "yes");
        other.does("close");
        other.does("forget");
        until("it has let go", || attached() == 1);
        assert_eq!(sessions(place).len(), 1);
    });
}

// Invariants 1, 2, 13, 14 and 15.
#[test]
fn processes_attach_on_a_full_disk_and_its_keeper_may_be_killed() {
    on_a_disk(|place, disk| {
        let store = attach(place);
        let mut other = Worker::with(place, SMALL);
        put(&store, "small", 1, 100);
        for number in 0..20 {
            put(&store, &format!("large-{number}"), number, 100_000 + 20_000 * number as usize);
        }
        other.does("hold large-7");
        let all = |late: &mut Worker| {
            assert_eq!(late.order("get small"), "1 100");
            for number in 8..20 {
                assert_eq!(
                    late.order(&format!("get large-{number}")),
                    format!("{number} {}", 100_000 + 20_000 * number)
                );
            }
        };
        disk.fill();
        let before = sessions(place);
        let mut late = Worker::with(place, SMALL);
        all(&mut late);
        assert_eq!(sessions(place), before, "there is no room for a session's file");
        assert_eq!(late.order("wait later"), "parked");
        assert_eq!(late.order("delete large-7"), "yes");

        place.kill_keeper();
        disk.fill();
        all(&mut late);
        disk.fill();
        let before = sessions(place);
        let mut later = Worker::with(place, SMALL);
        all(&mut later);
        assert_eq!(sessions(place), before, "there is no room for it still");
        // What was deleted, and nobody holds, makes room for this.
        for number in 0..7 {
            assert_eq!(later.order(&format!("delete large-{number}")), "yes");
        }
        let shared = RefCell::new(&mut later);
        for (id, seed, length) in [("later", 50, 100_000), ("more", 51, 70_000), ("least", 52, 100)] {
            until("what was deleted has made room", || {
                shared.borrow_mut().order(&format!("put {id} {seed} {length}")) == "ok"
            });
            assert_eq!(other.order(&format!("get {id}")), format!("{seed} {length}"));
        }
        assert_eq!(late.order("answered later"), "50 100000");
        all(&mut later);
        assert_eq!(other.order("check"), "unchanged", "it is held, over the end of the keeper");

        disk.free();
        for worker in [&mut late, &mut later, &mut other] {
            all(worker);
            becomes_normal(worker, &store, "later");
        }
        for number in 0..40 {
            late.does(&format!("put churn-{} {number} 400000", number % 5));
        }
        all(&mut other);
    });
}

// Invariants 1, 2 and 13.
#[test]
fn on_a_full_disk_that_was_never_shared_a_keeper_begins_without_counters() {
    on_a_disk(|place, disk| {
        let alone = place.builder().max_size_mb(SMALL.size_mb).open().unwrap();
        put(&alone, "small", 1, 100);
        put(&alone, "large", 2, 600_000);
        alone.close().unwrap();
        let counters = place.path().join("counters");
        // What was prepared for more records than a full disk takes is given up by the first to open it: then that is filled up as well.
        disk.fill();
        place.builder().max_size_mb(SMALL.size_mb).open().unwrap().close().unwrap();
        disk.fill();

        let mut late = Worker::with(place, SMALL);

        assert!(!counters.exists() && !place.path().join("sessions").exists());
        assert_eq!(late.order("get small"), "1 100");
        assert_eq!(late.order("get large"), "2 600000");
        let store = attach(place);
        assert!(store.delete(b"small").unwrap());
        assert_eq!(late.order("get small"), "absent", "nothing is remembered");

        disk.free();
        becomes_normal(&mut late, &store, "large");
        assert!(counters.exists());
        put(&store, "small", 3, 100);
        let shared = RefCell::new(&mut late);
        until("it is remembered", || {
            let late = &mut *shared.borrow_mut();
            assert_eq!(late.order("get small"), "3 100");
            let hits = store.stats().unwrap().operations.hits;
            assert_eq!(late.order("get small"), "3 100");
            store.stats().unwrap().operations.hits == hits
        });
        put(&store, "small", 4, 100);
        assert_eq!(late.order("get small"), "4 100", "what is remembered is seen to have changed");
    });
}

#[test]
fn a_full_disk_on_which_no_store_can_be_made_is_named() {
    on_a_disk(|place, disk| {
        disk.fill();
        let refused = Worker::detached(place).order(&attach_order(SMALL));
        let directory = place.path().display().to_string();
        assert!(refused.contains("No space left on device") && refused.contains("make room on that disk"), "{refused}");
        assert!(refused.contains(&directory), "{refused}");
    });
}
