//! Opening the `redis` backend: its connections and its listener.

use std::sync::Arc;

use crossbeam_channel::{Sender, bounded};

use super::backend::RedisBackend;
use super::listener::Listener;
use super::options::RedisOptions;
use super::pool::Pool;
use super::server;
use super::watch::Watch;
use crate::backend::{Backend, Waiters};
use crate::error::Error;
use crate::random::random_u64;

impl RedisBackend {
    /// Opens the backend. An error if Redis cannot be reached.
    pub fn open(options: &RedisOptions, waiters: Arc<Waiters>) -> Result<Self, Error> {
        let node = random_u64();
        let pool = Pool::new(options, node)?;
        let warnings = pool.run(|lane| {
            server::epoch(&mut lane.link, pool.keys())?;
            server::warnings(&mut lane.link)
        })?;
        for warning in warnings {
            tracing::warn!("{}: {warning}", pool.target().address());
        }
        let (ending, ended) = bounded(0);
        let backend = RedisBackend::new(options.clone(), pool, node, ended);
        let listener = Listener { backend: backend.clone(), waiters, watch: Watch::default() };
        let listening = std::thread::Builder::new().name("event reader".into()).spawn(move || {
            let _ending: Sender<()> = ending;
            listener.run();
        });
        listening.map_err(Error::io("start the thread that hears events of", backend.place()))?;
        Ok(backend)
    }
}
