//! The store is killed with SIGKILL at random moments, over and over on one directory, and each time what it kept is compared with
//! what it had acknowledged. `ROUNDS` says how often (`make crash ROUNDS=...`), `SEED` repeats the choices of a failure.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod child;
#[path = "../common/mod.rs"]
mod common;
mod content;
mod mirror;
mod model;
mod report;
mod rounds;

use rounds::{Losses, Plan, run};
use scaler_object_storage::Durability;

/// Rounds where `ROUNDS` does not say: all tests of this program together take about a minute then.
const ROUNDS: u64 = 120;

// Invariants 1, 2 and 7.
#[test]
fn acknowledged_writes_survive_a_killed_process() {
    run(&Plan {
        test: "acknowledged_writes_survive_a_killed_process",
        durability: Durability::Process,
        losses: Losses::Nothing,
        rounds: ROUNDS,
    });
}

// Invariant 1, with `durability = "disk"`.
#[test]
fn with_disk_durability_acknowledged_writes_survive_the_loss_of_every_byte_not_synced() {
    run(&Plan {
        test: "with_disk_durability_acknowledged_writes_survive_the_loss_of_every_byte_not_synced",
        durability: Durability::Disk,
        losses: Losses::NotSynced,
        rounds: ROUNDS,
    });
}

// Invariant 7; and what `flush` promises.
#[test]
fn with_process_durability_a_power_loss_undoes_what_was_not_flushed_and_tears_nothing() {
    run(&Plan {
        test: "with_process_durability_a_power_loss_undoes_what_was_not_flushed_and_tears_nothing",
        durability: Durability::Process,
        losses: Losses::NotSynced,
        rounds: ROUNDS,
    });
}
