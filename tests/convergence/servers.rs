//! The Redis of a world: one server, or a master with its replica.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use redis::Value;
use tempfile::TempDir;

use crate::common::redis::{RedisServer, Settings as ServerSettings};
use crate::faults::LOST_MAX;
use crate::settings::{Extra, Settings};

/// The user that nodes are, where rights are taken away.
const USER: &str = "node";

/// How long it is waited for a replica to have everything. One that is busy is not promoted.
const FOLLOW_MAX: Duration = Duration::from_millis(100);

pub struct Servers {
    master: RedisServer,
    runs: bool,
    replica: Option<RedisServer>,
    /// What the master had at some moment.
    noted: Option<(Instant, TempDir)>,
    /// Since when the replica does not follow.
    divided: Option<Instant>,
}

impl Servers {
    pub fn start(settings: &Settings) -> Servers {
        // What was written survives being killed, also where it is not on the disk yet.
        let mut server = RedisServer::settings().line("appendonly yes").line("appendfsync no");
        if settings.has(Extra::Rights) {
            server = server.user(USER, "secret").line("masteruser rig").line("masterauth rig");
        }
        let start = |server: ServerSettings| server.start();
        let master = start(server.clone());
        let replica = settings.has(Extra::Demotion).then(|| start(server));
        let servers = Servers { master, runs: true, replica, noted: None, divided: None };
        servers.follow();
        servers
    }

    /// The one that nodes are to talk to.
    pub fn master(&self) -> &RedisServer {
        &self.master
    }

    pub fn pause(&self) {
        if self.runs {
            self.master.pause();
        }
    }

    pub fn resume(&self) {
        if self.runs {
            self.master.resume();
        }
    }

    pub fn kill(&mut self) {
        self.master.kill();
        self.runs = false;
    }

    pub fn restart(&mut self) {
        if !self.runs {
            self.master.restart();
            self.runs = true;
        }
    }

    pub fn restart_empty(&mut self) {
        if !self.runs {
            self.master.restart_empty();
            self.runs = true;
        }
    }

    pub fn order(&self, words: &[&str]) {
        if self.runs {
            // It may be paused.
            self.master.resume();
            let _: Value = self.master.command(words);
        }
    }

    /// From here on it is about to lose what it acknowledges.
    pub fn note(&mut self) {
        if !self.runs {
            return;
        }
        let begun = Instant::now();
        match &self.replica {
            Some(replica) => {
                if self.replica_has_everything() {
                    replica.command::<Value>(&["REPLICAOF", "NO", "ONE"]);
                    self.divided = Some(begun);
                }
            }
            None => {
                let place = tempfile::tempdir().unwrap();
                copy_directory(&self.appended(), place.path());
                self.noted = Some((begun, place));
            }
        }
    }

    /// It has lost that.
    pub fn lose(&mut self) {
        if !self.runs {
            return;
        }
        if let Some((begun, place)) = self.noted.take() {
            self.master.kill();
            // What has become older than that while this process was held up, nodes rely on.
            if begun.elapsed() < LOST_MAX {
                copy_directory(place.path(), &self.appended());
            }
            self.master.restart();
        }
    }

    fn appended(&self) -> PathBuf {
        self.master.directory().join("appendonlydir")
    }

    /// The replica takes the place of the master, which becomes its replica: what it acknowledged since they were divided is lost, and
    /// the connections to it stay open. `switch`: told where new connections are to go.
    pub fn demote(&mut self, switch: impl FnOnce(&RedisServer)) {
        let (Some(begun), Some(replica)) = (self.divided.take(), &mut self.replica) else { return };
        if !self.runs {
            self.follow();
            return;
        }
        self.master.resume();
        // Nothing is acknowledged any more, so that the time tells how old the oldest loss is.
        self.master.command::<Value>(&["CLIENT", "PAUSE", "10000", "WRITE"]);
        if begun.elapsed() < LOST_MAX {
            std::mem::swap(&mut self.master, replica);
            switch(&self.master);
            self.follow();
            self.replica.as_ref().unwrap().command::<Value>(&["CLIENT", "UNPAUSE"]);
        } else {
            self.master.command::<Value>(&["CLIENT", "UNPAUSE"]);
            self.follow();
        }
    }

    fn follow(&self) {
        if let Some(replica) = &self.replica {
            replica.command::<Value>(&["REPLICAOF", "127.0.0.1", &self.master.port().to_string()]);
        }
    }

    fn replica_has_everything(&self) -> bool {
        let limit = FOLLOW_MAX.as_millis().to_string();
        self.master.resume();
        let mut connection = self.master.connection();
        redis::cmd("SET").arg("convergence").arg(1).query::<()>(&mut connection).unwrap();
        redis::cmd("WAIT").arg(1).arg(limit).query::<u64>(&mut connection).unwrap() == 1
    }

    /// Takes rights away: `-xread`, say. Or gives all of them back.
    pub fn set_rights(&self, rights: &[&str]) {
        let words = [&["ACL", "SETUSER", USER], rights].concat();
        self.order(&words);
        // It may become the master, and rights are not replicated.
        if let Some(replica) = &self.replica {
            let _: Value = replica.command(&words);
        }
    }

    /// With the data, the rights and the clients that a world begins with.
    pub fn heal(&mut self, settings: &Settings) {
        self.resume();
        self.restart();
        if self.divided.take().is_some() {
            self.follow();
        }
        if settings.has(Extra::Rights) {
            self.set_rights(&["+@all"]);
        }
    }
}

/// Redis may be writing its files anew: then what was copied does not belong together.
fn copy_directory(from: &Path, to: &Path) {
    let copy = || -> std::io::Result<()> {
        fs::remove_dir_all(to).unwrap_or_default();
        fs::create_dir_all(to)?;
        fs::read_dir(from)?.try_for_each(|entry| {
            let entry = entry?;
            fs::copy(entry.path(), to.join(entry.file_name())).map(drop)
        })
    };
    while let Err(error) = copy() {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{}: {error}", from.display());
    }
}
