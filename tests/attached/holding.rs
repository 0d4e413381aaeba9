//! Room that a process holds, to read or to write, is nobody else's, whatever becomes of keepers, connections and forks; what nobody holds
//! any more comes back.

use std::time::Duration;

use scaler_object_storage::{Error, ObjectStore};

use crate::common::{get, until};
use crate::place::{BODY_SEGMENTS_IDLE_MAX, Place, is_alive, signal, stop};
use crate::worker::{Setup, Worker, content, seed_and_len};

/// So small that room is used again soon.
const SMALL: Setup = Setup { size_mb: 32, response_ms: 3000 };

/// Objects of this length share segments, whose room is used again within the file.
const LENGTH: usize = 100_000;

/// What one process holds in these tests: more segments than are kept without an object (`BODY_SEGMENTS_IDLE_MAX`).
const HELD: u64 = 60;

/// Other objects than those that are held.
const OTHERS: u64 = 1000;

fn attach(place: &Place) -> ObjectStore {
    place.builder().max_size_mb(SMALL.size_mb).attach().unwrap()
}

fn other(number: u64) -> Vec<u8> {
    format!("other {number}").into_bytes()
}

/// Stores objects until there is no room; how many there was room for.
fn fill(store: &ObjectStore) -> u64 {
    for number in 0.. {
        let (data, metadata) = content(OTHERS + number, LENGTH);
        match store.put(&other(number), &data, &metadata) {
            Ok(()) => {}
            Err(Error::Full { .. }) => return number,
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!()
}

/// Has all room used that can be had, twice, and looks at what it was used for.
fn churn(store: &ObjectStore) {
    for _ in 0..2 {
        let count = fill(store);
        for number in 0..count {
            let object = get(store, &other(number));
            assert_eq!(seed_and_len(&object), Some((OTHERS + number, LENGTH)), "other {number}");
        }
        for number in 0..count {
            store.delete(&other(number)).unwrap();
        }
    }
}

/// Waits until there is as much room as there was, and next to no segment is kept though there is no object.
fn comes_back(place: &Place, store: &ObjectStore, before: u64) {
    until("all room comes back", || {
        let count = fill(store);
        delete_others(store, count);
        count + 10 >= before
    });
    until("no segment is kept for those who hold nothing", || place.body_segments() <= BODY_SEGMENTS_IDLE_MAX);
}

/// A worker that holds objects which nobody else can get any more.
fn holding(place: &Place) -> Worker {
    let mut worker = Worker::with(place, SMALL);
    for number in 0..HELD {
        worker.does(&format!("put {number} {number} {LENGTH}"));
        worker.does(&format!("hold {number}"));
    }
    worker
}

fn delete_held(store: &ObjectStore) {
    for number in 0..HELD {
        assert!(store.delete(number.to_string().as_bytes()).unwrap());
    }
}

#[test]
fn held_bytes_stay_as_they_are_and_their_room_comes_back_when_they_are_dropped() {
    let place = Place::new();
    let store = attach(&place);
    let before = fill(&store);
    delete_others(&store, before);
    let mut worker = holding(&place);
    delete_held(&store);

    churn(&store);

    assert_eq!(worker.order("check"), "unchanged");
    worker.does("drop");
    comes_back(&place, &store, before);
}

fn delete_others(store: &ObjectStore, count: u64) {
    for number in 0..count {
        store.delete(&other(number)).unwrap();
    }
}

#[test]
fn held_bytes_stay_as_they_are_when_the_keeper_is_killed() {
    let place = Place::new();
    let store = attach(&place);
    let before = fill(&store);
    delete_others(&store, before);
    let mut worker = holding(&place);

    place.kill_keeper();
    delete_held(&store);
    churn(&store);
    place.kill_keeper();
    churn(&store);

    assert_eq!(worker.order("check"), "unchanged");
    worker.does("drop");
    comes_back(&place, &store, before);
}

#[test]
fn bytes_that_are_held_over_the_end_of_a_keeper_which_ends_in_order_stay_as_they_are() {
    let place = Place::new();
    let store = attach(&place);
    let mut worker = holding(&place);
    delete_held(&store);

    let keeper = place.keeper().unwrap();
    signal(keeper, libc::SIGTERM);
    until("it has ended", || !is_alive(keeper));
    churn(&store);

    assert_eq!(worker.order("check"), "unchanged");
}

#[test]
fn bytes_that_are_held_when_the_store_is_closed_stay_as_they_are() {
    let place = Place::new();
    let store = attach(&place);
    let before = fill(&store);
    delete_others(&store, before);
    let mut worker = holding(&place);
    delete_held(&store);

    worker.does("close");
    // Longer than it takes a keeper to look for processes that have ended.
    std::thread::sleep(Duration::from_millis(1500));
    churn(&store);
    assert_eq!(worker.order("check"), "unchanged");
    worker.does("forget");
    churn(&store);
    assert_eq!(worker.order("check"), "unchanged");

    worker.does("drop");
    comes_back(&place, &store, before);
    until("the session is over", || place.sessions() == 1);
}

#[test]
fn a_forked_child_reads_what_it_was_forked_with() {
    let place = Place::new();
    let store = attach(&place);
    let before = fill(&store);
    delete_others(&store, before);
    let mut worker = holding(&place);

    worker.does("fork 4000");
    worker.does("drop");
    delete_held(&store);
    churn(&store);
    place.kill_keeper();
    churn(&store);
    worker.does("put later 5 100000");
    assert_eq!(worker.order("get later"), "5 100000");
    assert_eq!(worker.order("delete later"), "yes");

    assert_eq!(worker.order("child"), "unchanged");
    comes_back(&place, &store, before);
    until("the child's session is over", || place.sessions() == 2);
}

#[test]
fn a_forked_child_of_a_process_that_is_killed_reads_what_it_was_forked_with() {
    let place = Place::new();
    let store = attach(&place);
    let before = fill(&store);
    delete_others(&store, before);
    let mut worker = holding(&place);
    delete_held(&store);

    worker.does("fork-and-tell 3000");
    worker.kill_only();
    churn(&store);
    place.kill_keeper();
    churn(&store);

    assert_eq!(worker.reply(), "unchanged");
    comes_back(&place, &store, before);
    until("both sessions are over", || place.sessions() == 1);
}

#[test]
fn a_writer_that_is_stopped_while_its_keeper_is_killed_writes_over_nothing() {
    let place = Place::new();
    let store = attach(&place);
    let before = fill(&store);
    delete_others(&store, before);
    let mut worker = Worker::with(&place, SMALL);
    // In the same segment, which is kept for its sake.
    worker.does("put neighbour 2 70000");
    worker.does(&format!("begin large 1 {LENGTH}"));
    worker.does("piece 70000");
    worker.stop();

    place.kill_keeper();
    let count = fill(&store);
    worker.go_on();
    worker.does("piece 30000");

    for number in 0..count {
        let object = get(&store, &other(number));
        assert_eq!(seed_and_len(&object), Some((OTHERS + number, LENGTH)), "other {number}");
    }
    let refused = worker.order("commit");
    assert!(refused.contains("WriteFailed") && refused.contains("keeper"), "{refused}");
    assert!(store.get(b"large").unwrap().is_none());
    assert!(store.delete(b"neighbour").unwrap());
    delete_others(&store, count);
    comes_back(&place, &store, before);
}

#[test]
fn a_writer_that_is_stopped_keeps_its_room_and_goes_on() {
    let place = Place::new();
    let store = attach(&place);
    let mut worker = Worker::with(&place, SMALL);
    worker.does(&format!("begin large 1 {LENGTH}"));
    worker.does("piece 70000");
    worker.stop();

    churn(&store);
    worker.go_on();
    worker.does("piece 30000");
    worker.does("commit");

    assert_eq!(seed_and_len(&get(&store, b"large")), Some((1, LENGTH)));
}

#[test]
fn all_room_comes_back_from_processes_that_are_killed_while_they_hold_it() {
    let place = Place::new();
    let store = attach(&place);
    let before = fill(&store);
    delete_others(&store, before);
    for _ in 0..2 {
        let mut reader = holding(&place);
        for _ in 0..3000 / HELD {
            for number in 0..HELD {
                reader.does(&format!("hold {number}"));
            }
        }
        delete_held(&store);
        let mut writer = Worker::with(&place, SMALL);
        writer.does(&format!("begin large 1 {LENGTH}"));
        writer.does("piece 70000");
        reader.kill();
        writer.kill();
        comes_back(&place, &store, before);
        until("their sessions are over", || place.sessions() == 1);
    }
}

#[test]
fn an_answer_that_comes_late_holds_nothing() {
    let place = Place::new();
    let store = attach(&place);
    let before = fill(&store);
    delete_others(&store, before);
    let mut worker = Worker::with(&place, Setup { response_ms: 300, ..SMALL });
    for number in 0..HELD {
        worker.does(&format!("put {number} {number} {LENGTH}"));
    }
    let keeper = place.keeper().unwrap();

    stop(keeper);
    for number in 0..HELD {
        let late = worker.order(&format!("hold {number}"));
        assert!(late.contains("does not answer"), "{late}");
    }
    signal(keeper, libc::SIGCONT);

    worker.does("hold 0");
    worker.does("hold 1");
    delete_held(&store);
    churn(&store);
    assert_eq!(worker.order("check"), "unchanged");
    worker.does("drop");
    comes_back(&place, &store, before);
}

#[test]
fn with_all_slots_taken_objects_are_copies_and_writes_go_on() {
    let place = Place::new();
    let store = attach(&place);
    let mut worker = holding(&place);
    for number in 0..4200 {
        worker.does(&format!("hold {}", number % HELD));
    }
    delete_held(&store);

    churn(&store);
    worker.does("put more 77 100000");
    assert_eq!(worker.order("get more"), "77 100000");
    worker.does("begin pieces 78 100000");
    worker.does("piece 100000");
    worker.does("commit");
    assert_eq!(worker.order("get pieces"), "78 100000");
    assert_eq!(worker.order("check"), "unchanged");
}
