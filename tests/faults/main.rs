//! A disk that fails: what the store answers then, and what it holds when it is opened again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "../common/mod.rs"]
mod common;
mod disk;
mod every_call;
mod full;
mod reading;
mod removing;
mod syncing;
mod upkeep;
mod world;
mod writing;
