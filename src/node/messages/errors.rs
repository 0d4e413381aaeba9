//! Errors of the store on their way to another process.

use std::io;

use super::Malformed;
use super::fields::{Fields, Reader};
use crate::error::Error;
use crate::id::ObjectId;

pub(crate) fn encode(error: &Error, fields: &mut Fields<'_>) {
    let text = |path: &std::path::Path| path.display().to_string();
    match error {
        Error::InvalidId { len, bytes_min, bytes_max } => {
            fields.u8(1).u64(*len as u64).u64(*bytes_min as u64).u64(*bytes_max as u64);
        }
        Error::TooLarge { id, bytes, bytes_max } => {
            fields.u8(2).bytes(id.as_bytes()).u64(*bytes).u64(*bytes_max);
        }
        Error::Full { id, bytes, live_bytes, capacity_bytes, place } => {
            fields.u8(3).bytes(id.as_bytes()).u64(*bytes).u64(*live_bytes).u64(*capacity_bytes).text(place);
        }
        Error::Io { action, path, source } => {
            let code = source.raw_os_error().unwrap_or(0).unsigned_abs();
            fields.u8(4).text(action).text(&text(path)).u32(code).text(&source.to_string());
        }
        Error::Catalog { path, reason } => {
            fields.u8(5).text(&text(path)).text(reason);
        }
        Error::WritesRefused { path, cause } => {
            fields.u8(6).text(&text(path)).text(cause);
        }
        Error::Unreachable { address, reason } => {
            fields.u8(7).text(address).text(reason);
        }
        Error::Refused { address, action, id, reason } => {
            fields.u8(8).text(address).text(action).bytes(id.as_bytes()).text(reason);
        }
        Error::Closed => {
            fields.u8(9);
        }
        Error::WriteFailed { id, reason } => {
            fields.u8(10).bytes(id.as_bytes()).text(reason);
        }
        Error::LengthMismatch { id, written, announced } => {
            fields.u8(11).bytes(id.as_bytes()).u64(*written).u64(*announced);
        }
        Error::Denied { address, reason } => {
            fields.u8(13).text(address).text(reason);
        }
        // Of opening, and of this process: their words are all that matters to another.
        other => {
            fields.u8(12).text(&other.to_string());
        }
    }
}

/// What is tried in operations on an open store: `action` of the errors that can come from a keeper.
const ACTIONS: [&str; 24] = [
    "open",
    "read",
    "write",
    "sync",
    "create",
    "grow",
    "map",
    "rename",
    "remove",
    "trim",
    "seal",
    "shorten",
    "replace",
    "cut off a failed write in",
    "make",
    "list",
    "look at",
    "note in",
    "begin a session in",
    "open a segment of",
    "ask for the free space of",
    "store",
    "delete",
    "start a thread for",
];

fn known_action(action: &str) -> &'static str {
    ACTIONS.into_iter().find(|known| *known == action).unwrap_or("use")
}

pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Error, Malformed> {
    let id = |reader: &mut Reader<'_>| reader.bytes().map(ObjectId::new);
    Ok(match reader.u8()? {
        1 => {
            let mut number = || reader.u64().map(|number| usize::try_from(number).unwrap_or(usize::MAX));
            Error::InvalidId { len: number()?, bytes_min: number()?, bytes_max: number()? }
        }
        2 => Error::TooLarge { id: id(reader)?, bytes: reader.u64()?, bytes_max: reader.u64()? },
        3 => Error::Full {
            id: id(reader)?,
            bytes: reader.u64()?,
            live_bytes: reader.u64()?,
            capacity_bytes: reader.u64()?,
            place: reader.text()?,
        },
        4 => {
            let (action, path, code, text) = (reader.text()?, reader.text()?, reader.u32()?, reader.text()?);
            let source = match i32::try_from(code) {
                Ok(code) if code > 0 => io::Error::from_raw_os_error(code),
                _ => io::Error::other(text),
            };
            Error::Io { action: known_action(&action), path: path.into(), source }
        }
        5 => Error::Catalog { path: reader.text()?.into(), reason: reader.text()? },
        6 => Error::WritesRefused { path: reader.text()?.into(), cause: reader.text()? },
        7 => Error::Unreachable { address: reader.text()?, reason: reader.text()? },
        8 => Error::Refused {
            address: reader.text()?,
            action: known_action(&reader.text()?),
            id: id(reader)?,
            reason: reader.text()?,
        },
        9 => Error::Closed,
        10 => Error::WriteFailed { id: id(reader)?, reason: reader.text()? },
        11 => Error::LengthMismatch { id: id(reader)?, written: reader.u64()?, announced: reader.u64()? },
        12 => Error::Config(reader.text()?),
        13 => Error::Denied { address: reader.text()?, reason: reader.text()? },
        _ => return Err(Malformed("there is no such error")),
    })
}
