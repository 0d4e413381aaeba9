//! A process that forks while it has a store open.

use std::io::{Read, Write, pipe};

use scaler_object_storage::{Error, ObjectStore};

use crate::specimen::builder;

/// In a child, one character for each call on the parent's store: whether it failed as it must.
fn calls(store: &ObjectStore) -> [u8; 8] {
    let is_forked = |error: Option<Error>| if matches!(error, Some(Error::Forked)) { b'f' } else { b'?' };
    [
        is_forked(store.get(b"id").err()),
        is_forked(store.put(b"id", b"child", b"").err()),
        is_forked(store.contains(b"id").err()),
        is_forked(store.delete(b"id").err()),
        is_forked(store.duplicate(b"id", b"new").err()),
        is_forked(store.writer(b"id", 3, b"").err()),
        is_forked(store.clear().err()),
        is_forked(store.flush().err()),
    ]
}

/// A child that forks off while the store is open, and ends as it should: what it has to say comes first.
fn child_of(store: ObjectStore) -> [u8; 8] {
    let (mut answers, mut answer) = pipe().unwrap();
    // Sound: the child uses the store, writes to a pipe, and ends without running anything else.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let found = calls(&store);
        assert_eq!(store.info().objects, 0);
        drop(store);
        let _ = answer.write_all(&found);
        unsafe { libc::_exit(0) };
    }
    drop(answer);
    let mut found = [0; 8];
    answers.read_exact(&mut found).unwrap();
    let mut status = 0;
    // Sound: waits for the child made above.
    unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(status, 0);
    found
}

#[test]
fn a_forked_child_cannot_use_a_store_in_memory_either() {
    let store = ObjectStore::builder().memory().open().unwrap();
    store.put(b"id", b"data", b"").unwrap();
    let found = child_of(store.clone());
    assert_eq!(found, [b'f'; 8], "{}", String::from_utf8_lossy(&found));
    assert_eq!(store.get(b"id").unwrap().unwrap().data, "data");
}

#[test]
fn a_forked_child_cannot_use_the_store_and_does_not_keep_its_directory() {
    let place = tempfile::tempdir().unwrap();
    let store = builder(place.path()).open().unwrap();
    store.put(b"id", b"data", b"").unwrap();
    let (mut answers, mut answer) = pipe().unwrap();
    let (mut until_end, end) = pipe().unwrap();
    // Sound: the child calls the store, writes to a pipe, waits on another, and ends without running anything else.
    let child = unsafe { libc::fork() };
    if child == 0 {
        drop(end);
        let _ = answer.write_all(&calls(&store));
        let _ = until_end.read(&mut [0]);
        unsafe { libc::_exit(0) };
    }
    drop(answer);
    let mut found = [0; 8];
    answers.read_exact(&mut found).unwrap();
    assert_eq!(found, [b'f'; 8], "{}", String::from_utf8_lossy(&found));

    // The child lives; the parent's store goes on, and its directory is free once it is closed.
    assert_eq!(store.get(b"id").unwrap().unwrap().data, "data");
    store.put(b"id", b"parent", b"").unwrap();
    store.close().unwrap();
    let store = builder(place.path()).lock_wait(std::time::Duration::ZERO).open().unwrap();
    assert_eq!(store.get(b"id").unwrap().unwrap().data, "parent");
    drop(end);
    let mut status = 0;
    // Sound: waits for the child made above.
    unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(status, 0);
}
