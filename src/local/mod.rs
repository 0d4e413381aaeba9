//! The `local` backend: a journal on this node's disk, an index in memory, a sled catalog that makes opening quick. `replication` puts
//! Redis behind it; nothing here knows of Redis itself.
//!
//! ```text
//! <directory>/FORMAT           format version, in words
//!             starting         locked by the process that opens the directory next (files/turn.rs)
//!             LOCK             held by the process that has the store open; its id
//!             journal/N.records  segments of records      (journal/segment.rs, journal/record.rs)
//!                     N.bodies   segments of large bodies
//!                     N.body     a segment of one very large body
//!                     N.spare    preallocated, for deletes and copies, or prepared for puts
//!             NUMBERS          which segment numbers were given, and which reclaimed (files/numbers.rs)
//!             readers/N        locked while somebody may read what was handed out (files/readers.rs)
//!             counters         change counters for attached processes (files/counters.rs)
//!             sessions/N       slots: which bytes an attached process holds (files/slots.rs)
//!             catalog/         sled                        (catalog/)
//! ```

mod backend;
mod bodies;
mod catalog;
mod delete;
mod files;
#[cfg(fuzzing)]
pub mod fuzzing;
mod gate;
mod index;
mod journal;
mod listing;
mod opening;
mod options;
mod read;
mod shared;
mod sharing;
mod stats;
mod tier;
mod upkeep;
mod work;
mod write;
mod writer;

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use files::disk::{Disk, SystemDisk};

pub(crate) use backend::{LocalBackend, open_counters};
pub(crate) use files::counters::Counters;
pub use files::disk;
pub(crate) use files::readers::is_locked;
pub(crate) use files::slots;
pub(crate) use files::space::Lease;
pub(crate) use files::turn::Turn;
pub(crate) use index::Fingerprints;
pub(crate) use journal::Lsn;
pub(crate) use opening::place::make_directory;
pub use opening::report::Report;
pub use options::{Durability, LocalOptions};
pub(crate) use shared::{Placed, Reserved, UNSHARED_BYTES_MAX};
pub(crate) use sharing::hearing::{DeleteRetry, Known, Suspect};
pub(crate) use sharing::ledger::{self, Lane, Next, Obstacle};
pub(crate) use sharing::outbox::{Outbox, OutboxOptions};
pub(crate) use sharing::tail::{Budget, Dirty, DirtyRecords, RecordFilter};
pub(crate) use tier::LocalTier as Tier;
pub(crate) use write::{Fill, RepeatedPut};

/// The smallest limit that leaves room for the segments kept in reserve.
const MAX_SIZE_MB_MIN: u64 = 16;

/// The keeper's callback that begins to listen for other processes while the store is opened; it is given the progress of recovery.
pub type OnLocked = Arc<dyn Fn(Arc<AtomicU32>) -> Result<(), crate::Error> + Send + Sync>;

/// What lies under a store: tests replace the disk, and keepers hook into opening.
#[derive(Clone)]
pub struct Underlying {
    /// The file system.
    pub disk: Arc<dyn Disk>,
    /// Set by a keeper, which has taken the turn to open the directory. Called once the directory is locked, before recovery, with a number
    /// that tells from then on how far recovery is, in thousandths.
    pub on_locked: Option<OnLocked>,
    /// Set where the directory is only read: nothing in it is changed, and what an open would change is noted here.
    pub report: Option<Arc<Report>>,
    /// Bits of a fingerprint that are used: all of them, except in tests that want ids with equal fingerprints.
    pub fingerprint_mask: u64,
}

impl Default for Underlying {
    fn default() -> Self {
        Underlying { disk: Arc::new(SystemDisk), on_locked: None, report: None, fingerprint_mask: u64::MAX }
    }
}
