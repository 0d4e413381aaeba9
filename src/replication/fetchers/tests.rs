//! Tests of what a fetcher does about a suspect, without a Redis.

use std::sync::Arc;

use tempfile::TempDir;

use super::*;
use crate::local::LocalOptions;
use crate::redis::{Head, RedisOptions, ValueFormat};

const THEIRS: Version = Version { clock: 5, node: 7 };

/// A node without a Redis that holds a copy of what another node wrote.
struct World {
    backend: Arc<TieredBackend>,
    _place: TempDir,
}

impl World {
    fn new() -> Self {
        Self::of(ValueFormat::default())
    }

    fn of(value_format: ValueFormat) -> Self {
        let place = tempfile::tempdir().unwrap();
        let local = LocalOptions { path: place.path().into(), max_size_mb: 64, ..LocalOptions::default() };
        // Nobody listens there.
        let url = "redis://127.0.0.1:1".into();
        let redis = RedisOptions { url, value_format, drain_timeout_ms: 0, ..RedisOptions::default() };
        let backend = TieredBackend::open(&local, &redis, Default::default(), Arc::default()).unwrap();
        let object = Object { data: "data".into(), metadata: Default::default() };
        let fill = Fill { version: THEIRS, deadline_ms: 0, is_current: &|| true };
        assert!(backend.tier().unwrap().fill(b"id", &object, 0, &fill, &mut |_| {}).unwrap());
        World { backend, _place: place }
    }

    fn losses(&self) -> u64 {
        self.backend.tier().unwrap().outbox().as_ref().unwrap().losses()
    }

    fn is_suspect(&self) -> bool {
        self.backend.tier().unwrap().suspect(b"id").unwrap().is_some()
    }
}

/// Invariant 5: who asks after a loss was noticed is not answered by what Redis had before it.
#[test]
fn a_check_during_which_events_were_missed_answers_nobody() {
    let world = World::new();
    let tier = world.backend.tier().unwrap();
    tier.suspect_all();
    let standing = StoredValue::Ours(Head::put(THEIRS, &Object::default(), 0, 0));
    let before = world.losses();
    tier.suspect_all();
    assert_eq!(world.backend.resolve(b"id", Some(&standing), Absence::Deleted, before).unwrap(), Resolved::Other);
    assert!(world.is_suspect());
    assert_eq!(
        world.backend.resolve(b"id", Some(&standing), Absence::Deleted, world.losses()).unwrap(),
        Resolved::Newest
    );
    assert!(!world.is_suspect());
}

/// Invariant 3: Redis lacks what it has lost; that a loss was noticed meanwhile does not make it a copy.
#[test]
fn what_redis_lacks_is_dirty_and_still_suspect_if_events_were_missed_meanwhile() {
    let world = World::new();
    let tier = world.backend.tier().unwrap();
    let outbox = tier.outbox().unwrap();
    outbox.set_heard("1-1".into(), u64::MAX); // in step until now
    tier.suspect_all();
    let before = world.losses();
    tier.suspect_all();
    let Known::Held { lsn, .. } = tier.known(b"id").unwrap() else { panic!("it is gone") };
    world.backend.resolve(b"id", None, Absence::Deleted, before).unwrap();
    assert!(outbox.is_dirty(lsn, true) && world.is_suspect());
    world.backend.resolve(b"id", None, Absence::Deleted, world.losses()).unwrap();
    assert!(outbox.is_dirty(lsn, true) && !world.is_suspect());
}

/// Invariant 3: what a Redis lacks that has lost everything, which is about to be noticed, was not deleted.
#[test]
fn what_a_redis_lacks_that_may_be_another_one_stays_as_it_is() {
    for format in [ValueFormat::Tiered, ValueFormat::Python] {
        let world = World::of(format);
        let tier = world.backend.tier().unwrap();
        tier.suspect_all();
        let resolve = |absence| world.backend.resolve(b"id", None, absence, world.losses()).unwrap();
        assert_eq!(resolve(Absence::Unknown), Resolved::Unknown);
        assert!(world.is_suspect() && matches!(tier.known(b"id").unwrap(), Known::Held { is_clean: true, .. }));
        assert_eq!(resolve(Absence::Deleted), Resolved::Other);
        let known = tier.known(b"id").unwrap();
        let is_lost = matches!(known, Known::Held { lsn, .. } if tier.outbox().unwrap().is_dirty(lsn, true));
        assert!(known == Known::Nothing || is_lost, "{known:?}");
    }
}
