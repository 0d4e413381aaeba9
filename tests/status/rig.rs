//! A server in this process with its status server.

use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;

use scaler_object_storage::ObjectStore;
use scaler_object_storage::server::{Server, StatusServer};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::client::{self, Client, PATIENCE};
use crate::common::until;
use crate::http;

pub struct Rig {
    pub status: StatusServer,
    pub store: ObjectStore,
    pub port: u16,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Rig {
    /// Starts both, and waits until there are numbers.
    pub fn start(store: ObjectStore) -> Rig {
        let status = StatusServer::listen(&"0".parse().unwrap()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let server = runtime.block_on(Server::bind(client::options(), store.clone())).unwrap();
        let port = server.local_address().endpoint().unwrap().port;
        status.serving(&store, server.watch());
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            runtime.block_on(server.run(async {
                let _ = stopped.await;
            }));
        });
        let rig = Rig { status, store, port, stop: Some(stop), thread: Some(thread) };
        until("there are numbers", || !rig.json()["stats"].is_null());
        rig
    }

    pub fn address(&self) -> SocketAddr {
        self.status.local_address()
    }

    pub fn get(&self, path: &str) -> http::Answer {
        http::get(self.address(), path)
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.get("/status.json").body).unwrap()
    }

    pub fn client(&self, identity: &str) -> Client<TcpStream> {
        let socket = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = Client { socket };
        client.greet(2, identity.as_bytes());
        client
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
