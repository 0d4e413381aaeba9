//! Contents that say what they are, most of them of lengths that stand in shared segments.

use std::sync::LazyLock;

use scaler_object_storage::Object;

use crate::common::{bytes, splitmix};

const SIZES: [usize; 9] = [0, 100, 5000, 40_000, 70_000, 100_000, 120_000, 300_000, 1 << 20];

/// How often each size is chosen, of 100.
const WEIGHTS: [u64; 9] = [3, 12, 8, 10, 22, 20, 13, 8, 4];

const SEED_BITS: u32 = 56;

/// Seeds below this are chosen often, so that equal payloads meet.
const COMMON_SEEDS: u64 = 4;

static POOL: LazyLock<Vec<u8>> = LazyLock::new(|| bytes(7, 3 << 20));

/// Size and seed in one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content(pub u64);

impl Content {
    pub fn choose(random: &mut u64, unique: u64) -> Self {
        let mut at = splitmix(random) % 100;
        let class = WEIGHTS.iter().position(|weight| at.checked_sub(*weight).map(|rest| at = rest).is_none()).unwrap();
        let seed = match splitmix(random) % 8 {
            0 => 1 + splitmix(random) % COMMON_SEEDS,
            _ => 1 + COMMON_SEEDS + (unique & ((1 << (SEED_BITS - 1)) - 1)),
        };
        Content((class as u64) << SEED_BITS | seed)
    }

    pub fn data(self) -> &'static [u8] {
        let size = SIZES[(self.0 >> SEED_BITS) as usize];
        let from = splitmix(&mut { self.0 }) as usize % (2 << 20);
        &POOL[from..from + size]
    }

    pub fn metadata(self) -> [u8; 8] {
        self.0.to_le_bytes()
    }

    /// What this object holds; None where it is not what anybody wrote.
    pub fn of(object: &Object) -> Option<Self> {
        let content = Content(u64::from_le_bytes(object.metadata[..].try_into().ok()?));
        let is_one = ((content.0 >> SEED_BITS) as usize) < SIZES.len() && object.data == content.data();
        is_one.then_some(content)
    }
}
