//! The byte stream inside WebSocket frames. The handshake and the frame headers are tungstenite's; the payload of a frame is
//! passed on as it arrives, so that a frame may be of any length without being held in memory.

use std::io::{self, Cursor, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio_tungstenite::tungstenite;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// Longest payload of a control frame (RFC 6455, 5.5).
const CONTROL_BYTES_MAX: usize = 125;

/// Longest frame header that a client may send.
const HEADER_BYTES_MAX: usize = 14;

/// The read-ahead buffer, so that headers cost no system calls of their own; longer reads bypass it.
const READ_AHEAD_BYTES: usize = 8 << 10;

/// Longest frame that we send: long enough to cost little, short enough for clients that assemble whole frames.
const FRAME_BYTES_MAX: usize = 256 << 10;

/// The server's side of a WebSocket connection, as a byte stream. Frame borders carry no meaning.
pub(super) struct WebSocket<S> {
    stream: BufReader<S>,
    incoming: Incoming,
    /// Frame headers and control frames that are to be written.
    outgoing: Vec<u8>,
    /// Bytes of the current data frame that are still to be written.
    frame_remaining: usize,
    /// Payload of a pong that waits for the current data frame to end. Only the last ping needs an answer.
    pong: Option<Vec<u8>>,
    closing: bool,
}

/// How far the current frame is read.
enum Incoming {
    /// What has arrived of a frame's header.
    Header(Vec<u8>),
    Data(Payload),
    Control(Control, Payload, Vec<u8>),
    Closed,
}

/// How much of a frame's payload is still to come, and its mask.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Payload {
    remaining: u64,
    mask: [u8; 4],
}

impl Payload {
    /// Unmasks the next bytes of the payload.
    fn unmask(&mut self, bytes: &mut [u8]) {
        for (byte, mask) in bytes.iter_mut().zip(self.mask.into_iter().cycle()) {
            *byte ^= mask;
        }
        let turned = bytes.len() % self.mask.len();
        self.mask.rotate_left(turned);
        self.remaining = self.remaining.saturating_sub(bytes.len() as u64);
    }
}

/// A connection between two frames, or within one, as one process leaves it to another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct WebSocketParts {
    incoming: IncomingParts,
    outgoing: Vec<u8>,
    frame_remaining: usize,
    pong: Option<Vec<u8>>,
    closing: bool,
}

/// [`Incoming`], with a control frame's code as a number.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum IncomingParts {
    Header(Vec<u8>),
    Data(Payload),
    Control(u8, Payload, Vec<u8>),
    Closed,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Whether something has been read from the stream that is not passed on yet.
    pub fn is_ahead(&self) -> bool {
        !self.stream.buffer().is_empty()
    }

    /// Takes it apart for another process. Nothing may be [ahead](Self::is_ahead).
    pub fn into_parts(self) -> (S, WebSocketParts) {
        let WebSocket { stream, incoming, outgoing, frame_remaining, pong, closing } = self;
        let incoming = match incoming {
            Incoming::Header(header) => IncomingParts::Header(header),
            Incoming::Data(payload) => IncomingParts::Data(payload),
            Incoming::Control(control, payload, received) => {
                IncomingParts::Control(OpCode::Control(control).into(), payload, received)
            }
            Incoming::Closed => IncomingParts::Closed,
        };
        (stream.into_inner(), WebSocketParts { incoming, outgoing, frame_remaining, pong, closing })
    }

    /// Goes on where another process has stopped.
    pub fn from_parts(stream: S, parts: WebSocketParts) -> Self {
        let WebSocketParts { incoming, outgoing, frame_remaining, pong, closing } = parts;
        let incoming = match incoming {
            IncomingParts::Header(header) => Incoming::Header(header),
            IncomingParts::Data(payload) => Incoming::Data(payload),
            IncomingParts::Control(code, payload, received) => match OpCode::from(code) {
                OpCode::Control(control) => Incoming::Control(control, payload, received),
                OpCode::Data(_) => Incoming::Closed,
            },
            IncomingParts::Closed => Incoming::Closed,
        };
        let stream = BufReader::with_capacity(READ_AHEAD_BYTES, stream);
        WebSocket { stream, incoming, outgoing, frame_remaining, pong, closing }
    }

    /// Carries out the WebSocket handshake, whatever path the client names.
    pub async fn accept(stream: S) -> io::Result<Self> {
        let accepted = tokio_tungstenite::accept_async(stream).await.map_err(io::Error::other)?;
        Ok(WebSocket {
            stream: BufReader::with_capacity(READ_AHEAD_BYTES, accepted.into_inner()),
            incoming: Incoming::Header(Vec::new()),
            outgoing: Vec::new(),
            frame_remaining: 0,
            pong: None,
            closing: false,
        })
    }

    /// Reads at most `limit` bytes.
    fn poll_read_some(
        &mut self,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        limit: u64,
    ) -> Poll<io::Result<usize>> {
        let limit = usize::try_from(limit).map_or(buf.remaining(), |limit| limit.min(buf.remaining()));
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(limit));
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut part))?;
        let length = part.filled().len();
        if length == 0 {
            self.incoming = Incoming::Closed;
        }
        Poll::Ready(Ok(length))
    }

    fn poll_header(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Incoming::Header(header) = &mut self.incoming else { return Poll::Ready(Ok(())) };
        // No more than the header is read here, whose first two bytes tell its length: what follows is payload.
        let needed = match header.as_slice() {
            [] | [_] => 2,
            [_, second, ..] => {
                let length = match second & 0x7f {
                    126 => 2,
                    127 => 8,
                    _ => 0,
                };
                2 + length + if second & 0x80 == 0 { 0 } else { 4 }
            }
        };
        let mut bytes = [0; HEADER_BYTES_MAX];
        let mut buf = ReadBuf::new(bytes.get_mut(..needed - header.len()).unwrap_or_default());
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut buf))?;
        if buf.filled().is_empty() {
            self.incoming = Incoming::Closed;
            return Poll::Ready(Ok(()));
        }
        header.extend_from_slice(buf.filled());
        if header.len() == needed
            && let Some((frame, length)) = FrameHeader::parse(&mut Cursor::new(&header)).map_err(io::Error::other)?
        {
            self.incoming = begin_frame(&frame, length)?;
        }
        Poll::Ready(Ok(()))
    }

    fn end_control(&mut self, control: Control, payload: Vec<u8>) {
        self.incoming = match control {
            Control::Close => Incoming::Closed,
            _ => Incoming::Header(Vec::new()),
        };
        if control == Control::Ping {
            self.pong = Some(payload);
        }
    }

    /// Writes the headers and control frames that come before the next data, if any.
    fn poll_outgoing(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.frame_remaining == 0
            && let Some(payload) = self.pong.take()
        {
            encode_header(OpCode::Control(Control::Pong), payload.len(), &mut self.outgoing)?;
            self.outgoing.extend_from_slice(&payload);
        }
        while !self.outgoing.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, &self.outgoing))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

fn begin_frame(frame: &FrameHeader, length: u64) -> io::Result<Incoming> {
    let invalid = |reason| io::Error::new(io::ErrorKind::InvalidData, reason);
    let mask = frame.mask.ok_or_else(|| invalid("a WebSocket frame without a mask"))?;
    let payload = Payload { remaining: length, mask };
    match frame.opcode {
        OpCode::Data(Data::Binary | Data::Continue) if length == 0 => Ok(Incoming::Header(Vec::new())),
        OpCode::Data(Data::Binary | Data::Continue) => Ok(Incoming::Data(payload)),
        OpCode::Control(control) if length <= CONTROL_BYTES_MAX as u64 => {
            Ok(Incoming::Control(control, payload, Vec::new()))
        }
        _ => Err(invalid("a WebSocket frame that is neither binary nor control")),
    }
}

fn encode_header(opcode: OpCode, length: usize, to: &mut Vec<u8>) -> io::Result<()> {
    let header = FrameHeader { opcode, ..FrameHeader::default() };
    header.format(length as u64, to).map_err(io::Error::other)
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.pong.is_some() {
                // Nothing is read from a client that does not take its pong.
                ready!(this.poll_outgoing(context))?;
                ready!(Pin::new(&mut this.stream).poll_flush(context))?;
            }
            match &mut this.incoming {
                Incoming::Closed => return Poll::Ready(Ok(())),
                Incoming::Header(_) => ready!(this.poll_header(context))?,
                Incoming::Data(payload) => {
                    let limit = payload.remaining;
                    let length = ready!(this.poll_read_some(context, buf, limit))?;
                    if let Incoming::Data(payload) = &mut this.incoming {
                        payload.unmask(buf.initialize_unfilled_to(length));
                        if payload.remaining == 0 {
                            this.incoming = Incoming::Header(Vec::new());
                        }
                        buf.advance(length);
                    }
                    return Poll::Ready(Ok(()));
                }
                Incoming::Control(control, payload, received) => {
                    let control = *control;
                    if payload.remaining == 0 {
                        let received = std::mem::take(received);
                        this.end_control(control, received);
                        continue;
                    }
                    let mut bytes = [0; CONTROL_BYTES_MAX];
                    let limit = payload.remaining;
                    let mut part = ReadBuf::new(&mut bytes);
                    let length = ready!(this.poll_read_some(context, &mut part, limit))?;
                    if let Incoming::Control(_, payload, received) = &mut this.incoming {
                        let bytes = part.initialize_unfilled_to(length);
                        payload.unmask(bytes);
                        received.extend_from_slice(bytes);
                    }
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(buf)])
    }

    /// Begins a frame as long as what is offered. A caller whose bytes are not all taken must offer the rest again.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let offered: usize = bufs.iter().map(|buf| buf.len()).sum();
        if offered == 0 {
            return Poll::Ready(Ok(0));
        }
        if this.frame_remaining == 0 {
            ready!(this.poll_outgoing(context))?;
            let length = offered.min(FRAME_BYTES_MAX);
            encode_header(OpCode::Data(Data::Binary), length, &mut this.outgoing)?;
            this.frame_remaining = length;
        }
        loop {
            // The header goes out with the first bytes of its frame.
            let mut remaining = this.frame_remaining;
            let mut parts = vec![IoSlice::new(&this.outgoing)];
            for buf in bufs {
                let part = buf.get(..remaining.min(buf.len())).unwrap_or_default();
                remaining -= part.len();
                parts.push(IoSlice::new(part));
            }
            let written = ready!(Pin::new(&mut this.stream).poll_write_vectored(context, &parts))?;
            let header = written.min(this.outgoing.len());
            this.outgoing.drain(..header);
            let data = written - header;
            this.frame_remaining -= data;
            if data > 0 || written == 0 {
                return Poll::Ready(Ok(data));
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_outgoing(context))?;
        Pin::new(&mut this.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.closing && this.frame_remaining == 0 {
            encode_header(OpCode::Control(Control::Close), 0, &mut this.outgoing)?;
        }
        this.closing = true;
        ready!(this.poll_outgoing(context))?;
        Pin::new(&mut this.stream).poll_shutdown(context)
    }
}
