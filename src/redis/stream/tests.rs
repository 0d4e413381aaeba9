//! Tests of streams that do not get connected, or not at the first address.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use super::*;

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(50)
}

fn is_timeout<T>(result: io::Result<T>) -> bool {
    result.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut)
}

// Invariant 10: a server that accepts nobody holds no thread for ever.
#[test]
fn a_unix_socket_whose_queue_is_full_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    listener.listen(0).unwrap();
    let connect = || Stream::connect(Address::Unix(path.to_str().unwrap()), soon());
    let waiting: Vec<_> = (0..4).map_while(|_| connect().ok()).collect();
    assert!(!waiting.is_empty() && waiting.len() < 4);
    assert!(is_timeout(connect()));
    drop(listener);
    assert_eq!(connect().err().map(|error| error.kind()), Some(io::ErrorKind::ConnectionRefused));
}

#[test]
fn a_server_that_takes_nothing_in_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let _unix = UnixListener::bind(&path).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let node = HostPort { host: "127.0.0.1".into(), port: tcp.local_addr().unwrap().port() };
    for address in [Address::Unix(path.to_str().unwrap()), Address::Tcp(&node)] {
        let mut stream = Stream::connect(address, Instant::now() + Duration::from_secs(20)).unwrap();
        stream.set_timeout(Duration::from_millis(50)).unwrap();
        assert!(is_timeout(stream.write_all(&vec![0; 64 << 20])));
        assert!(is_timeout(stream.read(&mut [0])));
    }
}

#[test]
fn all_addresses_of_a_name_are_tried() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // If `localhost` resolves to ::1 too, nobody listens at that address.
    let node = HostPort { host: "localhost".into(), port: listener.local_addr().unwrap().port() };
    Stream::connect(Address::Tcp(&node), Instant::now() + Duration::from_secs(20)).unwrap();
    let nobody = HostPort { host: "nobody.invalid".into(), port: 1 };
    assert!(Stream::connect(Address::Tcp(&nobody), Instant::now() + Duration::from_secs(20)).is_err());
}

/// One address of a name swallows connections, as a node that is down does.
#[test]
fn an_address_that_is_silent_leaves_time_for_the_next() {
    let silent = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    silent.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    silent.listen(0).unwrap();
    let silent_address = silent.local_addr().unwrap().as_socket().unwrap();
    // A queue that is full swallows whoever comes later.
    let queue: Vec<_> = (0..8).map_while(|_| connect_to(silent_address, Duration::from_millis(50)).ok()).collect();
    assert!(!queue.is_empty() && queue.len() < 8);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addresses = [silent_address, listener.local_addr().unwrap()];
    let socket = connect_to_any(&addresses, Instant::now() + Duration::from_secs(2)).unwrap();
    assert_eq!(socket.peer_addr().unwrap().as_socket(), Some(listener.local_addr().unwrap()));
}

/// A signal that the caller's language handles ends a wait for a server that says nothing, whether it was sent anything before or not.
#[test]
fn a_wait_ends_when_the_caller_wants_it_to() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let node = HostPort { host: "127.0.0.1".into(), port: silent.local_addr().unwrap().port() };
    let mut stream = Stream::connect(Address::Tcp(&node), Instant::now() + Duration::from_secs(20)).unwrap();
    stream.set_timeout(Duration::from_secs(100_000)).unwrap();
    // In a thread of its own, for which it holds.
    let reading = std::thread::spawn(move || {
        interrupt::set(|| true);
        stream.read(&mut [0]).unwrap_err()
    });
    let ended = reading.join().unwrap();
    assert!(ended.to_string().contains("a signal has ended the wait"), "{ended}");
    assert_ne!(ended.kind(), io::ErrorKind::Interrupted, "it would be read again");
}
