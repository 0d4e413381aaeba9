//! The replication cursors as the catalog stores them: how far pushing and hearing have come, and for which Redis that holds.
//!
//! ```text
//!  0  checksum        u64   xxh3-64 of the rest
//!  8  replicated      u64   lsn: everything below has reached Redis for good
//! 16  in step         u64   when the event reader was last in step, in milliseconds since 1970 on Redis's clock
//! 24  suspect below   u64   lsn: objects below it may have to be checked before they are served
//! 32  suspect since   u64   when the event reader was in step before they came to be suspect
//! 40  events length   u16
//! 42  prefix length   u16
//! 44  epoch length    u16
//! 46  events cursor, key prefix, epoch
//! ```
//!
//! All numbers are little-endian.

use xxhash_rust::xxh3::xxh3_64;

use crate::clock::{Past, events_ms};
use crate::local::journal::Lsn;

/// How far replication has come; see the layout above.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursors {
    pub replicated: Lsn,
    pub in_step_ms: u64,
    pub suspect_below: Lsn,
    pub suspect_since_ms: u64,
    /// The last entry of the event stream that was acted upon; empty where there is none.
    pub events: String,
    pub prefix: String,
    /// The random value of the epoch key. A different value means another Redis, or the same one after it was emptied.
    pub epoch: String,
}

const FIXED_BYTES: usize = 46;

impl Cursors {
    /// The lower bounds on Redis's clock that follow from these cursors.
    pub fn past(&self) -> Past {
        Past { redis_ms: self.in_step_ms, events_ms: events_ms(&self.events) }
    }

    pub fn encode(&self) -> Vec<u8> {
        let texts = [&self.events, &self.prefix, &self.epoch];
        let mut out = vec![0; 8];
        out.extend_from_slice(&self.replicated.to_u64().to_le_bytes());
        out.extend_from_slice(&self.in_step_ms.to_le_bytes());
        out.extend_from_slice(&self.suspect_below.to_u64().to_le_bytes());
        out.extend_from_slice(&self.suspect_since_ms.to_le_bytes());
        for text in texts {
            out.extend_from_slice(&(text.len().min(usize::from(u16::MAX)) as u16).to_le_bytes());
        }
        for text in texts {
            out.extend_from_slice(text.as_bytes().get(..usize::from(u16::MAX)).unwrap_or(text.as_bytes()));
        }
        let checksum = xxh3_64(out.get(8..).unwrap_or_default());
        if let Some(place) = out.first_chunk_mut() {
            *place = checksum.to_le_bytes();
        }
        out
    }

    /// None where the bytes are not whole.
    pub fn decode(bytes: &[u8]) -> Option<Cursors> {
        let (fixed, mut texts) = bytes.split_at_checked(FIXED_BYTES)?;
        let u64_at = |at: usize| fixed.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        if u64_at(0)? != xxh3_64(bytes.get(8..)?) {
            return None;
        }
        let mut text = |at: usize| {
            let length = u16::from_le_bytes(*fixed.get(at..)?.first_chunk()?);
            let (text, rest) = texts.split_at_checked(usize::from(length))?;
            texts = rest;
            String::from_utf8(text.to_vec()).ok()
        };
        let (events, prefix, epoch) = (text(40)?, text(42)?, text(44)?);
        Some(Cursors {
            replicated: Lsn::from_u64(u64_at(8)?),
            in_step_ms: u64_at(16)?,
            suspect_below: Lsn::from_u64(u64_at(24)?),
            suspect_since_ms: u64_at(32)?,
            events,
            prefix,
            epoch,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_read_back_and_a_flipped_byte_is_seen() {
        let cursors = Cursors {
            replicated: Lsn::new(3, 96),
            in_step_ms: 77,
            suspect_below: Lsn::new(2, 64),
            suspect_since_ms: 66,
            events: "1700000000000-1".into(),
            prefix: "scaler:obj:".into(),
            epoch: "e".into(),
        };
        let bytes = cursors.encode();
        assert_eq!(bytes[8..24], [96, 0, 0, 0, 3, 0, 0, 0, 77, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[24..40], [64, 0, 0, 0, 2, 0, 0, 0, 66, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[40..46], [15, 0, 11, 0, 1, 0]);
        assert_eq!(Cursors::decode(&bytes), Some(cursors));
        for position in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[position] ^= 1;
            assert_eq!(Cursors::decode(&flipped), None, "byte {position}");
            assert_eq!(Cursors::decode(&bytes[..position]), None, "cut at {position}");
        }
    }
}
