//! What can happen to Redis, each with a real one: local work goes on meanwhile, and afterwards nothing that was acknowledged is
//! missing, nothing deleted is back, and all agree (invariants 4, 6 and 10).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod absent;
mod cut;
mod damage;
mod emptied;
mod failover;
mod full;
mod load;
mod paused;
mod resharding;
mod slow;
mod world;
