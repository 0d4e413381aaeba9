//! Requests that wait for an object.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::ServerState;
use super::latency::{Latencies, Operation};
use super::reply_buffer::Reply;
use super::session::{Due, Session, Wait};
use crate::wire::{ReplyType, RequestHeader, WireId};
use crate::{Error, Object, Parked};

impl Wait {
    /// Parks the request, which the session has registered under `number`. Returns the reply where it need not wait; then, and after an error,
    /// the wait is over.
    pub fn park(self, shared: &Arc<ServerState>, session: &Arc<Session>, number: u64) -> Result<Option<Reply>, Error> {
        let parked = match self {
            Wait::Get(header) => park_get(shared, session, number, header),
            Wait::Duplicate(header, original) => park_duplicate(shared, session, number, header, original),
        };
        match parked {
            Ok(Parked::Waiting(ticket)) => {
                session.parked(number, ticket);
                Ok(None)
            }
            Ok(Parked::Ready(reply)) => {
                session.end_wait(number);
                Ok(Some(reply))
            }
            Err(error) => {
                session.end_wait(number);
                Err(error)
            }
        }
    }
}

impl Session {
    /// Parks a request that has waited in another process.
    pub fn restore(self: &Arc<Self>, wait: Wait, shared: &Arc<ServerState>) {
        // Whatever the bounds: it had its place before.
        let Ok(number) = self.begin_wait(wait, usize::MAX, usize::MAX) else { return };
        match wait.park(shared, self, number) {
            Ok(None) => {}
            Ok(Some(reply)) => self.push(Due::Reply(reply)),
            Err(error) => self.push(Due::Failed { wait, error }),
        }
    }
}

fn park_get(
    shared: &Arc<ServerState>,
    session: &Arc<Session>,
    number: u64,
    header: RequestHeader,
) -> Result<Parked<Reply>, Error> {
    let to = Arc::clone(session);
    let (latencies, begun) = (Arc::clone(&shared.latencies), Instant::now());
    let answer = move |object| {
        latencies.took(Operation::Wait, begun.elapsed());
        to.come_due(number, Due::Reply(got(&latencies, &header, object)));
    };
    Ok(match shared.store.get_or_park(&header.id, answer)? {
        Parked::Ready(object) => Parked::Ready(got(&shared.latencies, &header, object)),
        Parked::Waiting(ticket) => Parked::Waiting(ticket),
    })
}

fn park_duplicate(
    shared: &Arc<ServerState>,
    session: &Arc<Session>,
    number: u64,
    header: RequestHeader,
    original: WireId,
) -> Result<Parked<Reply>, Error> {
    let to = Arc::clone(session);
    let reply = move || Reply::new(header.id, header.request_id, ReplyType::DuplicateOk, Bytes::new());
    let (latencies, begun) = (Arc::clone(&shared.latencies), Instant::now());
    let done = move |result: Result<(), Error>| {
        latencies.took(Operation::Wait, begun.elapsed());
        let failed = |error| Due::Failed { wait: Wait::Duplicate(header, original), error };
        to.come_due(number, result.map_or_else(failed, |()| Due::Reply(reply())));
    };
    Ok(match shared.store.duplicate_or_park(&original, &header.id, done)? {
        Parked::Ready(()) => Parked::Ready(reply()),
        Parked::Waiting(ticket) => Parked::Waiting(ticket),
    })
}

/// The reply to a get: the first bytes of the object, as many as the client wants.
#[inline]
pub(super) fn got(latencies: &Latencies, header: &RequestHeader, object: Object) -> Reply {
    let mut data = object.data;
    data.truncate(usize::try_from(header.payload_length).unwrap_or(usize::MAX));
    latencies.sent(data.len());
    Reply::new(header.id, header.request_id, ReplyType::GetOk, data)
}
