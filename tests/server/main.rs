//! The server, as its clients see it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod client;
mod command_line;
mod handover;
mod limits;
mod malformed;
mod requests;
mod sessions;
mod transports;
mod waits;
