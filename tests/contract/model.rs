//! Random operations, one after the other, against a map.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;

use proptest::prelude::*;
use proptest::sample::select;
use scaler_object_storage::{Object, ObjectStore, Parked};

use crate::common::{Fixture, HANG, SIZES, bytes, object, persists};

contract!(random_operations_do_what_they_do_to_a_map);

const ID_COUNT: u8 = 6;

#[derive(Clone, Debug)]
enum Operation {
    Put {
        id: u8,
        content: Content,
    },
    Stream {
        id: u8,
        content: Content,
        piece_bytes: usize,
        commit: bool,
    },
    Get {
        id: u8,
    },
    Contains {
        id: u8,
    },
    Delete {
        id: u8,
    },
    Duplicate {
        original: u8,
        new: u8,
    },
    GetOrPark {
        id: u8,
    },
    Clear,
    Flush,
    /// By closing the store, or by dropping its last handle.
    Reopen {
        close: bool,
    },
}

/// Equal contents are likely, so that payloads are shared.
#[derive(Clone, Debug)]
struct Content {
    seed: u64,
    size: usize,
    metadata_bytes: usize,
}

impl Content {
    fn object(&self) -> Object {
        object(&bytes(self.seed, self.size), &bytes(self.seed + 100, self.metadata_bytes))
    }
}

fn content() -> impl Strategy<Value = Content> {
    let size = prop_oneof![3 => select(SIZES), 1 => 0..100_000_usize];
    let metadata_bytes = prop_oneof![4 => Just(0), 4 => 1..100_usize, 1 => select(vec![1024, 16_385, 65_537])];
    (0..3_u64, size, metadata_bytes).prop_map(|(seed, size, metadata_bytes)| Content { seed, size, metadata_bytes })
}

fn operation() -> impl Strategy<Value = Operation> {
    let id = || 0..ID_COUNT;
    prop_oneof![
        8 => (id(), content()).prop_map(|(id, content)| Operation::Put { id, content }),
        4 => (id(), content(), select(vec![1000, 65_536, 1 << 20]), prop::bool::weighted(0.8))
            .prop_map(|(id, content, piece_bytes, commit)| Operation::Stream { id, content, piece_bytes, commit }),
        6 => id().prop_map(|id| Operation::Get { id }),
        2 => id().prop_map(|id| Operation::Contains { id }),
        5 => id().prop_map(|id| Operation::Delete { id }),
        5 => (id(), id()).prop_map(|(original, new)| Operation::Duplicate { original, new }),
        1 => id().prop_map(|id| Operation::GetOrPark { id }),
        1 => Just(Operation::Clear),
        1 => Just(Operation::Flush),
        2 => any::<bool>().prop_map(|close| Operation::Reopen { close }),
    ]
}

fn random_operations_do_what_they_do_to_a_map(fixture: &Fixture) {
    let config = ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(operations in prop::collection::vec(operation(), 1..60))| {
        let mut run = Run { fixture, store: Some(fixture.open()), model: BTreeMap::new(), handed_out: Vec::new() };
        run.store().clear().unwrap();
        for operation in &operations {
            run.perform(operation);
            run.compare_counts();
        }
        run.compare_contents();
    });
}

struct Run<'a> {
    fixture: &'a Fixture,
    store: Option<ObjectStore>,
    model: BTreeMap<u8, Object>,
    /// What gets returned, beside what it must stay equal to.
    handed_out: Vec<(Object, Object)>,
}

impl Run<'_> {
    fn store(&self) -> &ObjectStore {
        self.store.as_ref().unwrap()
    }

    fn perform(&mut self, operation: &Operation) {
        match operation {
            Operation::Put { id, content } => {
                let object = content.object();
                self.store().put(&[*id], &object.data, &object.metadata).unwrap();
                self.model.insert(*id, object);
            }
            Operation::Stream { id, content, piece_bytes, commit } => {
                let object = content.object();
                let mut writer = self.store().writer(&[*id], object.data.len() as u64, &object.metadata).unwrap();
                object.data.chunks(*piece_bytes).for_each(|piece| writer.write(piece).unwrap());
                if *commit {
                    writer.commit().unwrap();
                    self.model.insert(*id, object);
                }
            }
            Operation::Get { id } => {
                let got = self.store().get(&[*id]).unwrap();
                self.expect(*id, got);
            }
            Operation::Contains { id } => {
                assert_eq!(self.store().contains(&[*id]).unwrap(), self.model.contains_key(id));
            }
            Operation::Delete { id } => {
                assert_eq!(self.store().delete(&[*id]).unwrap(), self.model.remove(id).is_some());
            }
            Operation::Duplicate { original, new } => {
                let existed = self.store().duplicate(&[*original], &[*new]).unwrap();
                assert_eq!(existed, self.model.contains_key(original));
                if let Some(object) = self.model.get(original).cloned() {
                    self.model.insert(*new, object);
                }
            }
            Operation::GetOrPark { id } => {
                let (sender, answers) = mpsc::channel();
                let got = match self.store().get_or_park(&[*id], move |object| drop(sender.send(object))).unwrap() {
                    Parked::Ready(object) => Some(object),
                    // Redis is asked first what it has of an object of an earlier open.
                    Parked::Waiting(ticket)
                        if self.model.contains_key(id) && self.store().info().backend == "tiered" =>
                    {
                        let object = answers.recv_timeout(HANG).unwrap();
                        drop(ticket);
                        Some(object)
                    }
                    Parked::Waiting(_) => None,
                };
                self.expect(*id, got);
            }
            Operation::Clear => {
                self.store().clear().unwrap();
                self.model.clear();
            }
            Operation::Flush => self.store().flush().unwrap(),
            Operation::Reopen { close } => self.reopen(*close),
        }
    }

    fn expect(&mut self, id: u8, got: Option<Object>) {
        let expected = self.model.get(&id);
        assert!(got.as_ref() == expected, "id {id} differs from the model");
        self.handed_out.extend(got.zip(expected.cloned()));
    }

    fn reopen(&mut self, close: bool) {
        let store = self.store.take().unwrap();
        if !persists(&store) {
            self.model.clear();
        }
        if close {
            store.close().unwrap();
        }
        drop(store);
        self.store = Some(self.fixture.open());
    }

    fn compare_counts(&self) {
        let info = self.store().info();
        let distinct: BTreeSet<_> = self.model.values().map(|object| (&object.data, &object.metadata)).collect();
        assert_eq!(info.objects, self.model.len() as u64);
        assert!(info.payloads >= distinct.len() as u64, "{} payloads hold {} contents", info.payloads, distinct.len());
        assert!(info.payloads <= info.objects);
        assert_eq!(info.damaged_objects, 0);
    }

    fn compare_contents(&mut self) {
        for id in 0..ID_COUNT {
            let got = self.store().get(&[id]).unwrap();
            self.expect(id, got);
        }
        for (held, expected) in &self.handed_out {
            assert!(held == expected, "handed-out bytes have changed");
        }
        self.store().close().unwrap();
    }
}
