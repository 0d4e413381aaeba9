//! A server is replaced by another process, and no client notices.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use redis_for_tests::RedisServer;
use scaler_object_storage::server::{Address, Handover, Predecessor, Server, ServerOptions, Successor};
use scaler_object_storage::{Keeper, ObjectStore, StoreConfig};
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::client::*;
use crate::command_line::{Running, program};
use crate::transports::WebSocketStream;

/// A server in this process that is paused, brought over a socket pair and resumed, as often as a test wants.
struct Replaced {
    runtime: tokio::runtime::Runtime,
    store: ObjectStore,
    options: ServerOptions,
    server: Option<Server>,
    _directory: TempDir,
}

impl Replaced {
    fn start(address: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = ObjectStore::builder().local(directory.path()).max_size_mb(256).open().unwrap();
        let options = ServerOptions::default().with(|options| {
            options.bind_address = address.parse().unwrap();
            options.worker_threads = 2;
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let server = runtime.block_on(Server::bind(options.clone(), store.clone())).unwrap();
        Replaced { runtime, store, options, server: Some(server), _directory: directory }
    }

    fn address(&self) -> Address {
        self.server.as_ref().unwrap().local_address().clone()
    }

    /// Serves while the test does something.
    fn while_served<T>(&self, test: impl FnOnce() -> T) -> T {
        let server = self.server.as_ref().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(|| self.runtime.block_on(server.serve_until(stopped)));
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
            stop.send(()).unwrap();
            result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn pause(&mut self) -> Handover {
        self.runtime.block_on(self.server.take().unwrap().pause()).unwrap()
    }

    fn resume(&mut self, handover: Handover) {
        let _inside = self.runtime.enter();
        self.server = Some(Server::resume(self.options.clone(), self.store.clone(), handover).unwrap());
    }

    /// Another server goes on, with what has come over a socket.
    fn replace(&mut self) {
        let handover = self.pause();
        self.resume(brought_over(&handover));
    }

    fn socket(&self) -> TcpStream {
        let socket = TcpStream::connect(("127.0.0.1", self.address().endpoint().unwrap().port)).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }
}

/// What arrives of it at another process.
fn brought_over(handover: &Handover) -> Handover {
    let (to, from) = UnixStream::pair().unwrap();
    std::thread::scope(|scope| {
        let arrived = scope.spawn(|| Predecessor::new(from).receive().unwrap());
        let successor = Successor::new(to);
        successor.until_ready().unwrap();
        successor.hand_over(handover).unwrap();
        arrived.join().unwrap()
    })
}

fn payload(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at.wrapping_mul(31) / 7 + seed) as u8).collect()
}

#[test]
fn a_request_of_which_any_part_has_come_is_carried_out_by_the_next_server() {
    let mut server = Replaced::start("tcp://127.0.0.1:0");
    let mut client = Client { socket: server.socket() };
    server.while_served(|| client.greet(2, b"one"));
    let (small, large) = (payload(3000, 1), payload(3_000_000, 2));
    let stream =
        [set(id(1), &small, 1), get(id(1), 2), set(id(2), &large, 3), get(id(2), 4), delete(id(1), 5)].concat();
    // Behind the first byte, within headers and lengths, within a payload that is taken whole, and within one that comes in pieces.
    let cuts = [
        1,
        40,
        89,
        95,
        2000,
        3100,
        3150,
        3200,
        3300,
        70_000,
        1_500_000,
        stream.len() - 200,
        stream.len() - 60,
        stream.len(),
    ];
    let mut sent = 0;
    let mut replies = Vec::new();
    for cut in cuts {
        server.while_served(|| {
            client.send(&stream[sent..cut]);
            // So that it is read before the server pauses; whatever is not stays in the socket.
            std::thread::sleep(Duration::from_millis(20));
        });
        sent = cut;
        server.replace();
    }
    server.while_served(|| replies.extend((0..5).map(|_| client.receive())));
    assert_eq!(replies[0], reply(SET_OK, id(1), 1, b""));
    assert_eq!(replies[1], reply(GET_OK, id(1), 2, &small));
    assert_eq!(replies[2], reply(SET_OK, id(2), 3, b""));
    assert!(replies[3] == reply(GET_OK, id(2), 4, &large));
    assert_eq!(replies[4], reply(DEL_OK, id(1), 5, b""));
}

#[test]
fn a_reply_of_which_a_part_is_written_is_written_to_its_end_by_the_next_server() {
    let mut server = Replaced::start("tcp://127.0.0.1:0");
    let data = payload(40_000_000, 3);
    server.store.put(&id(1), &data, b"").unwrap();
    server.store.put(&id(2), b"small", b"").unwrap();
    let mut client = Client { socket: server.socket() };
    server.while_served(|| {
        client.greet(2, b"one");
        client.send(&[get(id(2), 1), get(id(1), 2), get(id(2), 3), get(id(1), 4), get(id(2), 5)].concat());
        std::thread::sleep(Duration::from_millis(50));
    });
    let mut expected = Vec::new();
    for (object, request) in [(2, 1), (1, 2), (2, 3), (1, 4), (2, 5)] {
        let bytes: &[u8] = if object == 1 { &data } else { b"small" };
        expected.extend([message(&header(GET_OK, id(object), bytes.len() as u64, request)), message(bytes)].concat());
    }
    let mut received = vec![0; expected.len()];
    for part in received.chunks_mut(expected.len() / 5 + 1) {
        server.replace();
        // What is written in part stays what it was.
        server.store.put(&id(1), &payload(data.len(), 3), b"").unwrap();
        server.while_served(|| client.socket.read_exact(part).unwrap());
    }
    assert!(received == expected);
}

#[test]
fn waiting_requests_are_answered_by_the_next_server() {
    let mut server = Replaced::start("tcp://127.0.0.1:0");
    let mut client = Client { socket: server.socket() };
    let mut lost = Client { socket: server.socket() };
    server.while_served(|| {
        client.greet(2, b"one");
        client.send(&[get(id(1), 1), duplicate(id(2), id(3), 2), get(id(3), 3), get(id(1), 4)].concat());
        lost.greet(2, b"lost");
        lost.send(&get(id(1), 9));
        std::thread::sleep(Duration::from_millis(50));
        lost.reset();
        eventually("all of them wait", || server.store.info().waiting_requests == 5);
    });
    server.replace();
    assert_eq!(server.store.info().waiting_requests, 5);
    // Before anybody serves: what comes to exist meanwhile, and is gone again, answers who waited.
    server.store.put(&id(1), b"first", b"").unwrap();
    server.store.delete(&id(1)).unwrap();
    server.replace();
    server.store.put(&id(2), b"second", b"").unwrap();
    let mut back = Client { socket: server.socket() };
    server.while_served(|| {
        let mut replies: Vec<_> = (0..4).map(|_| client.receive()).collect();
        replies.sort_by_key(|reply| reply.request);
        assert_eq!(replies[0], reply(GET_OK, id(1), 1, b"first"));
        assert_eq!(replies[1], reply(DUPLICATE_OK, id(3), 2, b""));
        assert_eq!(replies[2], reply(GET_OK, id(3), 3, b"second"));
        assert_eq!(replies[3], reply(GET_OK, id(1), 4, b"first"));
        back.greet(2, b"lost");
        assert_eq!(back.receive(), reply(GET_OK, id(1), 9, b"first"));
    });
}

#[test]
fn a_client_that_introduces_itself_goes_on_doing_so() {
    let mut server = Replaced::start("tcp://127.0.0.1:0");
    let mut client = Client { socket: server.socket() };
    let greeting = [b"YMQ\x02".to_vec(), message(b"one"), set(id(1), b"data", 1)].concat();
    for byte in greeting.chunks(3) {
        server.while_served(|| {
            client.send(byte);
            std::thread::sleep(Duration::from_millis(2));
        });
        server.replace();
    }
    server.while_served(|| {
        let mut magic = [0; 4];
        client.socket.read_exact(&mut magic).unwrap();
        assert_eq!(&magic, b"YMQ\x02");
        assert_eq!(client.receive_message(), b"ObjectStorageServer");
        assert_eq!(client.receive(), reply(SET_OK, id(1), 1, b""));
    });
}

#[test]
fn clients_that_connect_meanwhile_are_served() {
    let mut server = Replaced::start("tcp://127.0.0.1:0");
    let port = server.address().endpoint().unwrap().port;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let end = ending(&stop);
        let clients: Vec<_> = (0..4_u64)
            .map(|number| {
                let stop = &stop;
                scope.spawn(move || {
                    for round in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            return round;
                        }
                        let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
                        socket.set_read_timeout(Some(PATIENCE)).unwrap();
                        let mut client = Client { socket };
                        client.greet(2, format!("{number} {round}").as_bytes());
                        assert_eq!(client.ask(&set(id(number), b"data", round)), reply(SET_OK, id(number), round, b""));
                    }
                    unreachable!()
                })
            })
            .collect();
        for _ in 0..100 {
            server.while_served(|| std::thread::sleep(Duration::from_millis(3)));
            server.replace();
        }
        drop(end);
        server.while_served(|| {
            for client in clients {
                assert!(client.join().unwrap() > 0);
            }
        });
    });
}

#[test]
fn connections_over_unix_sockets_and_websockets_go_on_within_a_frame() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("server.sock");
    let mut server = Replaced::start(&format!("ipc://{}", path.display()));
    let mut client = connect_unix(&path);
    server.while_served(|| client.greet(2, b"one"));
    server.replace();
    let mut another = connect_unix(&path);
    server.while_served(|| {
        assert_eq!(client.ask(&set(id(1), b"data", 1)), reply(SET_OK, id(1), 1, b""));
        another.greet(2, b"two");
    });
    assert!(path.exists());
    drop(server.server.take());
    assert!(!path.exists(), "the file of a server that ends goes");

    let mut server = Replaced::start("ws://127.0.0.1:0/");
    let raw = server.socket();
    let mut tap = raw.try_clone().unwrap();
    let large = payload(900_000, 4);
    let mut client = server.while_served(|| {
        let socket = WebSocketStream::connect(raw, &server.address().to_string(), 100_000);
        let mut client = Client { socket };
        client.greet(2, b"one");
        client
    });
    // A frame that comes in three parts.
    let request = set(id(1), &large, 1);
    let frame = [&[0x82, 0xff][..], &(request.len() as u64).to_be_bytes(), &[1, 2, 3, 4]].concat();
    let masked = request.iter().zip([1, 2, 3, 4].into_iter().cycle()).map(|(byte, mask)| byte ^ mask);
    let bytes: Vec<u8> = frame.into_iter().chain(masked).collect();
    let cuts = [3, 9, 12, 14, 15, 400_001, bytes.len()];
    let mut sent = 0;
    for cut in cuts {
        server.while_served(|| {
            tap.write_all(&bytes[sent..cut]).unwrap();
            std::thread::sleep(Duration::from_millis(10));
        });
        sent = cut;
        server.replace();
    }
    server.while_served(|| {
        assert_eq!(client.receive(), reply(SET_OK, id(1), 1, b""));
        client.send(&get(id(1), 2));
        std::thread::sleep(Duration::from_millis(50));
    });
    server.replace();
    server.while_served(|| assert!(client.receive() == reply(GET_OK, id(1), 2, &large)));
}

#[test]
fn a_server_goes_on_by_itself_where_nobody_takes_over() {
    let mut server = Replaced::start("tcp://127.0.0.1:0");
    let mut client = Client { socket: server.socket() };
    server.while_served(|| {
        client.greet(2, b"one");
        client.send(&[get(id(1), 1), set(id(2), b"data", 2)].concat()[..150]);
        eventually("it waits", || server.store.info().waiting_requests == 1);
    });
    let handover = server.pause();
    let (to, from) = UnixStream::pair().unwrap();
    drop(from);
    assert!(Successor::new(to).hand_over(&handover).is_err());
    server.resume(handover);
    server.while_served(|| {
        client.send(&[get(id(1), 1), set(id(2), b"data", 2)].concat()[150..]);
        assert_eq!(client.receive(), reply(SET_OK, id(2), 2, b""));
        assert_eq!(client.ask(&set(id(1), b"late", 3)), reply(GET_OK, id(1), 1, b"late"));
        assert_eq!(client.receive(), reply(SET_OK, id(1), 3, b""));
    });
}

/// A server as a process on a directory; the address is a free port's.
fn spawn(directory: &Path, address: &str) -> Running {
    Running::spawn(program(directory).args([address, "--local-path", "objects", "--local-max-size-mb", "256"]))
}

#[test]
fn a_running_server_is_replaced_under_load() {
    const REPLACEMENTS: u64 = 12;
    const CLIENTS: u64 = 4;
    let directory = tempfile::tempdir().unwrap();
    let mut running = spawn(directory.path(), "tcp://127.0.0.1:0");
    let address = running.address().to_owned();
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let clients: Vec<_> = (0..CLIENTS).map(|number| running.client(&format!("client {number}"))).collect();
    let mut waiting = running.client("waiting");
    waiting.send(&get(id(u64::MAX), 1));
    std::thread::scope(|scope| {
        let (stop, asked) = (&stop, &asked);
        let end = ending(stop);
        for (number, mut client) in (0..).zip(clients) {
            scope.spawn(move || {
                for round in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let object = id((number << 32) | (round % 50));
                    let bytes = [10, 5000, 100_000, 2_000_000][(round % 4) as usize];
                    let data = payload(bytes, round as usize);
                    assert_eq!(client.ask(&set(object, &data, round)), reply(SET_OK, object, round, b""));
                    assert!(client.ask(&get(object, round)) == reply(GET_OK, object, round, &data));
                    if round % 3 == 0 {
                        assert_eq!(client.ask(&delete(object, round)), reply(DEL_OK, object, round, b""));
                    }
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..REPLACEMENTS {
            let before = asked.load(Ordering::Relaxed);
            eventually("the clients are served", || asked.load(Ordering::Relaxed) > before + 2 * CLIENTS);
            let next = spawn(directory.path(), &address);
            let (code, log, stderr) = std::mem::replace(&mut running, next).ended();
            assert_eq!((code, stderr.as_str()), (Some(0), ""), "{log:?}");
            assert!(log.last().unwrap().ends_with("stopped: the process that has taken over serves"), "{log:?}");
            assert_eq!(running.address(), address);
        }
        drop(end);
    });
    let mut late = running.client("late");
    late.send(&set(id(u64::MAX), b"at last", 2));
    assert_eq!(waiting.receive(), reply(GET_OK, id(u64::MAX), 1, b"at last"));
}

/// Tells the clients to end, also where a test fails.
fn ending(stop: &AtomicBool) -> impl Drop + '_ {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    Stop(stop)
}

#[test]
fn a_server_is_replaced_while_redis_is_away_or_does_not_answer() {
    let directory = tempfile::tempdir().unwrap();
    let mut redis = RedisServer::start();
    let url = redis.url();
    let spawn = |address: &str| {
        let mut command = program(directory.path());
        command.args([address, "--backend", "tiered", "--local-path", "objects", "--redis-url", &url]);
        Running::spawn(&mut command)
    };
    let mut running = spawn("tcp://127.0.0.1:0");
    let address = running.address().to_owned();
    let mut client = running.client("one");
    for (number, is_away) in [(1, false), (2, true)] {
        if is_away {
            redis.kill();
        } else {
            redis.pause();
        }
        assert_eq!(client.ask(&set(id(number), b"data", 1)), reply(SET_OK, id(number), 1, b""));
        let next = spawn(&address);
        let (code, log, stderr) = std::mem::replace(&mut running, next).ended();
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{log:?}");
        assert_eq!(client.ask(&get(id(number), 2)), reply(GET_OK, id(number), 2, b"data"));
        if is_away {
            redis.restart();
        } else {
            redis.resume();
        }
        let hex: String = id(number).iter().map(|byte| format!("{byte:02x}")).collect();
        let is_pushed = |key: &Vec<u8>| key.ends_with(hex.as_bytes());
        eventually("what Redis lacked is pushed", || redis.keys().iter().any(is_pushed));
    }
}

#[test]
fn a_server_for_another_address_does_not_take_over() {
    let directory = tempfile::tempdir().unwrap();
    let running = spawn(directory.path(), "tcp://127.0.0.1:0");
    let mut client = running.client("one");
    let mut other = program(directory.path());
    other.args([
        "ipc://other.sock",
        "--local-path",
        "objects",
        "--local-max-size-mb",
        "256",
        "--local-lock-wait-ms",
        "100",
    ]);
    let output = other.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(&running.child.id().to_string()), "{stderr}");
    assert_eq!(client.ask(&set(id(1), b"data", 1)), reply(SET_OK, id(1), 1, b""));
}

#[test]
fn a_server_goes_on_where_the_one_that_was_to_take_over_ends_first() {
    let directory = tempfile::tempdir().unwrap();
    let running = spawn(directory.path(), "tcp://127.0.0.1:0");
    let mut client = running.client("one");
    assert_eq!(client.ask(&set(id(1), b"data", 1)), reply(SET_OK, id(1), 1, b""));
    client.send(&get(id(2), 2));
    let mut config = StoreConfig::default();
    config.local.path = directory.path().join("objects");
    let address = running.address().to_owned();
    let ask = || Keeper::ask_to_replace(&config, &address).unwrap().map(Predecessor::new);
    // Without being ready to receive, after it has received, and after the store was closed for it.
    for step in 0..3 {
        let mut asked = None;
        eventually("it lets itself be replaced", || {
            asked = ask();
            asked.is_some()
        });
        let predecessor = asked.unwrap();
        if step > 0 {
            let handover = predecessor.receive().unwrap();
            if step > 1 {
                predecessor.until_closed().unwrap();
            }
            drop(handover);
        }
        drop(predecessor);
        assert_eq!(client.ask(&get(id(1), 3)), reply(GET_OK, id(1), 3, b"data"));
    }
    assert_eq!(client.ask(&set(id(2), b"late", 4)), reply(GET_OK, id(2), 2, b"late"));
    assert_eq!(client.receive(), reply(SET_OK, id(2), 4, b""));
    let mut new = running.client("two");
    assert_eq!(new.ask(&get(id(2), 5)), reply(GET_OK, id(2), 5, b"late"));
}

/// What systemd does for a service: keeps the descriptors that it is sent, by name.
struct Systemd {
    socket: UnixDatagram,
    kept: Vec<(String, OwnedFd)>,
}

impl Systemd {
    fn new(directory: &Path) -> Self {
        let socket = UnixDatagram::bind(directory.join("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Systemd { socket, kept: Vec::new() }
    }

    /// Reads what it was told; all of it, in words.
    fn look(&mut self) -> String {
        use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
        let mut said = String::new();
        loop {
            let mut bytes = [0; 4096];
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut slices = [std::io::IoSliceMut::new(&mut bytes)];
            let Ok(received) = recvmsg(&self.socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) else {
                return said;
            };
            let descriptors: Vec<OwnedFd> = control
                .drain()
                .filter_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                    _ => None,
                })
                .flatten()
                .collect();
            let text = String::from_utf8(bytes[..received.bytes].to_vec()).unwrap();
            let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or_default().to_owned();
            if text.contains("FDSTOREREMOVE=1") {
                self.kept.retain(|(kept, _)| *kept != name);
            } else if text.contains("FDSTORE=1") {
                self.kept.extend(descriptors.into_iter().map(|descriptor| (name.clone(), descriptor)));
            }
            said += &text;
            said.push('\n');
        }
    }

    /// Starts the service, with what is kept, in any order.
    fn spawn(&mut self, directory: &Path, address: &str) -> Running {
        let mut command = Command::new("sh");
        let server = program(directory);
        command.envs(server.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(directory);
        command.args(["-c", "LISTEN_PID=$$ exec \"$@\"", "sh"]).arg(server.get_program());
        command.args([address, "--local-path", "objects", "--local-max-size-mb", "256"]);
        command.env("NOTIFY_SOCKET", directory.join("notify")).env("FDSTORE", "100");
        let names: Vec<_> = self.kept.iter().rev().map(|(name, _)| name.as_str()).collect();
        command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        let kept: Vec<i32> = self.kept.iter().rev().map(|(_, descriptor)| descriptor.as_raw_fd()).collect();
        // Sound: calls nothing that a child of a process with threads may not call.
        unsafe {
            command.pre_exec(move || {
                // First out of the way of the numbers that they are to have.
                let moved: [i32; 64] = std::array::from_fn(|at| match kept.get(at) {
                    Some(descriptor) => libc::fcntl(*descriptor, libc::F_DUPFD, 200),
                    None => -1,
                });
                for (at, descriptor) in moved.iter().take(kept.len()).enumerate() {
                    if libc::dup2(*descriptor, 3 + at as i32) < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                    libc::close(*descriptor);
                }
                Ok(())
            });
        }
        Running::spawn(&mut command)
    }
}

#[test]
fn systemd_keeps_the_connections_over_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut systemd = Systemd::new(directory.path());
    let mut running = systemd.spawn(directory.path(), "tcp://127.0.0.1:0");
    eventually("it says that it is ready", || systemd.look().contains("READY=1"));
    let address = running.address().to_owned();
    let mut client = running.client("one");
    let data = payload(2_000_000, 5);
    for round in 0..3 {
        client.send(&set(id(round), &data, 1)[..1_000_000]);
        std::thread::sleep(Duration::from_millis(20));
        running.signal("-TERM");
        let pid = running.child.id();
        if round == 0 {
            // What it sends counts only while it runs, so it waits until that is read.
            std::thread::sleep(Duration::from_secs(1));
            assert!(!is_zombie(pid), "it has ended before systemd has read what it sent");
        }
        eventually("it has ended", || {
            systemd.look();
            !Path::new(&format!("/proc/{pid}/task")).exists() || is_zombie(pid)
        });
        let (code, log, stderr) = running.ended();
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{log:?}");
        systemd.look();
        assert!(systemd.kept.len() >= 4, "the form, the listening socket, the connection, what has come of a set");
        running = systemd.spawn(directory.path(), &address);
        eventually("nothing is kept any more", || {
            systemd.look();
            systemd.kept.is_empty()
        });
        client.send(&set(id(round), &data, 1)[1_000_000..]);
        assert_eq!(client.receive(), reply(SET_OK, id(round), 1, b""));
        assert!(client.ask(&get(id(round), 2)) == reply(GET_OK, id(round), 2, &data));
    }
    // What is left of the last one goes with it.
    drop(running);
    client.expect_closed();
}

fn is_zombie(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}
