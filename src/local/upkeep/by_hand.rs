//! For tests: a store without threads, whose upkeep a test carries out step by step.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use tempfile::TempDir;

use super::room::Eviction;
use super::sealer::Sealer;
use crate::clock::Reading;
use crate::error::Error;
use crate::local::backend::RecoveredTier;
use crate::local::catalog::Catalog;
use crate::local::catalog::hints::Hint;
use crate::local::files::space::Lease;
use crate::local::index::liveness::Standing;
use crate::local::journal::{Flags, Lsn, Segment};
use crate::local::sharing::ledger::Lane;
use crate::local::sharing::outbox::{Outbox, OutboxOptions};
use crate::local::tier::LocalTier;
use crate::local::write::Fill;
use crate::local::{LocalOptions, Underlying};
use crate::object::Object;
use crate::version::Version;

/// In a store of this size, segments have 1 MiB.
const MAX_SIZE_MB: u64 = 64;

pub const SEGMENT_BYTES: u64 = 1 << 20;

pub struct ByHand {
    pub tier: Arc<LocalTier>,
    pub sealer: Sealer,
    place: TempDir,
}

/// What of a store is left when it is opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    All,
    /// The journal alone: the catalog is gone.
    Journal,
}

/// Options of a store whose objects are shared with other nodes and live for ever.
pub fn outbox() -> OutboxOptions {
    let (wake, _) = bounded(1);
    OutboxOptions { prefix: "t:".into(), object_ttl_ms: 0, tombstone_ttl_ms: 60_000, has_versions: true, wake }
}

impl ByHand {
    pub fn open(outbox: Option<OutboxOptions>) -> Self {
        Self::open_on(Underlying::default(), outbox)
    }

    pub fn open_on(under: Underlying, outbox: Option<OutboxOptions>) -> Self {
        Self::open_in(tempfile::tempdir().unwrap(), under, outbox, 0)
    }

    /// A store that is not shared, whose objects live for so long; 0 for ever.
    pub fn open_living(object_ttl_seconds: u64) -> Self {
        Self::open_in(tempfile::tempdir().unwrap(), Underlying::default(), None, object_ttl_seconds)
    }

    fn open_in(place: TempDir, under: Underlying, outbox: Option<OutboxOptions>, object_ttl_seconds: u64) -> Self {
        let path = place.path().into();
        let options = LocalOptions { path, max_size_mb: MAX_SIZE_MB, object_ttl_seconds, ..LocalOptions::default() };
        let RecoveredTier { tier, parts, .. } = RecoveredTier::open(&options, under, outbox).unwrap();
        if let Some(outbox) = &tier.outbox {
            outbox.continuity.confirm_for_long();
        }
        let sealer = Sealer::new(Arc::clone(&tier), parts);
        assert_eq!(tier.space.segment_bytes_max(), SEGMENT_BYTES);
        ByHand { tier, sealer, place }
    }

    pub fn outbox(&self) -> &Outbox {
        self.tier.outbox.as_ref().unwrap()
    }

    /// Gives the journal Redis's time, without which no deadline passes.
    pub fn know_time(&self) {
        self.tier.journal.set_time(Reading { redis_ms: 1 << 40, at: Instant::now(), give_or_take: Duration::ZERO });
    }

    /// Redis has all that was written so far.
    pub fn settle(&self) {
        let (ledger, now) = (&self.outbox().ledger, Instant::now());
        let epoch = ledger.epoch();
        for lane in [Lane::Tail, Lane::Backlog] {
            ledger.sending(epoch, lane, self.tier.journal.end());
            ledger.advance(epoch, lane, self.tier.journal.end());
        }
        ledger.acknowledge(epoch, now);
        ledger.settle(epoch, now + Duration::from_secs(1), Duration::ZERO);
    }

    /// Puts an object whose bytes repeat its id.
    pub fn put(&self, id: &[u8], data_bytes: usize) {
        let data: Vec<u8> = id.iter().copied().cycle().take(data_bytes).collect();
        self.tier.put(id, &data, b"", &mut |_| {}).unwrap();
    }

    /// Keeps a copy of what Redis has. False if there is no room.
    pub fn fill(&self, id: &[u8], data: &'static [u8]) -> bool {
        let object = Object { data: data.into(), metadata: Default::default() };
        let version = Version { clock: u64::from(self.tier.journal.end().offset()) + 1, node: 2 };
        let fill = Fill { version, deadline_ms: 0, is_current: &|| true };
        self.tier.fill(id, &object, xxhash_rust::xxh3::xxh3_128(data), &fill, &mut |_| {}).unwrap()
    }

    #[track_caller]
    pub fn check(&self, id: &[u8], data_bytes: usize) {
        let data: Vec<u8> = id.iter().copied().cycle().take(data_bytes).collect();
        assert!(self.tier.get(id).unwrap().is_some_and(|object| object.data == data));
    }

    /// Seals the active segment. Returns its number.
    pub fn seal(&mut self) -> u32 {
        let number = self.tier.journal.latest().segment();
        assert!(self.tier.journal.seal_active());
        self.sealer.seal_pending().unwrap();
        number
    }

    pub fn standing(&self, id: &[u8]) -> Option<Standing> {
        self.tier.standing(self.tier.index().fingerprint(id), id).unwrap()
    }

    pub fn place(&self, id: &[u8]) -> Lsn {
        self.standing(id).unwrap().lsn
    }

    pub fn hints(&self, number: u32) -> Vec<Hint> {
        self.sealer.hints(&self.segment(number)).unwrap()
    }

    /// Evacuates the segment as far as these hints go, with eviction ahead of need.
    pub fn evacuate(&self, number: u32, hints: &[Hint]) -> Result<bool, Error> {
        self.tier.evacuate(&self.segment(number), hints, &Eviction::ahead_of_need(&self.tier.room))
    }

    /// Evacuates the segment by all its hints, and removes it.
    pub fn reclaim(&self, number: u32) {
        let segment = self.segment(number);
        assert!(self.evacuate(number, &self.hints(number)).unwrap());
        self.tier.segments.remove(&segment).unwrap();
    }

    /// Opens again what a process that is killed now would leave, with hints of the sealed segments.
    pub fn reopen(self, left: Left, under: Underlying, outbox: Option<OutboxOptions>) -> Self {
        self.reopen_living(left, under, outbox, 0)
    }

    /// As `reopen`, with another lifetime of what is stored from then on.
    pub fn reopen_living(
        self,
        left: Left,
        under: Underlying,
        outbox: Option<OutboxOptions>,
        object_ttl_seconds: u64,
    ) -> Self {
        let ByHand { tier, sealer, place } = self;
        sealer.catalog.flush().unwrap();
        sealer.catalog.close();
        drop((tier, sealer));
        if left == Left::Journal {
            std::fs::remove_dir_all(place.path().join("catalog")).unwrap();
        }
        Self::open_in(place, under, outbox, object_ttl_seconds)
    }

    pub fn catalog(&self) -> &Catalog {
        &self.sealer.catalog
    }

    pub fn segment(&self, number: u32) -> Arc<Segment> {
        self.tier.segments.get(number).unwrap()
    }

    /// Changes a byte of a segment's file.
    pub fn flip(&self, number: u32, offset: u64) {
        let file = File::options().read(true).write(true).open(self.segment(number).path()).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[!byte[0]], offset).unwrap();
    }

    /// Damages the header of an object's record.
    pub fn flip_header(&self, id: &[u8]) {
        let place = self.place(id);
        self.flip(place.segment(), u64::from(place.offset()) + 20);
    }

    /// Damages an object's body, wherever that is.
    pub fn flip_body(&self, id: &[u8]) {
        let Standing { lsn, header } = self.standing(id).unwrap();
        if header.flags.has(Flags::EXTERNAL) {
            self.flip(header.body_place.segment, u64::from(header.body_place.offset) + 10);
        } else {
            self.flip(lsn.segment(), u64::from(lsn.offset()) + header.body_offset() as u64 + 10);
        }
    }

    /// Takes all room for puts except `bytes`, until the returned lease is dropped.
    pub fn leave_room(&self, bytes: u64) -> Arc<Lease> {
        let space = &self.tier.space;
        let (mut room, mut step) = (0, MAX_SIZE_MB << 20);
        while step > 0 {
            room += if space.has_ordinary_room(room + step) { step } else { 0 };
            step /= 2;
        }
        let lease = space.lease_existing(room - bytes);
        assert!(space.has_ordinary_room(bytes) && !space.has_ordinary_room(bytes + 1));
        lease
    }

    pub fn damaged_objects(&self) -> u64 {
        self.tier.liveness.counts.damaged_objects.load(Ordering::Relaxed)
    }
}
