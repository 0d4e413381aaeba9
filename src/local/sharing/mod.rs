//! The part of the local tier that `replication` drives: the ledger of dirty records, the journal read as a queue, fills, and what the
//! events of other nodes change.

pub(crate) mod continuity;
pub(crate) mod hearing;
pub(crate) mod hidden;
pub(crate) mod ledger;
pub(crate) mod outbox;
pub(crate) mod tail;
mod unpushed;
pub(crate) mod unversioned;
