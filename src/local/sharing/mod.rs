//! What other nodes add: the outbox, the journal read as a queue, and events.

pub(crate) mod hearing;
pub(crate) mod hidden;
pub(crate) mod ledger;
pub(crate) mod outbox;
pub(crate) mod tail;
pub(crate) mod unversioned;
