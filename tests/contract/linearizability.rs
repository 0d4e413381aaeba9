//! Several writers and readers on one id: there is an order of the operations, true to real time, that explains every result.

use std::collections::HashSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;

use scaler_object_storage::{ObjectStore, Waited};

use crate::common::{Fixture, bytes, splitmix};

contract!(operations_on_one_id_are_linearizable);

const THREAD_COUNT: usize = 4;
const OPERATIONS_EACH: usize = 5;
const ROUNDS: u64 = 400;

/// What an operation on the id did, with the result that it had. A write's number is unique in its round.
#[derive(Clone, Copy, Debug)]
enum Did {
    Write(u64),
    Delete { existed: bool },
    Get(Option<u64>),
    Contains(bool),
}

#[derive(Debug)]
struct Operation {
    began: u64,
    ended: u64,
    did: Did,
}

impl Did {
    /// The state after it; None if it cannot have had its result in this state.
    fn apply(self, state: Option<u64>) -> Option<Option<u64>> {
        match self {
            Did::Write(number) => Some(Some(number)),
            Did::Delete { existed } => (existed == state.is_some()).then_some(None),
            Did::Get(got) => (got == state).then_some(state),
            Did::Contains(found) => (found == state.is_some()).then_some(state),
        }
    }
}

/// Invariant 2.
fn operations_on_one_id_are_linearizable(fixture: &Fixture) {
    let store = fixture.open();
    for round in 0..ROUNDS {
        // Sizes on different sides of the limits, so that the paths through the store differ.
        let size = [8, 1500, 20_000, 70_000][round as usize % 4];
        store.delete(b"id").unwrap();
        let history = run(&store, round, size);
        let mut tried = HashSet::new();
        assert!(explains(&history, 0, None, &mut tried), "round {round}: no order explains {history:#?}");
    }
}

fn run(store: &ObjectStore, round: u64, size: usize) -> Vec<Operation> {
    let clock = AtomicU64::new(0);
    let start = Barrier::new(THREAD_COUNT);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREAD_COUNT as u64)
            .map(|thread| {
                let (clock, start) = (&clock, &start);
                scope.spawn(move || {
                    let mut random = round << 8 | thread;
                    let mut history = Vec::new();
                    start.wait();
                    for operation in 0..OPERATIONS_EACH as u64 {
                        let number = thread << 32 | operation;
                        let choice = splitmix(&mut random) % 10;
                        let data = content(number, size);
                        let staged = [b's', thread as u8];
                        if choice == 2 {
                            store.put(&staged, &data, b"").unwrap();
                        }
                        let began = clock.fetch_add(1, SeqCst);
                        let did = operate(store, choice, number, &data, &staged);
                        history.push(Operation { began, ended: clock.fetch_add(1, SeqCst), did });
                    }
                    history
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

fn operate(store: &ObjectStore, choice: u64, number: u64, data: &[u8], staged: &[u8]) -> Did {
    match choice {
        0 => {
            store.put(b"id", data, b"").unwrap();
            Did::Write(number)
        }
        1 => {
            let mut writer = store.writer(b"id", data.len() as u64, b"").unwrap();
            writer.write(data).unwrap();
            writer.commit().unwrap();
            Did::Write(number)
        }
        2 => {
            assert!(store.duplicate(staged, b"id").unwrap());
            Did::Write(number)
        }
        3..=4 => Did::Delete { existed: store.delete(b"id").unwrap() },
        5 => Did::Contains(store.contains(b"id").unwrap()),
        6 => match store.wait(b"id", Some(std::time::Instant::now()), None).unwrap() {
            Waited::Object(object) => Did::Get(Some(number_of(&object.data))),
            // Not there at one moment of the call, at least.
            _ => Did::Get(None),
        },
        _ => Did::Get(store.get(b"id").unwrap().map(|object| number_of(&object.data))),
    }
}

fn content(number: u64, size: usize) -> Vec<u8> {
    [&number.to_le_bytes()[..], &bytes(number, size)].concat()
}

/// Invariant 7: the whole content is that of one write.
fn number_of(data: &[u8]) -> u64 {
    let number = u64::from_le_bytes(data[..8].try_into().unwrap());
    assert!(data == content(number, data.len() - 8), "a part of write {number:x}");
    number
}

/// Whether the operations not yet in `done` (a bit for each) can follow a `state` in some order.
fn explains(history: &[Operation], done: u32, state: Option<u64>, tried: &mut HashSet<(u32, Option<u64>)>) -> bool {
    if done.count_ones() as usize == history.len() {
        return true;
    }
    if !tried.insert((done, state)) {
        return false;
    }
    let open = || history.iter().enumerate().filter(|(place, _)| done & (1 << place) == 0);
    let first_end = open().map(|(_, operation)| operation.ended).min().unwrap();
    // Whichever comes next began before any other of the open ones ended.
    open().filter(|(_, operation)| operation.began < first_end).any(|(place, operation)| {
        let after = operation.did.apply(state);
        after.is_some_and(|after| explains(history, done | 1 << place, after, tried))
    })
}

#[test]
fn the_check_refuses_a_stale_read() {
    let at = |began, ended, did| Operation { began, ended, did };
    let explained = |history: &[Operation]| explains(history, 0, None, &mut HashSet::new());

    assert!(explained(&[at(0, 1, Did::Write(1)), at(2, 5, Did::Write(2)), at(3, 4, Did::Get(Some(1)))]));
    assert!(explained(&[at(0, 1, Did::Write(1)), at(2, 5, Did::Write(2)), at(3, 4, Did::Get(Some(2)))]));
    assert!(!explained(&[at(0, 1, Did::Write(1)), at(2, 3, Did::Write(2)), at(4, 5, Did::Get(Some(1)))]));
    assert!(!explained(&[
        at(0, 1, Did::Write(1)),
        at(2, 3, Did::Delete { existed: true }),
        at(4, 5, Did::Contains(true))
    ]));
    assert!(!explained(&[at(0, 9, Did::Write(1)), at(1, 2, Did::Get(Some(1))), at(3, 4, Did::Get(None)),]));
}
