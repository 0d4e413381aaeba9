use std::thread::{JoinHandle, spawn};

use scaler_object_storage::{Object, ObjectStore, RedisOptions, Waited};

use crate::common::redis::Nodes;
use crate::common::{much_later, object, until};
use crate::load::{Expected, Load, content, shown};

/// Two nodes at work on one Redis.
pub struct World {
    pub nodes: Nodes,
    pub stores: Vec<ObjectStore>,
    load: Load,
    waiter: JoinHandle<Waited>,
}

const AWAITED: &[u8] = b"awaited";

/// Timeouts that let a test see what comes after them.
pub fn nodes(url: impl Into<String>) -> Nodes {
    Nodes::new("tiered", url).with(impatient)
}

fn impatient(options: &mut RedisOptions) {
    options.connect_timeout_ms = 500;
    options.response_timeout_ms = 1000;
    options.drain_timeout_ms = 1000;
}

impl World {
    /// Opens the nodes, sets them to work, and has one of them wait for an object.
    pub fn at_work(nodes: Nodes) -> World {
        let seed = std::env::var("SEED").map_or_else(|_| u64::from(std::process::id()), |seed| seed.parse().unwrap());
        println!("SEED={seed}");
        let stores = vec![nodes.open(), nodes.open()];
        let waiting = stores[1].clone();
        let waiter = spawn(move || waiting.wait(AWAITED, much_later(), None).unwrap());
        until("it waits", || waiting_requests(&stores[1]) == 1);
        let load = Load::start(&stores, seed);
        World { nodes, stores, load, waiter }
    }

    /// Returns when a good deal of work has been done on each node that needs nobody else. What the other node waits for is put.
    #[track_caller]
    pub fn goes_on(&self) {
        self.stores[0].put(AWAITED, b"awaited", b"").unwrap();
        self.load.goes_on_for(200);
    }

    /// Less of it, and nothing is put for the waiter.
    #[track_caller]
    pub fn goes_on_a_little(&self) {
        self.load.goes_on_for(5);
    }

    /// Ends the work, and checks what must hold when Redis is there again and no one writes any more.
    #[track_caller]
    pub fn ends_well(self) {
        let World { nodes, stores, load, waiter } = self;
        let expected = load.stop();
        // Invariant 4: every waiter, on any node, is answered.
        assert_eq!(waiter.join().unwrap(), Waited::Object(object(b"awaited", b"")));
        all_agree(&nodes, &stores, &expected);
    }
}

fn waiting_requests(store: &ObjectStore) -> u64 {
    store.info().waiting_requests
}

/// Invariants 4, 5 and 6: these nodes, one that is new, and Redis by itself have what was acknowledged last.
#[track_caller]
pub fn all_agree(nodes: &Nodes, stores: &[ObjectStore], expected: &Expected) {
    assert!(expected.values().any(Option::is_some) && expected.values().any(Option::is_none), "there was no work");
    for (number, store) in stores.iter().enumerate() {
        holds(&format!("node {number}"), store, expected);
    }
    holds("Redis", &Nodes::new("redis", &nodes.url).open(), expected);
    holds("a new node", &nodes.open(), expected);
}

#[track_caller]
pub fn holds(name: &str, store: &ObjectStore, expected: &Expected) {
    for (id, number) in expected {
        let wanted: Option<Object> = number.map(|number| content(id, number));
        let what = if wanted.is_some() { "has" } else { "has forgotten" };
        until(&format!("{name} {what} {}", shown(id)), || store.get(id).is_ok_and(|found| found == wanted));
    }
}
