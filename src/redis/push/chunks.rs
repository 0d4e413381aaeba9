//! Pushing objects in chunks. A crash at any point leaves neither half an object nor chunks that stay for ever: until their manifest
//! stands, chunks have an expiry.

use std::thread;

use redis::{Cmd, Value};
use xxhash_rust::xxh3::Xxh3;

use super::second_encoder::SecondEncoder;
use super::{How, Outcomes, Outgoing, Pushed, Pusher, What};
use crate::error::Error;
use crate::redis::envelope::{Head, Kind, chunk_of};
use crate::redis::fetch::{looked, looking};
use crate::redis::link::Link;
use crate::redis::pipeline::Reply;
use crate::redis::stored_value::StoredValue;

/// Most chunks in flight, 4 MiB: while Redis takes them, the next one is prepared.
const CHUNKS_AHEAD_MAX: usize = 4;

/// The number of the value's argument in `SET key value ...`.
const VALUE_OF_SET: usize = 2;

/// After a chunk that did not shrink, compression is tried again only for every so many chunks, in case the object is joined of several
/// parts.
const SHRINKING_TRIED_EVERY: u32 = 16;

/// Most expiries changed in one pipeline.
const EXPIRIES_MAX: u32 = 512;

/// How long chunks wait for their manifest.
const WAITING_SECONDS: u64 = 3600;

/// How long chunks outlive their manifest, for readers that have begun.
const READING_SECONDS: u64 = 60;

/// How long a chunk stays.
#[derive(Clone, Copy)]
enum Stay {
    /// For `WAITING_SECONDS`, until its manifest stands.
    Waiting,
    /// As long as the object: until this deadline, or for ever if it is 0.
    Until(u64),
}

impl Pusher {
    /// Sends the chunks, then the manifest, then makes the chunks stay.
    pub(super) fn push_large(
        &mut self,
        link: &mut Link,
        batch: &[Outgoing<'_>],
        index: usize,
        also_same: bool,
        outcomes: &mut Outcomes,
    ) -> Result<(), Error> {
        let Some(write) = batch.get(index) else { return Ok(()) };
        if let Err(refusal) = self.send_chunks(link, write, also_same)? {
            outcomes.settle(index, Err(refusal));
            return Ok(());
        }
        self.apply(link, batch, vec![index], How { also_same, naming: false }, outcomes)?;
        if let Some(Ok(Pushed::Applied { .. } | Pushed::Same)) = outcomes.get(index)
            && let Err(refusal) = self.keep_chunks(link, write)?
        {
            outcomes.settle(index, Ok(Pushed::Incomplete(refusal))); // others may read it until its chunks expire
        }
        Ok(())
    }

    /// Sends all chunks with an expiry, and computes the body's hash on the way if it is not known.
    pub(super) fn send_chunks(
        &mut self,
        link: &mut Link,
        write: &Outgoing<'_>,
        also_same: bool,
    ) -> Result<Result<(), String>, Error> {
        let (Some(head), What::Put { object, body_hash, .. }) = (write.manifest(), &write.what) else {
            return Ok(Ok(()));
        };
        let mut hasher = body_hash.get().is_none().then(Xxh3::new);
        let refusal = thread::scope(|scope| -> Result<Option<String>, Error> {
            let mut second = None;
            let mut shrinks = self.encoder.seems_to_shrink(chunk_of(object.raw(), 0));
            for chunk in 0..head.chunk_count {
                let raw = chunk_of(object.raw(), chunk);
                if shrinks {
                    second = second.or_else(|| SecondEncoder::start(scope));
                    second.iter_mut().for_each(|second| second.keep_busy(object.raw(), chunk, head.chunk_count));
                }
                if let Some(hasher) = &mut hasher {
                    raw.add_to(hasher);
                }
                let set = set(self.keys.chunk(&write.id, head.version, chunk), Stay::Waiting, also_same);
                let value = match second.as_mut().and_then(|second| second.finish(chunk)) {
                    Some(encoder) => encoder.prepared(raw),
                    None => self.encoder.chunk(raw, shrinks || chunk.is_multiple_of(SHRINKING_TRIED_EVERY)),
                };
                link.send_lent_ahead(&set, VALUE_OF_SET, &value.pieces())?;
                shrinks = value.has_shrunk;
                let answers = link.receive_ahead(CHUNKS_AHEAD_MAX)?;
                if let Some(refusal) = answers.into_iter().find_map(Reply::err) {
                    link.run(&[])?; // receives the answers that are still to come
                    return Ok(Some(refusal));
                }
            }
            Ok(link.run(&[])?.into_iter().find_map(Reply::err))
        })?;
        if let Some(hasher) = hasher.filter(|_| refusal.is_none()) {
            body_hash.get_or_init(|| hasher.digest128());
        }
        Ok(refusal.map_or(Ok(()), Err))
    }

    /// Removes the chunks' expiry, or sets the object's deadline as theirs. Chunks that are gone are sent again.
    pub(super) fn keep_chunks(&mut self, link: &mut Link, write: &Outgoing<'_>) -> Result<Result<(), String>, Error> {
        let (Some(head), What::Put { object, .. }, id) = (write.manifest(), &write.what, &write.id) else {
            return Ok(Ok(()));
        };
        let stay = Stay::Until(head.deadline_ms);
        for first in (0..head.chunk_count).step_by(EXPIRIES_MAX as usize) {
            let chunks = first..head.chunk_count.min(first + EXPIRIES_MAX);
            let keeps: Vec<Cmd> =
                chunks.clone().map(|chunk| keep(self.keys.chunk(id, head.version, chunk), &head)).collect();
            for (chunk, reply) in chunks.zip(link.run(&keeps)?) {
                let reply: Reply = match reply {
                    // The chunk is gone, or has no expiry already: PERSIST does not tell which.
                    Ok(Value::Int(0)) => match link.run_one(length(self.keys.chunk(id, head.version, chunk)))? {
                        Ok(Value::Int(0)) => {
                            let set = set(self.keys.chunk(id, head.version, chunk), stay, false);
                            let value = self.encoder.chunk(chunk_of(object.raw(), chunk), true);
                            link.send_lent_ahead(&set, VALUE_OF_SET, &value.pieces())?;
                            link.run(&[])?.pop().unwrap_or_else(|| Err("no answer".into()))
                        }
                        stands => stands,
                    },
                    reply => reply,
                };
                if let Err(refusal) = reply {
                    return Ok(Err(refusal));
                }
            }
        }
        // If the manifest was replaced meanwhile, its chunks were set to expire, perhaps before they were made to stay here.
        let replies = link.run(&looking(&self.keys.object(id)))?;
        let standing = replies.first_chunk::<2>().map(looked);
        if !matches!(standing, Some(Ok(Some(StoredValue::Ours(standing)))) if standing.version == head.version) {
            self.expire_chunks(link, id, &head)?;
        }
        Ok(Ok(()))
    }

    /// Sets the chunks of a replaced manifest to expire after `READING_SECONDS`, so that readers can finish.
    pub(super) fn expire_chunks(&mut self, link: &mut Link, id: &[u8], head: &Head) -> Result<(), Error> {
        if head.kind != Kind::Manifest {
            return Ok(());
        }
        for first in (0..head.chunk_count).step_by(EXPIRIES_MAX as usize) {
            let expiries: Vec<Cmd> = (first..head.chunk_count.min(first + EXPIRIES_MAX))
                .map(|chunk| {
                    let mut expire = redis::cmd("EXPIRE");
                    expire.arg(self.keys.chunk(id, head.version, chunk)).arg(READING_SECONDS);
                    expire
                })
                .collect();
            // None of so many exists: there are no more, though a damaged manifest may claim so.
            if !link.run(&expiries)?.iter().any(|reply| matches!(reply, Ok(Value::Int(1)))) {
                break;
            }
        }
        Ok(())
    }
}

/// Sets a chunk, but for its value.
fn set(key: String, stay: Stay, also_same: bool) -> Cmd {
    let mut set = redis::cmd("SET");
    set.arg(key).arg("");
    if !also_same {
        set.arg("NX");
    }
    match stay {
        Stay::Waiting => drop(set.arg("EX").arg(WAITING_SECONDS)),
        Stay::Until(0) => {}
        Stay::Until(deadline_ms) => drop(set.arg("PXAT").arg(deadline_ms)),
    }
    set
}

fn length(key: String) -> Cmd {
    let mut length = redis::cmd("STRLEN");
    length.arg(key);
    length
}

fn keep(key: String, head: &Head) -> Cmd {
    if head.deadline_ms == 0 {
        let mut persist = redis::cmd("PERSIST");
        persist.arg(key);
        return persist;
    }
    let mut expire = redis::cmd("PEXPIREAT");
    expire.arg(key).arg(head.deadline_ms);
    expire
}
