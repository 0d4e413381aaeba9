//! Nodes and their Redis, and what happens to them.

use std::thread::sleep;
use std::time::Duration;

use tempfile::TempDir;

use crate::clock::nanoseconds;
use crate::common::redis::{Mode, Proxy};
use crate::faults::{Fault, LOST_MAX, RIGHTS};
use crate::history::History;
use crate::life::{Life, Log};
use crate::node::Order;
use crate::report::{Command, Event, Report};
use crate::rounds::{Plan, Tally};
use crate::servers::Servers;
use crate::settings::{Losses, Settings};

pub struct Node {
    directory: TempDir,
    proxy: Proxy,
    life: Option<Life>,
    lives: u64,
    /// By how many seconds its time of day is ahead.
    ahead: i64,
    pub log: Log,
}

pub struct World {
    test: &'static str,
    /// What all its choices come from.
    seed: u64,
    pub settings: Settings,
    pub redis: Servers,
    pub nodes: Vec<Node>,
}

impl World {
    pub fn open(test: &'static str, seed: u64, settings: Settings) -> World {
        let redis = Servers::start(&settings);
        let nodes = (0..settings.nodes).map(|_| Node {
            directory: tempfile::tempdir().unwrap(),
            proxy: Proxy::to(redis.master()),
            life: None,
            lives: 0,
            ahead: 0,
            log: Log::default(),
        });
        World { test, seed, nodes: nodes.collect(), settings, redis }
    }

    /// What each node reported in this round.
    pub fn logs(&self) -> Vec<Vec<Report>> {
        self.nodes.iter().map(|node| node.log.lock().clone()).collect()
    }

    /// Breaks, writes and reads; then, when it is quiet, looks what is left.
    pub fn round(&mut self, plan: &Plan, tally: &mut Tally) -> Result<(), String> {
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
        let logs = self.logs();
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
            world: self.seed,
            directory: node.directory.path().to_path_buf(),
            url: self.redis.master().url_at(node.proxy.port()),
            settings: self.settings.clone(),
            node: number as u64,
            life: node.lives,
            ahead: node.ahead,
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
                self.ease(node);
                if let Some(life) = self.nodes[node as usize].life.take() {
                    life.signal("CONT");
                    life.close().map_err(|problem| format!("node {node}: {problem}"))?;
                }
            }
            Fault::Open(node) => self.open_node(node as usize, Some(plan))?,
            Fault::PauseNode(node) => self.signal(node, "STOP"),
            Fault::ResumeNode(node) => self.signal(node, "CONT"),
            Fault::Clock(node, ahead) => {
                self.nodes[node as usize].ahead = ahead;
                self.tell_process(node, Command::Clock { ahead });
            }
            Fault::Descriptors(node, more) => self.tell_process(node, Command::Descriptors { more }),
            Fault::Signals(node, are_sent) => self.tell_process(node, Command::Signals { are_sent }),
            Fault::Forbid(number) => self.redis.set_rights(RIGHTS[number]),
            Fault::Permit => self.redis.set_rights(&["+@all"]),
            Fault::PauseRedis => self.redis.pause(),
            Fault::ResumeRedis => self.redis.resume(),
            Fault::KillRedis => self.redis.kill(),
            Fault::StartRedis => self.redis.restart(),
            Fault::StartRedisEmpty => self.redis.restart_empty(),
            Fault::Note => self.redis.note(),
            Fault::RollBack => self.lose(),
            Fault::Flush => self.redis.order(&["FLUSHALL"]),
            Fault::TrimEvents => self.redis.order(&["XTRIM", "scaler:obj:_events", "MAXLEN", "0"]),
        }
        Ok(())
    }

    /// Tells a node what concerns its process, if it has one of its own.
    fn tell_process(&mut self, node: u64, command: Command) {
        if let (true, Some(life)) = (self.settings.is_process(node), &mut self.nodes[node as usize].life) {
            life.tell(command);
        }
    }

    fn signal(&self, node: u64, name: &str) {
        if let Some(life) = &self.nodes[node as usize].life {
            life.signal(name);
        }
    }

    /// Redis loses what it has acknowledged since that was noted.
    fn lose(&mut self) {
        self.redis.lose();
        let nodes = &self.nodes;
        self.redis.demote(|master| nodes.iter().for_each(|node| node.proxy.lead_to(master)));
    }

    /// A node gets no more signals, and has all descriptors.
    fn ease(&mut self, node: u64) {
        self.tell_process(node, Command::Descriptors { more: None });
        self.tell_process(node, Command::Signals { are_sent: false });
    }

    /// Repairs everything, and lets the nodes come to rest.
    fn quieten(&mut self, plan: &Plan) -> Result<(), String> {
        self.redis.heal(&self.settings);
        for number in 0..self.nodes.len() {
            self.signal(number as u64, "CONT");
            self.ease(number as u64);
            self.nodes[number].proxy.set(Mode::Normal);
            self.open_node(number, Some(plan))?;
        }
        let loses_last = self.settings.losses == Losses::Recent && plan.seed.is_multiple_of(2);
        if loses_last {
            self.redis.note();
        }
        self.ask_all(Command::Stop, Event::Stopped)?;
        // When nobody pushes any more, so that nobody finds out by that.
        if loses_last {
            sleep(LOST_MAX * 2 / 3);
            self.lose();
        }
        Ok(())
    }

    /// Where each node's answers begin.
    pub fn ask_all(&mut self, command: Command, answer: Event) -> Result<Vec<usize>, String> {
        let lives = self.nodes.iter_mut().filter_map(|node| node.life.as_mut());
        let from: Vec<usize> = lives.map(|life| life.tell(command)).collect();
        let lives = self.nodes.iter_mut().filter_map(|node| node.life.as_mut());
        for (number, (life, from)) in lives.zip(&from).enumerate() {
            life.wait_for(answer, *from).map_err(|problem| format!("node {number}: {problem}"))?;
        }
        Ok(from)
    }

    pub fn close(mut self) -> Result<(), String> {
        for (number, node) in self.nodes.iter_mut().enumerate() {
            if let Some(life) = node.life.take() {
                life.close().map_err(|problem| format!("node {number}: {problem}"))?;
            }
        }
        Ok(())
    }
}
