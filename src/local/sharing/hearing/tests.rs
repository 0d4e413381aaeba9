//! Tests of events, drops, repeated puts and tombstones.

use std::path::Path;
use std::time::{Duration, Instant};

use super::*;
use crate::backend::Backend;
use crate::clock::Reading;
use crate::local::LocalBackend;
use crate::local::LocalOptions;
use crate::local::files::counters::Counters;
use crate::local::sharing::ledger::Lane;
use crate::local::sharing::outbox::OutboxOptions;
use crate::local::upkeep::by_hand::outbox;

const TTL_MS: u64 = 1000;
const HOUR_MS: u64 = 3_600_000;
/// A moment in 2023.
const TODAY: u64 = 1_700_000_000_000;

fn open(path: &Path, object_ttl_ms: u64, tombstone_ttl_ms: u64) -> LocalBackend {
    open_with(path, |outbox| (outbox.object_ttl_ms, outbox.tombstone_ttl_ms) = (object_ttl_ms, tombstone_ttl_ms))
}

fn open_with(path: &Path, change: impl FnOnce(&mut OutboxOptions)) -> LocalBackend {
    let options = LocalOptions { path: path.into(), max_size_mb: 64, ..LocalOptions::default() };
    let mut outbox = outbox();
    change(&mut outbox);
    LocalBackend::open_with(&options, Default::default(), Some(outbox)).unwrap()
}

fn tell(tier: &LocalTier, redis_ms: u64) {
    tier.journal.set_time(Reading { redis_ms, at: Instant::now(), give_or_take: Duration::ZERO });
}

fn push(outbox: &Outbox, end: Lsn) {
    let epoch = outbox.ledger.epoch();
    outbox.ledger.sending(epoch, Lane::Tail, end);
    outbox.ledger.advance(epoch, Lane::Tail, end);
}

fn settle(outbox: &Outbox, end: Lsn) {
    let (epoch, now) = (outbox.ledger.epoch(), Instant::now());
    push(outbox, end);
    outbox.ledger.acknowledge(epoch, now);
    outbox.ledger.settle(epoch, now + Duration::from_secs(1), Duration::ZERO);
}

/// Rule "Hearing" 5: what was checked after a lost past, and is suspect because of another, was heard of between the two.
#[test]
fn a_suspect_that_was_checked_was_in_step_until_the_next_lost_past() {
    let place = tempfile::tempdir().unwrap();
    let backend = open(place.path(), 0, TTL_MS);
    let tier = backend.tier().unwrap();
    let outbox = tier.outbox.as_ref().unwrap();
    for id in [b"a", b"b"] {
        tier.put(id, b"data", b"", &mut |_| {}).unwrap();
    }
    settle(outbox, tier.journal.end());
    let lose_past = |in_step_ms| {
        outbox.set_heard("1-1".into(), in_step_ms);
        tier.suspect_all();
    };
    let is_kept = |now_ms| outbox.would_have_tombstone(u64::MAX, now_ms);

    lose_past(1000);
    assert!(is_kept(1999) && !is_kept(2000));
    let of_a = tier.suspect(b"a").unwrap().unwrap().lsn;
    tier.trust(of_a, || true);
    lose_past(9000);
    assert!(!is_kept(9000), "the other one was not checked: nobody knows of it since 1000");
    for id in [b"a", b"b"] {
        tier.trust(tier.suspect(id).unwrap().unwrap().lsn, || true);
    }
    lose_past(9500);
    assert!(is_kept(10499) && !is_kept(10500));
    assert!(tier.suspect(b"a").unwrap().is_some() && tier.suspect(b"b").unwrap().is_some());
    backend.close().unwrap();
}

/// Hearing 5.
#[test]
fn what_was_pushed_and_has_not_settled_is_suspect_where_redis_can_tell() {
    for has_versions in [true, false] {
        let place = tempfile::tempdir().unwrap();
        let backend = open_with(place.path(), |outbox| outbox.has_versions = has_versions);
        let tier = backend.tier().unwrap();
        let outbox = tier.outbox.as_ref().unwrap();
        let is_suspect = || tier.suspect(b"id").unwrap().is_some();
        tier.put(b"id", b"data", b"", &mut |_| {}).unwrap();
        tier.suspect_earlier();
        push(outbox, tier.journal.end());
        assert!(!is_suspect(), "it was pushed after the loss, and had not been overruled");
        outbox.set_deaf(true);
        assert_eq!(is_suspect(), has_versions);
        outbox.set_deaf(false);

        tier.suspect_all();
        assert_eq!(is_suspect(), has_versions, "it may have been overruled unheard");
        outbox.ledger.push_again();
        assert_eq!(is_suspect(), has_versions, "also while it is to be pushed again");
        settle(outbox, tier.journal.end());
        assert!(is_suspect());
        backend.close().unwrap();
    }
}

/// Invariant 5: once all are checked none is looked for, until events are missed again.
#[test]
fn when_all_suspects_are_checked_there_are_none() {
    let place = tempfile::tempdir().unwrap();
    let backend = open(place.path(), 0, TTL_MS);
    let tier = backend.tier().unwrap();
    let outbox = tier.outbox.as_ref().unwrap();
    let put = |id: &[u8]| tier.put(id, b"data", b"", &mut |_| {}).unwrap();
    let is_suspect = |id: &[u8]| tier.suspect(id).unwrap().is_some();
    let check = |id: &[u8]| assert!(tier.trust(tier.suspect(id).unwrap().unwrap().lsn, || true));
    put(b"a");
    put(b"b");
    settle(outbox, tier.journal.end());
    tier.suspect_all();
    check(b"a");
    tier.end_suspicion();
    assert!(outbox.has_suspects() && is_suspect(b"b"));
    check(b"b");
    let all_checked = outbox.suspicion();
    tier.end_suspicion();
    assert!(!outbox.has_suspects());

    tier.suspect_all();
    outbox.suspect_none(all_checked);
    assert!(is_suspect(b"a") && is_suspect(b"b"), "events were missed since");
    check(b"a");
    check(b"b");
    let all_checked = outbox.suspicion();
    put(b"copied");
    let Known::Held { lsn, .. } = tier.known(b"copied").unwrap() else { panic!("it is gone") };
    outbox.suspect_moved(lsn, None);
    outbox.suspect_none(all_checked);
    assert!(outbox.is_suspect(lsn), "one was copied since");
    backend.close().unwrap();
}

/// Invariant 3: between a look at Redis and what follows from it, the object may have been written anew.
#[test]
fn what_redis_says_of_a_copy_does_nothing_to_what_was_written_since() {
    let place = tempfile::tempdir().unwrap();
    let backend = open(place.path(), 0, TTL_MS);
    let tier = backend.tier().unwrap();
    let outbox = tier.outbox.as_ref().unwrap();
    let put = |data| {
        tier.put(b"id", data, b"", &mut |_| {}).unwrap();
        let Known::Held { version, lsn, .. } = tier.known(b"id").unwrap() else { panic!("it is gone") };
        (version, lsn)
    };
    let is_held = || matches!(tier.known(b"id").unwrap(), Known::Held { .. });
    let (version, copy) = put(b"settled");
    settle(outbox, tier.journal.end());
    let (_, newer) = put(b"newer");
    tier.drop_at(b"id", newer, version).unwrap();
    assert!(is_held(), "it is dirty");
    settle(outbox, tier.journal.end());
    tier.drop_at(b"id", copy, version).unwrap();
    tier.lose_at(b"id", copy, || true).unwrap();
    assert!(is_held() && !outbox.ledger.is_apart(copy), "it was another record");
    tier.drop_at(b"id", newer, version).unwrap();
    assert!(!is_held(), "it is clean, and Redis has something else");
    backend.close().unwrap();
}

/// Without versions: what others write once this node's event was heard is later, whatever events are missed in between.
#[test]
fn what_was_announced_is_not_on_its_way_again_when_events_are_missed() {
    let place = tempfile::tempdir().unwrap();
    let backend = open_with(place.path(), |outbox| outbox.has_versions = false);
    let tier = backend.tier().unwrap();
    let others = Version { clock: 1, node: 2 };
    for (id, is_announced) in [(&b"announced"[..], true), (b"on its way", false)] {
        tier.put(id, b"data", b"", &mut |_| {}).unwrap();
        let Known::Held { version, .. } = tier.known(id).unwrap() else { panic!("it was put") };
        if is_announced {
            tier.apply_own_event(id, version).unwrap();
        }
        tier.suspect_all();
        tier.apply_others_event(id, others).unwrap();
        assert_eq!(tier.known(id).unwrap() == Known::Nothing, is_announced);
    }
    backend.close().unwrap();
}

/// Hearing 4: a fill that was found to be current, and is written above the lsn below which everything became suspect meanwhile.
#[test]
fn a_copy_that_is_kept_while_events_are_missed_is_suspect() {
    let place = tempfile::tempdir().unwrap();
    let backend = open(place.path(), 0, HOUR_MS);
    let tier = backend.tier().unwrap();
    tell(tier, TODAY);
    let object = Object { data: "data".into(), metadata: "".into() };
    for (id, is_missed) in [(b"a", false), (b"b", true)] {
        let is_current = || {
            if is_missed {
                tier.suspect_all();
            }
            true
        };
        let version = Version { clock: TODAY << 16, node: 7 };
        let fill = Fill { version, deadline_ms: 0, is_current: &is_current };
        assert!(tier.fill(id, &object, 0, &fill, &mut |_| {}).unwrap());
        assert_eq!(tier.suspect(id).unwrap().is_some(), is_missed);
    }
    backend.close().unwrap();
}

// Invariant 16.
#[test]
fn attached_processes_remember_only_what_no_missed_event_can_be_about() {
    let place = tempfile::tempdir().unwrap();
    let backend = open(place.path(), 0, HOUR_MS);
    let tier = backend.tier().unwrap();
    let outbox = tier.outbox.as_ref().unwrap();
    tier.index().changes().share(Counters::open(place.path()).unwrap().0);
    let epoch = || tier.index().changes().now(0).unwrap().0;
    let raised = |by: &dyn Fn()| {
        let before = epoch();
        by();
        epoch() - before
    };
    assert_eq!(raised(&|| tier.suspect_all()), 1);
    assert!(!outbox.has_suspects(), "there is nothing to suspect");

    tier.put(b"clean", b"data", b"", &mut |_| {}).unwrap();
    settle(outbox, tier.journal.end());
    tier.put(b"dirty", b"data", b"", &mut |_| {}).unwrap();
    assert!(tier.may_remember(b"clean") && tier.may_remember(b"dirty"));
    assert_eq!(raised(&|| tier.suspect_all()), 3, "before the checks are forgotten, and after");
    assert!(tier.suspect(b"clean").unwrap().is_some() && tier.suspect(b"dirty").unwrap().is_none());
    assert!(!tier.may_remember(b"clean") && !tier.may_remember(b"dirty"), "it will be suspect");
    tier.put(b"new", b"data", b"", &mut |_| {}).unwrap();
    assert!(tier.may_remember(b"new"));

    let lsn = tier.suspect(b"clean").unwrap().unwrap().lsn;
    let void = || {
        assert!(!tier.trust(lsn, || {
            assert!(tier.may_remember(b"clean"));
            false
        }));
    };
    assert_eq!(raised(&void), 1, "what was remembered in between");
    assert!(!tier.may_remember(b"clean"));
    assert_eq!(raised(&|| assert!(tier.trust(lsn, || true))), 0);
    assert!(tier.may_remember(b"clean") && !tier.may_remember(b"absent"));
    assert_eq!(raised(&|| outbox.set_deaf(true)), 1);
    assert!(!tier.may_remember(b"clean") && !tier.may_remember(b"new"));
    backend.close().unwrap();
}

/// A delete is remembered for its time, whatever Redis's clock does; and as long as it is, a suspect that Redis lacks is one that it
/// has lost.
#[test]
fn a_clock_that_is_set_takes_no_time_from_tombstones() {
    let place = tempfile::tempdir().unwrap();
    let backend = open(place.path(), 0, HOUR_MS / 2);
    let tier = backend.tier().unwrap();
    let outbox = tier.outbox.as_ref().unwrap();
    tell(tier, TODAY);
    tier.delete(b"here").unwrap();
    let version = tier.journal.append(&NewRecord::bare(b"other", Kind::Put, Lsn::NONE), Purpose::Put).unwrap().version;
    assert!(!tier.apply_event(b"there", version, true).unwrap());
    tier.set_heard(format!("{TODAY}-1"));
    tier.suspect_all();
    for redis_ms in [TODAY + HOUR_MS, TODAY - HOUR_MS, TODAY + 100_000 * HOUR_MS] {
        tell(tier, redis_ms);
        settle(outbox, tier.journal.end());
        tier.expire_tombstones();
        for id in [b"here".as_slice(), b"there"] {
            assert!(matches!(tier.known(id).unwrap(), Known::Deleted(_)), "{redis_ms}");
        }
        assert!(tier.would_have_tombstone(outbox, version), "{redis_ms}");
    }
    backend.close().unwrap();
}

/// Versions: a local delete beats what is known, however far ahead.
#[test]
fn a_delete_is_made_again_above_a_version_far_ahead_unless_the_id_was_written_since() {
    let place = tempfile::tempdir().unwrap();
    let backend = open(place.path(), 0, HOUR_MS);
    let tier = backend.tier().unwrap();
    tell(tier, TODAY);
    let far = Version { clock: (TODAY + 10_000 * HOUR_MS) << 16, node: u64::MAX };
    let deleted = || match tier.known(b"id").unwrap() {
        Known::Deleted(tombstone) => tombstone.version,
        known => panic!("{known:?}"),
    };
    tier.delete_above(b"id", far, DeleteRetry::Refused).unwrap();
    assert_eq!(tier.known(b"id").unwrap(), Known::Nothing, "it was not deleted here");
    tier.delete(b"id").unwrap();
    assert!(deleted() < far);
    tier.delete_above(b"id", far, DeleteRetry::Refused).unwrap();
    let above = deleted();
    assert!(
        above > far
            && !tier.journal.is_too_far_ahead(
                tier.journal.append(&NewRecord::bare(b"x", Kind::Put, Lsn::NONE), Purpose::Put).unwrap().version
            )
    );
    tier.delete_above(b"id", far, DeleteRetry::Refused).unwrap();
    assert_eq!(deleted(), above, "it is above that already");
    tier.put(b"id", b"data", b"", &mut |_| {}).unwrap();
    let Known::Held { version, .. } = tier.known(b"id").unwrap() else { panic!() };
    assert!(version > above);
    tier.delete_above(b"id", Version { clock: u64::MAX, node: 0 }, DeleteRetry::Refused).unwrap();
    assert!(matches!(tier.known(b"id").unwrap(), Known::Held { .. }));
    // Another node has written it since, and is not undone by the delete before that.
    let newer = Version { clock: version.clock + 1, node: 1 };
    assert!(tier.apply_event(b"id", newer, false).unwrap());
    let before = deleted();
    tier.delete_above(b"id", newer, DeleteRetry::Refused).unwrap();
    assert_eq!(deleted(), before);
    // But a delete that has not returned yet covers that object, and goes above it.
    tier.delete_above(b"id", newer, DeleteRetry::Asked).unwrap();
    assert!(deleted() > newer);
    backend.close().unwrap();
}

#[test]
fn a_put_is_made_again_above_a_version_far_ahead_if_it_still_stands() {
    let place = tempfile::tempdir().unwrap();
    let backend = open(place.path(), 0, HOUR_MS);
    let tier = backend.tier().unwrap();
    tell(tier, TODAY);
    let far = Version { clock: (TODAY + 10_000 * HOUR_MS) << 16, node: u64::MAX };
    for size in [10, 5000, 100_000] {
        let data = vec![7; size];
        let held = || match tier.known(b"id").unwrap() {
            Known::Held { version, lsn, is_clean: false } => (version, lsn),
            known => panic!("{known:?}"),
        };
        tier.put(b"id", &data, b"m", &mut |_| {}).unwrap();
        let (_, first) = held();
        let dirty = tier.dirty_at(b"id", first).unwrap().unwrap().put.unwrap();
        let again = RepeatedPut { lsn: first, above: far, deadline_ms: TODAY + HOUR_MS };
        tier.put_above(b"id", &dirty.object, dirty.body_hash, &again).unwrap();
        let (version, second) = held();
        assert!(version > far && second != first);
        let dirty = tier.dirty_at(b"id", second).unwrap().unwrap().put.unwrap();
        assert_eq!(
            (dirty.object.data, dirty.object.metadata, dirty.deadline_ms),
            (data.into(), "m".into(), TODAY + HOUR_MS)
        );
        // Something else stands there by now.
        tier.put_above(b"id", &Object::default(), 0, &again).unwrap();
        assert_eq!(held(), (version, second));
        tier.delete(b"id").unwrap();
    }
    backend.close().unwrap();
}

/// Pushing 9: without Redis's clock a lifetime does not begin, also not over another open.
#[test]
fn a_lifetime_begins_when_redis_has_told_the_time() {
    let place = tempfile::tempdir().unwrap();
    let backend = open(place.path(), HOUR_MS, HOUR_MS);
    backend.tier().unwrap().put(b"id", b"data", b"", &mut |_| {}).unwrap();
    backend.close().unwrap();
    let backend = open(place.path(), HOUR_MS, HOUR_MS);
    let tier = backend.tier().unwrap();
    tell(tier, TODAY);
    let dirty = tier.dirty_now(b"id").unwrap().unwrap().put.unwrap();
    assert!((TODAY + HOUR_MS..TODAY + 2 * HOUR_MS).contains(&dirty.deadline_ms), "{}", dirty.deadline_ms);
    tell(tier, TODAY + 1000 * HOUR_MS);
    assert!(tier.get(b"id").unwrap().is_some());
    backend.close().unwrap();
}
