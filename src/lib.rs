//! An object store for OpenGRIS Scaler that survives crashes.
//!
//! The feature `server`, on by default, adds the server and its program; without it the crate is the store alone. The feature `tools`, on by
//! default as well, adds the program with the tools for a store's data, and nothing to the library.
//!
//! An object is an id (1 to 512 bytes), data and metadata. [`ObjectStore`] keeps objects in one of four backends behind one interface:
//!
//! | backend | where objects are |
//! |---|---|
//! | [`memory`](ObjectStoreBuilder::memory) | in this process |
//! | [`local`](ObjectStoreBuilder::local) (default) | in an append-only journal on this node, which survives a crash; read without a copy |
//! | [`redis`](ObjectStoreBuilder::redis) | in Redis, and nowhere else |
//! | [`tiered`](ObjectStoreBuilder::tiered) | in a journal on this node, and in a Redis that several nodes share |
//!
//! ```
//! use scaler_object_storage::ObjectStore;
//!
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path();
//! let store = ObjectStore::builder().local(path).open()?;
//! store.put(b"greeting", b"Hello, World!", b"text/plain")?;
//!
//! let object = store.get(b"greeting")?.expect("just stored");
//! assert_eq!(&object.data[..], b"Hello, World!");
//! store.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod backend;
mod backoff;
mod clock;
#[cfg(feature = "config")]
pub mod config;
mod counts;
mod error;
mod fork;
mod id;
mod interrupt;
mod keeper;
mod local;
mod long_work;
mod memory;
mod node;
mod object;
#[cfg(feature = "server")]
#[doc(hidden)]
pub mod program;
#[cfg(feature = "python")]
mod python;
mod random;
mod redis;
mod replication;
#[cfg(feature = "server")]
pub mod server;
mod store;
mod sync;
mod version;
#[cfg(feature = "wire")]
mod wire;

pub use backend::{
    Health, HealthReason, HealthState, KeeperStats, LISTED_MAX, ListPosition, Listed, LocalStats, ObjectState,
    OperationStats, Page, ProcessStats, RedisStats, ReplicationStats, Stats, Ticket, WaitStats,
};
pub use error::{Error, Result};
pub use id::{ID_BYTES_MAX, ObjectId, REDIS_ID_BYTES_MAX};
pub use keeper::{InheritedTurn, Keeper, KeeperOptions, inherit_turn};
pub use local::{Durability, LocalOptions, Report};
#[doc(hidden)]
pub use local::{Underlying, disk};
pub use memory::MemoryOptions;
pub use object::{METADATA_BYTES_MAX, Object};
pub use redis::{Compression, RedisOptions, ValueFormat};
pub use store::{
    BackendKind, CancelToken, Info, ObjectStore, ObjectStoreBuilder, ObjectWriter, Objects, Parked, StoreConfig, Waited,
};
pub use version::Version;

/// What the fuzz targets reach that is not part of the interface.
#[cfg(fuzzing)]
#[doc(hidden)]
#[allow(missing_docs)]
pub mod fuzzing {
    pub use crate::local::fuzzing as journal;
    pub use crate::node::fuzzing as node;
    pub use crate::redis::fuzzing as envelope;
    pub mod wire {
        pub use crate::wire::{
            Event, Greeting, Malformed, ReplyHead, ReplyType, RequestDecoder, RequestHeader, RequestType, Step, WireId,
        };
    }
}
