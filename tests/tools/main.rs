//! The program `scaler_object_storage`, run as a user would.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod beside;
#[path = "../common/mod.rs"]
mod common;
mod program;
mod removing;
mod repair;
mod seeing;
mod status;
mod transfer;
mod verify;
