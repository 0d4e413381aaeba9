//! Tests of what the ledger takes for dirty, due and settled.

use super::ahead::SENT_AHEAD_MAX;
use super::apart::{SET_ASIDE_OVERDUE, SET_ASIDE_RETRY_FIRST};
use super::*;

const SETTLE: Duration = Duration::from_secs(30);

fn at(offset: u32) -> Lsn {
    Lsn::new(1, offset)
}

fn second(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

/// A ledger in which nothing is dirty yet.
fn ledger() -> (Ledger, Epoch) {
    let ledger = Ledger::new(Some(at(0)), at(0));
    let epoch = ledger.epoch();
    (ledger, epoch)
}

fn pass(ledger: &Ledger, epoch: Epoch, to: u32, now: Instant) {
    ledger.sending(epoch, Lane::Tail, at(to));
    ledger.advance(epoch, Lane::Tail, at(to));
    ledger.acknowledge(epoch, now);
}

#[test]
fn what_was_acknowledged_is_settled_when_its_time_is_over_and_not_before() {
    let (ledger, epoch) = ledger();
    let start = Instant::now();
    for number in 1..=3 {
        pass(&ledger, epoch, number * 100, second(start, number.into()));
    }
    ledger.settle(epoch, second(start, 31), SETTLE);
    assert_eq!(ledger.replicated(), at(0));
    ledger.settle(epoch, second(start, 32), SETTLE);
    assert_eq!(ledger.replicated(), at(100));
    assert!(ledger.is_dirty(at(100), false) && !ledger.is_dirty(at(99), false));
    assert!(!ledger.is_dirty(at(100), true), "it says of itself that it is clean");
    ledger.settle(epoch, second(start, 99), SETTLE);
    assert_eq!(ledger.replicated(), at(300));
}

/// Invariant 3: what a failover may have forgotten goes again, also what was pushed late.
#[test]
fn after_a_cut_everything_unsettled_goes_again() {
    let (ledger, epoch) = ledger();
    let start = Instant::now();
    ledger.hold(epoch, at(50), b"late", Obstacle::Refused);
    pass(&ledger, epoch, 200, start);
    ledger.settle(epoch, second(start, 60), SETTLE);
    assert_eq!(ledger.replicated(), at(50), "what is apart stays dirty");
    ledger.pushed(epoch, at(50), b"late", second(start, 60));
    pass(&ledger, epoch, 300, second(start, 60));
    assert!(ledger.is_pushed(at(300)) && ledger.is_dirty(at(50), false));

    let again = ledger.push_again();
    assert!(!ledger.is_pushed(at(300)));
    let next = ledger.next(again, at(400));
    assert_eq!(next, Some(Next { lane: Lane::Tail, from: at(200), until: at(400), sent_below: at(300) }));
    assert_eq!(ledger.due(again, start, 9, at(400), false).records, [(at(50), b"late".to_vec())]);
    // Reports on the earlier push are ignored.
    pass(&ledger, epoch, 400, second(start, 61));
    ledger.pushed(epoch, at(50), b"late", second(start, 61));
    ledger.settle(epoch, second(start, 999), SETTLE);
    assert_eq!(ledger.replicated(), at(50));
    assert_eq!(ledger.next(epoch, at(400)), None);
}

/// What was under way when a connection broke may stand in Redis, though Redis has not answered to it.
#[test]
fn what_was_under_way_may_have_been_sent() {
    for begin_anew in [Ledger::push_again, Ledger::resume] {
        let (ledger, epoch) = ledger();
        pass(&ledger, epoch, 100, Instant::now());
        ledger.sending(epoch, Lane::Tail, at(200));
        let sent = |ledger: &Ledger| [50, 150, 200].map(|offset| ledger.may_have_been_sent(at(offset)));
        assert_eq!(sent(&ledger), [true, true, false]);
        assert!(!ledger.may_have_stood(at(150)), "if Redis refuses it now, it has never had it");
        ledger.failed(epoch, []);
        assert!(ledger.may_have_stood(at(150)), "if it refuses it the next time, it may have had it before");
        let again = begin_anew(&ledger);
        assert_eq!(sent(&ledger), [true, true, false]);
        assert!(ledger.may_have_stood(at(150)) && !ledger.may_have_stood(at(200)));
        assert_eq!(ledger.next(again, at(300)).unwrap().sent_below, at(200));
    }
}

#[test]
fn a_record_pushed_late_is_not_settled_with_its_neighbours() {
    let (ledger, epoch) = ledger();
    let start = Instant::now();
    ledger.postpone(epoch, at(50), b"late", Duration::ZERO);
    pass(&ledger, epoch, 100, start);
    pass(&ledger, epoch, 200, second(start, 1));
    ledger.pushed(epoch, at(50), b"late", second(start, 10));
    ledger.settle(epoch, second(start, 35), SETTLE);
    assert_eq!(ledger.replicated(), at(50));
    ledger.settle(epoch, second(start, 41), SETTLE);
    assert_eq!(ledger.replicated(), at(200));
    assert_eq!(ledger.next_settled(SETTLE), None);
}

/// What could not be pushed is told of as such, and does not make everything behind it look unsettled.
#[test]
fn what_was_pushed_has_settled_though_a_record_in_front_of_it_could_not_be_pushed() {
    let (ledger, epoch) = ledger();
    let start = Instant::now();
    ledger.hold(epoch, at(5), b"id", Obstacle::SetAside);
    pass(&ledger, epoch, 100, start);
    assert_eq!(ledger.settled(), at(0));
    ledger.settle(epoch, second(start, 31), SETTLE);
    assert_eq!((ledger.settled(), ledger.replicated()), (at(100), at(5)));
    ledger.pushed(epoch, at(5), b"id", second(start, 32));
    assert_eq!(ledger.settled(), at(5));
    ledger.settle(epoch, second(start, 99), SETTLE);
    assert_eq!(ledger.settled(), at(100));
    ledger.lose_everything(|| at(200));
    assert_eq!(ledger.settled(), Lsn::NONE);
}

/// Two total losses, one behind the other: what is said of the push into the first Redis says nothing of the second.
#[test]
fn what_was_pushed_before_a_total_loss_is_not_settled_by_it() {
    let (ledger, _) = ledger();
    let start = Instant::now();
    ledger.lose_everything(|| at(500));
    let first = ledger.epoch();
    assert_eq!(ledger.next(first, at(500)).map(|next| (next.lane, next.until)), Some((Lane::Backlog, at(500))));
    ledger.advance(first, Lane::Backlog, at(500));
    ledger.acknowledge(first, start);
    assert!(ledger.is_pushed(at(500)));

    ledger.lose_everything(|| at(500));
    ledger.advance(first, Lane::Backlog, at(500));
    ledger.acknowledge(first, start);
    ledger.settle(first, second(start, 99), SETTLE);
    assert!(!ledger.is_pushed(at(500)) && ledger.is_dirty(at(0), true) && ledger.has_backlog());

    let epoch = ledger.epoch();
    ledger.advance(epoch, Lane::Backlog, at(500));
    ledger.acknowledge(epoch, second(start, 100));
    ledger.settle(epoch, second(start, 131), SETTLE);
    assert!(!ledger.has_backlog() && !ledger.is_dirty(at(0), true));
}

#[test]
fn refused_postponed_and_lost_are_told_apart() {
    let (ledger, epoch) = ledger();
    let now = Instant::now();
    ledger.postpone(epoch, at(1), b"postponed", Duration::ZERO);
    assert_eq!(ledger.held_count(), 0, "that is no failure");
    assert!(ledger.lose(at(2), b"lost"));
    ledger.hold(epoch, at(3), b"refused", Obstacle::Refused);
    ledger.hold(epoch, at(4), b"large", Obstacle::SetAside);
    assert_eq!(ledger.held_count(), 2);
    let later = second(now, 3600);
    let due: Vec<_> = ledger.due(epoch, later, 9, at(0), false).records.into_iter().map(|(lsn, _)| lsn).collect();
    assert_eq!(due, [at(1), at(2), at(3)]);
    assert_eq!(ledger.probe(epoch), None, "Redis has room");
    for lsn in [1, 2, 3] {
        ledger.overtaken(epoch, at(lsn));
    }
    assert_eq!(ledger.due(epoch, now + SET_ASIDE_RETRY_FIRST / 2, 9, at(0), false), Due::default(), "it waits");
    let soon = now + SET_ASIDE_RETRY_FIRST * 2;
    assert_eq!(ledger.due(epoch, soon, 9, at(1), false), Due::default(), "others are to be pushed");
    assert!(ledger.next_due(at(1), false).unwrap() > soon && ledger.next_due(at(0), false).unwrap() < soon);
    let alone = ledger.due(epoch, later, 9, at(0), false);
    assert!(alone.is_set_aside && alone.records == [(at(4), b"large".to_vec())]);
}

#[test]
fn what_stands_apart_is_bounded() {
    let (ledger, epoch) = ledger();
    for number in 0..APART_MAX as u32 {
        assert!(!ledger.is_full());
        ledger.hold(epoch, at(number), b"id", Obstacle::Refused);
    }
    assert!(ledger.is_full() && !ledger.lose(at(u32::MAX), b"id") && ledger.lose(at(0), b"id"));
}

/// However many records break the connection, one is tried at a time, with one pause for all of them: the others settle in between.
#[test]
fn records_set_aside_are_tried_in_turn_and_ever_more_seldom() {
    let (ledger, epoch) = ledger();
    for number in 0..3 {
        ledger.hold(epoch, at(number), b"id", Obstacle::SetAside);
    }
    assert!(ledger.may_have_stood(at(0)), "it was sent");
    let later = Instant::now() + SET_ASIDE_RETRY_FIRST * 2;
    let mut tried = Vec::new();
    for _ in 0..6 {
        let due = ledger.due(epoch, second(later, 99_999), 9, at(0), false);
        assert!(due.is_set_aside && due.records.len() == 1);
        tried.push(due.records[0].0);
        ledger.hold(epoch, due.records[0].0, b"id", Obstacle::SetAside);
    }
    assert_eq!(tried, [0, 1, 2, 0, 1, 2].map(at));
    assert_eq!(ledger.due(epoch, later, 9, at(0), false), Due::default(), "the pause grows for all of them");
    ledger.pushed(epoch, at(1), b"id", later);
    assert!(ledger.due(epoch, Instant::now(), 9, at(0), false).is_set_aside, "where one gets through others may");
}

/// Without a moment in which nothing else is to be pushed, it is tried all the same.
#[test]
fn a_record_set_aside_does_not_wait_for_others_without_end() {
    let (ledger, epoch) = ledger();
    ledger.hold(epoch, at(1), b"id", Obstacle::SetAside);
    let busy = ledger.next_due(at(2), false).unwrap();
    ledger.advance(epoch, Lane::Tail, at(2));
    let quiet = ledger.next_due(at(2), false).unwrap();
    assert_eq!(busy - quiet, SET_ASIDE_RETRY_FIRST * (SET_ASIDE_OVERDUE - 1));
    let is_due = |now: Instant, end: u32| ledger.due(epoch, now, 9, at(end), false).is_set_aside;
    assert!(is_due(quiet, 2) && !is_due(quiet, 3) && is_due(busy, 3));
    assert!(!ledger.is_pushed(at(2)) && ledger.is_pushed_but_aside(at(2)) && !ledger.is_pushed_but_aside(at(3)));
    ledger.hold(epoch, at(0), b"id", Obstacle::Refused);
    assert!(!ledger.is_pushed_but_aside(at(2)));
}

/// It cannot be read, or something else has to happen first: it is not sent then, and would break the connection still.
#[test]
fn a_record_set_aside_stays_so_until_redis_answers() {
    let (ledger, epoch) = ledger();
    ledger.hold(epoch, at(1), b"id", Obstacle::SetAside);
    ledger.hold(epoch, at(1), b"id", Obstacle::Unreadable);
    assert!(ledger.is_set_aside(at(1)));
    let wait = SET_ASIDE_RETRY_FIRST * 30;
    ledger.postpone(epoch, at(1), b"id", wait);
    assert!(ledger.is_set_aside(at(1)));
    assert_eq!(ledger.due(epoch, Instant::now() + wait / 2, 9, at(0), false), Due::default());
    assert!(ledger.due(epoch, Instant::now() + wait, 9, at(0), false).is_set_aside);
    ledger.hold(epoch, at(1), b"id", Obstacle::Refused);
    assert!(!ledger.is_set_aside(at(1)), "it came through");
}

/// A pause that has grown for records that are gone is not that of others.
#[test]
fn the_first_record_to_be_set_aside_again_is_tried_soon() {
    let (ledger, epoch) = ledger();
    let is_due_soon = || ledger.next_due(at(0), false).unwrap() <= Instant::now() + SET_ASIDE_RETRY_FIRST;
    for _ in 0..9 {
        ledger.hold(epoch, at(1), b"old", Obstacle::SetAside);
    }
    assert!(!is_due_soon());
    ledger.overtaken(epoch, at(1));
    ledger.hold(epoch, at(2), b"new", Obstacle::SetAside);
    assert!(is_due_soon());
}

#[test]
fn a_ledger_full_of_records_that_are_set_aside_goes_on() {
    let (ledger, epoch) = ledger();
    for number in 0..APART_MAX as u32 {
        ledger.hold(epoch, at(number), b"id", Obstacle::SetAside);
    }
    let end = at(APART_MAX as u32 + 1);
    assert!(ledger.is_full() && ledger.next(epoch, end).is_some(), "the walks stand still");
    assert!(ledger.due(epoch, second(Instant::now(), 999), 9, end, false).is_set_aside);
    assert!(ledger.next_due(end, false).is_some());
}

#[test]
fn a_ledger_of_a_store_about_which_nothing_is_known_takes_all_for_dirty() {
    let unknown = Ledger::new(None, at(100));
    assert!(unknown.is_dirty(at(0), true) && unknown.has_backlog() && unknown.replicated() == Lsn::NONE);
    let known = Ledger::new(Some(at(60)), at(100));
    let next = known.next(known.epoch(), at(100)).unwrap();
    assert_eq!((next.from, next.sent_below), (at(60), at(100)), "an earlier life may have sent them");
    assert!(!Ledger::new(None, Lsn::NONE).has_backlog());
}

/// Versions: only what Redis may have had can be known to whoever has overwritten it.
#[test]
fn what_was_sent_may_have_stood_unless_it_was_refused_whenever_it_was_sent() {
    let (ledger, epoch) = ledger();
    ledger.sending(epoch, Lane::Tail, at(5));
    assert!(!ledger.may_have_stood(at(3)), "it is under way for the first time");
    ledger.hold(epoch, at(2), b"id", Obstacle::Refused);
    ledger.advance(epoch, Lane::Tail, at(5));
    assert!(ledger.may_have_stood(at(3)) && !ledger.may_have_stood(at(2)), "it was pushed, and the other one refused");
    let epoch = ledger.push_again();
    assert!(ledger.may_have_stood(at(3)) && !ledger.may_have_stood(at(2)) && !ledger.may_have_stood(at(5)));
    ledger.hold(epoch, at(3), b"id", Obstacle::Refused);
    ledger.postpone(epoch, at(4), b"id", Duration::ZERO);
    ledger.postpone(epoch, at(7), b"id", Duration::ZERO);
    assert!(ledger.may_have_stood(at(3)) && ledger.may_have_stood(at(4)), "they stood there before");
    assert!(!ledger.may_have_stood(at(7)));
    assert!(ledger.lose(at(2), b"id") && ledger.may_have_stood(at(2)));
    ledger.hold(epoch, at(2), b"id", Obstacle::Refused);
    assert!(ledger.may_have_stood(at(2)), "it stood there before it was lost");
    let earlier = Ledger::new(Some(at(60)), at(100));
    assert!(earlier.may_have_stood(at(99)) && !earlier.may_have_stood(at(100)), "an earlier life may have sent it");
}

/// The same for one that Redis has refused: when the connection breaks, nobody knows what became of the next try.
#[test]
fn what_was_refused_may_have_stood_once_a_round_failed_with_it() {
    let (ledger, epoch) = ledger();
    let refuse = |epoch| (1..3).for_each(|offset| ledger.hold(epoch, at(offset), b"id", Obstacle::Refused));
    refuse(epoch);
    ledger.failed(epoch, [at(2)]);
    for _ in 0..2 {
        assert!(!ledger.may_have_stood(at(1)) && ledger.may_have_stood(at(2)));
        refuse(ledger.push_again());
    }
    ledger.may_stand(ledger.epoch(), at(1));
    assert!(ledger.may_have_stood(at(1)), "its event was refused");
}

/// The same for what is pushed before the walk comes to it: since another node wants it, or as a delete while Redis is full.
#[test]
fn what_was_sent_ahead_of_the_tail_may_have_stood() {
    let (ledger, epoch) = ledger();
    ledger.pushed(epoch, at(150), b"id", Instant::now());
    ledger.failed(epoch, [at(250)]);
    let sent = |ledger: &Ledger| {
        let sent = [149, 150, 151, 250, 251].map(|offset| ledger.may_have_stood(at(offset)));
        assert_eq!(sent, [149, 150, 151, 250, 251].map(|offset| ledger.may_have_been_sent(at(offset))));
        sent
    };
    assert_eq!(sent(&ledger), [false, true, false, true, false]);
    ledger.hold(epoch, at(250), b"id", Obstacle::Refused);
    let epoch = ledger.push_again();
    assert_eq!(sent(&ledger), [false, true, false, true, false]);
    pass(&ledger, epoch, 151, Instant::now());
    assert_eq!(sent(&ledger), [true, true, false, true, false]);
    for offset in 1000..=1000 + SENT_AHEAD_MAX as u32 {
        ledger.may_stand(epoch, at(offset));
    }
    let last = 1000 + SENT_AHEAD_MAX as u32;
    assert!(ledger.may_have_stood(at(500)), "too many to tell them from the others");
    assert!(ledger.may_have_stood(at(last)) && !ledger.may_have_stood(at(last + 1)));
}

/// The same for copies: what they are copies of was sent.
#[test]
fn the_copy_of_what_was_sent_may_have_stood() {
    let (ledger, epoch) = ledger();
    ledger.hold(epoch, at(1), b"id", Obstacle::Refused);
    ledger.hold(epoch, at(2), b"id", Obstacle::SetAside);
    pass(&ledger, epoch, 100, Instant::now());
    ledger.sending(epoch, Lane::Tail, at(200));
    for offset in [1, 2, 50, 150, 250] {
        ledger.moved(at(offset), at(offset + 1000));
    }
    let copies = [1, 2, 50, 150, 250].map(|offset| ledger.may_have_stood(at(offset + 1000)));
    assert_eq!(copies, [false, true, true, false, false]);
    ledger.moved(at(1050), at(2050));
    assert!(ledger.may_have_stood(at(2050)) && !ledger.may_have_stood(at(1050)), "a copy of the copy");
}

/// Copied while it is under way for the first time: what Redis answers to that says whether it has had its copy.
#[test]
fn the_copy_of_what_was_under_way_may_have_stood_unless_it_is_refused() {
    let under_way = || {
        let (ledger, epoch) = ledger();
        ledger.sending(epoch, Lane::Tail, at(100));
        (1..5).for_each(|offset| ledger.moved(at(offset), at(offset + 500)));
        (1..5).for_each(|offset| ledger.moved(at(offset + 500), at(offset + 1000)));
        assert!(ledger.may_have_been_sent(at(1001)) && !ledger.may_have_stood(at(1001)));
        (ledger, epoch)
    };
    let stood = |ledger: &Ledger| [1001, 1002, 1003, 1004].map(|offset| ledger.may_have_stood(at(offset)));
    let (ledger, epoch) = under_way();
    ledger.pushed(epoch, at(1), b"id", Instant::now());
    ledger.hold(epoch, at(2), b"id", Obstacle::Refused);
    ledger.hold(epoch, at(3), b"id", Obstacle::SetAside);
    ledger.overtaken(epoch, at(4));
    ledger.advance(epoch, Lane::Tail, at(100));
    ledger.push_again();
    assert_eq!(stood(&ledger), [true, false, true, false]);
    let ends: [fn(&Ledger); 4] = [
        |ledger| ledger.failed(ledger.epoch(), []),
        |ledger| _ = ledger.push_again(),
        |ledger| _ = ledger.resume(),
        |ledger| ledger.lose_everything(|| at(500)),
    ];
    for end in ends {
        let (ledger, _) = under_way();
        end(&ledger);
        assert_eq!(stood(&ledger), [true; 4], "nobody knows");
    }
    let (ledger, epoch) = under_way();
    ledger.hold(epoch, at(200), b"id", Obstacle::Refused);
    assert_eq!(ledger.due(epoch, second(Instant::now(), 99), 1, at(0), false).records.len(), 1);
    ledger.refused(epoch);
    ledger.moved(at(200), at(1200));
    ledger.push_again();
    assert_eq!(stood(&ledger), [false; 4]);
    assert!(!ledger.may_have_stood(at(1200)), "it was not under way any more");
}

/// The same in the backlog, and of what stands apart and was due.
#[test]
fn the_copy_of_what_was_under_way_again_may_have_stood() {
    let (ledger, epoch) = ledger();
    ledger.hold(epoch, at(10), b"id", Obstacle::Refused);
    ledger.hold(epoch, at(11), b"id", Obstacle::Refused);
    ledger.hold(epoch, at(12), b"id", Obstacle::Refused);
    ledger.lose_everything(|| at(200));
    let epoch = ledger.epoch();
    ledger.sending(epoch, Lane::Backlog, at(100));
    let due = ledger.due(epoch, Instant::now(), 2, at(200), false).records;
    assert_eq!(due.iter().map(|(lsn, _)| *lsn).collect::<Vec<_>>(), [at(10), at(11)]);
    for offset in [10, 11, 12, 50, 51] {
        ledger.moved(at(offset), at(offset + 1000));
    }
    ledger.pushed(epoch, at(10), b"id", Instant::now());
    ledger.hold(epoch, at(11), b"id", Obstacle::Refused);
    ledger.pushed(epoch, at(50), b"id", Instant::now());
    ledger.failed(epoch, []);
    let stood = [1010, 1011, 1012, 1050, 1051].map(|offset| ledger.may_have_stood(at(offset)));
    assert_eq!(stood, [true, false, false, true, true]);
}

/// What only the backlog has sent stood there before the next loss, settled or not.
#[test]
fn what_stood_between_two_total_losses_may_have_stood() {
    for has_settled in [false, true] {
        let (ledger, _) = ledger();
        ledger.lose_everything(|| at(200));
        let (epoch, now) = (ledger.epoch(), Instant::now());
        ledger.sending(epoch, Lane::Backlog, at(200));
        ledger.advance(epoch, Lane::Backlog, at(200));
        if has_settled {
            ledger.acknowledge(epoch, now);
            ledger.settle(epoch, second(now, 60), SETTLE);
            assert!(!ledger.has_backlog());
        }
        ledger.lose_everything(|| at(300));
        assert!(ledger.may_have_stood(at(150)) && !ledger.may_have_stood(at(250)));
    }
}

/// While Redis is full, what waits for room is not due, but asked with; and what stands apart for another reason is due as ever.
#[test]
fn while_redis_is_full_only_what_waits_for_room_is_held_back() {
    let (ledger, epoch) = ledger();
    ledger.hold(epoch, at(1), b"refused", Obstacle::Refused);
    ledger.hold(epoch, at(2), b"full", Obstacle::Full);
    ledger.hold(epoch, at(3), b"full", Obstacle::Full);
    ledger.postpone(epoch, at(4), b"postponed", Duration::ZERO);
    let later = second(Instant::now(), 99);
    let due = |is_full| ledger.due(epoch, later, 9, at(0), is_full).records.into_iter().map(|(lsn, _)| lsn);
    assert_eq!(due(true).collect::<Vec<_>>(), [at(1), at(4)]);
    assert_eq!(due(false).collect::<Vec<_>>(), [1, 2, 3, 4].map(at));
    assert_eq!(ledger.probe(epoch), Some((at(2), b"full".to_vec())));
    ledger.overtaken(epoch, at(1));
    ledger.overtaken(epoch, at(4));
    assert!(ledger.next_due(at(0), true).is_none() && ledger.next_due(at(0), false).is_some());
    assert!(ledger.has_refused() && ledger.has_any_for_room());
}

#[test]
fn the_copy_of_a_suspect_may_have_stood_if_the_suspect_may() {
    let (ledger, epoch) = ledger();
    ledger.hold(epoch, at(1), b"id", Obstacle::Refused);
    pass(&ledger, epoch, 100, Instant::now());
    for offset in [1, 2] {
        assert!(ledger.lose_copy(at(offset), at(offset + 1000), b"id"));
        ledger.moved(at(offset), at(offset + 1000));
    }
    assert!(!ledger.may_have_stood(at(1001)) && ledger.may_have_stood(at(1002)));
    assert!(ledger.is_apart(at(1001)) && ledger.is_apart(at(1002)));
}

/// What a server refused as a whole that is no master, but not what others were answered before.
#[test]
fn what_was_refused_as_a_whole_was_not_sent() {
    let (ledger, epoch) = ledger();
    pass(&ledger, epoch, 100, Instant::now());
    ledger.sending(epoch, Lane::Tail, at(200));
    ledger.refused(epoch);
    for _ in 0..2 {
        assert!(ledger.may_have_stood(at(99)) && ledger.may_have_been_sent(at(99)));
        assert!(!ledger.may_have_stood(at(150)) && !ledger.may_have_been_sent(at(150)));
        ledger.push_again();
    }
}

/// Redis has lost everything: what was never there before cannot have stood since either.
#[test]
fn a_total_loss_says_nothing_of_what_was_never_sent() {
    let (ledger, epoch) = ledger();
    ledger.hold(epoch, at(10), b"refused", Obstacle::Refused);
    ledger.hold(epoch, at(11), b"stood", Obstacle::Refused);
    ledger.may_stand(epoch, at(11));
    ledger.hold(epoch, at(12), b"large", Obstacle::SetAside);
    ledger.postpone(epoch, at(13), b"late", Duration::ZERO);
    pass(&ledger, epoch, 100, Instant::now());
    ledger.may_stand(epoch, at(150));
    let stood = |ledger: &Ledger| [10, 11, 12, 50, 149, 150, 250].map(|offset| ledger.may_have_stood(at(offset)));
    assert_eq!(stood(&ledger), [false, true, true, true, false, true, false]);
    ledger.lose_everything(|| at(200));
    assert_eq!(stood(&ledger), [false, true, true, true, false, true, false]);
    let epoch = ledger.push_again();
    assert_eq!(stood(&ledger), [false, true, true, true, false, true, false]);
    // What Redis refused is tried at once, and what breaks the connection in its turn.
    let due: Vec<_> =
        ledger.due(epoch, Instant::now(), 9, at(300), false).records.into_iter().map(|(lsn, _)| lsn).collect();
    assert_eq!(due, [at(10), at(11)]);
    assert!(ledger.is_set_aside(at(12)) && !ledger.is_apart(at(13)));
    assert_eq!(ledger.unnoted(false).len(), 3, "the next open has to know");
    ledger.sending(epoch, Lane::Backlog, at(150));
    assert_eq!(stood(&ledger), [false, true, true, true, false, true, false]);
    ledger.advance(epoch, Lane::Backlog, at(150));
    ledger.push_again();
    assert_eq!(stood(&ledger), [false, true, true, true, true, true, false]);
}

#[test]
fn what_was_pushed_is_settling_until_it_has_settled() {
    let (ledger, epoch) = ledger();
    let start = Instant::now();
    let settling = |ledger: &Ledger| [0, 100, 150, 200].map(|offset| ledger.is_settling(at(offset)));
    pass(&ledger, epoch, 100, start);
    ledger.hold(epoch, at(150), b"refused", Obstacle::Refused);
    pass(&ledger, epoch, 200, second(start, 10));
    assert_eq!(settling(&ledger), [true, true, false, false], "one is held, and the last is yet to be pushed");
    ledger.settle(epoch, second(start, 31), SETTLE);
    assert_eq!(settling(&ledger), [false, true, false, false]);
    ledger.pushed(epoch, at(150), b"refused", second(start, 11));
    assert_eq!(settling(&ledger), [false, true, true, false]);
    let epoch = ledger.push_again();
    assert_eq!(settling(&ledger), [false; 4], "they are about to be pushed again");

    ledger.lose_everything(|| at(200));
    assert_eq!(settling(&ledger), [false; 4]);
    let epoch_after = ledger.epoch();
    ledger.advance(epoch, Lane::Backlog, at(150));
    assert_eq!(settling(&ledger), [false; 4], "of an epoch that is over");
    ledger.advance(epoch_after, Lane::Backlog, at(150));
    assert_eq!(settling(&ledger), [true, true, false, false]);
}

/// Invariant 3: a failover may forget it once more, and the walks pass over what says of itself that it is clean.
#[test]
fn what_redis_has_lost_is_dirty_until_it_has_settled_though_it_says_that_it_is_clean() {
    for is_refused in [false, true] {
        let (ledger, epoch) = ledger();
        let start = Instant::now();
        pass(&ledger, epoch, 200, start);
        assert!(ledger.lose(at(150), b"lost"));
        if is_refused {
            ledger.hold(epoch, at(150), b"lost", Obstacle::Refused);
        }
        ledger.pushed(epoch, at(150), b"lost", second(start, 1));
        assert!(ledger.is_dirty(at(150), true), "it was acknowledged a moment ago");
        let again = ledger.push_again();
        assert_eq!(ledger.due(again, second(start, 2), 9, at(0), false).records.len(), 1);
    }
}
