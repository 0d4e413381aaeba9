//! Tests of pushing, with versions and without, against a real server.

use std::cell::RefCell;
use std::time::Duration;

use redis::Value;

use super::*;
use crate::object::Object;
use crate::redis::events::{self, Event, Op};
use crate::redis::fetch::{Fetched, VersionedObject, fetch};
use crate::redis::testing::*;
use crate::version::Version;

/// A server, a link, a pusher, and where the event stream stood at the beginning.
struct World {
    server: Server,
    link: Link,
    pusher: Pusher,
    cursor: String,
}

fn world() -> World {
    world_with(|_| ())
}

fn world_with(change: impl FnOnce(&mut RedisOptions)) -> World {
    let server = Server::start();
    let mut link = server.link();
    let mut options = server.options();
    change(&mut options);
    let hello = Notice { op: Op::Hello, id: b"", version: version(0) };
    let cursor = events::publish(&mut link, &keys(), NODE, &[hello]).unwrap();
    World { link, pusher: Pusher::new(&options, NODE), server, cursor }
}

impl World {
    fn push(&mut self, batch: &[Outgoing]) -> Vec<Result<Pushed, String>> {
        self.pusher.push(&mut self.link, batch).unwrap()
    }

    fn push_hearing(&mut self, batch: &[Outgoing], hearing: &dyn Hearing) -> Vec<Result<Pushed, String>> {
        let begun = self.pusher.begin(&mut self.link, batch).unwrap();
        self.pusher.finish(&mut self.link, batch, begun, None, Some(hearing)).unwrap()
    }

    fn push_one(&mut self, write: Outgoing) -> Result<Pushed, String> {
        self.push(&[write]).pop().unwrap()
    }

    fn fetch(&mut self, id: &str) -> Fetched {
        fetch(&mut self.link, &keys(), &[id], 0).unwrap().pop().unwrap().unwrap()
    }

    fn object(&mut self, id: &str) -> Option<Object> {
        match self.fetch(id) {
            Fetched::Object(VersionedObject { object, .. }) => Some(object),
            _ => None,
        }
    }

    /// What was announced since the last call.
    fn heard(&mut self) -> Vec<(Op, String, u64)> {
        let read = events::read(&mut self.link, &keys(), &self.cursor, Duration::from_millis(1), 1000).unwrap();
        assert!(!read.lost_past);
        self.cursor = read.cursor;
        let named = |event: Event| (event.op, String::from_utf8(event.id).unwrap(), event.version.clock);
        read.events.into_iter().map(named).collect()
    }

    fn chunk_keys(&mut self) -> Vec<String> {
        match call(&mut self.link, &["KEYS", "t:*:*:*"]) {
            Ok(Value::Array(keys)) => {
                let mut keys: Vec<String> = keys.into_iter().map(|key| redis::from_redis_value(key).unwrap()).collect();
                keys.sort();
                keys
            }
            other => panic!("{other:?}"),
        }
    }

    fn command_stats(&mut self) -> String {
        match call(&mut self.link, &["INFO", "commandstats"]) {
            Ok(Value::BulkString(stats)) => String::from_utf8(stats).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn counters(&mut self) -> (u64, u64) {
        self.pusher.settle_counters(&mut self.link).unwrap();
        crate::redis::server::counters(&mut self.link, &keys()).unwrap()
    }
}

fn applied(replaced: Option<StoredValue>) -> Result<Pushed, String> {
    Ok(Pushed::Applied { replaced })
}

fn head_of(write: &Outgoing<'_>) -> Head {
    match &write.what {
        What::Put { object, body_hash, deadline_ms } => {
            Head::put(write.version, object, *body_hash.get().unwrap(), *deadline_ms)
        }
        What::Delete => Head::tombstone(write.version),
    }
}

/// What does not shrink.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let word = |number: u64| xxhash_rust::xxh3::xxh3_64_with_seed(&number.to_le_bytes(), seed).to_le_bytes();
    (0..bytes as u64 / 8).flat_map(word).collect()
}

// docs/replication.md, Pushing 2: the highest version wins, in whatever order writes arrive.
#[test]
fn the_highest_version_wins() {
    let mut world = world();
    let (old, middle, new) =
        (put("id", 5, &object("old")), put("id", 300, &object("middle")), put("id", 70_000, &object("new")));
    assert_eq!(world.push_one(middle.clone()), applied(None));
    assert_eq!(world.push_one(old.clone()), Ok(Pushed::Older(StoredValue::Ours(head_of(&middle)))));
    assert_eq!(world.object("id"), Some(object("middle")));
    assert_eq!(world.push_one(middle.clone()), Ok(Pushed::Same));
    assert_eq!(world.push_one(new.clone()), applied(Some(StoredValue::Ours(head_of(&middle)))));
    assert_eq!(world.push_one(middle), Ok(Pushed::Older(StoredValue::Ours(head_of(&new)))));
    assert_eq!(world.object("id"), Some(object("new")));
}

// docs/replication.md, Pushing 4: an applied write and a repeat are announced, a refused one is not.
#[test]
fn what_stands_in_redis_is_announced() {
    let mut world = world();
    world.push_one(put("a", 5, &object("a"))).unwrap();
    assert_eq!(world.heard(), [(Op::Put, "a".into(), 5)]);
    world.push_one(put("a", 5, &object("a"))).unwrap();
    // If the first try does not settle a write, its event is sent again after the script's answer.
    let twice = |op, clock| [(op, "a".to_owned(), clock), (op, "a".to_owned(), clock)];
    assert_eq!(world.heard(), twice(Op::Put, 5), "a repeat");
    world.push_one(put("a", 6, &object("b"))).unwrap();
    assert_eq!(world.heard(), twice(Op::Put, 6));
    world.push_one(delete("a", 7)).unwrap();
    assert_eq!(world.heard()[0], (Op::Delete, "a".into(), 7));
    world.push_one(put("a", 4, &object("old"))).unwrap();
    assert!(world.heard().len() <= 1, "refused as older");
}

// docs/replication.md, Versions: node ids decide between equal clocks, by bytes and not as numbers.
#[test]
fn versions_are_compared_byte_by_byte() {
    let mut world = world();
    let with = |clock, node| Outgoing { version: Version { clock, node }, ..put("id", 0, &object("x")) };
    // Neighbours that Lua's numbers could not tell apart, and bytes on both sides of 127.
    let ascending = [
        (1, 0x7f),
        (1, 0x80),
        (1, u64::MAX - 1),
        (1, u64::MAX),
        (2, 0),
        (u64::MAX, 1 << 60),
        (u64::MAX, (1 << 60) + 1),
    ];
    for (clock, node) in ascending {
        assert!(matches!(world.push_one(with(clock, node)), Ok(Pushed::Applied { .. })), "{clock} {node}");
    }
    for (clock, node) in &ascending[..ascending.len() - 1] {
        assert!(matches!(world.push_one(with(*clock, *node)), Ok(Pushed::Older(_))), "{clock} {node}");
    }
}

// docs/replication.md, Pushing 3; invariant 5.
#[test]
fn a_tombstone_beats_a_late_put_and_expires() {
    let mut world = world_with(|options| options.tombstone_ttl_seconds = 1000);
    let (first, last) = (put("id", 1, &object("x")), delete("id", 3));
    world.push_one(first.clone()).unwrap();
    assert_eq!(world.push_one(last.clone()), applied(Some(StoredValue::Ours(head_of(&first)))));
    assert_eq!(world.fetch("id"), Fetched::Tombstone(version(3)));
    assert_eq!(world.push_one(put("id", 2, &object("late"))), Ok(Pushed::Older(StoredValue::Ours(head_of(&last)))));
    assert_eq!(world.fetch("id"), Fetched::Tombstone(version(3)));
    let ttl = number(call(&mut world.link, &["PTTL", "t:6964"]));
    assert!((900_000..=1_000_000).contains(&ttl), "{ttl}");
    // A blind delete leaves one as well; a newer put stands upon it for ever.
    assert_eq!(world.push_one(delete("unseen", 3)), applied(None));
    assert_eq!(world.fetch("unseen"), Fetched::Tombstone(version(3)));
    assert_eq!(world.push_one(put("id", 4, &object("new"))), applied(Some(StoredValue::Ours(head_of(&last)))));
    assert_eq!(number(call(&mut world.link, &["PTTL", "t:6964"])), -1);
}

#[test]
fn a_delete_is_refused_where_a_newer_put_stands() {
    let mut world = world();
    let newer = put("id", 9, &object("x"));
    world.push_one(newer.clone()).unwrap();
    assert_eq!(world.push_one(delete("id", 8)), Ok(Pushed::Older(StoredValue::Ours(head_of(&newer)))));
    assert_eq!(world.object("id"), Some(object("x")));
}

// docs/replication.md, Pushing 1 and 3: out of memory, puts stay dirty, deletes pass and are announced, nothing else is held back.
#[test]
fn out_of_memory_deletes_still_pass() {
    let mut world = world();
    world.push_one(put("standing", 1, &object("x"))).unwrap();
    world.heard();
    call(&mut world.link, &["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    let large = object(vec![7; 3 << 20]);
    let batch = [
        put("new", 2, &object("new")),
        put("large", 2, &large),
        delete("standing", 2),
        put("standing", 3, &object("newer")),
        delete("unseen", 2),
    ];
    let pushed = world.push(&batch);
    let oom = |place: usize| pushed[place].as_ref().is_err_and(|refusal| refusal.contains("OOM"));
    assert!(oom(0) && oom(1) && oom(3), "{pushed:?}");
    assert!(matches!(pushed[2], Ok(Pushed::Applied { replaced: Some(_) })), "{pushed:?}");
    assert_eq!(pushed[4], applied(None));
    assert_eq!(world.fetch("standing"), Fetched::Tombstone(version(2)));
    assert_eq!(world.heard(), [(Op::Delete, "standing".into(), 2), (Op::Delete, "unseen".into(), 2)]);
    // With room again the same puts go through.
    call(&mut world.link, &["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    assert!(world.push(&batch).iter().all(Result::is_ok));
    assert_eq!(world.object("large"), Some(large));
    assert_eq!(world.object("standing"), Some(object("newer")));
}

#[test]
fn a_key_of_another_type_refuses_only_itself() {
    let mut world = world();
    call(&mut world.link, &["RPUSH", "t:6c697374", "x"]).unwrap(); // "list"
    let pushed =
        world.push(&[put("list", 1, &object("x")), put("a", 1, &object("a")), delete("list", 2), delete("b", 1)]);
    assert!(pushed[0].as_ref().is_err_and(|refusal| refusal.contains("WRONGTYPE")), "{pushed:?}");
    assert!(pushed[2].as_ref().is_err_and(|refusal| refusal.contains("WRONGTYPE")), "{pushed:?}");
    assert_eq!((&pushed[1], &pushed[3]), (&applied(None), &applied(None)));
    assert_eq!(world.object("a"), Some(object("a")));
}

#[test]
fn scripts_are_sent_again_when_the_server_has_forgotten_them() {
    let mut world = world();
    world.push_one(put("id", 1, &object("x"))).unwrap();
    for clock in 2..5 {
        call(&mut world.link, &["SCRIPT", "FLUSH"]).unwrap();
        let pushed = world.push(&[put("id", clock, &object("y")), delete("other", clock)]);
        assert!(pushed.iter().all(|pushed| matches!(pushed, Ok(Pushed::Applied { .. }))), "{pushed:?}");
        assert_eq!(world.fetch("other"), Fetched::Tombstone(version(clock)));
    }
}

#[test]
fn a_batch_may_hold_several_writes_to_one_id() {
    let mut world = world();
    let batch = [
        put("a", 1, &object("1")),
        put("a", 2, &object("2")),
        delete("b", 1),
        put("b", 2, &object("b")),
        put("c", 1, &object("c")),
        delete("c", 2),
    ];
    let pushed = world.push(&batch);
    assert!(pushed.iter().all(Result::is_ok), "{pushed:?}");
    assert_eq!(world.object("a"), Some(object("2")));
    assert_eq!(world.object("b"), Some(object("b")));
    assert_eq!(world.fetch("c"), Fetched::Tombstone(version(2)));
}

#[test]
fn a_large_batch_is_announced_in_several_entries() {
    let mut world = world();
    let batch: Vec<Outgoing> = (0..300).map(|n| put(&format!("{n:03}"), 1, &object("x"))).collect();
    assert!(world.push(&batch).iter().all(Result::is_ok));
    assert_eq!(number(call(&mut world.link, &["XLEN", "t:_events"])), 1 + 3);
    let heard = world.heard();
    assert_eq!(heard.len(), 300);
    assert_eq!(heard[299], (Op::Put, "299".into(), 1));
}

// Invariant 7; a head that cannot be read holds back no write, whatever version it states.
#[test]
fn a_damaged_head_is_replaced() {
    let mut world = world();
    for write in [put("id", 5, &object("new")), delete("id", 5)] {
        let mut head = put("id", 9, &object("x"));
        head.version.clock = u64::MAX;
        world.push_one(head).unwrap();
        let mut value = raw(&mut world.link, "t:6964");
        value[30] ^= 1;
        set_raw(&mut world.link, "t:6964", &value);
        assert!(matches!(world.fetch("id"), Fetched::Damaged { .. }));
        let pushed = world.push_one(write);
        assert!(matches!(pushed, Ok(Pushed::Applied { replaced: Some(StoredValue::Damaged { .. }) })), "{pushed:?}");
        // Nor where it states the same version.
        let write = put("id", 9, &object("x"));
        world.push_one(write.clone()).unwrap();
        let mut value = raw(&mut world.link, "t:6964");
        value[30] ^= 1;
        set_raw(&mut world.link, "t:6964", &value);
        assert!(matches!(world.push_one(write), Ok(Pushed::Applied { .. })));
        assert_eq!(world.object("id"), Some(object("x")));
        call(&mut world.link, &["DEL", "t:6964"]).unwrap();
    }
}

// Invariant 7: the bad copy is repaired, though the version that it states is the right one.
#[test]
fn a_damaged_body_is_repaired() {
    let mut world = world();
    for data in [vec![1; 1000], vec![2; (2 << 20) + 5]] {
        let write = put("id", 5, &object(data.clone()));
        world.push_one(write.clone()).unwrap();
        let key = world.chunk_keys().pop().unwrap_or("t:6964".into());
        let mut value = raw(&mut world.link, &key);
        *value.last_mut().unwrap() ^= 1;
        set_raw(&mut world.link, &key, &value);
        assert!(matches!(world.fetch("id"), Fetched::Damaged { version: Some(found), .. } if found == version(5)));
        assert_eq!(world.push_one(write.clone()), Ok(Pushed::Same));
        assert!(matches!(world.fetch("id"), Fetched::Damaged { .. }));
        assert!(matches!(world.pusher.repair(&mut world.link, &write, &Deaf).unwrap(), Ok(Pushed::Applied { .. })));
        assert_eq!(world.object("id"), Some(object(data)));
        let keys = world.chunk_keys();
        assert!(keys.iter().all(|key| number(call(&mut world.link, &["TTL", key])) == -1), "{keys:?}");
        call(&mut world.link, &["FLUSHALL"]).unwrap();
    }
}

// docs/replication.md, What stands in Redis: the Python backend's values are older than every version.
#[test]
fn a_python_value_is_replaced_by_any_version() {
    let mut world = world();
    for write in [put("id", 0, &object("ours")), delete("id", 0)] {
        set_raw(&mut world.link, "t:6964", b"\x02\0\0\0mddata");
        assert_eq!(world.push_one(write), applied(Some(StoredValue::Python { bytes: 10 })));
    }
}

fn two_puts() -> [Outgoing<'static>; 2] {
    [put("a", 1, &object("data")), put("b", 1, &object(vec![7; 5000]))]
}

struct Deaf;

impl Hearing for Deaf {
    fn has_heard(&self, _: events::EntryId) -> bool {
        false
    }

    fn counts(&self, _: &Outgoing<'_>) -> Result<bool, Error> {
        panic!("nothing was heard")
    }
}

#[test]
fn counters_follow_puts_and_deletes() {
    let mut world = world();
    let bytes = |data: usize| 8 + data as u64; // "metadata"
    world.push(&[put("a", 1, &object("12")), put("b", 1, &object("345")), delete("unseen", 1)]);
    assert_eq!(world.counters(), (2, bytes(2) + bytes(3)));
    world.push(&[put("a", 2, &object("")), put("a", 2, &object("")), put("b", 0, &object("old"))]);
    assert_eq!(world.counters(), (2, bytes(0) + bytes(3)));
    let large = 3 << 20;
    world.push(&[put("large", 1, &object(vec![0; large]))]);
    assert_eq!(world.counters(), (3, bytes(0) + bytes(3) + bytes(large)));
    world.push(&[delete("a", 3), delete("b", 3), delete("large", 3), delete("large", 4)]);
    assert_eq!(world.counters(), (0, 0));
}

/// What is owed to the counters goes with the next batches, and comes back if these do not get through.
#[test]
fn counters_owe_nothing_less_after_a_broken_connection() {
    let mut world = world();
    world.push(&[put("a", 1, &object("old"))]);
    for clock in [2, 3] {
        world.push(&[put("a", clock, &object("new"))]); // counted as another object until the next batch
    }
    let (first, second) = ([put("b", 1, &object("1"))], [put("c", 1, &object("2"))]);
    let mut other = world.server.link();
    call(&mut other, &["CLIENT", "KILL", "TYPE", "normal"]).unwrap();
    let begun = world.pusher.begin(&mut world.link, &first).and_then(|begun| {
        let mut behind = world.pusher.begin(&mut world.link, &second)?;
        world.pusher.finish(&mut world.link, &first, begun, Some(&mut behind), None)
    });
    assert!(begun.is_err_and(|error| error.is_cut_off()));
    world.link = other;
    world.push(&[&first[..], &second].concat());
    assert_eq!(world.counters(), (3, 3 * 8 + 3 + 1 + 1));
}

/// Whoever reads the value may go by it, though nobody hears of it.
#[test]
fn a_write_whose_event_is_refused_is_not_said_to_be_refused() {
    let mut world = world();
    call(&mut world.link, &["ACL", "SETUSER", "default", "resetkeys", "~t:6*", "~t:_meta*", "%R~*"]).unwrap();
    let [first, again] = [0, 1].map(|_| world.push_one(put("a", 1, &object("a"))).unwrap());
    call(&mut world.link, &["ACL", "SETUSER", "default", "allkeys"]).unwrap();
    for pushed in [first, again] {
        let Pushed::Incomplete(reason) = &pushed else { panic!("{pushed:?}") };
        assert!(reason.starts_with("its event is refused: NOPERM"), "{reason}");
        assert!(pushed.complete().is_err());
    }
    assert_eq!(world.object("a"), Some(object("a")));
    assert!(world.heard().is_empty());
    assert_eq!(world.push_one(put("a", 1, &object("a"))), Ok(Pushed::Same));
    assert_eq!(world.heard()[0], (Op::Put, "a".into(), 1));
}

mod chunked;
mod python;
mod two;
