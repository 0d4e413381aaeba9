//! What the store asks of the file system: files, maps, room, the directory lock.

pub mod disk;
pub(crate) mod lock;
pub(crate) mod mapping;
pub(crate) mod space;
