use crate::until;
use crate::{RedisServer, Settings};

const MASTER: &str = "objects";

/// A master, a replica, and three sentinels that watch them.
pub struct Sentinel {
    servers: Vec<RedisServer>,
    sentinels: Vec<RedisServer>,
}

impl Sentinel {
    pub fn start() -> Sentinel {
        Self::start_with(RedisServer::settings())
    }

    /// With these settings for master and replica.
    pub fn start_with(settings: Settings) -> Sentinel {
        let master = settings.clone().start();
        let replica = settings.replica_of(&master).start();
        until("the replica follows", || replica.info("master_link_status") == "up");
        let sentinels = (0..3).map(|_| sentinel_of(&master)).collect();
        let rig = Sentinel { servers: vec![master, replica], sentinels };
        until("the sentinels know each other and the replica", || {
            rig.sentinels.iter().all(|sentinel| {
                let known: std::collections::HashMap<String, String> =
                    sentinel.command(&["SENTINEL", "MASTER", MASTER]);
                known["num-other-sentinels"] == "2" && known["num-slaves"] == "1"
            })
        });
        rig
    }

    pub fn url(&self) -> String {
        let sentinels: Vec<_> =
            self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port())).collect();
        format!("redis+sentinel://{}/{MASTER}/0", sentinels.join(","))
    }

    /// The server that the sentinels name.
    pub fn master(&self) -> &RedisServer {
        &self.servers[self.master_number()]
    }

    fn master_number(&self) -> usize {
        let address: Vec<String> = self.sentinels[0].command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]);
        let port: u16 = address[1].parse().unwrap();
        self.servers.iter().position(|server| server.port() == port).unwrap()
    }

    /// Kills the master and returns when the replica has taken its place.
    pub fn kill_master(&mut self) {
        let number = self.master_number();
        self.servers[number].kill();
        let other = &self.servers[1 - number];
        until("the replica is promoted", || other.info("role") == "master" && self.master_number() != number);
        self.until_agreed();
    }

    /// Starts the server that was killed, as a replica, which the sentinels would make it after a while; returns when one follows the other. That is
    /// the other way round where the new master was not heard of for a moment, so that the sentinels have failed over once more.
    pub fn revive(&mut self) {
        let number = 1 - self.master_number();
        let follow = format!("replicaof 127.0.0.1 {}", self.master().port());
        let lines = &mut self.servers[number].settings.lines;
        lines.retain(|line| !line.starts_with("replicaof"));
        lines.push(follow);
        self.servers[number].restart();
        until("one server follows the other", || {
            let master = self.master_number();
            let replica = &self.servers[1 - master];
            self.servers[master].info("role") == "master"
                && replica.info("role") == "slave"
                && replica.info("master_link_status") == "up"
        });
        self.until_agreed();
    }

    /// Exchanges master and replica while both live.
    pub fn exchange(&self) {
        let before = self.master_number();
        // Refused for a while after another failover.
        until("the failover begins", || self.sentinels[0].try_command::<()>(&["SENTINEL", "FAILOVER", MASTER]).is_ok());
        until("master and replica are exchanged", || {
            self.master_number() != before
                && self.servers[1 - before].info("role") == "master"
                && self.servers[before].info("role") == "slave"
        });
        self.until_agreed();
    }

    fn until_agreed(&self) {
        let master = self.master().port().to_string();
        until("all sentinels name the same master", || {
            self.sentinels.iter().all(|sentinel| {
                let address: Vec<String> = sentinel.command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]);
                address[1] == master
            })
        });
    }
}

fn sentinel_of(master: &RedisServer) -> RedisServer {
    let mut settings = RedisServer::settings();
    settings.sentinel = true;
    settings.lines = vec![
        "sentinel resolve-hostnames no".into(),
        format!("sentinel monitor {MASTER} 127.0.0.1 {} 2", master.port()),
        format!("sentinel down-after-milliseconds {MASTER} 1000"),
        format!("sentinel failover-timeout {MASTER} 5000"),
    ];
    settings.start()
}
