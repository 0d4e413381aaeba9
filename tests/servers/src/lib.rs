//! Real Redis servers for tests. Each has a directory, a port and a unix socket of its own, is killed by its process id when it is
//! dropped, and by the kernel when the test's process dies.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod cluster;
mod process;
mod proxy;
mod sentinel;
mod tls;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use redis::{Client, Cmd, Connection, FromRedisValue, RedisResult, Value};
use tempfile::TempDir;

pub use cluster::Cluster;
use process::{Port, Process};
pub use proxy::{Mode, Proxy};
pub use sentinel::Sentinel;
pub use tls::{Authority, Certificate};

/// Longer than anything takes on a slow machine, shorter than what nextest waits for.
pub const HANG: Duration = Duration::from_secs(240);

/// How a server is started. Made by [`RedisServer::settings`].
#[derive(Clone)]
pub struct Settings {
    program: &'static str,
    user: Option<(String, String)>,
    rights: &'static str,
    tls: Option<Certificate>,
    bus: bool,
    sentinel: bool,
    lines: Vec<String>,
}

/// The user of the tests themselves, and its password, where there are users.
const RIG: &str = "rig";

/// A running server.
pub struct RedisServer {
    settings: Settings,
    port: Port,
    directory: TempDir,
    process: Process,
}

/// Whether there is a `valkey-server` to test with.
pub fn valkey_is_there() -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|path| path.join("valkey-server").is_file())
}

impl Settings {
    /// `valkey-server`, say, in place of `redis-server`.
    pub fn program(mut self, program: &'static str) -> Self {
        self.program = program;
        self
    }

    /// The only user who may do anything. The name `default` makes it a password without a user.
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.user = Some((name.into(), password.into()));
        self
    }

    /// What the user may do, as an ACL says it, in place of everything.
    pub fn rights(mut self, rights: &'static str) -> Self {
        self.rights = rights;
        self
    }

    /// TLS and nothing else on its port, and whether clients must show a certificate of the same authority.
    pub fn tls(mut self, authority: &Authority, clients_certified: bool) -> Self {
        self.tls = Some(authority.certify("127.0.0.1"));
        self.line(format!("tls-auth-clients {}", if clients_certified { "yes" } else { "no" }))
    }

    /// What it acknowledged is there again after [`RedisServer::restart`].
    pub fn persistent(self) -> Self {
        self.line("appendonly yes").line("appendfsync always")
    }

    pub fn replica_of(self, master: &RedisServer) -> Self {
        self.line(format!("replicaof 127.0.0.1 {}", master.port()))
    }

    /// A line of redis.conf: `maxmemory 10mb`.
    pub fn line(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }

    pub fn start(self) -> RedisServer {
        let port = if self.bus { Port::with_bus() } else { Port::free() };
        let directory = tempfile::tempdir().unwrap();
        let process = self.spawn(&port, directory.path());
        let server = RedisServer { settings: self, port, directory, process };
        server.until_it_answers();
        server
    }

    fn spawn(&self, port: &Port, directory: &Path) -> Process {
        let config = directory.join("redis.conf");
        // A sentinel keeps what it has learnt in its config.
        if !(self.sentinel && config.exists()) {
            std::fs::write(&config, self.config(port.number, directory)).unwrap();
        }
        let mut arguments = vec![config.into_os_string()];
        if self.sentinel {
            arguments.push("--sentinel".into());
        }
        Process::spawn(self.program, arguments, directory)
    }

    fn config(&self, port: u16, directory: &Path) -> String {
        let mut lines = vec![
            "bind 127.0.0.1".to_string(),
            format!("dir {}", directory.display()),
            format!("unixsocket {}", directory.join("redis.sock").display()),
        ];
        if !self.sentinel {
            lines.push("save \"\"".into());
        }
        match &self.tls {
            None => lines.push(format!("port {port}")),
            Some(certificate) => {
                certificate.write(directory);
                lines.push(format!("port 0\ntls-port {port}"));
                for (setting, path) in [("ca-cert", "ca.pem"), ("cert", "cert.pem"), ("key", "key.pem")]
                    .map(|(name, file)| (format!("tls-{name}-file"), directory.join(file)))
                {
                    lines.push(format!("{setting} {}", path.display()));
                }
            }
        }
        if let Some((name, password)) = &self.user {
            // Redis 7 loads its append-only file as the default user, and leaves out transactions that this one has no right to.
            if name != "default" {
                lines.push(format!("user default on >{RIG} ~* &* +@all"));
            }
            lines.push(format!("user {name} on >{password} {}", self.rights));
            lines.push(format!("user {RIG} on >{RIG} ~* &* +@all"));
        }
        lines.extend(self.lines.iter().cloned());
        lines.join("\n") + "\n"
    }
}

impl RedisServer {
    /// A server that everyone may use, without TLS and persistence.
    pub fn start() -> RedisServer {
        Self::settings().start()
    }

    pub fn settings() -> Settings {
        Settings {
            program: "redis-server",
            user: None,
            rights: "~* &* +@all",
            tls: None,
            bus: false,
            sentinel: false,
            lines: vec!["repl-diskless-sync-delay 0".into()],
        }
    }

    pub fn port(&self) -> u16 {
        self.port.number
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// For a store: database 0, with user and password where it has them.
    pub fn url(&self) -> String {
        self.url_at(self.port())
    }

    /// As [`url`](Self::url), through whatever stands on this port.
    pub fn url_at(&self, port: u16) -> String {
        let scheme = if self.settings.tls.is_some() { "rediss" } else { "redis" };
        let user = match &self.settings.user {
            Some((name, password)) if name == "default" => format!(":{}@", encoded(password)),
            Some((name, password)) => format!("{name}:{}@", encoded(password)),
            None => String::new(),
        };
        format!("{scheme}://{user}127.0.0.1:{port}/0")
    }

    pub fn socket(&self) -> PathBuf {
        self.directory().join("redis.sock")
    }

    /// For a store, over the unix socket.
    pub fn socket_url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// A connection of the test's own, past TLS and proxies.
    pub fn connection(&self) -> Connection {
        self.try_connection().unwrap()
    }

    fn try_connection(&self) -> RedisResult<Connection> {
        let user = self.settings.user.as_ref().map(|_| format!("&user={RIG}&pass={RIG}")).unwrap_or_default();
        Client::open(format!("redis+unix://{}?db=0{user}", self.socket().display()))?.get_connection()
    }

    /// What the command answers.
    #[track_caller]
    pub fn command<T: FromRedisValue>(&self, words: &[impl AsRef<[u8]>]) -> T {
        self.try_command(words).unwrap()
    }

    pub fn try_command<T: FromRedisValue>(&self, words: &[impl AsRef<[u8]>]) -> RedisResult<T> {
        let mut command = Cmd::new();
        for word in words {
            command.arg(word.as_ref());
        }
        command.query(&mut self.try_connection()?)
    }

    /// What the command answers, as text: nothing for nil, the elements of a list in lines.
    #[track_caller]
    pub fn cli(&self, words: &[&str]) -> String {
        text(&self.command(words))
    }

    /// One field of `INFO`; empty where the server does not answer, as while sentinels promote it and cut its connections.
    pub fn info(&self, field: &str) -> String {
        let info = self.try_command(&["INFO", "everything"]).map(|info| text(&info)).unwrap_or_default();
        let found = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        found.unwrap_or_default().trim().to_string()
    }

    /// The names of all keys, sorted, in database 0.
    pub fn keys(&self) -> Vec<Vec<u8>> {
        let mut keys: Vec<Vec<u8>> = self.command(&["KEYS", "*"]);
        keys.sort();
        keys
    }

    /// With SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// On the same port, with what it persisted, which by default is nothing.
    pub fn restart(&mut self) {
        self.process.kill();
        let _ = std::fs::remove_file(self.socket());
        self.process = self.settings.spawn(&self.port, self.directory.path());
        self.until_it_answers();
    }

    /// On the same port, whatever it has persisted.
    pub fn restart_empty(&mut self) {
        self.process.kill();
        for entry in std::fs::read_dir(self.directory()).unwrap() {
            let path = entry.unwrap().path();
            let kept = path.extension().is_some_and(|extension| extension == "pem" || extension == "log");
            match path.is_dir() {
                true => std::fs::remove_dir_all(path).unwrap(),
                false if !kept => std::fs::remove_file(path).unwrap(),
                false => {}
            }
        }
        self.restart();
    }

    /// It stands still: connections are accepted and stay open, nothing is answered.
    pub fn pause(&self) {
        self.process.signal("-STOP");
    }

    pub fn resume(&self) {
        self.process.signal("-CONT");
    }

    fn until_it_answers(&self) {
        until("the server answers", || {
            assert!(self.process.is_running(), "it ended: {}", self.process.log());
            self.try_command::<Value>(&["PING"]).is_ok()
        });
    }
}

/// For a url.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric();
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn text(value: &Value) -> String {
    match value {
        Value::Nil => String::new(),
        Value::Int(number) => number.to_string(),
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) => text.clone(),
        Value::VerbatimString { text, .. } => text.clone(),
        Value::Okay => "OK".into(),
        Value::Array(values) | Value::Set(values) => values.iter().map(text).collect::<Vec<_>>().join("\n"),
        Value::Map(pairs) => {
            pairs.iter().map(|(key, value)| format!("{}\n{}", text(key), text(value))).collect::<Vec<_>>().join("\n")
        }
        other => format!("{other:?}"),
    }
}

/// The next number of a pseudo-random sequence.
pub fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Waits until `condition` holds; the limit only ends a test that would hang.
#[track_caller]
pub fn until(what: &str, condition: impl Fn() -> bool) {
    let limit = Instant::now() + HANG;
    while !condition() {
        assert!(Instant::now() < limit, "still not so: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
