//! Processes of one machine that share a store: real ones, with keepers that are started, killed and replaced.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod contents;
mod full_disk;
mod history;
mod holding;
mod hostile;
mod keepers;
mod kept;
mod limits;
mod no_room;
mod place;
mod remembering;
mod report;
mod rounds;
mod stats;
mod within;
mod worker;
