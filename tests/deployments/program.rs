use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use tempfile::TempDir;

use crate::common::until;

/// The server as a process, killed when dropped.
pub struct Program {
    child: Child,
    log: PathBuf,
    _directory: TempDir,
}

impl Program {
    /// On a free port, with a directory of its own.
    pub fn start(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Program {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let output = File::create(&log).unwrap();
        let arguments: Vec<_> = arguments.into_iter().map(|argument| argument.as_ref().to_owned()).collect();
        let mut command = Command::new(env!("CARGO_BIN_EXE_scaler_object_storage_server"));
        // Which it would warn of.
        if !arguments.windows(2).any(|two| two[0] == "--backend" && two[1] == "redis") {
            command.args(["--local-max-size-mb", "64", "--local-path"]).arg(directory.path().join("objects"));
        }
        let child = command
            .arg("tcp://127.0.0.1:0")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        Program { child, log, _directory: directory }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub fn until_it_listens(&mut self) {
        let log = self.log.clone();
        let child = parking_lot::Mutex::new(&mut self.child);
        until("the server listens", || {
            let log = fs::read_to_string(&log).unwrap();
            assert!(child.lock().try_wait().unwrap().is_none(), "it ended: {log}");
            log.contains(": listening on ")
        });
    }

    /// Asks it to end, and waits: its exit status and its whole log.
    pub fn end(&mut self) -> (ExitStatus, String) {
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        self.ended()
    }

    pub fn ended(&mut self) -> (ExitStatus, String) {
        (self.child.wait().unwrap(), self.log())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
