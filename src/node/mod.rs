//! Processes of one machine that share one store: one of them keeps it, the others are attached.
//!
//! An attached process ([`Attached`]) asks the keeper, and reads and writes large bodies by itself: in files of the journal, where the slots
//! of its session ([`session`]) keep them as they are, over the end of any connection and any keeper. [`messages`] has what they say to each
//! other, [`starting`] how a directory gets a keeper where it has none. The keeper itself stands above the store that it serves: `keeper`.

mod attached;
mod backend;
#[cfg(fuzzing)]
pub mod fuzzing;
mod holding;
mod listening;
pub(crate) mod messages;
mod remembered;
mod sending;
mod session;
pub(crate) mod socket;
pub(crate) mod starting;
mod waits;
mod writing;

pub(crate) use attached::{AttachOptions, Attached};
pub(crate) use starting::Starter;
