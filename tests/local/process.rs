//! Tests that need a process of their own: those that fork, and those that kill what has the store open.

use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Says to a process started by `in_its_own` which directory it has.
const DIRECTORY: &str = "LOCAL_TEST_DIRECTORY";

/// The test of that name, started once more to do another part: in a process in which no other test runs.
pub fn start(test: &str, directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// In such a process, its directory.
pub fn directory() -> Option<PathBuf> {
    std::env::var_os(DIRECTORY).map(PathBuf::from)
}

/// Runs the test's body in a process of its own, with a directory of its own.
#[track_caller]
pub fn in_its_own(test: &str, run: impl FnOnce(&Path)) {
    if let Some(directory) = directory() {
        return run(&directory);
    }
    let place = tempfile::tempdir().unwrap();
    let output = start(test, &place.path().join("store")).wait_with_output().unwrap();
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{said}\n{complained}", output.status);
}

/// Ends this process as `kill -9` does.
pub fn kill_self() -> ! {
    // Sound: ends this process.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    unreachable!("SIGKILL cannot be survived")
}

/// A forked child, which reads from its parent and writes to it.
pub struct Forked {
    pid: libc::pid_t,
    to: Option<PipeWriter>,
    from: PipeReader,
}

/// Forks; the child runs this and ends without running anything else. What it does must not panic.
pub fn fork(run: impl FnOnce(&mut PipeReader, &mut PipeWriter)) -> Forked {
    let (mut from_parent, to) = pipe().unwrap();
    let (from, mut to_parent) = pipe().unwrap();
    // Sound: the child does what the caller says, which is reading, writing to pipes and to memory that is its own, and ends.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        drop((to, from));
        run(&mut from_parent, &mut to_parent);
        unsafe { libc::_exit(0) };
    }
    Forked { pid, to: Some(to), from }
}

impl Forked {
    /// The next byte that it writes.
    pub fn hear(&mut self) -> u8 {
        let mut byte = [0];
        self.from.read_exact(&mut byte).unwrap();
        byte[0]
    }

    pub fn tell(&mut self) {
        self.to.as_mut().unwrap().write_all(b"x").unwrap();
    }
}

impl Drop for Forked {
    /// It is told that nothing more will come, and ends.
    fn drop(&mut self) {
        self.to = None;
        let mut status = 0;
        // Sound: waits for the child made above.
        unsafe { libc::waitpid(self.pid, &mut status, 0) };
    }
}
