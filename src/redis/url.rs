//! Parsing the url of Redis.

use percent_encoding::percent_decode_str;

/// Host and port of a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct HostPort {
    pub host: String,
    pub port: u16,
}

/// How many servers there are, and how the master is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Topology {
    One(HostPort),
    Unix(String),
    /// The sentinels, and the name under which they know the master.
    Sentinel(Vec<HostPort>, String),
    /// Some nodes of the cluster, from which the others are discovered.
    Cluster(Vec<HostPort>),
}

/// A parsed url. Has no `Debug`, because of the password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Url {
    pub topology: Topology,
    pub tls: bool,
    pub user: Option<String>,
    pub password: Option<String>,
    pub database: i64,
}

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

const EXPECTED: &str = "expected redis://[[user]:password@]host[:port][/database], rediss:// (TLS), \
     redis+unix:///path/to/socket[?db=N], redis+sentinel://[[user]:password@]host:port[,host:port...]/master-name[/database] or \
     redis+cluster://[[user]:password@]host:port[,host:port...] (rediss+sentinel, rediss+cluster with TLS)";

impl Url {
    /// The reason of a failure never quotes the url: it may hold a password.
    pub fn parse(url: &str) -> Result<Url, String> {
        parse(url).map_err(|reason| format!("the url of Redis is not valid: {reason}; {EXPECTED}"))
    }

    /// The url without user and password.
    pub fn address(&self) -> String {
        let scheme = if self.tls { "rediss" } else { "redis" };
        match &self.topology {
            Topology::One(node) => format!("{scheme}://{node}/{}", self.database),
            Topology::Unix(path) if self.database == 0 => format!("redis+unix://{path}"),
            Topology::Unix(path) => format!("redis+unix://{path}?db={}", self.database),
            Topology::Sentinel(nodes, name) => {
                format!("{scheme}+sentinel://{}/{name}/{}", joined(nodes), self.database)
            }
            Topology::Cluster(nodes) => format!("{scheme}+cluster://{}", joined(nodes)),
        }
    }
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let HostPort { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

fn joined(nodes: &[HostPort]) -> String {
    nodes.iter().map(HostPort::to_string).collect::<Vec<_>>().join(",")
}

fn parse(url: &str) -> Result<Url, &'static str> {
    let (scheme, rest) = url.split_once("://").ok_or("it has no scheme")?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, ""),
    };
    let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (mut user, mut password) = login_of(login)?;
    let mut database = None;
    for (name, value) in query.split('&').filter(|pair| !pair.is_empty()).filter_map(|pair| pair.split_once('=')) {
        match name {
            "db" => database = Some(number(value)?),
            "user" | "username" => user = Some(decoded(value)?),
            "pass" | "password" => password = Some(decoded(value)?),
            _ => return Err("it has a parameter other than db, user, password"),
        }
    }
    let tls = scheme.starts_with("rediss") || scheme == "valkeys";
    let mut parts = path.split('/').filter(|part: &&str| !part.is_empty());
    let topology = match scheme {
        "redis" | "rediss" | "valkey" | "valkeys" => match nodes(hosts, REDIS_PORT)?.as_slice() {
            [node] => Topology::One(node.clone()),
            _ => return Err("several hosts need redis+sentinel:// or redis+cluster://"),
        },
        "redis+unix" | "unix" => {
            if path.len() < 2 || !hosts.is_empty() {
                return Err("the path of the socket must be absolute");
            }
            while parts.next().is_some() {}
            Topology::Unix(decoded(path)?)
        }
        "redis+sentinel" | "rediss+sentinel" => {
            let name = parts.next().ok_or("the master's name is missing")?;
            Topology::Sentinel(nodes(hosts, SENTINEL_PORT)?, decoded(name)?)
        }
        "redis+cluster" | "rediss+cluster" => Topology::Cluster(nodes(hosts, REDIS_PORT)?),
        _ => return Err("its scheme is not known"),
    };
    if let Some(part) = parts.next() {
        database = Some(number(part)?);
    }
    if parts.next().is_some() {
        return Err("its path has too many parts");
    }
    let database = database.unwrap_or(0);
    if matches!(topology, Topology::Cluster(_)) && database != 0 {
        return Err("a cluster has the database 0 only");
    }
    if user.is_some() && password.is_none() {
        return Err("it names a user without a password");
    }
    Ok(Url { topology, tls, user, password, database })
}

fn login_of(login: &str) -> Result<(Option<String>, Option<String>), &'static str> {
    let (user, password) = match login.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (login, None),
    };
    let user = if user.is_empty() { None } else { Some(decoded(user)?) };
    Ok((user, password.map(decoded).transpose()?))
}

fn nodes(hosts: &str, port: u16) -> Result<Vec<HostPort>, &'static str> {
    hosts.split(',').map(|node| HostPort::parse(node, port)).collect()
}

impl HostPort {
    fn parse(text: &str, default_port: u16) -> Result<HostPort, &'static str> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or("a [ is not closed")?,
            None => text.split_at(text.find(':').unwrap_or(text.len())),
        };
        if host.is_empty() {
            return Err("a host is missing");
        }
        let port = match port.strip_prefix(':') {
            Some(digits) => digits.parse().map_err(|_| "a port is not a number up to 65535")?,
            None if port.is_empty() => default_port,
            None => return Err("a host is followed by something other than a port"),
        };
        Ok(HostPort { host: host.to_owned(), port })
    }
}

fn decoded(text: &str) -> Result<String, &'static str> {
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| "a percent-encoded part is not UTF-8")?;
    Ok(decoded.into_owned())
}

fn number(text: &str) -> Result<i64, &'static str> {
    text.parse::<u32>().map(i64::from).map_err(|_| "the database is not a number")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str, port: u16) -> HostPort {
        HostPort { host: host.into(), port }
    }

    #[test]
    fn every_topology_has_its_url() {
        let topologies = [
            ("redis://localhost", Topology::One(at("localhost", 6379)), "redis://localhost:6379/0"),
            ("redis://h:1/3", Topology::One(at("h", 1)), "redis://h:1/3"),
            ("rediss://[::1]:2", Topology::One(at("::1", 2)), "rediss://[::1]:2/0"),
            ("redis+unix:///tmp/a%20b?db=4", Topology::Unix("/tmp/a b".into()), "redis+unix:///tmp/a b?db=4"),
            ("unix:///tmp/s", Topology::Unix("/tmp/s".into()), "redis+unix:///tmp/s"),
            (
                "redis+sentinel://a,b:7/mymaster/2",
                Topology::Sentinel(vec![at("a", 26379), at("b", 7)], "mymaster".into()),
                "redis+sentinel://a:26379,b:7/mymaster/2",
            ),
            ("rediss+cluster://a:1,b:2", Topology::Cluster(vec![at("a", 1), at("b", 2)]), "rediss+cluster://a:1,b:2"),
        ];
        for (text, topology, address) in topologies {
            let url = Url::parse(text).unwrap_or_else(|reason| panic!("{text}: {reason}"));
            assert_eq!(url.topology, topology);
            assert_eq!(url.address(), address);
            assert_eq!(url.tls, text.starts_with("rediss"));
        }
    }

    #[test]
    fn user_and_password_are_percent_decoded() {
        let url = Url::parse("redis://us%40er:p%3Aa%2Fs%40s@h").ok().unwrap();
        assert_eq!((url.user.as_deref(), url.password.as_deref()), (Some("us@er"), Some("p:a/s@s")));
        let url = Url::parse("redis+cluster://:secret@h:1,i:2").ok().unwrap();
        assert_eq!((url.user.as_deref(), url.password.as_deref()), (None, Some("secret")));
    }

    // Invariant 12: passwords never reach an error, nor the address that logs and metrics show.
    #[test]
    fn a_password_is_shown_nowhere() {
        let bad = [
            "nonsense://u:hunter2@h",
            "redis://u:hunter2@h:x",
            "redis://u:hunter2@h/x",
            "redis://u:hunter2@/0",
            "u:hunter2@h",
        ];
        for url in bad {
            let reason = Url::parse(url).err().unwrap_or_else(|| panic!("{url} is taken"));
            assert!(!reason.contains("hunter2"), "{reason}");
            assert!(reason.contains("expected redis://"), "{reason}");
        }
        assert!(!Url::parse("redis://u:hunter2@h").ok().unwrap().address().contains("hunter2"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let bad = [
            "",
            "localhost",
            "redis://",
            "redis://a,b",
            "redis://h/1/2",
            "redis://h/-1",
            "redis://h?x=1",
            "redis://user@h",
            "redis+sentinel://h:1",
            "redis+cluster://h:1/3",
            "redis+unix://relative",
            "redis+unix:///",
            "redis://[::1",
            "redis://h:99999",
        ];
        for url in bad {
            assert!(Url::parse(url).is_err(), "{url}");
        }
    }
}
