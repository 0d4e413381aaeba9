//! How much Redis has yet to get: a look at the journal behind the replicator, for people and not for deciding anything.

use std::time::Duration;

use crate::error::Error;
use crate::local::journal::{Flags, Header, Kind, Lsn, SegmentKind, Step, Walk};
use crate::local::tier::LocalTier;

/// Most records that are looked at; what is behind them is estimated by the bytes of the journal.
const VISITED_MAX: u64 = 65_536;

/// What Redis does not have yet.
#[derive(Debug, Default)]
pub(crate) struct Unpushed {
    /// Records, overtaken ones included.
    pub records: u64,
    /// Bytes of their objects.
    pub bytes: u64,
    /// How long ago the oldest was written.
    pub oldest_age: Duration,
    pub is_estimate: bool,
}

#[derive(Default)]
struct Sum {
    visited: u64,
    records: u64,
    bytes: u64,
    oldest_ms: Option<u64>,
    /// Bytes of the journal that were looked at, and that were left.
    seen_bytes: u64,
    left_bytes: u64,
}

impl Sum {
    fn add(&mut self, header: &Header) {
        self.records += 1;
        self.bytes += header.body_bytes();
        let ms = header.version.ms();
        self.oldest_ms = Some(self.oldest_ms.map_or(ms, |oldest| oldest.min(ms)));
    }
}

impl LocalTier {
    /// What Redis does not have yet; nothing where the objects are not shared.
    pub fn unpushed(&self) -> Result<Unpushed, Error> {
        let Some(outbox) = &self.outbox else { return Ok(Unpushed::default()) };
        let end = self.journal.end();
        let (walks, apart) = outbox.ledger.unpushed(end);
        let mut sum = Sum::default();
        for lsn in apart {
            // One that cannot be read now, or is gone, still counts.
            match self.record_at(lsn) {
                Ok(record) => sum.add(&record.header),
                Err(_) => sum.records += 1,
            }
        }
        for (from, until, is_backlog) in walks {
            self.sum_up(from, until, is_backlog, &mut sum)?;
        }
        let now_ms = self.journal.time().version_ms();
        let oldest_age = sum.oldest_ms.map_or(0, |oldest_ms| now_ms.saturating_sub(oldest_ms));
        let scaled = |number: u64| {
            let all = u128::from(number) * u128::from(sum.seen_bytes + sum.left_bytes);
            u64::try_from(all.checked_div(u128::from(sum.seen_bytes)).unwrap_or(0)).unwrap_or(u64::MAX)
        };
        let is_estimate = sum.left_bytes > 0;
        let (records, bytes) =
            if is_estimate { (scaled(sum.records), scaled(sum.bytes)) } else { (sum.records, sum.bytes) };
        Ok(Unpushed { records, bytes, oldest_age: Duration::from_millis(oldest_age), is_estimate })
    }

    /// Bytes of the journal that Redis may not have for good yet, but for what stands apart because it could not be pushed.
    pub fn unsettled_bytes(&self) -> u64 {
        let Some(outbox) = &self.outbox else { return 0 };
        self.journal_bytes(outbox.ledger.settled(), self.journal.end())
    }

    fn journal_bytes(&self, from: Lsn, until: Lsn) -> u64 {
        let segments = self.segments.load();
        let records = segments.values().filter(|segment| segment.kind == SegmentKind::Records);
        let within = records.filter(|segment| (from.segment()..=until.segment()).contains(&segment.number));
        let bytes = within.map(|segment| {
            let end = segment.records_end();
            let begin = if segment.number == from.segment() { u64::from(from.offset()) } else { 0 };
            let end = if segment.number == until.segment() { end.min(u64::from(until.offset())) } else { end };
            end.saturating_sub(begin)
        });
        bytes.sum()
    }

    fn sum_up(&self, from: Lsn, until: Lsn, is_backlog: bool, sum: &mut Sum) -> Result<(), Error> {
        let mut next = from;
        while let Some((segment, end)) = self.segment_from(next, until) {
            let start = if next.segment() == segment.number { next.offset() } else { 0 };
            let mapping = match self.segments.mapping(&segment) {
                Ok(mapping) => mapping,
                // The segment was reclaimed meanwhile: what counts of it was copied forward.
                Err(_) if self.segments.get(segment.number).is_none() => {
                    next = next.max(Lsn::new(segment.number, end));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let records = mapping.slice(0, u64::from(end)).unwrap_or_default();
            let mut walk = Walk::new(records, segment.number, segment.nonce).starting_at(start);
            while sum.visited < VISITED_MAX
                && let Some(step) = walk.next()
            {
                sum.visited += 1;
                if let Step::Record { header, .. } = step
                    && (is_backlog || !header.flags.has(Flags::CLEAN))
                    && !header.flags.has(Flags::DETACHED)
                    && (header.kind.stores() || header.kind == Kind::Delete)
                {
                    sum.add(&header);
                }
            }
            let is_over = sum.visited >= VISITED_MAX;
            let reached = if is_over { Lsn::new(segment.number, walk.offset()) } else { Lsn::new(segment.number, end) };
            sum.seen_bytes += u64::from(reached.offset().saturating_sub(start));
            next = next.max(reached);
            if is_over {
                sum.left_bytes += self.journal_bytes(next, until);
                break;
            }
        }
        Ok(())
    }
}
