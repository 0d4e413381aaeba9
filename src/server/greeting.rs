//! The greeting of a client: its transport's handshake, and who it is.

use std::io;

use bytes::Buf;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::handover::Introduction;
use super::listener::{Socket, Stream};
use super::transport::Transport;
use super::websocket::WebSocket;
use super::{Protocol, ServerState};
use crate::wire::{Greeting, Malformed, encode_greeting};

/// A client that has said who it is.
pub(super) struct Greeted {
    pub identity: Vec<u8>,
    /// Our greeting, as far as it is not sent yet.
    pub answer: Vec<u8>,
}

/// Why a connection ended before its greeting was complete.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ungreeted {
    #[error("it closed before it said anything")]
    Silent,
    #[error("it closed in the middle of its greeting")]
    Cut,
    #[error("it did not introduce itself in time")]
    TooLate,
    #[error("{0}")]
    Malformed(#[from] Malformed),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Learns who the client is, and answers in its version.
pub(super) async fn greet(
    shared: &ServerState,
    transport: &mut Transport,
    introduction: &mut Introduction,
) -> Result<Greeted, Ungreeted> {
    let Introduction { kept, answered } = introduction;
    loop {
        match Greeting::decode(kept)? {
            Greeting::NoVersion => {}
            Greeting::NoIdentity { version } => {
                // The client may wait for our greeting before it sends the rest of its own.
                if !std::mem::replace(answered, true) {
                    transport.write_all(&encode_greeting(version, &shared.options.identity)).await?;
                    transport.flush().await?;
                }
            }
            Greeting::Complete { version, identity, consumed } => {
                let identity = identity.to_vec();
                kept.advance(consumed);
                let answer = if *answered { Vec::new() } else { encode_greeting(version, &shared.options.identity) };
                return Ok(Greeted { identity, answer });
            }
        }
        kept.reserve(1 << 10);
        if transport.read_buf(kept).await? == 0 {
            return Err(if kept.is_empty() { Ungreeted::Silent } else { Ungreeted::Cut });
        }
    }
}

pub(super) async fn carry(protocol: &Protocol, socket: Socket) -> io::Result<Transport> {
    let stream = match socket.register()? {
        Stream::Unix(stream) => return Ok(Transport::Unix(stream)),
        Stream::Tcp(stream) => stream,
    };
    Ok(match protocol {
        Protocol::Plain => Transport::Tcp(stream),
        Protocol::Tls(acceptor) => Transport::Tls(Box::new(acceptor.accept(stream).await?)),
        Protocol::Ws => Transport::Ws(Box::new(WebSocket::accept(stream).await?)),
        Protocol::Wss(acceptor) => Transport::Wss(Box::new(WebSocket::accept(acceptor.accept(stream).await?).await?)),
    })
}

/// Says why a client is not served.
pub(super) fn turn_away(shared: &ServerState, peer: &str, error: &Ungreeted) {
    if matches!(error, Ungreeted::Silent) {
        return tracing::debug!("{peer} connected and left");
    }
    shared.counters.greetings_failed.add(1);
    tracing::warn!("{peer} was turned away: {error}");
}
