//! What breaks, and when.

use std::time::Duration;

use crate::common::redis::Mode;
use crate::common::splitmix;
use crate::settings::{Losses, Settings};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Between a node and Redis.
    Network(u64, Mode),
    /// With SIGKILL where it is a process of its own, otherwise it is closed.
    Kill(u64),
    Close(u64),
    Open(u64),
    PauseNode(u64),
    ResumeNode(u64),
    PauseRedis,
    ResumeRedis,
    KillRedis,
    /// With what it had.
    StartRedis,
    /// Without.
    StartRedisEmpty,
    Flush,
    /// From here on Redis is about to lose what it acknowledges.
    Note,
    /// It comes back with what it had then.
    RollBack,
    /// The past of the event stream is trimmed away, for nodes that were cut off for too long.
    TrimEvents,
}

/// What happens after the beginning of a round, in order.
pub type Schedule = Vec<(Duration, Fault)>;

const FAULTS_MAX: u64 = 6;
const FAULT_MS_MAX: u64 = 500;

/// What Redis acknowledged within this time may be lost: less than `settle_ms` of the nodes, after which they rely on it.
pub const LOST_MAX: Duration = Duration::from_millis(300);

pub fn schedule(settings: &Settings, length: Duration, random: &mut u64) -> Schedule {
    let mut faults = Vec::new();
    for _ in 0..splitmix(random) % (FAULTS_MAX + 1) {
        let begins = Duration::from_millis(splitmix(random) % length.as_millis() as u64);
        let ends = begins + Duration::from_millis(splitmix(random) % FAULT_MS_MAX);
        let node = splitmix(random) % settings.nodes;
        let (fault, repair) = choose(settings, node, random);
        let ends = if fault == Fault::Note { ends.min(begins + LOST_MAX) } else { ends };
        faults.push((begins, fault));
        faults.extend(repair.map(|repair| (ends, repair)));
    }
    faults.sort_by_key(|(at, _)| *at);
    faults
}

fn choose(settings: &Settings, node: u64, random: &mut u64) -> (Fault, Option<Fault>) {
    let normal = Some(Fault::Network(node, Mode::Normal));
    match splitmix(random) % if settings.losses == Losses::Nothing { 24 } else { 29 } {
        0..4 => (Fault::Network(node, Mode::ResetAfter(1 << (6 + splitmix(random) % 15))), normal),
        4..6 => (Fault::Network(node, Mode::Refuse), normal),
        6..8 => (Fault::Network(node, Mode::Blackhole), normal),
        8..10 => (Fault::Network(node, Mode::Delay(Duration::from_millis(splitmix(random) % 150))), normal),
        10..13 => (Fault::Kill(node), Some(Fault::Open(node))),
        13..14 => (Fault::Close(node), Some(Fault::Open(node))),
        14..15 => (Fault::PauseNode(node), Some(Fault::ResumeNode(node))),
        15..16 => (Fault::PauseRedis, Some(Fault::ResumeRedis)),
        16..18 => (Fault::KillRedis, Some(Fault::StartRedis)),
        18..20 => (Fault::TrimEvents, None),
        20..24 => {
            let delay_max = Duration::from_millis(1 << (1 + splitmix(random) % 6));
            (Fault::Network(node, Mode::Jitter(delay_max)), None)
        }
        24..29 if settings.losses == Losses::Recent => (Fault::Note, Some(Fault::RollBack)),
        24..26 => (Fault::KillRedis, Some(Fault::StartRedisEmpty)),
        _ => (Fault::Flush, None),
    }
}
