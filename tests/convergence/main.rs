//! Several nodes, in this process and in others, write to the same few objects through one Redis while everything between them breaks.
//! When it goes quiet, what they hold is compared with what they acknowledged. `ROUNDS` says how often (`make converge ROUNDS=...`),
//! `SEED` repeats the choices of a failure, as far as threads allow.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

#[path = "../common/mod.rs"]
mod common;
mod content;
mod faults;
mod history;
mod life;
mod node;
mod report;
mod rounds;
mod settings;

/// Rounds where `ROUNDS` does not say: some 15 seconds, on busy cores 40.
const ROUNDS: u64 = 6;

// Invariants 1 to 9, across nodes.
#[test]
fn nodes_agree_when_it_goes_quiet() {
    rounds::run("nodes_agree_when_it_goes_quiet", ROUNDS);
}
