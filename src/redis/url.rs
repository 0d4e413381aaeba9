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

/// What is said of a url that looks like one with a special character in the password.
const ENCODING: &str = ", perhaps as user or password hold characters that have to be percent-encoded: ? is %3F, # is %23, / is %2F, % is %25, @ is \
     %40, [ is %5B";

/// Parameters of redis-py's urls that say how it behaves, and not where Redis is: they change nothing here.
const IGNORED: [&str; 9] = [
    "client_name",
    "decode_responses",
    "encoding",
    "encoding_errors",
    "health_check_interval",
    "protocol",
    "retry_on_timeout",
    "socket_keepalive",
    "ssl_check_hostname",
];

/// Parameters of redis-py's urls that are settings here.
const PARAMETERS: [(&str, &str); 8] = [
    ("socket_timeout", "set redis.response_timeout_ms"),
    ("socket_connect_timeout", "set redis.connect_timeout_ms"),
    ("max_connections", "set redis.connection_pool_size"),
    ("ssl_cert_reqs", "a certificate is always checked; set redis.tls_ca to the authority that has signed it"),
    ("ssl_ca_certs", "set redis.tls_ca"),
    ("ssl_certfile", "set redis.tls_cert"),
    ("ssl_keyfile", "set redis.tls_key"),
    ("timeout", "set redis.connection_pool_size, which is how many connections there are"),
];

impl Url {
    /// The reason of a failure never quotes the url: it may hold a password. Blanks and line ends around it, as in a file with a secret, do not
    /// count.
    pub fn parse(url: &str) -> Result<Url, String> {
        let url = url.trim();
        parse(url).map_err(|reason| {
            let hint = if may_lack_encoding(url) { ENCODING } else { "" };
            format!("the url of Redis is not valid: {reason}{hint}; {EXPECTED}")
        })
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

/// Whether something that ends user and password stands in front of an `@`, so that it may be part of a password.
fn may_lack_encoding(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.rsplit_once('@').is_some_and(|(login, _)| login.contains(['?', '#', '/', '%', '[', '@', ' ']))
}

/// What is said of a parameter that means nothing here: its name, if it is one that redis-py knows, as another could be part of a password.
fn unknown_parameter(name: &str) -> String {
    let known = PARAMETERS.iter().find(|(known, _)| *known == name);
    match known {
        Some((name, instead)) => format!("the parameter {name} means nothing here: {instead}"),
        None => "it has a parameter other than db, user, password".to_owned(),
    }
}

fn joined(nodes: &[HostPort]) -> String {
    nodes.iter().map(HostPort::to_string).collect::<Vec<_>>().join(",")
}

fn parse(url: &str) -> Result<Url, String> {
    let (scheme, rest) = url.split_once("://").ok_or("it has no scheme")?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, ""),
    };
    let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (mut user, mut password) = login_of(login)?;
    let mut database = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or("a parameter behind the ? has no value")?;
        match name {
            "db" => database = Some(number(value)?),
            "user" | "username" => user = Some(decoded(value)?),
            "pass" | "password" => password = Some(decoded(value)?),
            name if IGNORED.contains(&name) => {}
            name => return Err(unknown_parameter(name)),
        }
    }
    let tls = scheme.starts_with("rediss") || scheme == "valkeys";
    let mut parts = path.split('/').filter(|part: &&str| !part.is_empty());
    let topology = match scheme {
        "redis" | "rediss" | "valkey" | "valkeys" => match nodes(hosts, REDIS_PORT)?.as_slice() {
            [node] => Topology::One(node.clone()),
            _ => return Err("several hosts need redis+sentinel:// or redis+cluster://".into()),
        },
        "redis+unix" | "unix" => {
            if path.len() < 2 || !hosts.is_empty() {
                return Err("the path of the socket must be absolute".into());
            }
            while parts.next().is_some() {}
            Topology::Unix(decoded(path)?)
        }
        "redis+sentinel" | "rediss+sentinel" => {
            let name = parts.next().ok_or("the master's name is missing")?;
            Topology::Sentinel(nodes(hosts, SENTINEL_PORT)?, decoded(name)?)
        }
        "redis+cluster" | "rediss+cluster" => Topology::Cluster(nodes(hosts, REDIS_PORT)?),
        _ => return Err("its scheme is not known".into()),
    };
    if let Some(part) = parts.next() {
        database = Some(number(part)?);
    }
    if parts.next().is_some() {
        return Err("its path has too many parts".into());
    }
    let database = database.unwrap_or(0);
    if matches!(topology, Topology::Cluster(_)) && database != 0 {
        return Err("a cluster has the database 0 only".into());
    }
    if user.is_some() && password.is_none() {
        return Err("it names a user without a password".into());
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
    fn a_password_with_special_characters_is_taken_or_the_error_says_to_encode_it() {
        for (url, password) in [
            ("redis://:a#b@h/0", "a#b"),
            ("redis://:a@b@h", "a@b"),
            ("redis://:a%zb@h", "a%zb"),
            ("redis://:a[b@h", "a[b"),
        ] {
            assert_eq!(Url::parse(url).ok().unwrap().password.as_deref(), Some(password));
        }
        for url in [
            "redis://hush?er@h/0",
            "redis://:hush?er@h/0",
            "redis://:hush/er@h/0",
            "redis://u:hush?password@h/0",
            "redis://:hush?a=b@h",
        ] {
            let reason = Url::parse(url).err().unwrap();
            assert!(
                reason.contains("percent-encoded") && reason.contains("%3F") && !reason.contains("hush"),
                "{reason}"
            );
        }
        assert!(!Url::parse("redis://h:x").err().unwrap().contains("percent-encoded"));
    }

    #[test]
    fn line_ends_around_a_url_and_options_of_redis_py_are_understood_or_named() {
        let url = Url::parse("redis://h/0?decode_responses=True&health_check_interval=30&protocol=3\n").ok().unwrap();
        assert_eq!(url.address(), "redis://h:6379/0");
        for (parameter, setting) in
            [("socket_timeout=5", "redis.response_timeout_ms"), ("ssl_cert_reqs=none", "redis.tls_ca")]
        {
            let reason = Url::parse(&format!("rediss://h/0?{parameter}")).err().unwrap();
            assert!(reason.contains(parameter.split('=').next().unwrap()) && reason.contains(setting), "{reason}");
        }
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
