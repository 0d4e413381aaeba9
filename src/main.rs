//! The object storage server: see the README.

fn main() {}
