//! Contents that say what they are, so that wrong bytes show whatever was expected.

use std::sync::LazyLock;

use scaler_object_storage::Object;

use crate::common::{bytes, splitmix};

/// Data sizes on both sides of what changes how bytes are kept.
const SIZES: [usize; 9] = [0, 100, 1024, 4096, 20_000, (64 << 10) - 1, 64 << 10, (64 << 10) + 1, 1 << 20];

/// How often each size is chosen, of 100.
const WEIGHTS: [u64; 9] = [8, 26, 10, 20, 10, 6, 6, 8, 6];

const SEED_BITS: u32 = 56;

/// Seeds below this are chosen often, so that equal payloads meet.
const COMMON_SEEDS: u64 = 4;

static POOL: LazyLock<Vec<u8>> = LazyLock::new(|| bytes(7, 3 << 20));

/// What an object holds: a size and a seed in one number. 0 is an object without data and metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Content(pub u64);

impl Content {
    pub fn choose(random: &mut u64, unique: u64) -> Self {
        let mut at = splitmix(random) % 100;
        let class = WEIGHTS.iter().position(|weight| at.checked_sub(*weight).map(|rest| at = rest).is_none()).unwrap();
        match splitmix(random) % 16 {
            0 => Content(0),
            1..6 => Content((class as u64) << SEED_BITS | (1 + splitmix(random) % COMMON_SEEDS)),
            _ => Content((class as u64) << SEED_BITS | (1 + COMMON_SEEDS + unique)),
        }
    }

    pub fn data(self) -> &'static [u8] {
        let size = SIZES[(self.0 >> SEED_BITS) as usize];
        let from = splitmix(&mut { self.0 }) as usize % (2 << 20);
        &POOL[from..from + size]
    }

    pub fn metadata(self) -> Vec<u8> {
        if self.0 == 0 { Vec::new() } else { self.0.to_le_bytes().to_vec() }
    }

    /// What this object holds; None where it is not what anybody wrote.
    pub fn of(object: &Object) -> Option<Self> {
        let key = if object.metadata.is_empty() { 0 } else { u64::from_le_bytes(object.metadata[..].try_into().ok()?) };
        let content = Content(key);
        ((key >> SEED_BITS) < SIZES.len() as u64 && object.data == content.data()).then_some(content)
    }
}
