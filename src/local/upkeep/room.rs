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

/// Above this share of the limit in live bytes, puts are refused. Reclaiming works with the rest: the fuller the store, the more live
/// bytes it copies for each dead one that it frees.
const LIVE_PERCENT_MAX: u64 = 80;

/// Above this share in live bytes, or on disk, objects that Redis has are evicted ahead of need, so that puts need not wait for that.
const EVICTION_LIVE_PERCENT: u64 = 70;
const EVICTION_PHYSICAL_PERCENT: u64 = 85;

/// How long a put waits while no room is made before it is refused.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(10);

/// How long a put waits in all, if room is made but others take it, or if Redis takes what can be evicted once it has settled.
const ROOM_STRIFE_MAX: Duration = Duration::from_secs(60);

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
    /// Nothing can be evicted yet, but Redis is taking what can be once it has settled: the caller tries again in a moment.
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
    /// Redis takes what it is sent.
    replicates: bool,
}

fn decide(case: Case) -> Verdict {
    match case {
        Case { has_room: true, .. } => Verdict::Admit,
        Case { could_fit: false, .. } => Verdict::Refuse,
        // This one gets no room, but the next one may.
        Case { patience: Patience::Background, .. } => Verdict::Evict,
        Case { is_overdue: true, .. } => Verdict::Refuse,
        Case { found: None | Some(WaitOutcome::Room), .. } => Verdict::Evict,
        Case { found: Some(WaitOutcome::Nothing), replicates: true, .. } => Verdict::Wait,
        Case { found: Some(WaitOutcome::Nothing | WaitOutcome::TimeOut), .. } => Verdict::Refuse,
    }
}

/// One request for room, over all its tries.
pub(crate) struct Asking {
    patience: Patience,
    begun: Instant,
    deadline: Instant,
    found: Option<WaitOutcome>,
    /// Redis took what it is sent, before the last look or after it.
    replicates: bool,
    /// How often it has looked again, after room was made or Redis was waited for, and found none.
    in_vain: u32,
}

impl Asking {
    pub fn new(patience: Patience) -> Self {
        let begun = Instant::now();
        Asking { patience, begun, deadline: begun + ROOM_WAIT_MAX, found: None, replicates: false, in_vain: 0 }
    }

    /// When the present wait ends.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Notes the outcome of a wait. `replicates`: whether Redis took what it was sent, before the wait or after it: what settled during the
    /// pass may be evicted though the pass did not see it.
    pub fn looked(&mut self, found: WaitOutcome, replicates: bool) {
        (self.found, self.replicates) = (Some(found), replicates);
        if found == WaitOutcome::Room {
            self.extend();
        }
    }

    /// Notes that it has waited for Redis (`Verdict::Wait`).
    pub fn waited(&mut self) {
        self.found = None;
        self.extend();
    }

    /// Whether room was made again and again and others took it.
    pub fn is_in_vain(&self) -> bool {
        self.in_vain >= IN_VAIN_MIN && self.begun.elapsed() >= CONTEST_AFTER
    }

    fn extend(&mut self) {
        self.in_vain += 1;
        self.deadline = (Instant::now() + ROOM_WAIT_MAX).min(self.begun + ROOM_STRIFE_MAX);
    }
}

/// Decides who gets room: knows the limits, what is taken, and who is waiting.
pub(crate) struct Room {
    space: Arc<Space>,
    /// Record bytes of deletes that Redis may not know of.
    owed: Arc<Owed>,
    /// Redis is behind the store, so that clean objects can be evicted.
    is_shared: bool,
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
    pub fn new(space: Arc<Space>, owed: Arc<Owed>, is_shared: bool) -> Self {
        Room { space, owed, is_shared, wish: Mutex::default(), contests: AtomicUsize::new(0) }
    }

    /// The verdict on one who tried and found no room. `may_expire`: objects may have expired that still take room.
    pub fn ask(&self, wanted: RoomDemand, asking: &Asking, may_expire: bool) -> Verdict {
        decide(Case {
            has_room: wanted.is_live && self.admits(wanted.bytes),
            could_fit: !wanted.is_live || ((self.is_shared || may_expire) && self.could_admit(wanted.bytes)),
            patience: asking.patience,
            found: asking.found,
            is_overdue: Instant::now() >= asking.deadline,
            replicates: asking.replicates,
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
        self.is_shared
            && (self.used_bytes() > self.percent(EVICTION_LIVE_PERCENT)
                || self.space.physical_bytes() > self.percent(EVICTION_PHYSICAL_PERCENT))
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
        let is_asked = self.is_needed() || room.wants_eviction();
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
mod tests {
    use super::*;
    use crate::local::upkeep::by_hand::{ByHand, outbox};

    const MIB: u64 = 1 << 20;
    const LIMIT: u64 = 64 * MIB;

    fn percent(share: u64) -> u64 {
        LIMIT / 100 * share
    }

    fn room(is_shared: bool) -> (Arc<Space>, Room) {
        let space = Space::new(LIMIT);
        (Arc::clone(&space), Room::new(space, Arc::default(), is_shared))
    }

    fn wanted(bytes: u64, is_live: bool) -> RoomDemand {
        RoomDemand { bytes, is_disk_full: false, is_live }
    }

    /// The table in docs/journal.md, "Room and reserve".
    #[test]
    fn what_is_done_for_one_who_found_no_room() {
        use Patience::{Background, Caller};
        use Verdict::{Admit, Evict, Refuse, Wait};
        let none = Case {
            has_room: false,
            could_fit: true,
            patience: Caller,
            found: None,
            is_overdue: false,
            replicates: false,
        };
        let all = |case: Case, verdict: Verdict| {
            for found in [None, Some(WaitOutcome::Room), Some(WaitOutcome::Nothing), Some(WaitOutcome::TimeOut)] {
                for (is_overdue, replicates) in [(false, false), (false, true), (true, false), (true, true)] {
                    let case = Case { found, is_overdue, replicates, ..case };
                    assert_eq!(decide(case), verdict, "{case:?}");
                }
            }
        };
        for patience in [Caller, Background] {
            all(Case { has_room: true, patience, ..none }, Admit);
            all(Case { has_room: true, could_fit: false, patience, ..none }, Admit);
            all(Case { could_fit: false, patience, ..none }, Refuse);
        }
        all(Case { patience: Background, ..none }, Evict);
        let table = [
            (None, [Evict, Evict]),
            (Some(WaitOutcome::Room), [Evict, Evict]),
            (Some(WaitOutcome::Nothing), [Refuse, Wait]),
            (Some(WaitOutcome::TimeOut), [Refuse, Refuse]),
        ];
        for (found, verdicts) in table {
            for (replicates, verdict) in [false, true].into_iter().zip(verdicts) {
                let case = Case { found, replicates, ..none };
                assert_eq!(decide(case), verdict, "{case:?}");
                assert_eq!(decide(Case { is_overdue: true, ..case }), Refuse, "{case:?}, too late");
            }
        }
    }

    #[test]
    fn only_with_other_nodes_something_goes_for_live_bytes() {
        let asking = Asking::new(Patience::Caller);
        let most = percent(LIVE_PERCENT_MAX);
        for is_shared in [false, true] {
            let (space, room) = room(is_shared);
            let ask = |wanted| room.ask(wanted, &asking, false);
            let unless_shared = if is_shared { Verdict::Evict } else { Verdict::Refuse };
            space.add_live(most);
            assert_eq!(ask(wanted(0, true)), Verdict::Admit);
            assert_eq!(ask(wanted(1, true)), unless_shared);
            assert_eq!(ask(wanted(most, true)), unless_shared);
            assert_eq!(ask(wanted(most + 1, true)), Verdict::Refuse, "it would not fit into an empty store");
            assert_eq!(ask(wanted(1, false)), Verdict::Evict, "what is dead may go");
        }
    }

    #[test]
    fn room_that_is_made_and_redis_give_one_who_waits_more_time_but_not_for_ever() {
        let mut asking = Asking::new(Patience::Caller);
        assert_eq!(asking.deadline(), asking.begun + ROOM_WAIT_MAX);
        asking.looked(WaitOutcome::Nothing, true);
        assert_eq!(asking.deadline(), asking.begun + ROOM_WAIT_MAX);
        asking.looked(WaitOutcome::Room, true);
        let extended = asking.deadline();
        assert!(extended > asking.begun + ROOM_WAIT_MAX);
        asking.looked(WaitOutcome::Nothing, true);
        asking.waited();
        assert!(asking.deadline() > extended && asking.found.is_none());
        asking.begun -= ROOM_STRIFE_MAX;
        asking.waited();
        assert_eq!(asking.deadline(), asking.begun + ROOM_STRIFE_MAX);
    }

    #[test]
    fn it_asks_in_vain_who_had_room_made_several_times_and_still_has_none() {
        let mut asking = Asking { begun: Instant::now() - CONTEST_AFTER, ..Asking::new(Patience::Caller) };
        for number in 0..IN_VAIN_MIN {
            asking.looked(WaitOutcome::Nothing, true);
            assert!(!asking.is_in_vain(), "after {number}");
            if number % 2 == 0 { asking.looked(WaitOutcome::Room, true) } else { asking.waited() }
        }
        assert!(asking.is_in_vain());
        asking.looked(WaitOutcome::TimeOut, true);
        assert!(asking.is_in_vain(), "it stays so");
        asking.begun = Instant::now() + CONTEST_AFTER;
        assert!(!asking.is_in_vain(), "as often, within a moment");
    }

    #[test]
    fn writes_are_held_back_until_nobody_asks_in_vain_any_more() {
        let (_, room) = room(false);
        assert!(!room.is_contested());
        for contest in [room.contest(), room.contest()] {
            assert!(room.is_contested());
            drop(contest);
        }
        assert!(!room.is_contested());
    }

    #[test]
    fn live_bytes_and_the_catalog_are_admitted_up_to_their_share() {
        let (space, room) = room(true);
        let most = percent(LIVE_PERCENT_MAX);
        assert!(room.admits(most) && !room.admits(most + 1) && !room.admits(u64::MAX));
        assert!(room.could_admit(most) && !room.could_admit(most + 1) && !room.could_admit(u64::MAX));
        space.set_catalog_bytes(MIB);
        assert!(room.admits(most - MIB) && !room.admits(most - MIB + 1));
        assert!(room.could_admit(most - MIB) && !room.could_admit(most - MIB + 1));
        space.add_live(3 * MIB);
        space.add_live(MIB);
        space.remove_live(MIB);
        assert_eq!((space.live_bytes(), space.limit_bytes()), (3 * MIB, LIMIT));
        assert!(room.admits(most - 4 * MIB) && !room.admits(most - 4 * MIB + 1));
        // Live bytes may go.
        assert!(room.could_admit(most - MIB) && !room.could_admit(most - MIB + 1));
    }

    #[test]
    fn an_object_is_too_large_that_has_no_room_in_an_empty_store() {
        let (space, room) = room(false);
        let most = percent(LIVE_PERCENT_MAX);
        space.add_live(most);
        assert_eq!(room.too_large(most), None);
        assert_eq!(room.too_large(most + 1), Some(most));
    }

    // Invariant 14.
    #[test]
    fn deletes_that_redis_may_not_know_of_take_room_as_what_is_live_does() {
        let store = ByHand::open(Some(outbox()));
        store.put(b"id", 100);
        assert!(store.tier.delete(b"id").unwrap());
        let (space, owed_bytes) = (&store.tier.space, store.tier.index().owed().bytes());
        assert!(owed_bytes > 0);
        space.add_live(percent(LIVE_PERCENT_MAX) - owed_bytes - space.live_bytes() - space.catalog_bytes());
        assert!(store.tier.room.admits(0) && !store.tier.room.admits(1));
    }

    #[test]
    fn eviction_begins_with_many_live_bytes_or_a_full_directory() {
        let (live, live_room) = room(true);
        live.set_catalog_bytes(MIB);
        live.add_live(percent(EVICTION_LIVE_PERCENT) - MIB);
        assert!(!live_room.wants_eviction());
        live.add_live(1);
        assert!(live_room.wants_eviction() && !live_room.wants_garbage());

        let (full, full_room) = room(true);
        full.set_catalog_bytes(MIB);
        let _most = full.lease_existing(percent(EVICTION_PHYSICAL_PERCENT) - MIB);
        assert!(!full_room.wants_eviction());
        let _more = full.lease_existing(1);
        assert!(full_room.wants_eviction() && full_room.wants_garbage());

        let (alone, alone_room) = room(false);
        alone.add_live(percent(EVICTION_LIVE_PERCENT) + 1);
        let _full = alone.lease_existing(percent(EVICTION_PHYSICAL_PERCENT) + 1);
        assert!(!alone_room.wants_eviction() && alone_room.wants_garbage());
    }

    /// Invariant 14: whatever the shares are, one who finds no room has some made.
    #[test]
    fn as_much_is_missing_as_makes_room_for_a_body_and_its_record() {
        let (space, room) = room(true);
        let records = space.segment_bytes_max() + RECORDS_BYTES;
        let body = wanted(20 * MIB, false);
        let _used = space.take(space.ordinary_room() - 20 * MIB - records).unwrap();
        assert!(room.missing_bytes(body) == 0 && room.has_room_for(body));
        assert_eq!(room.missing_bytes(wanted(21 * MIB, false)), MIB);
        let _more = space.take(records).unwrap();
        assert!(room.missing_bytes(body) == records && !room.has_room_for(body));
        assert!(room.has_room_for(wanted(20 * MIB - RECORDS_BYTES, false)));

        // By live bytes, and by both.
        space.add_live(percent(LIVE_PERCENT_MAX) - MIB);
        assert_eq!(room.missing_bytes(wanted(3 * MIB, true)), 2 * MIB);
        assert!(!room.has_room_for(wanted(3 * MIB, true)) && room.has_room_for(wanted(MIB, true)));
        assert_eq!(room.missing_bytes(wanted(3 * MIB, false)), 0);
        // Whatever the limit says, when the disk is full.
        let refused = RoomDemand { is_disk_full: true, ..wanted(MIB, false) };
        assert!(room.missing_bytes(refused) == MIB + records && !room.has_room_for(refused));
    }

    #[test]
    fn those_who_do_not_wait_have_the_largest_of_their_wishes_granted_once() {
        let (_, room) = room(true);
        assert!(room.take_unmet_demand().is_none());
        room.wish(wanted(7, false));
        room.wish(wanted(3, true));
        let wish = room.take_unmet_demand().unwrap();
        assert_eq!((wish.bytes, wish.is_live, wish.is_disk_full), (7, true, false));
        assert!(room.take_unmet_demand().is_none());
    }

    #[test]
    fn what_goes_depends_on_who_needs_the_room() {
        let (space, room) = room(true);
        let ahead = Eviction::ahead_of_need(&room);
        assert!(!ahead.is_needed() && !ahead.takes(&room, true, || false));
        space.add_live(percent(EVICTION_LIVE_PERCENT) + 1);
        assert!(ahead.takes(&room, true, || false) && !ahead.takes(&room, true, || true));
        let enough = 1 + space.segment_bytes_max();
        let ahead = Eviction::ahead_of_need(&room);
        ahead.evicted(enough - 1);
        assert!(ahead.takes(&room, true, || false));
        ahead.evicted(1);
        assert!(!ahead.takes(&room, true, || false) && ahead.takes(&room, false, || false));
        space.remove_live(percent(EVICTION_LIVE_PERCENT) + 1);
        for victims in [Victims::Unread, Victims::All] {
            let needed = Eviction::of(victims, 100);
            assert!(needed.is_needed() && needed.takes(&room, true, || false) && !needed.has_evicted());
            assert_eq!(needed.takes(&room, true, || true), victims == Victims::All);
            needed.evicted(99);
            assert!(needed.has_evicted() && !needed.is_enough() && needed.takes(&room, true, || false));
            needed.evicted(9);
            assert!(needed.is_enough() && !needed.takes(&room, true, || false));
            assert!(needed.takes(&room, false, || false), "it goes with its segment");
        }
    }
}
