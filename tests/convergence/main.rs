//! Several nodes, in this process and in others, write to the same few objects through one Redis while everything between them breaks.
//! When it goes quiet, what they hold is compared with what they acknowledged. `ROUNDS` says how often (`make converge ROUNDS=...`),
//! `WORLDS` how many worlds of nodes there are side by side, `FAILURES` how many of them may fail before no more are begun (1). `SEED`
//! with `ROUNDS=5` is one world alone: it repeats the choices of a failure, as far as threads allow. `FAULTS` says which of the faults
//! that not every world has there are: a list of the names in `settings.rs`, or `all`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod agreement;
mod clock;
#[path = "../common/mod.rs"]
mod common;
mod content;
mod faults;
mod hardship;
mod history;
mod life;
mod log;
mod node;
mod report;
mod rounds;
mod servers;
mod settings;
mod world;

/// Rounds where `ROUNDS` does not say: some 10 seconds, on busy cores 30.
const ROUNDS: u64 = 6;

// Invariants 1 to 9, across nodes.
#[test]
fn nodes_agree_when_it_goes_quiet() {
    rounds::run("nodes_agree_when_it_goes_quiet", ROUNDS);
}
