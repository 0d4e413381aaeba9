//! Ports and processes that no test leaves behind.

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};

use crate::splitmix;

/// A TCP port of 127.0.0.1 which is this test's until dropped, also while nobody listens on it.
///
/// It is below the range from which the kernel takes the ports of outgoing connections: one that is retried while nobody listens
/// could otherwise be given its own target as its source, and connect to itself. Other tests see that it is taken by the UDP port of
/// the same number, which is held.
pub struct Port {
    pub number: u16,
    _held: Vec<UdpSocket>,
}

/// What Redis Cluster adds to a port for the bus between the nodes.
const BUS: u16 = 10_000;

impl Port {
    pub fn free() -> Port {
        Self::choose(10_000..32_000, &[0])
    }

    /// Free as well: the port of the cluster's bus that belongs to it.
    pub fn with_bus() -> Port {
        Self::choose(10_000..22_000, &[0, BUS])
    }

    fn choose(range: std::ops::Range<u16>, offsets: &[u16]) -> Port {
        let state = std::collections::hash_map::RandomState::new();
        let mut random = std::hash::BuildHasher::hash_one(&state, std::process::id());
        loop {
            let number = range.start + (splitmix(&mut random) % range.len() as u64) as u16;
            let hold = |offset: &u16| {
                let held = UdpSocket::bind(("127.0.0.1", number + offset)).ok()?;
                TcpListener::bind(("127.0.0.1", number + offset)).ok().map(|_| held)
            };
            if let Some(held) = offsets.iter().map(hold).collect() {
                return Port { number, _held: held };
            }
        }
    }
}

/// A child process, killed when dropped.
pub struct Process {
    child: parking_lot::Mutex<Child>,
    log: PathBuf,
}

impl Process {
    pub fn spawn(program: &str, arguments: Vec<OsString>, directory: &Path) -> Process {
        let log = directory.join("output.log");
        let output = File::options().create(true).append(true).open(&log).unwrap();
        // The kernel kills it when the thread ends that started it: a thread which lives as long as this process.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", program]).args(arguments).current_dir(directory);
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let (sender, receiver) = channel();
        starter().send((command, sender)).unwrap();
        let child = receiver.recv().unwrap().unwrap_or_else(|error| panic!("{program} cannot be started: {error}"));
        Process { child: child.into(), log }
    }

    pub fn is_running(&self) -> bool {
        self.child.lock().try_wait().unwrap().is_none()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// With SIGKILL, which also ends one that stands still.
    pub fn kill(&self) {
        let mut child = self.child.lock();
        let _ = child.kill();
        let _ = child.wait();
    }

    pub fn signal(&self, name: &str) {
        let child = self.child.lock();
        assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

type Start = (Command, Sender<std::io::Result<Child>>);

fn starter() -> Sender<Start> {
    static STARTER: OnceLock<Sender<Start>> = OnceLock::new();
    let start = || {
        let (sender, receiver) = channel::<Start>();
        std::thread::spawn(move || {
            for (mut command, answer) in receiver {
                let _ = answer.send(command.spawn());
            }
        });
        sender
    };
    STARTER.get_or_init(start).clone()
}
