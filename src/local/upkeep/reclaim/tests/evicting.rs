//! Tests of what is evicted, and from where.

use super::*;

/// Whether an object that would otherwise be evicted still is after this change.
fn is_evicted(options: OutboxOptions, change: impl Fn(&ByHand, &RecordAt)) -> bool {
    let store = ByHand::open(Some(options));
    store.know_time();
    store.put(b"id", 100);
    let fingerprint = store.tier.index().fingerprint(b"id");
    let record = store.tier.record_at(store.place(b"id")).unwrap();
    let hint = Hint::of(&record.header, fingerprint);
    store.tier.space.add_live(50 << 20);
    store.settle();
    change(&store, &record);
    store.tier.evict(&record, &hint, &Eviction::ahead_of_need(&store.tier.room));
    store.standing(b"id").is_none()
}

// Invariant 3.
#[test]
fn an_object_is_evicted_where_room_is_wanted_redis_has_it_and_nobody_read_it() {
    let is_evicted_after = |change: &dyn Fn(&ByHand, &RecordAt)| is_evicted(outbox(), change);
    assert!(is_evicted_after(&|_, _| {}));
    assert!(!is_evicted_after(&|store, _| store.tier.space.remove_live(50 << 20)), "there is room");
    assert!(
        !is_evicted_after(&|store, record| assert!(store.outbox().ledger.lose(record.lsn, b"id"))),
        "Redis lacks it"
    );
    assert!(!is_evicted_after(&|store, _| drop(store.tier.get(b"id").unwrap())), "it was read");
    assert!(!is_evicted_after(&|store, _| store.put(b"id", 200)), "another record counts");
    let expired = OutboxOptions { object_ttl_ms: 1, ..outbox() };
    let lived_its_time = is_evicted(expired, |store, record| {
        store.tier.space.remove_live(50 << 20);
        while !store.tier.journal.is_over(&record.header) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    });
    assert!(lived_its_time);
}

#[test]
fn what_an_evicted_object_took_counts_towards_what_is_to_go() {
    for (data_bytes, body_bytes) in [(100, 0), (200_000, 200_000)] {
        for (missing_bytes, is_enough) in [(0, true), (1, false)] {
            let store = ByHand::open(Some(outbox()));
            store.put(b"id", data_bytes);
            store.settle();
            let record = store.tier.record_at(store.place(b"id")).unwrap();
            let hint = Hint::of(&record.header, store.tier.index().fingerprint(b"id"));
            let taken_bytes = record.header.stride() + body_bytes;
            let eviction = Eviction::of(Victims::Unread, taken_bytes + missing_bytes);
            store.tier.evict(&record, &hint, &eviction);
            assert!(eviction.has_evicted());
            assert_eq!(eviction.is_enough(), is_enough, "{data_bytes} bytes, {missing_bytes} more are to go");
        }
    }
}

// Invariant 3.
#[test]
fn only_what_is_clean_and_counts_is_evictable() {
    let has_evictable = |prepare: &dyn Fn(&ByHand)| {
        let mut store = ByHand::open(Some(outbox()));
        prepare(&store);
        let number = store.seal();
        store.tier.has_evictable(&store.segment(number), &store.hints(number))
    };
    let clean = |store: &ByHand| {
        store.put(b"id", 1000);
        store.settle();
    };
    assert!(has_evictable(&clean));
    assert!(!has_evictable(&|store| store.put(b"id", 1000)), "it is dirty");
    let overwritten = |store: &ByHand| {
        clean(store);
        store.put(b"id", 2000);
    };
    assert!(!has_evictable(&overwritten), "another record counts");
    let deleted = |store: &ByHand| {
        assert!(!store.tier.delete(b"id").unwrap());
        store.settle();
    };
    assert!(!has_evictable(&deleted), "it stores nothing");
}

/// Whether a segment is evictable of whose objects so many count, and so many are clean.
fn is_evictable(kept: u8, clean: u8) -> bool {
    let mut store = ByHand::open(Some(outbox()));
    (0..100u8).for_each(|id| {
        store.put(&[id], 1000);
        if id + 1 == clean {
            store.settle();
        }
    });
    let number = store.seal();
    (kept..100).for_each(|id| assert!(store.tier.delete(&[id]).unwrap()));
    let segment = store.tier.segments.get(number).unwrap();
    store.tier.is_evictable(&segment, &store.hints(number))
}

// Invariant 14: to copy them again and again would never let them settle.
#[test]
fn a_segment_full_of_deletes_that_redis_may_not_know_of_is_left_alone() {
    let mut store = ByHand::open(Some(outbox()));
    (0..100u8).for_each(|id| assert!(!store.tier.delete(&[id]).unwrap()));
    let number = store.seal();
    let segment = store.segment(number);
    store.tier.space.add_live(50 << 20);
    assert!(store.tier.room.wants_eviction());
    let is_evictable = |store: &ByHand| store.tier.is_evictable(&segment, &store.hints(number));
    let reclaimable = |store: &ByHand| store.tier.reclaimable(false, &mut false).map(|(_, reason)| reason);
    assert!(!is_evictable(&store) && reclaimable(&store) == Some(Reason::Eviction));
    assert!(store.tier.records().dead_bytes < 1000);
    store.settle();
    store.tier.index().owed().settle_below(number + 1);
    assert!(is_evictable(&store) && reclaimable(&store) == Some(Reason::Dead));
    assert!(store.tier.records().dead_bytes > 10_000);
}

#[test]
fn evicting_one_object_pays_where_it_frees_a_large_body() {
    let is_evictable = |data_bytes| {
        let mut store = ByHand::open(Some(outbox()));
        store.put(b"clean", data_bytes);
        store.settle();
        (0..100u8).for_each(|id| store.put(&[id], 1000));
        let number = store.seal();
        store.tier.is_evictable(&store.segment(number), &store.hints(number))
    };
    assert!(is_evictable(200_000) && !is_evictable(1000));
}

#[test]
fn nothing_is_evicted_from_a_segment_that_is_nearly_all_dirty_and_counts() {
    for (kept, clean, expected) in [(100, 0, false), (100, 5, false), (100, 15, true), (95, 0, false), (85, 0, true)] {
        assert_eq!(is_evictable(kept, clean), expected, "{kept} kept, {clean} clean");
    }
}

#[test]
fn what_is_kept_for_the_next_bodies_goes_before_anything_is_evicted() {
    let mut store = ByHand::open(Some(outbox()));
    store.put(b"clean", 1000);
    (0..60u8).for_each(|id| store.put(&[id], 100_000));
    (0..60u8).for_each(|id| assert!(store.tier.delete(&[id]).unwrap()));
    store.settle();
    store.tier.reap_bodies().unwrap();
    assert!(store.tier.bodies.hole_bytes() > 4 << 20);
    let others = store.tier.space.lease_existing((56 << 20) - store.tier.space.physical_bytes());
    assert!(store.tier.room.wants_eviction(), "the directory is full");
    store.sealer.reclaim().unwrap();
    assert!(!store.tier.room.wants_eviction());
    store.check(b"clean", 1000);
    drop(others);
}
