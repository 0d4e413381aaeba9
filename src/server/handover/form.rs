//! The form in which a server is handed over: one file in memory, in MessagePack with names, so that a version that knows more fields reads what
//! one wrote that knew fewer; and descriptors, which the file refers to by their places in the list.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use memmap2::Mmap;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{Arriving, Handover, Introduction, PausedConnection, Requests, Stage, nameless};
use crate::server::listener::Socket;
use crate::server::reply_buffer::ReplyBufferParts;
use crate::server::session::{SessionParts, Wait};
use crate::server::websocket::WebSocketParts;
use crate::wire::{Expected, RequestHeader};

/// Raised when what is handed over means something else than before.
const VERSION: u32 = 1;

/// Payloads of more bytes than this are handed over in files of their own, which are mapped and not copied.
const HERE_BYTES_MAX: usize = 1 << 20;

#[derive(Serialize, Deserialize)]
struct Form {
    version: u32,
    address: String,
    connections: Vec<ConnectionForm>,
    sessions: Vec<SessionForm>,
}

#[derive(Serialize, Deserialize)]
struct ConnectionForm {
    number: u64,
    peer: String,
    is_unix: bool,
    socket: usize,
    web_socket: Option<WebSocketParts>,
    stage: StageForm,
}

#[derive(Serialize, Deserialize)]
enum StageForm {
    Greeting { kept: ByteBuf, answered: bool },
    Requests { kept: ByteBuf, expected: Expected, arriving: Option<(RequestHeader, usize)>, replies: ReplyBufferForm },
}

#[derive(Serialize, Deserialize)]
struct ReplyBufferForm {
    begun: Vec<Payload>,
    copied: ByteBuf,
    shared: Vec<(usize, Payload)>,
}

#[derive(Serialize, Deserialize)]
enum Payload {
    Here(ByteBuf),
    File { descriptor: usize },
}

#[derive(Serialize, Deserialize)]
struct SessionForm {
    identity: ByteBuf,
    unsent: ReplyBufferForm,
    waits: Vec<Wait>,
    absent_for_ms: Option<u64>,
    connection: Option<u64>,
}

/// A descriptor that goes over to another process.
pub(super) enum Descriptor<'a> {
    Lent(BorrowedFd<'a>),
    Own(OwnedFd),
}

impl AsFd for Descriptor<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Descriptor::Lent(descriptor) => *descriptor,
            Descriptor::Own(descriptor) => descriptor.as_fd(),
        }
    }
}

/// The descriptors of a handover: first the form, then the listening socket.
pub(super) fn encode(handover: &Handover) -> io::Result<Vec<Descriptor<'_>>> {
    let mut descriptors = Descriptors(vec![Descriptor::Lent(handover.listener.as_fd())]);
    let connections = handover.connections.iter().map(|connection| descriptors.connection(connection));
    let connections = connections.collect::<io::Result<_>>()?;
    let sessions = handover.sessions.iter().map(|(session, connection)| descriptors.session(session, *connection));
    let sessions = sessions.collect::<io::Result<_>>()?;
    let form = Form { version: VERSION, address: handover.address.to_string(), connections, sessions };
    let mut file = BufWriter::new(nameless("handover")?);
    rmp_serde::encode::write_named(&mut file, &form).map_err(io::Error::other)?;
    let form = Descriptor::Own(file.into_inner().map_err(io::IntoInnerError::into_error)?.into());
    descriptors.0.insert(0, form);
    Ok(descriptors.0)
}

/// What is put together again from its descriptors, as far as these are there.
pub(super) fn decode(descriptors: Vec<Option<OwnedFd>>) -> io::Result<Handover> {
    let missing = || invalid("the descriptors of the server itself are missing".to_owned());
    let mut descriptors = descriptors.into_iter();
    let mut file = File::from(descriptors.next().flatten().ok_or_else(missing)?);
    let mut descriptors = Arrived(descriptors.collect());
    let listener = descriptors.take(0)?;
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    let form: Form = rmp_serde::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
    if form.version != VERSION {
        let reason =
            format!("it was made by a version that hands over in form {}, and this one reads {VERSION}", form.version);
        return Err(invalid(reason));
    }
    let address = form.address.parse().map_err(io::Error::other)?;
    let mut connections = Vec::new();
    for connection in form.connections {
        let peer = connection.peer.clone();
        match descriptors.connection(connection) {
            Ok(connection) => connections.push(connection),
            Err(error) => tracing::warn!("{peer} is not taken over: {error}"),
        }
    }
    connections.sort_by_key(|connection| connection.number);
    let sessions = form.sessions.into_iter().map(|session| descriptors.session(session)).collect::<io::Result<_>>()?;
    Ok(Handover { listener, address, connections, sessions })
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// Descriptors that are to go over.
struct Descriptors<'a>(Vec<Descriptor<'a>>);

impl<'a> Descriptors<'a> {
    fn add(&mut self, descriptor: Descriptor<'a>) -> usize {
        self.0.push(descriptor);
        self.0.len() - 1
    }

    fn connection(&mut self, connection: &'a PausedConnection) -> io::Result<ConnectionForm> {
        let PausedConnection { number, peer, socket, web_socket, stage } = connection;
        let stage = match stage {
            Stage::Greeting(Introduction { kept, answered }) => {
                StageForm::Greeting { kept: ByteBuf::from(kept.to_vec()), answered: *answered }
            }
            Stage::Requests(Requests { kept, expected, arriving, replies }) => {
                let arriving = arriving.as_ref();
                StageForm::Requests {
                    kept: ByteBuf::from(kept.to_vec()),
                    expected: *expected,
                    arriving: arriving
                        .map(|arriving| (arriving.header, self.add(Descriptor::Lent(arriving.written.as_fd())))),
                    replies: self.replies(replies)?,
                }
            }
        };
        Ok(ConnectionForm {
            number: *number,
            peer: peer.clone(),
            is_unix: matches!(socket, Socket::Unix(_)),
            socket: self.add(Descriptor::Lent(socket.as_fd())),
            web_socket: web_socket.clone(),
            stage,
        })
    }

    fn session(&mut self, session: &SessionParts, connection: Option<u64>) -> io::Result<SessionForm> {
        let SessionParts { identity, unsent, waits, absent_for } = session;
        Ok(SessionForm {
            identity: ByteBuf::from(identity.clone()),
            unsent: self.replies(unsent)?,
            waits: waits.clone(),
            absent_for_ms: absent_for.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            connection,
        })
    }

    fn replies(&mut self, replies: &ReplyBufferParts) -> io::Result<ReplyBufferForm> {
        let ReplyBufferParts { begun, copied, shared } = replies;
        let begun = begun.iter().map(|bytes| self.payload(bytes)).collect::<io::Result<_>>()?;
        let shared = shared.iter().map(|(at, bytes)| Ok((*at, self.payload(bytes)?))).collect::<io::Result<_>>()?;
        Ok(ReplyBufferForm { begun, copied: ByteBuf::from(copied.clone()), shared })
    }

    fn payload(&mut self, bytes: &Bytes) -> io::Result<Payload> {
        if bytes.len() <= HERE_BYTES_MAX {
            return Ok(Payload::Here(ByteBuf::from(bytes.to_vec())));
        }
        let mut file = nameless("reply")?;
        file.write_all(bytes)?;
        Ok(Payload::File { descriptor: self.add(Descriptor::Own(file.into())) })
    }
}

/// Descriptors that have come over, each of them to be taken once.
struct Arrived(Vec<Option<OwnedFd>>);

impl Arrived {
    fn take(&mut self, place: usize) -> io::Result<OwnedFd> {
        let taken = self.0.get_mut(place).and_then(Option::take);
        taken.ok_or_else(|| invalid(format!("descriptor {place} has not come")))
    }

    fn connection(&mut self, form: ConnectionForm) -> io::Result<PausedConnection> {
        let ConnectionForm { number, peer, is_unix, socket, web_socket, stage } = form;
        let socket = self.take(socket)?;
        let socket = if is_unix { Socket::Unix(socket.into()) } else { Socket::Tcp(socket.into()) };
        let stage = match stage {
            StageForm::Greeting { kept, answered } => {
                Stage::Greeting(Introduction { kept: BytesMut::from(kept.as_slice()), answered })
            }
            StageForm::Requests { kept, expected, arriving, replies } => {
                let arriving = match arriving {
                    Some((header, written)) => Some(Arriving { header, written: File::from(self.take(written)?) }),
                    None => None,
                };
                let (kept, replies) = (BytesMut::from(kept.as_slice()), self.replies(replies)?);
                Stage::Requests(Requests { kept, expected, arriving, replies })
            }
        };
        Ok(PausedConnection { number, peer, socket, web_socket, stage })
    }

    fn session(&mut self, form: SessionForm) -> io::Result<(SessionParts, Option<u64>)> {
        let SessionForm { identity, unsent, waits, absent_for_ms, connection } = form;
        let unsent = self.replies(unsent)?;
        let absent_for = absent_for_ms.map(Duration::from_millis);
        Ok((SessionParts { identity: identity.into_vec(), unsent, waits, absent_for }, connection))
    }

    fn replies(&mut self, form: ReplyBufferForm) -> io::Result<ReplyBufferParts> {
        let ReplyBufferForm { begun, copied, shared } = form;
        let begun = begun.into_iter().map(|payload| self.payload(payload)).collect::<io::Result<_>>()?;
        let shared =
            shared.into_iter().map(|(at, payload)| Ok((at, self.payload(payload)?))).collect::<io::Result<_>>()?;
        Ok(ReplyBufferParts { begun, copied: copied.into_vec(), shared })
    }

    fn payload(&mut self, payload: Payload) -> io::Result<Bytes> {
        match payload {
            Payload::Here(bytes) => Ok(Bytes::from(bytes.into_vec())),
            Payload::File { descriptor } => {
                let file = File::from(self.take(descriptor)?);
                // Sound: the file has no name, and who made it writes to it no more.
                Ok(Bytes::from_owner(unsafe { Mmap::map(&file) }?))
            }
        }
    }
}
