//! Pages of a listing in the fields of a message.
//!
//! ```text
//! page      u32 count, then each object; then where the listing goes on, as bytes, empty at its end
//! object    id as bytes, data bytes u64, metadata bytes u64,
//!           a byte 0, or 1 and the version: clock u64, node u64,
//!           when it ends u64, 0 never, state u8, what is wrong as text, place as text
//! ```

use super::Malformed;
use super::fields::{Fields, Reader};
use crate::backend::{LISTED_MAX, ListPosition, Listed, ObjectState, Page};
use crate::id::ObjectId;
use crate::version::Version;

/// Longer words are cut: with the longest ids too, a page fits a message.
const WORDS_BYTES_MAX: usize = 160;

fn cut(text: &str) -> &str {
    let end = (0..=WORDS_BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    end.and_then(|end| text.get(..end)).unwrap_or_default()
}

pub(super) fn encode(page: &Page, fields: &mut Fields<'_>) {
    let objects = page.objects.get(..LISTED_MAX).unwrap_or(&page.objects);
    fields.u32(objects.len() as u32);
    for object in objects {
        let Listed { id, data_bytes, metadata_bytes, version, expires_ms, state, place } = object;
        fields.bytes(id.as_bytes()).u64(*data_bytes).u64(*metadata_bytes);
        match version {
            Some(Version { clock, node }) => fields.u8(1).u64(*clock).u64(*node),
            None => fields.u8(0),
        };
        let (number, reason) = match state {
            ObjectState::Kept => (0, ""),
            ObjectState::Dirty => (1, ""),
            ObjectState::Clean => (2, ""),
            ObjectState::Suspect => (3, ""),
            ObjectState::Remote => (4, ""),
            ObjectState::Damaged { reason } => (5, reason.as_str()),
        };
        fields.u64(expires_ms.unwrap_or(0)).u8(number).text(cut(reason)).text(cut(place));
    }
    fields.bytes(page.next.as_ref().map_or(&[], |next| next.0.as_slice()));
}

pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Page, Malformed> {
    let count = reader.u32()? as usize;
    if count > LISTED_MAX {
        return Err(Malformed("more objects than a page has"));
    }
    let objects = (0..count).map(|_| object(reader)).collect::<Result<_, _>>()?;
    let next = reader.bytes()?;
    Ok(Page { objects, next: (!next.is_empty()).then(|| ListPosition(next.to_vec())) })
}

fn object(reader: &mut Reader<'_>) -> Result<Listed, Malformed> {
    let id = ObjectId::new(reader.bytes()?);
    let (data_bytes, metadata_bytes) = (reader.u64()?, reader.u64()?);
    let version = if reader.bool()? { Some(Version { clock: reader.u64()?, node: reader.u64()? }) } else { None };
    let expires_ms = Some(reader.u64()?).filter(|ms| *ms > 0);
    let (number, reason, place) = (reader.u8()?, words(reader)?, words(reader)?);
    let state = match number {
        5 => ObjectState::Damaged { reason },
        _ if !reason.is_empty() => return Err(Malformed("only what is damaged has a reason")),
        0 => ObjectState::Kept,
        1 => ObjectState::Dirty,
        2 => ObjectState::Clean,
        3 => ObjectState::Suspect,
        4 => ObjectState::Remote,
        _ => return Err(Malformed("there is no such state")),
    };
    Ok(Listed { id, data_bytes, metadata_bytes, version, expires_ms, state, place })
}

fn words(reader: &mut Reader<'_>) -> Result<String, Malformed> {
    let words = reader.text()?;
    if words.len() > WORDS_BYTES_MAX { Err(Malformed("more words than a listing has")) } else { Ok(words) }
}
