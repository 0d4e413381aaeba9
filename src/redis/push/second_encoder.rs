//! An encoder on a thread of its own: compressing takes longer than sending, so the chunks of an object that shrinks are shared out.

use std::collections::VecDeque;
use std::thread::{Builder, Scope};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::redis::body::Raw;
use crate::redis::envelope::{Encoder, chunk_of};

/// The chunk that it compresses, and the one behind it: who sends is often busy when a chunk is finished, and so the thread need not wait.
const CHUNKS_MAX: usize = 2;

/// Compresses every other chunk. Lives as long as the sending of one object.
pub(super) struct SecondEncoder<'a> {
    chunks: Sender<(Encoder, Raw<'a>)>,
    prepared: Receiver<Encoder>,
    /// What it was given and has not been asked for, in order.
    begun: VecDeque<u32>,
    /// The chunks before this one are given away, or passed over.
    next: u32,
    idle: Vec<Encoder>,
}

impl<'a> SecondEncoder<'a> {
    /// None if there can be no more threads now.
    pub fn start<'scope>(scope: &'scope Scope<'scope, 'a>) -> Option<Self> {
        let (chunks, to_prepare) = bounded::<(Encoder, Raw<'a>)>(CHUNKS_MAX);
        let (to_send, prepared) = bounded(CHUNKS_MAX);
        let run = move || {
            for (mut encoder, raw) in to_prepare {
                encoder.prepare(raw, true);
                if to_send.send(encoder).is_err() {
                    break; // nobody wants it any more
                }
            }
        };
        match Builder::new().name("second encoder".into()).spawn_scoped(scope, run) {
            Ok(_) => {
                let idle = (0..CHUNKS_MAX).map(|_| Encoder::new(true)).collect();
                Some(SecondEncoder { chunks, prepared, begun: VecDeque::new(), next: 0, idle })
            }
            Err(error) => {
                tracing::debug!("compressing on one thread alone: {error}");
                None
            }
        }
    }

    /// Gives it chunks behind `chunk`, which is about to be sent.
    pub fn keep_busy(&mut self, body: Raw<'a>, chunk: u32, chunk_count: u32) {
        self.next = self.next.max(chunk + 1);
        while self.next < chunk_count
            && let Some(encoder) = self.idle.pop()
            && self.chunks.send((encoder, chunk_of(body, self.next))).is_ok()
        {
            self.begun.push_back(self.next);
            self.next += 2;
        }
    }

    /// The encoder that has prepared this chunk; None if it was not given to it.
    pub fn finish(&mut self, chunk: u32) -> Option<&Encoder> {
        if self.begun.front() != Some(&chunk) {
            return None;
        }
        self.begun.pop_front();
        // None only where that thread is gone: then the chunk is compressed by who asks.
        self.idle.push(self.prepared.recv().ok()?);
        self.idle.last()
    }
}
