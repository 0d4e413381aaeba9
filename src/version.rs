/// Orders the writes to one id across nodes: the greater wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Version {
    /// Hybrid logical clock: 48 bits of milliseconds since 1970, 16 bits of counter.
    pub clock: u64,
    /// 64 bits that the writing node drew when it was opened.
    pub node: u64,
}

impl Version {
    /// The clock's first value in that millisecond.
    pub fn clock_of(ms: u64) -> u64 {
        ms << 16
    }

    /// Milliseconds since 1970.
    pub fn ms(&self) -> u64 {
        self.clock >> 16
    }
}
