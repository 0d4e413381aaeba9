//! What the store asks of the file system: files, maps, room, the directory lock.

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
