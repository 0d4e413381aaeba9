//! An encoder on a thread of its own: compressing takes longer than sending, so the chunks of an object that shrinks are shared out.

use std::thread::{Builder, Scope};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::redis::body::Raw;
use crate::redis::envelope::Encoder;

/// Lives as long as the sending of one object.
pub(super) struct SecondEncoder<'a> {
    chunks: Sender<(Encoder, Raw<'a>)>,
    prepared: Receiver<Encoder>,
    /// Absent while it is at work.
    idle: Option<Encoder>,
}

impl<'a> SecondEncoder<'a> {
    /// None if there can be no more threads now.
    pub fn start<'scope>(scope: &'scope Scope<'scope, 'a>) -> Option<Self> {
        let (chunks, to_prepare) = bounded::<(Encoder, Raw<'a>)>(1);
        let (to_send, prepared) = bounded(1);
        let run = move || {
            for (mut encoder, raw) in to_prepare {
                encoder.prepare(raw, true);
                if to_send.send(encoder).is_err() {
                    break; // nobody wants it any more
                }
            }
        };
        match Builder::new().name("second encoder".into()).spawn_scoped(scope, run) {
            Ok(_) => Some(SecondEncoder { chunks, prepared, idle: Some(Encoder::new(true)) }),
            Err(error) => {
                tracing::debug!("compressing on one thread alone: {error}");
                None
            }
        }
    }

    /// Begins to compress a chunk. False if it cannot.
    pub fn begin(&mut self, raw: Raw<'a>) -> bool {
        self.idle.take().is_some_and(|encoder| self.chunks.send((encoder, raw)).is_ok())
    }

    /// The encoder that has the chunk with which it began; None if it did not.
    pub fn finish(&mut self) -> Option<&Encoder> {
        // None only where that thread is gone: then the chunk is compressed by who asks.
        self.idle = self.prepared.recv().ok();
        self.idle.as_ref()
    }
}
