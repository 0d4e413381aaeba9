//! Worlds of nodes, and what happens to them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use redis::Value;
use scaler_object_storage::Waited;
use tempfile::TempDir;

use crate::common::redis::{Mode, Proxy, RedisServer};
use crate::common::splitmix;
use crate::content::Content;
use crate::faults::{Fault, LOST_MAX, Schedule, schedule};
use crate::history::History;
use crate::life::{Life, Log};
use crate::node::{self, ID_EVERY, Order, builder, content, id};
use crate::report::{Command, Event, Report, nanoseconds};
use crate::settings::{Losses, Settings};

/// Rounds in one world. Then there is another one.
const WORLD_ROUNDS: u64 = 5;

/// Nodes that do not agree after this time never do.
const AGREE_LIMIT: Duration = Duration::from_secs(30);

struct Node {
    directory: TempDir,
    proxy: Proxy,
    life: Option<Life>,
    lives: u64,
    log: Log,
}

struct World {
    test: &'static str,
    settings: Settings,
    redis: RedisServer,
    redis_runs: bool,
    /// What it had at some moment.
    noted: Option<(Instant, TempDir)>,
    nodes: Vec<Node>,
}

/// What a round does.
struct Plan {
    number: u64,
    seed: u64,
    length: Duration,
    schedule: Schedule,
    began: u64,
}

/// What a node holds, id by id; an error where it cannot say so.
type View = Vec<Result<Option<Content>, ()>>;

/// What all nodes hold, id by id.
type Left = Vec<Option<Content>>;

#[derive(Debug, Default)]
struct Tally {
    worlds: u64,
    acknowledged: usize,
    reads: usize,
    faults: usize,
}

/// Runs the rounds; in a child, what the child is for.
pub fn run(test: &'static str, rounds: u64) {
    if let Some(order) = Order::received() {
        be_node(&order);
    }
    let number = |name| std::env::var(name).ok().map(|value| value.parse::<u64>().expect(name));
    let mut seed = number("SEED").unwrap_or_else(|| u64::from(std::process::id()) ^ nanoseconds());
    let mut left = number("ROUNDS").unwrap_or(rounds);
    let mut tally = Tally::default();
    while left > 0 {
        let mut random = seed;
        let settings = Settings::choose(&mut random);
        let count = left.min(WORLD_ROUNDS);
        let mut world = World::open(test, settings);
        for number in 0..count {
            let plan = Plan::choose(&world.settings, number, &mut random);
            if let Err(problem) = world.round(&plan, &mut tally) {
                let Plan { number, schedule, .. } = &plan;
                let settings = world.settings.clone();
                panic!(
                    "{problem}\nround {number}: {settings}: {schedule:?}\nrepeat with SEED={seed} ROUNDS={WORLD_ROUNDS}"
                );
            }
        }
        world.close().unwrap_or_else(|problem| panic!("{problem}\nrepeat with SEED={seed} ROUNDS={WORLD_ROUNDS}"));
        tally.worlds += 1;
        left -= count;
        splitmix(&mut seed);
    }
    eprintln!("{test}: {tally:?}");
    assert!(tally.acknowledged > 0 && tally.reads > 0, "nothing was done");
}

fn be_node(order: &Order) -> ! {
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("node: {panic}");
        std::process::exit(101);
    }));
    // Sound: the parent made its end of the stream this process's standard input, which nothing else here uses.
    node::serve(order, unsafe { UnixStream::from_raw_fd(0) });
    std::process::exit(0);
}

impl Plan {
    fn choose(settings: &Settings, number: u64, random: &mut u64) -> Plan {
        let length = Duration::from_millis(300 + splitmix(random) % 1200);
        let schedule = schedule(settings, length, random);
        Plan { number, seed: splitmix(random), length, schedule, began: nanoseconds() }
    }

    /// How many ids were written, at most.
    fn ids(&self) -> u64 {
        let passed = Duration::from_nanos(nanoseconds().saturating_sub(self.began));
        (passed.as_millis() / ID_EVERY.as_millis()) as u64 + 8
    }
}

impl World {
    fn open(test: &'static str, settings: Settings) -> World {
        let redis = RedisServer::settings().persistent().start();
        let nodes = (0..settings.nodes).map(|_| Node {
            directory: tempfile::tempdir().unwrap(),
            proxy: Proxy::to(&redis),
            life: None,
            lives: 0,
            log: Log::default(),
        });
        World { test, nodes: nodes.collect(), settings, redis, redis_runs: true, noted: None }
    }

    /// Breaks, writes and reads; then, when it is quiet, looks what is left.
    fn round(&mut self, plan: &Plan, tally: &mut Tally) -> Result<(), String> {
        self.nodes.iter().for_each(|node| node.log.lock().clear());
        for number in 0..self.nodes.len() {
            self.open_node(number, None)?;
            self.begin(number, plan);
        }
        for (at, fault) in &plan.schedule {
            sleep((Duration::from_nanos(plan.began) + *at).saturating_sub(Duration::from_nanos(nanoseconds())));
            self.apply(*fault, plan)?;
        }
        let end = Duration::from_nanos(plan.began) + plan.length;
        sleep(end.saturating_sub(Duration::from_nanos(nanoseconds())));
        self.quieten(plan)?;
        let ids = plan.ids();
        self.regain(plan.number, ids)?;
        let left = self.agree(plan.number, ids)?;
        self.want(plan, &left)?;
        let logs: Vec<Vec<Report>> = self.nodes.iter().map(|node| node.log.lock().clone()).collect();
        let count = |wanted: &[Event]| logs.iter().flatten().filter(|report| wanted.contains(&report.event)).count();
        tally.acknowledged += count(&[Event::Done]);
        tally.reads += count(&[Event::Got, Event::GotNothing]);
        tally.faults += plan.schedule.len();
        let history = History::new(&self.settings, &logs);
        for (id, left) in left.iter().enumerate() {
            let id = id as u16;
            history.check(id, *left).map_err(|problem| format!("{}object {id}: {problem}", history.tell(id)))?;
        }
        Ok(())
    }

    /// Invariant 4: what a Redis has lost comes back though nobody asks a node for it.
    fn regain(&self, round: u64, ids: u64) -> Result<(), String> {
        if self.settings.losses != Losses::Everything || self.settings.evicts() {
            return Ok(());
        }
        let logs: Vec<Vec<Report>> = self.nodes.iter().map(|node| node.log.lock().clone()).collect();
        let history = History::new(&self.settings, &logs);
        let begun = Instant::now();
        loop {
            let view = self.look_into_redis(round, ids);
            let missing = (0..ids as u16).find(|id| history.must_exist(*id) && !holds(&view[usize::from(*id)]));
            match missing {
                None => return Ok(()),
                Some(id) if begun.elapsed() > AGREE_LIMIT => {
                    return Err(format!("{}object {id} does not come back", history.tell(id)));
                }
                Some(_) => sleep(Duration::from_millis(50)),
            }
        }
    }

    fn begin(&mut self, number: usize, plan: &Plan) {
        let node = &mut self.nodes[number];
        let seed = plan.seed ^ (number as u64) << 48 ^ node.lives << 32;
        if let Some(life) = &mut node.life {
            life.tell(Command::Begin { round: plan.number, seed, began: plan.began });
        }
    }

    /// Opens a node that is not open; in the middle of a round, it goes on with that.
    fn open_node(&mut self, number: usize, plan: Option<&Plan>) -> Result<(), String> {
        let node = &mut self.nodes[number];
        if node.life.is_some() {
            return Ok(());
        }
        let order = Order {
            directory: node.directory.path().to_path_buf(),
            url: self.redis.url_at(node.proxy.port()),
            settings: self.settings.clone(),
            node: number as u64,
            life: node.lives,
        };
        node.lives += 1;
        node.life =
            Some(Life::begin(self.test, &order, &node.log).map_err(|problem| format!("node {number}: {problem}"))?);
        if let Some(plan) = plan {
            self.begin(number, plan);
        }
        Ok(())
    }

    fn apply(&mut self, fault: Fault, plan: &Plan) -> Result<(), String> {
        match fault {
            Fault::Network(node, mode) => self.nodes[node as usize].proxy.set(mode),
            Fault::Kill(node) => {
                if let Some(life) = self.nodes[node as usize].life.take() {
                    life.kill().map_err(|problem| format!("node {node}: {problem}"))?;
                }
            }
            Fault::Close(node) => {
                if let Some(life) = self.nodes[node as usize].life.take() {
                    life.signal("CONT");
                    life.close().map_err(|problem| format!("node {node}: {problem}"))?;
                }
            }
            Fault::Open(node) => self.open_node(node as usize, Some(plan))?,
            Fault::PauseNode(node) => self.signal(node, "STOP"),
            Fault::ResumeNode(node) => self.signal(node, "CONT"),
            Fault::PauseRedis if self.redis_runs => self.redis.pause(),
            Fault::ResumeRedis if self.redis_runs => self.redis.resume(),
            Fault::KillRedis => {
                self.redis.kill();
                self.redis_runs = false;
            }
            Fault::StartRedis => self.start_redis(),
            Fault::StartRedisEmpty if !self.redis_runs => {
                self.redis.restart_empty();
                self.redis_runs = true;
            }
            Fault::Note if self.redis_runs => self.note(),
            Fault::RollBack if self.redis_runs => self.roll_back(),
            Fault::Flush if self.redis_runs => self.order(&["FLUSHALL"]),
            Fault::TrimEvents if self.redis_runs => self.order(&["XTRIM", "scaler:obj:_events", "MAXLEN", "0"]),
            _ => {}
        }
        Ok(())
    }

    fn order(&self, words: &[&str]) {
        // It may be paused.
        self.redis.resume();
        let _: Value = self.redis.command(words);
    }

    fn signal(&self, node: u64, name: &str) {
        if let Some(life) = &self.nodes[node as usize].life {
            life.signal(name);
        }
    }

    fn start_redis(&mut self) {
        if !self.redis_runs {
            self.redis.restart();
            self.redis_runs = true;
        }
    }

    fn appended(&self) -> PathBuf {
        self.redis.directory().join("appendonlydir")
    }

    fn note(&mut self) {
        let (begun, place) = (Instant::now(), tempfile::tempdir().unwrap());
        copy_directory(&self.appended(), place.path());
        self.noted = Some((begun, place));
    }

    fn roll_back(&mut self) {
        let Some((begun, place)) = self.noted.take() else { return };
        self.redis.kill();
        // What has become older than that while this process was held up, nodes rely on.
        if begun.elapsed() < LOST_MAX {
            copy_directory(place.path(), &self.appended());
        }
        self.redis.restart();
    }

    /// Repairs everything, and lets the nodes come to rest.
    fn quieten(&mut self, plan: &Plan) -> Result<(), String> {
        if self.redis_runs {
            self.redis.resume();
        }
        self.start_redis();
        for number in 0..self.nodes.len() {
            self.signal(number as u64, "CONT");
            self.nodes[number].proxy.set(Mode::Normal);
            self.open_node(number, Some(plan))?;
        }
        let loses_last = self.settings.losses == Losses::Recent && plan.seed.is_multiple_of(2);
        if loses_last {
            self.note();
        }
        self.ask_all(Command::Stop, Event::Stopped)?;
        // When nobody pushes any more, so that nobody finds out by that.
        if loses_last {
            sleep(LOST_MAX * 2 / 3);
            self.roll_back();
        }
        Ok(())
    }

    /// Where each node's answers begin.
    fn ask_all(&mut self, command: Command, answer: Event) -> Result<Vec<usize>, String> {
        let lives = self.nodes.iter_mut().filter_map(|node| node.life.as_mut());
        let from: Vec<usize> = lives.map(|life| life.tell(command)).collect();
        let lives = self.nodes.iter_mut().filter_map(|node| node.life.as_mut());
        for (number, (life, from)) in lives.zip(&from).enumerate() {
            life.wait_for(answer, *from).map_err(|problem| format!("node {number}: {problem}"))?;
        }
        Ok(from)
    }

    /// Invariants 4, 6 and 9: in the end all nodes hold what Redis holds, and who waits for it has been answered. That it was once so
    /// may be luck; so twice.
    fn agree(&mut self, round: u64, ids: u64) -> Result<Left, String> {
        let begun = Instant::now();
        let mut before = None;
        loop {
            let problem = match self.look(round, ids)? {
                Ok(left) if before.as_ref() == Some(&left) => return Ok(left),
                Ok(left) => {
                    before = Some(left);
                    sleep(Duration::from_millis(100));
                    continue;
                }
                Err(problem) => problem,
            };
            before = None;
            if begun.elapsed() > AGREE_LIMIT {
                let logs: Vec<Vec<Report>> = self.nodes.iter().map(|node| node.log.lock().clone()).collect();
                let history = History::new(&self.settings, &logs);
                let told: String =
                    problem.iter().map(|(id, problem)| format!("{}{problem}\n", history.tell(*id))).collect();
                return Err(format!("{told}they do not agree"));
            }
            sleep(Duration::from_millis(50));
        }
    }

    /// What everybody holds, or about which ids they differ, and how.
    fn look(&mut self, round: u64, ids: u64) -> Result<Result<Left, Vec<(u16, String)>>, String> {
        let from = self.ask_all(Command::Look { ids }, Event::Looked)?;
        let mut views = Vec::new();
        let mut waited_for = BTreeSet::new();
        for (number, (node, from)) in self.nodes.iter().zip(from).enumerate() {
            let mut view = Vec::new();
            for Report { event, id, value, .. } in &node.log.lock()[from..] {
                match event {
                    Event::Holds => view.push(Ok(Some(Content(*value)))),
                    Event::HoldsNothing => view.push(Ok(None)),
                    Event::Unclear => view.push(Err(())),
                    Event::StillWaiting => drop(waited_for.insert((*id, number))),
                    // Invariant 7. A Redis that loses something may do so between an object's chunks.
                    Event::Looked if *value > 0 && self.settings.losses == Losses::Nothing => {
                        return Err(format!("node {number}: {value} objects are damaged"));
                    }
                    _ => {}
                }
            }
            views.push(view);
        }
        if !(0..ids as usize).any(|id| differ_in(&views, id)) {
            views.push(self.look_into_redis(round, ids));
        }
        let mut problems = Vec::new();
        for id in (0..ids as usize).filter(|id| differ_in(&views, *id)) {
            let mut problem = format!("object {id}:");
            for (node, view) in views.iter().enumerate() {
                let _ = write!(problem, " {node} has {:x?},", view[id]);
            }
            problems.push((id as u16, problem));
        }
        for (id, node) in waited_for.iter().filter(|(id, _)| views[0].get(usize::from(*id)).is_some_and(holds)) {
            problems.push((*id, format!("object {id}: somebody waits for it on node {node}")));
        }
        if !problems.is_empty() {
            return Ok(Err(problems));
        }
        Ok(Ok(views[0].iter().map(|view| view.unwrap_or_default()).collect()))
    }

    /// Invariant 4: Redis loses an object, and somebody waits for it on a node that does not have it. All others do.
    fn want(&self, plan: &Plan, left: &Left) -> Result<(), String> {
        let held = left.iter().enumerate().find_map(|(number, content)| Some((number as u64, (*content)?)));
        let (Some((number, held)), false, true) = (held, self.settings.evicts(), plan.seed.is_multiple_of(4)) else {
            return Ok(());
        };
        let id = id(plan.number, number);
        let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let lost: u64 = self.redis.command(&["DEL", &format!("scaler:obj:{hex}")]);
        let directory = tempfile::tempdir().unwrap();
        let store = builder(directory.path(), &self.redis.url(), &self.settings).open().unwrap();
        let waited = store.wait(&id, Some(Instant::now() + AGREE_LIMIT), None);
        match waited {
            Ok(Waited::Object(object)) if content(number, &object) == held && lost == 1 => Ok(()),
            Ok(Waited::Object(_)) => Err(format!("object {number}: {lost} lost, another one pushed again")),
            waited => Err(format!("object {number}: {lost} lost, wanted, but {waited:?}")),
        }
    }

    /// As a node sees it that holds nothing itself.
    fn look_into_redis(&self, round: u64, ids: u64) -> View {
        let directory = tempfile::tempdir().unwrap();
        let store = builder(directory.path(), &self.redis.url(), &self.settings).open().unwrap();
        let look = |number| match store.get(&id(round, number)) {
            Ok(object) => Ok(object.map(|object| content(number, &object))),
            Err(_) => Err(()),
        };
        (0..ids).map(look).collect()
    }

    fn close(mut self) -> Result<(), String> {
        for (number, node) in self.nodes.iter_mut().enumerate() {
            if let Some(life) = node.life.take() {
                life.close().map_err(|problem| format!("node {number}: {problem}"))?;
            }
        }
        Ok(())
    }
}

fn copy_directory(from: &Path, to: &Path) {
    fs::remove_dir_all(to).unwrap_or_default();
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn holds(view: &Result<Option<Content>, ()>) -> bool {
    matches!(view, Ok(Some(_)))
}

fn differ_in(views: &[View], id: usize) -> bool {
    views.iter().any(|view| view[id].is_err() || view[id] != views[0][id])
}
