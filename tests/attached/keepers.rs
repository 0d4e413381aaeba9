//! Who keeps the directory: a keeper is started where there is none, ends when it is not needed, and leaves the directory to a server.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use scaler_object_storage::{Error, ObjectStore};

use crate::common::{bytes, get, until};
use crate::place::{PROGRAM, Place, is_alive, signal, stop};

#[test]
fn attaching_starts_a_keeper_which_ends_when_nobody_is_attached() {
    let place = Place::new();
    let store = place.attach();
    let keeper = place.keeper().unwrap();

    store.put(b"small", b"data", b"metadata").unwrap();
    store.put(b"large", &bytes(1, 5 << 20), b"metadata").unwrap();

    let other = place.attach();
    assert_eq!(place.keeper(), Some(keeper), "there is one");
    assert_eq!(get(&other, b"small").data, b"data"[..]);
    assert!(get(&other, b"large").data == bytes(1, 5 << 20));
    drop((store, other));
    until("the keeper ends", || !is_alive(keeper));
    assert_eq!(place.keeper(), None);
    assert_eq!(get(&place.attach(), b"small").metadata, b"metadata"[..]);
}

#[test]
fn a_killed_keeper_is_replaced_and_what_it_acknowledged_is_there() {
    let place = Place::new();
    let store = place.attach();
    store.put(b"small", b"data", b"").unwrap();
    store.put(b"large", &bytes(1, 5 << 20), b"").unwrap();
    let held = get(&store, b"large").data;

    let killed = place.kill_keeper();

    assert_eq!(get(&store, b"small").data, b"data"[..]);
    assert_ne!(place.keeper(), Some(killed));
    assert!(held == bytes(1, 5 << 20));
    for number in 0..40_u64 {
        store.delete(b"large").unwrap();
        store.put(b"large", &bytes(2 + number, 5 << 20), b"").unwrap();
    }
    assert!(held == bytes(1, 5 << 20), "bytes that are held change");
}

#[test]
fn a_keeper_that_is_killed_before_it_has_kept_anything_leaves_nothing_to_warn_of() {
    let place = Place::new();
    drop(place.attach());
    place.kill_keeper();
    drop(place.attach());
    let log = std::fs::read_to_string(place.path().join("keeper.log")).unwrap();
    assert!(log.matches("keeping").count() == 2 && !log.contains("WARN"), "{log}");
}

#[test]
fn a_server_takes_the_directory_over_from_a_keeper() {
    let place = Place::new();
    let store = place.attach();
    store.put(b"id", b"data", b"").unwrap();
    let keeper = place.keeper().unwrap();

    let server = place.serve();

    assert_eq!(place.keeper(), Some(server.id()));
    until("the keeper has ended", || !is_alive(keeper));
    assert_eq!(get(&store, b"id").data, b"data"[..]);
    store.put(b"more", b"data", b"").unwrap();
    server.end();
    assert_eq!(get(&store, b"more").data, b"data"[..]);
}

#[test]
fn a_server_is_the_keeper_of_its_directory_and_does_not_yield() {
    let place = Place::new();
    let server = place.serve();
    let store = place.attach();
    store.put(b"id", b"data", b"").unwrap();

    let refused = place.builder().lock_wait(Duration::from_millis(300)).open().unwrap_err();

    assert!(matches!(refused, Error::Locked { .. }), "{refused}");
    assert_eq!(place.keeper(), Some(server.id()));
    drop(store);
    server.end();
}

#[test]
fn a_keeper_with_other_settings_is_refused_with_both_values() {
    let place = Place::new();
    let _store = place.attach();

    let refused = place.builder().max_size_mb(300).attach().map(drop).unwrap_err();

    let text = refused.to_string();
    assert!(text.contains("local.max_size_mb") && text.contains("300") && text.contains("256"), "{text}");
}

#[test]
fn a_keeper_that_cannot_be_started_says_why() {
    let place = Place::new();
    let missing = place.builder().keeper_command("/nowhere/at/all").attach().map(drop).unwrap_err().to_string();
    assert!(missing.contains("/nowhere/at/all") && missing.contains("keeper_command"), "{missing}");

    let _opened: ObjectStore = place.builder().open().unwrap();
    let begun = Instant::now();
    let locked = place.builder().lock_wait(Duration::from_millis(500)).attach().map(drop).unwrap_err().to_string();
    assert!(locked.contains("is in use by process") || locked.contains("keeps it"), "{locked}");
    assert!(begun.elapsed() >= Duration::from_millis(500));
}

#[test]
fn what_is_no_directory_is_named_at_once() {
    let place = Place::new();
    std::fs::write(place.path(), "").unwrap();
    let refused = place.builder().attach().map(drop).unwrap_err();
    assert!(matches!(&refused, Error::Io { path, .. } if *path == place.path()), "{refused}");
}

#[test]
fn a_keeper_that_is_stopped_is_an_error_that_says_so() {
    let place = Place::new();
    let store = place.attach();
    store.put(b"id", b"data", b"").unwrap();
    let keeper = place.keeper().unwrap();

    stop(keeper);
    let stopped = store.get(b"id").unwrap_err();
    signal(keeper, libc::SIGCONT);

    assert!(stopped.to_string().contains("does not answer"), "{stopped}");
    assert_eq!(get(&store, b"id").data, b"data"[..]);
}

/// A keeper that was killed as soon as it listened, before the process that started it could connect, is no reason to give up.
#[test]
fn a_keeper_that_is_killed_before_anybody_has_connected_is_followed_by_another() {
    let place = Place::new();
    let scripts = tempfile::tempdir().unwrap();
    let (script, once) = (scripts.path().join("keeper"), scripts.path().join("once"));
    // The first one leaves a socket behind, as a killed one does, and its turn ends with it.
    let listen = "import os, socket; socket.socket(socket.AF_UNIX).bind(os.environ['SCALER_OBJECT_STORAGE_LOCAL_PATH'] + '/socket')";
    let text = format!(
        "#!/bin/sh\nif mkdir '{}' 2>/dev/null; then exec python3 -c \"{listen}\"; fi\nexec '{PROGRAM}' \"$@\"\n",
        once.display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, Permissions::from_mode(0o700)).unwrap();
    let store = place.builder().keeper_command(&script).attach().unwrap();
    assert!(once.exists());
    store.put(b"id", b"data", b"").unwrap();
    store.close().unwrap();
}
