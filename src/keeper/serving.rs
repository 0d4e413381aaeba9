//! One connection of an attached process, in a thread of its own: greeting, then question and answer.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::RecvTimeoutError;

use super::sessions::{Connected, Notice, Session};
use super::shared::Shared;
use crate::backend::{ListPosition, Page, Stats};
use crate::error::Error;
use crate::local::Reserved;
use crate::node::messages::{Head, Known, Manner, NAMES_MAX, NO_SESSION, NO_SLOT, Reply, Request, VERSION};
use crate::node::socket::{Connection, Frame};
use crate::object::Object;
use crate::store::{ObjectStore, ObjectWriter, Parked};

/// Shorter objects are sent, which costs less than to map them.
const SENT_BYTES_MAX: usize = 32 << 10;

/// How often who listens is looked at while there is nothing to tell.
const LISTENER_LOOK: Duration = Duration::from_millis(200);

thread_local! {
    /// While this thread carries out a write: whose it is, and under which names it has woken others of the same process.
    static WRITING: RefCell<Option<(u64, Vec<u64>)>> = const { RefCell::new(None) };
}

/// Serves the connection until it ends; calls `heard` when it has said what it wants. An error is the other side's fault, or the connection's.
pub(super) fn run(shared: &Arc<Shared>, stream: Arc<UnixStream>, heard: impl FnOnce()) -> io::Result<()> {
    let mut connection = Connection::new(stream);
    let Some(connected) = greet(shared, &mut connection, heard)? else { return Ok(()) };
    let session = Arc::clone(&connected.0);
    // The large object that comes in over this connection.
    let mut coming = None;
    while let Some(frame) = receive(&mut connection)? {
        let (request, manner) = Request::decode(frame.head, connection.fields())?;
        if request == Request::Listen {
            answer(&mut connection, &Reply::Done { is_so: true, woken: Vec::new() })?;
            return listen(shared, &session, &mut connection);
        }
        let Some(store) = shared.store.get() else { break };
        let mut call = Call { shared, store, session: &session, coming: &mut coming, manner, slot: frame.head.slot };
        let answered = call.carry_out(request, &frame)?;
        answered.send(shared, &mut connection)?;
        if shared.is_closing() {
            break;
        }
    }
    drop(connected);
    shared.look_after_sessions();
    Ok(())
}

fn receive(connection: &mut Connection) -> io::Result<Option<Frame>> {
    connection.receive(Head::check_request, || Ok(()))
}

fn answer(connection: &mut Connection, reply: &Reply<'_>) -> io::Result<()> {
    reply.encode(0, &mut connection.output);
    connection.send(&[], &[], || Ok(()))
}

fn refuse(connection: &mut Connection, reason: String) -> io::Result<Option<Connected>> {
    answer(connection, &Reply::Failed(Error::Config(reason)))?;
    Ok(None)
}

/// Compares what the process expects with what there is; the session that the connection belongs to, or none where it ends here.
fn greet(shared: &Arc<Shared>, connection: &mut Connection, heard: impl FnOnce()) -> io::Result<Option<Connected>> {
    let Some(frame) = receive(connection)? else { return Ok(None) };
    let (request, _) = Request::decode(frame.head, connection.fields())?;
    let Request::Greet { version, session, expected } = request else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not begin with a greeting"));
    };
    if version != VERSION {
        let reason = format!(
            "{}: the keeper's program speaks version {VERSION} of the node's language, this one {version}: \
             use one version of it on a machine",
            shared.directory.display()
        );
        return refuse(connection, reason);
    }
    if session == NO_SESSION {
        return give_way(shared, connection).map(|()| None);
    }
    heard();
    let Some(store) = shared.store.get() else {
        let done = shared.opened.load(Ordering::Relaxed);
        return answer(connection, &Reply::Opening { done }).map(|()| None);
    };
    if session != 0 {
        let Some(session) = shared.find(session) else {
            answer(connection, &Reply::Failed(Error::Closed))?;
            return Ok(None);
        };
        let connected = session.connect();
        answer(connection, &welcome(shared, store, &session))?;
        return Ok(Some(connected));
    }
    for (name, value) in &expected {
        let kept = shared.expected.iter().find(|(kept, _)| kept == name).map(|(_, value)| value.as_str());
        if kept != Some(value.as_str()) {
            let reason = format!(
                "{}: {name} is {value:?} in this process and {:?} in the one that keeps the store: make them equal, or use another directory",
                shared.directory.display(),
                kept.unwrap_or_default()
            );
            return refuse(connection, reason);
        }
    }
    let (session, end) = match begin_session(shared) {
        Ok(begun) => begun,
        Err(error) => {
            answer(connection, &Reply::Failed(error))?;
            return Ok(None);
        }
    };
    let connected = session.connect();
    shared.add(&session);
    welcome(shared, store, &session).encode(0, &mut connection.output);
    send_with(shared, connection, end.as_fd())?;
    // From here on only the process has it: with it, the session ends.
    drop(end);
    Ok(Some(connected))
}

fn welcome(shared: &Shared, store: &ObjectStore, session: &Session) -> Reply<'static> {
    Reply::Welcome { session: session.id, place: store.place(), fingerprints: shared.fingerprints() }
}

/// Sends a `Welcome`, what comes with the session, and the counters, where there are some.
fn send_with(shared: &Shared, connection: &mut Connection, end: BorrowedFd<'_>) -> io::Result<()> {
    let both = [Some(end), shared.counters.get().map(File::as_fd)];
    let descriptors: Vec<_> = both.into_iter().flatten().collect();
    connection.send(&[], &descriptors, || Ok(()))
}

/// A new session; what its process must get the only copy of.
fn begin_session(shared: &Shared) -> Result<(Arc<Session>, OwnedFd), Error> {
    if let Some((slots, file)) = shared.make_slots()? {
        return Ok((Session::with_slots(slots), file.into()));
    }
    Session::without_slots().map_err(Error::io("begin a session in", &shared.directory))
}

/// A server asks for the directory, or to go on in the place of the one that keeps it.
fn give_way(shared: &Shared, connection: &mut Connection) -> io::Result<()> {
    let welcome = Reply::Welcome { session: NO_SESSION, place: String::new(), fingerprints: [0; 2] };
    answer(connection, &welcome)?;
    let Some(frame) = receive(connection)? else { return Ok(()) };
    let (request, _) = Request::decode(frame.head, connection.fields())?;
    match request {
        Request::Yield => {
            let is_so = shared.options.yields;
            answer(connection, &Reply::Done { is_so, woken: Vec::new() })?;
            if is_so {
                shared.yielding.store(true, Ordering::Release);
            }
            Ok(())
        }
        Request::Replace { address } => {
            let replacing = shared.replacing.get().filter(|replacing| (replacing.accepts)(&address));
            answer(connection, &Reply::Done { is_so: replacing.is_some(), woken: Vec::new() })?;
            replacing.map_or(Ok(()), |replacing| {
                (replacing.begin)(UnixStream::from(connection.as_fd().try_clone_to_owned()?));
                Ok(())
            })
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "without a session there is nothing to ask for")),
    }
}

/// Tells what the session waits for, until the connection ends.
fn listen(shared: &Shared, session: &Arc<Session>, connection: &mut Connection) -> io::Result<()> {
    loop {
        match session.to_tell.recv_timeout(LISTENER_LOOK) {
            Ok(notice) => tell(connection, notice)?,
            Err(RecvTimeoutError::Timeout) if connection.is_ended() || shared.is_closing() => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

fn tell(connection: &mut Connection, notice: Notice) -> io::Result<()> {
    match notice {
        Notice::Exists { name, object } => {
            let reply = Reply::Exists { name, is_held: false, metadata: &object.metadata };
            reply.encode(object.data.len() as u64, &mut connection.output);
            connection.send(&object.data, &[], || Ok(()))
        }
        Notice::ToClaim { name } => answer(connection, &Reply::Exists { name, is_held: true, metadata: &[] }),
        Notice::Deleted { name, existed } => answer(connection, &Reply::Deleted { name, existed }),
    }
}

/// A question that is being answered.
struct Call<'a> {
    shared: &'a Arc<Shared>,
    store: &'a ObjectStore,
    session: &'a Arc<Session>,
    coming: &'a mut Option<ObjectWriter>,
    manner: Manner,
    slot: u16,
}

/// What goes back.
enum Answer {
    Reply(Reply<'static>),
    Sent(Object, Known),
    Stats(String),
    /// The slot holds it.
    Placed(Object, crate::local::Placed, Known),
    Room {
        segment: u32,
        offset: u64,
        file_bytes: u64,
        file: File,
    },
    /// The file of slots, of which the process must get the only copy.
    Slots(File, Reply<'static>),
}

impl Answer {
    fn send(self, shared: &Shared, connection: &mut Connection) -> io::Result<()> {
        let rest = || Ok(());
        match self {
            Answer::Reply(reply) => answer(connection, &reply),
            Answer::Sent(object, known) => {
                Reply::Inline { metadata: &object.metadata, known }
                    .encode(object.data.len() as u64, &mut connection.output);
                connection.send(&object.data, &[], rest)
            }
            Answer::Slots(file, reply) => {
                reply.encode(0, &mut connection.output);
                send_with(shared, connection, file.as_fd())
            }
            Answer::Stats(json) => answer(connection, &Reply::Stats { json: &json }),
            Answer::Placed(object, placed, known) => {
                let reply = Reply::Placed {
                    metadata: &object.metadata,
                    known,
                    segment: placed.segment,
                    offset: placed.offset,
                    data_bytes: object.data.len() as u64,
                    file_bytes: placed.file_bytes,
                };
                reply.encode(0, &mut connection.output);
                connection.send(&[], &[placed.as_fd()], rest)
            }
            Answer::Room { segment, offset, file_bytes, file } => {
                Reply::Reserved { segment, offset, file_bytes }.encode(0, &mut connection.output);
                connection.send(&[], &[file.as_fd()], rest)
            }
        }
    }
}

impl From<Result<Reply<'static>, Error>> for Answer {
    fn from(result: Result<Reply<'static>, Error>) -> Self {
        Answer::Reply(result.unwrap_or_else(Reply::Failed))
    }
}

impl Call<'_> {
    fn carry_out(&mut self, request: Request<'_>, frame: &Frame) -> io::Result<Answer> {
        let store = self.store;
        let answered: Result<Reply<'static>, Error> = match request {
            Request::Get { ticket, id } => {
                // Before it is looked up: what changes meanwhile raises the counter.
                let known = store.local().and_then(|local| local.changes_now(id));
                let here = store.get_here(id);
                if matches!(here, Ok(None)) && !self.manner.is_here {
                    // What Redis has may find no room here: then no change of the index tells that it has changed there.
                    return Ok(self.object(store.get_elsewhere(id), ticket, &[], None));
                }
                // Afterwards: what is doubted from here on raises the epoch.
                return Ok(self.object(
                    here,
                    ticket,
                    &[],
                    known.filter(|_| store.local().is_some_and(|local| local.may_remember(id))),
                ));
            }
            Request::Claim { ticket, names } => {
                return Ok(self.object(Ok(self.session.claim(&names)), ticket, &names, None));
            }
            Request::Contains { id } => store.contains(id).map(is_so),
            Request::Put { id, metadata } => self.write(|| store.put(id, &frame.data, metadata).map(|()| true)),
            Request::Delete { name: 0, id } => self.write(|| store.delete(id)),
            Request::Delete { .. } if !self.session.may_be_told() => Ok(Reply::Busy),
            Request::Delete { name, id } => {
                let session = Arc::clone(self.session);
                let answer = move |existed| session.tell(Notice::Deleted { name, existed });
                match store.delete_later(id, answer) {
                    Ok(None) => Ok(Reply::Later),
                    Ok(Some(existed)) => self.write(|| Ok(existed)),
                    Err(error) => Err(error),
                }
            }
            Request::Duplicate { original, new } => self.write(|| store.duplicate_here(original, new)),
            Request::Admit { id, bytes } => store.writer(id, bytes, &[]).map(|_admitted| is_so(true)),
            Request::Reserve { ticket, id, data_bytes, metadata_bytes } => {
                return Ok(self.reserve(store.reserve(id, data_bytes, metadata_bytes), ticket));
            }
            Request::Commit { body_hash } => match self.session.take_room(self.slot) {
                Some(reserved) => self.write(|| store.commit_reserved(reserved, body_hash).map(|()| true)),
                None => return Err(io::Error::new(io::ErrorKind::InvalidData, "nothing was reserved in that slot")),
            },
            Request::Begin { id, data_bytes, metadata } => store.writer(id, data_bytes, metadata).map(|writer| {
                *self.coming = Some(writer);
                is_so(true)
            }),
            Request::Piece => match self.coming {
                Some(writer) => writer.write(&frame.data).map(|()| is_so(true)),
                None => return Err(nothing_comes()),
            },
            Request::Finish => match self.coming.take() {
                Some(writer) => self.write(|| writer.commit().map(|()| true)),
                None => return Err(nothing_comes()),
            },
            Request::Slots => return self.slots(),
            Request::Wait { name, id } => self.wait(name, id),
            Request::Forget { name } => {
                self.session.forget(name);
                Ok(is_so(true))
            }
            Request::Usage => Ok(Reply::Usage(store.usage())),
            Request::Count => store.count().map(|(objects, bytes)| Reply::Count { objects, bytes }),
            Request::Stats => match store.stats().and_then(|stats| self.as_json(&stats)) {
                Ok(json) => return Ok(Answer::Stats(json)),
                Err(error) => Err(error),
            },
            Request::List { from, limit } => {
                store.list(&ListPosition(from.to_vec()), limit as usize).map(Reply::Listed)
            }
            Request::Describe { verify, id } => store
                .describe(id, verify)
                .map(|found| Reply::Listed(Page { objects: found.into_iter().collect(), next: None })),
            Request::Flush => store.flush().map(|()| is_so(true)),
            Request::Clear => self.write(|| store.clear().map(|()| true)),
            Request::Drain { limit_ms } => store.drain(Duration::from_millis(limit_ms)).map(is_so),
            Request::Greet { .. } | Request::Listen | Request::Yield | Request::Replace { .. } => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "it has begun already"));
            }
        };
        Ok(answered.into())
    }

    fn as_json(&self, stats: &Stats) -> Result<String, Error> {
        serde_json::to_string(stats)
            .map_err(|error| Error::io("describe the store in", &self.shared.directory)(error.into()))
    }

    /// Carries out a write, durably where that was asked for; tells whom of the same process it has woken.
    fn write(&self, write: impl FnOnce() -> Result<bool, Error>) -> Result<Reply<'static>, Error> {
        WRITING.set(Some((self.session.id, Vec::new())));
        let written = write();
        let woken = WRITING.take().map(|(_, woken)| woken).unwrap_or_default();
        let written = match written {
            Ok(is_so) if self.manner.is_durable => self.store.flush().map(|()| is_so),
            written => written,
        };
        match written {
            Ok(is_so) => Ok(Reply::Done { is_so, woken }),
            Err(error) => {
                // They are told by the connection that listens: an error has no room for them.
                woken.into_iter().for_each(|name| self.session.tell(Notice::ToClaim { name }));
                Err(error)
            }
        }
    }

    fn object(&self, found: Result<Option<Object>, Error>, ticket: u64, names: &[u64], known: Known) -> Answer {
        let object = match found {
            Ok(Some(object)) => object,
            Ok(None) => return Answer::Reply(Reply::Absent),
            Err(error) => return Answer::Reply(Reply::Failed(error)),
        };
        if object.data.len() <= SENT_BYTES_MAX || self.slot == NO_SLOT {
            return Answer::Sent(object, known);
        }
        match self.store.local().map_or(Ok(None), |local| local.placed(&object.data)) {
            Ok(Some(placed)) if self.session.hold(self.slot, ticket, object.clone(), names, &placed) => {
                Answer::Placed(object, placed, known)
            }
            // It stands in no such file, or that cannot be opened now, or nobody asks any more: a copy is as good.
            Ok(_) | Err(_) => Answer::Sent(object, known),
        }
    }

    fn reserve(&self, reserved: Result<Reserved, Error>, ticket: u64) -> Answer {
        let reserved = match reserved {
            Ok(reserved) => reserved,
            Err(error) => return Answer::Reply(Reply::Failed(error)),
        };
        let place = &reserved.place;
        let (segment, offset, file_bytes) = (place.segment, place.offset, place.file_bytes);
        // Of its own: the process may have written, and the room be gone, before this one goes on.
        let file = match place.as_fd().try_clone_to_owned() {
            Ok(file) => file.into(),
            Err(error) => {
                let failed = Error::io("open a segment of", &self.shared.directory)(error);
                return Answer::Reply(Reply::Failed(failed));
            }
        };
        if !self.session.hold_room(self.slot, ticket, reserved) {
            return Answer::Reply(Reply::Busy);
        }
        Answer::Room { segment, offset, file_bytes, file }
    }

    /// Slots, for a process that attached while there was no room for any, if there is now. Where that cannot be, it goes on without.
    fn slots(&self) -> io::Result<Answer> {
        let none = Ok(Answer::Reply(is_so(false)));
        if self.session.has_slots() {
            return none;
        }
        match self.shared.make_slots() {
            Ok(Some((slots, file))) => match self.session.give_slots(slots) {
                true => Ok(Answer::Slots(file, welcome(self.shared, self.store, self.session))),
                false => none,
            },
            Ok(None) => none,
            Err(error) => {
                tracing::debug!("{error}; looked at again later");
                none
            }
        }
    }

    fn wait(&self, name: u64, id: &[u8]) -> Result<Reply<'static>, Error> {
        if !self.session.may_wait(name) {
            return Ok(Reply::Busy);
        }
        let session = Arc::downgrade(self.session);
        let answer = move |object| {
            if let Some(session) = session.upgrade() {
                exists(&session, name, object);
            }
        };
        match self.store.get_or_park(id, answer) {
            Ok(Parked::Waiting(ticket)) => {
                self.session.parked(name, ticket);
                Ok(Reply::Later)
            }
            Ok(Parked::Ready(object)) => {
                self.session.forget(name);
                self.session.keep_for(name, object);
                Ok(Reply::Done { is_so: true, woken: vec![name] })
            }
            Err(error) => {
                self.session.forget(name);
                Err(error)
            }
        }
    }
}

fn nothing_comes() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no object was begun over this connection")
}

fn is_so(is_so: bool) -> Reply<'static> {
    Reply::Done { is_so, woken: Vec::new() }
}

/// What a session waited for exists. Where a write of the same process has made it, that write's answer says so; otherwise the connection
/// that listens does.
fn exists(session: &Arc<Session>, name: u64, object: Object) {
    session.answered(name);
    let is_own = WRITING.with_borrow_mut(|writing| match writing {
        Some((id, woken)) if *id == session.id && woken.len() < NAMES_MAX => {
            woken.push(name);
            true
        }
        _ => false,
    });
    if is_own {
        session.keep_for(name, object);
    } else if object.len() <= SENT_BYTES_MAX {
        session.tell(Notice::Exists { name, object });
    } else {
        session.keep_for(name, object);
        session.tell(Notice::ToClaim { name });
    }
}
