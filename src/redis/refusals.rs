//! What Redis's refusals mean: whether Redis is away, or is there and does not serve this store, and what to do about it.

use redis::Value;

use crate::error::Error;

/// The answer to one command: a value, or the text of an error (`OOM command not allowed ...`), called a refusal.
pub(crate) type Reply = Result<Value, String>;

/// Makes a reply of a value, which may be a refusal.
pub(super) fn reply_of(value: Value) -> Reply {
    match value {
        Value::ServerError(refusal) => {
            let details = refusal.details().unwrap_or_default();
            Err(format!("{} {details}", refusal.code()).trim_end().to_owned())
        }
        value => Ok(value),
    }
}

/// What a refusal, or what was tried, tells.
struct Meaning {
    /// Part of Redis's words.
    words: &'static str,
    /// Redis is there, and this is not the time but the wrong Redis, login or setting.
    is_denied: bool,
    /// What to do.
    advice: &'static str,
}

const fn denied(words: &'static str, advice: &'static str) -> Meaning {
    Meaning { words, is_denied: true, advice }
}

const fn passing(words: &'static str, advice: &'static str) -> Meaning {
    Meaning { words, is_denied: false, advice }
}

/// The first whose words are found counts.
const MEANINGS: [Meaning; 24] = [
    denied("WRONGPASS", "check user and password in redis.url, percent-encoded where they hold special characters"),
    denied("NOAUTH", "redis.url lacks a password"),
    denied("invalid password", "check the password in redis.url"),
    denied(
        "without any password configured",
        "this Redis has no password: take it out of redis.url, or look whether it is the right Redis",
    ),
    denied("NOPERM", "permit this to the user that redis.url names, on the keys that begin with redis.key_prefix"),
    denied(
        "DB index is out of range",
        "redis.url names a database that this Redis does not have: choose another, or raise databases",
    ),
    denied("cluster support disabled", "this is a single server: write redis:// in redis.url"),
    denied(
        "SELECT is not allowed in cluster mode",
        "a Redis Cluster has the database 0 only, and needs redis+cluster:// in redis.url",
    ),
    denied("MOVED ", "this is a Redis Cluster: write redis+cluster:// in redis.url"),
    denied("CROSSSLOT", "this is a Redis Cluster: write redis+cluster:// in redis.url"),
    denied("No such master with that name", "redis.url names a master that the sentinels do not know"),
    denied(
        "unknown command",
        "the store needs this command: look for rename-command in Redis's configuration, or a proxy that leaves it out",
    ),
    denied("it speaks TLS", "this port is for encrypted connections"),
    denied(
        "WRONGTYPE",
        "something else stands under this key: give redis.key_prefix a value that no other program uses",
    ),
    passing("max number of clients", "raise maxclients in Redis, or lower redis.connection_pool_size"),
    denied(
        "READONLY",
        "redis.url names a replica, or a failover is under way: it has to name the master, not a reader's endpoint",
    ),
    passing("LOADING", "Redis is loading its data, and serves when it has done so"),
    passing("MASTERDOWN", "this replica has lost its master, and redis.url has to name the master"),
    passing("CLUSTERDOWN", "the cluster lacks a master: look at CLUSTER NODES"),
    passing("NOREPLICAS", "Redis wants more replicas for a write than it has: see min-replicas-to-write"),
    passing("MISCONF", "Redis cannot save to its disk, and takes no writes until it can: see its own log"),
    passing("fails: Connection reset", "a port for encrypted connections needs rediss:// in redis.url"),
    passing("fails: unexpected end of file", "a port for encrypted connections needs rediss:// in redis.url"),
    passing("OOM ", "Redis is full: raise maxmemory, or delete objects"),
];

fn meaning(reason: &str) -> Option<&'static Meaning> {
    MEANINGS.iter().find(|meaning| reason.contains(meaning.words))
}

/// The reason with what to do about it, where that is known.
pub(crate) fn explained(reason: &str) -> String {
    match meaning(reason) {
        Some(Meaning { advice, .. }) if !reason.contains(advice) => format!("{reason} ({advice})"),
        _ => reason.to_owned(),
    }
}

/// The error of a Redis that cannot be used: [`Error::Denied`] where Redis answers and will not serve this store until a setting is changed,
/// [`Error::Unreachable`] otherwise.
pub(crate) fn unusable(address: &str, reason: &str) -> Error {
    let address = address.to_owned();
    let is_denied = meaning(reason).is_some_and(|meaning| meaning.is_denied);
    let reason = explained(reason);
    if is_denied { Error::Denied { address, reason } } else { Error::Unreachable { address, reason } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redis_that_refuses_is_not_away_and_its_words_are_kept() {
        let error = unusable("redis://h:1/0", "WRONGPASS invalid username-password pair");
        assert!(matches!(&error, Error::Denied { .. }));
        let text = error.to_string();
        assert!(
            text.contains("redis://h:1/0") && text.contains("WRONGPASS invalid") && text.contains("check user"),
            "{text}"
        );
        assert!(matches!(unusable("a", "ERR max number of clients reached"), Error::Unreachable { .. }));
        assert!(matches!(unusable("a", "Connection refused"), Error::Unreachable { .. }));
    }

    #[test]
    fn what_to_do_is_said_once() {
        let once = explained("OOM command not allowed");
        assert_eq!(explained(&once), once);
        assert_eq!(explained("Connection refused"), "Connection refused");
    }
}
