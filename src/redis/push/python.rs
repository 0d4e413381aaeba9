//! Values that the Python Redis backend can read: without a version, so that the last to reach Redis wins.

use std::io::Write as _;

use redis::{Cmd, RedisWrite as _, Value};

use super::{Outcomes, Outgoing, Pushed, Pusher, What};
use crate::error::Error;
use crate::redis::envelope::Head;
use crate::redis::events::adding;
use crate::redis::fetch::{looked, looking};
use crate::redis::link::Link;
use crate::redis::pipeline::{Reply, reply_of};
use crate::redis::python;
use crate::redis::standing::Standing;

/// Commands for one write: two that look at what stands there, one that overwrites or deletes it.
const COMMANDS: usize = 3;

/// Writes that are carried out together with their event.
const GROUP_WRITES: usize = 32;

/// A write, and its number in its batch.
type Numbered<'a> = (usize, &'a Outgoing<'a>);

/// What Redis has said to the commands of each write, and whether their event stands in the stream.
struct Answers {
    writes: Vec<[Reply; COMMANDS]>,
    is_named: bool,
}

impl Pusher {
    /// Writes and the event that names them are one transaction: events stand in the stream in the order in which values reached Redis,
    /// also where the connection breaks in between, or what it carried comes later than anybody expects. Where Redis refuses one write of a
    /// transaction, each goes by itself; in a cluster, too, as keys and stream are in different places.
    pub(super) fn overwrite(
        &mut self,
        link: &mut Link,
        batch: &[Outgoing<'_>],
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
        let (mut alone, mut chunked, mut counted) = (Vec::new(), Vec::new(), Vec::new());
        if link.is_cluster() {
            alone = writes;
        } else {
            let groups: Vec<_> = writes.chunks(GROUP_WRITES).collect();
            for (group, answers) in groups.iter().zip(self.in_transactions(link, &groups, &mut counted)?) {
                match answers {
                    Some(answers) => self.overwritten(group, answers, outcomes, &mut chunked),
                    None => alone.extend_from_slice(group),
                }
            }
        }
        let answers = self.one_by_one(link, &alone, &mut counted)?;
        self.overwritten(&alone, answers, outcomes, &mut chunked);
        self.counted(off, &counted);
        for (index, head) in chunked {
            if let Some(write) = batch.get(index) {
                self.expire_chunks(link, &write.id, &head)?;
            }
        }
        Ok(())
    }

    fn in_transactions(
        &self,
        link: &mut Link,
        groups: &[&[Numbered<'_>]],
        ahead: &mut Vec<Reply>,
    ) -> Result<Vec<Option<Answers>>, Error> {
        let mut commands = Vec::new();
        for group in groups {
            let notices: Vec<_> = group.iter().map(|(_, write)| write.notice()).collect();
            commands.push(redis::cmd("MULTI"));
            commands.extend(group.iter().flat_map(|(_, write)| self.overwriting(write)));
            commands.push(adding(&self.keys, self.node, &notices));
            commands.push(redis::cmd("EXEC"));
        }
        let mut replies = run_behind(link, &commands, ahead)?.into_iter();
        let of_group =
            |group: &&[Numbered<'_>]| transaction(replies.by_ref().take(group.len() * COMMANDS + 3).collect());
        Ok(groups.iter().map(of_group).collect())
    }

    /// Their events follow.
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
            let replaced = looked(&[head, length]).unwrap_or(None); // what is not known is not counted
            match written {
                Ok(_) => {
                    self.counters_off.add(write.put_bytes(), replaced.and_then(|standing| standing.counted_bytes()));
                    outcomes.settle(*index, Ok(Pushed::Applied { replaced }));
                    if let Some(Standing::Ours(head)) = replaced {
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

    /// They look at what stands there, and replace it.
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

/// The answers to these commands; those to what was sent ahead are added to `ahead`.
fn run_behind(link: &mut Link, commands: &[Cmd], ahead: &mut Vec<Reply>) -> Result<Vec<Reply>, Error> {
    let mut replies = link.run(commands)?;
    let answers = replies.split_off(replies.len().saturating_sub(commands.len()));
    ahead.extend(replies);
    Ok(answers)
}

/// Whether the write can be one value.
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

/// The answers to MULTI, the commands of a group, its event, and EXEC; None where one of the writes is refused, so that none is carried
/// out. Where the event is, all writes count as refused: each time that they were pushed again unheard, they would undo what others have
/// written since. Where there are no transactions, they were carried out one by one.
fn transaction(mut replies: Vec<Reply>) -> Option<Answers> {
    let executed = replies.pop()?;
    let begun = (!replies.is_empty()).then(|| replies.remove(0))?;
    if begun.is_ok()
        && let Some(Err(refusal)) = replies.last()
    {
        let refused = [Ok(Value::Nil), Ok(Value::Nil), Err(refusal.clone())];
        return Some(Answers { writes: vec![refused; replies.len() / COMMANDS], is_named: false });
    }
    let mut replies = match (begun, executed) {
        (Err(_), _) => replies,
        (Ok(_), Ok(Value::Array(values))) if values.len() == replies.len() => {
            values.into_iter().map(reply_of).collect()
        }
        _ => return None,
    };
    let event = replies.pop()?;
    Some(Answers { writes: in_threes(&replies), is_named: event.is_ok() })
}

fn in_threes(replies: &[Reply]) -> Vec<[Reply; COMMANDS]> {
    replies.as_chunks().0.to_vec()
}
