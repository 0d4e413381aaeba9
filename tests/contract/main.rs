//! The contract of `ObjectStore`: what every backend promises, checked with each of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

/// Makes a test of each function and backend.
macro_rules! contract {
    ($($promise:ident),* $(,)?) => {
        bounded_contract!($($promise),*);
        mod redis { $(#[test] fn $promise() { super::$promise(&crate::common::Fixture::new("redis")); })* }
        mod tiered { $(#[test] fn $promise() { super::$promise(&crate::common::Fixture::new("tiered")); })* }
    };
}

/// As `contract`, for what follows from `max_size_mb`: the size of Redis is not the store's to bound, and what Redis has is
/// evicted to make room.
macro_rules! bounded_contract {
    ($($promise:ident),* $(,)?) => {
        mod memory { $(#[test] fn $promise() { super::$promise(&crate::common::Fixture::new("memory")); })* }
        mod local { $(#[test] fn $promise() { super::$promise(&crate::common::Fixture::new("local")); })* }
        mod attached { $(#[test] fn $promise() { super::$promise(&crate::common::Fixture::new("attached")); })* }
    };
}

mod asynchronous;
mod capacity;
mod closing;
mod lifetimes;
mod linearizability;
mod listing;
mod model;
mod objects;
mod parking;
mod sharing;
mod stats;
mod threads;
mod waiting;
mod writing;
