//! Redis: the layout of what stands there, connections to it, pushing and fetching, and the `redis` backend. It knows nothing of the local
//! tier; `replication` drives both.

mod backend;
mod body;
mod claims;
mod cluster;
mod connect;
mod connection;
mod envelope;
mod events;
mod fetch;
#[cfg(fuzzing)]
pub mod fuzzing;
mod keys;
mod link;
mod listener;
pub(crate) mod listing;
mod masters;
mod open;
mod options;
mod permissions;
mod pipeline;
mod pool;
mod push;
mod python;
mod refusals;
mod scripts;
pub(crate) mod server;
mod stored_value;
mod stream;
mod target;
#[cfg(test)]
mod testing;
mod tls;
mod url;
mod watch;
mod words;

pub use options::{Compression, RedisOptions, ValueFormat};

pub(crate) use backend::RedisBackend;
pub(crate) use body::Body;
pub(crate) use claims::claim;
#[cfg(test)]
pub(crate) use envelope::Head;
pub(crate) use events::{EntryId, Event, Notice, Op, gathered, is_whole, last, publish, read};
pub(crate) use fetch::{Fetched, Looked, VersionedObject, fetch, heads};
pub(crate) use keys::Keys;
pub(crate) use link::Link;
pub(crate) use masters::{Masters, masters};
pub(crate) use permissions::refused_commands;
pub(crate) use push::{Begun, Hearing, Outgoing, Pushed, Pusher, What};
pub(crate) use refusals::{explained, unusable};
pub(crate) use stored_value::StoredValue;
pub(crate) use target::Target;
pub(crate) use watch::Watch;
