//! Tests of two batches under way at a time.

use proptest::prelude::*;

use super::*;

/// Pushes the batches, each begun before the one before it is finished.
fn push_in_a_run(world: &mut World, batches: &[Vec<Outgoing<'static>>]) -> Vec<Vec<Result<Pushed, String>>> {
    let World { link, pusher, .. } = world;
    assert!(pusher.keeps_two(link));
    let mut pushed = Vec::new();
    let mut batches = batches.iter();
    let Some(mut batch) = batches.next() else { return pushed };
    let mut begun = pusher.begin(link, batch).unwrap();
    for next in batches {
        let mut behind = pusher.begin(link, next).unwrap();
        pushed.push(pusher.finish(link, batch, begun, Some(&mut behind), None).unwrap());
        (batch, begun) = (next, behind);
    }
    pushed.push(pusher.finish(link, batch, begun, None, None).unwrap());
    pushed
}

/// Most of these have more to say to Redis after their first answers, which then are not those of the batch behind.
#[test]
fn of_two_batches_each_gets_its_own_answers() {
    let mut world = world();
    let stood = put("stood", 2, &object("stood"));
    let known = put("known", 2, &object(vec![1; 2000]));
    world.push(&[stood.clone(), known.clone()]);
    world.heard();
    let large = object(vec![3; (2 << 20) + 5]);
    let again = Outgoing { is_repeat: true, ..known };
    let batches = [
        vec![put("new", 1, &object("1")), put("stood", 3, &object("3"))],
        vec![again, put("large", 1, &large), put("stood", 1, &object("1"))],
        vec![],
        vec![delete("new", 2), put("other", 1, &object("2"))],
        vec![put("last", 1, &object("4"))],
    ];
    let pushed = push_in_a_run(&mut world, &batches);
    let [new, newest] = [&batches[0][0], &batches[0][1]].map(|write| StoredValue::Ours(head_of(write)));
    assert_eq!(pushed[0], [applied(None), applied(Some(StoredValue::Ours(head_of(&stood))))]);
    assert_eq!(pushed[1], [Ok(Pushed::Same), applied(None), Ok(Pushed::Older(newest))]);
    assert_eq!(pushed[2], []);
    assert_eq!(pushed[3], [applied(Some(new)), applied(None)]);
    assert_eq!(pushed[4], [applied(None)]);
    assert_eq!(world.object("stood"), Some(object("3")));
    assert_eq!(world.object("large"), Some(large));
    assert_eq!(world.fetch("new"), Fetched::Tombstone(version(2)));
    let mut heard = world.heard();
    heard.sort_by(|a, b| a.1.cmp(&b.1));
    heard.dedup(); // those that met a value have an event more, after the one that went with them
    let named: Vec<(&str, u64)> = heard.iter().map(|(_, id, clock)| (&id[..], *clock)).collect();
    let all = [("known", 2), ("large", 1), ("last", 1), ("new", 1), ("new", 2), ("other", 1)];
    assert_eq!(named[..6], all);
    assert!(named.contains(&("stood", 3)));
}

#[test]
fn a_refusal_in_one_of_two_batches_is_its_own() {
    let mut world = world();
    let rights = ["ACL", "SETUSER", "default", "resetkeys", "~t:61", "~t:_*", "~t:{*", "%R~*"]; // of the ids, "a" alone
    call(&mut world.link, &rights).unwrap();
    let [a, b] = two_puts();
    let batches =
        [vec![a.clone(), b.clone()], vec![put("a", 2, &object("new")), b], vec![put("a", 3, &object("last"))]];
    let pushed = push_in_a_run(&mut world, &batches);
    call(&mut world.link, &["ACL", "SETUSER", "default", "allkeys"]).unwrap();
    for (pushed, is_refused) in pushed.iter().flatten().zip([false, true, false, true, false]) {
        assert_eq!(pushed.is_err(), is_refused, "{pushed:?}");
    }
    assert_eq!(world.object("a"), Some(object("last")));
    assert_eq!(world.counters(), (1, 12));
}

/// The second batch was answered, the first one breaks the connection.
#[test]
fn what_is_owed_to_the_counters_is_not_counted_twice() {
    let mut world = world();
    for clock in 1..4 {
        world.push(&[put("a", clock, &object("new"))]); // counted as another object until the next batch
    }
    call(&mut world.link, &["CONFIG", "SET", "proto-max-bulk-len", "1mb"]).unwrap();
    let first = [put("large", 1, &object(noise(1, 1 << 20)))];
    let second = [put("b", 1, &object("1"))];
    let begun = world.pusher.begin(&mut world.link, &first).unwrap();
    let mut behind = world.pusher.begin(&mut world.link, &second).unwrap();
    let broken = world.pusher.finish(&mut world.link, &first, begun, Some(&mut behind), None);
    assert!(broken.is_err_and(|error| error.is_cut_off()));
    world.link = world.server.link();
    world.push(&second);
    assert_eq!(world.counters(), (2, 2 * 8 + 3 + 1));
}

/// What is written to one of a few ids, and whether it counts as sent before.
#[derive(Clone, Debug)]
struct Written {
    id: usize,
    bytes: Option<usize>,
    is_repeat: bool,
}

fn written() -> impl Strategy<Value = Written> {
    // Deletes; objects that are small, that are looked for first, and that are chunked.
    let bytes = prop_oneof![3 => Just(None), 5 => (0..20_usize).prop_map(Some), 1 => Just(Some(3000)), 1 => Just(Some((1 << 20) + 1))];
    (0..IDS, bytes, any::<bool>()).prop_map(|(id, bytes, is_repeat)| Written { id, bytes, is_repeat })
}

const IDS: usize = 6;

/// Invariant 4: whatever is under way together, the highest version is what stands, and the counters count that.
#[test]
fn in_whatever_batches_writes_come_the_highest_version_stands() {
    let world = RefCell::new(world());
    let config = ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() };
    let batches = prop::collection::vec(prop::collection::vec(written(), 0..12), 1..6);
    let clocks = Just((1..100_u64).collect::<Vec<_>>()).prop_shuffle();
    proptest!(config, |(batches in batches, clocks in clocks)| {
        let world = &mut *world.borrow_mut();
        call(&mut world.link, &["FLUSHALL"]).unwrap();
        let mut clocks = clocks.into_iter();
        let mut outgoing = |Written { id, bytes, is_repeat }: Written| {
            let (id, clock) = (id.to_string(), clocks.next().unwrap());
            let write = match bytes {
                None => delete(&id, clock),
                Some(bytes) => put(&id, clock, &object(vec![clock as u8; bytes])),
            };
            Outgoing { is_repeat, ..write }
        };
        let batches: Vec<Vec<_>> = batches.into_iter().map(|batch| batch.into_iter().map(&mut outgoing).collect()).collect();
        let pushed = push_in_a_run(world, &batches);
        for (write, pushed) in batches.iter().flatten().zip(pushed.iter().flatten()) {
            prop_assert!(matches!(pushed, Ok(Pushed::Applied { .. } | Pushed::Older(_))), "{:?}: {:?}", write, pushed);
        }
        let mut counters = (0, 0);
        for id in (0..IDS).map(|id| id.to_string()) {
            let writes = batches.iter().flatten().filter(|write| write.id == id.as_bytes());
            match writes.max_by_key(|write| write.version) {
                None => prop_assert_eq!(world.fetch(&id), Fetched::Missing),
                Some(Outgoing { what: What::Delete, version, .. }) => {
                    prop_assert_eq!(world.fetch(&id), Fetched::Tombstone(*version));
                }
                Some(Outgoing { what: What::Put { object, .. }, .. }) => {
                    counters = (counters.0 + 1, counters.1 + object.raw().len() as u64);
                    prop_assert_eq!(world.object(&id), Some(object.to_object()));
                }
            }
        }
        prop_assert_eq!(world.counters(), counters);
    });
}
