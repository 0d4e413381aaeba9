//! The shared tier: how objects stand in Redis, and how Redis is spoken to.

#![allow(dead_code, reason = "the replicator and the `redis` backend stand upon it")]

mod cluster;
mod envelope;
mod events;
mod fetch;
#[cfg(fuzzing)]
pub mod fuzzing;
mod keys;
mod link;
mod options;
mod push;
mod python;
mod scripts;
mod server;
mod standing;
mod target;
#[cfg(test)]
mod testing;
mod url;

pub use options::{Compression, RedisOptions, ValueFormat};
