//! Contents that say what they are, so that wrong bytes show whatever was expected.

use std::sync::LazyLock;

use scaler_object_storage::Object;

use crate::common::{bytes, splitmix};

/// Data sizes on both sides of what changes how bytes are kept: in a record, beside it, in one value of Redis, in several.
const SIZES: [usize; 8] = [0, 100, 1500, 20_000, (64 << 10) + 1, 300_000, (1 << 20) + 1, 5 << 19];

/// How often each size is chosen, of 100.
const WEIGHTS: [u64; 8] = [6, 40, 16, 14, 10, 6, 5, 3];

const CLASS_BITS: u32 = 56;

/// Seeds below this are chosen now and then, so that equal payloads meet.
const COMMON_SEEDS: u64 = 4;

/// The second half can be compressed.
static POOL: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut pool = bytes(7, 4 << 20);
    for word in bytes(8, 1 << 20).chunks(8) {
        (0..4).for_each(|_| pool.extend_from_slice(word));
    }
    pool
});

/// What an object holds: a size and a seed in one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Content(pub u64);

impl Content {
    /// `unique`: a number below 2^55 that no other write has.
    pub fn choose(random: &mut u64, unique: u64) -> Self {
        let mut at = splitmix(random) % 100;
        let class = WEIGHTS.iter().position(|weight| at.checked_sub(*weight).map(|rest| at = rest).is_none()).unwrap();
        let seed = match splitmix(random) % 10 {
            0 => splitmix(random) % COMMON_SEEDS,
            _ => COMMON_SEEDS + unique,
        };
        Content((class as u64) << CLASS_BITS | seed)
    }

    /// Whether only one put can have written it.
    pub fn is_unique(self) -> bool {
        self.0 & ((1 << CLASS_BITS) - 1) >= COMMON_SEEDS
    }

    pub fn data(self) -> &'static [u8] {
        let size = SIZES[(self.0 >> CLASS_BITS) as usize];
        let from = splitmix(&mut { self.0 }) as usize % (POOL.len() - size);
        &POOL[from..from + size]
    }

    pub fn metadata(self) -> [u8; 8] {
        self.0.to_le_bytes()
    }

    /// What this object holds; None where it is not what anybody wrote.
    pub fn of(object: &Object) -> Option<Self> {
        let content = Content(u64::from_le_bytes(object.metadata[..].try_into().ok()?));
        ((content.0 >> CLASS_BITS) < SIZES.len() as u64 && object.data == content.data()).then_some(content)
    }
}
