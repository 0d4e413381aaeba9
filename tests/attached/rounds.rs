//! Processes that share a store write and read at random while keepers and processes are killed and stopped. `ROUNDS` says how often
//! (`make crash-node ROUNDS=...`), `SEED` repeats the choices of a failure, though not what the processes make of them.

use std::io::{PipeReader, PipeWriter, pipe};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use scaler_object_storage::{Error, Object, ObjectStore, Waited};

use crate::common::{splitmix, until};
use crate::contents::Content;
use crate::history::{History, State};
use crate::place::{BODY_SEGMENTS_IDLE_MAX, Place, is_alive, signal};
use crate::report::{Event, Report};

/// Rounds where `ROUNDS` does not say.
const ROUNDS: u64 = 12;

const TEST: &str = "rounds::nothing_is_lost_or_changed_when_keepers_and_processes_are_killed";

/// The environment variable that makes this program one of a round's processes.
const ORDER: &str = "ATTACHED_ROUND";

/// So small that room is used again all the time.
const SIZE_MB: u64 = 32;

/// Ids are put, deleted, overwritten; those from `TARGETS` on also get duplicates of those below.
const IDS: u8 = 24;
const TARGETS: u8 = 12;

const THREADS: u64 = 2;

/// Objects that a thread holds at a time.
const HELD_MAX: usize = 8;

/// A process that takes longer than this to end hangs.
const END_LIMIT: Duration = Duration::from_secs(100);

/// Standard input of a process of a round: where it reports to.
const PIPE: i32 = 0;

fn id(number: u8) -> Vec<u8> {
    format!("object {number}").into_bytes()
}

struct Process {
    store: ObjectStore,
    number: u64,
    operations: AtomicU64,
    stop: PathBuf,
}

/// What one process of a round does.
fn take_part(order: &str) -> ! {
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("process {}: {panic}", std::process::id());
        std::process::exit(101);
    }));
    let mut words = order.splitn(3, ' ');
    let (number, seed) = (words.next().unwrap().parse().unwrap(), words.next().unwrap().parse::<u64>().unwrap());
    let path = PathBuf::from(words.next().unwrap());
    let store = Place::builder_in(&path).max_size_mb(SIZE_MB).attach().unwrap();
    let stop = stop_file(&path);
    let process = Arc::new(Process { store, number, operations: AtomicU64::new(0), stop });
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let process = Arc::clone(&process);
            spawn(move || process.run(seed ^ (thread << 32), thread == 0))
        })
        .collect();
    let held: Vec<Vec<Object>> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    process.store.close().unwrap();
    held.iter().for_each(|held| check_held(held));
    std::process::exit(0);
}

fn stop_file(directory: &Path) -> PathBuf {
    directory.with_file_name("stop")
}

fn report(event: Event, id: u8, operation: u64, value: u64) {
    Report { event, id, operation, value }.send(PIPE);
}

/// Tells of bytes that have changed. For forked children as well: it takes no memory.
fn check_held(held: &[Object]) {
    for object in held {
        if Content::of(object).is_none() {
            report(Event::Changed, 0, 0, 0);
        }
    }
}

impl Process {
    fn run(&self, mut random: u64, forks: bool) -> Vec<Object> {
        let mut held = Vec::new();
        let mut made = 0_u64;
        while !made.is_multiple_of(16) || !self.stop.exists() {
            made += 1;
            self.change_once(&mut random, &mut held, forks);
        }
        held
    }

    fn operation(&self) -> u64 {
        self.number << 40 | self.operations.fetch_add(1, Ordering::Relaxed)
    }

    fn change_once(&self, random: &mut u64, held: &mut Vec<Object>, forks: bool) {
        let number = (splitmix(random) % u64::from(IDS)) as u8;
        let operation = self.operation();
        let unique = splitmix(random);
        let content = Content::choose(random, unique);
        let id = id(number);
        let done = match splitmix(random) % 100 {
            0..24 => {
                report(Event::StartedPut, number, operation, content.0);
                self.store.put(&id, content.data(), &content.metadata()).map(|()| true)
            }
            24..32 => {
                report(Event::StartedPut, number, operation, content.0);
                self.stream(&id, content).map(|()| true)
            }
            32..46 => {
                report(Event::StartedDelete, number, operation, 0);
                self.store.delete(&id).map(|_| true)
            }
            46..56 if number >= TARGETS => {
                let original = (splitmix(random) % u64::from(TARGETS)) as u8;
                report(Event::StartedDuplicate, number, operation, u64::from(original));
                self.store.duplicate(&super::rounds::id(original), &id)
            }
            56..88 => {
                report(Event::StartedGet, number, operation, 0);
                return self.read(number, operation, self.store.get(&id), held, random);
            }
            88..91 => {
                report(Event::StartedGet, number, operation, 0);
                let deadline = Instant::now() + Duration::from_millis(20);
                let waited = match self.store.wait(&id, Some(deadline), None) {
                    Ok(Waited::Object(object)) => Ok(Some(object)),
                    Ok(_) => return report(Event::Refused, number, operation, 0),
                    Err(error) => Err(error),
                };
                return self.read(number, operation, waited, held, random);
            }
            91..96 => {
                check_held(held);
                held.drain(..held.len() / 2);
                return;
            }
            96 if forks => return fork(held, Duration::from_millis(splitmix(random) % 200)),
            _ => return check_held(held),
        };
        match done {
            Ok(true) => report(Event::Done, number, operation, 0),
            // Nothing to duplicate; no room; nobody was asked.
            Ok(false) | Err(Error::Full { .. } | Error::Detached { .. } | Error::WriteFailed { .. }) => {
                report(Event::Refused, number, operation, 0);
            }
            Err(Error::Unanswered { .. }) => {}
            Err(error) => panic!("operation {operation:x} on object {number}: {error}"),
        }
    }

    fn read(
        &self,
        number: u8,
        operation: u64,
        found: Result<Option<Object>, Error>,
        held: &mut Vec<Object>,
        random: &mut u64,
    ) {
        let object = match found {
            Ok(Some(object)) => object,
            Ok(None) => return report(Event::NotFound, number, operation, 0),
            Err(Error::Detached { .. }) => return report(Event::Refused, number, operation, 0),
            Err(error) => panic!("operation {operation:x} on object {number}: {error}"),
        };
        match Content::of(&object) {
            Some(content) => report(Event::Found, number, operation, content.0),
            None => return report(Event::Wrong, number, operation, 0),
        }
        if held.len() < HELD_MAX && splitmix(random).is_multiple_of(2) {
            held.push(object);
        }
    }

    fn stream(&self, id: &[u8], content: Content) -> Result<(), Error> {
        let data = content.data();
        let mut writer = self.store.writer(id, data.len() as u64, &content.metadata())?;
        for piece in data.chunks(30_000) {
            writer.write(piece)?;
        }
        writer.commit()
    }
}

/// A child that looks at what is held here, for a while.
fn fork(held: &[Object], time: Duration) {
    let end = Instant::now() + time;
    // Sound: the child reads memory, writes to the pipe, and ends without running anything else. Nobody waits for it by its number, so
    // that it goes by itself.
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        match libc::fork() {
            -1 => panic!("cannot fork"),
            0 => {
                while Instant::now() < end {
                    check_held(held);
                    libc::usleep(5000);
                }
                libc::_exit(0)
            }
            _ => {}
        }
    }
}

struct Rounds {
    place: Place,
    random: u64,
    /// What each id holds.
    states: Vec<State>,
    processes: u64,
    /// Objects for which there is room in the empty store.
    room: u64,
    tally: Tally,
}

#[derive(Debug, Default)]
struct Tally {
    keepers_killed: u64,
    keepers_stopped: u64,
    processes_killed: u64,
    processes_stopped: u64,
    answered: usize,
    unanswered: usize,
}

#[test]
fn nothing_is_lost_or_changed_when_keepers_and_processes_are_killed() {
    if let Ok(order) = std::env::var(ORDER) {
        take_part(&order);
    }
    let number = |name| std::env::var(name).ok().map(|value| value.parse::<u64>().expect(name));
    let clock = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let seed = number("SEED").unwrap_or(clock);
    let rounds = number("ROUNDS").unwrap_or(ROUNDS);
    let place = Place::new();
    let store = attach(&place);
    let room = fill(&store);
    store.clear().unwrap();
    drop(store);
    let states = vec![None; usize::from(IDS)];
    let mut state = Rounds { place, random: seed, states, processes: 0, room, tally: Tally::default() };
    for round in 0..rounds {
        if let Err(problem) = state.round(round) {
            panic!("round {round}: {problem}\nchoices of SEED={seed}");
        }
    }
    eprintln!("{rounds} rounds, {:?}", state.tally);
    assert!(state.tally.answered > 0, "nothing was answered");
    let keeper = state.place.keeper();
    until("the last keeper ends", || keeper.is_none_or(|keeper| !is_alive(keeper)));
    assert_eq!(state.place.processes(), Vec::<u32>::new(), "processes that are left");
    assert_eq!(state.place.sessions(), 0, "sessions that are left");
}

fn attach(place: &Place) -> ObjectStore {
    place.builder().max_size_mb(SIZE_MB).attach().unwrap()
}

/// Stores objects until there is no room; how many there was room for.
fn fill(store: &ObjectStore) -> u64 {
    for number in 0.. {
        let content = Content(5 << 56 | (1 << 50) | number);
        match store.put(format!("fill {number}").as_bytes(), content.data(), &content.metadata()) {
            Ok(()) => {}
            Err(Error::Full { .. }) => return number,
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!()
}

impl Rounds {
    fn choose(&mut self, below: u64) -> u64 {
        splitmix(&mut self.random) % below
    }

    fn round(&mut self, round: u64) -> Result<(), String> {
        let stop = stop_file(&self.place.path());
        let (reader, writer) = pipe().unwrap();
        let reports = read_all(reader);
        let mut processes: Vec<Child> = (0..3 + self.choose(3)).map(|_| self.start(&writer)).collect();
        for _ in 0..6 + self.choose(8) {
            sleep(Duration::from_millis(10 + self.choose(80)));
            self.disturb(&mut processes, &writer);
        }
        std::fs::write(&stop, b"").unwrap();
        for process in processes {
            end(process)?;
        }
        // Their forked children have it as well, and end by themselves.
        drop(writer);
        let reports = reports.join().unwrap();
        std::fs::remove_file(&stop).unwrap();

        let before = self.states.clone();
        let history = History::new(&before, &reports)?;
        history.check()?;
        self.tally.answered += history.answered();
        self.tally.unanswered += history.unanswered();
        if history.unanswered() > 0 || round.is_multiple_of(2) {
            // What has no answer has happened by now, or never will.
            self.kill_keeper();
        }
        let store = attach(&self.place);
        let states: Vec<State> = (0..IDS).map(|number| self.look(&store, number)).collect::<Result<_, _>>()?;
        for (number, state) in (0..IDS).zip(&states) {
            if !history.may_be_left(number, *state) {
                return Err(format!("object {number} is left as {state:x?}, which it may not be"));
            }
        }
        self.states = states;
        let place = &self.place;
        until("the sessions of those that have ended are over", || place.sessions() == 1);
        if round % 4 == 3 {
            until("all room comes back", || {
                store.clear().unwrap();
                fill(&store) + 8 >= self.room
            });
            store.clear().unwrap();
            until("no segment is kept for those who have ended", || {
                self.place.body_segments() <= BODY_SEGMENTS_IDLE_MAX
            });
            self.states = vec![None; usize::from(IDS)];
        }
        Ok(())
    }

    fn look(&self, store: &ObjectStore, number: u8) -> Result<State, String> {
        match store.get(&id(number)) {
            Ok(None) => Ok(None),
            Ok(Some(object)) => match Content::of(&object) {
                Some(content) => Ok(Some(content.0)),
                None => Err(format!("object {number} is left with bytes that nobody has written")),
            },
            Err(error) => Err(format!("object {number}: {error}")),
        }
    }

    fn start(&mut self, pipe: &PipeWriter) -> Child {
        self.processes += 1;
        let seed = self.choose(u64::MAX);
        Command::new(std::env::current_exe().unwrap())
            .args([TEST, "--exact", "--nocapture"])
            .env(ORDER, format!("{} {seed} {}", self.processes, self.place.path().display()))
            .stdin(pipe.try_clone().unwrap())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn kill_keeper(&mut self) {
        if let Some(keeper) = self.place.keeper() {
            signal(keeper, libc::SIGKILL);
            self.tally.keepers_killed += 1;
        }
    }

    fn disturb(&mut self, processes: &mut [Child], pipe: &PipeWriter) {
        let which = self.choose(processes.len() as u64) as usize;
        let moment = Duration::from_millis(self.choose(60));
        match self.choose(10) {
            0..3 => self.kill_keeper(),
            3..5 => {
                let Some(keeper) = self.place.keeper() else { return };
                signal(keeper, libc::SIGSTOP);
                sleep(moment);
                signal(keeper, libc::SIGCONT);
                self.tally.keepers_stopped += 1;
            }
            5..7 => {
                processes[which].kill().unwrap();
                processes[which].wait().unwrap();
                processes[which] = self.start(pipe);
                self.tally.processes_killed += 1;
            }
            7 => {
                signal(processes[which].id(), libc::SIGSTOP);
                sleep(moment);
                signal(processes[which].id(), libc::SIGCONT);
                self.tally.processes_stopped += 1;
            }
            8 => {
                signal(processes[which].id(), libc::SIGSTOP);
                self.kill_keeper();
                // The others go on with the next one.
                sleep(2 * moment);
                signal(processes[which].id(), libc::SIGCONT);
                self.tally.processes_stopped += 1;
            }
            _ => {
                self.kill_keeper();
                processes[which].kill().unwrap();
                processes[which].wait().unwrap();
                processes[which] = self.start(pipe);
                self.tally.processes_killed += 1;
            }
        }
    }
}

fn read_all(mut pipe: PipeReader) -> JoinHandle<Vec<Report>> {
    spawn(move || std::iter::from_fn(|| Report::receive(&mut pipe)).collect())
}

fn end(mut process: Child) -> Result<(), String> {
    let begun = Instant::now();
    while begun.elapsed() < END_LIMIT {
        match process.try_wait().unwrap() {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(format!("a process has ended with {status}")),
            None => sleep(Duration::from_millis(1)),
        }
    }
    process.kill().unwrap();
    process.wait().unwrap();
    Err("a process does not end".to_owned())
}
