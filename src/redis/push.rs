//! Pushing writes to Redis: pipelined `SET NX` first, a script on the one key where something stands already, then the event.

mod begun;
mod chunks;
mod counters;
mod outcomes;
mod outgoing;
mod python;
mod second_encoder;
mod watched;

use std::io::Write as _;

use redis::{Cmd, RedisWrite as _};

pub(crate) use self::begun::Begun;
use self::counters::Counters;
use self::outcomes::Outcomes;
pub(crate) use self::outcomes::Pushed;
pub(crate) use self::outgoing::{Outgoing, What};
pub(crate) use self::watched::Hearing;
use super::envelope::{Encoder, Head, Kind, version_bytes};
use super::events::{EVENT_OPS_MAX, Notice, announce};
use super::fetch::heads;
use super::keys::Keys;
use super::link::Link;
use super::options::{Compression, RedisOptions, ValueFormat};
use super::pipeline::Reply;
use super::scripts::{self, Answer, Guard, GuardVerdict};
use super::stored_value::StoredValue;
use crate::error::Error;

/// A repeated write of at most this length is sent again at once, which costs no more than looking first.
const LOOKED_FOR_BYTES_MIN: u64 = 1024;

/// How often the script is called for one write: what stands in Redis may change between two calls.
const CALLS_MAX: usize = 8;

/// Pushes writes over a link, and names them in the event stream.
pub(crate) struct Pusher {
    keys: Keys,
    node: u64,
    value_format: ValueFormat,
    tombstone_ttl_ms: u64,
    encoder: Encoder,
    /// Changes that the counters in Redis have yet to get; and those that are under way, which come back here if they are not answered.
    counters_off: Counters,
    counters_sent: Counters,
    /// Of the batch that is being finished, nothing was answered yet.
    is_unanswered: bool,
}

/// How writes are sent.
#[derive(Clone, Copy)]
struct How {
    /// Replace a value of the same version as well.
    also_same: bool,
    /// Send the events in the same pipeline as the writes.
    naming: bool,
}

/// A write for which the script has to be called.
struct Unsettled {
    index: usize,
    /// A head that the script may replace whatever its version.
    named: Vec<u8>,
    whole_script: bool,
    /// The manifest that stands there, whose chunks must be set to expire before it is replaced.
    chunks_of: Option<Head>,
}

impl Unsettled {
    fn new(index: usize, whole_script: bool) -> Unsettled {
        Unsettled { index, named: Vec::new(), whole_script, chunks_of: None }
    }
}

impl Pusher {
    pub fn new(options: &RedisOptions, node: u64) -> Pusher {
        Pusher {
            keys: Keys::new(options.key_prefix.as_str()),
            node,
            value_format: options.value_format,
            tombstone_ttl_ms: options.tombstone_ttl_seconds.saturating_mul(1000).max(1),
            encoder: Encoder::new(options.compression == Compression::Lz4),
            counters_off: Counters::default(),
            counters_sent: Counters::default(),
            is_unanswered: true,
        }
    }

    /// Carries out the writes, those to one id in their order. Returns for each its outcome, after its event was acknowledged too, or why
    /// Redis refuses it. A refusal holds back no other write. After an error nothing is known of the whole batch: pushing it again over
    /// another link is harmless.
    pub fn push(&mut self, link: &mut Link, batch: &[Outgoing<'_>]) -> Result<Vec<Result<Pushed, String>>, Error> {
        let begun = self.begin(link, batch)?;
        self.finish(link, batch, begun, None, None)
    }

    /// As `push` for one write, for a node of `tiered`.
    pub fn push_one(
        &mut self,
        link: &mut Link,
        write: &Outgoing<'_>,
        hearing: &dyn Hearing,
    ) -> Result<Result<Pushed, String>, Error> {
        self.push_alone(link, write, hearing, false)
    }

    /// As `push_one`, but also replaces a value of the same version: one that was found damaged, or is wanted.
    pub fn repair(
        &mut self,
        link: &mut Link,
        write: &Outgoing<'_>,
        hearing: &dyn Hearing,
    ) -> Result<Result<Pushed, String>, Error> {
        self.push_alone(link, write, hearing, true)
    }

    fn push_alone(
        &mut self,
        link: &mut Link,
        write: &Outgoing<'_>,
        hearing: &dyn Hearing,
        also_same: bool,
    ) -> Result<Result<Pushed, String>, Error> {
        let batch = std::slice::from_ref(write);
        let begun = self.begin_with(link, batch, also_same)?;
        let mut pushed = self.finish(link, batch, begun, None, Some(hearing))?;
        Ok(pushed.pop().unwrap_or_else(|| Err("no answer".into())))
    }

    /// Brings the counters in Redis up to date now; otherwise the next push does so.
    pub fn settle_counters(&mut self, link: &mut Link) -> Result<(), Error> {
        let off = std::mem::take(&mut self.counters_off);
        let replies = link.run(&off.commands(&self.keys)).inspect_err(|_| self.counters_off = off)?;
        self.counted(off, &replies);
        Ok(())
    }

    /// After an error: whether no part of the batch that was to be finished has been answered before.
    pub fn is_unanswered(&self) -> bool {
        self.is_unanswered
    }

    /// Sends everything of a batch that needs no answer first. The batch is to be finished before anything else is done with the link, but for
    /// beginning one more if `keeps_two` says so.
    pub fn begin(&mut self, link: &mut Link, batch: &[Outgoing<'_>]) -> Result<Begun, Error> {
        self.begin_with(link, batch, false)
    }

    /// Whether a batch can be begun while another one is not finished yet. On Cluster nothing is sent ahead; values without versions are written in
    /// their order.
    pub fn keeps_two(&self, link: &Link) -> bool {
        self.value_format != ValueFormat::Python && !link.is_cluster()
    }

    fn begin_with(&mut self, link: &mut Link, batch: &[Outgoing<'_>], also_same: bool) -> Result<Begun, Error> {
        if self.value_format == ValueFormat::Python {
            return Ok(Begun::nothing(also_same));
        }
        let at_once = |(_, write): &(usize, &Outgoing<'_>)| !write.is_large() && !is_looked_for(write);
        let chosen: Vec<usize> = batch.iter().enumerate().filter(at_once).map(|(index, _)| index).collect();
        let how = How { also_same, naming: !link.is_cluster() };
        self.send(link, batch, chosen, how).inspect_err(|_| self.uncounted())
    }

    /// Finishes a batch, and returns what `push` does. `behind`: the batch that was begun after it.
    pub fn finish(
        &mut self,
        link: &mut Link,
        batch: &[Outgoing<'_>],
        begun: Begun,
        behind: Option<&mut Begun>,
        hearing: Option<&dyn Hearing>,
    ) -> Result<Vec<Result<Pushed, String>>, Error> {
        self.settle_all(link, batch, begun, behind, hearing).inspect_err(|_| self.uncounted())
    }

    fn settle_all(
        &mut self,
        link: &mut Link,
        batch: &[Outgoing<'_>],
        begun: Begun,
        behind: Option<&mut Begun>,
        hearing: Option<&dyn Hearing>,
    ) -> Result<Vec<Result<Pushed, String>>, Error> {
        let mut outcomes = Outcomes::new(batch.len());
        let also_same = begun.also_same;
        self.is_unanswered = true;
        let unsettled = self.answered(link, batch, begun, behind.as_deref(), &mut outcomes)?;
        self.is_unanswered = false;
        if outcomes.is_complete() {
            return Ok(outcomes.into_results());
        }
        if let Some(behind) = behind {
            behind.receive(link)?; // they would come in front of the answers to what follows
            self.counters_sent = self.counters_sent.without(std::mem::take(&mut behind.owed));
        }
        self.settle(link, batch, unsettled, also_same, &mut outcomes)?;
        if self.value_format == ValueFormat::Python {
            self.overwrite(link, batch, hearing, &mut outcomes)?;
        } else {
            self.look_first(link, batch, &mut outcomes)?;
            let left = (0..batch.len()).filter(|index| !outcomes.is_settled(*index));
            let (large, small): (Vec<usize>, Vec<usize>) =
                left.partition(|index| batch.get(*index).is_some_and(Outgoing::is_large));
            self.apply(link, batch, small, How { also_same, naming: !link.is_cluster() }, &mut outcomes)?;
            for index in large {
                self.push_large(link, batch, index, also_same, &mut outcomes)?;
            }
        }
        self.name_the_rest(link, batch, &mut outcomes)?;
        Ok(outcomes.into_results())
    }

    /// Settles repeated writes without sending them again if the same or a newer version stands in Redis already.
    fn look_first(&mut self, link: &mut Link, batch: &[Outgoing<'_>], outcomes: &mut Outcomes) -> Result<(), Error> {
        let repeats: Vec<(usize, &Outgoing<'_>)> =
            batch.iter().enumerate().filter(|(_, write)| is_looked_for(write)).collect();
        if repeats.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = repeats.iter().map(|(_, write)| &write.id).collect();
        let standings = heads(link, &self.keys, &ids)?;
        for ((index, write), standing) in repeats.into_iter().zip(standings) {
            // If that cannot be told, the push finds out.
            let Ok(Some(standing @ StoredValue::Ours(head))) = standing else { continue };
            if head.version > write.version {
                outcomes.settle(index, Ok(Pushed::Older(standing)));
            } else if head.version == write.version {
                if head.kind == Kind::Manifest
                    && let Err(refusal) = self.keep_chunks(link, write)?
                {
                    outcomes.settle(index, Ok(Pushed::Incomplete(refusal)));
                    continue;
                }
                outcomes.settle(index, Ok(Pushed::Same));
            }
        }
        Ok(())
    }

    /// Pushes writes that are not chunked, or a manifest. Without `naming`, their events follow.
    fn apply(
        &mut self,
        link: &mut Link,
        batch: &[Outgoing<'_>],
        chosen: Vec<usize>,
        how: How,
        outcomes: &mut Outcomes,
    ) -> Result<(), Error> {
        let begun = self.send(link, batch, chosen, how)?;
        let unsettled = self.answered(link, batch, begun, None, outcomes)?;
        self.settle(link, batch, unsettled, how.also_same, outcomes)
    }

    /// Calls the script for each write until the write is settled.
    fn settle(
        &mut self,
        link: &mut Link,
        batch: &[Outgoing<'_>],
        mut unsettled: Vec<Unsettled>,
        also_same: bool,
        outcomes: &mut Outcomes,
    ) -> Result<(), Error> {
        for _ in 0..CALLS_MAX {
            for write in &unsettled {
                if let (Some(head), Some(outgoing)) = (&write.chunks_of, batch.get(write.index)) {
                    self.expire_chunks(link, &outgoing.id, head)?;
                }
            }
            let commands: Vec<Cmd> = unsettled
                .iter()
                .filter_map(|write| Some(self.script(batch.get(write.index)?, write, also_same)))
                .collect();
            if commands.is_empty() {
                return Ok(());
            }
            let replies = link.run(&commands)?;
            let called = std::mem::take(&mut unsettled);
            for (write, reply) in called.into_iter().zip(replies) {
                let Some(outgoing) = batch.get(write.index) else { continue };
                let (index, replaced_chunks) = (write.index, write.chunks_of);
                match self.understand(outgoing, write, reply, outcomes) {
                    Some(again) => unsettled.push(again),
                    // Once more: another node's push may have made these chunks stay in between.
                    None if outcomes.is_applied(index) => {
                        if let Some(head) = replaced_chunks {
                            self.expire_chunks(link, &outgoing.id, &head)?;
                        }
                    }
                    None => {}
                }
            }
        }
        for write in unsettled {
            outcomes.settle(write.index, Err("what stands there changes faster than it can be replaced".into()));
        }
        Ok(())
    }

    /// Acts upon a script's answer. Some if it has to be called again.
    fn understand(
        &mut self,
        outgoing: &Outgoing<'_>,
        write: Unsettled,
        reply: Reply,
        outcomes: &mut Outcomes,
    ) -> Option<Unsettled> {
        let index = write.index;
        if reply.as_ref().is_err_and(|refusal| scripts::is_forgotten(refusal)) && !write.whole_script {
            return Some(Unsettled { whole_script: true, ..write });
        }
        let answer = match Answer::of(reply) {
            Ok(answer) => answer,
            Err(refusal) => {
                outcomes.settle(index, Err(refusal));
                return None;
            }
        };
        let standing = StoredValue::read(&answer.head, answer.bytes);
        let pushed = match (answer.verdict, standing) {
            (GuardVerdict::Applied, replaced) => {
                self.counters_off.add(outgoing.put_bytes(), replaced.and_then(|standing| standing.counted_bytes()));
                Pushed::Applied { replaced }
            }
            (GuardVerdict::Chunks, Some(StoredValue::Ours(head))) => {
                return Some(Unsettled { named: answer.head, chunks_of: Some(head), ..write });
            }
            (GuardVerdict::Same, Some(StoredValue::Ours(_))) => Pushed::Same,
            (GuardVerdict::Older, Some(standing @ StoredValue::Ours(_))) => Pushed::Older(standing),
            (GuardVerdict::NoTombstone, replaced) => {
                self.counters_off.add(None, replaced.and_then(|standing| standing.counted_bytes()));
                Pushed::Incomplete(answer.refusal)
            }
            // A damaged head holds back no write, whatever version it states.
            (GuardVerdict::Same | GuardVerdict::Older | GuardVerdict::Chunks, _) => {
                return Some(Unsettled { named: answer.head, chunks_of: None, ..write });
            }
        };
        outcomes.settle(index, Ok(pushed));
        None
    }

    /// Publishes the events of writes that were carried out and have none yet.
    fn name_the_rest(&mut self, link: &mut Link, batch: &[Outgoing<'_>], outcomes: &mut Outcomes) -> Result<(), Error> {
        let unnamed: Vec<(usize, Notice<'_>)> = batch
            .iter()
            .enumerate()
            .filter(|(index, _)| outcomes.is_unnamed(*index))
            .map(|(index, write)| (index, write.notice()))
            .collect();
        if unnamed.is_empty() {
            return Ok(());
        }
        let notices: Vec<Notice<'_>> = unnamed.iter().map(|(_, notice)| *notice).collect();
        let entries = announce(link, &self.keys, self.node, &notices)?;
        for (unnamed, entry) in unnamed.chunks(EVENT_OPS_MAX).zip(entries) {
            for (index, _) in unnamed {
                match &entry {
                    Ok(_) => outcomes.named_now(*index),
                    Err(refusal) => {
                        outcomes.settle(*index, Ok(Pushed::Incomplete(format!("its event is refused: {refusal}"))));
                    }
                }
            }
        }
        Ok(())
    }

    fn script(&mut self, outgoing: &Outgoing<'_>, write: &Unsettled, also_same: bool) -> Cmd {
        let key = self.keys.object(&outgoing.id);
        let guard = Guard { version: version_bytes(outgoing.version), named: &write.named, also_same };
        let mut call = match &outgoing.what {
            What::Put { deadline_ms, .. } => {
                let mut call = scripts::put(&key, &guard, write.whole_script, outgoing.value_bytes_max());
                call.arg(*deadline_ms);
                call
            }
            What::Delete => {
                let mut call = scripts::delete(&key, &guard, write.whole_script);
                call.arg(self.tombstone_ttl_ms);
                call
            }
        };
        self.add_value(&mut call, outgoing);
        call
    }

    /// Appends the value as an argument. Returns the deadline.
    fn add_value(&mut self, command: &mut Cmd, write: &Outgoing<'_>) -> u64 {
        let head = write.head();
        match &write.what {
            What::Put { object, .. } if head.kind == Kind::Object => {
                let mut value = command.writer_for_next_arg();
                // Writing to memory does not fail.
                self.encoder.object(head, object, |bytes| drop(value.write_all(bytes)));
            }
            What::Put { .. } | What::Delete => drop(command.arg(&head.encode()[..])),
        }
        head.deadline_ms
    }
}

/// Whether Redis is asked first what stands there: the write may have been sent before, and sending it again would cost more.
fn is_looked_for(write: &Outgoing<'_>) -> bool {
    write.is_repeat && write.put_bytes().is_some_and(|bytes| bytes > LOOKED_FOR_BYTES_MIN)
}

#[cfg(test)]
mod tests;
