//! One client's connection from its greeting to its end: reads requests for the `handler`, writes replies from the `reply_buffer`.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use super::control::{Control, Signal};
use super::greeting::{Greeted, Ungreeted, carry, greet, turn_away};
use super::handler::{Handler, Refusal};
use super::handover::{Arriving, Introduction, PausedConnection, Requests, Stage};
use super::listener::Socket;
use super::open::Open;
use super::reply_buffer::ReplyBuffer;
use super::session::{Absence, Session};
use super::transport::Transport;
use super::{Protocol, ServerState, TURN_BYTES_MAX};
use crate::wire::{Malformed, RequestDecoder, Step};

/// The read buffer's size: large enough for few system calls with large payloads, small enough for a core's own cache.
const READ_BYTES: usize = 256 << 10;

/// An incomplete request up to this length is moved to the front of the thread's buffer; the rest of a longer one is read into the
/// connection's own.
const MOVED_BYTES_MAX: usize = 4 << 10;

/// How long we go on reading after we have closed our side: closing a socket with unread bytes would reset it, and the client
/// would lose replies that it has not read yet.
const LINGER: Duration = Duration::from_secs(1);

thread_local! {
    /// The read buffer of all connections of this thread, so that an idle connection holds none.
    static READ_BUFFER: RefCell<BytesMut> = RefCell::new(BytesMut::with_capacity(READ_BYTES));
}

/// A connection whose client has introduced itself.
struct Connection {
    transport: Transport,
    control: Arc<Control>,
    handler: Handler,
    decoder: RequestDecoder,
    /// Bytes that have arrived and are not handled yet: those of an incomplete request, or all while replies must be written first.
    kept: BytesMut,
    kept_needed: usize,
    read_in_turn: usize,
}

/// How a connection ended.
#[derive(Debug)]
enum End {
    /// The client closed it in good order.
    Closed,
    /// The connection broke.
    Lost(io::Error),
    /// Another connection has its identity.
    Replaced,
    /// The server stops.
    Stopped,
    /// Another process is to go on.
    Paused,
    /// A request was malformed, or the store refused it.
    Refused(Refusal),
}

/// Serves one client from its handshake to its end.
pub(super) async fn serve(shared: Arc<ServerState>, socket: Socket, peer: String, open: &Open) {
    let carried = timeout(shared.options.greeting_time_max, carry(&shared.protocol, socket));
    // Without a handshake there is nothing to wait for, and nobody is closed who has just come. One within its handshake is.
    let carried = match shared.protocol {
        Protocol::Plain => Some(carried.await),
        _ => until_signalled(&open.control, carried).await,
    };
    match carried {
        Some(Ok(Ok(transport))) => introduce(shared, transport, peer, open, Introduction::default()).await,
        Some(Ok(Err(error))) => turn_away(&shared, &peer, &error.into()),
        Some(Err(_)) => turn_away(&shared, &peer, &Ungreeted::TooLate),
        None => {}
    }
}

/// Serves a client from its greeting to its end.
async fn introduce(
    shared: Arc<ServerState>,
    mut transport: Transport,
    peer: String,
    open: &Open,
    mut introduction: Introduction,
) {
    let greeting = greet(&shared, &mut transport, &mut introduction);
    let greeting = timeout(shared.options.greeting_time_max, greeting);
    let Greeted { identity, answer } = match until_signalled(&open.control, greeting).await {
        Some(Ok(Ok(greeted))) => greeted,
        Some(Ok(Err(error))) => return turn_away(&shared, &peer, &error),
        Some(Err(_)) => return turn_away(&shared, &peer, &Ungreeted::TooLate),
        None if open.control.is_raised(Signal::Stop) => return,
        None => return pause(&shared, transport, peer, open, Stage::Greeting(introduction)),
    };
    let (session, replaces) = shared.sessions.attach(&identity, open.number, &open.control);
    let name = Name(&identity);
    if replaces {
        shared.counters.replaced.add(1);
        tracing::info!("{name} at {peer} replaces its earlier connection");
    } else {
        tracing::debug!("{name} at {peer} is connected");
    }
    // Answered only after attaching: a client that has our answer must have its identity.
    let answered = timeout(shared.options.greeting_time_max, transport.write_all(&answer)).await;
    let lost = answered.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).err().map(lost_or_closed);
    let connection = Connection {
        transport,
        decoder: RequestDecoder::new(shared.options.object_bytes_max),
        handler: Handler::new(Arc::clone(&shared), session, Arc::clone(&open.control)),
        control: Arc::clone(&open.control),
        kept: introduction.kept,
        kept_needed: 0,
        read_in_turn: 0,
    };
    run(shared, connection, peer, open, lost).await;
}

/// Goes on with a connection that another process has served.
pub(super) async fn resume(
    shared: Arc<ServerState>,
    paused: PausedConnection,
    session: Option<Arc<Session>>,
    open: &Open,
) {
    let PausedConnection { peer, socket, web_socket, stage, .. } = paused;
    let transport = match Transport::from_parts(socket, web_socket) {
        Ok(transport) => transport,
        Err(error) => return tracing::warn!("{peer} cannot be taken over: {error}"),
    };
    let (Requests { kept, expected, arriving, replies }, session) = match (stage, session) {
        (Stage::Greeting(introduction), _) => return introduce(shared, transport, peer, open, introduction).await,
        (Stage::Requests(requests), Some(session)) => (requests, session),
        // A later connection has its identity.
        (Stage::Requests(_), None) => return,
    };
    shared.sessions.attach(session.identity(), open.number, &open.control);
    let handler = Handler::new(Arc::clone(&shared), session, Arc::clone(&open.control));
    let resumed =
        ReplyBuffer::from_parts(replies).ok_or_else(|| "its replies are nonsense".to_owned()).and_then(|replies| {
            let arriving = arriving.map(|arriving| arriving.resume(&shared.store)).transpose();
            Ok(handler.resume(replies, arriving.map_err(|error| error.to_string())?))
        });
    let handler = match resumed {
        Ok(handler) => handler,
        Err(reason) => return tracing::warn!("{peer} cannot be taken over, and is closed: {reason}"),
    };
    let connection = Connection {
        transport,
        decoder: RequestDecoder::resume(shared.options.object_bytes_max, expected),
        handler,
        control: Arc::clone(&open.control),
        kept,
        kept_needed: 0,
        read_in_turn: 0,
    };
    run(shared, connection, peer, open, None).await;
}

/// Serves a client that has introduced itself.
async fn run(shared: Arc<ServerState>, mut connection: Connection, peer: String, open: &Open, lost: Option<End>) {
    let end = match lost {
        None => poll_fn(|context| connection.poll(context)).await,
        Some(lost) => lost,
    };
    let session = Arc::clone(connection.handler.session());
    let name = Name(session.identity());
    tell(&shared, &end, &name, &peer);
    if matches!(end, End::Paused) && connection.transport.can_be_paused() {
        return pause_requests(&shared, connection, peer, open);
    }
    if matches!(end, End::Closed | End::Stopped | End::Paused | End::Refused(_)) {
        let flushing = poll_fn(|context| connection.poll_flush(context));
        if timeout(shared.options.closing_time_max, flushing).await.is_err() {
            tracing::info!("{name} at {peer} does not read its last replies");
        }
    }
    let Connection { mut transport, mut handler, .. } = connection;
    let unsent = std::mem::take(handler.replies()).into_unstarted();
    drop(handler);
    depart(&shared, &session, open.number, unsent, &end);
    open.leave_served();
    if !matches!(end, End::Lost(_)) {
        let _ = timeout(LINGER, close(&mut transport)).await;
    }
}

/// Leaves a connection, between two looks at it, to another process.
fn pause_requests(shared: &Arc<ServerState>, connection: Connection, peer: String, open: &Open) {
    let Connection { transport, decoder, mut handler, kept, .. } = connection;
    let arriving = match handler.arriving().map(|(header, writer)| Arriving::new(header, writer)).transpose() {
        Ok(arriving) => arriving,
        Err(reason) => {
            let name = Name(handler.session().identity());
            return tracing::warn!("{name} at {peer} is closed within a set, which cannot be handed over: {reason}");
        }
    };
    let replies = std::mem::take(handler.replies()).into_parts();
    let requests = Requests { kept, expected: decoder.expected(), arriving, replies };
    pause(shared, transport, peer, open, Stage::Requests(requests));
}

fn pause(shared: &ServerState, transport: Transport, peer: String, open: &Open, stage: Stage) {
    match transport.into_parts() {
        Ok(Some((socket, web_socket))) => {
            shared.paused.lock().push(PausedConnection { number: open.number, peer, socket, web_socket, stage });
        }
        Ok(None) => tracing::debug!("{peer} is closed while it introduces itself"),
        Err(error) => tracing::warn!("{peer} cannot be handed over, and is closed: {error}"),
    }
}

/// The future's output; None if the server stops, or is to be replaced, first.
async fn until_signalled<T>(control: &Control, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|context| {
        control.listen(context);
        if control.is_raised(Signal::Stop) || control.is_raised(Signal::Pause) {
            return Poll::Ready(None);
        }
        future.as_mut().poll(context).map(Some)
    })
    .await
}

impl Connection {
    /// Serves until the connection ends: replies are written before more is read.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<End> {
        self.control.listen(context);
        self.read_in_turn = 0;
        loop {
            if self.control.is_raised(Signal::Replaced) {
                return Poll::Ready(End::Replaced);
            }
            if self.control.is_raised(Signal::Pause) {
                return self.poll_pause(context);
            }
            if self.control.is_raised(Signal::Due)
                && let Err(refusal) = self.handler.collect()
            {
                return Poll::Ready(End::Refused(refusal));
            }
            match self.handler.replies().poll_write_all(Pin::new(&mut self.transport), context) {
                Poll::Ready(Err(error)) => return Poll::Ready(lost_or_closed(error)),
                Poll::Pending if self.handler.is_full() => return Poll::Pending,
                _ => {}
            }
            if self.control.is_raised(Signal::Stop) {
                return Poll::Ready(End::Stopped);
            }
            if self.handler.is_full() {
                continue;
            }
            if self.read_in_turn >= TURN_BYTES_MAX {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            match self.poll_requests(context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Keeps what has been read ahead of the requests, so that another process can go on.
    fn poll_pause(&mut self, context: &mut Context<'_>) -> Poll<End> {
        while self.transport.is_ahead() {
            match poll_read(&mut self.transport, &mut self.kept, context) {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                Poll::Pending => break,
            }
        }
        Poll::Ready(End::Paused)
    }

    /// Reads, and handles all complete requests, unless replies must be written first.
    fn poll_requests(&mut self, context: &mut Context<'_>) -> Poll<Result<(), End>> {
        if !self.kept.is_empty() && self.kept.len() >= self.kept_needed {
            return Poll::Ready(self.handle_kept());
        }
        if self.kept.len() > MOVED_BYTES_MAX {
            self.kept.reserve(self.kept_needed - self.kept.len());
            self.read_in_turn += ready!(poll_read(&mut self.transport, &mut self.kept, context))?;
            return Poll::Ready(self.handle_kept());
        }
        READ_BUFFER.with_borrow_mut(|buffer| {
            buffer.clear();
            buffer.extend_from_slice(&self.kept);
            self.read_in_turn += ready!(poll_read(&mut self.transport, buffer, context))?;
            let handled = self.handle_input(buffer).map_err(End::Refused)?;
            match buffer.get(handled..).unwrap_or_default() {
                [] => self.kept = BytesMut::new(),
                rest => {
                    self.kept.clear();
                    self.kept.reserve(rest.len().max(self.kept_needed));
                    self.kept.extend_from_slice(rest);
                }
            }
            Poll::Ready(Ok(()))
        })
    }

    fn handle_kept(&mut self) -> Result<(), End> {
        let mut kept = std::mem::take(&mut self.kept);
        let handled = self.handle_input(&kept).map_err(End::Refused)?;
        if handled < kept.len() {
            kept.advance(handled);
            self.kept = kept;
        }
        Ok(())
    }

    /// Handles the requests in `input`. Returns how many of its bytes are done with.
    fn handle_input(&mut self, input: &[u8]) -> Result<usize, Refusal> {
        let mut handled = 0;
        self.kept_needed = 0;
        while let Some(rest) = input.get(handled..).filter(|rest| !rest.is_empty()) {
            match self.decoder.next(rest)? {
                Step::Event { event, consumed } => {
                    self.handler.handle(event)?;
                    handled += consumed;
                    if self.handler.is_full() {
                        break;
                    }
                }
                Step::Incomplete { consumed, needed } => {
                    handled += consumed;
                    self.kept_needed = needed;
                    break;
                }
            }
        }
        Ok(handled)
    }

    /// At the end: writes the replies that are left.
    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.control.listen(context);
        loop {
            let due = self.control.is_raised(Signal::Due);
            if due && self.handler.collect().is_err() {
                return Poll::Ready(());
            }
            let written = ready!(self.handler.replies().poll_write_all(Pin::new(&mut self.transport), context));
            if written.is_err() || !due {
                return Poll::Ready(());
            }
        }
    }
}

/// Reads what has arrived into the buffer.
fn poll_read(transport: &mut Transport, buffer: &mut BytesMut, context: &mut Context<'_>) -> Poll<Result<usize, End>> {
    let read = pin!(transport.read_buf(buffer));
    match ready!(read.poll(context)) {
        Ok(0) => Poll::Ready(Err(End::Closed)),
        Ok(length) => Poll::Ready(Ok(length)),
        Err(error) => Poll::Ready(Err(lost_or_closed(error))),
    }
}

/// How a connection with this error ended. A TLS client that closes without TLS's own close message has still closed in good order.
fn lost_or_closed(error: io::Error) -> End {
    if error.kind() == io::ErrorKind::UnexpectedEof { End::Closed } else { End::Lost(error) }
}

/// Closes our side, and discards what the client still sends until it closes its own, for at most `LINGER`.
async fn close(transport: &mut Transport) -> Result<(), End> {
    transport.shutdown().await.map_err(lost_or_closed)?;
    loop {
        poll_fn(|context| {
            READ_BUFFER.with_borrow_mut(|buffer| {
                buffer.clear();
                poll_read(transport, buffer, context)
            })
        })
        .await?;
    }
}

fn tell(shared: &ServerState, end: &End, name: &Name<'_>, peer: &str) {
    let counters = &shared.counters;
    match end {
        End::Closed => tracing::debug!("{name} at {peer} has left"),
        End::Stopped | End::Replaced | End::Paused => {}
        End::Lost(error) => {
            counters.lost.add(1);
            tracing::info!("{name} at {peer} was lost: {error}");
        }
        End::Refused(refusal) => {
            match refusal {
                Refusal::Malformed(Malformed::ObjectLength { .. }) | Refusal::Store(_) => counters.refused.add(1),
                Refusal::Malformed(_) => counters.malformed.add(1),
                Refusal::TooManyWaits => counters.waits_refused.add(1),
            }
            tracing::warn!("{name} at {peer}: connection closed: {refusal}");
        }
    }
}

/// Detaches the session, and keeps it for the identity's next connection for some time.
fn depart(shared: &Arc<ServerState>, session: &Arc<Session>, number: u64, unsent: ReplyBuffer, end: &End) {
    let Some(absence) = shared.sessions.detach(session, number, unsent) else { return };
    let options = &shared.options;
    let hold = match end {
        // When all connections have ended, the server ends all sessions.
        End::Stopped => return,
        _ if shared.sessions.absent() > options.absent_identities_max => Duration::ZERO,
        End::Lost(_) => options.lost_hold,
        End::Closed | End::Refused(_) | End::Replaced | End::Paused => options.closed_hold,
    };
    hold_for(shared, session, absence, hold);
}

/// Ends the session of an absent identity that does not return within this time.
pub(super) fn hold_for(shared: &Arc<ServerState>, session: &Arc<Session>, absence: Absence, hold: Duration) {
    shared.sessions.hold_until(session, absence, Instant::now() + hold);
    let (shared, session) = (Arc::clone(shared), Arc::clone(session));
    tokio::spawn(async move {
        sleep(hold).await;
        let dropped = shared.sessions.end_if_absent(&session, absence);
        if dropped > 0 {
            shared.counters.waits_dropped.add(dropped as u64);
            tracing::info!("{} did not return: {dropped} waiting requests dropped", Name(session.identity()));
        }
    });
}

/// An identity as the log shows it.
struct Name<'a>(&'a [u8]);

impl std::fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SHOWN_BYTES_MAX: usize = 128;
        let shown = self.0.get(..SHOWN_BYTES_MAX).unwrap_or(self.0);
        write!(f, "{}{}", shown.escape_ascii(), if shown.len() < self.0.len() { "..." } else { "" })
    }
}
