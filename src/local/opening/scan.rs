//! Scanning a segment that has no hints, record by record; an unsealed one is repaired, sealed and cut by that.

use std::collections::BTreeSet;
use std::io::IoSlice;

use xxhash_rust::xxh3::xxh3_128;

use super::report::Report;
use crate::error::Error;
use crate::id::ObjectId;
use crate::local::catalog::hints::Hint;
use crate::local::index::Fingerprints;
use crate::local::journal::record::RECORD_BYTES_MAX;
use crate::local::journal::{Flags, Header, Kind, Lsn, Seal, Segment, Segments, Step, SyncError, Walk};
use crate::local::read::{Unreadable, verify_body};

/// What the scan of a segment found.
#[derive(Default)]
pub(in crate::local) struct Scanned {
    pub hints: Vec<Hint>,
    pub end: u64,
    /// Greatest version clock.
    pub clock: u64,
    /// Stretches without a valid header between valid ones: at least one record each.
    pub damaged: u64,
}

/// Scans a record segment. One that was not sealed, because its process was killed, is sealed and cut now; a record in it whose body is
/// torn never happened. With a report nothing is changed, and what would be is noted there.
pub(in crate::local) fn scan(
    segments: &Segments,
    segment: &Segment,
    rebooted: bool,
    fingerprints: Fingerprints,
    report: Option<&Report>,
) -> Result<Scanned, Error> {
    let mapping = segments.mapping(segment)?;
    let seal = segment.read_seal().map_err(Error::io("read", segment.path()))?;
    let end = seal.map_or(segment.bytes(), |seal| seal.end.min(segment.bytes()));
    let bytes = mapping.slice(0, end).unwrap_or_default();
    let mut walk = Walk::new(bytes, segment.number, segment.nonce);
    let mut scanned = Scanned::default();
    let mut torn = Vec::new();
    for step in walk.by_ref() {
        match step {
            Step::Record { header, id, body } => {
                let is_whole = seal.is_some() || is_whole(segments, &header, body, rebooted)?;
                let header = if is_whole { header } else { Header { kind: Kind::Void, ..header } };
                if !is_whole {
                    torn.push((header, id.to_vec()));
                }
                scanned.clock = scanned.clock.max(header.version.clock_at_open());
                scanned.hints.push(Hint::of(&header, fingerprints.of(id)));
            }
            Step::Damage { offset, end } => {
                scanned.damaged += 1;
                let name = segment.path().display();
                damaged(report, format!("{name}: bytes {offset} to {end} are damaged; objects in them are lost"));
            }
        }
    }
    scanned.end = seal.map_or(u64::from(walk.offset()), |seal| seal.end);
    if seal.is_some() && end < scanned.end {
        scanned.damaged += 1;
        damaged(report, format!("{} is cut short; objects at its end are lost", segment.path().display()));
    }
    if let (None, Some(report)) = (seal, report) {
        let name = segment.path().display();
        for (header, id) in &torn {
            let (id, at) = (ObjectId::new(id), header.lsn.offset());
            report.note_repair(format!(
                "{name}: the record at {at} was cut short by a crash, object {id}: it counts as never written"
            ));
        }
        if scanned.hints.is_empty() && scanned.damaged == 0 {
            report.note_repair(format!("{name} has no records and is removed"));
        } else {
            let (records, end, bytes) = (scanned.hints.len(), scanned.end, segment.bytes());
            report.note_repair(format!(
                "{name} was left open: it is sealed behind its {records} records and cut from {bytes} to {end} bytes"
            ));
        }
    } else if seal.is_none() {
        for (header, id) in torn {
            void(segment, &header, &id)?;
        }
        // Records and bodies must be durable before the seal, under which a torn record counts as damage. What was found counts from now on.
        segment.sync().map_err(SyncError::into_error)?;
        sync_bodies(segments, &scanned.hints)?;
        let seal = Seal { end: scanned.end, record_count: scanned.hints.len() as u64 };
        segment.write_seal(seal).map_err(Error::io("seal", segment.path()))?;
        segment.trim(seal.end).map_err(Error::io("trim", segment.path()))?;
    }
    segment.close_file();
    Ok(scanned)
}

/// Says what is lost: in the log, or in the report of a directory that is only read.
pub(super) fn damaged(report: Option<&Report>, line: String) {
    match report {
        Some(report) => report.note_damage(line),
        None => tracing::error!("{line}"),
    }
}

/// Whether a record of an unsealed segment is whole. An external body was written before its record, so only a power loss can have torn it.
fn is_whole(segments: &Segments, header: &Header, body: &[u8], rebooted: bool) -> Result<bool, Error> {
    if header.is_inline() {
        return Ok(xxh3_128(body) == header.body_hash);
    }
    if !rebooted {
        return Ok(true);
    }
    if header.kind.stores() && header.flags.has(Flags::SHARED) {
        return has_payload(segments, header.payload);
    }
    if !header.has_body() {
        return Ok(true);
    }
    let Some(segment) = segments.get(header.body_place.segment) else { return Ok(false) };
    match verify_body(&segment, u64::from(header.body_place.offset), header) {
        Ok(()) => Ok(true),
        Err(Unreadable::Damaged(_)) => Ok(false),
        Err(Unreadable::Failed(error)) => Err(error),
    }
}

/// Whether the payload that was first stored at `lsn` outlived a power loss. One in a sealed segment did, and so did one whose segment is
/// gone, as it had moved before.
fn has_payload(segments: &Segments, lsn: Lsn) -> Result<bool, Error> {
    let Some(segment) = segments.get(lsn.segment()) else { return Ok(true) };
    if segment.read_seal().map_err(Error::io("read", segment.path()))?.is_some() {
        return Ok(true);
    }
    let mapping = segments.mapping(&segment)?;
    let offset = u64::from(lsn.offset());
    let bytes = segment.bytes().saturating_sub(offset).min(RECORD_BYTES_MAX as u64);
    let bytes = mapping.slice(offset, bytes).unwrap_or_default();
    let Some((header, _)) = Header::decode(bytes, segment.nonce, lsn).filter(|(header, _)| header.has_body()) else {
        return Ok(false);
    };
    let body = bytes.get(header.body_offset()..header.record_bytes()).unwrap_or_default();
    is_whole(segments, &header, body, true)
}

/// Marks a torn record as one that never happened, so that no later scan takes it for a damaged one.
fn void(segment: &Segment, header: &Header, id: &[u8]) -> Result<(), Error> {
    let mut bytes = Vec::new();
    header.encode(segment.nonce, id, &mut bytes);
    let offset = u64::from(header.lsn.offset());
    let written = segment.file().and_then(|file| file.write_all_at(&mut [IoSlice::new(&bytes)], offset));
    written.map_err(Error::io("write", segment.path()))
}

/// Makes the large bodies durable that these records refer to.
fn sync_bodies(segments: &Segments, hints: &[Hint]) -> Result<(), Error> {
    let external = hints.iter().filter(|hint| hint.flags.has(Flags::EXTERNAL));
    let numbers: BTreeSet<u32> = external.map(|hint| hint.body_place.segment).collect();
    for segment in numbers.into_iter().filter_map(|number| segments.get(number)) {
        segment.sync().map_err(SyncError::into_error)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
