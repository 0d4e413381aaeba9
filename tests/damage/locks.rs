//! Two processes, one directory.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
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
fn a_second_open_in_the_same_process_fails_at_once() {
    let place = tempfile::tempdir().unwrap();
    let store = builder(place.path()).open().unwrap();
    store.put(b"id", b"data", b"").unwrap();
    // Nobody would release the directory meanwhile.
    let error = builder(place.path()).lock_wait(Duration::from_secs(1_000_000)).open().unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    assert!(error.to_string().contains(&format!("process {} (this one)", std::process::id())), "{error}");
    store.close().unwrap();
    let store = builder(place.path()).open().unwrap();
    assert_eq!(store.get(b"id").unwrap().unwrap().data, "data");
}

#[test]
fn an_open_that_waits_gets_the_directory_when_it_is_released() {
    let place = tempfile::tempdir().unwrap();
    let store = builder(place.path()).open().unwrap();
    store.put(b"id", b"data", b"").unwrap();
    store.close().unwrap();
    let holder = Holder::of(place.path());
    let path = place.path().to_path_buf();
    let waiting = std::thread::spawn(move || builder(&path).lock_wait(Duration::from_secs(200)).open().unwrap());
    std::thread::sleep(Duration::from_millis(100));
    assert!(!waiting.is_finished());
    drop(holder);
    assert_eq!(waiting.join().unwrap().get(b"id").unwrap().unwrap().data, "data");
}

/// Another process that holds a directory until this is dropped.
pub struct Holder(Child);

impl Holder {
    pub fn of(directory: &Path) -> Holder {
        // Says so when it has the lock.
        let mut command = Command::new("flock");
        command.arg(directory.join("LOCK")).args(["sh", "-c", "echo held; cat"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        Holder(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
