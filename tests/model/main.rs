//! The replication protocol as a model, gone through state by state: which orders of puts, deletes, pushes, events, fetches and faults
//! can end badly? Nothing here runs the store's code. Each rule of the protocol is a switch ([`rules::Rule`]).
//!
//! - `whole.rs`: with all rules, nothing is broken in any of the scopes. `make model` goes through larger ones.
//! - `broken.rs`: with a rule taken out, the checker finds what that rule is there for.
//!
//! # What is modelled
//!
//! A few nodes and ids. Puts, overwrites, deletes and deletes of what is not held; the push (a write that gets through only where nothing
//! newer stands), the event that follows as a step of its own, the settling; the reader with its cursor, a stream that loses its past,
//! suspects and how they are checked; fetches (begun, read, landed) with what is heard meanwhile; fills and evictions; waiters and wants;
//! restarts with a cursor from before; broken connections; a failover to a replica that lacks the last writes, and a master that does not
//! know that it was demoted; a Redis that is full, emptied, or loses single values; tombstones that expire; a node that hears nothing;
//! clocks that are off; and other programs that write values without versions. Both formats of values.
//!
//! # What is not
//!
//! - Bytes, and so invariant 7; chunks and manifests; duplicates; lanes, batches and packing, which change only how many go at a time.
//! - Time. `settle_ms` is "the replicas have it, if it was the master that acknowledged it", `tombstone_ttl` is a step in which the
//!   tombstone is forgotten everywhere, where it is settled and no fetch is under way. What is repeated now and then is one step that is
//!   possible where it would bring something.
//! - `object_ttl`, `wait_replicas`, and rules that are about speed: backoff, jitter, budgets, comparing heads before payloads go out again.
//! - Reads from a master that was demoted, and writes to one that does not know it yet: `min-replicas-to-write` is against these.
//! - In the format without versions, each id is put once and then deleted, as Scaler does. Concurrent puts of one id may leave another one in
//!   Redis than on a node: the last to reach Redis wins.
//!
//! # How to read what is found
//!
//! A failing test names the property (by the number of the invariant, docs/design.md) and a shortest way to break it, one
//! [`protocol::Step`] a line, then the state it leads to. Writes are numbered in the order in which they were made (`write: 2` is the second
//! of `writes`); that number is the truth, versions are what nodes compare. `values` is what Redis has of each id, `cursor` how many
//! entries of `stream` a node has read (those that all have read are cut off). Properties 4 and 6 are about quiet states: the protocol has
//! nothing left to do, so what is wrong stays wrong.
//!
//! Run one with `cargo test --test model a_failover -- --nocapture`, which also says how many states there were.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod broken;
mod checking;
mod faults;
mod fetching;
mod hearing;
mod properties;
mod protocol;
mod rules;
mod scope;
mod state;
mod whole;
mod writing;
