//! Two processes, one directory.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use scaler_object_storage::Error;

use crate::specimen::builder;

const DIRECTORY: &str = "DAMAGE_LOCKED_DIRECTORY";

#[test]
fn a_second_process_waits_and_then_fails_with_the_holders_id() {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        // The second process.
        match builder(directory.as_ref()).lock_wait(Duration::from_millis(200)).open() {
            Ok(_) => eprintln!("\nopened"),
            Err(error) => eprintln!("\nrefused: {error}"),
        }
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let store = builder(place.path()).open().unwrap();
    store.put(b"id", b"data", b"").unwrap();
    let second = || {
        let test = "locks::a_second_process_waits_and_then_fails_with_the_holders_id";
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture"])
            .env(DIRECTORY, place.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines: Vec<String> = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap).collect();
        assert!(child.wait().unwrap().success());
        lines.join("\n")
    };
    let refused = second();
    let holder = format!("in use by process {}", std::process::id());
    assert!(refused.contains("refused") && refused.contains(&holder), "{refused}");
    assert_eq!(store.get(b"id").unwrap().unwrap().data, "data", "the first goes on");
    store.close().unwrap();
    let opened = second();
    assert!(opened.contains("opened"), "{opened}");
}

#[test]
fn an_open_that_waits_gets_the_directory_when_it_is_released() {
    let place = tempfile::tempdir().unwrap();
    let store = builder(place.path()).open().unwrap();
    store.put(b"id", b"data", b"").unwrap();
    let error = builder(place.path()).lock_wait(Duration::ZERO).open().unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    let path = place.path().to_path_buf();
    let waiting = std::thread::spawn(move || builder(&path).lock_wait(Duration::from_secs(60)).open().unwrap());
    std::thread::sleep(Duration::from_millis(100));
    assert!(!waiting.is_finished());
    store.close().unwrap();
    assert_eq!(waiting.join().unwrap().get(b"id").unwrap().unwrap().data, "data");
}
