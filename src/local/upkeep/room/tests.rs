//! Tests of who gets room, and what goes for it.

use super::*;
use crate::local::upkeep::by_hand::{ByHand, outbox};

const MIB: u64 = 1 << 20;
const LIMIT: u64 = 64 * MIB;

fn percent(share: u64) -> u64 {
    LIMIT / 100 * share
}

/// `is_shared`: with a Redis behind it that has just been confirmed.
fn room(is_shared: bool) -> (Arc<Space>, Room) {
    let space = Space::new(LIMIT);
    let continuity = Arc::new(Continuity::new());
    continuity.confirm_for_long();
    (Arc::clone(&space), Room::new(space, Arc::default(), is_shared.then_some(continuity)))
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
        evictable_soon: false,
    };
    let all = |case: Case, verdict: Verdict| {
        for found in [None, Some(WaitOutcome::Room), Some(WaitOutcome::Nothing), Some(WaitOutcome::TimeOut)] {
            for (is_overdue, evictable_soon) in [(false, false), (false, true), (true, false), (true, true)] {
                let case = Case { found, is_overdue, evictable_soon, ..case };
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
        for (evictable_soon, verdict) in [false, true].into_iter().zip(verdicts) {
            let case = Case { found, evictable_soon, ..none };
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

/// A disk that takes its time is not a full one.
#[test]
fn one_who_waits_is_not_refused_before_somebody_has_looked_but_does_not_wait_for_ever() {
    let (_, room) = room(true);
    let ask = |asking: &Asking| room.ask(wanted(1, false), asking, false);
    let mut asking = Asking::new(Patience::Caller);
    asking.begun -= ROOM_WAIT_MAX - Duration::from_secs(5);
    for _ in 0..9 {
        assert_eq!(ask(&asking), Verdict::Evict);
        asking.looked(WaitOutcome::Room, true);
    }
    asking.looked(WaitOutcome::Nothing, true);
    assert_eq!(ask(&asking), Verdict::Wait);
    asking.waited();
    assert_eq!(ask(&asking), Verdict::Evict);
    asking.looked(WaitOutcome::Nothing, false);
    assert_eq!(ask(&asking), Verdict::Refuse);
    asking.waited();
    asking.begun -= Duration::from_secs(5);
    assert_eq!(ask(&asking), Verdict::Refuse);
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
