//! Real Redis servers, and stores that share objects through one.

pub use redis_for_tests::*;

pub use super::nodes::Nodes;
