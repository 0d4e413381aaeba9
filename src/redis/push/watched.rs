//! Groups of writes without versions: each is one transaction, whose ids are watched. Decides which writes are carried out, tried again, or
//! given up.

use redis::Cmd;

use super::{Outcomes, Outgoing, Pushed, What};
use crate::error::Error;
use crate::redis::events::{EVENT_OPS_MAX, EntryId, asking_last, last_of};
use crate::redis::keys::Keys;
use crate::redis::pipeline::{Reply, code};

/// A write, and its number in its batch.
pub(super) type Numbered<'a> = (usize, &'a Outgoing<'a>);

/// How often a group, or what is left of it, is tried while others write to its ids.
const TRIES_MAX: u32 = 16;

/// What a node knows from events about its writes, for values that have no version.
pub(crate) trait Hearing {
    /// Whether all events up to this one were heard; waits for that for a moment.
    fn has_heard(&self, last: EntryId) -> bool;

    /// Whether the write still counts: it was overwritten neither here nor, as far as was heard, elsewhere.
    fn counts(&self, write: &Outgoing<'_>) -> Result<bool, Error>;
}

/// Writes that are carried out together with their event.
pub(super) struct Group<'a> {
    pub writes: Vec<Numbered<'a>>,
    /// They may have been sent before.
    is_repeat: bool,
    /// Deletes, while Redis is full.
    pub is_without_room: bool,
    tries: u32,
}

impl<'a> Group<'a> {
    pub fn of(writes: Vec<Numbered<'a>>, is_repeat: bool) -> Self {
        Group { writes, is_repeat, is_without_room: false, tries: 0 }
    }

    /// Cuts writes into groups that one entry of the stream can name.
    pub fn cut(writes: Vec<Numbered<'a>>, is_repeat: bool) -> impl Iterator<Item = Group<'a>> {
        let parts: Vec<_> = writes.chunks(EVENT_OPS_MAX).map(<[_]>::to_vec).collect();
        parts.into_iter().map(move |writes| Group::of(writes, is_repeat))
    }

    /// Somebody else has written to an id of the group: it is tried again in parts, so that one id holds back no other.
    pub fn changed(self, outcomes: &mut Outcomes) -> Vec<Self> {
        let tries = self.tries + 1;
        if tries >= TRIES_MAX {
            self.settle(outcomes, &Ok(Pushed::Later));
            return Vec::new();
        }
        let parts = self.writes.chunks(self.writes.len().div_ceil(2).max(1));
        parts.map(|writes| Group { writes: writes.to_vec(), tries, ..self }).collect()
    }

    /// Redis is full: puts are settled as refused, and deletes, which make room, are carried out by scripts.
    pub fn without_room(mut self, reason: &str, outcomes: &mut Outcomes) -> Vec<Self> {
        self.is_without_room = true;
        self.writes.retain(|(index, write)| {
            let is_refused = matches!(write.what, What::Put { .. });
            if is_refused {
                outcomes.settle(*index, Err(reason.to_owned()));
            }
            !is_refused
        });
        if self.writes.is_empty() { Vec::new() } else { vec![self] }
    }

    /// Redis refuses the group because of one of its writes: each is tried by itself. If it refuses the event, all are refused.
    pub fn refused(self, reason: &str, is_event: bool, outcomes: &mut Outcomes) -> Vec<Self> {
        if is_event || self.writes.len() <= 1 {
            self.settle(outcomes, &Err(reason.to_owned()));
            return Vec::new();
        }
        self.writes.iter().map(|write| Group { writes: vec![*write], ..self }).collect()
    }

    fn settle(&self, outcomes: &mut Outcomes, outcome: &Result<Pushed, String>) {
        self.writes.iter().for_each(|(index, _)| outcomes.settle(*index, outcome.clone()));
    }
}

/// The watching of the ids of the next group.
pub(super) struct Watch<'a> {
    hearing: Option<&'a dyn Hearing>,
    is_cluster: bool,
    answers: Vec<Reply>,
    /// Events were not heard in time: not waited for again in this batch.
    is_deaf: bool,
}

impl<'a> Watch<'a> {
    pub fn new(hearing: Option<&'a dyn Hearing>) -> Self {
        Watch { hearing, is_cluster: false, answers: Vec::new(), is_deaf: false }
    }

    /// In a cluster, where keys are on different nodes and are not watched.
    pub fn in_cluster(hearing: Option<&'a dyn Hearing>) -> Self {
        Watch { is_cluster: true, ..Watch::new(hearing) }
    }

    /// The commands that watch a group, and ask how far others have to be heard for it.
    pub fn commands(&self, keys: &Keys, group: &Group<'_>) -> Vec<Cmd> {
        let mut commands = Vec::new();
        if self.hearing.is_some() && !self.is_cluster {
            let mut watch = redis::cmd("WATCH");
            watch.arg(group.writes.iter().map(|(_, write)| keys.object(&write.id)).collect::<Vec<_>>());
            commands.push(watch);
        }
        if self.hearing.is_some() && group.is_repeat {
            commands.push(asking_last(keys));
        }
        commands
    }

    /// Takes the answers to `commands`.
    pub fn answered(&mut self, answers: Vec<Reply>) {
        self.answers = answers;
    }

    /// Whether the group is not watched yet.
    pub fn lacks_answers(&self) -> bool {
        self.hearing.is_some() && self.answers.is_empty()
    }

    /// Settles those writes that must not be carried out now, and removes them from the group.
    pub fn judge(&mut self, group: &mut Group<'_>, outcomes: &mut Outcomes) -> Result<(), Error> {
        let answers = std::mem::take(&mut self.answers);
        let Some(hearing) = self.hearing else { return Ok(()) };
        let mut settle = |group: &mut Group<'_>, outcome: Result<Pushed, String>| {
            group.settle(outcomes, &outcome);
            group.writes.clear();
        };
        // The user is not permitted to watch.
        if let (false, Some(Err(refusal))) = (self.is_cluster, answers.first())
            && code(refusal) == "NOPERM"
        {
            settle(group, Err(refusal.clone()));
            return Ok(());
        }
        if !group.is_repeat {
            return Ok(());
        }
        let has_heard = match answers.last() {
            Some(Ok(entries)) if !self.is_deaf => match last_of(entries) {
                Some(last) => last.is_none_or(|last| hearing.has_heard(last)),
                None => false, // nobody can tell
            },
            _ => false,
        };
        if !has_heard {
            self.is_deaf = true;
            settle(group, Ok(Pushed::Later));
            return Ok(());
        }
        let mut counting = Vec::with_capacity(group.writes.len());
        for (index, write) in group.writes.drain(..) {
            if hearing.counts(write)? {
                counting.push((index, write));
            } else {
                outcomes.settle(index, Ok(Pushed::Overtaken));
            }
        }
        group.writes = counting;
        Ok(())
    }
}
