//! The `Backend` trait, and the waiters for objects that do not exist yet.
//!
//! [`contract`] has the trait that every place to keep objects implements; [`waiters`] has the parked requests, and [`waking`](mod@waking) how a
//! write answers them.

mod contract;
mod listing;
mod patience;
mod stats;
mod waiters;
mod waking;

pub(crate) use contract::{Backend, OnDeleted, OnStored, Stored, Writer};
pub use listing::{LISTED_MAX, ListPosition, Listed, ObjectState, Page};
pub(crate) use patience::Patience;
pub(crate) use stats::Usage;
pub use stats::{
    Health, HealthReason, HealthState, KeeperStats, LocalStats, OperationStats, ProcessStats, RedisStats,
    ReplicationStats, Stats, WaitStats,
};
pub use waiters::Ticket;
pub(crate) use waiters::{Then, Waiters};
pub(crate) use waking::{answer_early, join_duplicator, spawn_duplicator, waking};
