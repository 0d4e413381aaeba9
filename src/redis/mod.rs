//! The shared tier: how objects stand in Redis, and how Redis is spoken to.

mod options;

pub use options::{Compression, RedisOptions, ValueFormat};
