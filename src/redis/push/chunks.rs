//! Objects too large for one value. A crash at any point leaves neither half an object nor chunks that stay for ever: they expire until
//! the manifest that names them stands.

use std::io::Write as _;

use redis::{Cmd, RedisWrite as _, Value};

use super::{How, Outcomes, Outgoing, Pushed, Pusher, What};
use crate::error::Error;
use crate::object::Object;
use crate::redis::envelope::{CHUNK_BYTES, CHUNK_HEAD_BYTES, Head, Kind};
use crate::redis::fetch::{looked, looking};
use crate::redis::link::Link;
use crate::redis::pipeline::Reply;
use crate::redis::standing::Standing;

/// Chunks sent in one pipeline: 4 MiB.
const CHUNKS_SENT_MAX: u32 = 4;

/// Expiries changed in one pipeline.
const EXPIRIES_MAX: u32 = 512;

/// How long chunks wait for their manifest.
const WAITING_SECONDS: u64 = 3600;

/// How long chunks outlive their manifest, for readers that have begun.
const READING_SECONDS: u64 = 60;

/// How long a chunk stays.
#[derive(Clone, Copy)]
enum Stay {
    /// Until its manifest stands, but not for ever.
    Waiting,
    /// As long as the object: until this deadline, or for ever where it is 0.
    Until(u64),
}

impl Pusher {
    /// Chunks, then the manifest, then the chunks are made to stay.
    pub(super) fn push_large(
        &mut self,
        link: &mut Link,
        batch: &[Outgoing],
        index: usize,
        also_same: bool,
        outcomes: &mut Outcomes,
    ) -> Result<(), Error> {
        let Some(Outgoing { id, version, what: What::Put { object, body_hash, deadline_ms }, .. }) = batch.get(index)
        else {
            return Ok(());
        };
        let head = Head::put(*version, object, *body_hash, *deadline_ms);
        if let Err(refusal) = self.send_chunks(link, id, &head, object, also_same)? {
            outcomes.settle(index, Err(refusal));
            return Ok(());
        }
        let how = How { also_same, naming: false, meanwhile: || {} };
        self.apply(link, batch, &[index], how, outcomes)?;
        if let Some(Ok(Pushed::Applied { .. } | Pushed::Same)) = outcomes.get(index)
            && let Err(refusal) = self.keep_chunks(link, id, &head, object)?
        {
            outcomes.settle(index, Err(refusal));
        }
        Ok(())
    }

    pub(super) fn send_chunks(
        &mut self,
        link: &mut Link,
        id: &[u8],
        head: &Head,
        object: &Object,
        also_same: bool,
    ) -> Result<Result<(), String>, Error> {
        for first in (0..head.chunk_count).step_by(CHUNKS_SENT_MAX as usize) {
            let last = head.chunk_count.min(first + CHUNKS_SENT_MAX);
            let sets: Vec<Cmd> =
                (first..last).map(|chunk| self.set_chunk(id, head, object, chunk, Stay::Waiting, also_same)).collect();
            for reply in link.run(&sets)? {
                if let Err(refusal) = reply {
                    return Ok(Err(refusal));
                }
            }
        }
        Ok(Ok(()))
    }

    /// Takes the expiry from the chunks, or sets the object's; those that are gone are sent again.
    pub(super) fn keep_chunks(
        &mut self,
        link: &mut Link,
        id: &[u8],
        head: &Head,
        object: &Object,
    ) -> Result<Result<(), String>, Error> {
        let stay = Stay::Until(head.deadline_ms);
        for first in (0..head.chunk_count).step_by(EXPIRIES_MAX as usize) {
            let chunks = first..head.chunk_count.min(first + EXPIRIES_MAX);
            let keeps: Vec<Cmd> =
                chunks.clone().map(|chunk| keep(self.keys.chunk(id, head.version, chunk), head)).collect();
            for (chunk, reply) in chunks.zip(link.run(&keeps)?) {
                let reply: Reply = match reply {
                    // Gone, or it stays already: PERSIST does not tell which.
                    Ok(Value::Int(0)) => match link.run_one(length(self.keys.chunk(id, head.version, chunk)))? {
                        Ok(Value::Int(0)) => link.run_one(self.set_chunk(id, head, object, chunk, stay, false))?,
                        stands => stands,
                    },
                    reply => reply,
                };
                if let Err(refusal) = reply {
                    return Ok(Err(refusal));
                }
            }
        }
        // Whoever replaced the manifest in the meantime has made its chunks expire, perhaps before they were made to stay.
        let replies = link.run(&looking(&self.keys.object(id)))?;
        let standing = replies.first_chunk::<2>().map(looked);
        if !matches!(standing, Some(Ok(Some(Standing::Ours(standing)))) if standing.version == head.version) {
            self.expire_chunks(link, id, head)?;
        }
        Ok(Ok(()))
    }

    fn set_chunk(&mut self, id: &[u8], head: &Head, object: &Object, chunk: u32, stay: Stay, also_same: bool) -> Cmd {
        let key = self.keys.chunk(id, head.version, chunk);
        let mut set = Cmd::with_capacity(6, 96 + key.len() + CHUNK_HEAD_BYTES + CHUNK_BYTES.min(object.len()));
        set.arg("SET").arg(key);
        {
            let mut value = set.writer_for_next_arg();
            // Writing to memory does not fail.
            self.encoder.chunk(object, chunk, |bytes| drop(value.write_all(bytes)));
        }
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

    /// Lets the chunks of a manifest that is being replaced go, when who reads them has had time to finish.
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
            // Where there is none of so many, a damaged manifest claims too much.
            if !link.run(&expiries)?.iter().any(|reply| matches!(reply, Ok(Value::Int(1)))) {
                break;
            }
        }
        Ok(())
    }
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
