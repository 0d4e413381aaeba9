//! Reading objects, or only the heads of values, from Redis: values, chunks behind a manifest, and values of the Python backend.

use bytes::Bytes;
use redis::{Cmd, Value};

use super::envelope::{self, CHUNK_BYTES, CHUNK_HEAD_BYTES, HEAD_BYTES, Head, Kind};
use super::keys::Keys;
use super::link::Link;
use super::pipeline::{Reply, code};
use super::python;
use super::stored_value::StoredValue;
use crate::error::Error;
use crate::object::Object;
use crate::version::Version;

/// Most values read in one pipeline, of up to a MiB each.
const IDS_MAX: usize = 32;

/// Most chunks read in one pipeline, of a MiB each.
const CHUNKS_MAX: u32 = 4;

/// How often reading begins anew because the object was replaced under the reader.
const STARTS_MAX: usize = 8;

/// What stands in Redis under an id.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fetched {
    Missing,
    /// A tombstone: deleted, by this version.
    Tombstone(Version),
    Object(VersionedObject),
    /// A value of the Python backend, older than every version.
    Python(Object),
    /// Bytes that cannot be what was stored.
    Damaged {
        version: Option<Version>,
        reason: String,
    },
}

/// An object with what its head says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VersionedObject {
    pub version: Version,
    /// Milliseconds since 1970; 0 never.
    pub deadline_ms: u64,
    pub body_hash: u128,
    pub object: Object,
}

/// What is known of a value after its first bytes are read.
enum Beginning {
    Settled(Fetched),
    Manifest(Box<Head>),
    /// A value of the Python backend that is longer than what was read.
    Longer,
}

/// Reads objects, whole and verified. `object_bytes_max` bounds data and metadata together (0: no bound); for a larger object there is a
/// refusal instead, and its bytes are not read.
pub(crate) fn fetch(
    link: &mut Link,
    keys: &Keys,
    ids: &[impl AsRef<[u8]>],
    object_bytes_max: u64,
) -> Result<Vec<Result<Fetched, String>>, Error> {
    let object_bytes_max = if object_bytes_max == 0 { u64::MAX } else { object_bytes_max };
    let mut all = Vec::with_capacity(ids.len());
    for ids in ids.chunks(IDS_MAX) {
        let asked: Vec<Cmd> =
            ids.iter().map(|id| range(&keys.object(id.as_ref()), 0, HEAD_BYTES + CHUNK_BYTES)).collect();
        for (id, reply) in ids.iter().zip(link.run_at_master(keys, asked)?) {
            all.push(match bytes(reply) {
                Ok(value) => whole(link, keys, id.as_ref(), beginning(value), object_bytes_max)?,
                Err(refusal) => Err(refusal),
            });
        }
    }
    Ok(all)
}

/// What stands under an id, or why Redis does not say.
pub(crate) type Looked = Result<Option<StoredValue>, String>;

/// Reads what stands under each id: its head and its length only.
pub(crate) fn heads(link: &mut Link, keys: &Keys, ids: &[impl AsRef<[u8]>]) -> Result<Vec<Looked>, Error> {
    let asked: Vec<Cmd> = ids.iter().flat_map(|id| looking(&keys.object(id.as_ref()))).collect();
    let replies = link.run_at_master(keys, asked)?;
    let (pairs, _) = replies.as_chunks::<2>();
    Ok(pairs.iter().map(looked).collect())
}

/// The commands whose answers [`looked`] reads.
pub(super) fn looking(key: &str) -> [Cmd; 2] {
    let mut length = redis::cmd("STRLEN");
    length.arg(key);
    [range(key, 0, HEAD_BYTES - 1), length]
}

/// What stands there, from the answers to `looking`.
pub(super) fn looked(replies: &[Reply; 2]) -> Result<Option<StoredValue>, String> {
    match replies {
        [Ok(Value::BulkString(head)), Ok(Value::Int(length))] => {
            Ok(StoredValue::read(head, u64::try_from(*length).unwrap_or(0)))
        }
        [Err(refusal), _] | [_, Err(refusal)] => Err(refusal.clone()),
        _ => Err("its answer is not known".into()),
    }
}

fn range(key: &str, first: usize, last: usize) -> Cmd {
    let mut range = redis::cmd("GETRANGE");
    range.arg(key).arg(first).arg(last);
    range
}

fn bytes(reply: Reply) -> Result<Vec<u8>, String> {
    match reply? {
        Value::BulkString(bytes) => Ok(bytes),
        Value::Nil => Ok(Vec::new()),
        _ => Err("its answer is not known".into()),
    }
}

fn damaged(value: &[u8], reason: String) -> Fetched {
    Fetched::Damaged { version: envelope::stated_version(value), reason }
}

/// Classifies the first bytes of a value: up to the length of the longest object that stands in one value, plus one. Deadlines are not
/// checked: Redis expires values by its own clock, and what it still has lives.
fn beginning(value: Vec<u8>) -> Beginning {
    if value.is_empty() {
        return Beginning::Settled(Fetched::Missing);
    }
    if !envelope::is_ours(&value) {
        if value.len() > HEAD_BYTES + CHUNK_BYTES {
            return Beginning::Longer;
        }
        return Beginning::Settled(python_object(value));
    }
    let head = match Head::decode(&value) {
        Ok(head) => head,
        Err(reason) => return Beginning::Settled(damaged(&value, reason)),
    };
    match head.kind {
        Kind::Tombstone => Beginning::Settled(Fetched::Tombstone(head.version)),
        Kind::Manifest => Beginning::Manifest(Box::new(head)),
        Kind::Object => Beginning::Settled(found(&head, envelope::decode_object(&head, value))),
    }
}

fn found(head: &Head, object: Result<Object, String>) -> Fetched {
    let Head { version, deadline_ms, body_hash, .. } = *head;
    match object {
        Ok(object) => Fetched::Object(VersionedObject { version, deadline_ms, body_hash, object }),
        Err(reason) => Fetched::Damaged { version: Some(version), reason },
    }
}

fn python_object(value: Vec<u8>) -> Fetched {
    match python::decode(value) {
        Ok(object) => Fetched::Python(object),
        Err(reason) => Fetched::Damaged { version: None, reason },
    }
}

fn too_large(bytes: u64, bytes_max: u64) -> String {
    format!("it has {bytes} bytes, the limit is {bytes_max} bytes (max_object_size_mb)")
}

/// Reads the rest of a value.
fn whole(
    link: &mut Link,
    keys: &Keys,
    id: &[u8],
    mut beginning: Beginning,
    object_bytes_max: u64,
) -> Result<Result<Fetched, String>, Error> {
    let key = keys.object(id);
    for _ in 0..STARTS_MAX {
        let head = match beginning {
            Beginning::Settled(Fetched::Object(VersionedObject { object, .. }) | Fetched::Python(object))
                if object.len() as u64 > object_bytes_max =>
            {
                return Ok(Err(too_large(object.len() as u64, object_bytes_max)));
            }
            Beginning::Settled(fetched) => return Ok(Ok(fetched)),
            Beginning::Longer => match long_python_value(link, &key, object_bytes_max)? {
                Ok(read) => {
                    beginning = read;
                    continue;
                }
                Err(refusal) => return Ok(Err(refusal)),
            },
            Beginning::Manifest(head) => head,
        };
        if head.body_bytes() > object_bytes_max {
            return Ok(Err(too_large(head.body_bytes(), object_bytes_max)));
        }
        let reason = match body(link, keys, id, &head)? {
            Ok(body) => match head.object(body) {
                Ok(object) => return Ok(Ok(found(&head, Ok(object)))),
                Err(reason) => reason,
            },
            Err(NoBody::Damaged(reason)) => reason,
            Err(NoBody::Refused(refusal)) => return Ok(Err(refusal)),
        };
        // A chunk is missing or wrong: either the object was replaced meanwhile, or it is damaged.
        beginning = match bytes(link.run_one(range(&key, 0, HEAD_BYTES + CHUNK_BYTES))?) {
            Ok(value) => match self::beginning(value) {
                Beginning::Manifest(again) if *again == *head => {
                    return Ok(Ok(Fetched::Damaged { version: Some(head.version), reason }));
                }
                changed => changed,
            },
            Err(refusal) => return Ok(Err(refusal)),
        };
    }
    Ok(Err("it was replaced again and again while it was read".into()))
}

/// Why a manifest's body could not be read.
enum NoBody {
    /// A chunk is missing or wrong.
    Damaged(String),
    /// Redis refuses to tell.
    Refused(String),
}

/// Reads the body of a manifest from its chunks. Memory grows with what arrives, whatever the manifest claims.
fn body(link: &mut Link, keys: &Keys, id: &[u8], head: &Head) -> Result<Result<Bytes, NoBody>, Error> {
    let mut body = Vec::new();
    for first in (0..head.chunk_count).step_by(CHUNKS_MAX as usize) {
        let chunks = first..head.chunk_count.min(first + CHUNKS_MAX);
        let asked: Vec<Cmd> = chunks
            .clone()
            .map(|chunk| range(&keys.chunk(id, head.version, chunk), 0, CHUNK_HEAD_BYTES + CHUNK_BYTES))
            .collect();
        for (chunk, reply) in chunks.zip(link.run(&asked)?) {
            let piece = match bytes(reply) {
                Ok(value) if value.is_empty() => Err(format!("chunk {chunk} of {} is missing", head.chunk_count)),
                Ok(value) => envelope::decode_chunk(value, head.chunk_bytes(chunk)),
                Err(refusal) if code(&refusal) == "WRONGTYPE" => Err(refusal),
                Err(refusal) => return Ok(Err(NoBody::Refused(refusal))),
            };
            match piece {
                Ok(piece) => body.extend_from_slice(&piece),
                Err(reason) => return Ok(Err(NoBody::Damaged(reason))),
            }
        }
    }
    Ok(Ok(body.into()))
}

/// Reads a long value of the Python backend in one piece: as it has no version, pieces of two values could not be told apart.
fn long_python_value(link: &mut Link, key: &str, object_bytes_max: u64) -> Result<Result<Beginning, String>, Error> {
    let object_bytes_max = object_bytes_max.min(python::VALUE_BYTES_MAX);
    let value_bytes_max = object_bytes_max + 4;
    let mut length = redis::cmd("STRLEN");
    length.arg(key);
    match link.run_one(length)? {
        Ok(Value::Int(bytes)) if bytes as u64 > value_bytes_max => {
            return Ok(Err(too_large(bytes as u64 - 4, object_bytes_max)));
        }
        Ok(_) => {}
        Err(refusal) => return Ok(Err(refusal)),
    }
    // Bounded again, as the value may have grown since: one byte more than the limit shows that.
    let value = match bytes(link.run_one(range(key, 0, value_bytes_max as usize))?) {
        Ok(value) => value,
        Err(refusal) => return Ok(Err(refusal)),
    };
    Ok(if envelope::is_ours(&value) || value.is_empty() {
        Ok(beginning(value))
    } else if value.len() as u64 > value_bytes_max {
        Err(too_large(value.len() as u64 - 4, object_bytes_max))
    } else {
        Ok(Beginning::Settled(python_object(value)))
    })
}

#[cfg(test)]
mod tests;
