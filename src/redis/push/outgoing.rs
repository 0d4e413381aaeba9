//! Writes that are to be pushed.

use std::cell::OnceCell;

use crate::redis::body::Body;
use crate::redis::envelope::{HEAD_BYTES, Head, Kind, chunk_count};
use crate::redis::events::{Notice, Op};
use crate::version::Version;

/// A write to be pushed to Redis.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing<'a> {
    pub id: Vec<u8>,
    pub version: Version,
    pub what: What<'a>,
    /// It may have been sent before, so Redis is asked first whether it stands there.
    pub is_repeat: bool,
}

/// What a write does.
#[derive(Clone, Debug)]
pub(crate) enum What<'a> {
    Put {
        object: Body<'a>,
        /// xxh3-128 of metadata and data, once it is known: that of a chunked object is computed while its chunks are sent.
        body_hash: OnceCell<u128>,
        /// Milliseconds since 1970; 0 never.
        deadline_ms: u64,
    },
    Delete,
}

impl Outgoing<'_> {
    /// Bytes of metadata and data.
    pub fn bytes(&self) -> usize {
        self.put_bytes().unwrap_or(0) as usize
    }

    /// Bytes of metadata and data; None for a delete.
    pub(super) fn put_bytes(&self) -> Option<u64> {
        match &self.what {
            What::Put { object, .. } => Some(object.raw().len() as u64),
            What::Delete => None,
        }
    }

    /// Whether the object is chunked.
    pub fn is_large(&self) -> bool {
        self.put_bytes().is_some_and(|bytes| chunk_count(bytes).is_some())
    }

    pub(super) fn value_bytes_max(&self) -> usize {
        HEAD_BYTES + if self.is_large() { 0 } else { self.bytes() }
    }

    /// The head of its value.
    pub(super) fn head(&self) -> Head {
        match &self.what {
            What::Put { object, body_hash, deadline_ms } => {
                let body_hash = *body_hash.get_or_init(|| object.raw().hash());
                Head::put(self.version, object, body_hash, *deadline_ms)
            }
            What::Delete => Head::tombstone(self.version),
        }
    }

    /// The manifest's head, as far as chunks need it (version and deadline); None if the object is not chunked.
    pub(super) fn manifest(&self) -> Option<Head> {
        let What::Put { object, body_hash, deadline_ms } = &self.what else { return None };
        // The hash may not be known yet; chunks are told apart by the version alone.
        let body_hash = body_hash.get().copied().unwrap_or_default();
        let head = Head::put(self.version, object, body_hash, *deadline_ms);
        (head.kind == Kind::Manifest).then_some(head)
    }

    /// The event of the write.
    pub(super) fn notice(&self) -> Notice<'_> {
        let op = if matches!(self.what, What::Put { .. }) { Op::Put } else { Op::Delete };
        Notice { op, id: &self.id, version: self.version }
    }
}
