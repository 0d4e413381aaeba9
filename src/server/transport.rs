//! The byte stream of a connection, over TCP, a unix socket, TLS or WebSocket.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

use super::listener::{Socket, Stream};
use super::websocket::{WebSocket, WebSocketParts};

/// A connection's byte stream, whatever carries it.
pub(super) enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
    Ws(Box<WebSocket<TcpStream>>),
    Wss(Box<WebSocket<TlsStream<TcpStream>>>),
}

impl Transport {
    /// Whether something has been read from the socket that is not passed on yet.
    pub fn is_ahead(&self) -> bool {
        matches!(self, Transport::Ws(stream) if stream.is_ahead())
    }

    /// Whether another process can go on with it: not with TLS, whose state stays within its library.
    pub fn can_be_paused(&self) -> bool {
        !matches!(self, Transport::Tls(_) | Transport::Wss(_))
    }

    /// Takes it off this thread's runtime, for another process. None where it [cannot be](Self::can_be_paused). Nothing may be
    /// [ahead](Self::is_ahead).
    pub fn into_parts(self) -> io::Result<Option<(Socket, Option<WebSocketParts>)>> {
        Ok(match self {
            Transport::Tcp(stream) => Some((Socket::Tcp(stream.into_std()?), None)),
            Transport::Unix(stream) => Some((Socket::Unix(stream.into_std()?), None)),
            Transport::Ws(stream) => {
                let (stream, parts) = stream.into_parts();
                Some((Socket::Tcp(stream.into_std()?), Some(parts)))
            }
            Transport::Tls(_) | Transport::Wss(_) => None,
        })
    }

    /// Goes on with a socket that another process has served.
    pub fn from_parts(socket: Socket, web_socket: Option<WebSocketParts>) -> io::Result<Transport> {
        Ok(match (socket.register()?, web_socket) {
            (Stream::Unix(stream), _) => Transport::Unix(stream),
            (Stream::Tcp(stream), None) => Transport::Tcp(stream),
            (Stream::Tcp(stream), Some(parts)) => Transport::Ws(Box::new(WebSocket::from_parts(stream, parts))),
        })
    }
}

macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Transport::Tcp(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Transport::Unix(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            Transport::Tls(stream) => {
                let $stream = Pin::new(&mut **stream);
                $call
            }
            Transport::Ws(stream) => {
                let $stream = Pin::new(&mut **stream);
                $call
            }
            Transport::Wss(stream) => {
                let $stream = Pin::new(&mut **stream);
                $call
            }
        }
    };
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_read(context, buf))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => stream.poll_write(context, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => stream.poll_write_vectored(context, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_shutdown(context))
    }
}
