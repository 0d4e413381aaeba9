//! The files of a store's directory apart from the journal's format: file system, maps, space accounting, locks, and what is shared with
//! attached processes.

pub(crate) mod counters;
pub mod disk;
pub(crate) mod lock;
pub(crate) mod mapping;
pub(crate) mod numbers;
pub(crate) mod open_files;
pub(crate) mod readers;
pub(crate) mod slots;
pub(crate) mod space;
pub(crate) mod turn;
