//! The value under a key, as far as its head tells.

use super::envelope::{Head, Kind, is_ours};
use crate::version::Version;

/// What stands under an object's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoredValue {
    /// An object, a manifest or a tombstone.
    Ours(Head),
    /// A value of the Python backend: older than every version.
    Python { bytes: u64 },
    /// One of ours whose head cannot be read.
    Damaged { bytes: u64 },
}

impl StoredValue {
    /// From a value's first bytes and its length; None where nothing stands there.
    pub(super) fn read(head: &[u8], bytes: u64) -> Option<StoredValue> {
        if head.is_empty() {
            return None;
        }
        Some(match Head::decode(head) {
            Ok(head) => StoredValue::Ours(head),
            Err(_) if is_ours(head) => StoredValue::Damaged { bytes },
            Err(_) => StoredValue::Python { bytes },
        })
    }

    /// Whether an object can be read there: not where a tombstone stands, or something damaged.
    pub fn is_object(&self) -> bool {
        match self {
            StoredValue::Ours(head) => head.kind != Kind::Tombstone,
            StoredValue::Python { .. } => true,
            StoredValue::Damaged { .. } => false,
        }
    }

    /// The value's version; None if it has none that can be trusted.
    pub fn version(&self) -> Option<Version> {
        match self {
            StoredValue::Ours(head) => Some(head.version),
            StoredValue::Python { .. } | StoredValue::Damaged { .. } => None,
        }
    }

    /// Bytes of metadata and data, for the counters; None where no object exists.
    pub(super) fn counted_bytes(&self) -> Option<u64> {
        match self {
            StoredValue::Ours(head) if head.kind == Kind::Tombstone => None,
            StoredValue::Ours(head) => Some(head.body_bytes()),
            StoredValue::Python { bytes } => Some(bytes.saturating_sub(4)),
            StoredValue::Damaged { bytes } => Some(*bytes),
        }
    }
}
