//! What carries the byte stream, and what can go wrong at start.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use crate::client::*;
use scaler_object_storage::ObjectStore;
use scaler_object_storage::server::{Address, Server, ServerError, ServerOptions, TlsFiles};
use tokio_rustls::rustls;
use tokio_tungstenite::tungstenite;

fn at(address: &str) -> ServerOptions {
    ServerOptions::default().with(|options| options.bind_address = address.parse().unwrap())
}

fn bind_error(options: ServerOptions) -> ServerError {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = ObjectStore::builder().memory().open().unwrap();
    runtime.block_on(Server::bind(options, store)).err().expect("it started")
}

/// A certificate for 127.0.0.1 and its key, as files, and what a client needs to trust it.
fn certificate(directory: &Path) -> (TlsFiles, rustls::RootCertStore) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let files = TlsFiles { cert: directory.join("cert.pem"), key: directory.join("key.pem") };
    std::fs::write(&files.cert, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    (files, roots)
}

fn tls_client(port: u16, roots: rustls::RootCertStore) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let connection = rustls::ClientConnection::new(Arc::new(config), "127.0.0.1".try_into().unwrap()).unwrap();
    rustls::StreamOwned::new(connection, socket)
}

/// The byte stream in WebSocket frames of at most so many bytes, cut without regard to messages.
pub struct WebSocketStream<S> {
    socket: tungstenite::WebSocket<S>,
    frame_bytes: usize,
    received: Vec<u8>,
}

impl<S: Read + Write> WebSocketStream<S> {
    pub fn connect(stream: S, url: &str, frame_bytes: usize) -> Self {
        let (socket, _) = tungstenite::client::client(url, stream).map_err(|error| error.to_string()).unwrap();
        WebSocketStream { socket, frame_bytes, received: Vec::new() }
    }
}

impl<S: Read + Write> Read for WebSocketStream<S> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.received.is_empty() {
            match self.socket.read() {
                Ok(tungstenite::Message::Binary(bytes)) => self.received = bytes.to_vec(),
                Ok(tungstenite::Message::Close(_)) => return Ok(0),
                Ok(tungstenite::Message::Pong(_)) => {}
                Ok(other) => panic!("{other:?}"),
                Err(tungstenite::Error::ConnectionClosed) => return Ok(0),
                Err(error) => return Err(std::io::Error::other(error)),
            }
        }
        let length = buffer.len().min(self.received.len());
        buffer[..length].copy_from_slice(&self.received[..length]);
        self.received.drain(..length);
        Ok(length)
    }
}

impl<S: Read + Write> Write for WebSocketStream<S> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let length = bytes.len().min(self.frame_bytes);
        let frame = tungstenite::Message::binary(bytes[..length].to_vec());
        self.socket.send(frame).map_err(std::io::Error::other)?;
        Ok(length)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Requests small and large, one at a time and many at once.
fn exercise<S: Read + Write>(client: Client<S>) {
    exercise_up_to(3_000_000, client);
}

fn exercise_up_to<S: Read + Write>(bytes_max: usize, mut client: Client<S>) {
    client.greet(2, b"one");
    for (number, bytes) in (0..).zip([0, 10, 4096, 70_000, 3_000_000].into_iter().filter(|bytes| *bytes <= bytes_max)) {
        let payload: Vec<u8> = (0..bytes).map(|at: usize| (at / 5) as u8).collect();
        assert_eq!(client.ask(&set(id(number), &payload, 1)), reply(SET_OK, id(number), 1, b""));
        assert!(client.ask(&get(id(number), 2)) == reply(GET_OK, id(number), 2, &payload));
    }
    client.send(&(0..500).flat_map(|request| get(id(1), request)).collect::<Vec<_>>());
    for request in 0..500 {
        assert_eq!(client.receive(), reply(GET_OK, id(1), request, &[0, 0, 0, 0, 0, 1, 1, 1, 1, 1]));
    }
    client.send(&[0xff; 100]);
    client.expect_closed();
}

#[test]
fn ipc_carries_the_protocol() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("objects.sock");
    let mut server = start_with(at(&format!("ipc://{}", path.display())));
    assert_eq!(server.address.to_string(), format!("ipc://{}", path.display()));
    exercise(connect_unix(&path));
    server.stop();
    assert!(!path.exists());
}

#[test]
fn ipv6_carries_the_protocol() {
    let server = start_with(at("tcp://[::1]:0"));
    assert!(server.address.to_string().starts_with("tcp://[::1]:"));
    assert_ne!(server.port(), 0);
    exercise(Client { socket: TcpStream::connect(("::1", server.port())).unwrap() });
}

#[test]
fn tls_carries_the_protocol() {
    let directory = tempfile::tempdir().unwrap();
    let (files, roots) = certificate(directory.path());
    let server = start_with(at("tls://127.0.0.1:0").with(|options| options.tls = Some(files)));
    exercise(Client { socket: tls_client(server.port(), roots) });
}

#[test]
fn ws_carries_the_protocol_whatever_the_frames() {
    let server = start_with(at("ws://127.0.0.1:0/objects"));
    let url = server.address.to_string();
    assert_eq!(url, format!("ws://127.0.0.1:{}/objects", server.port()));
    for frame_bytes in [13, 125, 126, 1000, 65_536, usize::MAX] {
        let socket = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        socket.set_nodelay(true).unwrap();
        exercise_up_to(
            frame_bytes.saturating_mul(1000),
            Client { socket: WebSocketStream::connect(socket, &url, frame_bytes) },
        );
    }
}

#[test]
fn wss_carries_the_protocol() {
    let directory = tempfile::tempdir().unwrap();
    let (files, roots) = certificate(directory.path());
    let server = start_with(at("wss://127.0.0.1:0/").with(|options| options.tls = Some(files)));
    let stream = tls_client(server.port(), roots);
    exercise(Client { socket: WebSocketStream::connect(stream, &server.address.to_string(), 100_000) });
}

#[test]
fn a_websocket_ping_is_answered_and_a_close_ends_the_connection() {
    let server = start_with(at("ws://127.0.0.1:0/"));
    let socket = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    let mut client = Client { socket: WebSocketStream::connect(socket, &server.address.to_string(), 1000) };
    client.greet(2, b"one");
    client.socket.socket.send(tungstenite::Message::Ping(vec![1, 2, 3].into())).unwrap();
    assert_eq!(client.socket.socket.read().unwrap(), tungstenite::Message::Pong(vec![1, 2, 3].into()));
    assert_eq!(client.ask(&delete(id(1), 1)).kind, DEL_NOT_EXISTS);
    client.socket.socket.close(None).unwrap();
    client.expect_closed();
}

#[test]
fn what_is_no_websocket_is_turned_away() {
    let server = start_with(at("ws://127.0.0.1:0/"));
    for bytes in [&b"YMQ\x02\x03\0\0\0\0\0\0\0one"[..], b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", &[0xff; 1000]] {
        let before = server.counters.greetings_failed.get();
        let mut socket = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        socket.write_all(bytes).unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        eventually("turned away", || server.counters.greetings_failed.get() == before + 1);
    }
}

#[test]
fn frames_that_no_client_may_send_close_the_connection() {
    let server = start_with(at("ws://127.0.0.1:0/"));
    let frames: [&[u8]; 4] = [
        &[0x82, 0x01, 0x00],                   // not masked
        &[0x81, 0x81, 0, 0, 0, 0, b'x'],       // text
        &[0x89, 0xfe, 0x01, 0x00, 0, 0, 0, 0], // a ping of 256 bytes
        &[0x83, 0x80, 0, 0, 0, 0],             // a reserved kind
    ];
    for frame in frames {
        let socket = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        let mut raw = socket.try_clone().unwrap();
        let mut client = Client { socket: WebSocketStream::connect(socket, &server.address.to_string(), 1000) };
        client.greet(2, b"one");
        raw.write_all(frame).unwrap();
        let mut byte = [0];
        assert!(!matches!(client.socket.read(&mut byte), Ok(1..)), "{frame:?}");
    }
    assert_eq!(server.counters.lost.get(), 4);
}

#[test]
fn a_tls_client_that_speaks_no_tls_is_turned_away() {
    let directory = tempfile::tempdir().unwrap();
    let (files, roots) = certificate(directory.path());
    let server = start_with(at("tls://127.0.0.1:0").with(|options| options.tls = Some(files)));
    let mut plain = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    plain.write_all(b"YMQ\x02\x03\0\0\0\0\0\0\0one").unwrap();
    eventually("turned away", || server.counters.greetings_failed.get() == 1);
    exercise(Client { socket: tls_client(server.port(), roots) });
}

#[test]
fn an_address_in_use_is_one_clear_error() {
    let server = start();
    let error = bind_error(at(&server.address.to_string())).to_string();
    assert!(error.starts_with(&format!("cannot listen on {}: ", server.address)), "{error}");
    assert!(error.to_lowercase().contains("address") && error.contains("in use"), "{error}");
    assert!(!error.contains('\n'));
}

#[test]
fn an_address_of_another_machine_is_an_error() {
    let error = bind_error(at("tcp://192.0.2.1:2346")).to_string();
    assert!(error.starts_with("cannot listen on tcp://192.0.2.1:2346: "), "{error}");
}

#[test]
fn a_restarted_server_gets_its_port_back() {
    let mut server = start();
    let address = server.address.clone();
    let mut client = server.client("one");
    client.ask(&delete(id(1), 1));
    server.stop();
    let server = start_with(options().with(|options| options.bind_address = address));
    assert_eq!(server.client("one").ask(&delete(id(1), 1)).kind, DEL_NOT_EXISTS);
}

#[test]
fn a_socket_left_by_a_dead_server_is_replaced_and_a_live_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("objects.sock");
    let address = format!("ipc://{}", path.display());
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let server = start_with(at(&address));
    let error = bind_error(at(&address)).to_string();
    assert!(error.contains("address in use") && error.contains(&address), "{error}");
    exercise(connect_unix(&path));
    drop(server);

    std::fs::write(&path, "precious").unwrap();
    let error = bind_error(at(&address)).to_string();
    assert!(error.contains("not a socket"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    let error = bind_error(at(&format!("ipc://{}/none/x.sock", directory.path().display()))).to_string();
    assert!(error.starts_with("cannot listen on ipc://"), "{error}");
}

#[test]
fn a_certificate_that_cannot_be_used_is_one_clear_error() {
    let directory = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let (good, _) = certificate(directory.path());
    let (foreign, _) = certificate(other.path());
    let text = directory.path().join("text");
    std::fs::write(&text, "not a certificate").unwrap();
    let missing = directory.path().join("missing");
    let files = |cert: &Path, key: &Path| Some(TlsFiles { cert: cert.to_owned(), key: key.to_owned() });
    for (tls, named) in [
        (files(&missing, &good.key), &missing),
        (files(&good.cert, &missing), &missing),
        (files(&text, &good.key), &text),
        (files(&good.cert, &text), &text),
        (files(&good.cert, &foreign.key), &foreign.key),
        (files(&good.key, &good.key), &good.key),
    ] {
        for address in ["tls://127.0.0.1:0", "wss://127.0.0.1:0/"] {
            let error = bind_error(at(address).with(|options| options.tls = tls.clone())).to_string();
            assert!(error.starts_with(&format!("cannot use {}: ", named.display())), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
    let error = bind_error(at("tls://127.0.0.1:0"));
    assert!(matches!(error, ServerError::CertificateMissing { address: Address::Tls(_) }), "{error}");
}

#[test]
fn an_identity_that_no_client_would_take_is_an_error() {
    let error = bind_error(options().with(|options| options.identity = vec![0; 70_000]));
    assert!(matches!(error, ServerError::Identity { bytes: 70_000 }), "{error}");
}
