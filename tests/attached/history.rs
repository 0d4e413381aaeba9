//! Whether what processes have read agrees with what they have written, all of them at the same time.

use std::collections::HashMap;

use crate::report::{Event, Report};

/// A moment in the order of reports.
type Moment = usize;

const NEVER: Moment = Moment::MAX;

/// An object's content, or that there is none.
pub type State = Option<u64>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Put(u64),
    Delete,
    Duplicate(u8),
    Get(State),
}

#[derive(Clone, Copy, Debug)]
struct Operation {
    id: u8,
    kind: Kind,
    started: Moment,
    /// When it had happened at the latest: NEVER where nobody was told.
    done: Moment,
}

pub struct History<'a> {
    before: &'a [State],
    operations: Vec<Operation>,
}

impl<'a> History<'a> {
    /// What happened to objects that were like this before. An error where a report is one.
    pub fn new(before: &'a [State], reports: &[Report]) -> Result<Self, String> {
        let mut open: HashMap<u64, Operation> = HashMap::new();
        let mut operations = Vec::new();
        for (moment, report) in reports.iter().enumerate() {
            let kind = match report.event {
                Event::StartedPut => Kind::Put(report.value),
                Event::StartedDelete => Kind::Delete,
                Event::StartedDuplicate => Kind::Duplicate(report.value as u8),
                Event::StartedGet => Kind::Get(None),
                Event::Refused => {
                    open.remove(&report.operation);
                    continue;
                }
                Event::Done | Event::Found | Event::NotFound => {
                    let Some(mut operation) = open.remove(&report.operation) else {
                        return Err(format!("operation {:x} ends without a beginning", report.operation));
                    };
                    operation.done = moment;
                    if report.event == Event::Found {
                        operation.kind = Kind::Get(Some(report.value));
                    }
                    operations.push(operation);
                    continue;
                }
                Event::Wrong => return Err(format!("object {} holds what nobody has written", report.id)),
                Event::Changed => return Err("bytes that were held have changed".to_owned()),
            };
            open.insert(report.operation, Operation { id: report.id, kind, started: moment, done: NEVER });
        }
        let unanswered = open.into_values().filter(|operation| !matches!(operation.kind, Kind::Get(_)));
        operations.extend(unanswered);
        let mut history = History { before, operations };
        history.learn();
        Ok(history)
    }

    /// Writes of which nobody was told whether they happened.
    pub fn unanswered(&self) -> usize {
        self.operations.iter().filter(|operation| operation.done == NEVER).count()
    }

    pub fn answered(&self) -> usize {
        self.operations.len() - self.unanswered()
    }

    /// A write whose content somebody has read had happened by then.
    fn learn(&mut self) {
        let reads = self.operations.clone();
        for read in reads {
            let Kind::Get(Some(content)) = read.kind else { continue };
            let is_of = |operation: &&mut Operation| {
                let may_be = matches!(operation.kind, Kind::Duplicate(_)) || operation.kind == Kind::Put(content);
                operation.id == read.id && may_be
            };
            let mut candidates: Vec<&mut Operation> = self.operations.iter_mut().filter(is_of).collect();
            if let [only] = &mut candidates[..]
                && self.before[usize::from(read.id)] != Some(content)
            {
                only.done = only.done.min(read.done);
            }
        }
    }

    pub fn check(&self) -> Result<(), String> {
        for operation in &self.operations {
            let Kind::Get(state) = operation.kind else { continue };
            if !self.may_be_read(operation.id, (operation.started, operation.done), state) {
                let same: Vec<_> = self.operations.iter().filter(|other| other.id == operation.id).collect();
                return Err(format!(
                    "{operation:x?} has read what had been replaced, or was not written yet, of {:x?} and {same:x?}",
                    self.before[usize::from(operation.id)]
                ));
            }
        }
        Ok(())
    }

    /// Whether the object may be like this at some moment between these two.
    pub fn may_be_read(&self, id: u8, (from, to): (Moment, Moment), state: State) -> bool {
        let writes = || self.operations.iter().filter(|it| it.id == id && !matches!(it.kind, Kind::Get(_)));
        let is_replaced =
            |done: Option<Moment>| writes().any(|it| done.is_none_or(|done| done < it.started) && it.done < from);
        if self.before[usize::from(id)] == state && !is_replaced(None) {
            return true;
        }
        let mut written = writes().filter(|it| it.started < to && !is_replaced(Some(it.done)));
        written.any(|it| match it.kind {
            Kind::Put(content) => state == Some(content),
            Kind::Delete => state.is_none(),
            Kind::Duplicate(original) => {
                state.is_some() && self.may_be_read(original, (it.started, it.done.min(to)), state)
            }
            Kind::Get(_) => false,
        })
    }

    /// Whether the object may be like this when all is over.
    pub fn may_be_left(&self, id: u8, state: State) -> bool {
        self.may_be_read(id, (NEVER - 1, NEVER), state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(event: Event, operation: u64, value: u64) -> Report {
        Report { event, id: 1, operation, value }
    }

    fn check(reports: &[Report]) -> bool {
        let before = [None, Some(9)];
        History::new(&before, reports).and_then(|history| history.check()).is_ok()
    }

    #[test]
    fn a_read_behind_an_acknowledged_write_sees_it() {
        let put = [report(Event::StartedPut, 1, 5), report(Event::Done, 1, 0)];
        let read = |value| [report(Event::StartedGet, 2, 0), report(Event::Found, 2, value)];
        assert!(check(&[&put[..], &read(5)].concat()));
        assert!(!check(&[&put[..], &read(9)].concat()), "stale");
        assert!(!check(&[&read(5)[..], &put].concat()), "not written yet");
        assert!(check(&[&put[..1], &read(9), &put[1..]].concat()), "at the same time");
        assert!(check(&[&put[..1], &read(5), &put[1..]].concat()));
        assert!(!check(&[&put[..1], &read(5), &read(9), &put[1..]].concat()), "seen, and not any more");
        assert!(check(&[&put[..1], &read(9), &read(5)].concat()), "never answered");
        let absent = [report(Event::StartedGet, 2, 0), report(Event::NotFound, 2, 0)];
        assert!(!check(&absent));
        let refused = report(Event::Refused, 1, 0);
        assert!(!check(&[&put[..1], &[refused], &read(5)].concat()), "refused");
    }

    #[test]
    fn wrong_and_changed_bytes_are_errors() {
        assert!(!check(&[report(Event::Wrong, 1, 0)]));
        assert!(!check(&[report(Event::Changed, 1, 0)]));
    }
}
