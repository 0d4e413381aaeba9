//! Tests of pushing values without versions (`value_format = "python"`).

use super::*;

#[test]
fn with_python_values_the_last_to_reach_redis_wins() {
    let mut world = world_with(|options| options.value_format = ValueFormat::Python);
    assert_eq!(world.push_one(put("id", 9, &object("first"))), applied(None));
    assert_eq!(raw(&mut world.link, "t:6964"), b"\x08\0\0\0metadatafirst");
    assert_eq!(world.push_one(put("id", 3, &object("last"))), applied(Some(StoredValue::Python { bytes: 17 })));
    assert_eq!(world.fetch("id"), Fetched::Python(object("last")));
    assert_eq!(world.counters(), (1, 12));
    assert_eq!(world.push_one(delete("id", 1)), applied(Some(StoredValue::Python { bytes: 16 })));
    assert_eq!(world.fetch("id"), Fetched::Missing);
    assert_eq!(world.counters(), (0, 0));
    let heard = [(Op::Put, "id".into(), 9), (Op::Put, "id".into(), 3), (Op::Delete, "id".into(), 1)];
    assert_eq!(world.heard(), heard);
}

fn python_world() -> World {
    world_with(|options| options.value_format = ValueFormat::Python)
}

// With values that have no version, an event in another place of the stream would have nodes drop what is newer.
#[test]
fn a_python_value_and_its_event_come_at_once() {
    let mut world = python_world();
    call(&mut world.link, &["CONFIG", "RESETSTAT"]).unwrap();
    let writes: Vec<_> = (0..300).map(|number| put(&format!("id {number}"), 1, &object("data"))).collect();
    assert!(world.push(&writes).iter().all(|pushed| *pushed == applied(None)));
    assert_eq!(world.heard().len(), 300);
    let stats = world.command_stats();
    for calls in ["cmdstat_exec:calls=3,", "cmdstat_xadd:calls=3,", "cmdstat_set:calls=300,"] {
        assert!(stats.contains(calls), "{stats}");
    }
}

/// A `Hearing` that has heard everything. Only writes to the ids in `counting` count; `others` runs first, to write in between.
struct Ears<'a> {
    counting: &'a [&'a str],
    others: RefCell<Box<dyn FnMut() + 'a>>,
}

impl Hearing for Ears<'_> {
    fn has_heard(&self, _: events::EntryId) -> bool {
        self.others.borrow_mut()();
        true
    }

    fn counts(&self, write: &Outgoing<'_>) -> Result<bool, Error> {
        Ok(self.counting.iter().any(|id| id.as_bytes() == write.id))
    }
}

fn again(id: &str) -> Outgoing<'static> {
    Outgoing { is_repeat: true, ..put(id, 1, &object("mine")) }
}

// Others may have heard of the first push, and have written since: also between the check and the write.
#[test]
fn a_python_value_that_is_pushed_again_undoes_nothing_that_others_did_meanwhile() {
    let mut world = python_world();
    let mut other = world.server.link();
    let mut writes = 3;
    let ears = Ears {
        counting: &["a", "b"],
        others: RefCell::new(Box::new(|| {
            if writes > 0 {
                call(&mut other, &["SET", "t:62", "theirs"]).unwrap(); // "b"
                writes -= 1;
            }
        })),
    };
    let repeats = [again("a"), again("b"), again("overruled")];
    let pushed = world.push_hearing(&repeats, &ears);
    assert_eq!(pushed[0], applied(None));
    assert_eq!(pushed[1], applied(Some(StoredValue::Python { bytes: 6 })), "after it was written no more");
    assert_eq!(pushed[2], Ok(Pushed::Overtaken));
    drop(ears);
    assert_eq!(writes, 0);
    assert_eq!(world.fetch("overruled"), Fetched::Missing);
    assert_eq!(world.heard(), [(Op::Put, "a".into(), 1), (Op::Put, "b".into(), 1)]);

    // If others keep writing, or no events are heard, the write is left for later.
    let mut other = world.server.link();
    let all_the_time = || drop(call(&mut other, &["SET", "t:62", "theirs"]).unwrap());
    let ears = Ears { counting: &["b"], others: RefCell::new(Box::new(all_the_time)) };
    let pushed = world.pusher.push_one(&mut world.link, &again("b"), &ears).unwrap();
    assert_eq!(pushed, Ok(Pushed::Later));
    let new = put("new", 1, &object("mine"));
    let pushed = world.push_hearing(&[again("a"), new], &Deaf);
    assert_eq!(pushed, [Ok(Pushed::Later), applied(None)]);
    assert_eq!(raw(&mut world.link, "t:62"), b"theirs");
    assert_eq!(world.heard(), [(Op::Put, "new".into(), 1)]);
}

// A write and its event are one also where others of their batch are refused.
#[test]
fn a_python_value_and_its_event_come_at_once_where_another_one_is_refused() {
    let mut world = python_world();
    let rights = ["ACL", "SETUSER", "default", "resetkeys", "~t:61", "~t:_*", "~t:{*", "%R~*"];
    call(&mut world.link, &rights).unwrap();
    call(&mut world.link, &["CONFIG", "RESETSTAT"]).unwrap();
    let pushed = world.push(&two_puts());
    let stats = world.command_stats();
    call(&mut world.link, &["ACL", "SETUSER", "default", "allkeys"]).unwrap();
    assert_eq!(pushed[0], applied(None));
    assert!(stats.contains("cmdstat_multi:calls=3,"), "{stats}");
}

// As for values with versions: a full Redis takes the deletes that make room.
#[test]
fn out_of_memory_deletes_of_python_values_still_pass() {
    let mut world = python_world();
    world.push_one(put("standing", 1, &object("x"))).unwrap();
    world.heard();
    call(&mut world.link, &["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    let pushed = world.push(&[put("new", 2, &object("new")), delete("standing", 2), delete("unseen", 2)]);
    assert!(pushed[0].as_ref().is_err_and(|refusal| refusal.starts_with("OOM")), "{pushed:?}");
    assert_eq!(pushed[1], applied(Some(StoredValue::Python { bytes: 13 })));
    assert_eq!(pushed[2], applied(None));
    assert_eq!(world.fetch("standing"), Fetched::Missing);
    assert_eq!(world.heard(), [(Op::Delete, "standing".into(), 2), (Op::Delete, "unseen".into(), 2)]);
}

#[test]
fn a_python_value_that_redis_refuses_holds_back_no_other() {
    let mut world = python_world();
    let rights = ["ACL", "SETUSER", "default", "resetkeys", "~t:61", "~t:_*", "~t:{*", "%R~*"];
    call(&mut world.link, &rights).unwrap();
    let pushed = world.push(&two_puts());
    call(&mut world.link, &["ACL", "SETUSER", "default", "allkeys"]).unwrap();
    assert_eq!(pushed[0], applied(None));
    assert!(pushed[1].as_ref().is_err_and(|refusal| refusal.starts_with("NOPERM")), "{pushed:?}");
    assert_eq!(world.heard(), [(Op::Put, "a".into(), 1)]);
    assert_eq!(world.counters(), (1, 12));
}

#[test]
fn without_the_right_to_send_events_no_python_value_is_written() {
    let mut world = python_world();
    call(&mut world.link, &["ACL", "SETUSER", "default", "-xadd"]).unwrap();
    let pushed = world.push(&two_puts());
    call(&mut world.link, &["ACL", "SETUSER", "default", "+xadd"]).unwrap();
    assert!(
        pushed.iter().all(|pushed| pushed.as_ref().is_err_and(|refusal| refusal.starts_with("NOPERM"))),
        "{pushed:?}"
    );
    assert_eq!(world.fetch("a"), Fetched::Missing);
    assert_eq!(world.push(&two_puts()), [applied(None), applied(None)]);
}

#[test]
fn without_transactions_python_values_come_all_the_same() {
    let mut world = python_world();
    call(&mut world.link, &["ACL", "SETUSER", "default", "-multi"]).unwrap();
    let pushed = world.push(&two_puts());
    call(&mut world.link, &["ACL", "SETUSER", "default", "+multi"]).unwrap();
    assert_eq!(pushed, [applied(None), applied(None)]);
    assert_eq!(world.heard(), [(Op::Put, "a".into(), 1), (Op::Put, "b".into(), 1)]);
    assert_eq!(world.counters(), (2, 12 + 5008));
}
