//! Stands between stores and a server, and changes what TIME answers.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::spawn;

use scaler_object_storage::ObjectStore;

use crate::common::redis::RedisServer;
use crate::common::until;

pub struct Liar {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    ahead: AtomicI64,
    connections: Mutex<Vec<Weak<TcpStream>>>,
}

/// How the answer to TIME begins, before its seconds: it comes alone, as nothing is asked together with it.
const TIME: &[u8] = b"*2\r\n$10\r\n";
const SECONDS: std::ops::Range<usize> = TIME.len()..TIME.len() + 10;

impl Liar {
    pub fn to(server: &RedisServer) -> Liar {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let liar = Liar { port: listener.local_addr().unwrap().port(), shared: Arc::default() };
        let (shared, target) = (Arc::clone(&liar.shared), server.port());
        // Ends with the program.
        spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                shared.join(client, server);
            }
        });
        liar
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Lets Redis's clock be so far ahead, and waits until these stores have read it: each new connection that they push over begins with
    /// that, and those that there are break. `redis` is a store of the backend of this name.
    pub fn set(&self, seconds_ahead: i64, stores: &[&ObjectStore], redis: &ObjectStore) {
        self.shared.ahead.store(seconds_ahead, Ordering::SeqCst);
        for connection in self.shared.connections.lock().unwrap().drain(..).filter_map(|it| it.upgrade()) {
            let _ = connection.shutdown(Shutdown::Both);
        }
        for (number, store) in stores.iter().enumerate() {
            let id = format!("pushed by {number} at {seconds_ahead}");
            store.put(id.as_bytes(), b"", b"").unwrap();
            until("it is pushed", || redis.contains(id.as_bytes()).unwrap());
        }
    }
}

impl Shared {
    fn join(self: &Arc<Self>, client: TcpStream, server: TcpStream) {
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        let (client, server) = (Arc::new(client), Arc::new(server));
        self.connections.lock().unwrap().push(Arc::downgrade(&client));
        let (from, to) = (Arc::clone(&client), Arc::clone(&server));
        spawn(move || carry(&from, &to, |_| {}));
        let shared = Arc::clone(self);
        spawn(move || carry(&server, &client, |piece| shared.lie(piece)));
    }

    fn lie(&self, piece: &mut [u8]) {
        if !piece.starts_with(TIME) {
            return;
        }
        let seconds = piece.get(SECONDS).and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<i64>().ok());
        if let Some(seconds) = seconds {
            let lie = (seconds + self.ahead.load(Ordering::SeqCst)).to_string();
            piece[SECONDS].copy_from_slice(lie.as_bytes());
        }
    }
}

fn carry(mut from: &TcpStream, mut to: &TcpStream, change: impl Fn(&mut [u8])) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        change(&mut piece[..length]);
        if to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
