//! A fetch that is under way while its id changes. The replies of Redis come late, so that what they say is old when they arrive.

use std::time::Duration;

use scaler_object_storage::{ObjectStore, RedisOptions, Waited};

use crate::common::redis::{Mode, Proxy};
use crate::common::{get, much_later, until};
use crate::nodes::{World, operation, version_ahead};

const LATE: Duration = Duration::from_millis(400);

struct Race {
    world: World,
    proxy: Proxy,
    a: ObjectStore,
    /// Hears Redis through the proxy.
    b: ObjectStore,
}

impl Race {
    /// `a` holds an object, Redis has it, and `b` does not hold it.
    fn begin() -> Self {
        let world = World::new(2);
        let proxy = Proxy::to(&world.redis);
        let a = world.open(0);
        let b =
            world.builder(1).redis_options(|options| options.url = world.redis.url_at(proxy.port())).open().unwrap();
        b.put(b"other", b"", b"").unwrap();
        a.put(b"id", b"old", b"").unwrap();
        for key in [&b"scaler:obj:6964"[..], b"scaler:obj:6f74686572"] {
            until("it is pushed", || world.redis.keys().contains(&key.to_vec()));
        }
        assert!(b.get(b"never").unwrap().is_none(), "its connection is made");
        Race { world, proxy, a, b }
    }

    /// A get on `b` that has asked Redis, and has no reply yet.
    fn late_get(&self) -> std::thread::JoinHandle<Option<Vec<u8>>> {
        self.proxy.set(Mode::Delay(LATE));
        let asked = self.asked();
        let b = self.b.clone();
        let get = std::thread::spawn(move || b.get(b"id").unwrap().map(|object| object.data.to_vec()));
        until("Redis is asked", || self.asked() != asked);
        get
    }

    /// Changes whenever Redis is asked for an object.
    fn asked(&self) -> String {
        self.world.redis.info("cmdstat_getrange")
    }
}

/// Invariants 5 and 8.
#[test]
fn delete_beats_a_fill_in_flight() {
    let race = Race::begin();
    let late = race.late_get();
    race.b.delete(b"id").unwrap();
    let began_after = race.b.get(b"id").unwrap();
    assert!(began_after.is_none(), "deleted before it was asked for");
    // Who asked before the delete may have what there was.
    assert!(late.join().unwrap().is_none_or(|data| data == b"old"));
    assert!(race.b.get_here(b"id").unwrap().is_none());
    race.proxy.set(Mode::Normal);
    until("it is deleted everywhere", || race.a.get(b"id").unwrap().is_none());
    assert!(race.b.get(b"id").unwrap().is_none());
}

/// Deleting 3: the stock server would have answered them.
#[test]
fn who_waited_before_the_delete_is_answered_by_the_fetch_under_way() {
    let race = Race::begin();
    race.proxy.set(Mode::Delay(LATE));
    let asked = race.asked();
    let waiter = std::thread::spawn({
        let b = race.b.clone();
        move || b.wait(b"id", much_later(), None).unwrap()
    });
    until("Redis is asked", || race.asked() != asked);
    race.b.delete(b"id").unwrap();
    let Waited::Object(object) = waiter.join().unwrap() else { panic!("not answered") };
    assert_eq!(object.data, "old");
    assert!(race.b.get_here(b"id").unwrap().is_none());
    race.proxy.set(Mode::Normal);
    until("it is deleted everywhere", || race.a.get(b"id").unwrap().is_none());
}

/// Invariants 2 and 8.
#[test]
fn a_put_beats_a_fill_in_flight() {
    let race = Race::begin();
    let late = race.late_get();
    race.b.put(b"id", b"new", b"").unwrap();
    assert_eq!(get(&race.b, b"id").data, "new");
    assert!(late.join().unwrap().is_some());
    assert_eq!(get(&race.b, b"id").data, "new");
    race.proxy.set(Mode::Normal);
    until("it is overwritten everywhere", || get(&race.a, b"id").data == "new");
    assert_eq!(get(&race.b, b"id").data, "new");
}

/// Hearing 2: the fill would stay for ever.
#[test]
fn an_event_beats_a_fill_in_flight() {
    let race = Race::begin();
    let late = race.late_get();
    race.a.put(b"id", b"new", b"").unwrap();
    until("it is pushed", || {
        let value: Vec<u8> = race.world.redis.command(&[&b"GET"[..], b"scaler:obj:6964"]);
        value.ends_with(b"new")
    });
    late.join().unwrap();
    race.proxy.set(Mode::Normal);
    until("the overwrite is seen", || race.b.get(b"id").unwrap().is_some_and(|object| object.data == "new"));
    std::thread::sleep(LATE);
    assert_eq!(get(&race.b, b"id").data, "new");
}

/// Pushing 5, versions: the later write wins, whichever reaches Redis first.
#[test]
fn a_write_that_reaches_redis_late_does_not_undo_a_later_one() {
    let race = Race::begin();
    race.proxy.set(Mode::Refuse);
    race.b.put(b"id", b"early", b"").unwrap();
    // More than the clocks of two nodes differ by, however late TIME is answered.
    std::thread::sleep(Duration::from_millis(500));
    race.a.put(b"id", b"later", b"").unwrap();
    race.a.put(b"gone", b"", b"").unwrap();
    until("it is pushed", || {
        let value: Vec<u8> = race.world.redis.command(&[&b"GET"[..], b"scaler:obj:6964"]);
        value.ends_with(b"later")
    });
    race.proxy.set(Mode::Normal);
    until("both agree", || race.b.get(b"id").is_ok_and(|object| object.is_some_and(|object| object.data == "later")));
    assert_eq!(get(&race.a, b"id").data, "later");
}

/// Invariants 1 and 5: the delete is in the journal only, and Redis still has the object when the node comes back.
#[test]
fn a_delete_that_redis_does_not_know_of_holds_after_reopening() {
    let race = Race::begin();
    assert!(race.b.get(b"id").unwrap().is_some());
    race.proxy.set(Mode::Refuse);
    assert!(race.b.delete(b"id").unwrap());
    let Race { world, proxy, a, b } = race;
    let options = |options: &mut RedisOptions| options.url = world.redis.url_at(proxy.port());
    b.close().unwrap();
    proxy.set(Mode::Normal);
    assert!(a.get(b"id").unwrap().is_some(), "Redis does not know of it");
    // What is read before the delete is pushed comes late.
    proxy.set(Mode::Delay(LATE));
    let b = world.builder(1).redis_options(options).open().unwrap();
    assert!(b.get(b"id").unwrap().is_none());
    proxy.set(Mode::Normal);
    until("it is deleted everywhere", || a.get(b"id").unwrap().is_none());
    assert!(b.get(b"id").unwrap().is_none());
}

/// Invariant 6: Redis has lost everything, the node that deleted is gone, and one that missed the delete brings the object back.
#[test]
fn a_delete_that_redis_has_forgotten_is_pushed_again_by_who_heard_of_it() {
    let world = World::new(3);
    let proxy = Proxy::to(&world.redis);
    let (a, c) = (world.open(0), world.open(2));
    let b = world.builder(1).redis_options(|options| options.url = world.redis.url_at(proxy.port())).open().unwrap();
    a.put(b"id", b"old", b"").unwrap();
    for store in [&b, &c] {
        until("it is there", || store.get(b"id").unwrap().is_some());
    }
    proxy.set(Mode::Refuse);
    a.delete(b"id").unwrap();
    until("it is heard of", || c.get(b"id").unwrap().is_none());
    a.close().unwrap();
    let _: String = world.redis.command(&[b"FLUSHALL"]);
    proxy.set(Mode::Normal);
    until("both agree that it is deleted", || {
        let is_gone = |store: &ObjectStore| store.get(b"id").is_ok_and(|object| object.is_none());
        is_gone(&b) && is_gone(&c) && is_tombstone(&world)
    });
    std::thread::sleep(LATE);
    assert!(b.get(b"id").unwrap().is_none() && c.get(b"id").unwrap().is_none());
}

fn is_tombstone(world: &World) -> bool {
    let value: Option<Vec<u8>> = world.redis.command(&[&b"GET"[..], b"scaler:obj:6964"]);
    value.is_some_and(|value| value.len() == 64)
}

/// A delete that says that the object existed has deleted it, however little later than the put of another node it comes.
#[test]
fn a_delete_that_found_an_object_has_deleted_it() {
    let world = World::new(2);
    let [a, b] = &world.open_all()[..] else { panic!() };
    for round in 0..50_u8 {
        let id = [b'd', round];
        a.put(&id, b"data", b"").unwrap();
        // One that came before the put had reached Redis may have said no, and be the later of the two: then it is gone as well.
        until("it is deleted", || b.delete(&id).unwrap() || a.get(&id).unwrap().is_none());
        until("it is deleted everywhere", || a.get(&id).unwrap().is_none() && b.get(&id).unwrap().is_none());
    }
}

/// Redis has an object of a version above that of the delete, and the node hears of it while the delete waits for what Redis has.
#[test]
fn a_delete_that_found_an_object_has_deleted_it_whatever_is_heard_meanwhile() {
    /// What passes the proxy comes as much later: less than a delete waits for Redis.
    const LATER: Duration = Duration::from_millis(30);
    let world = World::new(2);
    let proxy = Proxy::to(&world.redis);
    let a = world.open(0);
    // The clock of this node is ahead of the other's from now on, so that deletes that come later have the lower version. It hears what
    // comes once it has begun to.
    until("it is heard", || {
        world.announce(&[operation(1, b"ahead", version_ahead())]);
        a.put(b"heard", b"", b"").unwrap();
        version_in_redis(&world, b"heard") > version_ahead() - (10_000 << 16)
    });
    let b = world.builder(1).redis_options(|options| options.url = world.redis.url_at(proxy.port())).open().unwrap();
    let mut found = 0;
    for round in 0..40_u8 {
        let id = [b'd', round];
        proxy.set(Mode::Delay(LATER));
        // As many as it takes to be ahead of all that the other has heard.
        for data in [b"first", b"other", b"third"] {
            a.put(&id, data, b"").unwrap();
        }
        until("it is pushed", || value_in_redis(&world, &id).ends_with(b"third"));
        // What has gathered is heard every now and then: in some rounds between the delete's question and its answer.
        std::thread::sleep(LATER * u32::from(round % 8) / 4);
        let has_deleted = b.delete(&id).unwrap();
        proxy.set(Mode::Normal);
        if has_deleted {
            found += 1;
            until("it is deleted everywhere", || a.get(&id).unwrap().is_none() && b.get(&id).unwrap().is_none());
        }
    }
    assert!(found > 0, "Redis answered no delete in time");
}

/// Versions: what another node has written knowing of an object is not undone when the object's own node pushes it once more, though no clock can
/// have given the other's version yet.
#[test]
fn what_may_have_been_in_redis_before_is_not_made_again_above_a_version_far_ahead() {
    let world = World::new(2);
    let options = |options: &mut RedisOptions| options.settle_ms = 600_000;
    let a = world.builder(0).redis_options(options).open().unwrap();
    a.put(b"id", b"early", b"").unwrap();
    let b = world.open(1);
    until("it has come", || b.get(b"id").unwrap().is_some());
    // Redis need not have it for good yet.
    a.close().unwrap();
    // The other node exceeds what it knows of the id.
    let hours_ahead = version_ahead() + (10_000_000 << 16);
    until("it is heard", || {
        world.announce(&[operation(2, b"id", hours_ahead)]);
        b.put(b"id", b"later", b"").unwrap();
        version_in_redis(&world, b"id") > hours_ahead && value_in_redis(&world, b"id").ends_with(b"later")
    });
    world.redis.cli(&["XTRIM", "scaler:obj:_events", "MAXLEN", "0"]);
    let a = world.builder(0).redis_options(options).open().unwrap();
    until("the earlier one has made way", || get(&a, b"id").data == "later");
    std::thread::sleep(LATE);
    assert!(value_in_redis(&world, b"id").ends_with(b"later"));
    assert_eq!((get(&a, b"id").data, get(&b, b"id").data), ("later".into(), "later".into()));
}

/// The clock of the version that Redis has of an id; 0 where it has none.
fn version_in_redis(world: &World, id: &[u8]) -> u64 {
    value_in_redis(world, id).get(8..16).map_or(0, |clock| u64::from_be_bytes(clock.try_into().unwrap()))
}

/// Empty where there is none.
fn value_in_redis(world: &World, id: &[u8]) -> Vec<u8> {
    let key = id.iter().fold("scaler:obj:".to_owned(), |key, byte| format!("{key}{byte:02x}"));
    world.redis.command::<Option<Vec<u8>>>(&[&b"GET"[..], key.as_bytes()]).unwrap_or_default()
}
