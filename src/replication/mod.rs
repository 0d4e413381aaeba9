//! The `tiered` backend: the local tier in front, Redis behind it.
//!
//! ```text
//! put, delete, duplicate  -> journal, acknowledged -> replicator.rs   pushes what is dirty, announces it in the event stream
//! get                     -> journal, else         -> fetchers.rs     reads it from Redis, fills it into the journal
//! other nodes' writes     <- reader.rs             drops what is older here, fetches what somebody waits for
//! waits                   <- watcher.rs            looks again now and then, asks other nodes to push again
//! ```

mod attention;
mod backend;
mod caution;
mod counters;
mod fetchers;
mod flights;
mod health;
mod jobs;
mod lateness;
mod node;
mod peers;
mod reader;
mod replicator;
mod stats;
mod wants;
mod watcher;

pub(crate) use node::TieredBackend;
