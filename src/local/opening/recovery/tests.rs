//! Tests of recovery from stores that lost hints, segments, or parts of them.

use super::*;
use crate::local::Underlying;
use crate::local::journal::{NewRecord, Purpose};
use crate::local::upkeep::by_hand::{ByHand, Left, outbox};

fn reopened(store: ByHand, left: Left) -> ByHand {
    store.reopen(left, Underlying::default(), None)
}

fn colliding() -> Underlying {
    Underlying { fingerprint_mask: 0, ..Underlying::default() }
}

fn contains(store: &ByHand, id: &[u8]) -> bool {
    store.tier.contains(id).unwrap()
}

// Invariant 13: an object that was given up for others to hold is not lost.
#[test]
fn hints_of_a_reclaimed_segment_are_no_loss_and_go_and_those_of_a_missing_one_are() {
    let mut store = ByHand::open(Some(outbox()));
    store.put(b"evicted", 100);
    let first = store.seal();
    store.put(b"missing", 100);
    let second = store.seal();
    store.put(b"kept", 100);
    store.seal();
    store.settle();
    store.tier.space.add_live(50 << 20);
    store.reclaim(first);
    store.tier.segments.reclaimed(first).unwrap();
    std::fs::remove_file(store.segment(second).path()).unwrap();
    let store = store.reopen(Left::All, Underlying::default(), Some(outbox()));
    assert!(contains(&store, b"kept") && !contains(&store, b"evicted") && !contains(&store, b"missing"));
    assert_eq!(store.damaged_objects(), 1);
    let hinted = store.catalog().segments().unwrap();
    assert!(!hinted.contains(&first) && hinted.contains(&second), "{hinted:?}");
}

// Invariant 13.
#[test]
fn hints_that_are_not_of_this_segment_are_not_believed() {
    let mut store = ByHand::open(None);
    store.put(b"id", 100);
    let number = store.seal();
    let segment = store.segment(number);
    store.catalog().remove(number).unwrap();
    store.catalog().store(number, segment.nonce + 1, segment.records_end(), 0, &[]).unwrap();
    let fingerprints = store.tier.index().fingerprints();
    let found = hints(&store.tier.segments, store.catalog(), &segment, fingerprints).unwrap();
    assert_eq!(found.len(), 1);
    let store = reopened(store, Left::All);
    store.check(b"id", 100);
}

#[test]
fn a_segment_in_which_nothing_was_written_goes_and_one_that_is_damaged_stays() {
    let store = ByHand::open(None);
    store.put(b"damaged", 100);
    let damaged = store.place(b"damaged").segment();
    store.flip_header(b"damaged");
    // Another record shows that there was one.
    store.put(b"id", 100);
    store.flip_header(b"id");
    store.put(b"last", 100);
    store.tier.journal.seal_active();
    let spare = store.tier.segments.create_spare(1 << 16).unwrap();
    let empty = store.tier.segments.activate(spare, SegmentKind::Records).unwrap().number;
    let store = reopened(store, Left::Journal);
    assert!(store.tier.segments.get(empty).is_none());
    assert!(store.tier.segments.get(damaged).is_some());
    assert!(store.damaged_objects() > 0);
}

// Invariant 1.
#[test]
fn what_a_lost_record_had_superseded_does_not_come_back_and_takes_nobody_elses_along() {
    for under in [Underlying::default(), colliding()] {
        let mut store = ByHand::open_on(under.clone(), None);
        store.put(b"deleted", 100);
        store.put(b"other", 100);
        store.seal();
        store.put(b"deleted", 200);
        let second = store.seal();
        store.tier.delete(b"deleted").unwrap();
        store.seal();
        std::fs::remove_file(store.segment(second).path()).unwrap();
        store.catalog().remove(second).unwrap();
        let store = store.reopen(Left::All, under, None);
        assert!(!contains(&store, b"deleted"));
        store.check(b"other", 100);
    }
}

// Invariant 7.
#[test]
fn a_torn_record_overrules_nothing() {
    let store = ByHand::open(None);
    store.put(b"id", 100);
    store.put(b"id", 500);
    store.flip_body(b"id");
    let store = reopened(store, Left::All);
    store.check(b"id", 100);
    assert_eq!(store.damaged_objects(), 0);
}

// Invariant 13.
#[test]
fn an_object_whose_body_was_cut_off_is_lost() {
    let mut store = ByHand::open(None);
    store.put(b"first", 200_000);
    store.put(b"second", 200_000);
    store.put(b"inline", 1000);
    store.seal();
    let body = store.standing(b"second").unwrap().header.body_place;
    let file = std::fs::File::options().write(true).open(store.segment(body.segment).path()).unwrap();
    file.set_len(u64::from(body.offset) + 199_999).unwrap();
    let store = reopened(store, Left::All);
    assert_eq!(store.damaged_objects(), 1);
    assert_eq!(store.tier.liveness.index.object_count(), 2);
    store.check(b"first", 200_000);
    store.check(b"inline", 1000);
    assert!(!contains(&store, b"second"));
}

// Invariant 13: with one fingerprint, only the ids in the records tell them apart.
#[test]
fn what_cannot_be_told_from_another_is_counted_as_damaged() {
    let mut store = ByHand::open_on(colliding(), None);
    store.put(b"first", 100);
    store.put(b"second", 100);
    store.seal();
    store.flip_header(b"second");
    let store = store.reopen(Left::All, colliding(), None);
    assert_eq!(store.damaged_objects(), 1);
}

// Invariant 15.
#[test]
fn a_body_that_two_records_claim_is_the_newer_ones() {
    let mut store = ByHand::open(None);
    store.put(b"id", 200_000);
    let header = store.standing(b"id").unwrap().header;
    let claim = NewRecord {
        flags: Flags::EXTERNAL,
        body_hash: header.body_hash,
        data_bytes: header.data_bytes,
        metadata_bytes: header.metadata_bytes,
        body_place: header.body_place,
        ..NewRecord::bare(b"claimant", Kind::Put, Lsn::NONE)
    };
    store.tier.journal.append(&claim, Purpose::Put).unwrap();
    store.seal();
    let store = reopened(store, Left::All);
    assert!(contains(&store, b"claimant") && !contains(&store, b"id"));
    assert_eq!(store.damaged_objects(), 1);
    assert_eq!(store.tier.liveness.counts.payloads.load(std::sync::atomic::Ordering::Relaxed), 1);
}

// Invariant 2.
#[test]
fn a_payload_whose_record_has_moved_behind_its_sharers_is_found() {
    let mut store = ByHand::open(None);
    store.put(b"original", 2000);
    let first = store.seal();
    store.tier.duplicate(b"original", b"sharer", &mut |_| {}).unwrap();
    store.seal();
    store.reclaim(first);
    store.seal();
    store.tier.segments.reclaimed(first).unwrap();
    assert!(store.place(b"original") > store.place(b"sharer"));
    let store = reopened(store, Left::All);
    store.check(b"original", 2000);
    assert!(store.tier.get(b"sharer").unwrap().is_some());
    assert_eq!(store.damaged_objects(), 0);
}

#[test]
fn live_bytes_are_those_that_were_before() {
    let live_bytes = |store: &ByHand, number: u32| {
        (store.tier.segments.get(number).unwrap().live_bytes(), store.tier.space.live_bytes())
    };
    for is_deleted in [false, true] {
        for left in [Left::All, Left::Journal] {
            let mut store = ByHand::open(None);
            for id in [&b"alone"[..], b"original", b"overwritten"] {
                store.put(id, 2000);
            }
            let first = store.seal();
            store.put(b"overwritten", 200_000);
            store.tier.duplicate(b"original", b"sharer", &mut |_| {}).unwrap();
            // The shared payload counts in the segment in which its holder stands.
            assert!(!is_deleted || store.tier.delete(b"original").unwrap());
            let second = store.seal();
            let before = [first, second].map(|number| live_bytes(&store, number));
            let store = reopened(store, left);
            assert_eq!([first, second].map(|number| live_bytes(&store, number)), before, "{is_deleted}, {left:?}");
        }
    }
}
