//! A process that is attached and does what it is told: this program, started once more.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use scaler_object_storage::{Error, Object, ObjectStore, ObjectWriter, Parked, Ticket};

use crate::common::{bytes, get, splitmix};
use crate::place::{Place, signal};

/// The environment variable that makes this program a worker; its value is the directory.
const WORKER: &str = "ATTACHED_WORKER";

/// The test by which it is started.
const TEST: &str = "worker::a_worker_does_what_it_is_told";

/// Settings of a worker, as words of its first order.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub size_mb: u64,
    pub response_ms: u64,
}

impl Default for Setup {
    fn default() -> Self {
        Setup { size_mb: crate::place::SIZE_MB, response_ms: 3000 }
    }
}

/// The end that gives orders.
pub struct Worker {
    process: Child,
    orders: UnixStream,
    replies: BufReader<UnixStream>,
}

impl Worker {
    /// One that is attached.
    pub fn new(place: &Place) -> Self {
        Worker::with(place, Setup::default())
    }

    pub fn with(place: &Place, setup: Setup) -> Self {
        let mut worker = Worker::detached(place);
        assert_eq!(worker.order(&attach(setup)), "ok");
        worker
    }

    /// One that does not know the store yet.
    pub fn detached(place: &Place) -> Self {
        Worker::start(&place.path(), Path::new("/"))
    }

    /// One that knows the directory by a path that begins where it runs.
    pub fn relative(place: &Place) -> Self {
        let path = place.path();
        Worker::start(Path::new(path.file_name().unwrap()), path.parent().unwrap())
    }

    fn start(path: &Path, directory: &Path) -> Self {
        let (own, other) = UnixStream::pair().unwrap();
        let process = Command::new(std::env::current_exe().unwrap())
            .args([TEST, "--exact", "--nocapture"])
            .env(WORKER, path)
            .current_dir(directory)
            .stdin(OwnedFd::from(other))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Worker { process, orders: own.try_clone().unwrap(), replies: BufReader::new(own) }
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn send(&mut self, order: &str) {
        writeln!(self.orders, "{order}").unwrap();
    }

    /// The answer to the oldest order that has none yet.
    #[track_caller]
    pub fn reply(&mut self) -> String {
        let mut line = String::new();
        self.replies.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "the worker has ended");
        line.trim_end().to_owned()
    }

    #[track_caller]
    pub fn order(&mut self, order: &str) -> String {
        self.send(order);
        self.reply()
    }

    #[track_caller]
    pub fn does(&mut self, order: &str) {
        assert_eq!(self.order(order), "ok", "{order}");
    }

    pub fn stop(&self) {
        signal(self.id(), libc::SIGSTOP);
    }

    pub fn go_on(&self) {
        signal(self.id(), libc::SIGCONT);
    }

    pub fn kill(mut self) {
        self.kill_only();
    }

    /// Kills it; children of it may still answer.
    pub fn kill_only(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn attach(setup: Setup) -> String {
    format!("attach {} {}", setup.size_mb, setup.response_ms)
}

/// Data and metadata of an object that says what it is.
pub fn content(seed: u64, len: usize) -> (Vec<u8>, Vec<u8>) {
    (data(seed, len).to_vec(), format!("{seed} {len}").into_bytes())
}

/// Made once, as that takes its time.
static POOL: LazyLock<Vec<u8>> = LazyLock::new(|| bytes(7, 4 << 20));

/// Data that differs for every seed.
fn data(seed: u64, len: usize) -> Cow<'static, [u8]> {
    let from = splitmix(&mut { seed }) as usize % (2 << 20);
    POOL.get(from..from + len).map_or_else(|| bytes(seed, len).into(), Cow::Borrowed)
}

/// What an object says that it is; None where its bytes are others.
pub fn seed_and_len(object: &Object) -> Option<(u64, usize)> {
    let text = std::str::from_utf8(&object.metadata).ok()?;
    let (seed, len) = text.split_once(' ')?;
    let (seed, len) = (seed.parse().ok()?, len.parse().ok()?);
    (object.data == data(seed, len)[..]).then_some((seed, len))
}

fn shown(object: &Object) -> String {
    match seed_and_len(object) {
        Some((seed, len)) => format!("{seed} {len}"),
        None => format!("wrong bytes: {} of data, metadata {:?}", object.data.len(), object.metadata),
    }
}

struct Obeying {
    path: PathBuf,
    store: Option<ObjectStore>,
    held: Vec<Object>,
    parked: HashMap<String, (Receiver<String>, Option<Ticket>)>,
    writer: Option<(ObjectWriter, Vec<u8>, usize)>,
    descriptors: Vec<OwnedFd>,
    children: Vec<libc::pid_t>,
}

fn obey(path: PathBuf) -> ! {
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("worker: {panic}");
        std::process::exit(101);
    }));
    // Sound: the parent made one end of a pair of sockets this process's standard input, which nothing else here uses.
    let socket = unsafe { UnixStream::from_raw_fd(0) };
    let mut replies = socket.try_clone().unwrap();
    let mut obeying = Obeying {
        path,
        store: None,
        held: Vec::new(),
        parked: HashMap::new(),
        writer: None,
        descriptors: Vec::new(),
        children: Vec::new(),
    };
    for line in BufReader::new(socket).lines() {
        let Ok(line) = line else { break };
        let words: Vec<&str> = line.split(' ').collect();
        let reply = match obeying.carry_out(&words) {
            Ok(reply) => reply,
            Err(error) => format!("error {error:?}: {error}").replace('\n', " "),
        };
        if writeln!(replies, "{reply}").is_err() {
            break;
        }
    }
    std::process::exit(0);
}

fn yes_or_no(is_so: bool) -> String {
    if is_so { "yes" } else { "no" }.to_owned()
}

impl Obeying {
    fn store(&self) -> &ObjectStore {
        self.store.as_ref().expect("attached")
    }

    fn carry_out(&mut self, words: &[&str]) -> Result<String, Error> {
        let number = |at: usize| words[at].parse::<u64>().unwrap();
        let id = |at: usize| words[at].as_bytes();
        match words[0] {
            "attach" => {
                let builder = Place::builder_in(&self.path).max_size_mb(number(1));
                self.store = Some(builder.keeper_response_timeout(Duration::from_millis(number(2))).attach()?);
            }
            "put" => {
                let (data, metadata) = content(number(2), number(3) as usize);
                self.store().put(id(1), &data, &metadata)?;
            }
            "get" => return Ok(self.store().get(id(1))?.map_or("absent".to_owned(), |object| shown(&object))),
            "hold" => {
                let Some(object) = self.store().get(id(1))? else { return Ok("absent".to_owned()) };
                self.held.push(object);
            }
            "check" => {
                let changed = self.held.iter().filter(|object| seed_and_len(object).is_none()).count();
                return Ok(if changed == 0 { "unchanged".to_owned() } else { format!("{changed} changed") });
            }
            "drop" => self.held.clear(),
            "delete" => return self.store().delete(id(1)).map(yes_or_no),
            "contains" => return self.store().contains(id(1)).map(yes_or_no),
            // By so many threads at a time.
            "at-once" => {
                let asking: Vec<_> = (0..number(1))
                    .map(|_| {
                        let (store, id) = (self.store().clone(), words[2].to_owned());
                        std::thread::spawn(move || store.contains(id.as_bytes()))
                    })
                    .collect();
                let mut is_so = true;
                for thread in asking {
                    is_so &= thread.join().unwrap()?;
                }
                return Ok(yes_or_no(is_so));
            }
            "duplicate" => return self.store().duplicate(id(1), id(2)).map(yes_or_no),
            "wait" => {
                let (tell, told) = channel();
                let answer = move |object: Object| drop(tell.send(shown(&object)));
                match self.store().get_or_park(id(1), answer)? {
                    Parked::Ready(object) => return Ok(shown(&object)),
                    Parked::Waiting(ticket) => self.parked.insert(words[1].to_owned(), (told, Some(ticket))),
                };
                return Ok("parked".to_owned());
            }
            "duplicate-later" => {
                let (tell, told) = channel();
                let done = move |result: Result<(), Error>| {
                    drop(tell.send(result.map_or_else(|error| format!("error {error}"), |()| "done".to_owned())));
                };
                match self.store().duplicate_or_park(id(1), id(2), done)? {
                    Parked::Ready(()) => return Ok("done".to_owned()),
                    Parked::Waiting(ticket) => self.parked.insert(words[2].to_owned(), (told, Some(ticket))),
                };
                return Ok("parked".to_owned());
            }
            "answered" => {
                let (told, _ticket) = self.parked.remove(words[1]).unwrap();
                return Ok(told.recv_timeout(Duration::from_secs(100)).unwrap_or_else(|_| "nothing".to_owned()));
            }
            "begin" => {
                let (data, metadata) = content(number(2), number(3) as usize);
                self.writer = Some((self.store().writer(id(1), number(3), &metadata)?, data, 0));
            }
            "piece" => {
                let (writer, data, at) = self.writer.as_mut().unwrap();
                let end = data.len().min(*at + number(1) as usize);
                writer.write(&data[*at..end])?;
                *at = end;
            }
            "commit" => {
                let (writer, _, _) = self.writer.take().unwrap();
                writer.commit()?;
            }
            // A child that looks at what is held for so many milliseconds.
            "fork" => self.fork(Duration::from_millis(number(1)), false),
            // One that says by itself what it has seen.
            "fork-and-tell" => self.fork(Duration::from_millis(number(1)), true),
            "child" => {
                let child = self.children.pop().unwrap();
                let mut status = 0;
                // Sound: waits for a process that this one has made.
                unsafe { libc::waitpid(child, &raw mut status, 0) };
                return Ok(if status == 0 { "unchanged".to_owned() } else { format!("status {status:#x}") });
            }
            "descriptors" => {
                let limit = libc::rlimit { rlim_cur: number(1), rlim_max: number(1) };
                // Sound: reads `limit`.
                assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
            }
            "soft-descriptors" => {
                let limit = libc::rlimit { rlim_cur: number(1), rlim_max: number(2) };
                // Sound: reads `limit`.
                assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
            }
            // All but so many are taken.
            "exhaust" => {
                while let Ok(file) = std::fs::File::open("/dev/null") {
                    self.descriptors.push(file.into());
                }
                self.descriptors.truncate(self.descriptors.len().saturating_sub(number(1) as usize));
            }
            "relax" => self.descriptors.clear(),
            "become" => {
                // Sound: changes this process's user.
                assert_eq!(unsafe { libc::setuid(number(1) as libc::uid_t) }, 0);
            }
            "info" => return Ok(format!("{:?}", self.store().info())),
            "close" => self.store().close()?,
            "forget" => self.store = None,
            other => panic!("no such order: {other}"),
        }
        Ok("ok".to_owned())
    }

    fn fork(&mut self, time: Duration, tells: bool) {
        // Made before: the child must not allocate.
        let wanted: Vec<(Vec<u8>, &Object)> = self
            .held
            .iter()
            .map(|object| {
                let (seed, len) = seed_and_len(object).expect("unchanged until here");
                (data(seed, len).into_owned(), object)
            })
            .collect();
        // Sound: the child reads memory, sleeps, and ends without running anything else.
        match unsafe { libc::fork() } {
            -1 => panic!("cannot fork"),
            0 => {
                let end = std::time::Instant::now() + time;
                let is_unchanged = || wanted.iter().all(|(wanted, object)| object.data == wanted[..]);
                let mut status = 0;
                while status == 0 && std::time::Instant::now() < end {
                    status = i32::from(!is_unchanged());
                    // Sound: sleeps.
                    unsafe { libc::usleep(2000) };
                }
                if tells {
                    let said: &[u8] = if status == 0 { b"unchanged\n" } else { b"changed\n" };
                    // Sound: writes these bytes.
                    unsafe { libc::write(0, said.as_ptr().cast(), said.len()) };
                }
                // Sound: ends the process.
                unsafe { libc::_exit(status) }
            }
            child => self.children.push(child),
        }
    }
}

#[test]
fn a_worker_does_what_it_is_told() {
    if let Ok(path) = std::env::var(WORKER) {
        obey(path.into());
    }
    let place = Place::new();
    let mut worker = Worker::new(&place);

    worker.does("put id 7 100000");
    assert_eq!(worker.order("get id"), "7 100000");
    let (data, metadata) = content(7, 100_000);
    assert_eq!(get(&place.attach(), b"id"), Object { data: data.into(), metadata: metadata.into() });
    worker.does("hold id");
    assert_eq!(worker.order("check"), "unchanged");
    worker.does("fork 1");
    assert_eq!(worker.order("child"), "unchanged");
    worker.does("begin other 8 200000");
    worker.does("piece 90000");
    worker.does("piece 200000");
    worker.does("commit");
    assert_eq!(worker.order("get other"), "8 200000");
    assert_eq!(worker.order("get nothing"), "absent");
    assert_eq!(worker.order("delete other"), "yes");
}
