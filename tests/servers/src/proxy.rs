use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socket2::SockRef;

use crate::RedisServer;
use crate::process::Port;
use crate::{splitmix, until};

/// What a proxy does to connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Normal,
    /// Each connection is reset when so many bytes have gone through it, both ways together.
    ResetAfter(u64),
    /// Connections are reset, and new ones refused.
    Refuse,
    /// Replies come so much later.
    Delay(Duration),
    /// Replies come later, by up to so much: in one connection later than in another.
    Jitter(Duration),
    /// Connections are accepted and stay open, and nothing comes through.
    Blackhole,
}

/// Stands between stores and a server.
pub struct Proxy {
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    port: Port,
    target: AtomicU16,
    mode: Mutex<Mode>,
    connections: Mutex<Vec<Weak<Connection>>>,
    resets: AtomicU64,
    bytes: AtomicU64,
    listens: AtomicBool,
    stopped: AtomicBool,
}

struct Connection {
    client: TcpStream,
    server: TcpStream,
    passed: AtomicU64,
    is_reset: AtomicBool,
}

/// More than any test makes.
const CONNECTIONS_MAX: usize = 512;
/// Pieces of at most [`PIECE_BYTES`] that are on their way back in one connection.
const PIECES_MAX: usize = 64;
const PIECE_BYTES: usize = 64 << 10;
const TICK: Duration = Duration::from_millis(1);

impl Proxy {
    pub fn to(server: &RedisServer) -> Proxy {
        loop {
            let shared = Arc::new(Shared {
                port: Port::free(),
                target: AtomicU16::new(server.port()),
                mode: Mutex::new(Mode::Normal),
                connections: Mutex::default(),
                resets: AtomicU64::new(0),
                bytes: AtomicU64::new(0),
                listens: AtomicBool::new(true),
                stopped: AtomicBool::new(false),
            });
            match shared.listen() {
                Ok(listener) => {
                    let accepting = Arc::clone(&shared);
                    return Proxy { shared, acceptor: Some(spawn(move || accepting.accept(listener))) };
                }
                // A program that knows nothing of how ports are held here has taken it since.
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub fn port(&self) -> u16 {
        self.shared.port.number
    }

    pub fn set(&self, mode: Mode) {
        *self.shared.mode.lock() = mode;
        until("the proxy listens, or does not", || {
            self.shared.listens.load(Ordering::SeqCst) == (mode != Mode::Refuse)
        });
        if mode == Mode::Refuse {
            self.reset_all();
        }
    }

    /// New connections go to this server from now on. Those that there are stay.
    pub fn lead_to(&self, server: &RedisServer) {
        self.shared.target.store(server.port(), Ordering::SeqCst);
    }

    /// Resets the connections that there are.
    pub fn reset_all(&self) {
        for connection in self.shared.connections.lock().drain(..).filter_map(|connection| connection.upgrade()) {
            self.shared.reset(&connection);
        }
    }

    /// Connections reset so far.
    pub fn resets(&self) -> u64 {
        self.shared.resets.load(Ordering::SeqCst)
    }

    /// Bytes that came through so far, both ways together.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.reset_all();
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        self.reset_all();
    }
}

impl Shared {
    fn listen(&self) -> std::io::Result<TcpListener> {
        let listener = TcpListener::bind(("127.0.0.1", self.port.number))?;
        listener.set_nonblocking(true)?;
        self.listens.store(true, Ordering::SeqCst);
        Ok(listener)
    }

    fn mode(&self) -> Mode {
        *self.mode.lock()
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    fn accept(self: Arc<Self>, listener: TcpListener) {
        let mut listener = Some(listener);
        while !self.is_stopped() {
            if self.mode() == Mode::Refuse {
                listener = None;
                self.listens.store(false, Ordering::SeqCst);
            } else if listener.is_none() {
                // Not at once, perhaps: a child that is being started has what listened before until its program runs.
                listener = self.listen().ok();
            } else if let Some(Ok((client, _))) = listener.as_ref().map(TcpListener::accept) {
                client.set_nonblocking(false).unwrap();
                Arc::clone(&self).join(client);
                continue;
            }
            sleep(TICK);
        }
    }

    /// Connects the client with the server.
    fn join(self: Arc<Self>, client: TcpStream) {
        let mut connections = self.connections.lock();
        connections.retain(|connection| connection.strong_count() > 0);
        let server = TcpStream::connect(("127.0.0.1", self.target.load(Ordering::SeqCst)));
        let Ok(server) = server.map_err(|_| ()).and_then(|server| match connections.len() {
            ..CONNECTIONS_MAX if self.mode() != Mode::Refuse => Ok(server),
            _ => Err(()),
        }) else {
            let _ = SockRef::from(&client).set_linger(Some(Duration::ZERO));
            return;
        };
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        // So that a client which reads nothing can be reset.
        client.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
        let connection = Connection { client, server, passed: AtomicU64::new(0), is_reset: AtomicBool::new(false) };
        let connection = Arc::new(connection);
        connections.push(Arc::downgrade(&connection));
        drop(connections);

        let (sender, receiver) = sync_channel(PIECES_MAX);
        let (there, back, late) = (Arc::clone(&connection), Arc::clone(&connection), connection);
        let (sharing, giving) = (Arc::clone(&self), self);
        spawn(move || sharing.carry(&there));
        spawn(move || take(&back, &sender));
        spawn(move || giving.give(&late, &receiver));
    }

    fn carry(&self, connection: &Connection) {
        let mut piece = vec![0; PIECE_BYTES];
        while let Ok(length @ 1..) = (&connection.client).read(&mut piece) {
            if !self.may_pass(connection, length) || (&connection.server).write_all(&piece[..length]).is_err() {
                break;
            }
        }
        let _ = connection.server.shutdown(Shutdown::Both);
    }

    fn give(&self, connection: &Connection, pieces: &Receiver<(Instant, Vec<u8>)>) {
        let mut random = u64::from(connection.client.peer_addr().map_or(0, |address| address.port()));
        for (arrived, piece) in pieces {
            let delay = match self.mode() {
                Mode::Delay(delay) => delay,
                Mode::Jitter(delay_max) => delay_max * (splitmix(&mut random) % 100) as u32 / 100,
                _ => Duration::ZERO,
            };
            sleep((arrived + delay).saturating_duration_since(Instant::now()));
            if !self.may_pass(connection, piece.len()) || !connection.reply(&piece) {
                break;
            }
        }
        if !connection.is_reset.load(Ordering::SeqCst) {
            let _ = connection.client.shutdown(Shutdown::Both);
        }
    }

    /// Waits while nothing comes through; false where the connection is reset in place of these bytes.
    fn may_pass(&self, connection: &Connection, length: usize) -> bool {
        while self.mode() == Mode::Blackhole && !self.is_stopped() && !connection.is_reset.load(Ordering::SeqCst) {
            sleep(TICK);
        }
        let length = length as u64;
        self.bytes.fetch_add(length, Ordering::SeqCst);
        let passed = connection.passed.fetch_add(length, Ordering::SeqCst) + length;
        if self.is_stopped() || matches!(self.mode(), Mode::ResetAfter(limit) if passed > limit) {
            self.reset(connection);
        }
        !connection.is_reset.load(Ordering::SeqCst)
    }

    /// The kernel sends the reset when the threads that carry the connection have let go of it.
    fn reset(&self, connection: &Connection) {
        if connection.is_reset.swap(true, Ordering::SeqCst) {
            return;
        }
        self.resets.fetch_add(1, Ordering::SeqCst);
        let _ = SockRef::from(&connection.client).set_linger(Some(Duration::ZERO));
        let _ = connection.client.shutdown(Shutdown::Read);
        let _ = connection.server.shutdown(Shutdown::Both);
    }
}

fn take(connection: &Connection, pieces: &SyncSender<(Instant, Vec<u8>)>) {
    let mut piece = vec![0; PIECE_BYTES];
    while let Ok(length @ 1..) = (&connection.server).read(&mut piece) {
        if pieces.send((Instant::now(), piece[..length].to_vec())).is_err() {
            break;
        }
    }
}

impl Connection {
    /// Writes to the client, however slowly it reads; false where it is gone.
    fn reply(&self, mut piece: &[u8]) -> bool {
        while !piece.is_empty() && !self.is_reset.load(Ordering::SeqCst) {
            match (&self.client).write(piece) {
                Ok(0) => return false,
                Ok(written) => piece = &piece[written..],
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return false,
            }
        }
        piece.is_empty()
    }
}
