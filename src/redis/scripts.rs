//! The Lua scripts. Those that write objects work on one key, and know of a value only its version and kind.

use std::sync::LazyLock;

use redis::{Cmd, Script, Value};

use super::envelope::{HEAD_BYTES, KIND_OFFSET, Kind, MAGIC, VERSION_BYTES, VERSION_OFFSET};
use super::pipeline::{Reply, code};

/// A script and its hash.
struct Source {
    code: String,
    hash: String,
}

impl Source {
    fn new(code: String) -> Source {
        Source { hash: Script::new(&code).get_hash().to_owned(), code }
    }
}

/// Arguments: version; a head that may be replaced whatever its version; 1 if the same version may be replaced too; deadline in
/// milliseconds since 1970 or 0; value.
static PUT: LazyLock<Source> = LazyLock::new(|| {
    guarded(
        "if ARGV[4] == '0' then redis.call('SET', KEYS[1], ARGV[5]) \
         else redis.call('SET', KEYS[1], ARGV[5], 'PXAT', ARGV[4]) end",
    )
});

/// Works when Redis is out of memory: DEL is accepted then, and after a script's first write so is SET.
static DELETE: LazyLock<Source> = LazyLock::new(|| {
    guarded(
        "redis.call('DEL', KEYS[1]) \
         local set = redis.pcall('SET', KEYS[1], ARGV[5], 'PX', ARGV[4]) \
         if set['err'] then return {4, head, bytes, set['err']} end",
    )
});

/// XADD that works when Redis is out of memory, because XTRIM comes first. Arguments: entries, node, batch.
static PUBLISH: LazyLock<Source> = LazyLock::new(|| {
    Source::new(
        "redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', ARGV[1]) \
         return redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'n', ARGV[2], 'b', ARGV[3])"
            .to_owned(),
    )
});

/// A delete and its event. XADD works when Redis is out of memory, because DEL comes first. Arguments as above.
static DELETE_AND_PUBLISH: LazyLock<Source> = LazyLock::new(|| {
    Source::new(
        "redis.call('DEL', KEYS[1]) \
         return redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[1], '*', 'n', ARGV[2], 'b', ARGV[3])"
            .to_owned(),
    )
});

/// A script that does `write` unless a value of ours stands there that is newer, or the same, or a manifest whose chunks must be set to expire
/// first. Versions are compared byte by byte: Lua's numbers would lose bits, and its strings compare by the server's collation.
fn guarded(write: &str) -> Source {
    let magic: String = MAGIC.iter().map(|byte| format!("\\{byte:03}")).collect();
    let (kind, manifest) = (KIND_OFFSET + 1, Kind::Manifest as u8);
    let version_end = VERSION_OFFSET + VERSION_BYTES;
    let last = HEAD_BYTES - 1;
    Source::new(format!(
        "local head = redis.call('GETRANGE', KEYS[1], 0, {last}) \
         local bytes = redis.call('STRLEN', KEYS[1]) \
         if head ~= ARGV[2] and #head >= {version_end} and string.sub(head, 1, 4) == '{magic}' then \
           local order = 0 \
           for i = 1, {VERSION_BYTES} do \
             order = string.byte(head, {VERSION_OFFSET} + i) - string.byte(ARGV[1], i) \
             if order ~= 0 then break end \
           end \
           if order > 0 then return {{2, head, bytes}} end \
           if order == 0 and ARGV[3] ~= '1' then return {{1, head, bytes}} end \
           if order < 0 and string.byte(head, {kind}) == {manifest} then return {{3, head, bytes}} end \
         end \
         {write} \
         return {{0, head, bytes}}"
    ))
}

/// What a guarded script did, the first bytes of what stood there, and its length.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub verdict: GuardVerdict,
    pub head: Vec<u8>,
    pub bytes: u64,
    /// How Redis has refused a part of it.
    pub refusal: String,
}

/// What a guarded script did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GuardVerdict {
    Applied,
    Same,
    /// What stands there is newer.
    Older,
    /// A manifest stands there: set its chunks to expire, then call again with its head as `named`.
    Chunks,
    /// What stood there is deleted, but the tombstone was refused.
    NoTombstone,
}

/// Arguments that the guarded scripts have in common.
pub(super) struct Guard<'a> {
    pub version: [u8; VERSION_BYTES],
    pub named: &'a [u8],
    pub also_same: bool,
}

/// The beginning of a call of PUT, to which deadline and value are added. With `whole` the call carries the script itself (EVAL), for a server
/// that does not have it.
pub(super) fn put(key: &str, guard: &Guard<'_>, whole: bool, value_bytes: usize) -> Cmd {
    guarded_call(&PUT, key, guard, whole, value_bytes)
}

pub(super) fn delete(key: &str, guard: &Guard<'_>, whole: bool) -> Cmd {
    guarded_call(&DELETE, key, guard, whole, HEAD_BYTES)
}

fn guarded_call(script: &Source, key: &str, guard: &Guard<'_>, whole: bool, value_bytes: usize) -> Cmd {
    let mut call = call(script, key, whole, value_bytes);
    call.arg(&guard.version[..]).arg(guard.named).arg(if guard.also_same { "1" } else { "0" });
    call
}

fn call(script: &Source, key: &str, whole: bool, more_bytes: usize) -> Cmd {
    let mut call = Cmd::with_capacity(10, 256 + key.len() + more_bytes);
    if whole {
        call.arg("EVAL").arg(&script.code);
    } else {
        call.arg("EVALSHA").arg(&script.hash);
    }
    call.arg(1).arg(key);
    call
}

/// A call of PUBLISH. It is rare, so it always carries the script itself.
pub(super) fn publish_when_full(key: &str, entries_max: usize, node: &[u8], batch: &[u8]) -> Cmd {
    let mut call = call(&PUBLISH, key, true, batch.len());
    call.arg(entries_max).arg(node).arg(batch);
    call
}

/// A call of DELETE_AND_PUBLISH, for a value without a version.
pub(super) fn delete_when_full(object: &str, events: &str, entries_max: usize, node: &[u8], batch: &[u8]) -> Cmd {
    let mut call = redis::cmd("EVAL");
    call.arg(&DELETE_AND_PUBLISH.code).arg(2).arg(object).arg(events).arg(entries_max).arg(node).arg(batch);
    call
}

pub(super) fn is_forgotten(refusal: &str) -> bool {
    code(refusal) == "NOSCRIPT"
}

impl Answer {
    pub fn of(reply: Reply) -> Result<Answer, String> {
        let Value::Array(parts) = reply? else { return Err("the script gave no answer".into()) };
        let [Value::Int(verdict), Value::BulkString(head), Value::Int(bytes), refusal @ ..] = parts.as_slice() else {
            return Err("the script gave another answer than it should".into());
        };
        let verdict = match verdict {
            0 => GuardVerdict::Applied,
            1 => GuardVerdict::Same,
            2 => GuardVerdict::Older,
            3 => GuardVerdict::Chunks,
            4 => GuardVerdict::NoTombstone,
            _ => return Err("the script's answer is not known".into()),
        };
        let refusal = match refusal {
            [Value::BulkString(words)] => String::from_utf8_lossy(words).into_owned(),
            _ => String::new(), // nothing was refused
        };
        Ok(Answer { verdict, head: head.clone(), bytes: u64::try_from(*bytes).unwrap_or(0), refusal })
    }
}
