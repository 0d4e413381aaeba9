//! The edge of capacity: many threads, sizes mixed, as much as a store must take and not more.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use scaler_object_storage::{Durability, Error, ObjectStore};

use crate::alone::alone;
use crate::common::splitmix;
use crate::model::{Content, content_object};
use crate::room::Disk;
use crate::world::{Settings, World, soon};

const LENGTHS: [usize; 8] = [100, 1000, 4000, 15_000, 60_000, 70_000, 300_000, 1 << 20];

/// What an object takes beside its body, at most.
const OBJECT_BYTES: u64 = 200;

/// Live bytes stay below this share of the limit.
const LIVE_PERCENT: u64 = 60;

/// How long threads go on. Nothing is said of how far they come.
const CHURN: Duration = Duration::from_secs(3);

/// What all threads together have stored.
struct Budget {
    bytes: AtomicU64,
    bytes_max: u64,
}

impl Budget {
    fn new(max_size_mb: u64) -> Self {
        Budget { bytes: AtomicU64::new(0), bytes_max: (max_size_mb << 20) / 100 * LIVE_PERCENT }
    }

    fn take(&self, bytes: u64) -> bool {
        let within = |taken: u64| Some(taken + bytes).filter(|taken| *taken <= self.bytes_max);
        self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok()
    }

    fn give_back(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

fn cost(content: Content) -> u64 {
    content.1 as u64 + OBJECT_BYTES
}

/// A thread with ids of its own, so that it knows what each must hold.
struct Client<'a> {
    store: ObjectStore,
    budget: &'a Budget,
    name: u64,
    random: u64,
    objects: BTreeMap<Vec<u8>, Content>,
    put_failures: Vec<Error>,
    delete_failures: Vec<Error>,
}

impl<'a> Client<'a> {
    fn new(store: &ObjectStore, budget: &'a Budget, name: u64) -> Self {
        let (put_failures, delete_failures) = (Vec::new(), Vec::new());
        Client {
            store: store.clone(),
            budget,
            name,
            random: name,
            objects: BTreeMap::new(),
            put_failures,
            delete_failures,
        }
    }

    fn random(&mut self) -> u64 {
        splitmix(&mut self.random)
    }

    fn id(&mut self) -> Vec<u8> {
        let number = self.random() % 24;
        format!("{} {number}", self.name).into_bytes()
    }

    fn step(&mut self) {
        let (id, other) = (self.id(), self.id());
        let content = (1 + self.random() % (1 << 40), LENGTHS[self.random() as usize % LENGTHS.len()]);
        match self.random() % 10 {
            0..6 if self.budget.take(cost(content)) => {
                let object = content_object(content);
                let result = self.store.put(&id, &object.data, &object.metadata);
                self.wrote(id, content, result);
            }
            6 if id != other => {
                let Some(&content) = self.objects.get(&id) else { return };
                if self.budget.take(cost(content)) {
                    let result = self.store.duplicate(&id, &other).map(|existed| assert!(existed));
                    self.wrote(other, content, result);
                }
            }
            7 => self.check(&id),
            _ => self.delete(&id),
        }
    }

    /// What it takes was taken from the budget before.
    fn wrote(&mut self, id: Vec<u8>, content: Content, result: Result<(), Error>) {
        match result {
            Ok(()) => {
                if let Some(before) = self.objects.insert(id, content) {
                    self.budget.give_back(cost(before));
                }
            }
            Err(error) => {
                self.budget.give_back(cost(content));
                self.put_failures.push(error);
            }
        }
    }

    fn delete(&mut self, id: &[u8]) {
        let existed = match self.store.delete(id) {
            Ok(existed) => existed,
            Err(error) => return self.delete_failures.push(error),
        };
        let before = self.objects.remove(id);
        assert_eq!(existed, before.is_some(), "{}", String::from_utf8_lossy(id));
        if let Some(before) = before {
            self.budget.give_back(cost(before));
        }
    }

    fn check(&self, id: &[u8]) {
        let expected = self.objects.get(id).map(|content| content_object(*content));
        let found = self.store.get(id).unwrap();
        assert!(found == expected, "{} is not what was put", String::from_utf8_lossy(id));
    }
}

/// Churns with so many threads, then checks all that they stored. No delete fails. Returns what is stored, and why puts failed.
#[track_caller]
fn churn(
    world: &World,
    threads: u64,
    others: impl FnOnce(&AtomicU64, &AtomicBool) + Send,
) -> (BTreeMap<Vec<u8>, Content>, Vec<Error>) {
    let budget = Budget::new(world.settings.max_size_mb);
    let (steps, ended) = (AtomicU64::new(0), AtomicBool::new(false));
    let until = Instant::now() + CHURN;
    let run = |name| {
        let mut client = Client::new(world.store(), &budget, name);
        while Instant::now() < until {
            client.step();
            steps.fetch_add(1, Ordering::Relaxed);
        }
        client.objects.keys().for_each(|id| client.check(id));
        client
    };
    let clients: Vec<_> = std::thread::scope(|scope| {
        scope.spawn(|| others(&steps, &ended));
        let run = &run;
        let clients: Vec<_> = (0..threads).map(|name| scope.spawn(move || run(name))).collect();
        let clients: Vec<_> = clients.into_iter().map(ScopedJoinHandle::join).collect();
        ended.store(true, Ordering::Relaxed);
        clients.into_iter().map(Result::unwrap).collect()
    });
    let (mut objects, mut put_failures, mut delete_failures) = (BTreeMap::new(), Vec::new(), Vec::new());
    for mut client in clients {
        objects.append(&mut client.objects);
        put_failures.append(&mut client.put_failures);
        delete_failures.append(&mut client.delete_failures);
    }
    let (puts, deletes) = (put_failures.len(), delete_failures.len());
    assert!(deletes == 0, "{deletes} deletes failed, such as: {}; and {puts} puts", delete_failures[0]);
    (objects, put_failures)
}

/// The store holds this, and nothing else.
#[track_caller]
fn check(world: &World, objects: &BTreeMap<Vec<u8>, Content>) {
    for (id, content) in objects {
        let found = world.store().get(id).unwrap();
        assert!(found == Some(content_object(*content)), "{} is not what was put", String::from_utf8_lossy(id));
    }
    let info = world.store().info();
    assert_eq!((info.objects, info.damaged_objects), (objects.len() as u64, 0));
}

fn refuses_nothing_while_it_has_room(max_size_mb: u64, threads: u64) {
    let mut world = World::new(Settings { durability: Durability::Process, max_size_mb }, 1);
    let (objects, failures) = churn(&world, threads, |_, _| {});
    assert!(failures.is_empty(), "{} puts failed, such as: {}", failures.len(), failures[0]);
    check(&world, &objects);
    world.reopen_unread();
    check(&world, &objects);
    world.store().put(b"after", &[1; 4000], b"").unwrap();
    world.store().clear().unwrap();
    world.store().put(b"after", &[1; 4000], b"").unwrap();
}

// Invariants 2 and 14.
#[test]
fn a_small_store_under_its_share_refuses_nothing_to_many_threads() {
    refuses_nothing_while_it_has_room(16, 64);
}

// Invariants 2 and 14.
#[test]
fn a_small_store_under_its_share_refuses_nothing_to_a_few_threads() {
    refuses_nothing_while_it_has_room(16, 8);
}

// Invariants 2 and 14.
#[test]
fn a_larger_store_under_its_share_refuses_nothing() {
    refuses_nothing_while_it_has_room(64, 16);
}

// Invariant 14.
#[test]
fn a_store_that_is_nearly_empty_is_never_full() {
    let world = World::new(Settings { durability: Durability::Process, max_size_mb: 16 }, 1);
    let store = world.store();
    let until = Instant::now() + CHURN;
    let run = |thread: u64| {
        let mut failures = Vec::new();
        for number in 0u64.. {
            if Instant::now() > until {
                break;
            }
            let id = [thread.to_le_bytes(), number.to_le_bytes()].concat();
            failures.extend(store.put(&id, &id.repeat(250), b"").err());
            failures.extend(store.delete(&id).err());
        }
        failures
    };
    let failures: Vec<Error> = std::thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = (0..64).map(|thread| scope.spawn(move || run(thread))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(failures.is_empty(), "{} operations failed, such as: {}", failures.len(), failures[0]);
    store.put(b"new", &[1; 4000], b"").unwrap();
    store.clear().unwrap();
    assert_eq!(store.info().objects, 0);
    store.put(b"new", &[1; 4000], b"").unwrap();
}

// Invariant 14.
#[test]
fn a_directory_with_more_than_its_new_limit_takes_deletes_and_then_puts() {
    for length in [3000, 50_000, 500_000] {
        let mut world = World::new(Settings { durability: Durability::Process, max_size_mb: 64 }, 1);
        let id = |number: u64| format!("object {number}").into_bytes();
        let mut count = 0;
        while let Ok(()) = world.put(&id(count), (count, length)) {
            count += 1;
        }
        world.settings.max_size_mb = 16;
        world.reopen();
        for number in 0..count {
            if number % 10 == 0 {
                let result = world.put(b"more", (number, length));
                assert!(matches!(result, Ok(()) | Err(Error::Full { .. })), "{result:?}");
            }
            let result = world.delete(&id(number));
            assert!(result.unwrap_or_else(|error| panic!("delete {number} of {count}: {error}")));
        }
        world.check();
        soon("puts work again", || world.put(b"new", (1, length)).is_ok());
        for number in 0..(8 << 20) / length as u64 {
            world.put(&id(number), (number, length)).unwrap();
        }
        world.reopen();
    }
}

/// Somebody else fills the disk now and then.
fn outlives_others_on_its_disk(disk: &Disk) {
    let settings = Settings { durability: Durability::Process, max_size_mb: 16 };
    let mut world = World::at(&disk.directory(), settings, 1);
    disk.limit(&world);
    let (objects, failures) = churn(&world, 8, |steps, ended| {
        let go_on = || {
            let from = steps.load(Ordering::Relaxed);
            while steps.load(Ordering::Relaxed) < from + 300 && !ended.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        while !ended.load(Ordering::Relaxed) {
            go_on();
            disk.fill();
            go_on();
            disk.free();
        }
    });
    for error in &failures {
        let is_full = match error {
            Error::Io { source, .. } => source.raw_os_error() == Some(libc::ENOSPC),
            error => matches!(error, Error::Full { .. }),
        };
        assert!(is_full, "{error}");
    }
    check(&world, &objects);
    soon("puts work again", || world.store().put(b"after", &[1; 100_000], b"").is_ok());
    for number in 0..400u64 {
        world.store().put(b"after", &number.to_le_bytes().repeat(20_000), b"").unwrap();
    }
    assert!(world.store().delete(b"after").unwrap());
    check(&world, &objects);
    world.reopen_unread();
    check(&world, &objects);
    world.check_catalog_kept();
}

// Invariants 1, 2 and 14.
#[test]
fn a_churned_store_outlives_a_disk_that_is_full_now_and_then() {
    outlives_others_on_its_disk(&Disk::counted(200));
}

// Invariants 1, 2 and 14.
#[test]
fn a_churned_store_outlives_a_file_system_that_is_full_now_and_then() {
    alone("churn::a_churned_store_outlives_a_file_system_that_is_full_now_and_then", || {
        if let Some(disk) = Disk::mounted(40) {
            outlives_others_on_its_disk(&disk);
        }
    });
}
