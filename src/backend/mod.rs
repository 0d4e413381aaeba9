//! What a backend is, and who waits for what it does not hold yet.
//!
//! [`contract`] has the trait that every place to keep objects implements; [`waiters`] those who wait for an object, and [`waking`](mod@waking) how a
//! write answers them.

mod contract;
mod patience;
mod waiters;
mod waking;

pub(crate) use contract::{Backend, OnDeleted, OnStored, Stored, Usage, Writer};
pub(crate) use patience::Patience;
pub use waiters::Ticket;
pub(crate) use waiters::{Then, Waiters};
pub(crate) use waking::{answer_early, join_duplicator, spawn_duplicator, waking};
