//! Recovery: rebuilds index, payload table and bodies from the catalog's hints, and from the journal itself where there are none.
//!
//! Records are taken newest first. Each names the record that it superseded, so the first record met of an id is the one that counts, and
//! older ones are known by their place, without comparing ids.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustc_hash::FxHashMap;

use crate::error::Error;
use crate::id::ObjectId;
use crate::local::bodies::Bodies;
use crate::local::catalog::hints::Hint;
use crate::local::catalog::{Catalog, SegmentSummary};
use crate::local::files::space::Space;
use crate::local::index::payloads::{Payloads, SharedPayload};
use crate::local::index::{Fingerprints, Index, SHARD_COUNT};
use crate::local::journal::record::{HEADER_BYTES, RECORD_BYTES_MAX};
use crate::local::journal::{Flags, Header, Kind, Lsn, Segment, SegmentKind, Segments, Step, Walk};
use crate::local::opening::report::Report;
use crate::local::opening::scan::{self, Scanned};
use crate::local::opening::superseded::{Successor, Superseded};

/// The state of a recovery under way.
pub(in crate::local) struct Recovery<'a> {
    pub segments: &'a Segments,
    pub space: &'a Arc<Space>,
    pub catalog: &'a Catalog,
    pub bodies: &'a Bodies,
    pub payloads: &'a Payloads,
    pub index: Index,
    pub outcome: Outcome,
    superseded: Superseded,
    reclaimed_below: u32,
    /// Records that share a payload, by its name.
    sharers: FxHashMap<Lsn, Vec<Sharer>>,
    /// The records that hold payloads which are shared or were.
    holders: FxHashMap<Lsn, Holder>,
    opened: Arc<AtomicU32>,
    /// Set where the directory is only read.
    report: Option<Arc<Report>>,
}

/// What recovery found besides the index.
#[derive(Default)]
pub(in crate::local) struct Outcome {
    /// Greatest version clock of all records.
    pub clock: u64,
    pub payloads: u64,
    pub payload_bytes: u64,
    pub damaged_objects: u64,
    /// Segments of which only hints are left.
    pub missing: BTreeSet<u32>,
    /// Older records of ids that have a newer one, whose superseding record is lost: see `LocalTier::bury`.
    pub orphans: Vec<(ObjectId, Lsn)>,
}

/// A live record that shares another's payload.
struct Sharer {
    fingerprint: u64,
    lsn: Lsn,
}

/// A record that holds a payload which is shared, or known by another name.
struct Holder {
    lsn: Lsn,
    hint: Hint,
    owned: bool,
}

/// What recovery makes of a record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// A newer record counts instead, or this one stores nothing.
    Overruled,
    /// The newest record of its id.
    Live,
    /// It would be live, but its bytes are not there.
    Lost,
}

/// A record for the index.
#[derive(Clone, Copy, Default)]
struct Candidate {
    fingerprint: u64,
    /// Its position among the segment's hints.
    number: u32,
}

/// The live records in the order of the index's shards, newest first within each (a counting sort): the index is filled shard by shard,
/// for the sake of the processor's caches. Records with equal fingerprints are in the same shard.
fn by_shard(hints: &[Hint], states: &[State]) -> Vec<Candidate> {
    let live = || (0..).zip(hints.iter().zip(states)).filter(|(_, (_, state))| **state == State::Live);
    let mut ends = vec![0usize; SHARD_COUNT];
    for (_, (hint, _)) in live() {
        if let Some(end) = ends.get_mut(Index::shard_number(hint.fingerprint)) {
            *end += 1;
        }
    }
    let mut sum = 0;
    for end in &mut ends {
        sum += *end;
        *end = sum;
    }
    // Each shard's part is filled from its end, with the oldest first.
    let mut sorted = vec![Candidate::default(); sum];
    for (number, (hint, _)) in live() {
        let Some(end) = ends.get_mut(Index::shard_number(hint.fingerprint)) else { continue };
        *end -= 1;
        if let Some(candidate) = sorted.get_mut(*end) {
            *candidate = Candidate { fingerprint: hint.fingerprint, number };
        }
    }
    sorted
}

impl<'a> Recovery<'a> {
    pub fn new(
        segments: &'a Segments,
        space: &'a Arc<Space>,
        catalog: &'a Catalog,
        bodies: &'a Bodies,
        payloads: &'a Payloads,
        fingerprint_mask: u64,
    ) -> Self {
        Recovery {
            segments,
            space,
            catalog,
            bodies,
            payloads,
            index: Index::new(Fingerprints { seed: catalog.seed(), mask: fingerprint_mask }),
            outcome: Outcome::default(),
            superseded: Superseded::default(),
            reclaimed_below: 0,
            sharers: FxHashMap::default(),
            holders: FxHashMap::default(),
            opened: Arc::default(),
            report: None,
        }
    }

    /// With a report: nothing is changed in the directory, and what would be is noted there.
    pub fn reporting(self, report: Option<Arc<Report>>) -> Self {
        Recovery { report, ..self }
    }

    fn damaged(&self, line: String) {
        scan::damaged(self.report.as_deref(), line);
    }

    /// Record segments below this number were reclaimed.
    pub fn from(self, reclaimed_below: u32) -> Self {
        Recovery { reclaimed_below, ..self }
    }

    /// Lets `opened` tell how far recovery is, in thousandths.
    pub fn telling(mut self, opened: Arc<AtomicU32>) -> Self {
        self.opened = opened;
        self
    }

    /// Replays all segments, newest first. `rebooted`: what was not synced may be lost, so that unsealed segments' bodies are checked too.
    pub fn run(mut self, rebooted: bool) -> Result<(Index, Outcome), Error> {
        let found = self.segments.load();
        let records = found.values().filter(|segment| segment.kind == SegmentKind::Records);
        let mut numbers: BTreeSet<u32> = records.map(|segment| segment.number).collect();
        // Without a catalog, the segments of the journal are all that is known.
        if self.catalog.is_open() {
            let hinted_numbers = self.catalog.segments()?;
            self.index.reserve(self.catalog.object_count_estimate(&hinted_numbers)?);
            numbers.extend(hinted_numbers);
        }
        self.superseded.set_oldest(numbers.first().copied().unwrap_or(0));
        let mut scanned_segments = false;
        let count = numbers.len();
        for (replayed, number) in numbers.into_iter().rev().enumerate() {
            self.opened.store((replayed * 1000 / count) as u32, Ordering::Relaxed);
            let segment = found.get(&number).map(Arc::clone);
            let hinted = self.load(number);
            match (segment, hinted) {
                (Some(segment), Some((closing, hints))) if closing.nonce == segment.nonce => {
                    self.outcome.clock = self.outcome.clock.max(closing.clock);
                    self.replay(&segment, &hints)?;
                    segment.set_sealed();
                }
                (Some(segment), _) => {
                    let scanned = scan::scan(
                        self.segments,
                        &segment,
                        rebooted,
                        self.index.fingerprints(),
                        self.report.as_deref(),
                    )?;
                    self.replay(&segment, &scanned.hints)?;
                    self.remember(&segment, scanned)?;
                    scanned_segments = true;
                }
                (None, Some(_)) if number < self.reclaimed_below => self.forget_hints(number),
                (None, Some((closing, hints))) => {
                    self.outcome.clock = self.outcome.clock.max(closing.clock);
                    self.outcome.missing.insert(number);
                    self.replay_missing(number, &hints)?;
                }
                (None, None) => self.forget_hints(number),
            }
        }
        self.settle_shared();
        // Removes files in which nothing counts.
        if self.report.is_none() {
            self.bodies.restore_free()?;
        }
        if scanned_segments && self.report.is_none() {
            // Records that were scanned count from now on, so no power loss may take them back: the bodies that they superseded are free.
            let directory = self.segments.directory();
            self.segments.sync_directory().map_err(Error::io("sync", directory))?;
            if let Err(error) = self.catalog.flush() {
                tracing::warn!("{error}; the next open walks again what this one has walked");
            }
        }
        Ok((self.index, self.outcome))
    }

    /// A segment's hints; None if there are none or the catalog fails: then the segment is scanned.
    fn load(&self, number: u32) -> Option<(SegmentSummary, Vec<Hint>)> {
        match self.catalog.load(number) {
            Ok(hinted) => hinted,
            Err(error) => {
                tracing::debug!("{error}; segment {number} is walked");
                None
            }
        }
    }

    fn forget_hints(&self, number: u32) {
        if let Err(error) = self.catalog.remove(number) {
            tracing::debug!("{error}; the hints of segment {number} go later");
        }
    }

    /// Stores the hints of a segment that was scanned, so that the next open need not scan it.
    fn remember(&mut self, segment: &Segment, scanned: Scanned) -> Result<(), Error> {
        let Scanned { hints, end, clock, damaged } = scanned;
        self.outcome.clock = self.outcome.clock.max(clock);
        self.outcome.damaged_objects += damaged;
        if self.report.is_some() {
            segment.set_sealed();
            return Ok(());
        }
        if hints.is_empty() && damaged == 0 {
            self.forget_hints(segment.number);
            return self.segments.remove(segment);
        }
        if let Err(error) = self.catalog.store(segment.number, segment.nonce, end, clock, &hints) {
            tracing::debug!("{error}; the hints of segment {} are stored later", segment.number);
        }
        segment.set_sealed();
        Ok(())
    }

    /// Enters a segment's records, newest first.
    fn replay(&mut self, segment: &Arc<Segment>, hints: &[Hint]) -> Result<(), Error> {
        let lsn_of = |hint: &Hint| Lsn::new(segment.number, hint.offset);
        let (mut live_bytes, mut lost) = (0, 0);
        self.superseded.begin(segment.number, hints);
        let mut states = vec![State::Overruled; hints.len()];
        for (hint, state) in hints.iter().zip(&mut states).rev() {
            if self.follow(hint, lsn_of(hint), hints)? {
                *state = if self.is_readable(segment, hint) { State::Live } else { State::Lost };
            }
        }
        for Candidate { fingerprint, number } in by_shard(hints, &states) {
            let (Some(hint), Some(state)) = (hints.get(number as usize), states.get_mut(number as usize)) else {
                continue;
            };
            if !self.index_record(fingerprint, lsn_of(hint))? {
                *state = State::Overruled;
            }
        }
        for (hint, state) in hints.iter().zip(&states).rev() {
            lost += u64::from(*state == State::Lost);
            let is_live = *state == State::Live && self.count(hint, lsn_of(hint));
            live_bytes += if is_live { hint.stride() } else { 0 };
            if !hint.has_body() {
                if is_live {
                    let sharer = Sharer { fingerprint: hint.fingerprint, lsn: lsn_of(hint) };
                    self.sharers.entry(hint.payload).or_default().push(sharer);
                }
            } else if is_live || self.is_readable(segment, hint) {
                self.note_holder(hint, lsn_of(hint), is_live);
            }
        }
        segment.add_live(live_bytes);
        self.space.add_live(live_bytes);
        if lost > 0 {
            self.outcome.damaged_objects += lost;
            let name = segment.path().display();
            self.damaged(format!(
                "{name} or bodies that it refers to are cut short or missing: {lost} objects are lost"
            ));
        }
        Ok(())
    }

    /// A segment of which only the hints are left: its objects are lost, but what they superseded stays superseded.
    fn replay_missing(&mut self, number: u32, hints: &[Hint]) -> Result<(), Error> {
        let mut lost = 0;
        self.superseded.begin(number, hints);
        for hint in hints.iter().rev() {
            lost += u64::from(self.follow(hint, Lsn::new(number, hint.offset), hints)?);
        }
        self.outcome.damaged_objects += lost;
        if lost > 0 {
            self.damaged(format!("segment {number} is missing: {lost} objects are lost"));
        }
        Ok(())
    }

    /// Whether no newer record overrules the one at `lsn`; notes that it overrules the one it superseded. A void record does the latter only
    /// if a newer one superseded it in turn: otherwise what stood before it still stands.
    fn follow(&mut self, hint: &Hint, lsn: Lsn, hints: &[Hint]) -> Result<bool, Error> {
        let is_superseded = self.superseded.meet(lsn) || self.is_severed(hint.fingerprint, lsn)?;
        if !hint.supersedes.is_none() && (is_superseded || hint.kind != Kind::Void) {
            let by = Successor { fingerprint: hint.fingerprint, lsn };
            self.superseded.insert(hint.supersedes, by, hints);
        }
        Ok(hint.kind.stores() && !is_superseded && !hint.flags.has(Flags::DETACHED))
    }

    /// Whether a newer record of the same id superseded one that is lost, so that the chain is broken and this one is older. An id that
    /// cannot be read is taken for the same.
    fn is_severed(&self, fingerprint: u64, lsn: Lsn) -> Result<bool, Error> {
        let Some(superseders) = self.superseded.severed(fingerprint) else { return Ok(false) };
        let Some(id) = self.id_at(lsn)? else { return Ok(true) };
        for superseder in superseders {
            if self.id_at(*superseder)?.is_none_or(|other| other == id) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the files are long enough for the record and its body.
    fn is_readable(&self, records: &Segment, hint: &Hint) -> bool {
        if hint.end() > records.bytes() {
            return false;
        }
        if !hint.has_body() || !hint.flags.has(Flags::EXTERNAL) {
            return true;
        }
        let segment = self.segments.get(hint.body_place.segment);
        let end = u64::from(hint.body_place.offset).saturating_add(hint.body_bytes);
        segment.is_some_and(|segment| end <= segment.bytes())
    }

    /// Enters a record into the index. False if it turns out to be an older record of an id that is entered already.
    fn index_record(&mut self, fingerprint: u64, lsn: Lsn) -> Result<bool, Error> {
        let Some(occupant) = self.index.restore(fingerprint, lsn) else { return Ok(true) };
        let (Some(id), Some(rival)) = (self.id_at(lsn)?, self.id_at(occupant)?) else {
            self.damaged(format!(
                "the record at {lsn} cannot be told from the one at {occupant}: it is taken for an older one"
            ));
            self.outcome.damaged_objects += 1;
            return Ok(false);
        };
        let mut table = self.index.shard(fingerprint).table.write();
        if id == rival || table.find_collision(id.as_bytes()).is_some() {
            self.outcome.orphans.push((id, lsn));
            return Ok(false);
        }
        table.set(fingerprint, id.as_bytes(), None, lsn);
        Ok(true)
    }

    /// Counts a live record, and restores its body. False if another record has that body.
    fn count(&mut self, hint: &Hint, lsn: Lsn) -> bool {
        if !hint.has_body() || self.restore_body(hint, lsn) {
            return true;
        }
        self.damaged(format!("the record at {lsn} refers to a body that another one has"));
        self.index.shard(hint.fingerprint).table.write().remove_place(hint.fingerprint, lsn);
        self.outcome.damaged_objects += 1;
        false
    }

    fn restore_body(&mut self, hint: &Hint, lsn: Lsn) -> bool {
        if hint.flags.has(Flags::EXTERNAL) {
            let segment = self.segments.get(hint.body_place.segment);
            if !segment.is_some_and(|segment| self.bodies.restore(hint.body_place, hint.body_bytes, &segment, lsn)) {
                return false;
            }
        }
        self.outcome.payloads += 1;
        self.outcome.payload_bytes += hint.body_bytes;
        true
    }

    /// Remembers the holder of a payload if its name differs from its place, or if sharers were met: these are always newer than the record
    /// that first stored the payload, so they are met first.
    fn note_holder(&mut self, hint: &Hint, lsn: Lsn, owned: bool) {
        let name = if hint.flags.has(Flags::NAMED) { hint.payload } else { lsn };
        if name != lsn || self.sharers.contains_key(&name) {
            self.holders.entry(name).or_insert(Holder { lsn, hint: *hint, owned });
        }
    }

    /// When all segments are replayed: joins sharers and payloads.
    fn settle_shared(&mut self) {
        for (payload, sharers) in std::mem::take(&mut self.sharers) {
            let holder = self.holders.remove(&payload);
            let is_there =
                holder.as_ref().is_some_and(|holder| holder.owned || self.restore_body(&holder.hint, holder.lsn));
            let Some(Holder { lsn, hint, owned }) = holder.filter(|_| is_there) else {
                self.damaged(format!(
                    "the payload first stored at {payload} is missing: {} objects are lost",
                    sharers.len()
                ));
                self.outcome.damaged_objects += sharers.len() as u64;
                for Sharer { fingerprint, lsn } in &sharers {
                    self.index.shard(*fingerprint).table.write().remove_place(*fingerprint, *lsn);
                }
                continue;
            };
            if !owned && let Some(segment) = self.segments.get(lsn.segment()) {
                segment.add_live(hint.stride());
                self.space.add_live(hint.stride());
            }
            let (weight, sharers) = ((&hint).into(), sharers.len() as u32);
            self.payloads.restore(payload, SharedPayload { holder: lsn, weight, sharers, owned });
        }
    }

    /// The id in the record at `lsn`; None where the record is not valid.
    fn id_at(&self, lsn: Lsn) -> Result<Option<ObjectId>, Error> {
        let Some(segment) = self.segments.get(lsn.segment()) else { return Ok(None) };
        let file = segment.file().map_err(Error::io("open", segment.path()))?;
        let offset = u64::from(lsn.offset());
        let readable = segment.bytes().saturating_sub(offset).min(RECORD_BYTES_MAX as u64);
        let mut bytes = vec![0; readable.min((HEADER_BYTES + crate::ID_BYTES_MAX) as u64) as usize];
        file.read_exact_at(&mut bytes, offset).map_err(Error::io("read", segment.path()))?;
        Ok(Header::decode(&bytes, segment.nonce, lsn).map(|(_, id)| ObjectId::new(id)))
    }
}

/// The hints of a sealed segment after recovery: from the catalog, or made from its records.
pub(in crate::local) fn hints(
    segments: &Segments,
    catalog: &Catalog,
    segment: &Segment,
    fingerprints: Fingerprints,
) -> Result<Vec<Hint>, Error> {
    if let Ok(Some((closing, hints))) = catalog.load(segment.number)
        && closing.nonce == segment.nonce
    {
        return Ok(hints);
    }
    let mapping = segments.mapping(segment)?;
    let bytes = mapping.slice(0, segment.records_end()).unwrap_or_default();
    let records = Walk::new(bytes, segment.number, segment.nonce).filter_map(|step| match step {
        Step::Record { header, id, .. } => Some(Hint::of(&header, fingerprints.of(id))),
        Step::Damage { .. } => None, // was reported during recovery
    });
    Ok(records.collect())
}

#[cfg(test)]
mod tests;
