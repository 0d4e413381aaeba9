//! Large objects of a process that has no slot to write through: sent to the keeper in pieces, over a connection of their own, and written by it.
//!
//! What the keeper has of one goes with that connection: it holds nothing that outlives either side.

use std::sync::Arc;

use super::attached::{Attached, Call, Called, ROOM_WAIT_MAX};
use super::messages::{REQUEST_DATA_MAX, Request};
use super::session::{Answered, Session, Unanswered, ask_over};
use super::socket::Connection;
use crate::backend::OnStored;
use crate::error::Error;

/// An object that is being sent.
pub(super) struct Sending {
    attached: Arc<Attached>,
    session: Arc<Session>,
    connection: Connection,
    action: &'static str,
    id: Box<[u8]>,
}

impl Attached {
    /// Begins to send an object; refused at once where there is no room for it. None where this keeper is gone, or cannot take it now.
    pub(super) fn begin_sending(
        &self,
        session: &Arc<Session>,
        action: &'static str,
        (id, data_bytes, metadata): (&[u8], u64, &[u8]),
    ) -> Result<Option<Sending>, Error> {
        let call = Call { wait: ROOM_WAIT_MAX, ..Call::new(action) };
        let (_, limit) = self.manner_and_limit(&call);
        let connection = match session.greet(&self.directory, limit) {
            Ok(connection) => connection,
            Err(error) => return self.judge(session, &call, Err(Unanswered::NotSent(error))).map(|_| None),
        };
        let (attached, session) = (self.this()?, Arc::clone(session));
        let mut sending = Sending { attached, session, connection, action, id: id.into() };
        let begun = sending.ask(&Request::Begin { id, data_bytes, metadata }, &[], true)?;
        Ok(begun.map(|_| sending))
    }
}

impl Sending {
    /// False where the keeper is gone; then nothing is stored.
    pub fn send(&mut self, data: &[u8]) -> Result<bool, Error> {
        for piece in data.chunks(REQUEST_DATA_MAX as usize) {
            if self.ask(&Request::Piece, piece, true)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the object is stored now; false as of `send`.
    pub fn finish(mut self, action: &'static str, stored: OnStored<'_>) -> Result<bool, Error> {
        self.attached.announce(&self.id);
        self.action = action;
        let Some(answered) = self.ask(&Request::Finish, &[], false)? else { return Ok(false) };
        let Sending { attached, session, .. } = self;
        attached.done(action, Called { session, slot: None, answered }, stored)
    }

    fn ask(&mut self, request: &Request<'_>, data: &[u8], is_repeatable: bool) -> Result<Option<Answered>, Error> {
        let call = Call { is_repeatable, wait: ROOM_WAIT_MAX, ..Call::new(self.action) };
        let (manner, limit) = self.attached.manner_and_limit(&call);
        let asked = ask_over(&mut self.connection, (request, manner, None, data), limit);
        self.attached.judge(&self.session, &call, asked)
    }
}
