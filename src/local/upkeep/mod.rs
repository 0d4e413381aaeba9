//! Upkeep, in two background threads: the sealer seals, reclaims, evicts and prepares files; the reaper frees dead bodies.

#[cfg(test)]
pub(super) mod by_hand;
pub(super) mod expiry;
mod lost;
mod making;
pub(crate) mod pace;
pub(crate) mod progress;
#[cfg(test)]
mod races;
pub(super) mod reaper;
pub(super) mod reclaim;
pub(crate) mod room;
pub(super) mod sealer;
mod sweep;
