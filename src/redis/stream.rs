//! Bytes to and from a server, over TCP, TLS or a unix socket, whatever signals arrive meanwhile.
//!
//! A signal ends the wait on a socket that has a timeout with EINTR, even where its handler is installed with SA_RESTART (`signal(7)`).
//! It says nothing about the server, so the wait goes on, but only for what is left of the time: signals that arrive faster than the
//! timeout would otherwise let a server that hangs hold the thread for ever.

use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use socket2::{Domain, SockAddr, Socket, TcpKeepalive, Type};

use super::url::HostPort;
use crate::interrupt;

/// Middleboxes drop flows that were idle for 350 s and more.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// The system takes a timeout of zero for none.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// Where a server listens.
#[derive(Clone, Copy)]
pub(super) enum Address<'a> {
    Tcp(&'a HostPort),
    Tls(&'a HostPort, &'a Arc<ClientConfig>),
    Unix(&'a str),
}

pub(super) enum Stream {
    Plain(Wire),
    Tls(Box<StreamOwned<ClientConnection, Wire>>),
}

/// Waits until the socket is ready, at most until then, or until this thread's caller wants the wait to end.
fn wait_for(socket: &Socket, awaited: PollFlags, until: Instant, too_late: fn() -> io::Error) -> io::Result<()> {
    loop {
        let rest = left(until).map_err(|_| too_late())?;
        let slice = interrupt::slice().map_or(rest, |slice| slice.min(rest));
        let slice = Timespec::try_from(slice).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(socket, awaited)], Some(&slice)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {
                // Not as `Interrupted`, after which a call is made again.
                interrupt::look().map_err(|interrupted| io::Error::other(interrupted.to_string()))?;
            }
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// A connected socket. It never answers `Interrupted`, nor `WouldBlock`, which TLS would take for no failure.
pub(super) struct Wire {
    socket: Socket,
    timeout: Duration,
}

impl Stream {
    /// Connects, with the TLS handshake if there is one, before `until`.
    pub fn connect(address: Address<'_>, until: Instant) -> io::Result<Stream> {
        let wire = |socket| Wire { socket, timeout: Duration::ZERO };
        let mut stream = match address {
            Address::Unix(path) => Stream::Plain(wire(connect_unix(path, until)?)),
            Address::Tcp(node) => Stream::Plain(wire(connect_tcp(node, until)?)),
            Address::Tls(node, config) => {
                let name = ServerName::try_from(node.host.clone()).map_err(io::Error::other)?;
                let tls = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
                Stream::Tls(Box::new(StreamOwned::new(tls, wire(connect_tcp(node, until)?))))
            }
        };
        stream.set_timeout(left(until)?)?;
        stream.flush().map_err(|error| shaking_hands(&error))?;
        Ok(stream)
    }

    /// Sets how long each read and each write may take until it moves any bytes.
    pub fn set_timeout(&mut self, timeout: Duration) -> io::Result<()> {
        let wire = match self {
            Stream::Plain(wire) => wire,
            Stream::Tls(tls) => &mut tls.sock,
        };
        wire.timeout = timeout.max(TIMEOUT_MIN);
        wire.socket.set_read_timeout(Some(wire.timeout))
    }
}

impl Stream {
    /// Whether the server has closed the connection, or the system has given it up. Only as far as that is known here already, and over TLS only
    /// where the connection was cut: an orderly end is a message, which is not read here.
    pub fn has_ended(&self) -> bool {
        let socket = match self {
            Stream::Plain(wire) => &wire.socket,
            Stream::Tls(tls) => &tls.sock.socket,
        };
        let mut byte = [MaybeUninit::uninit()];
        match socket.recv_with_flags(&mut byte, libc::MSG_PEEK | libc::MSG_DONTWAIT) {
            Ok(bytes) => bytes == 0,
            Err(error) => !matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(wire) => wire.read(buffer),
            Stream::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(wire) => wire.write(bytes),
            Stream::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(wire) => wire.flush(),
            Stream::Tls(tls) => tls.flush(),
        }
    }
}

impl Wire {
    /// Repeats a non-blocking call until it succeeds, waiting for the socket in between, for at most the timeout.
    fn call(&self, awaited: PollFlags, mut call: impl FnMut(&Socket) -> io::Result<usize>) -> io::Result<usize> {
        let until = Instant::now() + self.timeout;
        loop {
            match call(&self.socket) {
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                called => return called,
            }
            // Waited for here, as the socket's own timeout would begin anew with each call.
            wait_for(&self.socket, awaited, until, no_answer)?;
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if interrupt::slice().is_some() {
            // A blocking read would not be left in order to look.
            wait_for(&self.socket, PollFlags::IN, Instant::now() + self.timeout, no_answer)?;
        }
        self.call(PollFlags::IN, |mut socket| socket.read(buffer))
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // DONTWAIT: a blocking call would go on sending a large piece, and return only when nothing has moved for the whole timeout.
        // NOSIGNAL: otherwise a broken connection would end a process that does not ignore SIGPIPE.
        self.call(PollFlags::OUT, |socket| socket.send_with_flags(bytes, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn connect_tcp(node: &HostPort, until: Instant) -> io::Result<Socket> {
    connect_to_any(&resolve(node, until)?, until)
}

/// Tries all addresses of a name. Each has its share of the time that is left, so that one that is silent leaves some to the others.
fn connect_to_any(addresses: &[SocketAddr], until: Instant) -> io::Result<Socket> {
    let mut failed = io::Error::other("could not resolve to any addresses");
    for (tried, address) in addresses.iter().enumerate() {
        let share = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        match connect_to(*address, left(until)? / share) {
            Ok(socket) => return Ok(socket),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn connect_to(address: SocketAddr, timeout: Duration) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    let until = Instant::now() + timeout.max(TIMEOUT_MIN);
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
            wait_for(&socket, PollFlags::OUT, until, not_connected)?;
            if let Some(error) = socket.take_error()? {
                return Err(if error.kind() == io::ErrorKind::TimedOut { not_connected() } else { error });
            }
        }
        Err(error) => return Err(error),
    }
    socket.set_nonblocking(false)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    Ok(socket)
}

/// Resolves a name. The system decides how long it waits for a name server, and resumes that after a signal by itself; what else it asks
/// (files, local sockets) may fail with EINTR, and is tried again here.
fn resolve(node: &HostPort, until: Instant) -> io::Result<Vec<SocketAddr>> {
    loop {
        match (node.host.as_str(), node.port).to_socket_addrs() {
            Ok(addresses) => return Ok(addresses.collect()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => drop(left(until)?),
            Err(error) => return Err(error),
        }
    }
}

fn connect_unix(path: &str, until: Instant) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let address = SockAddr::unix(path)?;
    loop {
        // Bounds the wait for a place in the server's queue, if that is full; set again after a signal, with the rest of the time.
        socket.set_write_timeout(Some(left(until)?))?;
        match socket.connect(&address) {
            Ok(()) => return Ok(socket),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(not_connected()),
            Err(error) => return Err(error),
        }
    }
}

/// The time left; an error if there is none.
fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(not_connected()) } else { Ok(left.max(TIMEOUT_MIN)) }
}

fn not_connected() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "connection timed out")
}

/// Why the TLS handshake failed.
fn shaking_hands(error: &io::Error) -> io::Error {
    let reason = match error.kind() {
        io::ErrorKind::TimedOut => {
            "the server accepts the connection, but the TLS handshake is not answered in time: a port without TLS needs redis://".to_owned()
        }
        _ if error.to_string().contains("InvalidContentType") => {
            "the TLS handshake fails, as this port does not speak TLS: write redis:// in the url".to_owned()
        }
        _ => format!("the TLS handshake fails: {error}"),
    };
    io::Error::new(error.kind(), reason)
}

fn no_answer() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer within the response timeout")
}

#[cfg(test)]
mod tests;
