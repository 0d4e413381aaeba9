//! One directory, many lives.

use std::fs;
use std::io::pipe;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use scaler_object_storage::Durability;
use tempfile::TempDir;

use crate::child::{self, ORDER, Order};
use crate::common::splitmix;
use crate::mirror;
use crate::model::Model;
use crate::report::{Event, Report};

/// A child that takes longer than this to end hangs.
const CHILD_LIMIT: Duration = Duration::from_secs(60);

/// A kill that waits for this many reports comes after this time at the latest.
const LIFE_MS_MAX: u64 = 150;

/// What a killed process takes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Losses {
    Nothing,
    /// Every byte and name that was not synced, in some of the rounds.
    NotSynced,
}

pub struct Plan {
    /// The test's name, by which the child is started.
    pub test: &'static str,
    pub durability: Durability,
    pub losses: Losses,
    pub rounds: u64,
}

struct Rounds<'a> {
    plan: &'a Plan,
    random: u64,
    directory: PathBuf,
    mirror: PathBuf,
    /// The catalog as it was when the store was last closed.
    closed_catalog: PathBuf,
    model: Model,
    tally: Tally,
    /// What happened in each round, for those who look for the cause of a failure.
    history: Vec<String>,
}

#[derive(Debug, Default)]
struct Tally {
    kills: u64,
    kills_while_opening: u64,
    power_losses: u64,
    closes: u64,
    acknowledged: usize,
}

/// Runs the plan; in a child, what the child is for.
pub fn run(plan: &Plan) {
    if let Some(order) = Order::received() {
        child::run(&order);
    }
    let number = |name| std::env::var(name).ok().map(|value| value.parse::<u64>().expect(name));
    let seed = number("SEED").unwrap_or_else(|| u64::from(std::process::id()) ^ mirror::nanoseconds());
    let rounds = number("ROUNDS").unwrap_or(plan.rounds);
    let place = TempDir::new().unwrap();
    let mut state = Rounds {
        plan,
        random: seed,
        directory: place.path().join("store"),
        mirror: place.path().join("mirror"),
        closed_catalog: place.path().join("closed catalog"),
        model: Model::empty(),
        tally: Tally::default(),
        history: Vec::new(),
    };
    fs::create_dir_all(state.directory.join("journal")).unwrap();
    mirror::begin(&state.directory, &state.mirror);
    for round in 0..rounds {
        if let Err(problem) = state.round() {
            let kept = place.keep();
            let history = state.history.join("\n");
            panic!(
                "{history}\nround {round}: {problem}\nrepeat with SEED={seed}; the directory is kept: {}",
                kept.display()
            );
        }
    }
    eprintln!("{}: {rounds} rounds, {:?}", plan.test, state.tally);
    // In a few rounds, all may be killed while they open.
    assert!(rounds < 20 || state.tally.acknowledged > 0, "nothing was acknowledged");
    assert!(rounds < 100 || first_segment(&state.directory) > 1, "nothing was reclaimed");
}

impl Rounds<'_> {
    /// One life of the store, and its end.
    fn round(&mut self) -> Result<(), String> {
        let closes = splitmix(&mut self.random).is_multiple_of(8);
        let order = Order {
            directory: self.directory.clone(),
            mirror: (self.plan.losses == Losses::NotSynced).then(|| self.mirror.clone()),
            durability: self.plan.durability,
            seed: splitmix(&mut self.random),
            operations: if closes { 1 + splitmix(&mut self.random) % 200 } else { 0 },
        };
        let mut life = Life::begin(self.plan.test, &order);
        if closes {
            life.wait()?;
        } else if splitmix(&mut self.random).is_multiple_of(4) {
            sleep(Duration::from_micros(splitmix(&mut self.random) % 30_000));
            life.kill()?;
        } else {
            let doublings = 4 + splitmix(&mut self.random) % 9;
            let reports = child::IDS as u64 + splitmix(&mut self.random) % (1 << doublings);
            life.wait_for(reports as usize);
            life.kill()?;
        }
        let reports = life.reports();
        let power_fails = self.plan.losses == Losses::NotSynced && splitmix(&mut self.random).is_multiple_of(2);
        self.count(&reports, closes, power_fails);
        self.history.push(format!("{} reports, closed: {closes}, power lost: {power_fails}", reports.len()));
        self.check_damage(&reports)?;
        self.model.follow(&reports, closes || self.plan.durability == Durability::Disk)?;
        if closes {
            copy_directory(&self.directory.join("catalog"), &self.closed_catalog);
        }
        if power_fails {
            self.lose_power();
        }
        Ok(())
    }

    fn count(&mut self, reports: &[Report], closes: bool, power_fails: bool) {
        let looked = reports.iter().any(|report| report.event == Event::Looked);
        let tally = &mut self.tally;
        tally.closes += u64::from(closes);
        tally.kills += u64::from(!closes);
        tally.kills_while_opening += u64::from(!closes && !looked);
        tally.power_losses += u64::from(power_fails);
        tally.acknowledged += reports.iter().filter(|report| report.event == Event::Done).count();
    }

    /// A killed process leaves no damage. After a power loss a catalog may name segments that are gone, but what was found to be
    /// there must be readable.
    fn check_damage(&self, reports: &[Report]) -> Result<(), String> {
        let damaged = |event| reports.iter().find(|report| report.event == event).map(|report| report.value);
        match (self.plan.losses, damaged(Event::Opened), damaged(Event::Looked)) {
            (Losses::Nothing, Some(1..), _) => Err("damaged objects were found when it opened".to_owned()),
            (_, Some(opened), Some(looked)) if opened != looked => {
                Err(format!("{} damaged objects were found when they were read", looked - opened))
            }
            _ => Ok(()),
        }
    }

    fn lose_power(&mut self) {
        mirror::lose_power(&self.directory, &self.mirror);
        self.model.lose_power();
        // The lock file's note of when the computer started.
        fs::remove_file(self.directory.join("LOCK")).unwrap_or_default();
        let catalog = self.directory.join("catalog");
        let state = match splitmix(&mut self.random) % 3 {
            0 => {
                fs::remove_dir_all(&catalog).unwrap_or_default();
                "missing"
            }
            1 if self.closed_catalog.exists() => {
                copy_directory(&self.closed_catalog, &catalog);
                "of the last close"
            }
            _ => "present",
        };
        self.history.push(format!("catalog after the power loss: {state}"));
    }
}

/// A running child.
struct Life {
    process: Child,
    received: Arc<AtomicUsize>,
    reader: JoinHandle<Vec<Report>>,
}

impl Life {
    fn begin(test: &str, order: &Order) -> Self {
        let (mut reader, writer) = pipe().unwrap();
        let process = Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture"])
            .env(ORDER, order.encode())
            .stdin(writer)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let received = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&received);
        let reader = spawn(move || {
            let mut reports = Vec::new();
            while let Some(report) = Report::receive(&mut reader) {
                reports.push(report);
                count.store(reports.len(), Ordering::Relaxed);
            }
            reports
        });
        Life { process, received, reader }
    }

    fn wait_for(&mut self, reports: usize) {
        let begun = Instant::now();
        let mut opened = None;
        loop {
            let received = self.received.load(Ordering::Relaxed);
            let ended = self.process.try_wait().unwrap().is_some();
            if received > 0 {
                opened.get_or_insert_with(Instant::now);
            }
            let is_old = opened.is_some_and(|opened: Instant| opened.elapsed() > Duration::from_millis(LIFE_MS_MAX));
            if received >= reports || ended || is_old || begun.elapsed() > CHILD_LIMIT {
                return;
            }
            sleep(Duration::from_micros(200));
        }
    }

    /// Kills it, unless it ended by itself, which it must not.
    fn kill(&mut self) -> Result<(), String> {
        if let Some(status) = self.process.try_wait().unwrap() {
            return Err(format!("the child ended by itself: {status}"));
        }
        self.process.kill().unwrap();
        let status: ExitStatus = self.process.wait().unwrap();
        match status.code() {
            None => Ok(()),
            Some(code) => Err(format!("the child ended with {code}")),
        }
    }

    fn wait(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        while begun.elapsed() < CHILD_LIMIT {
            match self.process.try_wait().unwrap() {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("the child ended with {status}")),
                None => sleep(Duration::from_millis(1)),
            }
        }
        self.process.kill().unwrap();
        Err("the child does not end".to_owned())
    }

    fn reports(self) -> Vec<Report> {
        self.reader.join().unwrap()
    }
}

pub fn copy_directory(from: &Path, to: &Path) {
    fs::remove_dir_all(to).unwrap_or_default();
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &to.join(entry.file_name()));
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// The number of the oldest segment with records.
fn first_segment(directory: &Path) -> u32 {
    let names = fs::read_dir(directory.join("journal")).unwrap().map(|entry| entry.unwrap().file_name());
    let numbers = names.filter_map(|name| name.to_str()?.strip_suffix(".records")?.parse().ok());
    numbers.min().unwrap_or(u32::MAX)
}
