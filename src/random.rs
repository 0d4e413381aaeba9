//! Bits that nobody can foresee.

pub(crate) fn random_u64() -> u64 {
    u64::from_ne_bytes(random_bytes())
}

pub(crate) fn random_u128() -> u128 {
    u128::from_ne_bytes(random_bytes())
}

/// At most 256 of them, which Linux gives in one piece, unless a signal ends the wait for the first ones after the computer has started.
fn random_bytes<const COUNT: usize>() -> [u8; COUNT] {
    let mut bytes = [0; COUNT];
    let filled =
        rustix::io::retry_on_intr(|| rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()));
    debug_assert_eq!(filled, Ok(COUNT));
    bytes
}
