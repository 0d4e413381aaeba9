//! Running the program, and a server in a process of its own.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use scaler_object_storage::{Object, ObjectStore, Version};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_scaler_object_storage");

/// What the program has said, and how it has ended.
#[derive(Debug)]
pub struct Said {
    pub status: i32,
    pub out: String,
    pub err: String,
}

pub fn command(arguments: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).env_clear().stdin(Stdio::null());
    command
}

pub fn run(arguments: &[impl AsRef<OsStr>]) -> Said {
    said(command(arguments).output().unwrap())
}

pub fn said(output: Output) -> Said {
    Said {
        status: output.status.code().expect("not killed"),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Said {
    /// The lines of the output, which are JSON.
    pub fn json(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
    }

    /// The same, of a run that went well.
    #[track_caller]
    pub fn ok(self) -> Said {
        assert!(self.status == 0, "{self:?}");
        self
    }
}

/// A server of the directory, on a free port.
pub struct Server(Child);

impl Server {
    pub fn start(directory: &Path) -> Server {
        let arguments = ["serve", "tcp://127.0.0.1:0", "--local-max-size-mb", "64", "--local-path"].map(OsStr::new);
        let arguments = [&arguments[..], &[directory.as_os_str()]].concat();
        let mut child = command(&arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.by_ref().any(|line| line.unwrap().contains("listening on")));
        std::thread::spawn(move || lines.for_each(drop));
        Server(child)
    }

    pub fn stop(mut self) {
        // Sound: a signal to a child that is not waited for yet.
        unsafe { libc::kill(self.0.id() as i32, libc::SIGTERM) };
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Some objects of different kinds: small, large, shared, overwritten, with metadata.
pub fn fill(store: &ObjectStore) {
    for number in 0..20_u8 {
        store
            .put(&[number, 7], &crate::common::bytes(u64::from(number), 100 * usize::from(number)), &[number; 3])
            .unwrap();
    }
    store.put(&[3, 7], b"overwritten", b"").unwrap();
    store.delete(&[4, 7]).unwrap();
    store.put(b"large", &crate::common::bytes(99, 300_000), b"of the large one").unwrap();
    assert!(store.duplicate(b"large", b"shared").unwrap());
    store.put(&[1; 512], b"of the longest id", b"").unwrap();
}

/// Stores an object as it was two hours ago.
pub fn put_old(store: &ObjectStore, id: &[u8]) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let version = Version { clock: (now - 7_200_000) << 16, node: 1 };
    let object = Object { data: b"old".as_slice().into(), metadata: b"".as_slice().into() };
    assert!(store.restore(id, &object, version, 0).unwrap());
}

/// The objects that `fill` leaves.
pub const FILLED: usize = 22;

/// A directory with these objects, which nobody has open.
pub fn filled(directory: &Path) {
    let store = ObjectStore::builder().local(directory).max_size_mb(64).open().unwrap();
    fill(&store);
    store.close().unwrap();
}

/// Everything that `list` says of a store, but for ages, sorted.
pub fn listed(store: &str) -> Vec<Value> {
    let mut all = run(&["list", store, "--json"]).ok().json();
    for object in &mut all {
        object.as_object_mut().unwrap().remove("age_seconds").unwrap();
    }
    all.sort_by_key(|object| object["id"].as_str().unwrap().to_owned());
    all
}
