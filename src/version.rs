/// Orders the writes to one id across nodes: the greater wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Version {
    /// Hybrid logical clock: 48 bits of milliseconds since 1970, 16 bits of counter.
    pub clock: u64,
    /// 64 bits that the writing node drew when it was opened.
    pub node: u64,
}
