//! What is done in the background: sealing, reclaiming, preparing files ahead.

pub(crate) mod pace;
pub(crate) mod progress;
#[cfg(test)]
mod races;
pub(super) mod reaper;
pub(super) mod reclaim;
mod room;
pub(super) mod sealer;
