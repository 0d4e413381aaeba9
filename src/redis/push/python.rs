//! Pushing values without versions (`value_format = "python"`), of which the last to reach Redis wins: in transactions with their events.

use std::collections::VecDeque;
use std::io::Write as _;

use redis::{Cmd, RedisWrite as _, Value};

use super::watched::{Group, Hearing, Numbered, Watch};
use super::{Outcomes, Outgoing, Pushed, Pusher, What};
use crate::error::Error;
use crate::redis::envelope::Head;
use crate::redis::events::{adding, deleting_when_full};
use crate::redis::fetch::{looked, looking};
use crate::redis::link::Link;
use crate::redis::pipeline::{Reply, code};
use crate::redis::python;
use crate::redis::refusals::reply_of;
use crate::redis::stored_value::StoredValue;

/// Commands for one write: two that look at what stands there, one that overwrites or deletes it.
const COMMANDS: usize = 3;

/// How Redis's error begins when it is full.
const OUT_OF_MEMORY: &str = "OOM";

/// How the error begins for a transaction that is refused as a whole.
const DISCARDED: &str = "EXECABORT Transaction discarded because of: ";

/// The answers to the commands of each write, and whether their event stands in the stream.
struct Answers {
    writes: Vec<[Reply; COMMANDS]>,
    is_named: bool,
}

/// The outcome of a transaction.
enum Executed {
    Done(Answers),
    /// Nothing was done, since somebody has written to a watched key.
    Changed,
    /// Nothing was done, since Redis refuses one of its commands.
    Refused {
        reason: String,
        is_event: bool,
    },
}

impl Pusher {
    /// Writes and the event that names them are one transaction, so that events stand in the stream in the order in which values reached
    /// Redis. Not so in a cluster, where keys and stream are on different nodes, nor if the user is not permitted transactions.
    ///
    /// With `hearing`, a transaction is carried out only if nobody has written to its keys since they were watched, one round trip before: so
    /// bytes of a broken connection that arrive late undo nothing. A write that may have been sent before is pushed only if it still counts
    /// after all events were heard that stood in the stream when its id was watched: others may have seen the first push, and have written
    /// since.
    pub(super) fn overwrite(
        &mut self,
        link: &mut Link,
        batch: &[Outgoing<'_>],
        hearing: Option<&dyn Hearing>,
        outcomes: &mut Outcomes,
    ) -> Result<(), Error> {
        let mut writes: Vec<Numbered<'_>> = Vec::with_capacity(batch.len());
        for (index, write) in batch.iter().enumerate() {
            match check(write) {
                Ok(()) => writes.push((index, write)),
                Err(refusal) => outcomes.settle(index, Err(refusal)),
            }
        }
        let off = std::mem::take(&mut self.counters_off);
        link.send_ahead(off.commands(&self.keys))?;
        let (mut chunked, mut counted) = (Vec::new(), Vec::new());
        // New writes do not wait for events.
        let (repeats, new) = writes.into_iter().partition(|(_, write)| write.is_repeat && hearing.is_some());
        if link.is_cluster() {
            let repeats = self.still_counting(link, repeats, hearing, outcomes, &mut counted)?;
            let writes = [new, repeats].concat();
            let answers = self.one_by_one(link, &writes, &mut counted)?;
            self.overwritten(&writes, answers, outcomes, &mut chunked);
        } else {
            let groups = Group::cut(new, false).chain(Group::cut(repeats, true)).collect();
            self.in_transactions(link, groups, hearing, outcomes, (&mut counted, &mut chunked))?;
        }
        if counted.is_empty() {
            counted = link.run(&[])?; // receives the answers for the counters
        }
        self.counted(off, &counted);
        for (index, head) in chunked {
            if let Some(write) = batch.get(index) {
                self.expire_chunks(link, &write.id, &head)?;
            }
        }
        Ok(())
    }

    /// Carries out one transaction after the other. The ids of the next one are watched in the same round trip.
    fn in_transactions<'a>(
        &mut self,
        link: &mut Link,
        mut groups: VecDeque<Group<'a>>,
        hearing: Option<&dyn Hearing>,
        outcomes: &mut Outcomes,
        (counted, chunked): (&mut Vec<Reply>, &mut Vec<(usize, Head)>),
    ) -> Result<(), Error> {
        let mut watch = Watch::new(hearing);
        while let Some(mut group) = groups.pop_front() {
            if watch.lacks_answers() {
                let replies = run_behind(link, &watch.commands(&self.keys, &group), counted)?;
                watch.answered(replies);
            }
            watch.judge(&mut group, outcomes)?;
            if group.writes.is_empty() {
                continue;
            }
            let mut commands = match group.is_without_room {
                true => self.without_room(&group),
                false => self.transaction(&group),
            };
            let count = commands.len();
            if let Some(next) = groups.front() {
                commands.extend(watch.commands(&self.keys, next));
            }
            let mut replies = run_behind(link, &commands, counted)?;
            watch.answered(replies.split_off(count.min(replies.len())));
            let executed = match group.is_without_room {
                true => Executed::Done(Answers { writes: in_threes(&replies), is_named: true }),
                false => executed(replies),
            };
            match executed {
                Executed::Done(answers) => self.overwritten(&group.writes, answers, outcomes, chunked),
                Executed::Changed => again(&mut groups, &mut watch, group.changed(outcomes)),
                Executed::Refused { reason, .. } if code(&reason) == OUT_OF_MEMORY => {
                    again(&mut groups, &mut watch, group.without_room(&reason, outcomes));
                }
                Executed::Refused { reason, is_event } => {
                    again(&mut groups, &mut watch, group.refused(&reason, is_event, outcomes));
                }
            }
        }
        Ok(())
    }

    fn transaction(&self, group: &Group<'_>) -> Vec<Cmd> {
        let notices: Vec<_> = group.writes.iter().map(|(_, write)| write.notice()).collect();
        let mut commands = vec![redis::cmd("MULTI")];
        commands.extend(group.writes.iter().flat_map(|(_, write)| self.overwriting(write)));
        commands.push(adding(&self.keys, self.node, &notices));
        commands.push(redis::cmd("EXEC"));
        commands
    }

    /// The commands for deletes while Redis is full, each a script with its event. They are not watched, as a full Redis takes no transaction.
    fn without_room(&self, group: &Group<'_>) -> Vec<Cmd> {
        let deleting = |write: &Outgoing<'_>| {
            let [head, length] = looking(&self.keys.object(&write.id));
            [head, length, deleting_when_full(&self.keys, self.node, write.notice())]
        };
        group.writes.iter().flat_map(|(_, write)| deleting(write)).collect()
    }

    /// In a cluster: those of the repeated writes that still count. What others write between this check and the write is not noticed there.
    fn still_counting<'a>(
        &self,
        link: &mut Link,
        repeats: Vec<Numbered<'a>>,
        hearing: Option<&dyn Hearing>,
        outcomes: &mut Outcomes,
        counted: &mut Vec<Reply>,
    ) -> Result<Vec<Numbered<'a>>, Error> {
        let (mut watch, mut group) = (Watch::in_cluster(hearing), Group::of(repeats, true));
        if !group.writes.is_empty() {
            watch.answered(run_behind(link, &watch.commands(&self.keys, &group), counted)?);
            watch.judge(&mut group, outcomes)?;
        }
        Ok(group.writes)
    }

    /// Carries out writes outside of a transaction. Their events follow.
    fn one_by_one(&self, link: &mut Link, writes: &[Numbered<'_>], ahead: &mut Vec<Reply>) -> Result<Answers, Error> {
        let commands: Vec<_> = writes.iter().flat_map(|(_, write)| self.overwriting(write)).collect();
        Ok(Answers { writes: in_threes(&run_behind(link, &commands, ahead)?), is_named: false })
    }

    fn overwritten(
        &mut self,
        writes: &[Numbered<'_>],
        answers: Answers,
        outcomes: &mut Outcomes,
        chunked: &mut Vec<(usize, Head)>,
    ) {
        for ((index, write), [head, length, written]) in writes.iter().zip(answers.writes) {
            let replaced = looked(&[head, length]).unwrap_or(None); // an unknown length is not counted
            match written {
                Ok(_) => {
                    self.counters_off.add(write.put_bytes(), replaced.and_then(|standing| standing.counted_bytes()));
                    outcomes.settle(*index, Ok(Pushed::Applied { replaced }));
                    if let Some(StoredValue::Ours(head)) = replaced {
                        chunked.push((*index, head));
                    }
                }
                Err(refusal) => outcomes.settle(*index, Err(refusal)),
            }
            if answers.is_named {
                outcomes.named_now(*index);
            }
        }
    }

    /// The commands of a write: they read the head and length of what stands there, and replace it.
    fn overwriting(&self, write: &Outgoing<'_>) -> [Cmd; COMMANDS] {
        let key = self.keys.object(&write.id);
        let [head, length] = looking(&key);
        let What::Put { object, deadline_ms, .. } = &write.what else {
            let mut delete = redis::cmd("DEL");
            delete.arg(key);
            return [head, length, delete];
        };
        let mut set = Cmd::with_capacity(5, 96 + key.len() + python::value_bytes(object) as usize);
        set.arg("SET").arg(key);
        {
            let mut value = set.writer_for_next_arg();
            // Writing to memory does not fail.
            python::encode(object, |bytes| drop(value.write_all(bytes)));
        }
        if *deadline_ms != 0 {
            set.arg("PXAT").arg(*deadline_ms);
        }
        [head, length, set]
    }
}

/// Puts parts of a group back to the front, so that writes to one id stay in their order.
fn again<'a>(groups: &mut VecDeque<Group<'a>>, watch: &mut Watch<'_>, parts: Vec<Group<'a>>) {
    if !parts.is_empty() {
        watch.answered(Vec::new());
        parts.into_iter().rev().for_each(|part| groups.push_front(part));
    }
}

/// Runs these commands and returns their answers. Answers to what was sent ahead are added to `ahead`.
fn run_behind(link: &mut Link, commands: &[Cmd], ahead: &mut Vec<Reply>) -> Result<Vec<Reply>, Error> {
    let mut replies = link.run(commands)?;
    let answers = replies.split_off(replies.len().saturating_sub(commands.len()));
    ahead.extend(replies);
    Ok(answers)
}

/// Refuses a write whose value would be too long for Redis.
fn check(write: &Outgoing<'_>) -> Result<(), String> {
    let What::Put { object, .. } = &write.what else { return Ok(()) };
    if python::value_bytes(object) > python::VALUE_BYTES_MAX {
        return Err(format!(
            "it has {} bytes, but value_format = \"python\" keeps an object in one value of at most {} bytes",
            object.raw().len(),
            python::VALUE_BYTES_MAX
        ));
    }
    Ok(())
}

/// Reads the answers to MULTI, the commands of a group, its event, and EXEC. If the event is refused, all its writes count as refused: pushed
/// again without an event, they would undo what others have written since. If transactions are not permitted, the commands were carried out
/// one by one.
fn executed(mut replies: Vec<Reply>) -> Executed {
    let nothing = || Executed::Refused { reason: "no answer".to_owned(), is_event: true };
    let Some(executed) = replies.pop() else { return nothing() };
    let Some(begun) = (!replies.is_empty()).then(|| replies.remove(0)) else { return nothing() };
    let refusal_of_event = replies.last().and_then(|event| event.as_ref().err()).cloned();
    let mut replies = match (begun, executed) {
        (Ok(_), _) if let Some(reason) = refusal_of_event => return Executed::Refused { reason, is_event: true },
        (Err(_), _) => replies,
        (Ok(_), Ok(Value::Nil)) => return Executed::Changed,
        (Ok(_), Ok(Value::Array(values))) if values.len() == replies.len() => {
            values.into_iter().map(reply_of).collect()
        }
        (Ok(_), Ok(_)) => return nothing(),
        (Ok(_), Err(discarded)) => {
            let refusal = replies.into_iter().find_map(Result::err);
            let reason = refusal.unwrap_or_else(|| discarded.strip_prefix(DISCARDED).unwrap_or(&discarded).to_owned());
            return Executed::Refused { reason, is_event: false };
        }
    };
    let Some(event) = replies.pop() else { return nothing() };
    Executed::Done(Answers { writes: in_threes(&replies), is_named: event.is_ok() })
}

fn in_threes(replies: &[Reply]) -> Vec<[Reply; COMMANDS]> {
    replies.as_chunks().0.to_vec()
}
