//! Requests that wait for an object.

use std::sync::Arc;

use bytes::Bytes;

use super::outbox::Reply;
use super::session::{Due, Session, Wait};
use crate::wire::{ReplyType, RequestHeader, WireId};
use crate::{Error, Object, ObjectStore, Parked};

impl Wait {
    /// Parks the request, which the session has registered under `number`. Returns the reply where it need not wait; then, and after an error,
    /// the wait is over.
    pub fn park(self, store: &ObjectStore, session: &Arc<Session>, number: u64) -> Result<Option<Reply>, Error> {
        let parked = match self {
            Wait::Get(header) => park_get(store, session, number, header),
            Wait::Duplicate(header, original) => park_duplicate(store, session, number, header, original),
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
    pub fn restore(self: &Arc<Self>, wait: Wait, store: &ObjectStore) {
        // Whatever the bounds: it had its place before.
        let Ok(number) = self.begin_wait(wait, usize::MAX, usize::MAX) else { return };
        match wait.park(store, self, number) {
            Ok(None) => {}
            Ok(Some(reply)) => self.push(Due::Reply(reply)),
            Err(error) => self.push(Due::Failed { wait, error }),
        }
    }
}

fn park_get(
    store: &ObjectStore,
    session: &Arc<Session>,
    number: u64,
    header: RequestHeader,
) -> Result<Parked<Reply>, Error> {
    let to = Arc::clone(session);
    let answer = move |object| to.come_due(number, Due::Reply(got(&header, object)));
    Ok(match store.get_or_park(&header.id, answer)? {
        Parked::Ready(object) => Parked::Ready(got(&header, object)),
        Parked::Waiting(ticket) => Parked::Waiting(ticket),
    })
}

fn park_duplicate(
    store: &ObjectStore,
    session: &Arc<Session>,
    number: u64,
    header: RequestHeader,
    original: WireId,
) -> Result<Parked<Reply>, Error> {
    let to = Arc::clone(session);
    let reply = move || Reply::new(header.id, header.request_id, ReplyType::DuplicateOk, Bytes::new());
    let done = move |result: Result<(), Error>| {
        let failed = |error| Due::Failed { wait: Wait::Duplicate(header, original), error };
        to.come_due(number, result.map_or_else(failed, |()| Due::Reply(reply())));
    };
    Ok(match store.duplicate_or_park(&original, &header.id, done)? {
        Parked::Ready(()) => Parked::Ready(reply()),
        Parked::Waiting(ticket) => Parked::Waiting(ticket),
    })
}

/// The reply to a get: the first bytes of the object, as many as the client wants.
#[inline]
pub(super) fn got(header: &RequestHeader, object: Object) -> Reply {
    let mut data = object.data;
    data.truncate(usize::try_from(header.payload_length).unwrap_or(usize::MAX));
    Reply::new(header.id, header.request_id, ReplyType::GetOk, data)
}
