//! `get_or_park` and `duplicate_or_park`: requests that wait without a thread of their own, and the order of their answers.

use std::sync::{Arc, Mutex};
use std::thread;

use scaler_object_storage::{Error, Object, ObjectStore, Parked, Ticket};

use crate::common::{Fixture, bytes, get, object};

contract!(
    a_get_that_need_not_wait_is_ready,
    a_parked_get_is_answered_before_the_put_returns,
    parked_gets_are_answered_in_the_order_in_which_they_came,
    a_dropped_ticket_takes_the_get_back,
    a_dropped_ticket_leaves_the_others_waiting,
    a_ticket_may_be_dropped_after_its_answer,
    closing_drops_who_is_parked_unanswered,
    a_duplicate_that_need_not_wait_is_ready,
    a_parked_duplicate_is_done_before_the_put_returns,
    a_parked_duplicate_leaves_the_new_id_alone_until_its_time,
    a_parked_duplicate_is_done_before_who_waits_for_the_new_id,
    chains_of_parked_duplicates_end_in_order,
    rings_of_parked_duplicates_end,
    many_duplicates_wait_for_one_original,
    a_dropped_ticket_takes_the_duplicate_back,
    a_parked_duplicate_survives_the_delete_of_its_original,
    a_parked_duplicate_onto_itself_is_done_and_changes_nothing,
    a_parked_duplicate_onto_itself_does_not_undo_a_delete,
    a_parked_duplicate_onto_itself_does_not_undo_an_overwrite,
    a_duplicate_and_a_writer_wake_like_a_put,
    an_answer_may_call_the_store,
);

/// What happened, in order.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<String>>>);

impl Events {
    fn add(&self, event: impl Into<String>) {
        self.0.lock().unwrap().push(event.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// Parks a get that notes `name` when it is answered.
    #[track_caller]
    fn park_get(&self, store: &ObjectStore, id: &[u8], name: &str) -> Ticket {
        let (events, name) = (self.clone(), name.to_owned());
        waiting(store.get_or_park(id, move |_| events.add(name)).unwrap())
    }

    /// Parks a duplicate that notes `name` when it is done.
    #[track_caller]
    fn park_duplicate(&self, store: &ObjectStore, original: &[u8], new: &[u8], name: &str) -> Ticket {
        let (events, name) = (self.clone(), name.to_owned());
        let done = move |result: Result<(), Error>| {
            result.unwrap();
            events.add(name);
        };
        waiting(store.duplicate_or_park(original, new, done).unwrap())
    }
}

#[track_caller]
fn waiting<T>(parked: Parked<T>) -> Ticket {
    match parked {
        Parked::Waiting(ticket) => ticket,
        Parked::Ready(_) => panic!("it was ready"),
    }
}

#[track_caller]
fn ready<T>(parked: Parked<T>) -> T {
    match parked {
        Parked::Ready(answer) => answer,
        Parked::Waiting(_) => panic!("it waits"),
    }
}

fn a_get_that_need_not_wait_is_ready(fixture: &Fixture) {
    let store = fixture.open();
    store.put(b"id", b"data", b"metadata").unwrap();

    let got = ready(store.get_or_park(b"id", |_| panic!("answered twice")).unwrap());

    assert_eq!(got, object(b"data", b"metadata"));
    assert_eq!(store.info().waiting_requests, 0);
}

fn a_parked_get_is_answered_before_the_put_returns(fixture: &Fixture) {
    let store = fixture.open();
    let answer: Arc<Mutex<Option<(Object, thread::ThreadId)>>> = Arc::default();
    let slot = Arc::clone(&answer);
    let ticket = waiting(
        store.get_or_park(b"id", move |object| *slot.lock().unwrap() = Some((object, thread::current().id()))).unwrap(),
    );
    assert_eq!(store.info().waiting_requests, 1);

    store.put(b"id", &bytes(1, 100_000), b"metadata").unwrap();

    let (got, thread) = answer.lock().unwrap().take().expect("answered");
    assert!(got == object(&bytes(1, 100_000), b"metadata"));
    assert_eq!(thread, thread::current().id());
    assert_eq!(store.info().waiting_requests, 0);
    drop(ticket);
}

fn parked_gets_are_answered_in_the_order_in_which_they_came(fixture: &Fixture) {
    let store = fixture.open();
    let events = Events::default();
    let tickets: Vec<_> = (0..100).map(|number| events.park_get(&store, b"id", &number.to_string())).collect();

    store.put(b"id", b"", b"").unwrap();

    assert_eq!(events.take(), (0..100).map(|number| number.to_string()).collect::<Vec<_>>());
    drop(tickets);
    assert_eq!(events.take(), [""; 0]);
}

fn a_dropped_ticket_takes_the_get_back(fixture: &Fixture) {
    let store = fixture.open();
    let events = Events::default();

    drop(events.park_get(&store, b"id", "answered"));

    assert_eq!(store.info().waiting_requests, 0);
    store.put(b"id", b"", b"").unwrap();
    assert_eq!(events.take(), [""; 0]);
}

fn a_dropped_ticket_leaves_the_others_waiting(fixture: &Fixture) {
    let store = fixture.open();
    let events = Events::default();
    let first = events.park_get(&store, b"id", "first");
    let second = events.park_get(&store, b"id", "second");
    let third = events.park_get(&store, b"id", "third");
    let fourth = events.park_get(&store, b"id", "fourth");

    drop(second);

    assert_eq!((store.info().waiting_requests, store.info().waiting_ids), (3, 1));
    store.put(b"id", b"", b"").unwrap();
    assert_eq!(events.take(), ["first", "third", "fourth"]);
    drop((first, third, fourth));
}

fn a_ticket_may_be_dropped_after_its_answer(fixture: &Fixture) {
    let store = fixture.open();
    let events = Events::default();
    let ticket = events.park_get(&store, b"id", "first");
    store.put(b"id", b"", b"").unwrap();
    store.delete(b"id").unwrap();
    let other = events.park_get(&store, b"id", "second");

    drop(ticket);

    assert_eq!(store.info().waiting_requests, 1);
    store.put(b"id", b"", b"").unwrap();
    assert_eq!(events.take(), ["first", "second"]);
    drop(other);
}

fn closing_drops_who_is_parked_unanswered(fixture: &Fixture) {
    let store = fixture.open();
    let events = Events::default();
    let held = Arc::new(());
    let (of_get, of_duplicate) = (Arc::clone(&held), Arc::clone(&held));
    let get = waiting(store.get_or_park(b"id", move |_| drop(of_get)).unwrap());
    let duplicate = waiting(store.duplicate_or_park(b"id", b"new", move |_| drop(of_duplicate)).unwrap());
    let noted = events.park_get(&store, b"id", "answered");

    store.close().unwrap();

    assert_eq!(Arc::strong_count(&held), 1);
    assert_eq!(events.take(), [""; 0]);
    assert_eq!(store.info().waiting_requests, 0);
    drop((get, duplicate, noted));
}

fn a_duplicate_that_need_not_wait_is_ready(fixture: &Fixture) {
    let store = fixture.open();
    let events = Events::default();
    store.put(b"original", b"data", b"").unwrap();
    let ticket = events.park_get(&store, b"new", "get");

    ready(store.duplicate_or_park(b"original", b"new", |_| panic!("done twice")).unwrap());

    assert_eq!(events.take(), ["get"]);
    assert_eq!(get(&store, b"new"), object(b"data", b""));
    drop(ticket);
}

fn a_parked_duplicate_is_done_before_the_put_returns(fixture: &Fixture) {
    let store = fixture.open();
    let events = Events::default();
    let ticket = events.park_duplicate(&store, b"original", b"new", "done");
    assert_eq!((store.info().waiting_requests, store.info().waiting_ids), (1, 1));

    store.put(b"original", &bytes(1, 100_000), b"m").unwrap();

    assert_eq!(events.take(), ["done"]);
    assert!(get(&store, b"new") == object(&bytes(1, 100_000), b"m"));
    let info = store.info();
    assert_eq!((info.objects, info.payloads, info.waiting_requests), (2, fixture.payloads(1, 2), 0));
    drop(ticket);
}

fn a_parked_duplicate_leaves_the_new_id_alone_until_its_time(fixture: &Fixture) {
    let store = fixture.open();
    let events = Events::default();
    store.put(b"new", b"old content", b"").unwrap();
    let ticket = events.park_duplicate(&store, b"original", b"new", "done");
    assert_eq!(get(&store, b"new"), object(b"old content", b""));

    store.put(b"original", b"data", b"").unwrap();

    assert_eq!(get(&store, b"new"), object(b"data", b""));
    drop(ticket);
}

fn a_parked_duplicate_is_done_before_who_waits_for_the_new_id(fixture: &Fixture) {
    let store = fixture.open();
    let events = Events::default();
    let tickets = [
        events.park_get(&store, b"new", "get of new, earlier"),
        events.park_get(&store, b"original", "get of original"),
        events.park_duplicate(&store, b"original", b"new", "duplicate"),
        events.park_get(&store, b"new", "get of new, later"),
        events.park_get(&store, b"original", "get of original, later"),
    ];

    store.put(b"original", b"data", b"").unwrap();

    let happened = events.take();
    let place = |event: &str| happened.iter().position(|happened| happened == event).expect("it happened");
    assert_eq!(happened.len(), 5);
    assert!(place("duplicate") < place("get of new, earlier"));
    assert!(place("get of new, earlier") < place("get of new, later"));
    assert!(place("get of original") < place("duplicate"));
    assert!(place("get of original") < place("get of original, later"));
    drop(tickets);
}

fn chains_of_parked_duplicates_end_in_order(fixture: &Fixture) {
    let store = fixture.open();
    let events = Events::default();
    let mut tickets = Vec::new();
    // Parked from the end of the chain to its start.
    for link in (0..100_u8).rev() {
        tickets.push(events.park_get(&store, &[link + 1], &format!("get {}", link + 1)));
        tickets.push(events.park_duplicate(&store, &[link], &[link + 1], &format!("duplicate {}", link + 1)));
    }

    store.put(&[0], b"data", b"m").unwrap();

    let expected: Vec<_> = (1..=100).flat_map(|link| [format!("duplicate {link}"), format!("get {link}")]).collect();
    let happened = events.take();
    assert_eq!(happened.len(), expected.len());
    for link in 1..=100 {
        let place = |event: &str| happened.iter().position(|happened| happened == event).expect("it happened");
        assert!(place(&format!("duplicate {link}")) < place(&format!("get {link}")));
        if link > 1 {
            assert!(place(&format!("duplicate {}", link - 1)) < place(&format!("duplicate {link}")));
        }
        assert_eq!(get(&store, &[link]), object(b"data", b"m"));
    }
    assert_eq!((store.info().objects, store.info().payloads), (101, fixture.payloads(1, 101)));
    drop(tickets);
}

fn rings_of_parked_duplicates_end(fixture: &Fixture) {
    let store = fixture.open();
    let events = Events::default();
    let tickets = [
        events.park_duplicate(&store, b"a", b"b", "a to b"),
        events.park_duplicate(&store, b"b", b"c", "b to c"),
        events.park_duplicate(&store, b"c", b"a", "c to a"),
    ];

    store.put(b"b", b"data", b"").unwrap();

    assert_eq!(events.take(), ["b to c", "c to a", "a to b"]);
    for id in [b"a", b"b", b"c"] {
        assert_eq!(get(&store, id), object(b"data", b""));
    }
    assert_eq!((store.info().payloads, store.info().waiting_requests), (fixture.payloads(1, 3), 0));
    drop(tickets);
}

fn many_duplicates_wait_for_one_original(fixture: &Fixture) {
    let store = fixture.open();
    let events = Events::default();
    let tickets: Vec<_> =
        (0..1000_u32).map(|new| events.park_duplicate(&store, b"original", &new.to_le_bytes(), "done")).collect();

    store.put(b"original", &bytes(1, 5000), b"").unwrap();

    assert_eq!(events.take().len(), 1000);
    assert_eq!((store.info().objects, store.info().payloads), (1001, fixture.payloads(1, 1001)));
    assert!(get(&store, &999_u32.to_le_bytes()) == object(&bytes(1, 5000), b""));
    drop(tickets);
}

fn a_dropped_ticket_takes_the_duplicate_back(fixture: &Fixture) {
    let store = fixture.open();
    let events = Events::default();

    drop(events.park_duplicate(&store, b"original", b"new", "done"));

    store.put(b"original", b"data", b"").unwrap();
    assert_eq!(events.take(), [""; 0]);
    assert_eq!(store.get(b"new").unwrap(), None);
}

fn a_parked_duplicate_survives_the_delete_of_its_original(fixture: &Fixture) {
    for size in [10, 100_000] {
        let store = fixture.open();
        store.clear().unwrap();
        let events = Events::default();
        let deleter = store.clone();
        // Answered first, so the original is gone when the duplicate's turn comes.
        let get_ticket =
            waiting(store.get_or_park(b"original", move |_| assert!(deleter.delete(b"original").unwrap())).unwrap());
        let ticket = events.park_duplicate(&store, b"original", b"new", "done");

        store.put(b"original", &bytes(1, size), b"m").unwrap();

        assert_eq!(events.take(), ["done"]);
        assert_eq!(store.get(b"original").unwrap(), None);
        assert!(get(&store, b"new") == object(&bytes(1, size), b"m"));
        drop((get_ticket, ticket));
        store.close().unwrap();
    }
}

fn a_parked_duplicate_onto_itself_is_done_and_changes_nothing(fixture: &Fixture) {
    let store = fixture.open();
    let events = Events::default();
    let ticket = events.park_duplicate(&store, b"id", b"id", "done");

    store.put(b"id", b"data", b"m").unwrap();

    assert_eq!(events.take(), ["done"]);
    assert_eq!(get(&store, b"id"), object(b"data", b"m"));
    assert_eq!((store.info().objects, store.info().payloads), (1, 1));
    drop(ticket);
}

/// Invariant 5.
fn a_parked_duplicate_onto_itself_does_not_undo_a_delete(fixture: &Fixture) {
    let store = fixture.open();
    let events = Events::default();
    let deleter = store.clone();
    let get_ticket = waiting(store.get_or_park(b"id", move |_| assert!(deleter.delete(b"id").unwrap())).unwrap());
    let ticket = events.park_duplicate(&store, b"id", b"id", "done");

    store.put(b"id", b"data", b"").unwrap();

    assert_eq!(events.take(), ["done"]);
    assert_eq!(store.get(b"id").unwrap(), None);
    drop((get_ticket, ticket));
}

/// Invariant 2.
fn a_parked_duplicate_onto_itself_does_not_undo_an_overwrite(fixture: &Fixture) {
    let store = fixture.open();
    let events = Events::default();
    let writer = store.clone();
    let get_ticket = waiting(store.get_or_park(b"id", move |_| writer.put(b"id", b"newer", b"").unwrap()).unwrap());
    let ticket = events.park_duplicate(&store, b"id", b"id", "done");

    store.put(b"id", b"data", b"").unwrap();

    assert_eq!(events.take(), ["done"]);
    assert_eq!(get(&store, b"id"), object(b"newer", b""));
    drop((get_ticket, ticket));
}

fn a_duplicate_and_a_writer_wake_like_a_put(fixture: &Fixture) {
    let store = fixture.open();
    let events = Events::default();
    let tickets = [
        events.park_duplicate(&store, b"streamed", b"b", "duplicate to b"),
        events.park_get(&store, b"b", "get of b"),
        events.park_get(&store, b"c", "get of c"),
    ];

    let mut writer = store.writer(b"streamed", 4, b"").unwrap();
    writer.write(b"data").unwrap();
    assert_eq!(events.take(), [""; 0]);
    writer.commit().unwrap();
    assert_eq!(events.take(), ["duplicate to b", "get of b"]);

    assert!(store.duplicate(b"b", b"c").unwrap());
    assert_eq!(events.take(), ["get of c"]);
    drop(tickets);
}

/// Answers run outside every lock of the store.
fn an_answer_may_call_the_store(fixture: &Fixture) {
    let store = fixture.open();
    let handle = store.clone();
    let ticket = waiting(
        store
            .get_or_park(b"id", move |object| {
                handle.put(b"id", b"overwritten", b"").unwrap();
                handle.put(b"copy", &object.data, b"").unwrap();
                assert!(handle.duplicate(b"id", b"duplicate").unwrap());
                assert!(handle.delete(b"id").unwrap());
                drop(handle.get_or_park(b"id", |_| ()).unwrap());
                assert_eq!(handle.info().objects, 2);
            })
            .unwrap(),
    );

    store.put(b"id", b"data", b"").unwrap();

    assert_eq!(store.get(b"id").unwrap(), None);
    assert_eq!(get(&store, b"copy"), object(b"data", b""));
    assert_eq!(get(&store, b"duplicate"), object(b"overwritten", b""));
    drop(ticket);
}
