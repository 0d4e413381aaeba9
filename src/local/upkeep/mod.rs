//! What is done in the background: sealing, reclaiming, preparing files ahead.

pub(super) mod reclaim;
pub(super) mod sealer;
