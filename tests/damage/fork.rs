//! A process that forks while it has a store open.

use std::io::{Read, Write, pipe};
use std::time::Duration;

use scaler_object_storage::{Error, ObjectStore};

use crate::common::bytes;
use crate::locks::Holder;
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

/// Forks; the child runs this, and ends with what it returns.
fn in_child(run: impl FnOnce() -> i32) -> i32 {
    // Sound: the child runs what the caller says, and ends without running anything else.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let status = run();
        unsafe { libc::_exit(status) };
    }
    let mut status = 0;
    // Sound: waits for the child made above.
    unsafe { libc::waitpid(child, &mut status, 0) };
    status
}

/// Invariant 7: what the parent goes on writing is neither removed nor overwritten.
#[test]
fn a_forked_child_leaves_an_object_alone_that_its_parent_is_writing() {
    let place = tempfile::tempdir().unwrap();
    let open = || builder(place.path()).open().unwrap();
    // Larger than a segment: it gets a file of its own.
    let data = bytes(1, 5 << 20);
    let (first, second) = data.split_at(3 << 20);
    let store = open();
    let mut writer = Some(store.writer(b"id", data.len() as u64, b"").unwrap());
    writer.as_mut().unwrap().write(first).unwrap();
    let status = in_child(|| {
        let mut writer = writer.take().unwrap();
        let written = writer.write(&vec![b'x'; second.len()]);
        drop(writer);
        i32::from(!matches!(written, Err(Error::Forked)))
    });
    assert_eq!(status, 0, "the child could write");
    let mut writer = writer.unwrap();
    writer.write(second).unwrap();
    writer.commit().unwrap();
    store.close().unwrap();
    let store = open();
    assert!(store.get(b"id").unwrap().unwrap().data == data);
    assert_eq!(store.info().damaged_objects, 0);
}

#[test]
fn a_forked_child_does_not_keep_a_directory_that_its_parent_waits_for() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("LOCK");
    let opened = || {
        let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
        descriptors
            .filter(|entry| std::fs::read_link(entry.as_ref().unwrap().path()).is_ok_and(|to| to == path))
            .count()
    };
    builder(place.path()).open().unwrap().close().unwrap();
    let holder = Holder::of(place.path());
    let directory = place.path().to_path_buf();
    let waiting = std::thread::spawn(move || builder(&directory).lock_wait(Duration::from_secs(60)).open().unwrap());
    while opened() < 1 {
        std::thread::sleep(Duration::from_millis(1));
    }
    // It may have the file since this moment only.
    std::thread::sleep(Duration::from_millis(20));
    let kept = in_child(|| opened() as i32);
    drop(holder);
    waiting.join().unwrap();
    assert_eq!(kept, 0, "descriptors of the lock file in the child");
}
