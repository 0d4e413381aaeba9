//! The servers that are compared, each a process of its own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::load::Dialect;

/// Tells this program to be the echo, on that port.
pub const ECHO_PORT: &str = "ECHO_PORT";

/// Names the stock server's program; without it that server is left out.
const STOCK_SERVER: &str = "STOCK_SERVER";

pub struct Contender {
    pub name: &'static str,
    pub dialect: Dialect,
    pub address: SocketAddr,
    process: Child,
}

/// Starts the echo, our server, and those of the others that this machine has.
pub fn start_all(scratch: &Path) -> Vec<Contender> {
    let contenders = [Some(start_echo()), Some(start_ours(scratch, 0)), start_stock(), start_redis()];
    contenders.into_iter().flatten().collect()
}

fn start_echo() -> Contender {
    let address = free_address();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(ECHO_PORT, address.port().to_string());
    start("echo", Dialect::Echo, address, &mut command).expect("this program")
}

/// `limit_mb`: most that it may take on disk, 0 for the default.
pub fn start_ours(scratch: &Path, limit_mb: u64) -> Contender {
    let address = free_address();
    let config = scratch.join("config.toml");
    let text = format!(
        "[object_storage_server]\nbackend = \"local\"\n[object_storage_server.local]\npath = {:?}\nmax_size_mb = {limit_mb}\n",
        scratch.join("store")
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_scaler_object_storage_server"));
    command.arg("--config").arg(config).args(["--logging-level", "ERROR"]).arg(format!("tcp://{address}"));
    start("ours", Dialect::Scaler, address, &mut command).expect("our server")
}

/// None where its program is not named.
pub fn start_stock() -> Option<Contender> {
    let Some(program) = std::env::var_os(STOCK_SERVER) else {
        eprintln!("{STOCK_SERVER} does not name the stock server's program: left out");
        return None;
    };
    let address = free_address();
    let mut command = Command::new(program);
    command.args(["--logging-level", "ERROR"]).arg(format!("tcp://{address}"));
    Some(start("stock", Dialect::Scaler, address, &mut command).expect("the stock server"))
}

/// Keeps nothing on disk.
fn start_redis() -> Option<Contender> {
    let address = free_address();
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--loglevel", "warning"]);
    command.arg("--port").arg(address.port().to_string());
    let redis = start("redis", Dialect::Redis, address, &mut command);
    if redis.is_none() {
        eprintln!("redis-server is not installed: left out");
    }
    redis
}

fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).unwrap()
}

/// Starts the program and waits until it accepts connections; None if there is no such program.
fn start(name: &'static str, dialect: Dialect, address: SocketAddr, command: &mut Command) -> Option<Contender> {
    let process = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().ok()?;
    let mut contender = Contender { name, dialect, address, process };
    let limit = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(address).is_err() {
        assert!(contender.process.try_wait().unwrap().is_none(), "{name} has ended");
        assert!(Instant::now() < limit, "{name} does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(contender)
}

impl Drop for Contender {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
