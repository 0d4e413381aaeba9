//! The listening socket, TCP or unix, and the sockets of accepted connections.

use std::fs;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket as Socket2, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::address::{Address, Endpoint};

/// The listen backlog, as long as the stock server's.
const BACKLOG: i32 = 1024;

/// The TCP keepalive interval: middleboxes in clouds drop flows that are silent for longer than about 350 s.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Where clients connect.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix { listener: UnixListener, file: SocketFile },
}

/// An accepted connection, not yet registered with a runtime, as it is served on another thread.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(std::net::TcpStream),
    Unix(unix::UnixStream),
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(stream) => stream.as_fd(),
            Socket::Unix(stream) => stream.as_fd(),
        }
    }
}

/// A unix socket's file, removed when the listener is closed.
pub(super) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Listener {
    /// Listens. Returns also the address with the port that was really taken.
    pub fn bind(address: &Address) -> io::Result<(Self, Address)> {
        match address {
            Address::Ipc(path) => Ok((Self::bind_unix(path)?, address.clone())),
            Address::Tcp(endpoint) | Address::Tls(endpoint) | Address::Ws(endpoint, _) | Address::Wss(endpoint, _) => {
                let listener = Self::bind_tcp(endpoint)?;
                let port = listener.local_addr()?.port();
                Ok((Listener::Tcp(listener), address.with_port(port)))
            }
        }
    }

    /// Where it listens; None for a unix socket.
    pub fn socket_address(&self) -> Option<SocketAddr> {
        match self {
            // It fails for a descriptor that is no socket.
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix { .. } => None,
        }
    }

    fn bind_tcp(endpoint: &Endpoint) -> io::Result<TcpListener> {
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in (endpoint.host.as_str(), endpoint.port).to_socket_addrs()? {
            match listen_tcp(address) {
                Ok(listener) => return Ok(listener),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    fn bind_unix(path: &Path) -> io::Result<Self> {
        remove_stale(path)?;
        let listener = unix::UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        let file = SocketFile { path: path.to_owned(), inode: fs::symlink_metadata(path)?.ino() };
        Ok(Listener::Unix { listener: UnixListener::from_std(listener)?, file })
    }

    /// Takes it apart for another process, to which a unix socket's file belongs from then on.
    pub fn into_descriptor(self) -> io::Result<OwnedFd> {
        Ok(match self {
            Listener::Tcp(listener) => listener.into_std()?.into(),
            Listener::Unix { listener, file } => {
                file.leave();
                listener.into_std()?.into()
            }
        })
    }

    /// Goes on listening where another process has.
    pub fn from_descriptor(descriptor: OwnedFd, address: &Address) -> io::Result<Self> {
        Ok(match address {
            Address::Ipc(path) => {
                let file = SocketFile { path: path.to_owned(), inode: fs::symlink_metadata(path)?.ino() };
                Listener::Unix { listener: UnixListener::from_std(descriptor.into())?, file }
            }
            _ => Listener::Tcp(TcpListener::from_std(descriptor.into())?),
        })
    }

    /// The next connection, and its peer's name for the log.
    pub async fn accept(&self) -> io::Result<(Socket, String)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                let stream = stream.into_std()?;
                configure(&stream);
                Ok((Socket::Tcp(stream), peer.to_string()))
            }
            Listener::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                let peer = stream.peer_cred().ok().and_then(|peer| peer.pid());
                let peer = peer.map_or_else(|| "a process".to_owned(), |pid| format!("process {pid}"));
                Ok((Socket::Unix(stream.into_std()?), peer))
            }
        }
    }
}

/// A connection registered with the runtime of the thread that serves it.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Registers with the runtime of this thread.
    pub fn register(self) -> io::Result<Stream> {
        match self {
            Socket::Tcp(stream) => TcpStream::from_std(stream).map(Stream::Tcp),
            Socket::Unix(stream) => UnixStream::from_std(stream).map(Stream::Unix),
        }
    }
}

fn listen_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket2::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted server need not wait for its predecessor's connections to time out.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Sets socket options. A connection on which that fails still works.
fn configure(stream: &std::net::TcpStream) {
    let socket = socket2::SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    if let Err(error) = socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_keepalive(&keepalive)) {
        tracing::debug!("a connection takes no socket options: {error}");
    }
}

/// Removes the socket file of a server that is gone. An error if a server still listens there, or if the file is not a socket.
fn remove_stale(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "address in use: the path is a file that is not a socket",
        ));
    }
    match unix::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Err(io::Error::new(io::ErrorKind::AddrInUse, "address in use: a server is listening there")),
    }
}

impl SocketFile {
    /// Leaves the file to another process.
    fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another server may have put its own socket there meanwhile.
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!("cannot remove {}: {error}", self.path.display());
        }
    }
}
