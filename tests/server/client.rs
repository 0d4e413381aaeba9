//! A server to test, and a blocking client that says literally what it is told to.

#![allow(dead_code, reason = "each test crate uses a part of it")]

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use scaler_object_storage::ObjectStore;
use scaler_object_storage::server::{Address, Server, ServerCounters, ServerOptions};
use tokio::sync::oneshot;

/// No test waits longer than this for something that is to happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How long a test watches for something that must not happen.
pub const MOMENT: Duration = Duration::from_millis(150);

pub const SET: u16 = 0;
pub const GET: u16 = 1;
pub const DELETE: u16 = 2;
pub const DUPLICATE: u16 = 3;
pub const INFO: u16 = 4;

pub const SET_OK: u16 = 0;
pub const GET_OK: u16 = 1;
pub const DEL_OK: u16 = 2;
pub const DEL_NOT_EXISTS: u16 = 3;
pub const DUPLICATE_OK: u16 = 4;
pub const INFO_OK: u16 = 5;

/// A server in this process, stopped when dropped.
pub struct TestServer {
    pub address: Address,
    pub store: ObjectStore,
    pub counters: Arc<ServerCounters>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

pub fn options() -> ServerOptions {
    ServerOptions::default().with(|options| options.bind_address = "tcp://127.0.0.1:0".parse().unwrap())
}

pub fn start() -> TestServer {
    start_with(options())
}

pub fn start_with(options: ServerOptions) -> TestServer {
    serve(options, ObjectStore::builder().memory().max_size_mb(512).open().unwrap())
}

pub fn serve(options: ServerOptions, store: ObjectStore) -> TestServer {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(Server::bind(options, store.clone())).unwrap();
    let (address, counters) = (server.local_address().clone(), server.counters());
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::spawn(move || {
        runtime.block_on(server.run(async {
            let _ = stopped.await;
        }));
    });
    TestServer { address, store, counters, stop: Some(stop), thread: Some(thread) }
}

impl TestServer {
    pub fn port(&self) -> u16 {
        self.address.endpoint().unwrap().port
    }

    /// A connection that has said nothing yet.
    pub fn socket(&self) -> Client<TcpStream> {
        let socket = TcpStream::connect(("127.0.0.1", self.port())).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { socket }
    }

    /// A connection that has introduced itself in protocol version 2.
    pub fn client(&self, identity: &str) -> Client<TcpStream> {
        let mut client = self.socket();
        client.greet(2, identity.as_bytes());
        client
    }

    /// Tells the server to stop, and does not wait.
    pub fn begin_stop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
    }

    /// Stops the server and waits until it has.
    pub fn stop(&mut self) {
        self.begin_stop();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Waits until something holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub kind: u16,
    pub id: [u8; 32],
    pub request: u64,
    pub payload: Vec<u8>,
}

/// An id, told apart by a number.
pub fn id(number: u64) -> [u8; 32] {
    let mut id = [0xab; 32];
    id[..8].copy_from_slice(&number.to_be_bytes());
    id
}

pub fn header(kind: u16, id: [u8; 32], payload_length: u64, request: u64) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 3, 0, 1, 0];
    bytes.extend_from_slice(&payload_length.to_le_bytes());
    bytes.extend_from_slice(&request.to_le_bytes());
    bytes.extend_from_slice(&u64::from(kind).to_le_bytes());
    bytes.extend_from_slice(&[0, 0, 0, 0, 4, 0, 0, 0]);
    bytes.extend_from_slice(&id_fields(id));
    bytes
}

/// The payload of a duplicate.
pub fn original(id: [u8; 32]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0];
    bytes.extend_from_slice(&id_fields(id));
    bytes
}

fn id_fields(id: [u8; 32]) -> Vec<u8> {
    id.chunks(8).flat_map(|field| field.iter().rev()).copied().collect()
}

pub fn message(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes(), bytes].concat()
}

pub fn set(id: [u8; 32], payload: &[u8], request: u64) -> Vec<u8> {
    [message(&header(SET, id, payload.len() as u64, request)), message(payload)].concat()
}

pub fn get(id: [u8; 32], request: u64) -> Vec<u8> {
    message(&header(GET, id, u64::MAX, request))
}

pub fn delete(id: [u8; 32], request: u64) -> Vec<u8> {
    message(&header(DELETE, id, 0, request))
}

pub fn duplicate(from: [u8; 32], to: [u8; 32], request: u64) -> Vec<u8> {
    [message(&header(DUPLICATE, to, 48, request)), message(&original(from))].concat()
}

pub fn reply(kind: u16, id: [u8; 32], request: u64, payload: &[u8]) -> Reply {
    Reply { kind, id, request, payload: payload.to_vec() }
}

pub struct Client<S> {
    pub socket: S,
}

impl<S: Read + Write> Client<S> {
    pub fn greet(&mut self, version: u8, identity: &[u8]) {
        self.send(&[b"YMQ", &[version][..], &message(identity)].concat());
        let mut magic = [0; 4];
        self.socket.read_exact(&mut magic).unwrap();
        assert_eq!(magic, [b'Y', b'M', b'Q', version]);
        assert_eq!(self.receive_message(), b"ObjectStorageServer");
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    pub fn receive_message(&mut self) -> Vec<u8> {
        let mut length = [0; 8];
        self.socket.read_exact(&mut length).unwrap();
        let mut bytes = vec![0; usize::try_from(u64::from_le_bytes(length)).unwrap()];
        self.socket.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub fn receive(&mut self) -> Reply {
        let head = self.receive_message();
        assert_eq!(head.len(), 80);
        let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().unwrap());
        let mut id = [0; 32];
        id.copy_from_slice(&id_fields(head[48..80].try_into().unwrap()));
        let reply = header(number(32) as u16, id, number(16), number(24));
        assert_eq!(head, reply, "not the layout that clients insist on");
        let payload = if number(16) == 0 { Vec::new() } else { self.receive_message() };
        assert_eq!(payload.len() as u64, number(16));
        Reply { kind: number(32) as u16, id, request: number(24), payload }
    }

    /// One request, one reply.
    pub fn ask(&mut self, request: &[u8]) -> Reply {
        self.send(request);
        self.receive()
    }

    /// The server has closed the connection in good order, and sent nothing more.
    pub fn expect_closed(&mut self) {
        let mut rest = Vec::new();
        self.socket.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"");
    }
}

impl Client<TcpStream> {
    /// Nothing arrives for a moment.
    pub fn expect_silence(&mut self) {
        self.socket.set_read_timeout(Some(MOMENT)).unwrap();
        let mut byte = [0];
        let kind = self.socket.peek(&mut byte).map_err(|error| error.kind());
        assert_eq!(kind, Err(io::ErrorKind::WouldBlock));
        self.socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }

    /// Breaks the connection with a reset.
    pub fn reset(self) {
        socket2::SockRef::from(&self.socket).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Closes the sending side.
    pub fn finish(&mut self) {
        self.socket.shutdown(Shutdown::Write).unwrap();
    }
}

pub fn connect_unix(path: &std::path::Path) -> Client<UnixStream> {
    let socket = UnixStream::connect(path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    Client { socket }
}
