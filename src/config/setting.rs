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
pub const SERVER_SETTINGS: [Setting; 7] = [
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
];

/// The settings of the store: the fields of [`StoreConfig`](crate::StoreConfig).
pub const STORE_SETTINGS: [Setting; 6] = [
    Setting {
        key: "backend",
        kind: Kind::Choice(&["local", "memory"]),
        value_name: "BACKEND",
        help: "Where objects are kept: in a journal on this node's disk, or in this process's memory",
        default: "local",
    },
    Setting {
        key: "local.path",
        kind: Kind::Path,
        value_name: "DIRECTORY",
        help: "The directory of the local backend, made if it does not exist",
        default: "scaler_object_storage in $XDG_STATE_HOME, or in ~/.local/state",
    },
    Setting {
        key: "local.max_size_mb",
        kind: Kind::Number,
        value_name: "MIB",
        help: "The most disk space that the local backend may take, in MiB; puts fail when four fifths of it are live objects",
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
        key: "local.lock_wait_ms",
        kind: Kind::Number,
        value_name: "MILLISECONDS",
        help: "How long to wait at start for another process to release the directory, in milliseconds",
        default: "10000",
    },
    Setting {
        key: "memory.max_size_mb",
        kind: Kind::Number,
        value_name: "MIB",
        help: "The most memory that objects of the memory backend may take, in MiB",
        default: "0: half of the memory of the machine or container",
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
        format!("{}{}", super::VARIABLE_PREFIX, self.key.replace('.', "_").to_uppercase())
    }

    /// The value that one or several words of text mean (one, except for [`Kind::Paths`]), or what is wrong with them.
    pub(super) fn value_of_text(&self, words: &[String]) -> Result<Value, String> {
        let word = || words.last().cloned().unwrap_or_default();
        match self.kind {
            Kind::Paths => self.checked(Value::Array(words.iter().cloned().map(Value::String).collect())),
            Kind::Number => match word().parse::<i64>() {
                Ok(number) => self.checked(Value::Integer(number)),
                Err(_) => Err(self.expected(&format!("{:?}", word()))),
            },
            Kind::Text | Kind::Path | Kind::Choice(_) => self.checked(Value::String(word())),
        }
    }

    /// The value in its final form (paths without `~`, choices as they are spelt here), or what is wrong with it.
    pub(super) fn checked(&self, value: Value) -> Result<Value, String> {
        match (self.kind, value) {
            (Kind::Text, Value::String(text)) => Ok(Value::String(text)),
            (Kind::Path, Value::String(text)) => Ok(Value::String(absolute(with_home(text)))),
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
                    .ok_or_else(|| format!("{text:?} is not one of {}", words.join(", ")))
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

fn described(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
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
        return Err(format!("{text:?} is an address and not a path; on the command line the address comes first"));
    }
    Ok(Value::String(with_home(text)))
}

/// What is logged about a path is to be of use to someone in another directory.
fn absolute(path: String) -> String {
    let absolute = std::path::absolute(&path).ok().and_then(|path| path.into_os_string().into_string().ok());
    absolute.unwrap_or(path)
}

fn with_home(path: String) -> String {
    let home = std::env::home_dir().and_then(|home| home.into_os_string().into_string().ok());
    match (path.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => format!("{home}/{rest}"),
        _ => path,
    }
}
