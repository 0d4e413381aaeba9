//! The first round trip of a batch, in two halves: what can be sent at once, and the answers to that. Between them Redis is at work, and the
//! next batch may be begun.

use redis::{Cmd, Value};

use super::counters::Counters;
use super::{How, Outcomes, Outgoing, Pushed, Pusher, Unsettled, What};
use crate::error::Error;
use crate::redis::events::{EVENT_OPS_MAX, Notice, adding};
use crate::redis::link::Link;
use crate::redis::pipeline::Reply;

/// A pipeline is sent in parts of so many commands, or bytes of data, so that Redis works on one while the next is prepared.
const AHEAD_COMMANDS: usize = 64;
const AHEAD_BYTES: u64 = 256 << 10;

/// A batch that was begun: its first commands are sent, and its answers are still to be read.
#[derive(Default)]
pub(crate) struct Begun {
    /// Which writes of the batch were sent.
    chosen: Vec<usize>,
    pub(super) also_same: bool,
    /// How many commands were sent: one for each write, then those from here on for the counters, then those from here on for the events.
    commands: usize,
    counted_from: usize,
    named_from: usize,
    /// The changes of the counters that were sent, and those among them that make up for earlier ones.
    expected: Counters,
    pub(super) owed: Counters,
    /// The answers, if they were read already.
    answers: Option<Vec<Reply>>,
}

impl Begun {
    /// Nothing was sent yet.
    pub(super) fn nothing(also_same: bool) -> Begun {
        Begun { also_same, ..Begun::default() }
    }

    /// Reads the answers, to be used later. There must be none in front of them.
    pub(super) fn receive(&mut self, link: &mut Link) -> Result<(), Error> {
        self.answers = Some(link.receive_ahead(0)?);
        Ok(())
    }
}

impl Pusher {
    /// Sends writes that are not chunked, or a manifest.
    pub(super) fn send(
        &mut self,
        link: &mut Link,
        batch: &[Outgoing<'_>],
        chosen: Vec<usize>,
        How { also_same, naming }: How,
    ) -> Result<Begun, Error> {
        if chosen.is_empty() {
            return Ok(Begun::nothing(also_same));
        }
        let mut commands: Vec<Cmd> = Vec::with_capacity(AHEAD_COMMANDS.min(chosen.len() + 3));
        let owed = std::mem::take(&mut self.counters_off);
        self.counters_sent = self.counters_sent.and(owed);
        let mut expected = owed;
        let (mut sent, mut bytes) = (0, 0);
        let mut notices: Vec<Notice<'_>> = Vec::with_capacity(chosen.len());
        for index in &chosen {
            let Some(write) = batch.get(*index) else { continue }; // never: the places are this batch's own
            if commands.len() >= AHEAD_COMMANDS || bytes >= AHEAD_BYTES {
                sent += commands.len();
                bytes = 0;
                link.send_ahead(std::mem::take(&mut commands))?;
            }
            bytes += write.bytes() as u64;
            match write.what {
                What::Put { ref object, .. } => {
                    expected.add(Some(object.raw().len() as u64), None);
                    commands.push(self.set_where_nothing_stands(write));
                }
                What::Delete => commands.push(self.script(write, &Unsettled::new(*index, false), also_same)),
            }
            notices.push(write.notice());
        }
        let counted_from = sent + commands.len();
        commands.extend(expected.commands(&self.keys));
        let named_from = sent + commands.len();
        if naming {
            commands.extend(notices.chunks(EVENT_OPS_MAX).map(|notices| adding(&self.keys, self.node, notices)));
        }
        let total = sent + commands.len();
        link.send_ahead(commands)?;
        Ok(Begun { chosen, also_same, commands: total, counted_from, named_from, expected, owed, answers: None })
    }

    /// Reads the answers to what was sent. Those that met no value are settled; returns those for which the script has to be called.
    pub(super) fn answered(
        &mut self,
        link: &mut Link,
        batch: &[Outgoing<'_>],
        begun: Begun,
        behind: Option<&Begun>,
        outcomes: &mut Outcomes,
    ) -> Result<Vec<Unsettled>, Error> {
        let Begun { chosen, counted_from, named_from, expected, owed, answers, .. } = begun;
        let mut replies = match answers {
            Some(answers) => answers,
            None => link.receive_ahead(behind.map_or(0, |behind| behind.commands))?,
        };
        self.counters_sent = self.counters_sent.without(owed);
        let entries = replies.split_off(named_from.min(replies.len()));
        self.counted(expected, &replies.split_off(counted_from.min(replies.len())));
        let mut unsettled = Vec::new();
        for (place, (index, reply)) in chosen.into_iter().zip(replies).enumerate() {
            let Some(write) = batch.get(index) else { continue }; // never, as in `send`
            let put_bytes = write.put_bytes();
            match reply {
                Ok(Value::Nil) => unsettled.push(Unsettled::new(index, false)),
                Ok(Value::Okay) => outcomes.settle(index, Ok(Pushed::Applied { replaced: None })),
                reply => unsettled.extend(self.understand(write, Unsettled::new(index, false), reply, outcomes)),
            }
            if put_bytes.is_some() && !outcomes.is_new(index) {
                self.counters_off.add(None, put_bytes); // it was counted as new in advance
            }
            if outcomes.is_settled(index) && entries.get(place / EVENT_OPS_MAX).is_some_and(Reply::is_ok) {
                outcomes.named_now(index);
            }
        }
        Ok(unsettled)
    }

    fn set_where_nothing_stands(&mut self, write: &Outgoing<'_>) -> Cmd {
        let key = self.keys.object(&write.id);
        let mut set = Cmd::with_capacity(6, 96 + key.len() + write.value_bytes_max());
        set.arg("SET").arg(key);
        let deadline_ms = self.add_value(&mut set, write);
        set.arg("NX");
        if deadline_ms != 0 {
            set.arg("PXAT").arg(deadline_ms);
        }
        set
    }
}
