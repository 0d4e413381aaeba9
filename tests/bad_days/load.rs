//! Threads that put, overwrite, delete, duplicate and get without pause, and know what must be there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use scaler_object_storage::{Error, Object, ObjectStore};

use crate::common::{bytes, splitmix, until};

const WRITERS_PER_NODE: u64 = 2;
const IDS_PER_WRITER: u64 = 24;

/// What was acknowledged last: id -> its number, or None where it was deleted.
pub type Expected = BTreeMap<Vec<u8>, Option<u64>>;

pub struct Load {
    stopped: Arc<AtomicBool>,
    writers: Vec<(Arc<AtomicU64>, JoinHandle<Expected>)>,
    readers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Every id has one writer, and so one node; the other node reads it.
    pub fn start(stores: &[ObjectStore], seed: u64) -> Load {
        let stopped = Arc::new(AtomicBool::new(false));
        let (mut writers, mut readers) = (Vec::new(), Vec::new());
        for (node, store) in stores.iter().enumerate() {
            for number in 0..WRITERS_PER_NODE {
                let name = format!("{node}.{number}");
                let operations = Arc::new(AtomicU64::new(0));
                let mut state = seed ^ ((node as u64) << 32) ^ (number << 16);
                let mut writer = Writer { store: store.clone(), name, expected: Expected::new(), count: 0 };
                let (stopped, done) = (Arc::clone(&stopped), Arc::clone(&operations));
                let work = move || {
                    while !stopped.load(Ordering::SeqCst) {
                        writer.step(&mut state);
                        done.fetch_add(1, Ordering::SeqCst);
                        sleep(Duration::from_millis(1));
                    }
                    writer.expected
                };
                writers.push((operations, spawn(work)));
            }
            let (stopped, store, mut state) = (Arc::clone(&stopped), store.clone(), seed + node as u64);
            readers.push(spawn(move || {
                while !stopped.load(Ordering::SeqCst) {
                    read_any(&store, 1 - node, &mut state);
                    sleep(Duration::from_millis(1));
                }
            }));
        }
        Load { stopped, writers, readers }
    }

    /// Waits until each writer has done so many operations more; none of them needs Redis.
    #[track_caller]
    pub fn goes_on_for(&self, operations: u64) {
        let before: Vec<u64> = self.writers.iter().map(|(done, _)| done.load(Ordering::SeqCst)).collect();
        until("every writer has gone on", || {
            self.writers.iter().zip(&before).all(|((done, thread), before)| {
                assert!(!thread.is_finished(), "a writer has ended");
                done.load(Ordering::SeqCst) >= before + operations
            })
        });
    }

    pub fn stop(self) -> Expected {
        self.stopped.store(true, Ordering::SeqCst);
        for reader in self.readers {
            reader.join().expect("a reader saw what must not be");
        }
        let writers = self.writers.into_iter();
        writers.flat_map(|(_, thread)| thread.join().expect("a writer saw what must not be")).collect()
    }
}

/// Writes the ids of its name, in its node alone.
struct Writer {
    store: ObjectStore,
    name: String,
    expected: Expected,
    count: u64,
}

impl Writer {
    fn step(&mut self, state: &mut u64) {
        let id = id(&self.name, splitmix(state) % IDS_PER_WRITER);
        match splitmix(state) % 100 {
            ..50 => {
                self.count += 1;
                let Object { data, metadata } = content(&id, self.count);
                self.store.put(&id, &data, &metadata).unwrap();
                self.expected.insert(id, Some(self.count));
            }
            50..60 if self.expected.contains_key(&id) => {
                self.store.delete(&id).unwrap();
                self.expected.insert(id, None);
            }
            60..65 => {
                // Not an id of this writer's, whose content says whose it is: it is read back and deleted.
                let copy = [b"copy of ".as_slice(), &id].concat();
                if let Some(Some(number)) = self.expected.get(&id) {
                    assert!(self.store.duplicate(&id, &copy).unwrap(), "{} is missing", shown(&id));
                    assert!(
                        self.store.get(&copy).unwrap() == Some(content(&id, *number)),
                        "the copy of {}",
                        shown(&id)
                    );
                    self.store.delete(&copy).unwrap();
                }
            }
            _ => self.check(&id),
        }
    }

    /// Invariant 2: a get sees what was acknowledged before.
    fn check(&self, id: &[u8]) {
        match (self.expected.get(id), self.store.get(id)) {
            (Some(Some(number)), found) => {
                let found = found.unwrap_or_else(|error| panic!("{} is here: {error}", shown(id)));
                assert!(found == Some(content(id, *number)), "{} is not {number}", shown(id));
            }
            (_, Ok(found)) => assert!(found.is_none(), "{} is back", shown(id)),
            (_, Err(error)) => assert!(is_about_redis(&error), "{error}"),
        }
    }
}

/// Invariant 7: of an object of the other node, one that was written is seen, and nothing else.
fn read_any(store: &ObjectStore, node: usize, state: &mut u64) {
    let writer = format!("{node}.{}", splitmix(state) % WRITERS_PER_NODE);
    let id = id(&writer, splitmix(state) % IDS_PER_WRITER);
    match store.get(&id) {
        Ok(Some(object)) => {
            let number = object.data.first_chunk::<8>().map(|first| u64::from_le_bytes(*first));
            let number = number.unwrap_or_else(|| panic!("{} is too short", shown(&id)));
            assert!(object == content(&id, number), "{} is not what was written", shown(&id));
        }
        Ok(None) => {}
        Err(error) => assert!(is_about_redis(&error), "{error}"),
    }
}

pub fn is_about_redis(error: &Error) -> bool {
    matches!(error, Error::Unreachable { .. } | Error::Denied { .. } | Error::Refused { .. })
}

pub fn shown(id: &[u8]) -> String {
    String::from_utf8_lossy(id).into_owned()
}

fn id(writer: &str, number: u64) -> Vec<u8> {
    format!("{writer}.{number}").into_bytes()
}

/// The content that an id is given for the so-many-th time; it begins with that number. Some stand in several chunks.
pub fn content(id: &[u8], number: u64) -> Object {
    let mut seed = id.iter().fold(number, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    let len = match splitmix(&mut seed) % 100 {
        ..60 => splitmix(&mut seed) % 1000,
        60..98 => splitmix(&mut seed) % 100_000,
        _ => (2 << 20) + splitmix(&mut seed) % 1000,
    };
    let mut data = number.to_le_bytes().to_vec();
    data.extend(bytes(seed, len as usize));
    Object { data: data.into(), metadata: id.to_vec().into() }
}
