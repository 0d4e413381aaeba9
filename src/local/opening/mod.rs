//! Opening a directory: lists its segments (`directory`), and rebuilds the index from hints and records (`recovery`).

pub(super) mod directory;
pub(super) mod place;
pub(super) mod recovery;
pub(super) mod report;
mod scan;
mod superseded;
