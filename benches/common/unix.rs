//! Processes that are measured over unix sockets, and clients for them with blocking calls.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use scaler_object_storage::ObjectStore;

use crate::measuring::{id, random, random_bytes};

/// Tells this program to be the echo, at that path.
const ECHO_PATH: &str = "ECHO_PATH";

/// Names the stock server's program; without it that server is left out.
const STOCK_SERVER: &str = "STOCK_SERVER";

pub fn echo_path() -> Option<PathBuf> {
    std::env::var_os(ECHO_PATH).map(PathBuf::from)
}

/// Tells this program to be an attached process, of the store in that directory with that Redis.
const ATTACHED: &str = "ATTACHED_TO";

/// The object that an attached process is to hold; it reads it when there is an object `go`.
const HOLDS: &str = "ATTACHED_HOLDS";

/// An attached process that gets an object now and then.
pub fn attached_child(directory: &Path, redis: &str) -> Child {
    attached(directory, redis).spawn().unwrap()
}

/// One that says by an object of its process number, and `ready` or `read`, how far it is.
pub fn holding_child(directory: &Path, redis: &str, object: &str) -> Child {
    attached(directory, redis).env(HOLDS, object).spawn().unwrap()
}

fn attached(directory: &Path, redis: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(ATTACHED, directory).env("ATTACHED_REDIS", redis).stdout(Stdio::null());
    command
}

/// Bytes of memory that a process has, in parts of those who share a page (`Pss`), or each for itself (`Rss`).
pub fn memory_bytes(child: &Child, which: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", child.id())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(which)?.strip_prefix(':')).unwrap();
    let kilobytes: f64 = line.trim().strip_suffix("kB").unwrap().trim().parse().unwrap();
    kilobytes * 1024.0
}

/// Whether this process was one, until it was killed.
pub fn is_attached_child() -> bool {
    let (Some(directory), Ok(redis)) = (std::env::var_os(ATTACHED), std::env::var("ATTACHED_REDIS")) else {
        return false;
    };
    let store = ObjectStore::builder().tiered(Path::new(&directory), redis).max_size_mb(6000).attach().unwrap();
    if let Ok(object) = std::env::var(HOLDS) {
        let say = |how_far: &str| store.put(format!("{how_far} {}", std::process::id()).as_bytes(), b"", b"").unwrap();
        say("ready");
        while store.get(b"go").unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(20));
        }
        let held = store.get(object.as_bytes()).unwrap().unwrap();
        std::hint::black_box(held.data.iter().map(|byte| u64::from(*byte)).sum::<u64>());
        say("read");
        loop {
            std::thread::park();
        }
    }
    store.put(b"begun", b"", b"").unwrap();
    let mut state = u64::from(std::process::id());
    loop {
        drop(store.get(&id(random(&mut state) % 2000)).unwrap());
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn signal(child: &Child, signal: i32) {
    // Sound: sends a signal to a child that has not been waited for.
    unsafe { libc::kill(child.id() as i32, signal) };
}

/// A thread for each connection, blocking calls, nothing but the bytes: as many as the client has announced.
pub fn echo(path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    for stream in listener.incoming() {
        std::thread::spawn(|| -> std::io::Result<()> {
            let mut stream = stream?;
            let mut lengths = [0; 16];
            stream.read_exact(&mut lengths)?;
            let length = |place: usize| u64::from_le_bytes(lengths[place..][..8].try_into().unwrap()) as usize;
            let (mut request, reply_bytes) = (vec![0; length(0)], length(8));
            // As a store's, they are not in the processor's cache.
            let pool = random_bytes(1, reply_bytes.max(32 << 20));
            for reply in pool.chunks_exact(reply_bytes).cycle() {
                stream.read_exact(&mut request)?;
                stream.write_all(reply)?;
            }
            Ok(())
        });
    }
}

pub struct Process {
    pub name: &'static str,
    path: PathBuf,
    process: Child,
}

/// The echo.
pub struct Echo(Process);

impl Echo {
    pub fn start(scratch: &Path) -> Echo {
        let path = scratch.join("echo.sock");
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(ECHO_PATH, &path);
        Echo(Process::start("echo", path.clone(), path, &mut command).unwrap())
    }

    /// Exchanges so many bytes for so many.
    pub fn client(&self, (question, answer): (usize, usize)) -> Box<dyn FnMut() + Send> {
        let mut stream = UnixStream::connect(&self.0.path).unwrap();
        stream.write_all(&[question as u64, answer as u64].map(u64::to_le_bytes).concat()).unwrap();
        let (request, mut reply) = (vec![7; question], vec![0; answer]);
        Box::new(move || {
            stream.write_all(&request).unwrap();
            stream.read_exact(&mut reply).unwrap();
        })
    }
}

impl Process {
    /// Our server, which keeps this directory.
    pub fn keeper(directory: &Path) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_scaler_object_storage_server"));
        command.args([
            "tcp://127.0.0.1:0",
            "--backend",
            "local",
            "--local-max-size-mb",
            "6000",
            "--logging-level",
            "ERROR",
        ]);
        command.arg("--local-path").arg(directory);
        Process::start("keeper", directory.to_owned(), directory.join("socket"), &mut command).unwrap()
    }

    /// The same, with a Redis that it shares.
    pub fn tiered_keeper(directory: &Path, redis: &str) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_scaler_object_storage_server"));
        command.args([
            "tcp://127.0.0.1:0",
            "--backend",
            "tiered",
            "--local-max-size-mb",
            "6000",
            "--logging-level",
            "ERROR",
        ]);
        command.args(["--redis-url", redis, "--local-path"]).arg(directory);
        Process::start("keeper", directory.to_owned(), directory.join("socket"), &mut command).unwrap()
    }

    pub fn directory(&self) -> &Path {
        &self.path
    }

    /// None where its program is not named.
    pub fn stock(scratch: &Path) -> Option<Process> {
        let Some(program) = std::env::var_os(STOCK_SERVER) else {
            eprintln!("{STOCK_SERVER} does not name the stock server's program: left out");
            return None;
        };
        let path = scratch.join("stock.sock");
        let mut command = Command::new(program);
        command.args(["--logging-level", "ERROR"]).arg(format!("ipc://{}", path.display()));
        Some(Process::start("stock", path.clone(), path, &mut command).expect("the stock server"))
    }

    /// Keeps nothing on disk. None where it is not installed.
    pub fn redis(scratch: &Path) -> Option<Process> {
        let path = scratch.join("redis.sock");
        let mut command = Command::new("redis-server");
        command
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--loglevel", "warning", "--unixsocket"])
            .arg(&path);
        let redis = Process::start("redis", path.clone(), path, &mut command);
        if redis.is_none() {
            eprintln!("redis-server is not installed: left out");
        }
        redis
    }

    fn start(name: &'static str, path: PathBuf, socket: PathBuf, command: &mut Command) -> Option<Process> {
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().ok()?;
        let mut started = Process { name, path, process };
        let limit = Instant::now() + Duration::from_secs(30);
        while UnixStream::connect(&socket).is_err() {
            assert!(started.process.try_wait().unwrap().is_none(), "{name} has ended");
            assert!(Instant::now() < limit, "{name} does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(started)
    }

    /// A client of a peer, which puts or gets random ones of ten objects.
    pub fn client(&self, operation: &str, data: &[u8], thread: u64) -> Box<dyn FnMut() + Send> {
        let (mut stream, mut state, is_get) = (self.connect(), thread, operation == "get");
        let (mut data, is_redis) = (data.to_vec(), self.name == "redis");
        let mut reply = vec![0; data.len() + 256];
        Box::new(move || {
            let number = random(&mut state);
            let id = id(number % 10);
            data[..8].copy_from_slice(&number.to_le_bytes());
            let request = match (is_redis, is_get) {
                (true, true) => [b"*2\r\n$3\r\nGET\r\n$32\r\n", &id[..], b"\r\n"].concat(),
                (true, false) => {
                    let head = format!("\r\n${}\r\n", data.len());
                    [b"*3\r\n$3\r\nSET\r\n$32\r\n", &id[..], head.as_bytes()].concat()
                }
                (false, _) => scaler_request(is_get, &id, data.len()),
            };
            stream.write_all(&request).unwrap();
            if !is_get {
                stream.write_all(&data).unwrap();
            }
            if !is_get && is_redis {
                stream.write_all(b"\r\n").unwrap();
            }
            let reply_bytes = match (is_redis, is_get) {
                (true, true) => format!("${}\r\n", data.len()).len() + data.len() + 2,
                (true, false) => b"+OK\r\n".len(),
                (false, true) => 8 + 80 + 8 + data.len(),
                (false, false) => 8 + 80,
            };
            stream.read_exact(&mut reply[..reply_bytes]).unwrap();
            assert!(!is_redis || reply[0] == if is_get { b'$' } else { b'+' });
        })
    }

    /// Puts all ten.
    pub fn load(&self, data: &[u8]) {
        // Random ones of ten, until each is there with certainty enough.
        let mut put = self.client("put", data, 1);
        (0..200).for_each(|_| put());
    }

    fn connect(&self) -> UnixStream {
        let mut stream = UnixStream::connect(&self.path).unwrap();
        if self.name == "stock" {
            let identity = format!("bench-{:p}", &raw const stream);
            stream
                .write_all(&[b"YMQ\x02", &(identity.len() as u64).to_le_bytes()[..], identity.as_bytes()].concat())
                .unwrap();
            let mut greeting = [0; 12];
            stream.read_exact(&mut greeting).unwrap();
            let length = u64::from_le_bytes(greeting[4..].try_into().unwrap());
            stream.read_exact(&mut vec![0; length as usize]).unwrap();
        }
        stream
    }
}

/// A request of Scaler's protocol, up to the data of a set.
fn scaler_request(is_get: bool, id: &[u8; 32], data_bytes: usize) -> Vec<u8> {
    let (length, kind) = if is_get { (u64::MAX, 1) } else { (data_bytes as u64, 0) };
    let words = [80, 9 << 32, 3 << 32 | 1 << 48, length, 1, kind, 4 << 32, 0, 0, 0, 0];
    let mut request: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
    request[8 + 48..][..32].copy_from_slice(id);
    if !is_get {
        request.extend_from_slice(&length.to_le_bytes());
    }
    request
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
