//! The connections of the `redis` backend, shared by callers' threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::keys::Keys;
use super::link::Link;
use super::options::RedisOptions;
use super::push::Pusher;
use super::server;
use super::target::Target;
use crate::backend::RedisStats;
use crate::clock::Past;
use crate::error::Error;
use crate::interrupt;
use crate::version::HybridClock;

/// Redis's clock is read again after this time.
const CLOCK_AGE_MAX: Duration = Duration::from_secs(60);

/// Up to `connection_pool_size` connections, made when they are needed, each used by one thread at a time.
pub(super) struct Pool {
    target: Target,
    keys: Keys,
    options: RedisOptions,
    clock: HybridClock,
    node: u64,
    state: Mutex<State>,
    connects: AtomicU64,
    connect_failures: AtomicU64,
    freed: Condvar,
}

/// The state under the pool's lock.
#[derive(Default)]
struct State {
    idle: Vec<PooledLink>,
    /// Links that exist, in use or idle.
    count: usize,
    clock_read: Option<Instant>,
    is_closed: bool,
}

/// A connection with its pusher.
pub(super) struct PooledLink {
    pub link: Link,
    pub pusher: Pusher,
}

impl Pool {
    pub fn new(options: &RedisOptions, node: u64) -> Result<Pool, Error> {
        Ok(Pool {
            target: Target::new(options)?,
            keys: Keys::new(options.key_prefix.as_str()),
            options: options.clone(),
            clock: HybridClock::new(node, 0, Past::default(), options.object_ttl_seconds.saturating_mul(1000), true),
            node,
            state: Mutex::default(),
            connects: AtomicU64::new(0),
            connect_failures: AtomicU64::new(0),
            freed: Condvar::new(),
        })
    }

    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    pub fn clock(&self) -> &HybridClock {
        &self.clock
    }

    /// Calls `run` with a connection. If an idle one turns out to be broken, `run` is called once more with a new one, so it has to be
    /// idempotent.
    pub fn run<T>(&self, mut run: impl FnMut(&mut PooledLink) -> Result<T, Error>) -> Result<T, Error> {
        let mut borrowed = self.borrow()?;
        let was_idle = borrowed.lane.is_some();
        match self.attempt(&mut borrowed, &mut run) {
            Err(error) if was_idle && error.is_cut_off() => {
                // The other idle ones are as old.
                self.drop_idle();
                self.attempt(&mut borrowed, &mut run)
            }
            result => result,
        }
    }

    fn attempt<T>(
        &self,
        borrowed: &mut Borrowed<'_>,
        run: &mut impl FnMut(&mut PooledLink) -> Result<T, Error>,
    ) -> Result<T, Error> {
        // Taken out while it is in use: after a panic the lane is lost and not used again.
        let mut lane = match borrowed.lane.take() {
            Some(lane) => lane,
            None => self.connect()?,
        };
        self.read_clock(&mut lane)?;
        let result = run(&mut lane);
        if !result.as_ref().is_err_and(Error::is_cut_off) {
            borrowed.lane = Some(lane);
        }
        result
    }

    /// Calls `run` with every idle connection, until one does not work.
    pub fn run_idle(&self, mut run: impl FnMut(&mut PooledLink) -> Result<(), Error>) {
        let mut idle = std::mem::take(&mut self.state.lock().idle);
        let count = idle.len();
        let mut works = true;
        idle.retain_mut(|lane| {
            works = works && run(lane).is_ok();
            works
        });
        let mut state = self.state.lock();
        state.count -= count - idle.len();
        state.idle.append(&mut idle);
        drop(state);
        self.freed.notify_all();
    }

    pub fn stats(&self) -> RedisStats {
        let state = self.state.lock();
        let idle = state.idle.len();
        RedisStats {
            busy_connections: state.count.saturating_sub(idle) as u64,
            idle_connections: idle as u64,
            connects: self.connects.load(Ordering::Relaxed),
            connect_failures: self.connect_failures.load(Ordering::Relaxed),
        }
    }

    pub fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        state.count -= state.idle.len();
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        self.freed.notify_all();
        drop(idle);
    }

    fn borrow(&self) -> Result<Borrowed<'_>, Error> {
        let mut state = self.state.lock();
        loop {
            if state.is_closed {
                return Err(Error::Closed);
            }
            if let Some(lane) = state.idle.pop() {
                return Ok(Borrowed { pool: self, lane: Some(lane) });
            }
            if state.count < self.options.connection_pool_size.max(1) {
                state.count += 1;
                return Ok(Borrowed { pool: self, lane: None });
            }
            match interrupt::slice() {
                Some(slice) => drop(self.freed.wait_for(&mut state, slice)),
                None => self.freed.wait(&mut state),
            }
            interrupt::look().map_err(|interrupted| self.target.unreachable(interrupted))?;
        }
    }

    fn drop_idle(&self) {
        let mut state = self.state.lock();
        state.count -= state.idle.len();
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        drop(idle);
    }

    fn connect(&self) -> Result<PooledLink, Error> {
        let connected = self.target.connect(Duration::from_millis(self.options.response_timeout_ms));
        let counter = if connected.is_ok() { &self.connects } else { &self.connect_failures };
        counter.fetch_add(1, Ordering::Relaxed);
        let link = connected?;
        Ok(PooledLink { link, pusher: Pusher::new(&self.options, self.node) })
    }

    fn read_clock(&self, lane: &mut PooledLink) -> Result<(), Error> {
        let due = |read: &Option<Instant>| read.is_none_or(|read| read.elapsed() > CLOCK_AGE_MAX);
        if due(&self.state.lock().clock_read) {
            self.clock.set_time(server::time(&mut lane.link, &self.keys)?);
            self.state.lock().clock_read = Some(Instant::now());
        }
        Ok(())
    }
}

/// A place in the pool, with a connection or without one yet.
struct Borrowed<'a> {
    pool: &'a Pool,
    lane: Option<PooledLink>,
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.state.lock();
        match self.lane.take() {
            Some(lane) if !state.is_closed => state.idle.push(lane),
            _ => state.count -= 1,
        }
        drop(state);
        self.pool.freed.notify_one();
    }
}
