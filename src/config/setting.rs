//! The settings, each with its name in file, environment and on the command line.

use toml::Value;

/// What a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A file or directory, made absolute; a leading `~/` is the home directory.
    Path,
    /// Several files.
    Paths,
    /// A whole number from 0.
    Number,
    /// One of these words, in upper or lower case.
    Choice(&'static [&'static str]),
}

/// One setting, whichever of the three ways it comes in: everything that the command line, the environment and the config file
/// have in common is said here.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its name in the section [`SECTION`](super::SECTION) of the config file: `key`, or `table.key`.
    pub key: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// The word for its value in the help.
    pub value_name: &'static str,
    /// One sentence, with the unit.
    pub help: &'static str,
    /// The value in effect where none is given, in words.
    pub default: &'static str,
}

/// The settings of the server.
pub const SERVER_SETTINGS: [Setting; 8] = [
    Setting {
        key: "bind_address",
        kind: Kind::Text,
        value_name: "ADDRESS",
        help: "Where to listen: tcp://IP:PORT, tls://IP:PORT, ipc://PATH, ws://IP:PORT/PATH or wss://IP:PORT/PATH; port 0 is any free one",
        default: "tcp://127.0.0.1:2346",
    },
    Setting {
        key: "identity",
        kind: Kind::Text,
        value_name: "ID",
        help: "The name by which the server introduces itself to clients",
        default: "ObjectStorageServer",
    },
    Setting {
        key: "logging_paths",
        kind: Kind::Paths,
        value_name: "PATH",
        help: "Where to log: files, /dev/stdout or /dev/stderr",
        default: "/dev/stdout",
    },
    Setting {
        key: "logging_config_file",
        kind: Kind::Path,
        value_name: "FILE",
        help: "Accepted and ignored: a file in the format of Python's logging",
        default: "none",
    },
    Setting {
        key: "logging_level",
        kind: Kind::Choice(&["CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG"]),
        value_name: "LEVEL",
        help: "The least severe messages to log",
        default: "INFO",
    },
    Setting {
        key: "tls_cert",
        kind: Kind::Path,
        value_name: "FILE",
        help: "The certificate chain for tls:// and wss://, in PEM",
        default: "none",
    },
    Setting {
        key: "tls_key",
        kind: Kind::Path,
        value_name: "FILE",
        help: "The private key of the certificate, in PEM",
        default: "none",
    },
    Setting {
        key: "metrics_address",
        kind: Kind::Text,
        value_name: "[IP:]PORT",
        help: "Where to serve metrics (/metrics), health (/healthz, /readyz) and a status page (/) over HTTP, to whoever can reach it; a port \
               alone is on loopback, port 0 is any free one",
        default: "none: they are not served",
    },
];

/// The settings of the store: the fields of [`StoreConfig`](crate::StoreConfig).
pub const STORE_SETTINGS: [Setting; 27] = [
    Setting {
        key: "backend",
        kind: Kind::Choice(&["local", "memory", "redis", "tiered"]),
        value_name: "BACKEND",
        help: "Where objects are kept: in a journal on this node's disk; in this process's memory; in Redis; or in a journal and, \
               for other nodes, in Redis",
        default: "local",
    },
    Setting {
        key: "local.path",
        kind: Kind::Path,
        value_name: "DIRECTORY",
        help: "The directory of the local and tiered backends, made if it does not exist",
        default: "scaler_object_storage in $XDG_STATE_HOME, or in ~/.local/state",
    },
    Setting {
        key: "local.max_size_mb",
        kind: Kind::Number,
        value_name: "MIB",
        help: "The most disk space that the directory may take, in MiB; puts fail when four fifths of it are live objects that cannot \
               be evicted",
        default: "0: four fifths of what is free at start, and what the directory already holds",
    },
    Setting {
        key: "local.durability",
        kind: Kind::Choice(&["process", "disk"]),
        value_name: "WHEN",
        help: "What an acknowledged write survives: the death of the process, or also a power loss (slower)",
        default: "process",
    },
    Setting {
        key: "local.object_ttl_seconds",
        kind: Kind::Number,
        value_name: "SECONDS",
        help: "How long objects of the local backend live after they were stored, in seconds",
        default: "0: for ever",
    },
    Setting {
        key: "local.lock_wait_ms",
        kind: Kind::Number,
        value_name: "MILLISECONDS",
        help: "How long to wait at start for another process to release the directory, in milliseconds",
        default: "10000",
    },
    Setting {
        key: "local.keeper_command",
        kind: Kind::Path,
        value_name: "PROGRAM",
        help: "The program that keeps the directory for attached processes where no server does",
        default: "scaler_object_storage_server beside the attaching program, or in the PATH",
    },
    Setting {
        key: "local.keeper_response_timeout_ms",
        kind: Kind::Number,
        value_name: "MILLISECONDS",
        help: "How long an attached process waits for the keeper's answer before a call fails",
        default: "30000",
    },
    Setting {
        key: "local.keeper_idle_seconds",
        kind: Kind::Number,
        value_name: "SECONDS",
        help: "How long such a keeper stays when no process is attached any more",
        default: "60",
    },
    Setting {
        key: "memory.max_size_mb",
        kind: Kind::Number,
        value_name: "MIB",
        help: "The most memory that objects of the memory backend may take, in MiB",
        default: "0: half of the memory of the machine or container",
    },
    Setting {
        key: "memory.object_ttl_seconds",
        kind: Kind::Number,
        value_name: "SECONDS",
        help: "How long objects of the memory backend live after they were stored, in seconds",
        default: "0: for ever",
    },
    Setting {
        key: "redis.url",
        kind: Kind::Text,
        value_name: "URL",
        help: "Where Redis is: redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE], rediss:// (TLS), redis+unix:///SOCKET[?db=N], \
               redis+sentinel://HOST:PORT[,HOST:PORT...]/MASTER[/DATABASE] or redis+cluster://HOST:PORT[,HOST:PORT...]",
        default: "redis://localhost:6379/0",
    },
    Setting {
        key: "redis.max_object_size_mb",
        kind: Kind::Number,
        value_name: "MIB",
        help: "The largest object, in MiB: a larger put is refused; 0 is no limit",
        default: "100",
    },
    Setting {
        key: "redis.key_prefix",
        kind: Kind::Text,
        value_name: "PREFIX",
        help: "What every key in Redis begins with; stores with different prefixes never see each other",
        default: "scaler:obj:",
    },
    Setting {
        key: "redis.connection_pool_size",
        kind: Kind::Number,
        value_name: "CONNECTIONS",
        help: "How many connections read from Redis",
        default: "10",
    },
    Setting {
        key: "redis.compression",
        kind: Kind::Choice(&["lz4", "none"]),
        value_name: "CODEC",
        help: "How values are compressed before they go to Redis",
        default: "lz4",
    },
    Setting {
        key: "redis.value_format",
        kind: Kind::Choice(&["tiered", "python"]),
        value_name: "FORMAT",
        help: "How values are laid out in Redis: with version and checksum, or as Scaler's Python Redis backend reads them",
        default: "tiered",
    },
    Setting {
        key: "redis.connect_timeout_ms",
        kind: Kind::Number,
        value_name: "MILLISECONDS",
        help: "How long a connection to Redis may take to be made, in milliseconds",
        default: "2000",
    },
    Setting {
        key: "redis.response_timeout_ms",
        kind: Kind::Number,
        value_name: "MILLISECONDS",
        help: "How long Redis may take to answer, in milliseconds",
        default: "5000",
    },
    Setting {
        key: "redis.object_ttl_seconds",
        kind: Kind::Number,
        value_name: "SECONDS",
        help: "How long objects of the redis and tiered backends live after they were stored, in seconds",
        default: "0: for ever",
    },
    Setting {
        key: "redis.tombstone_ttl_seconds",
        kind: Kind::Number,
        value_name: "SECONDS",
        help: "How long it is remembered that an object was deleted, in seconds; a node that was cut off for longer may bring it \
               back",
        default: "3600",
    },
    Setting {
        key: "redis.wait_replicas",
        kind: Kind::Number,
        value_name: "REPLICAS",
        help: "How many replicas of Redis must have an object before it counts as replicated; not with Redis Cluster",
        default: "0",
    },
    Setting {
        key: "redis.drain_timeout_ms",
        kind: Kind::Number,
        value_name: "MILLISECONDS",
        help: "How long a stop waits for what Redis does not have yet, in milliseconds; the rest is pushed after the next start",
        default: "10000",
    },
    Setting {
        key: "redis.settle_ms",
        kind: Kind::Number,
        value_name: "MILLISECONDS",
        help: "How long an object that Redis has acknowledged is still pushed again when a connection breaks, in milliseconds",
        default: "30000",
    },
    Setting {
        key: "redis.tls_ca",
        kind: Kind::Path,
        value_name: "FILE",
        help: "The certificate authorities that sign Redis's certificate, in PEM, for rediss://",
        default: "those of the system",
    },
    Setting {
        key: "redis.tls_cert",
        kind: Kind::Path,
        value_name: "FILE",
        help: "The certificate that is shown to Redis, in PEM",
        default: "none",
    },
    Setting {
        key: "redis.tls_key",
        kind: Kind::Path,
        value_name: "FILE",
        help: "The private key of that certificate, in PEM",
        default: "none",
    },
];

/// Every setting: the server's, then the store's.
pub fn settings() -> impl Iterator<Item = &'static Setting> {
    SERVER_SETTINGS.iter().chain(&STORE_SETTINGS)
}

impl Setting {
    /// Its long option on the command line, without the dashes: `local-path`.
    #[must_use]
    pub fn flag(&self) -> String {
        self.key.replace(['.', '_'], "-")
    }

    /// Its environment variable: `SCALER_OBJECT_STORAGE_LOCAL_PATH`.
    #[must_use]
    pub fn variable(&self) -> String {
        variable(self.key)
    }

    /// The value that one or several words of text mean (one, except for [`Kind::Paths`]), or what is wrong with them.
    pub(super) fn value_of_text(&self, words: &[String]) -> Result<Value, String> {
        let word = || words.last().cloned().unwrap_or_default();
        match self.kind {
            Kind::Paths => self.checked(Value::Array(words.iter().cloned().map(Value::String).collect())),
            Kind::Number => match word().parse::<i64>() {
                Ok(number) => self.checked(Value::Integer(number)),
                Err(_) => Err(self.expected(&described(&Value::String(word())))),
            },
            Kind::Text | Kind::Path | Kind::Choice(_) => self.checked(Value::String(word())),
        }
    }

    /// The value in its final form (paths without `~`, choices as they are spelt here), or what is wrong with it.
    pub(super) fn checked(&self, value: Value) -> Result<Value, String> {
        match (self.kind, value) {
            (Kind::Text, Value::String(text)) => Ok(Value::String(text)),
            (Kind::Path, Value::String(text)) => Ok(Value::String(absolute(written_out(text)?))),
            (Kind::Paths, Value::String(text)) => Ok(Value::Array(vec![log_path(text)?])),
            (Kind::Paths, Value::Array(values)) => {
                let paths = values.into_iter().map(|value| match value {
                    Value::String(text) => log_path(text),
                    other => Err(self.expected(&described(&other))),
                });
                paths.collect::<Result<_, _>>().map(Value::Array)
            }
            (Kind::Number, Value::Integer(number)) if number >= 0 => Ok(Value::Integer(number)),
            (Kind::Choice(words), Value::String(text)) => {
                let spelt = words.iter().find(|word| word.eq_ignore_ascii_case(&text));
                spelt
                    .map(|word| Value::String((*word).to_string()))
                    .ok_or_else(|| self.expected(&described(&Value::String(text))))
            }
            (_, other) => Err(self.expected(&described(&other))),
        }
    }

    fn expected(&self, found: &str) -> String {
        let expected = match self.kind {
            Kind::Text => "text in quotes".to_string(),
            Kind::Path => "a path in quotes".to_string(),
            Kind::Paths => "a list of paths".to_string(),
            Kind::Number => "a whole number from 0".to_string(),
            Kind::Choice(words) => format!("one of {}", words.join(", ")),
        };
        format!("{found} is not {expected}")
    }
}

pub(super) fn variable(key: &str) -> String {
    format!("{}{}", super::VARIABLE_PREFIX, key.replace('.', "_").to_uppercase())
}

fn described(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{:?}", without_password(text)),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(yes) => yes.to_string(),
        Value::Datetime(time) => time.to_string(),
        Value::Array(_) => "a list".to_string(),
        Value::Table(_) => "a table".to_string(),
    }
}

/// An option that takes several paths also swallows an address that follows it.
fn log_path(text: String) -> Result<Value, String> {
    if text.contains("://") {
        let text = without_password(&text);
        return Err(format!("{text:?} is an address and not a path; on the command line the address comes first"));
    }
    Ok(Value::String(written_out(text)?))
}

/// What is logged about a path is to be of use to someone in another directory.
fn absolute(path: String) -> String {
    let absolute = std::path::absolute(&path).ok().and_then(|path| path.into_os_string().into_string().ok());
    absolute.unwrap_or(path)
}

/// The path with the home directory for a leading `~/`. A directory whose name a shell would replace is never meant.
fn written_out(path: String) -> Result<String, String> {
    if path == "~" || path.starts_with("~/") {
        let home = std::env::home_dir().and_then(|home| home.into_os_string().into_string().ok());
        let home = home.filter(|home| !home.is_empty());
        let home = home
            .ok_or_else(|| format!("{path:?} begins in the home directory, and HOME is not set; write the path out"))?;
        return Ok(format!("{}{}", home.trim_end_matches('/'), path.trim_start_matches('~')));
    }
    if path.starts_with('~') || path.split('/').any(|part| part.starts_with('$')) {
        return Err(format!(
            "{path:?}: variables, and home directories other than ~/, are not looked up in a path; write it out"
        ));
    }
    Ok(path)
}

/// The text as it may be shown: of what could be a url with a password, well-formed or not and wherever it was given, all is left out
/// that could be user or password.
#[must_use]
pub fn without_password(text: &str) -> String {
    let text = match text.split_once('?') {
        Some((url, query)) if query.to_lowercase().contains("pass") => format!("{url}?***"),
        _ => text.to_string(),
    };
    let Some((secret, host)) = text.rsplit_once('@') else { return text };
    let scheme = secret.split_once("://").map(|(scheme, _)| format!("{scheme}://")).unwrap_or_default();
    format!("{scheme}***@{host}")
}

#[cfg(test)]
mod tests {
    use super::STORE_SETTINGS;
    use crate::local::LocalOptions;
    use crate::memory::MemoryOptions;
    use crate::redis::RedisOptions;
    use crate::store::StoreConfig;

    /// Where this does not compile, a field of the store's options has been added: it needs a row in the settings.
    #[test]
    fn every_option_of_the_store_is_a_setting() {
        let StoreConfig { backend: _, memory, local, redis } = StoreConfig::default();
        let MemoryOptions { max_size_mb: _, object_ttl_seconds: _ } = memory;
        let LocalOptions {
            path: _,
            max_size_mb: _,
            durability: _,
            object_ttl_seconds: _,
            lock_wait_ms: _,
            keeper_command: _,
            keeper_response_timeout_ms: _,
            keeper_idle_seconds: _,
        } = local;
        let RedisOptions {
            url: _,
            max_object_size_mb: _,
            key_prefix: _,
            connection_pool_size: _,
            compression: _,
            value_format: _,
            connect_timeout_ms: _,
            response_timeout_ms: _,
            object_ttl_seconds: _,
            tombstone_ttl_seconds: _,
            wait_replicas: _,
            drain_timeout_ms: _,
            settle_ms: _,
            tls_ca: _,
            tls_cert: _,
            tls_key: _,
        } = redis;
        assert_eq!(STORE_SETTINGS.len(), 1 + 2 + 8 + 16);
    }
}
