//! The load: one client for all servers, with blocking sockets and the same calls for the same bytes.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::common::{Id, id, nanoseconds, random, random_bytes};

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Scaler's protocol, version 2.
    Scaler,
    /// RESP.
    Redis,
    /// None: it is told two lengths, and answers each that many bytes with that many.
    Echo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Get,
    Set,
}

impl Operation {
    pub fn name(self) -> &'static str {
        if self == Operation::Get { "get" } else { "set" }
    }
}

/// Bytes in front of the payload on Scaler's wire: length, header, length.
const HEAD_BYTES: usize = 8 + 80 + 8;

/// A batch of equal requests, as bytes, with the places in which they are made different.
pub struct Batch {
    dialect: Dialect,
    operation: Operation,
    size: usize,
    depth: usize,
    requests: Vec<u8>,
    request_bytes: usize,
    reply_bytes: usize,
    id_offset: usize,
    payload_offset: usize,
}

impl Batch {
    pub fn new(dialect: Dialect, operation: Operation, size: usize, depth: usize) -> Self {
        let (head, tail) = match dialect {
            Dialect::Scaler | Dialect::Echo => (scaler_request(operation, size), &b""[..]),
            Dialect::Redis => redis_request(operation, size),
        };
        let payload = if operation == Operation::Set { random_bytes(size as u64, size) } else { Vec::new() };
        let id_offset = if dialect == Dialect::Redis { redis_id_offset(operation) } else { 8 + 48 };
        let request = [&head[..], &payload, tail].concat();
        let reply_bytes = match (dialect, operation) {
            (Dialect::Scaler | Dialect::Echo, Operation::Set) => 8 + 80,
            (Dialect::Scaler | Dialect::Echo, Operation::Get) => HEAD_BYTES + size,
            (Dialect::Redis, Operation::Set) => b"+OK\r\n".len(),
            (Dialect::Redis, Operation::Get) => format!("${size}\r\n").len() + size + 2,
        };
        Batch {
            dialect,
            operation,
            size,
            depth,
            requests: request.repeat(depth),
            request_bytes: request.len(),
            reply_bytes,
            id_offset,
            payload_offset: head.len(),
        }
    }

    /// Chooses an id for each request, and gives each payload bytes that no other has.
    fn vary(&mut self, mut next_id: impl FnMut() -> Id) {
        static UNIQUE: AtomicU64 = AtomicU64::new(0);
        for request in self.requests.chunks_mut(self.request_bytes) {
            request[self.id_offset..][..32].copy_from_slice(&next_id());
            if self.operation == Operation::Set {
                let unique = UNIQUE.fetch_add(1, Ordering::Relaxed);
                request[self.payload_offset..][..8].copy_from_slice(&unique.to_le_bytes());
            }
        }
    }

    /// A wrong answer makes the measurement worthless.
    fn check(&self, replies: &[u8]) {
        for reply in replies.chunks(self.reply_bytes) {
            match self.dialect {
                Dialect::Scaler => {
                    let payload_bytes = if self.operation == Operation::Get { self.size as u64 } else { 0 };
                    assert_eq!(reply[..8], 80_u64.to_le_bytes());
                    assert_eq!(reply[8 + 16..][..8], payload_bytes.to_le_bytes());
                    assert_eq!(reply[8 + 32], u8::from(self.operation == Operation::Get));
                }
                Dialect::Redis if self.operation == Operation::Set => assert_eq!(reply, b"+OK\r\n"),
                Dialect::Redis => assert!(reply.starts_with(format!("${}\r\n", self.size).as_bytes())),
                Dialect::Echo => {}
            }
        }
    }

    /// The payload of a get is that of a set, but for the bytes that vary.
    fn check_payload(&self, replies: &[u8]) {
        if self.operation == Operation::Get && self.dialect == Dialect::Scaler {
            assert!(replies[HEAD_BYTES..self.reply_bytes][8..] == random_bytes(self.size as u64, self.size)[8..]);
        }
    }
}

fn scaler_request(operation: Operation, size: usize) -> Vec<u8> {
    match operation {
        Operation::Set => [scaler_header(0, size as u64), (size as u64).to_le_bytes().to_vec()].concat(),
        Operation::Get => scaler_header(1, u64::MAX),
    }
}

/// A request's header and the length in front of it; `kind`: 0 set, 1 get, 2 delete.
pub fn scaler_header(kind: u64, length: u64) -> Vec<u8> {
    let words = [80, 9 << 32, 3 << 32 | 1 << 48, length, 1, kind, 4 << 32, 0, 0, 0, 0];
    words.into_iter().flat_map(u64::to_le_bytes).collect()
}

fn redis_request(operation: Operation, size: usize) -> (Vec<u8>, &'static [u8]) {
    let id = [b'0'; 32];
    match operation {
        Operation::Get => ([b"*2\r\n$3\r\nGET\r\n$32\r\n", &id[..], b"\r\n"].concat(), b""),
        Operation::Set => {
            let length = format!("\r\n${size}\r\n");
            ([b"*3\r\n$3\r\nSET\r\n$32\r\n", &id[..], length.as_bytes()].concat(), b"\r\n")
        }
    }
}

fn redis_id_offset(operation: Operation) -> usize {
    if operation == Operation::Get { b"*2\r\n$3\r\nGET\r\n$32\r\n".len() } else { b"*3\r\n$3\r\nSET\r\n$32\r\n".len() }
}

/// A connection, and the batch that goes over it.
pub struct Connection {
    stream: TcpStream,
    batch: Batch,
    replies: Vec<u8>,
    state: u64,
}

impl Connection {
    pub fn open(address: SocketAddr, batch: Batch, number: u64) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        match batch.dialect {
            Dialect::Scaler => greet(&mut stream)?,
            Dialect::Redis => {}
            Dialect::Echo => {
                let lengths = [batch.requests.len() as u64, (batch.reply_bytes * batch.depth) as u64];
                stream.write_all(&lengths.map(u64::to_le_bytes).concat())?;
            }
        }
        let replies = vec![0; batch.reply_bytes * batch.depth];
        Ok(Connection { stream, batch, replies, state: number })
    }

    /// Sends the batch and receives its replies; returns the nanoseconds in between.
    fn exchange(&mut self, next_id: impl FnMut() -> Id) -> io::Result<f64> {
        self.batch.vary(next_id);
        let start = Instant::now();
        self.stream.write_all(&self.batch.requests)?;
        self.stream.read_exact(&mut self.replies)?;
        let nanoseconds = nanoseconds(start);
        self.batch.check(&self.replies);
        Ok(nanoseconds)
    }

    /// Sets the objects 0..`count`, one by one.
    pub fn load(&mut self, count: u64) -> io::Result<()> {
        let mut number = 0;
        while number < count {
            self.exchange(|| {
                number += 1;
                id((number - 1) % count)
            })?;
        }
        Ok(())
    }

    /// Random objects of 0..`count` until the time is over, but at least twice; nanoseconds of each exchange.
    pub fn run(&mut self, count: u64, turn: Duration) -> io::Result<Vec<f64>> {
        let mut state = self.state;
        self.exchange(|| id(random(&mut state) % count))?; // wakes whatever sleeps
        self.batch.check_payload(&self.replies);
        let mut times = Vec::new();
        let start = Instant::now();
        while times.len() < 2 || start.elapsed() < turn {
            times.push(self.exchange(|| id(random(&mut state) % count))?);
        }
        self.state = state;
        Ok(times)
    }
}

/// What client and server say first.
pub fn greet(stream: &mut TcpStream) -> io::Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let identity = format!("load-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    stream.write_all(&[b"YMQ\x02", &(identity.len() as u64).to_le_bytes()[..], identity.as_bytes()].concat())?;
    let mut greeting = [0; 12];
    stream.read_exact(&mut greeting)?;
    assert_eq!(greeting[..3], *b"YMQ");
    let length = u64::from_le_bytes(greeting[4..].try_into().unwrap());
    assert!(length < 1024, "an identity of {length} bytes");
    stream.read_exact(&mut vec![0; length as usize])
}

/// Bytes that the echo's replies are taken from, one behind the other: as a store's, they are not in the processor's cache.
const ECHO_POOL_BYTES: usize = 64 << 20;

/// The echo: a thread for each connection, blocking calls, nothing but the bytes.
pub fn echo(listener: &std::net::TcpListener) {
    for stream in listener.incoming() {
        std::thread::spawn(|| -> io::Result<()> {
            let mut stream = stream?;
            stream.set_nodelay(true)?;
            let mut lengths = [0; 16];
            stream.read_exact(&mut lengths)?;
            let length = |place: usize| u64::from_le_bytes(lengths[place..][..8].try_into().unwrap()) as usize;
            let (mut request, reply_bytes) = (vec![0; length(0)], length(8));
            let pool = if reply_bytes < 1024 {
                random_bytes(1, 1024)
            } else {
                random_bytes(1, reply_bytes.max(ECHO_POOL_BYTES))
            };
            for reply in pool.chunks_exact(reply_bytes).cycle() {
                stream.read_exact(&mut request)?;
                stream.write_all(reply)?;
            }
            Ok(())
        });
    }
}
