//! Opening a directory: what is in it, and what its records say.

pub(super) mod directory;
pub(super) mod recovery;
mod scan;
mod superseded;
