//! The weight of a record: the bytes that count as live because of it.

use crate::local::catalog::hints::Hint;
use crate::local::journal::{BodyPlace, Flags, Header};

/// What a record takes while it counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weight {
    /// Bytes in its segment.
    pub stride: u64,
    /// Bytes of its payload.
    pub body_bytes: u64,
    /// Where that is, if not in the record.
    pub body: Option<BodyPlace>,
}

impl From<&Header> for Weight {
    fn from(header: &Header) -> Self {
        let body = header.flags.has(Flags::EXTERNAL).then_some(header.body_place);
        Weight { stride: header.stride(), body_bytes: header.body_bytes(), body }
    }
}

impl From<&Hint> for Weight {
    fn from(hint: &Hint) -> Self {
        let body = hint.flags.has(Flags::EXTERNAL).then_some(hint.body_place);
        Weight { stride: hint.stride(), body_bytes: hint.body_bytes, body }
    }
}
