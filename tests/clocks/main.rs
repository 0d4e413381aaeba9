//! What clocks that are wrong, or are set while stores run, may cost: no write, no delete, and no lifetime.
//!
//! This program's wall clock can be set (`wall.rs`), and Redis's TIME can be made to lie (`liar.rs`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod lifetimes;
mod may_have_stood;
mod order;
mod redis_clock;

mod liar;
#[path = "../tiered/nodes.rs"]
#[allow(dead_code, reason = "the tests of several nodes use all of it")]
mod nodes;
mod wall;

const HOUR: i64 = 3600;
const YEAR: i64 = 365 * 24 * HOUR;

/// By how many seconds a wall clock is wrong.
const WRONG: [i64; 4] = [HOUR, -HOUR, 10 * YEAR, -10 * YEAR];
