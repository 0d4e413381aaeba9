//! Directories that are not as the store left them: damaged, older, newer, in use.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod catalogs;
#[path = "../common/mod.rs"]
mod common;
mod flips;
mod fork;
mod formats;
mod locks;
mod missing;
mod reading;
mod rival;
mod specimen;
mod tails;
