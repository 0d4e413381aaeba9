//! A server is paused, and goes on, here or in another process.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{Handover, Stage};
use crate::ObjectStore;
use crate::server::connection::{self, hold_for};
use crate::server::listener::Listener;
use crate::server::reply_buffer::ReplyBuffer;
use crate::server::session::{Session, SessionParts};
use crate::server::{Server, ServerError, ServerOptions, ServerState, begin_on};

/// How often it is looked whether the answers to deletes have come.
const ANSWERS_LOOK: Duration = Duration::from_millis(1);

impl Server {
    /// Stops accepting and serving, and closes nothing: clients wait. A request whose bytes have come only in part stays as it is. The store stays
    /// open. Connections over TLS are closed; so is one that stays in the middle of a request for
    /// [`closing_time_max`](ServerOptions::closing_time_max).
    ///
    /// # Errors
    ///
    /// The operating system's, about the listening socket. Then all connections are closed.
    pub async fn pause(self) -> io::Result<Handover> {
        let Server { listener, workers, shared } = self;
        let open = &shared.open;
        let listener = listener.into_descriptor()?;
        open.pause();
        let limit = shared.options.closing_time_max;
        if timeout(limit, open.until_unserved()).await.is_err() {
            let stuck = open.served();
            tracing::warn!("{stuck} connections are closed, since a request of theirs is not carried out in time");
        }
        let answered = async {
            while shared.questions.are_open() {
                sleep(ANSWERS_LOOK).await;
            }
        };
        if timeout(limit, answered).await.is_err() {
            tracing::warn!(
                "some deletes are not answered, since Redis has not said in time whether there was anything to delete"
            );
        }
        drop(workers);
        let sessions = shared.sessions.take_apart();
        let mut connections = std::mem::take(&mut *shared.paused.lock());
        connections.sort_by_key(|connection| connection.number);
        Ok(Handover { listener, address: shared.address.clone(), connections, sessions })
    }

    /// Goes on where another server has [paused](Self::pause), on a store that has what that one's had. To be called within a tokio runtime whose I/O
    /// and time drivers are enabled. What waits for an object waits for it again when this returns. Where the options name another address, the
    /// connections are taken over, and that address is listened on.
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind). Then all connections are closed.
    pub fn resume(options: ServerOptions, store: ObjectStore, handover: Handover) -> Result<Server, ServerError> {
        let Handover { listener, address, connections, sessions } = handover;
        let server = Self::begin(options, store, |wanted| {
            let goes_on =
                wanted.is_served_at(&address).then(|| Ok((Listener::from_descriptor(listener, &address)?, address)));
            let listening = goes_on.unwrap_or_else(|| Listener::bind(wanted));
            listening.map_err(|source| ServerError::Listen { address: wanted.clone(), source })
        })?;
        let connected: Vec<u64> = connections.iter().map(|connection| connection.number).collect();
        let mut by_number = HashMap::new();
        for (parts, number) in sessions {
            let number = number.filter(|number| connected.binary_search(number).is_ok());
            let session = restore(&server.shared, parts, number.is_some());
            by_number.extend(number.map(|number| (number, session)));
        }
        // After all waits: a set and a delete that come next would pass by those that are not parked yet.
        for paused in connections {
            let session = by_number.remove(&paused.number);
            let replaced = matches!(paused.stage, Stage::Requests(_)) && session.is_none();
            if replaced {
                continue;
            }
            let (peer, number) = (paused.peer.clone(), paused.number);
            begin_on(&server.workers, &server.shared, &peer, Some(number), |shared, open| async move {
                connection::resume(shared, paused, session, &open).await;
                open
            });
        }
        Ok(server)
    }
}

/// Begins a session again, and parks what waits in it.
fn restore(shared: &Arc<ServerState>, parts: SessionParts, is_connected: bool) -> Arc<Session> {
    let SessionParts { identity, unsent, waits, absent_for } = parts;
    let unsent = ReplyBuffer::from_parts(unsent).unwrap_or_else(|| {
        tracing::error!("the replies to {} are lost: they do not fit together", identity.escape_ascii());
        ReplyBuffer::default()
    });
    let (session, absence) = shared.sessions.restore(identity, unsent);
    for wait in waits {
        session.restore(wait, shared);
    }
    if !is_connected {
        hold_for(shared, &session, absence, absent_for.unwrap_or(shared.options.closed_hold));
    }
    session
}
