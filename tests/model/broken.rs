//! Each rule taken out: the checker finds what the rule is there for. It goes through the scope breadth first, so what it finds is a
//! shortest way there.

use crate::checking::check;
use crate::properties::{AGREED, AGREED_EARLY, DELETED, FILLS, KEPT, READABLE};
use crate::rules::{Rule, Rules};
use crate::scope::{NONE, Scope, Writers};
use crate::state::Budget;

const PUT: Budget = Budget { puts: 1, ..NONE };
const TWO_PUTS: Budget = Budget { puts: 2, ..NONE };
const PUT_DELETE: Budget = Budget { puts: 1, deletes: 1, ..NONE };

const fn two_nodes(budget: Budget) -> Scope {
    Scope::new(2, 1, budget)
}

const fn two_ids(budget: Budget) -> Scope {
    Scope::new(1, 2, budget)
}

/// Without the rules, the property does not hold.
fn breaks(rules: &[Rule], property: &'static str, scope: Scope) {
    let name = format!("without {rules:?}");
    let found = check(&name, Scope { only: Some(property), ..scope }, Rules::without(rules));
    assert!(found.is_some(), "{name}, nothing breaks \"{property}\"");
}

/// A test for each line: without the rules, the property does not hold in the scope.
macro_rules! broken {
    ($($name:ident: [$first:ident $(, $other:ident)*] => $property:ident, $scope:expr;)*) => {
        $(#[test]
        fn $name() {
            breaks(&[Rule::$first $(, Rule::$other)*], $property, $scope);
        })*

        /// A rule that is in no test may as well not be there.
        #[test]
        fn every_rule_is_taken_out_once() {
            let shown = [$(Rule::$first),*];
            let missing = Rule::all().filter(|rule| !shown.contains(rule));
            assert_eq!(missing.collect::<Vec<_>>(), []);
        }
    };
}

broken! {
    // Versions.
    own_clocks: [RedisClock] => DELETED, Scope { ahead: 4, ..two_nodes(Budget { gets: 1, ..PUT_DELETE }) };
    a_clock_that_ignores_what_it_sees: [ClockMerges] => DELETED, Scope {
        always_ahead: 4,
        writers: Writers::WhoHasSeen,
        ..two_nodes(Budget { gets: 1, ..PUT_DELETE })
    };
    a_delete_below_what_it_deletes: [ExceedsKnown] => DELETED, Scope {
        always_ahead: 4,
        is_far_ahead: true,
        writers: Writers::WhoKnows,
        ..two_nodes(Budget { gets: 1, seeks: 1, ..PUT_DELETE })
    };
    a_copied_name: [NameIsDrawn] => AGREED, Scope { is_copied: true, ..two_nodes(Budget { seeks: 1, ..PUT_DELETE }).apart() };

    // Pushing.
    a_full_redis_that_holds_back_deletes: [OrderIsPerId] => AGREED,
        Scope { room: Some(1), ..two_ids(Budget { puts: 2, deletes: 1, ..NONE }) };
    what_cannot_be_sent_holds_back_others: [OrderIsPerId] => READABLE, Scope { unsendable: Some(0), ..two_ids(TWO_PUTS) };
    a_full_redis_that_refuses_deletes: [DeletePassesFullRedis] => AGREED, Scope { room: Some(1), ..two_ids(PUT_DELETE) };
    a_write_without_a_guard: [GuardedWrite] => AGREED, two_nodes(PUT_DELETE);
    an_event_before_its_data: [NamedAfterwards] => AGREED, two_nodes(Budget { seeks: 1, ..TWO_PUTS });
    a_repeat_without_an_event: [RepeatIsNamed] => AGREED, two_nodes(Budget { seeks: 1, breaks: 1, ..TWO_PUTS });
    a_refused_put_that_stays: [RefusedIsDropped] => DELETED, two_nodes(PUT_DELETE);
    settled_at_once: [SettleLater] => KEPT, two_nodes(Budget { failovers: 1, evictions: 1, ..PUT });
    settled_by_a_demoted_master: [SettleOnProof] => KEPT, two_nodes(Budget { failovers: 1, evictions: 1, ..PUT });
    nothing_pushed_again: [PushedAgain] => READABLE, two_nodes(Budget { failovers: 1, ..PUT });
    no_deletes_pushed_again: [DeletesPushedAgain] => AGREED, two_nodes(Budget { failovers: 1, ..PUT_DELETE });
    pushed_before_hearing: [HearFirst] => AGREED, two_nodes(Budget { breaks: 1, expiries: 1, ..PUT_DELETE });
    skipped_because_unreadable: [UnreadableIsHeld] => KEPT, two_nodes(Budget { unreadable: 1, evictions: 1, ..PUT });

    // Hearing.
    an_event_that_drops_nothing: [EventDrops] => DELETED, two_nodes(Budget { seeks: 1, ..PUT_DELETE });
    an_event_that_spares_what_is_dirty: [EventDropsDirty] => DELETED, two_nodes(PUT_DELETE);
    a_fetch_that_forgets_events: [FlightRemembers] => AGREED, two_nodes(Budget { seeks: 1, ..TWO_PUTS });
    a_fetch_that_forgets_puts_of_its_node: [FlightRemembersOwn] => AGREED,
        two_nodes(Budget { seeks: 1, evictions: 1, ..TWO_PUTS });
    a_fetch_from_before_a_lost_past: [FlightDoubted] => AGREED, two_nodes(Budget { seeks: 1, trims: 1, ..PUT_DELETE });
    // Where it is looked again, registering late only takes longer.
    registered_after_fetching: [RegisterFirst, Recheck] => READABLE, two_nodes(Budget { gets: 1, ..PUT });
    no_second_look: [Recheck] => READABLE, two_nodes(Budget { foreign: 1, gets: 1, ..NONE });
    a_lost_past_unnoticed: [LostPastNoticed] => AGREED, two_nodes(Budget { seeks: 1, trims: 1, ..PUT_DELETE });
    no_cursor_to_notice_it_by: [Hello] => AGREED, two_nodes(Budget { seeks: 1, trims: 1, ..PUT_DELETE });
    only_clean_ones_suspected: [UnsettledSuspects] => AGREED, two_nodes(Budget { trims: 1, ..PUT_DELETE });
    trusted_until_it_settles: [SettlingSuspects] => AGREED_EARLY, two_nodes(Budget { trims: 1, ..PUT_DELETE });
    suspicions_that_a_restart_forgets: [SuspectsPersist] => AGREED,
        two_nodes(Budget { trims: 1, restarts: 1, ..PUT_DELETE });
    a_lost_suspect_dropped: [LostSuspectKept] => KEPT, two_nodes(Budget { trims: 1, lost_values: 1, gets: 1, seeks: 1, ..PUT });
    a_long_lost_suspect_kept: [LongLostSuspectDropped] => AGREED,
        two_nodes(Budget { trims: 1, expiries: 1, seeks: 1, ..PUT_DELETE });
    a_want_answered_by_a_suspect: [SuspectAnswersNoWant] => AGREED,
        two_nodes(Budget { trims: 1, expiries: 1, gets: 1, wants: 1, ..PUT_DELETE }).apart();
    a_want_answered_before_the_rest_is_heard: [WantAfterHearing] => AGREED,
        two_nodes(Budget { trims: 1, expiries: 1, gets: 1, wants: 1, ..PUT_DELETE }).apart();
    a_deaf_node_that_trusts_itself: [DeafSuspects] => AGREED,
        Scope { deaf: Some(1), ..two_nodes(Budget { seeks: 1, ..PUT_DELETE }) };
    no_wants: [Want] => READABLE, two_nodes(Budget { gets: 1, lost_values: 1, ..PUT });
    an_emptied_redis_not_filled_again: [EpochMakesDirty] => READABLE, two_nodes(Budget { flushes: 1, ..PUT });
    an_answer_from_before_it_was_emptied: [AckOfEpoch] => READABLE, two_nodes(Budget { flushes: 1, ..PUT });
    drops_that_a_restart_forgets: [DropJournaled] => AGREED, two_nodes(Budget { restarts: 1, ..PUT_DELETE });
    a_cursor_before_its_drops: [CursorAfterDrops] => AGREED, two_nodes(Budget { restarts: 1, ..PUT_DELETE });

    // Deleting.
    only_what_is_held_is_deleted: [BlindDelete] => AGREED, two_nodes(PUT_DELETE);
    no_tombstone_here: [OwnTombstone] => DELETED, two_nodes(Budget { gets: 1, ..PUT_DELETE });
    a_tombstone_forgotten_before_it_settled: [TombstoneUntilSettled] => AGREED, two_nodes(Budget { expiries: 1, ..PUT_DELETE });
    early_waiters_left: [EarlyAnswered] => READABLE, two_nodes(Budget { gets: 1, ..PUT_DELETE });
    early_waiters_get_what_was_deleted: [EarlyIsNewer] => DELETED, two_nodes(Budget { puts: 1, deletes: 2, gets: 1, ..NONE });
    what_they_get_is_kept: [EarlyNotKept] => FILLS, two_nodes(Budget { gets: 1, ..PUT_DELETE });
    a_delete_that_overtakes_a_fetch: [DeleteAfterFetch] => READABLE, two_nodes(Budget { gets: 1, ..PUT_DELETE });

    // Room, and copies.
    dirty_objects_evicted: [EvictClean] => KEPT, two_nodes(Budget { evictions: 1, ..PUT });
    a_fill_that_compares_nothing: [FillCompares] => FILLS, two_nodes(Budget { seeks: 1, ..PUT_DELETE });
    foreign_values_kept: [NoForeignFill] => AGREED, two_nodes(Budget { foreign: 2, seeks: 1, ..NONE });

    // Values without versions.
    a_put_that_came_after_its_delete: [OvertakenBecomesDelete] => AGREED, two_nodes(PUT_DELETE).python();
    a_put_that_came_after_its_delete_unheard: [LostPastRepeatsDeletes] => AGREED,
        two_nodes(Budget { trims: 1, ..PUT_DELETE }).python();
    a_put_that_came_after_its_delete_and_settled: [DeleteRepeated] => AGREED,
        Scope { trims_part: true, ..two_nodes(Budget { trims: 1, ..PUT_DELETE }).python() };
    a_repeated_delete_that_is_lost: [RepeatIsDirty] => AGREED, two_nodes(Budget { failovers: 1, ..PUT_DELETE }).python();
}
