//! Rounds: many worlds one after the other, several side by side.

use std::os::fd::FromRawFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::nanoseconds;
use crate::common::splitmix;
use crate::faults::{Schedule, schedule};
use crate::log;
use crate::node::{self, ID_EVERY, Order};
use crate::settings::{FAULTS, Settings};
use crate::world::World;

/// Rounds in one world. Then there is another one.
const WORLD_ROUNDS: u64 = 5;

/// Worlds side by side for each core where `ROUNDS` asks for many: most of a round is waiting.
const WORLDS_PER_CORE: u64 = 4;

/// Worlds side by side where it asks for nothing: other tests run meanwhile.
const WORLDS_FEW: u64 = 2;

/// After so many worlds the tally is told, so that a long run shows how far it is, and one that is ended how far it came.
const TALLY_EVERY: u64 = 20;

/// What a round does.
pub struct Plan {
    pub number: u64,
    pub seed: u64,
    pub length: Duration,
    pub schedule: Schedule,
    pub began: u64,
}

#[derive(Debug, Default)]
pub struct Tally {
    pub worlds: u64,
    pub rounds: u64,
    pub acknowledged: usize,
    pub reads: usize,
    pub faults: usize,
}

/// What is still to be done, and what has been found.
struct Work {
    test: &'static str,
    next: Mutex<Next>,
    world_rounds: u64,
    tally: Mutex<Tally>,
    problems: Mutex<Vec<String>>,
    problems_max: usize,
}

struct Next {
    seed: u64,
    rounds: u64,
}

/// Runs the rounds; in a child, what the child is for.
pub fn run(test: &'static str, rounds: u64) {
    log::tell_errors();
    if let Some(order) = Order::received() {
        be_node(&order);
    }
    let number = |name| std::env::var(name).ok().map(|value| value.parse::<u64>().expect(name));
    let seed = number("SEED").unwrap_or_else(|| u64::from(std::process::id()) ^ nanoseconds());
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let (rounds, world_rounds, worlds) = match number("ROUNDS") {
        Some(rounds) => (rounds, WORLD_ROUNDS, number("WORLDS").unwrap_or(WORLDS_PER_CORE * cores)),
        None => (rounds, rounds.div_ceil(WORLDS_FEW).min(WORLD_ROUNDS), WORLDS_FEW),
    };
    let work = Work {
        test,
        next: Mutex::new(Next { seed, rounds }),
        world_rounds,
        tally: Mutex::default(),
        problems: Mutex::default(),
        problems_max: number("FAILURES").unwrap_or(1) as usize,
    };
    thread::scope(|scope| {
        for _ in 0..worlds.min(rounds.div_ceil(world_rounds)) {
            scope.spawn(|| work.run());
        }
    });
    let (tally, problems) = (work.tally.into_inner(), work.problems.into_inner());
    eprintln!("{test}: {tally:?}");
    assert!(problems.is_empty(), "{}", problems.join("\n\n"));
    assert!(tally.acknowledged > 0 && tally.reads > 0, "nothing was done");
}

fn be_node(order: &Order) -> ! {
    let name = format!("node {} of {}", order.node, order.world);
    std::panic::set_hook(Box::new(move |panic| {
        eprintln!("{name}: {panic}");
        std::process::exit(101);
    }));
    // Sound: the parent made its end of the stream this process's standard input, which nothing else here uses.
    node::serve(order, unsafe { UnixStream::from_raw_fd(0) });
    std::process::exit(0);
}

impl Work {
    /// One world after the other, until all rounds are done or too many worlds have failed.
    fn run(&self) {
        while let Some((seed, rounds)) = self.next() {
            let (test, name) = (self.test, format!("SEED={seed}"));
            // In a thread that bears the seed's name, so that a panic tells it.
            let world = thread::Builder::new().name(name).spawn(move || live(test, seed, rounds)).unwrap();
            let result = world.join().unwrap_or_else(|panic| Err(text(&*panic)));
            match result {
                Ok(tally) => self.count(&tally),
                Err(problem) => {
                    let faults = std::env::var(FAULTS).map_or(String::new(), |faults| format!("{FAULTS}={faults} "));
                    let problem = format!("{problem}\nrepeat with {faults}SEED={seed} ROUNDS={WORLD_ROUNDS}");
                    // At once: the worlds beside it may take a while, or hang.
                    eprintln!("{problem}\n");
                    self.problems.lock().push(problem);
                }
            }
        }
    }

    fn count(&self, world: &Tally) {
        let mut tally = self.tally.lock();
        tally.add(world);
        if tally.worlds.is_multiple_of(TALLY_EVERY) {
            eprintln!("{} so far: {tally:?}", self.test);
        }
    }

    fn next(&self) -> Option<(u64, u64)> {
        let mut next = self.next.lock();
        if next.rounds == 0 || self.problems.lock().len() >= self.problems_max {
            return None;
        }
        let (seed, rounds) = (next.seed, next.rounds.min(self.world_rounds));
        next.rounds -= rounds;
        // Not the next number of the world's own sequence, or the next world would choose what this one does, a choice later.
        next.seed = splitmix(&mut { next.seed });
        Some((seed, rounds))
    }
}

/// The life of a world.
fn live(test: &'static str, seed: u64, rounds: u64) -> Result<Tally, String> {
    let mut random = seed;
    let mut tally = Tally { worlds: 1, rounds, ..Tally::default() };
    let mut world = World::open(test, seed, Settings::choose(&mut random));
    for number in 0..rounds {
        let plan = Plan::choose(&world.settings, number, &mut random);
        world.round(&plan, &mut tally).map_err(|problem| {
            let Plan { number, schedule, .. } = &plan;
            format!("{problem}\nround {number}: {}: {schedule:?}", world.settings)
        })?;
    }
    world.close()?;
    Ok(tally)
}

/// What a panic said.
fn text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panicked".into())
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        self.worlds += other.worlds;
        self.rounds += other.rounds;
        self.acknowledged += other.acknowledged;
        self.reads += other.reads;
        self.faults += other.faults;
    }
}

impl Plan {
    fn choose(settings: &Settings, number: u64, random: &mut u64) -> Plan {
        let length = Duration::from_millis(300 + splitmix(random) % 1200);
        let schedule = schedule(settings, length, random);
        Plan { number, seed: splitmix(random), length, schedule, began: nanoseconds() }
    }

    /// How many ids were written, at most.
    pub fn ids(&self) -> u64 {
        let passed = Duration::from_nanos(nanoseconds().saturating_sub(self.began));
        (passed.as_millis() / ID_EVERY.as_millis()) as u64 + 8
    }
}
