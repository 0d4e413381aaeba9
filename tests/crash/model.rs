//! What may be in the store after a kill, by what the child reported until then.

use std::collections::{BTreeMap, BTreeSet};

use crate::child::{IDS, id};
use crate::content::Content;
use crate::report::{Event, Report};

/// A moment in the order of reports.
type Moment = usize;

const NEVER: Moment = Moment::MAX;

/// An object's content, or that there is none.
type State = Option<Content>;

#[derive(Clone, Copy, Debug)]
enum Write {
    Put(Content),
    Delete,
    Duplicate(u8),
}

#[derive(Clone, Copy, Debug)]
struct Operation {
    id: u8,
    write: Write,
    started: Moment,
    /// NEVER where it was not acknowledged.
    done: Moment,
}

type States = Vec<BTreeSet<State>>;

/// What each id may be found with at the next open.
#[derive(Clone, Debug)]
pub struct Model {
    possible: States,
    /// If the power is lost before that.
    possible_without_power: States,
}

impl Model {
    pub fn empty() -> Self {
        let none = vec![BTreeSet::from([None]); usize::from(IDS)];
        Model { possible: none.clone(), possible_without_power: none }
    }

    /// Compares what a child found with what it may find, and takes what it then did into account. `is_durable`: whether
    /// acknowledged writes are; otherwise those are that were flushed.
    pub fn follow(&mut self, reports: &[Report], is_durable: bool) -> Result<(), String> {
        let happened = |event| reports.iter().any(|report| report.event == event);
        if happened(Event::Opened) {
            // What it found is durable.
            self.possible_without_power.clone_from(&self.possible);
        }
        for report in reports {
            let state = match report.event {
                Event::Found => Some(Content(report.value)),
                Event::NotFound => None,
                _ => continue,
            };
            let possible = &mut self.possible[usize::from(report.id)];
            if !possible.contains(&state) {
                let name = String::from_utf8(id(report.id)).unwrap();
                return Err(format!("{name} holds {state:x?}, which is none of {possible:x?}"));
            }
            *possible = BTreeSet::from([state]);
            self.possible_without_power[usize::from(report.id)].clone_from(possible);
        }
        if happened(Event::Looked) {
            let (operations, flushed) = operations(reports);
            let before = std::mem::take(&mut self.possible);
            self.possible_without_power = after(&before, &operations, if is_durable { NEVER } else { flushed });
            self.possible = after(&before, &operations, NEVER);
        }
        Ok(())
    }

    pub fn lose_power(&mut self) {
        self.possible.clone_from(&self.possible_without_power);
    }
}

/// What may be there after these operations, if those count that were acknowledged before `durable`.
fn after(before: &States, operations: &[Operation], durable: Moment) -> States {
    let states = before.iter().enumerate().map(|(number, before_this)| {
        let own = || operations.iter().filter(|operation| usize::from(operation.id) == number);
        let mut after = BTreeSet::new();
        if !is_overtaken(None, own(), durable) {
            after.extend(before_this);
        }
        for operation in own().filter(|operation| !is_overtaken(Some(operation), own(), durable)) {
            after.extend(results(operation, operations, before));
        }
        after
    });
    states.collect()
}

/// The operations that may have had an effect, and when the last acknowledged flush began.
fn operations(reports: &[Report]) -> (Vec<Operation>, Moment) {
    let mut operations: BTreeMap<u64, Operation> = BTreeMap::new();
    let mut flushes = BTreeMap::new();
    let mut flushed = 0;
    for (moment, report) in reports.iter().enumerate() {
        let write = match report.event {
            Event::StartedPut => Write::Put(Content(report.value)),
            Event::StartedDelete => Write::Delete,
            Event::StartedDuplicate => Write::Duplicate(report.value as u8),
            Event::StartedFlush => {
                flushes.insert(report.operation, moment);
                continue;
            }
            Event::Done => {
                if let Some(operation) = operations.get_mut(&report.operation) {
                    operation.done = moment;
                } else {
                    flushed = flushed.max(flushes[&report.operation]);
                }
                continue;
            }
            Event::Refused => {
                operations.remove(&report.operation);
                continue;
            }
            _ => continue,
        };
        let operation = Operation { id: report.id, write, started: moment, done: NEVER };
        operations.insert(report.operation, operation);
    }
    (operations.into_values().collect(), flushed)
}

/// Whether an acknowledged operation began after this one was acknowledged, and itself was by `until`.
fn is_overtaken<'a>(
    operation: Option<&Operation>,
    mut others: impl Iterator<Item = &'a Operation>,
    until: Moment,
) -> bool {
    let done = operation.map(|operation| operation.done);
    others.any(|other| done.is_none_or(|done| done < other.started) && other.done < until)
}

/// What an id may hold after the operation.
fn results(operation: &Operation, operations: &[Operation], before: &States) -> BTreeSet<State> {
    let original = match operation.write {
        Write::Put(content) => return BTreeSet::from([Some(content)]),
        Write::Delete => return BTreeSet::from([None]),
        Write::Duplicate(original) => original,
    };
    let on_original = || operations.iter().filter(|other| other.id == original);
    let mut results = BTreeSet::new();
    if !is_overtaken(None, on_original(), operation.started) {
        results.extend(&before[usize::from(original)]);
    }
    for other in on_original().filter(|other| other.started < operation.done) {
        if !is_overtaken(Some(other), on_original(), operation.started)
            && let Write::Put(content) = other.write
        {
            results.insert(Some(content));
        }
    }
    results.remove(&None);
    results
}
