//! A directory whose keepers are known, and ended with the test.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use scaler_object_storage::{ObjectStore, ObjectStoreBuilder};

use crate::common::until;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_scaler_object_storage_server");

/// Where a test does not ask for less.
pub const SIZE_MB: u64 = 256;

/// Most segments of large objects while there is no object: an eighth of the limit is kept for the next ones, and a few may still be freed.
pub const BODY_SEGMENTS_IDLE_MAX: usize = 8 + 2;

pub struct Place {
    directory: tempfile::TempDir,
    name: String,
}

impl Place {
    pub fn new() -> Self {
        Place::with_name("store")
    }

    pub fn with_name(name: &str) -> Self {
        Place { directory: tempfile::tempdir().unwrap(), name: name.to_owned() }
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join(&self.name)
    }

    pub fn builder(&self) -> ObjectStoreBuilder {
        Place::builder_in(&self.path())
    }

    pub fn builder_in(path: &Path) -> ObjectStoreBuilder {
        ObjectStore::builder()
            .local(path)
            .max_size_mb(SIZE_MB)
            .keeper_command(PROGRAM)
            .keeper_idle(Duration::from_secs(1))
            .keeper_response_timeout(Duration::from_secs(3))
    }

    pub fn attach(&self) -> ObjectStore {
        self.builder().attach().unwrap()
    }

    /// A server that keeps the directory.
    pub fn serve(&self) -> Server {
        let path = self.path();
        let mut command = Command::new(PROGRAM);
        command
            .args([
                "tcp://127.0.0.1:0",
                "--backend",
                "local",
                "--local-max-size-mb",
                &SIZE_MB.to_string(),
                "--local-path",
            ])
            .arg(&path);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let number = process.id();
        until("the server keeps the directory", || keeper(&path) == Some(number));
        Server { process }
    }

    /// The process that keeps the directory, and listens.
    pub fn keeper(&self) -> Option<u32> {
        keeper(&self.path())
    }

    /// All processes that were told of the directory: those that keep it, and those that this test has started.
    pub fn processes(&self) -> Vec<u32> {
        let path = self.path().into_os_string().into_encoded_bytes();
        let numbers =
            std::fs::read_dir("/proc").unwrap().filter_map(|it| it.unwrap().file_name().to_str()?.parse().ok());
        let knows = |number: &u32| {
            // One that has ended meanwhile knows nothing.
            let environment = std::fs::read(format!("/proc/{number}/environ")).unwrap_or_default();
            environment.windows(path.len()).any(|window| window == path)
        };
        numbers.filter(|number| is_alive(*number) && knows(number)).collect()
    }

    /// Files of sessions: one for each through which somebody may still read or write.
    pub fn sessions(&self) -> usize {
        std::fs::read_dir(self.path().join("sessions")).unwrap().count()
    }

    /// Files of segments that large objects share.
    pub fn body_segments(&self) -> usize {
        let names = std::fs::read_dir(self.path().join("journal")).unwrap().map(|entry| entry.unwrap().path());
        names.filter(|path| path.extension().is_some_and(|it| it == "bodies")).count()
    }

    pub fn kill_keeper(&self) -> u32 {
        let number = self.keeper().expect("somebody keeps it");
        signal(number, libc::SIGKILL);
        // Its first thread ends before the last of them, with which its connections do.
        until("the keeper is gone", || self.keeper() != Some(number));
        number
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(number) = keeper(&self.path()) {
            signal(number, libc::SIGKILL);
        }
    }
}

pub fn keeper(path: &Path) -> Option<u32> {
    // The directory's name may be too long for a socket's.
    let directory = std::fs::File::open(path).ok()?;
    UnixStream::connect(format!("/proc/self/fd/{}/socket", directory.as_raw_fd())).ok()?;
    let text = std::fs::read_to_string(path.join("LOCK")).ok()?;
    text.lines().next()?.trim().parse().ok()
}

pub fn signal(process: u32, signal: i32) {
    // Sound: sends a signal.
    unsafe { libc::kill(process as i32, signal) };
}

/// Stops a process, all of its threads.
pub fn stop(process: u32) {
    signal(process, libc::SIGSTOP);
    let tasks = format!("/proc/{process}/task");
    let is_stopped = |task: std::io::Result<std::fs::DirEntry>| {
        let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") T ")
    };
    until("it is stopped", || std::fs::read_dir(&tasks).unwrap().all(is_stopped));
}

pub fn is_alive(process: u32) -> bool {
    // A zombie is none: it only waits to be looked at.
    let status = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    !status.is_empty() && !status.contains(") Z ")
}

pub struct Server {
    process: Child,
}

impl Server {
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn end(mut self) {
        signal(self.process.id(), libc::SIGTERM);
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
