//! Tests of links to servers that answer nonsense, late, or not at all.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use redis::Value;

use super::*;
use crate::redis::options::RedisOptions;
use crate::redis::testing::*;

/// A server that answers PING, and then with these bytes to the first GET, and well to the second.
fn answering(bytes: &'static [u8]) -> Target {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://:hunter2@{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let Ok((mut client, _)) = listener.accept() else { return };
        until(&mut client, b"hunter2\r\n");
        drop(client.write_all(b"+OK\r\n"));
        until(&mut client, b"PING\r\n");
        drop(client.write_all(b"+PONG\r\n"));
        until(&mut client, b"GET\r\n");
        drop(client.write_all(bytes));
        if bytes.starts_with(b"-") {
            until(&mut client, b"GET\r\n");
            drop(client.write_all(b"+OK\r\n"));
        }
        drop(client.shutdown(std::net::Shutdown::Write));
        drop(client.read_to_end(&mut Vec::new()));
    });
    Target::new(&RedisOptions { url, ..RedisOptions::default() }).unwrap()
}

fn until(client: &mut TcpStream, end: &[u8]) {
    let (mut seen, mut buffer) = (Vec::new(), [0; 1024]);
    while !seen.windows(end.len()).any(|window| window == end) {
        match client.read(&mut buffer) {
            Ok(bytes @ 1..) => seen.extend_from_slice(&buffer[..bytes]),
            _ => return,
        }
    }
}

fn get() -> Cmd {
    let mut get = redis::cmd("GET");
    get.arg("k");
    get
}

// Invariant 11: whatever is answered, it neither panics nor is allocated for before it arrives.
#[test]
fn nonsense_from_redis_is_an_error() {
    let answers: [&[u8]; 11] = [
        b"",
        b"nonsense\r\n",
        b"$5\r\nab",
        b"$-5\r\n",
        b"$999999999999\r\nab",
        b"*9223372036854775807\r\n+a\r\n",
        b"*99999999999\r\n+a\r\n",
        b"%9223372036854775807\r\n",
        b"*-9\r\n",
        b"!-1\r\nab\r\n",
        b"=3\r\nab\r\n",
    ];
    for answer in answers {
        let mut link = answering(answer).connect(Duration::from_secs(5)).unwrap();
        match link.run(&[get()]) {
            Err(Error::Unreachable { address, .. }) => assert!(!address.contains("hunter2")),
            Ok(replies) => assert!(matches!(replies.as_slice(), [Ok(Value::Nil)]), "{answer:?}: {replies:?}"),
            other => panic!("{answer:?}: {other:?}"),
        }
    }
}

// docs/replication.md, Pushing 6: a server that is no master (any more) is left.
#[test]
fn a_server_that_cannot_serve_makes_the_link_useless() {
    let answers: [&[u8]; 5] = [
        b"-READONLY You can't write against a read only replica.\r\n",
        b"-LOADING Redis is loading the dataset in memory\r\n",
        b"-MASTERDOWN Link with MASTER is down\r\n",
        b"-UNBLOCKED force unblock from blocking operation\r\n",
        b"-ERR Error running script: -READONLY You can't write against a read only replica.\r\n",
    ];
    for answer in answers {
        let mut link = answering(answer).connect(Duration::from_secs(5)).unwrap();
        assert!(link.run(&[get()]).is_err_and(|error| error.is_cut_off()), "{answer:?}");
        // The next answer on the connection may be that to another command.
        assert!(link.run(&[get()]).is_err_and(|error| error.is_cut_off()), "{answer:?}");
    }
}

/// A refusal quotes what was sent, which is any bytes.
#[test]
fn what_a_refusal_quotes_does_not_hide_it() {
    let server = Server::start();
    let mut link = server.link();
    let mut unknown = redis::cmd("NONSENSE");
    unknown.arg(&b"\xff\xfe\x00"[..]);
    let replies = link.run(&[unknown.clone(), redis::cmd("PING"), unknown]).unwrap();
    for refused in [&replies[0], &replies[2]] {
        assert!(
            refused.as_ref().is_err_and(|refusal| refusal.starts_with("ERR unknown command 'NONSENSE'")),
            "{replies:?}"
        );
    }
    assert_eq!(replies[1], Ok(Value::SimpleString("PONG".into())));
}

#[test]
fn one_refusal_does_not_hide_the_other_answers() {
    let server = Server::start();
    let mut link = server.link();
    let command = |words: &[&str]| {
        let mut command = Cmd::new();
        command.arg(words);
        command
    };
    let replies = link
        .run(&[
            command(&["SET", "a", "1"]),
            command(&["RPUSH", "a", "x"]),
            command(&["NONSENSE"]),
            command(&["GET", "a"]),
            command(&["GET", "b"]),
        ])
        .unwrap();
    assert_eq!(replies[0], Ok(Value::Okay));
    assert!(replies[1].as_ref().is_err_and(|refusal| refusal.starts_with("WRONGTYPE Operation")), "{replies:?}");
    assert!(replies[2].as_ref().is_err_and(|refusal| refusal.starts_with("ERR unknown command")), "{replies:?}");
    assert_eq!(replies[3], Ok(Value::BulkString(b"1".to_vec())));
    assert_eq!(replies[4], Ok(Value::Nil));
    assert_eq!(link.run(&[]).unwrap(), []);
}

// Known traps: without a timeout a silent server would hold the thread for ever.
#[test]
fn a_silent_server_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let options = RedisOptions { url, connect_timeout_ms: 50, ..RedisOptions::default() };
    let silent = Target::new(&options).unwrap().connect(Duration::from_millis(50));
    assert!(matches!(silent, Err(Error::Unreachable { .. })));

    let server = Server::start();
    let mut link = server.target().connect(Duration::from_millis(50)).unwrap();
    let mut blocking = redis::cmd("BLPOP");
    blocking.arg("nothing").arg(0);
    assert!(matches!(link.run(&[blocking]), Err(Error::Unreachable { .. })));
}

// Invariant 10: also in the middle of what is large, sent ahead of the answers.
#[test]
fn a_server_that_stops_reading_is_given_up_after_the_response_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://:hunter2@{}", listener.local_addr().unwrap());
    let (stopping, stopped) = std::sync::mpsc::channel();
    let server = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        until(&mut client, b"hunter2\r\n");
        client.write_all(b"+OK\r\n").unwrap();
        until(&mut client, b"PING\r\n");
        client.write_all(b"+PONG\r\n").unwrap();
        client.read_exact(&mut vec![0; 20 << 20]).unwrap();
        stopping.send(Instant::now()).unwrap();
        client
    });
    let timeout = Duration::from_secs(2);
    let mut link = Target::new(&RedisOptions { url, ..RedisOptions::default() }).unwrap().connect(timeout).unwrap();
    let mut set = redis::cmd("SET");
    set.arg("k").arg("");
    let large = vec![7; 100 << 20];
    let sent = link.send_lent_ahead(&set, 2, &[b"head", &large]);
    assert!(matches!(sent, Err(Error::Unreachable { .. })), "{sent:?}");
    let waited = stopped.recv().unwrap().elapsed();
    assert!(waited >= timeout - Duration::from_millis(50) && waited < timeout * 7 / 4, "{waited:?}");
    assert!(matches!(link.receive_ahead(0), Err(Error::Unreachable { .. })));
    drop(server.join());
}

// Invariant 12.
#[test]
fn a_wrong_password_is_denied_and_not_shown() {
    let server = Server::start();
    let mut link = server.link();
    call(&mut link, &["CONFIG", "SET", "requirepass", "right"]).unwrap();
    let connect = |login: &str| {
        let mut options = server.options();
        options.url = format!("{}?{login}", options.url);
        Target::new(&options).unwrap().connect(Duration::from_secs(5)).map(drop)
    };
    connect("password=right").unwrap();
    for login in ["password=hunter2", ""] {
        let error = connect(login).unwrap_err();
        assert!(matches!(error, Error::Denied { .. }), "{error:?}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

/// Whoever asks first need not wonder what became of what was given to it.
#[test]
fn a_connection_that_has_ended_says_so() {
    let server = Server::start();
    let (link, mut other) = (server.link(), server.link());
    assert!(!link.has_ended());
    call(&mut other, &["CLIENT", "KILL", "TYPE", "normal"]).unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while !link.has_ended() {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(!other.has_ended());
    let mut link = link;
    assert!(link.run(&[get()]).is_err() && !link.is_to_wrong_server());
}

#[test]
fn a_link_to_the_wrong_server_says_whether_that_has_carried_out_anything() {
    let server = Server::start();
    let set = |key: &str| {
        let mut set = redis::cmd("SET");
        set.arg(key).arg("value");
        set
    };
    let mut other = server.link();
    let mut links = [(); 3].map(|()| server.link());
    call(&mut other, &["REPLICAOF", "127.0.0.1", "1"]).unwrap();
    let pipelines = [vec![set("a"), set("b")], vec![set("a"), get()], vec![set("a"), set("b")]];
    for (link, commands) in links.iter_mut().zip(pipelines) {
        link.send_ahead(commands).unwrap();
    }
    links[2].send_ahead(vec![set("c")]).unwrap();
    let lefts = [0, 0, 1]; // the last one has more under way, of which nothing is known
    let refused = links.iter_mut().zip(lefts).map(|(link, left)| {
        assert!(link.receive_ahead(left).is_err_and(|error| error.is_cut_off()));
        assert!(link.is_to_wrong_server());
        link.has_refused_all()
    });
    assert_eq!(refused.collect::<Vec<_>>(), [true, false, false]);
}
