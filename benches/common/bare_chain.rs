//! What Redis itself takes to carry a value and the news of it from one client to another.

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use redis::{Commands, Connection};

use crate::common::redis::RedisServer;

pub const BARE_CHAIN: &str =
    "Bare chain: SET and XADD by one client of redis-rs, until another one that blocks in XREAD has read the value.";

/// Two clients of redis-rs, one of which waits for what the other writes.
pub struct BareChain {
    writer: Connection,
    /// When a value was read, and its bytes.
    arrived: Receiver<(Instant, usize)>,
    sent: u64,
}

impl BareChain {
    pub fn new(redis: &RedisServer) -> Self {
        let (writer, mut reader) = (redis.connection(), redis.connection());
        let (sender, arrived) = channel();
        std::thread::spawn(move || {
            for number in 0_u64.. {
                let mut read = redis::cmd("XREAD");
                // Behind the entry before, not behind `$`: a reader that comes late finds the next one there.
                read.arg(&["BLOCK", "0", "STREAMS", "chain:events", &format!("{number}-1")]);
                // Fails when the server is ended.
                let Ok(_) = read.query::<redis::Value>(&mut reader) else { return };
                let data: Vec<u8> = reader.get(format!("chain:{number}")).unwrap();
                if sender.send((Instant::now(), data.len())).is_err() {
                    return;
                }
            }
        });
        BareChain { writer, arrived, sent: 0 }
    }

    /// Nanoseconds from one end to the other, after a rest in which the reader has begun to wait.
    pub fn carry(&mut self, data: &[u8]) -> f64 {
        std::thread::sleep(Duration::from_millis(3));
        let start = Instant::now();
        let mut pipeline = redis::pipe();
        pipeline.set(format!("chain:{}", self.sent), data).ignore();
        pipeline.cmd("XADD").arg(&["chain:events", &format!("{}-1", self.sent + 1), "n", "1"]).ignore();
        let _: () = pipeline.query(&mut self.writer).unwrap();
        let (end, bytes) = self.arrived.recv().unwrap();
        assert_eq!(bytes, data.len());
        self.sent += 1;
        (end - start).as_nanos() as f64
    }
}
