//! What two nodes that share a Redis promise, however it is run.

use std::cell::Cell;
use std::sync::mpsc::channel;

use scaler_object_storage::{Object, ObjectStore, Parked, Waited};

use crate::common::redis::Nodes;
use crate::common::{bytes, much_later, object, until};

/// Opens nodes and checks all promises.
pub fn are_kept(nodes: &Nodes) {
    let (a, b) = (nodes.open(), nodes.open());
    writes_are_seen_by_the_writer_at_once_and_by_the_other_soon(nodes, &a, &b);
    deletes_too(&a, &b);
    large_objects_arrive_whole(&a, &b);
    duplicates_are_objects_of_their_own(&a, &b);
    waiters_are_answered_from_the_other_node(&a, &b);
    a.close().unwrap();
    b.close().unwrap();
    what_was_stored_is_there_for_a_new_node(nodes);
}

fn kept() -> Vec<(&'static [u8], Object)> {
    vec![
        (b"kept", object(b"new", b"metadata")),
        (b"empty", object(b"", b"")),
        (b"metadata alone", object(b"", b"text/plain")),
        (b"large", object(&large(), b"large")),
        (b"half zeros", object(&half_zeros(), b"")),
        (b"duplicate", object(b"shared", b"")),
        (&[0, 255, b':', b'*', b'{', b'}'], object(b"an id of any bytes", b"")),
    ]
}

/// Three chunks and a bit.
fn large() -> Vec<u8> {
    bytes(1, (3 << 20) + 7)
}

/// Shrinks, and stands in chunks all the same.
fn half_zeros() -> Vec<u8> {
    let mut data = bytes(2, 3 << 20);
    data.chunks_mut(64).step_by(2).for_each(|chunk| chunk.fill(0));
    data
}

#[track_caller]
fn comes_to_see(store: &ObjectStore, id: &[u8], expected: Option<&Object>) {
    until(&format!("{} is as expected", String::from_utf8_lossy(id)), || store.get(id).unwrap().as_ref() == expected);
    assert_eq!(store.contains(id).unwrap(), expected.is_some());
}

/// Invariants 2 and 4.
fn writes_are_seen_by_the_writer_at_once_and_by_the_other_soon(nodes: &Nodes, a: &ObjectStore, b: &ObjectStore) {
    assert_eq!(a.get(b"kept").unwrap(), None);
    a.put(b"kept", b"old", b"").unwrap();
    assert_eq!(a.get(b"kept").unwrap(), Some(object(b"old", b"")));
    comes_to_see(b, b"kept", Some(&object(b"old", b"")));
    b.put(b"kept", b"new", b"metadata").unwrap();
    assert_eq!(b.get(b"kept").unwrap(), Some(object(b"new", b"metadata")));
    if nodes.are_synchronous() {
        assert_eq!(a.get(b"kept").unwrap(), Some(object(b"new", b"metadata")));
    }
    comes_to_see(a, b"kept", Some(&object(b"new", b"metadata")));
    for (id, object) in kept().iter().filter(|(id, object)| *id != b"kept" && object.len() < 100) {
        a.put(id, &object.data, &object.metadata).unwrap();
        comes_to_see(b, id, Some(object));
    }
}

/// Invariant 5, and that the answer says whether there was something to delete.
fn deletes_too(a: &ObjectStore, b: &ObjectStore) {
    a.put(b"deleted", b"data", b"").unwrap();
    comes_to_see(b, b"deleted", Some(&object(b"data", b"")));
    assert!(b.delete(b"deleted").unwrap());
    assert_eq!(b.get(b"deleted").unwrap(), None);
    comes_to_see(a, b"deleted", None);
    assert!(!a.delete(b"deleted").unwrap());
    assert!(!a.delete(b"never there").unwrap());

    let tries = Cell::new(0);
    // Where Redis does not answer within a tenth of a second, it says no.
    until("a delete by one who has not read it is answered in time", || {
        tries.set(tries.get() + 1);
        let id = format!("not read {}", tries.get());
        a.put(id.as_bytes(), b"data", b"").unwrap();
        until("it can be deleted elsewhere", || b.contains(id.as_bytes()).unwrap());
        let existed = b.delete(id.as_bytes()).unwrap();
        comes_to_see(a, id.as_bytes(), None);
        existed
    });
}

/// Invariant 7.
fn large_objects_arrive_whole(a: &ObjectStore, b: &ObjectStore) {
    a.put(b"large", b"small at first", b"").unwrap();
    a.put(b"large", &large(), b"large").unwrap();
    let mut writer = b.writer(b"half zeros", half_zeros().len() as u64, b"").unwrap();
    half_zeros().chunks(100_000).for_each(|piece| writer.write(piece).unwrap());
    writer.commit().unwrap();
    comes_to_see(b, b"large", Some(&object(&large(), b"large")));
    comes_to_see(a, b"half zeros", Some(&object(&half_zeros(), b"")));
    b.put(b"large and deleted", &large(), b"").unwrap();
    comes_to_see(a, b"large and deleted", Some(&object(&large(), b"")));
    assert!(a.delete(b"large and deleted").unwrap());
    comes_to_see(b, b"large and deleted", None);
}

fn duplicates_are_objects_of_their_own(a: &ObjectStore, b: &ObjectStore) {
    assert!(!b.duplicate(b"never there", b"duplicate").unwrap());
    a.put(b"original", b"shared", b"").unwrap();
    comes_to_see(b, b"original", Some(&object(b"shared", b"")));
    assert!(b.duplicate(b"original", b"duplicate").unwrap());
    assert_eq!(b.get(b"duplicate").unwrap(), Some(object(b"shared", b"")));
    comes_to_see(a, b"duplicate", Some(&object(b"shared", b"")));
    assert!(a.delete(b"original").unwrap());
    comes_to_see(b, b"original", None);
    assert_eq!(b.get(b"duplicate").unwrap(), Some(object(b"shared", b"")));
}

/// Invariant 4: whoever waits, on any node, is answered.
fn waiters_are_answered_from_the_other_node(a: &ObjectStore, b: &ObjectStore) {
    for (waiting, writing) in [(a, b), (b, a)] {
        let id = format!("awaited by {:p}", waiting);
        let copy = format!("copy of {id}");
        let (done, is_done) = channel();
        let parked =
            waiting.duplicate_or_park(id.as_bytes(), copy.as_bytes(), move |result| done.send(result).unwrap());
        let Parked::Waiting(_ticket) = parked.unwrap() else { panic!("it does not exist yet") };
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| waiting.wait(id.as_bytes(), much_later(), None).unwrap());
            until("both wait", || waiting.info().waiting_requests == 2);
            writing.put(id.as_bytes(), b"awaited", b"m").unwrap();
            assert_eq!(waiter.join().unwrap(), Waited::Object(object(b"awaited", b"m")));
        });
        is_done.recv().unwrap().unwrap();
        comes_to_see(writing, copy.as_bytes(), Some(&object(b"awaited", b"m")));
        assert_eq!(waiting.info().waiting_requests, 0);
    }
}

fn what_was_stored_is_there_for_a_new_node(nodes: &Nodes) {
    let c = nodes.open();
    for (id, object) in kept() {
        comes_to_see(&c, id, Some(&object));
    }
    assert_eq!(c.get(b"deleted").unwrap(), None);
}
