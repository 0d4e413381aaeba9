//! Claims: of the many nodes that are asked for an id, the first to set a key pushes it.

use redis::{Cmd, Value};

use super::keys::Keys;
use super::link::Link;
use crate::error::Error;

/// How long a claim stands: less than the time after which whoever wants the id asks again.
const CLAIM_MS: u64 = 1000;

/// Claims these ids. Returns for each whether this node has to push it; if Redis refuses the claim, it does.
pub(crate) fn claim(link: &mut Link, keys: &Keys, ids: &[impl AsRef<[u8]>]) -> Result<Vec<bool>, Error> {
    let claims: Vec<Cmd> = ids
        .iter()
        .map(|id| {
            let mut set = redis::cmd("SET");
            set.arg(keys.claim(id.as_ref())).arg("").arg("NX").arg("PX").arg(CLAIM_MS);
            set
        })
        .collect();
    Ok(link.run(&claims)?.into_iter().map(|reply| !matches!(reply, Ok(Value::Nil))).collect())
}
