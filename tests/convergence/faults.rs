//! What breaks, and when.

use std::time::Duration;

use crate::common::redis::Mode;
use crate::common::splitmix;
use crate::settings::{Extra, Losses, Settings};

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
    /// A node's time of day is ahead by so many seconds from now on.
    Clock(u64, i64),
    /// A node may open so many descriptors more, or as many as ever.
    Descriptors(u64, Option<u64>),
    /// A node gets signals, or none.
    Signals(u64, bool),
    /// Nodes may do less: one of [`RIGHTS`].
    Forbid(usize),
    Permit,
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

/// How often each of what not every world has is chosen: as often as two or three of the others.
const EXTRA_WEIGHT: u64 = 6;

/// By how many seconds clocks are ahead: more than a minute, which a clock may be wrong by; more than `tombstone_ttl`; more than a day.
const CLOCKS: [i64; 6] = [90, -90, 7500, -7500, 100_000, -100_000];

/// What nodes may not do for a while.
pub const RIGHTS: [&[&str]; 10] = [
    &["-xread"],
    &["-xrange"],
    &["-xadd"],
    &["-eval", "-evalsha"],
    &["-set"],
    &["-get", "-getrange", "-mget"],
    &["-role", "-info"],
    &["-time"],
    &["-@write"],
    &["-@all"],
];

/// What Redis acknowledged within this time may be lost: less than `settle_ms` of the nodes, after which they rely on it.
pub const LOST_MAX: Duration = Duration::from_millis(300);

pub fn schedule(settings: &Settings, length: Duration, random: &mut u64) -> Schedule {
    let mut faults = Vec::new();
    for _ in 0..splitmix(random) % (FAULTS_MAX + 1) {
        let begins = Duration::from_millis(splitmix(random) % length.as_millis() as u64);
        let ends = begins + Duration::from_millis(splitmix(random) % FAULT_MS_MAX);
        let node = splitmix(random) % settings.nodes;
        let (fault, mut repairs) = choose(settings, node, random);
        if settings.has(Extra::Python) {
            // What a node cannot hear of any more, it may undo.
            repairs.retain(|repair| *repair != Fault::TrimEvents);
            if fault == Fault::TrimEvents {
                continue;
            }
        }
        let ends = if fault == Fault::Note { ends.min(begins + LOST_MAX) } else { ends };
        faults.push((begins, fault));
        faults.extend(repairs.into_iter().map(|repair| (ends, repair)));
    }
    faults.sort_by_key(|(at, _)| *at);
    faults
}

/// A fault, and what ends it.
fn choose(settings: &Settings, node: u64, random: &mut u64) -> (Fault, Vec<Fault>) {
    let normal = vec![Fault::Network(node, Mode::Normal)];
    let ordinary = if settings.losses == Losses::Nothing { 24 } else { 29 };
    let extras = [Extra::Clocks, Extra::Rights, Extra::Descriptors, Extra::Signals];
    let extras: Vec<Extra> = extras.into_iter().filter(|extra| settings.has(*extra)).collect();
    let number = splitmix(random) % (ordinary + EXTRA_WEIGHT * extras.len() as u64);
    if let Some(past) = number.checked_sub(ordinary) {
        return choose_extra(extras[(past / EXTRA_WEIGHT) as usize], settings.process_from(node), random);
    }
    match number {
        0..3 => (Fault::Network(node, Mode::ResetAfter(1 << (6 + splitmix(random) % 15))), normal),
        3..5 => (Fault::Network(node, Mode::Refuse), normal),
        5..7 => (Fault::Network(node, Mode::Blackhole), normal),
        7..9 => (Fault::Network(node, Mode::Delay(Duration::from_millis(splitmix(random) % 150))), normal),
        9..10 => (Fault::Kill(node), vec![Fault::Open(node)]),
        // With all that it did meanwhile still to be pushed.
        10..11 => (Fault::Network(node, Mode::Refuse), [vec![Fault::Kill(node), Fault::Open(node)], normal].concat()),
        11..12 => (Fault::Close(node), vec![Fault::Open(node)]),
        12..13 => (Fault::PauseNode(node), vec![Fault::ResumeNode(node)]),
        13..14 => (Fault::PauseRedis, vec![Fault::ResumeRedis]),
        14..16 => (Fault::KillRedis, vec![Fault::StartRedis]),
        16..17 => (Fault::TrimEvents, Vec::new()),
        // What happened while the node was away, it never hears.
        17..19 => (Fault::Network(node, Mode::Refuse), [vec![Fault::TrimEvents], normal].concat()),
        19..20 => (Fault::Kill(node), vec![Fault::TrimEvents, Fault::Open(node)]),
        20..24 => {
            let delay_max = Duration::from_millis(1 << (1 + splitmix(random) % 6));
            (Fault::Network(node, Mode::Jitter(delay_max)), Vec::new())
        }
        24..29 if settings.losses == Losses::Recent => (Fault::Note, vec![Fault::RollBack]),
        24..26 => (Fault::KillRedis, vec![Fault::StartRedisEmpty]),
        _ => (Fault::Flush, Vec::new()),
    }
}

/// A fault that not every world has. `node` is a process of its own, but for taking away rights.
fn choose_extra(extra: Extra, node: u64, random: &mut u64) -> (Fault, Vec<Fault>) {
    let mut one_of = |count: usize| splitmix(random) as usize % count;
    match extra {
        Extra::Clocks => {
            let clock = Fault::Clock(node, CLOCKS[one_of(CLOCKS.len())]);
            match one_of(3) {
                0 => (Fault::Kill(node), vec![clock, Fault::Open(node)]),
                1 => (clock, vec![Fault::Clock(node, 0)]),
                _ => (clock, Vec::new()),
            }
        }
        Extra::Descriptors => (Fault::Descriptors(node, Some(one_of(3) as u64)), vec![Fault::Descriptors(node, None)]),
        Extra::Signals => (Fault::Signals(node, true), vec![Fault::Signals(node, false)]),
        Extra::Rights => (Fault::Forbid(one_of(RIGHTS.len())), vec![Fault::Permit]),
        // These are no faults of their own.
        Extra::Python | Extra::Demotion => (Fault::Permit, Vec::new()),
    }
}
