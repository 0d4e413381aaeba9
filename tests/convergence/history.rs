//! What may be read, and what may be left, by what was acknowledged.
//!
//! A write is *after* another one if its node knew of that when it began: because it had acknowledged it itself, or had read it. Then
//! its version is higher, so whoever knows of it must never see the other one again. Between writes whose nodes knew nothing of each
//! other any order is right; also nothing is known of what a read of nothing has seen, nor of contents that several writes have.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;

use crate::content::Content;
use crate::report::{Event, Report};
use crate::settings::{Losses, Settings};

/// A set of writes, by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Writes(Vec<u64>);

impl Writes {
    fn insert(&mut self, write: usize) {
        if self.0.len() <= write / 64 {
            self.0.resize(write / 64 + 1, 0);
        }
        self.0[write / 64] |= 1 << (write % 64);
    }

    fn extend(&mut self, other: &Writes) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        self.0.iter_mut().zip(&other.0).for_each(|(mine, theirs)| *mine |= theirs);
    }

    fn contains(&self, write: usize) -> bool {
        self.0.get(write / 64).is_some_and(|bits| bits >> (write % 64) & 1 == 1)
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|bits| *bits == 0)
    }
}

/// What a write leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Content(Content),
    Nothing,
    /// Whatever the original held at some time.
    CopyOf(u16),
}

struct Write {
    node: usize,
    /// How often its node had been opened in this round.
    life: usize,
    value: Value,
    /// Those that it is after.
    before: Writes,
    is_refused: bool,
    /// Acknowledged, or read.
    took_effect: bool,
}

/// What a node knows of an id.
#[derive(Clone, Debug, Default)]
struct Knowledge {
    /// Acknowledged there, or read.
    known: Writes,
    /// Those that something known is after.
    overtaken: Writes,
    /// Those that a delete is after that was acknowledged there since it was opened.
    deleted: Writes,
    lives: usize,
}

/// All that happened, in the order in which it did.
pub struct History<'a> {
    settings: &'a Settings,
    reports: Vec<(usize, Report)>,
    /// What was put under each id.
    contents: HashMap<u16, BTreeSet<u64>>,
}

struct Id<'a> {
    history: &'a History<'a>,
    writes: Vec<Write>,
    nodes: BTreeMap<usize, Knowledge>,
    /// Of the reads under way: what their node knew when they began.
    reads: HashMap<u64, Knowledge>,
    operations: HashMap<u64, usize>,
    unique: HashMap<u64, usize>,
}

impl<'a> History<'a> {
    /// `logs`: what each node reported. The clock is the same for all, and a node's own reports are in order.
    pub fn new(settings: &'a Settings, logs: &[Vec<Report>]) -> Self {
        let reports = logs.iter().enumerate().flat_map(|(node, log)| log.iter().map(move |report| (node, *report)));
        let mut reports: Vec<(usize, Report)> = reports.collect();
        reports.sort_by_key(|(_, report)| report.at);
        let mut contents = HashMap::<u16, BTreeSet<u64>>::new();
        for (_, report) in reports.iter().filter(|(_, report)| report.event == Event::StartedPut) {
            contents.entry(report.id).or_default().insert(report.value);
        }
        History { settings, reports, contents }
    }

    /// Whether the id exists whatever else happened: something was stored, and nobody deleted it.
    pub fn must_exist(&self, id: u16) -> bool {
        let has = |event| self.reports.iter().any(|(_, report)| report.id == id && report.event == event);
        has(Event::Done) && !has(Event::StartedDelete)
    }

    /// Whether every read of an id was right, and `left`, which all nodes agree on, is.
    pub fn check(&self, id: u16, left: Option<Content>) -> Result<(), String> {
        let mut state = Id {
            history: self,
            writes: Vec::new(),
            nodes: BTreeMap::new(),
            reads: HashMap::new(),
            operations: HashMap::new(),
            unique: HashMap::new(),
        };
        for (node, report) in &self.reports {
            state.follow(*node, report, id)?;
        }
        state.check_left(left)
    }

    /// What happened to an id and its copies' originals, for those who look for the cause of a failure.
    pub fn tell(&self, id: u16) -> String {
        let mut told = String::new();
        let start = self.reports.first().map_or(0, |(_, report)| report.at);
        for (node, Report { event, id: of, operation, value, at }) in &self.reports {
            let is_life = matches!(event, Event::Opened | Event::Closed);
            let is_look = matches!(event, Event::Holds | Event::HoldsNothing | Event::Unclear | Event::StillWaiting);
            if is_life || (*of == id && !is_look && *event != Event::Looked && *event != Event::Stopped) {
                let ms = (at - start) as f64 / 1e6;
                let _ = writeln!(told, "{ms:9.3} node {node} {event:?} {operation:x} {value:x}");
            }
        }
        told
    }
}

impl Id<'_> {
    fn follow(&mut self, node: usize, report: &Report, id: u16) -> Result<(), String> {
        if report.event == Event::Opened {
            let knowledge = self.nodes.entry(node).or_default();
            knowledge.lives += 1;
            knowledge.deleted = Writes::default();
        }
        if report.id != id {
            return Ok(());
        }
        let Report { event, operation, value, .. } = *report;
        match event {
            Event::StartedPut => self.start(node, operation, Value::Content(Content(value))),
            Event::StartedDelete => self.start(node, operation, Value::Nothing),
            Event::StartedDuplicate => self.start(node, operation, Value::CopyOf(value as u16)),
            Event::Done => {
                let number = self.operations[&operation];
                self.learn(node, number);
                let knowledge = self.nodes.entry(node).or_default();
                let write = &self.writes[number];
                if write.value == Value::Nothing {
                    knowledge.deleted.extend(&write.before);
                }
            }
            Event::Refused => {
                let number = self.operations[&operation];
                self.writes[number].is_refused = true;
            }
            Event::StartedGet => drop(self.reads.insert(operation, self.nodes.entry(node).or_default().clone())),
            Event::Got => {
                let content = Content(value);
                self.check_read(node, operation, Some(content))?;
                if let Some(number) = self.unique.get(&value) {
                    self.learn(node, *number);
                }
            }
            Event::GotNothing => self.check_read(node, operation, None)?,
            _ => {}
        }
        Ok(())
    }

    fn start(&mut self, node: usize, operation: u64, value: Value) {
        let number = self.writes.len();
        let Knowledge { known, lives, .. } = self.nodes.entry(node).or_default();
        let (before, life) = (known.clone(), *lives);
        self.writes.push(Write { node, life, value, before, is_refused: false, took_effect: false });
        self.operations.insert(operation, number);
        if let Value::Content(content) = value
            && content.is_unique()
        {
            self.unique.insert(content.0, number);
        }
    }

    /// From now on this node knows of a write, and of all that it is after.
    fn learn(&mut self, node: usize, number: usize) {
        let write = &mut self.writes[number];
        write.took_effect = true;
        let knowledge = self.nodes.entry(node).or_default();
        knowledge.known.insert(number);
        knowledge.known.extend(&write.before);
        knowledge.overtaken.extend(&write.before);
    }

    /// Whether a write can have left this.
    fn leaves(&self, write: &Write, found: Option<Content>) -> bool {
        match (write.value, found) {
            _ if write.is_refused => false,
            (Value::Content(content), found) => found == Some(content),
            (Value::Nothing, found) => found.is_none(),
            (Value::CopyOf(original), Some(found)) => {
                self.history.contents.get(&original).is_some_and(|contents| contents.contains(&found.0))
            }
            (Value::CopyOf(_), None) => false,
        }
    }

    /// Whether some write can have left this that is not among those `overtaken`.
    fn can_be(&self, found: Option<Content>, overtaken: &Writes) -> bool {
        let mut writes = self.writes.iter().enumerate();
        writes.any(|(number, write)| !overtaken.contains(number) && self.leaves(write, found))
    }

    /// Invariants 2, 5 and 8: who began to read when this much was known must not get what that has overtaken.
    fn check_read(&self, node: usize, operation: u64, found: Option<Content>) -> Result<(), String> {
        let Some(Knowledge { known, overtaken, deleted, .. }) = self.reads.get(&operation) else { return Ok(()) };
        // A Redis that has lost something is filled again by whoever comes first: until the node that has the newest has come, an
        // older write may be read, and none at all. Only what was deleted on this node itself stays away.
        let is_right = match self.history.settings.losses {
            Losses::Nothing => self.can_be(found, overtaken) || (found.is_none() && known.is_empty()),
            Losses::Recent | Losses::Everything => found.is_none() || self.can_be(found, deleted),
        };
        match is_right {
            true => Ok(()),
            false => Err(format!(
                "operation {operation:x} on node {node} got {found:x?}, which was overtaken before it began"
            )),
        }
    }

    /// Invariants 1, 3, 4, 5 and 8: nothing is left that an acknowledged write was after.
    fn check_left(&self, left: Option<Content>) -> Result<(), String> {
        let mut overtaken = Writes::default();
        let in_effect = || self.writes.iter().filter(|write| write.took_effect && !write.is_refused);
        in_effect().for_each(|write| overtaken.extend(&write.before));
        let is_lossy = self.history.settings.losses == Losses::Everything;
        // What only Redis had is gone with it; and a node that was opened again knows nothing of a delete that Redis had, so what
        // another node missed the delete of can come back, even if it was older than what the delete took away.
        let is_forgotten = |write: &Write| write.value == Value::Nothing && self.nodes[&write.node].lives > write.life;
        if is_lossy && (self.history.settings.evicts() || self.writes.iter().any(is_forgotten)) {
            overtaken = Writes::default();
            if left.is_none() {
                return Ok(());
            }
        }
        let is_right = self.can_be(left, &overtaken) || (left.is_none() && in_effect().next().is_none());
        if is_right { Ok(()) } else { Err(format!("{left:x?} is left, which an acknowledged write was after")) }
    }
}
