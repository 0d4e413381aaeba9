//! How nodes come to rest, and what they hold then.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::ops::Deref;
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use scaler_object_storage::{ObjectStore, Waited};

use crate::content::Content;
use crate::history::History;
use crate::node::{builder, content, id, options};
use crate::report::{Command, Event, Report};
use crate::rounds::Plan;
use crate::settings::{Extra, Losses};
use crate::world::World;

/// Nodes that do not agree after this time and so many looks never do. On a busy machine looking takes long, and so does agreeing.
const AGREE_LIMIT: Duration = Duration::from_secs(30);
const AGREE_LOOKS_MIN: u64 = 100;

/// Between one look and the next.
const PAUSE: Duration = Duration::from_millis(30);

/// What a node holds, id by id; an error where it cannot say so.
type View = Vec<Result<Option<Content>, ()>>;

/// What all nodes hold, id by id.
pub type Left = Vec<Option<Content>>;

impl World {
    /// Invariant 4: what a Redis has lost comes back though nobody asks a node for it.
    pub fn regain(&self, round: u64, ids: u64) -> Result<(), String> {
        if self.settings.losses != Losses::Everything || self.settings.evicts() {
            return Ok(());
        }
        let logs = self.logs();
        let history = History::new(&self.settings, &logs);
        let (mut patience, reader) = (Patience::default(), self.reader());
        loop {
            let view = look_into(&reader, round, ids);
            let missing = (0..ids as u16).find(|id| history.must_exist(*id) && !holds(&view[usize::from(*id)]));
            match missing {
                None => return Ok(()),
                Some(id) if patience.ends() => {
                    return Err(format!("{}object {id} does not come back", history.tell(id)));
                }
                Some(_) => sleep(PAUSE),
            }
        }
    }

    /// Invariants 4, 6 and 9: in the end all nodes hold what Redis holds, and who waits for it has been answered. That it was once so
    /// may be luck; so twice, the second time also by a node that is new.
    pub fn agree(&mut self, round: u64, ids: u64) -> Result<Left, String> {
        let (mut patience, reader) = (Patience::default(), self.reader());
        let mut before = None;
        loop {
            let problem = match self.look(round, ids, &reader)? {
                Ok(left) if before.as_ref() == Some(&left) => match self.differences_of_a_new_node(&left, round) {
                    problem if problem.is_empty() => return Ok(left),
                    problem => problem,
                },
                Ok(left) => {
                    before = Some(left);
                    Vec::new()
                }
                Err(problem) => {
                    before = None;
                    problem
                }
            };
            if patience.ends() {
                let logs = self.logs();
                let history = History::new(&self.settings, &logs);
                let told: String =
                    problem.iter().map(|(id, problem)| format!("{}{problem}\n", history.tell(*id))).collect();
                return Err(format!("{told}they do not agree"));
            }
            sleep(PAUSE);
        }
    }

    /// What everybody holds, or about which ids they differ, and how.
    fn look(&mut self, round: u64, ids: u64, reader: &ObjectStore) -> Result<Result<Left, Vec<(u16, String)>>, String> {
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
        let is_python = self.settings.has(Extra::Python);
        if is_python || !(0..ids as usize).any(|id| differ_in(&views, id)) {
            views.push(look_into(reader, round, ids));
        }
        let logs = self.logs();
        let history = History::new(&self.settings, &logs);
        let is_wrong = |id: usize| match is_python {
            // Redis knows no versions then, so a node may hold what it wrote itself and others what came later to Redis, if neither of
            // the two writes was after the other one.
            true => views.iter().any(|view| view[id].map_or(true, |left| history.check(id as u16, left).is_err())),
            false => differ_in(&views, id),
        };
        let mut problems = Vec::new();
        for id in (0..ids as usize).filter(|id| is_wrong(*id)) {
            let mut problem = format!("object {id}:");
            for (node, view) in views.iter().enumerate() {
                let _ = write!(problem, " {node} has {:x?},", view[id]);
            }
            problems.push((id as u16, problem));
        }
        let Some(last) = views.last() else { return Ok(Ok(Vec::new())) };
        for (id, node) in waited_for.iter().filter(|(id, _)| last.get(usize::from(*id)).is_some_and(holds)) {
            problems.push((*id, format!("object {id}: somebody waits for it on node {node}")));
        }
        if !problems.is_empty() {
            return Ok(Err(problems));
        }
        Ok(Ok(last.iter().map(|view| view.unwrap_or_default()).collect()))
    }

    /// Invariant 4: Redis loses an object, and somebody waits for it on a node that does not have it. All others do.
    pub fn want(&self, plan: &Plan, left: &Left) -> Result<(), String> {
        let held = left.iter().enumerate().find_map(|(number, content)| Some((number as u64, (*content)?)));
        let (Some((number, held)), false, true) = (held, self.settings.evicts(), plan.seed.is_multiple_of(4)) else {
            return Ok(());
        };
        if self.settings.has(Extra::Python) {
            return Ok(()); // no node keeps what another one wrote
        }
        let id = id(plan.number, number);
        let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let lost: u64 = self.redis.master().command(&["DEL", &format!("scaler:obj:{hex}")]);
        let directory = tempfile::tempdir().unwrap();
        let store = builder(directory.path(), &self.redis.master().url(), &self.settings).open().unwrap();
        let waited = store.wait(&id, Some(Instant::now() + AGREE_LIMIT), None);
        match waited {
            Ok(Waited::Object(object)) if content(number, &object) == held && lost == 1 => Ok(()),
            Ok(Waited::Object(_)) => Err(format!("object {number}: {lost} lost, another one pushed again")),
            waited => Err(format!("object {number}: {lost} lost, wanted, but {waited:?}")),
        }
    }

    /// Reads what Redis has and holds nothing itself.
    fn reader(&self) -> Reader {
        let store = ObjectStore::builder().redis(self.redis.master().url()).redis_options(|to| {
            options(&self.settings, to);
            // It only looks: that the machine is busy says nothing about nodes.
            (to.connect_timeout_ms, to.response_timeout_ms) = (60_000, 60_000);
        });
        Reader(Some(store.open().unwrap()))
    }

    /// What a node that holds nothing yet finds otherwise than all others.
    fn differences_of_a_new_node(&self, left: &Left, round: u64) -> Vec<(u16, String)> {
        let directory = tempfile::tempdir().unwrap();
        let store = builder(directory.path(), &self.redis.master().url(), &self.settings).open().unwrap();
        let view = look_into(&store, round, left.len() as u64);
        let differing = view.iter().zip(left).enumerate().filter(|(_, (view, left))| **view != Ok(**left));
        let tell = |(id, (view, left))| (id as u16, format!("object {id}: all have {left:x?}, a new node {view:x?}"));
        differing.map(tell).collect()
    }
}

/// How long it is looked again and again.
struct Patience {
    begun: Instant,
    looks: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Patience { begun: Instant::now(), looks: 0 }
    }
}

impl Patience {
    /// After a look in vain.
    fn ends(&mut self) -> bool {
        self.looks += 1;
        self.looks >= AGREE_LOOKS_MIN && self.begun.elapsed() > AGREE_LIMIT
    }
}

struct Reader(Option<ObjectStore>);

impl Deref for Reader {
    type Target = ObjectStore;

    fn deref(&self) -> &ObjectStore {
        self.0.as_ref().unwrap()
    }
}

impl Drop for Reader {
    /// Nobody needs to wait until its threads have noticed.
    fn drop(&mut self) {
        let store = self.0.take();
        spawn(move || drop(store));
    }
}

fn look_into(store: &ObjectStore, round: u64, ids: u64) -> View {
    let look = |number| match store.get(&id(round, number)) {
        Ok(object) => Ok(object.map(|object| content(number, &object))),
        Err(_) => Err(()),
    };
    (0..ids).map(look).collect()
}

fn holds(view: &Result<Option<Content>, ()>) -> bool {
    matches!(view, Ok(Some(_)))
}

fn differ_in(views: &[View], id: usize) -> bool {
    views.iter().any(|view| view[id].is_err() || view[id] != views[0][id])
}
