//! The stream of what changed, and the layout of its entries. An entry has two fields:
//!
//! ```text
//! n  the node that wrote it, 8 bytes, big-endian
//! b  up to EVENT_OPS_MAX times:
//!      op         u8   1 put, 2 delete, 3 want, 4 hello, 5 repair
//!      id length  u16  little-endian; 0 in a hello
//!      id
//!      version    16   big-endian: clock, node
//! ```

use std::time::Duration;

use redis::{Cmd, Value};

use super::envelope::{VERSION_BYTES, version_bytes};
use super::keys::Keys;
use super::link::Link;
use super::pipeline::{Reply, code};
use super::refusals::unusable;
use super::scripts;
use crate::error::Error;
use crate::version::Version;

/// Most operations in one entry: a few KiB, which Redis handles in microseconds.
pub(crate) const EVENT_OPS_MAX: usize = 128;

/// About how many entries the stream keeps. A node that was cut off can resume after some seconds at full speed, after hours in a normal
/// cluster.
pub(crate) const EVENTS_MAX: usize = 32768;

/// What an event says of its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Op {
    Put = 1,
    Delete = 2,
    /// The node asks whoever holds the id to push it again.
    Want = 3,
    /// Means nothing: written in order to have an entry of one's own as a cursor.
    Hello = 4,
    /// As `Want`, but what stands in Redis is damaged, whatever version it states.
    Repair = 5,
}

/// An operation that a node announces to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Notice<'a> {
    pub op: Op,
    pub id: &'a [u8],
    pub version: Version,
}

impl<'a> Notice<'a> {
    pub fn want(id: &'a [u8]) -> Self {
        Notice { op: Op::Want, id, version: Version::default() }
    }

    pub fn repair(id: &'a [u8]) -> Self {
        Notice { op: Op::Repair, id, version: Version::default() }
    }

    pub fn hello() -> Self {
        Notice { op: Op::Hello, id: &[], version: Version::default() }
    }
}

/// An operation that a node has heard of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub node: u64,
    pub op: Op,
    pub id: Vec<u8>,
    pub version: Version,
}

/// The result of a read of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub events: Vec<Event>,
    /// Where the next read goes on.
    pub cursor: String,
    /// The entry that the cursor named is gone: events may have been missed, and the cursor is of no use any more.
    pub lost_past: bool,
    /// An entry was not understood: what it tells of is missed.
    pub has_unknown: bool,
    /// How many entries were read, understood or not.
    pub entry_count: usize,
}

impl Op {
    fn from_u8(value: u8) -> Option<Op> {
        [Op::Put, Op::Delete, Op::Want, Op::Hello, Op::Repair].into_iter().find(|op| *op as u8 == value)
    }
}

/// Packs up to [`EVENT_OPS_MAX`] notices.
fn pack(notices: &[Notice<'_>]) -> Vec<u8> {
    let mut batch = Vec::with_capacity(notices.iter().map(|notice| 3 + notice.id.len() + VERSION_BYTES).sum());
    for notice in notices {
        batch.push(notice.op as u8);
        batch.extend_from_slice(&(notice.id.len() as u16).to_le_bytes());
        batch.extend_from_slice(notice.id);
        batch.extend_from_slice(&version_bytes(notice.version));
    }
    batch
}

#[cfg(any(test, fuzzing))]
pub(super) fn pack_events(events: &[Event]) -> Vec<u8> {
    events.iter().flat_map(|Event { op, id, version, .. }| pack(&[Notice { op: *op, id, version: *version }])).collect()
}

/// Appends the events of a batch. False, with nothing appended, if the batch is malformed.
pub(super) fn unpack(node: u64, mut batch: &[u8], events: &mut Vec<Event>) -> bool {
    let before = events.len();
    while !batch.is_empty() {
        match next(node, &mut batch) {
            Some(event) if events.len() - before < EVENT_OPS_MAX => events.push(event),
            _ => {
                events.truncate(before);
                return false;
            }
        }
    }
    true
}

fn next(node: u64, batch: &mut &[u8]) -> Option<Event> {
    let (&[op, low, high], rest) = batch.split_first_chunk::<3>()?;
    let (id, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([low, high])))?;
    let (version, rest) = rest.split_first_chunk::<VERSION_BYTES>()?;
    let (op, version) = (Op::from_u8(op)?, u128::from_be_bytes(*version));
    if op == Op::Hello && !id.is_empty() {
        return None;
    }
    *batch = rest;
    let version = Version { clock: (version >> 64) as u64, node: version as u64 };
    Some(Event { node, op, id: id.to_vec(), version })
}

/// The command that adds one entry.
pub(super) fn adding(keys: &Keys, node: u64, notices: &[Notice<'_>]) -> Cmd {
    let mut add = redis::cmd("XADD");
    add.arg(keys.events()).arg("MAXLEN").arg("~").arg(EVENTS_MAX).arg("*");
    add.arg("n").arg(&node.to_be_bytes()[..]).arg("b").arg(pack(notices));
    add
}

/// The command that atomically deletes a value without a version and adds its entry, even when Redis is full and refuses transactions.
pub(super) fn deleting_when_full(keys: &Keys, node: u64, notice: Notice<'_>) -> Cmd {
    let (object, events) = (keys.object(notice.id), keys.events());
    scripts::delete_when_full(&object, &events, EVENTS_MAX, &node.to_be_bytes(), &pack(&[notice]))
}

/// Adds an entry for each of `notices.chunks(EVENT_OPS_MAX)`, and returns the answer to each. Entries are added even when Redis is out of
/// memory: the stream's length is bounded, and deletes have to be heard of.
pub(super) fn announce(link: &mut Link, keys: &Keys, node: u64, notices: &[Notice<'_>]) -> Result<Vec<Reply>, Error> {
    let entries: Vec<Cmd> = notices.chunks(EVENT_OPS_MAX).map(|notices| adding(keys, node, notices)).collect();
    let mut replies = link.run(&entries)?;
    for (reply, notices) in replies.iter_mut().zip(notices.chunks(EVENT_OPS_MAX)) {
        if reply.as_ref().is_err_and(|refusal| code(refusal) == "OOM") {
            let events = keys.events();
            *reply =
                link.run_one(scripts::publish_when_full(&events, EVENTS_MAX, &node.to_be_bytes(), &pack(notices)))?;
        }
    }
    Ok(replies)
}

/// Why an answer of another shape than Redis gives is an error.
const UNKNOWN_ANSWER: &str = "its answer is not known";

/// Publishes, and returns the id of the last entry: a cursor from which a reader can begin.
pub(crate) fn publish(link: &mut Link, keys: &Keys, node: u64, notices: &[Notice<'_>]) -> Result<String, Error> {
    let mut last = String::new();
    for reply in announce(link, keys, node, notices)? {
        last = match reply {
            Ok(Value::BulkString(id)) => String::from_utf8_lossy(&id).into_owned(),
            Ok(_) => return Err(refused(link, UNKNOWN_ANSWER)),
            Err(refusal) => return Err(refused(link, &refusal)),
        };
    }
    Ok(last)
}

/// The id of the stream's last entry; None if there is none.
pub(crate) fn last(link: &mut Link, keys: &Keys) -> Result<Option<EntryId>, Error> {
    match link.run_one(asking_last(keys))? {
        Ok(entries) => last_of(&entries).ok_or_else(|| refused(link, UNKNOWN_ANSWER)),
        Err(refusal) => Err(refused(link, &refusal)),
    }
}

/// The command of `last`.
pub(super) fn asking_last(keys: &Keys) -> Cmd {
    let mut last = redis::cmd("XREVRANGE");
    last.arg(keys.events()).arg("+").arg("-").arg("COUNT").arg(1);
    last
}

/// Reads the answer to `asking_last`: the last entry's id, if there is one; None for anything else.
pub(super) fn last_of(entries: &Value) -> Option<Option<EntryId>> {
    let entry = match entries.as_sequence()? {
        [] => return Some(None),
        [entry] => entry,
        _ => return None,
    };
    match entry.as_sequence()?.first()? {
        Value::BulkString(id) => EntryId::parse(&String::from_utf8_lossy(id)).map(Some),
        _ => None,
    }
}

/// The id of an entry: milliseconds on Redis's clock, and a number within them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EntryId {
    pub ms: u64,
    pub number: u64,
}

impl EntryId {
    /// Parses `1700000000000-3`; None for anything else.
    pub fn parse(id: &str) -> Option<EntryId> {
        let (ms, number) = id.split_once('-')?;
        Some(EntryId { ms: ms.parse().ok()?, number: number.parse().ok()? })
    }
}

/// Whether the stream has lost no entry by trimming, judged by its length. False if Redis does not tell.
pub(crate) fn is_whole(link: &mut Link, keys: &Keys) -> Result<bool, Error> {
    let mut length = redis::cmd("XLEN");
    length.arg(keys.events());
    Ok(matches!(link.run_one(length)?, Ok(Value::Int(length)) if length < EVENTS_MAX as i64))
}

/// Reads entries from the beginning of the stream, or behind a cursor, without waiting for more.
pub(crate) fn gathered(link: &mut Link, keys: &Keys, behind: Option<&str>, entries_max: usize) -> Result<Read, Error> {
    let mut range = redis::cmd("XRANGE");
    range.arg(keys.events());
    match behind {
        Some(cursor) => range.arg(format!("({cursor}")),
        None => range.arg("-"),
    };
    range.arg("+").arg("COUNT").arg(entries_max.max(1));
    let entries = link.run_one(range)?.map_err(|refusal| refused(link, &refusal))?;
    let entries = entries.as_sequence().ok_or_else(|| refused(link, UNKNOWN_ANSWER))?;
    // Without a cursor or an entry, nothing is behind what was read.
    let cursor = behind.unwrap_or_default().to_owned();
    Ok(Read::of(entries, cursor, false))
}

/// Waits up to `block` for entries after `cursor`; the link's response timeout has to be longer.
///
/// XREAD does not report that entries behind the cursor were trimmed or flushed, so the entry of the cursor itself is read as well.
pub(crate) fn read(
    link: &mut Link,
    keys: &Keys,
    cursor: &str,
    block: Duration,
    entries_max: usize,
) -> Result<Read, Error> {
    let key = keys.events();
    let mut entries = redis::cmd("XREAD");
    entries.arg("COUNT").arg(entries_max.max(1)).arg("BLOCK").arg(block.as_millis().max(1) as u64);
    entries.arg("STREAMS").arg(&key).arg(cursor);
    let mut past = redis::cmd("XRANGE");
    past.arg(&key).arg(cursor).arg(cursor);
    let mut replies = link.run(&[entries, past])?.into_iter();
    let (entries, past) = match (replies.next(), replies.next()) {
        (Some(Ok(entries)), Some(Ok(past))) => (entries, past),
        (Some(Err(refusal)), _) | (_, Some(Err(refusal))) => return Err(refused(link, &refusal)),
        _ => return Err(refused(link, "no answer")),
    };
    let (Some(entries), Some(past)) = (stream_entries(&entries), past.as_sequence()) else {
        return Err(refused(link, UNKNOWN_ANSWER));
    };
    Ok(Read::of(entries, cursor.to_owned(), past.is_empty()))
}

/// The entries in XREAD's answer: nothing, or `[[key, [entry, ...]]]`; None for anything else.
fn stream_entries(answer: &Value) -> Option<&[Value]> {
    match answer {
        Value::Nil => Some(&[]),
        streams => streams.as_sequence()?.first()?.as_sequence()?.get(1)?.as_sequence(),
    }
}

impl Read {
    fn of(entries: &[Value], cursor: String, lost_past: bool) -> Self {
        let entry_count = entries.len();
        let mut read = Read { events: Vec::new(), cursor, lost_past, has_unknown: false, entry_count };
        entries.iter().for_each(|entry| read.take(entry));
        read
    }

    /// Adds an entry: `[id, [name, value, ...]]`.
    fn take(&mut self, entry: &Value) {
        let Some([Value::BulkString(id), fields]) = entry.as_sequence() else {
            tracing::warn!("an entry in the event stream cannot be read; what it tells of is missed");
            self.has_unknown = true;
            return;
        };
        self.cursor = String::from_utf8_lossy(id).into_owned();
        let field = |name: &[u8]| {
            fields.as_sequence()?.as_chunks::<2>().0.iter().find_map(|pair| match pair {
                [Value::BulkString(found), Value::BulkString(value)] if found == name => Some(value.as_slice()),
                _ => None,
            })
        };
        let node = field(b"n").and_then(|node| <[u8; 8]>::try_from(node).ok()).map(u64::from_be_bytes);
        let understood = match (node, field(b"b")) {
            (Some(node), Some(batch)) => unpack(node, batch, &mut self.events),
            _ => false,
        };
        if !understood {
            tracing::warn!("entry {} in the event stream cannot be read; what it tells of is missed", self.cursor);
            self.has_unknown = true;
        }
    }
}

/// A refusal of the event stream. Without events a node is cut off, as if Redis could not be reached.
fn refused(link: &Link, refusal: &str) -> Error {
    unusable(link.address(), &format!("it refuses the event stream: {refusal}"))
}

#[cfg(test)]
mod tests;
