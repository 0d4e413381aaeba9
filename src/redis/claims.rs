use redis::{Cmd, Value};

use super::keys::Keys;
use super::link::Link;
use crate::error::Error;

/// How long a claim keeps others from doing the same: less than it takes until who wants an id asks again.
const CLAIM_MS: u64 = 1000;

/// Claims to push these ids: whether each is to be pushed by this caller. Where Redis refuses to tell, it is.
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
