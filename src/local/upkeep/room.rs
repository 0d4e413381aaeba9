//! Room policy: who is admitted, waits or is refused, and when something is evicted or reclaimed. All of that is decided here.
//!
//! `Space` counts what the files of the directory take, and its limit. Below that limit, these shares of it are thresholds:
//!
//! ```text
//! live bytes   70 %  eviction ahead of need begins                     on disk ~ 80 %  dead records are reclaimed however few
//!              80 %  no more is admitted                                         85 %  eviction ahead of need begins
//!                                                                              ~ 92 %  no more files for puts and fills
//! ```
//!
//! For whoever finds no room, some is made, whatever the shares are at that moment.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::progress::{RoomDemand, WaitOutcome};
use crate::backend::Patience;
use crate::local::files::space::Space;
use crate::local::index::owed::Owed;
use crate::local::sharing::continuity::Continuity;

/// Above this share of the limit in live bytes, puts are refused. Reclaiming works with the rest: the fuller the store, the more live
/// bytes it copies for each dead one that it frees.
const LIVE_PERCENT_MAX: u64 = 80;

/// Above this share in live bytes, or on disk, objects that Redis has are evicted ahead of need, so that puts need not wait for that.
const EVICTION_LIVE_PERCENT: u64 = 70;
const EVICTION_PHYSICAL_PERCENT: u64 = 85;

/// How long a put waits before it is refused: while upkeep looks (on a slow disk that may take long, and says nothing yet of whether there is
/// room), if room is made but others take it, or if Redis takes what can be evicted once it has settled.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(60);

/// After so many looks in vain, and this time, other writes are held back (a contest). Earlier would be too often: in a well-filled store a
/// large body often needs more than one look, and has its room within some milliseconds.
const IN_VAIN_MIN: u32 = 4;
const CONTEST_AFTER: Duration = Duration::from_millis(200);

/// An allowance for the records of the bodies that are asked for.
const RECORDS_BYTES: u64 = 1 << 16;

/// What happens to one who found no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// There is room by now.
    Admit,
    /// Upkeep is to make room: by freeing what is dead, then by eviction. A caller that may wait waits for that pass.
    Evict,
    /// Nothing can be evicted yet, but Redis is taking what can be once it has settled, or is about to say that it still has what is clean: the caller
    /// tries again in a moment.
    Wait,
    Refuse,
}

/// What the verdict depends on.
#[derive(Clone, Copy, Debug)]
struct Case {
    has_room: bool,
    /// It would fit after evicting everything that can go.
    could_fit: bool,
    patience: Patience,
    /// What the last look for room has brought.
    found: Option<WaitOutcome>,
    is_overdue: bool,
    /// More may be evictable soon: Redis takes what it is sent, or is being asked whether it is the one that it was.
    evictable_soon: bool,
}

fn decide(case: Case) -> Verdict {
    match case {
        Case { has_room: true, .. } => Verdict::Admit,
        Case { could_fit: false, .. } => Verdict::Refuse,
        // This one gets no room, but the next one may.
        Case { patience: Patience::Background, .. } => Verdict::Evict,
        Case { is_overdue: true, .. } => Verdict::Refuse,
        Case { found: None | Some(WaitOutcome::Room), .. } => Verdict::Evict,
        Case { found: Some(WaitOutcome::Nothing), evictable_soon: true, .. } => Verdict::Wait,
        Case { found: Some(WaitOutcome::Nothing | WaitOutcome::TimeOut), .. } => Verdict::Refuse,
    }
}

/// One request for room, over all its tries.
pub(crate) struct Asking {
    patience: Patience,
    begun: Instant,
    found: Option<WaitOutcome>,
    /// See `Case`; as it was before the last look or after it.
    evictable_soon: bool,
    /// How often it has looked again, after room was made or Redis was waited for, and found none.
    in_vain: u32,
}

impl Asking {
    pub fn new(patience: Patience) -> Self {
        Asking { patience, begun: Instant::now(), found: None, evictable_soon: false, in_vain: 0 }
    }

    /// When its waiting ends.
    pub fn deadline(&self) -> Instant {
        self.begun + ROOM_WAIT_MAX
    }

    /// Notes the outcome of a wait. `evictable_soon`: see `Case`; as it was before the wait or after it, as what settled during the pass may be
    /// evicted though the pass did not see it.
    pub fn looked(&mut self, found: WaitOutcome, evictable_soon: bool) {
        (self.found, self.evictable_soon) = (Some(found), evictable_soon);
        self.in_vain += u32::from(found == WaitOutcome::Room);
    }

    /// Notes that it has waited for Redis (`Verdict::Wait`).
    pub fn waited(&mut self) {
        self.found = None;
        self.in_vain += 1;
    }

    /// Whether room was made again and again and others took it.
    pub fn is_in_vain(&self) -> bool {
        self.in_vain >= IN_VAIN_MIN && self.begun.elapsed() >= CONTEST_AFTER
    }
}

/// Decides who gets room: knows the limits, what is taken, and who is waiting.
pub(crate) struct Room {
    space: Arc<Space>,
    /// Record bytes of deletes that Redis may not know of.
    owed: Arc<Owed>,
    /// Of the Redis behind the store, which lets clean objects be evicted.
    continuity: Option<Arc<Continuity>>,
    /// What threads wanted that found no room and did not wait.
    wish: Mutex<Option<RoomDemand>>,
    /// How many callers keep losing their room to others.
    contests: AtomicUsize,
}

/// A caller keeps losing its room to others: writes are held back until this is dropped.
pub(crate) struct Contest<'a>(&'a Room);

impl Drop for Contest<'_> {
    fn drop(&mut self) {
        self.0.contests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Room {
    pub fn new(space: Arc<Space>, owed: Arc<Owed>, continuity: Option<Arc<Continuity>>) -> Self {
        Room { space, owed, continuity, wish: Mutex::default(), contests: AtomicUsize::new(0) }
    }

    /// The verdict on one who tried and found no room. `may_expire`: objects may have expired that still take room.
    pub fn ask(&self, wanted: RoomDemand, asking: &Asking, may_expire: bool) -> Verdict {
        decide(Case {
            has_room: wanted.is_live && self.admits(wanted.bytes),
            could_fit: !wanted.is_live || ((self.continuity.is_some() || may_expire) && self.could_admit(wanted.bytes)),
            patience: asking.patience,
            found: asking.found,
            is_overdue: Instant::now() >= asking.deadline(),
            evictable_soon: asking.evictable_soon,
        })
    }

    /// Begins a contest, until the guard is dropped.
    pub fn contest(&self) -> Contest<'_> {
        self.contests.fetch_add(1, Ordering::Relaxed);
        Contest(self)
    }

    pub fn is_contested(&self) -> bool {
        self.contests.load(Ordering::Relaxed) > 0
    }

    fn used_bytes(&self) -> u64 {
        self.space.live_bytes() + self.owed.bytes() + self.space.catalog_bytes()
    }

    fn percent(&self, share: u64) -> u64 {
        self.space.limit_bytes() / 100 * share
    }

    /// Whether the limit on live bytes (the catalog's and owed ones included) leaves room for `bytes` more.
    pub fn admits(&self, bytes: u64) -> bool {
        self.used_bytes().saturating_add(bytes) <= self.percent(LIVE_PERCENT_MAX)
    }

    /// The size of the largest object that an empty store has room for, if `bytes` are more than that.
    pub fn too_large(&self, bytes: u64) -> Option<u64> {
        let bytes_max = self.percent(LIVE_PERCENT_MAX);
        (bytes > bytes_max).then_some(bytes_max)
    }

    /// Whether `bytes` could be held in an empty store.
    fn could_admit(&self, bytes: u64) -> bool {
        self.space.catalog_bytes().saturating_add(bytes) <= self.percent(LIVE_PERCENT_MAX)
    }

    /// Whether objects are to be evicted ahead of need.
    pub fn wants_eviction(&self) -> bool {
        self.may_evict(false)
            && (self.used_bytes() > self.percent(EVICTION_LIVE_PERCENT)
                || self.space.physical_bytes() > self.percent(EVICTION_PHYSICAL_PERCENT))
    }

    /// Whether clean objects may be evicted now, ahead of need or because somebody needs the room.
    pub fn may_evict(&self, is_needed: bool) -> bool {
        self.continuity.as_ref().is_some_and(|redis| redis.may_evict(is_needed))
    }

    /// Whether that may change in a moment.
    pub fn may_evict_soon(&self) -> bool {
        self.continuity.as_ref().is_some_and(|redis| redis.is_being_asked())
    }

    /// How much to evict so that no more need be, and a segment's worth beyond.
    fn excess_bytes(&self) -> u64 {
        let live_bytes = self.used_bytes().saturating_sub(self.percent(EVICTION_LIVE_PERCENT));
        let physical_bytes = self.space.physical_bytes().saturating_sub(self.percent(EVICTION_PHYSICAL_PERCENT));
        live_bytes.max(physical_bytes) + self.space.segment_bytes_max()
    }

    /// Whether dead record bytes are to be reclaimed, however few they are.
    pub fn wants_garbage(&self) -> bool {
        self.space.is_room_short()
    }

    /// Whether the limit leaves room for what is wanted; the disk may still refuse it.
    pub fn has_room_for(&self, wanted: RoomDemand) -> bool {
        // A record needs at most a new record segment, a body at most a new body segment.
        let bytes = wanted.bytes.max(self.space.segment_bytes_max()).saturating_add(RECORDS_BYTES);
        let is_admitted = !wanted.is_live || self.admits(wanted.bytes);
        !wanted.is_disk_full && is_admitted && self.space.has_ordinary_room(bytes)
    }

    /// How many bytes have to be freed for what is wanted and a segment for its record.
    pub fn missing_bytes(&self, wanted: RoomDemand) -> u64 {
        let bytes = wanted.bytes.saturating_add(self.space.segment_bytes_max()).saturating_add(RECORDS_BYTES);
        if wanted.is_disk_full {
            return bytes;
        }
        let live_bytes = if wanted.is_live { self.used_bytes().saturating_add(wanted.bytes) } else { 0 };
        let excess_bytes = live_bytes.saturating_sub(self.percent(LIVE_PERCENT_MAX));
        bytes.saturating_sub(self.space.ordinary_room()).max(excess_bytes)
    }

    /// Notes what a thread wanted that found no room and does not wait.
    pub fn wish(&self, wanted: RoomDemand) {
        let mut wish = self.wish.lock();
        *wish = Some(wish.unwrap_or_default().and(wanted));
    }

    /// Takes what `wish` has noted.
    pub fn take_unmet_demand(&self) -> Option<RoomDemand> {
        self.wish.lock().take()
    }
}

/// Which of the clean objects are evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victims {
    /// Those that nobody has read since they were written or last spared, while `Room::wants_eviction`.
    AheadOfNeed,
    /// The same objects, for one who needs room now.
    Unread,
    /// All, the oldest first, for one who needs room now.
    All,
}

/// One round of eviction: which objects, and how much is left to evict.
pub(crate) struct Eviction {
    victims: Victims,
    left_bytes: Cell<u64>,
    evicted_bytes: Cell<u64>,
}

impl Eviction {
    /// A round that the shares of live and physical bytes ask for.
    pub fn ahead_of_need(room: &Room) -> Self {
        Self::of(Victims::AheadOfNeed, room.excess_bytes())
    }

    /// A round that evicts these objects until so many bytes are freed.
    pub fn of(victims: Victims, bytes: u64) -> Self {
        Eviction { victims, left_bytes: Cell::new(bytes), evicted_bytes: Cell::new(0) }
    }

    pub fn is_needed(&self) -> bool {
        self.victims != Victims::AheadOfNeed
    }

    /// Whether a clean object is evicted. `frees`: evicting it frees room at once (a large body); otherwise its room comes free with its segment.
    pub fn takes(&self, room: &Room, frees: bool, was_read: impl FnOnce() -> bool) -> bool {
        let is_asked = if self.is_needed() { room.may_evict(true) } else { room.wants_eviction() };
        // An inline object goes even if enough is evicted: its segment is removed as a whole, so it would have to be copied.
        is_asked && (!frees || !self.is_enough()) && (self.victims == Victims::All || !was_read())
    }

    pub fn evicted(&self, bytes: u64) {
        self.left_bytes.set(self.left_bytes.get().saturating_sub(bytes));
        self.evicted_bytes.set(self.evicted_bytes.get().saturating_add(bytes));
    }

    pub fn is_enough(&self) -> bool {
        self.left_bytes.get() == 0
    }

    pub fn has_evicted(&self) -> bool {
        self.evicted_bytes.get() > 0
    }
}

#[cfg(test)]
mod tests;
