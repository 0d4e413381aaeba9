//! Values that the Python Redis backend can read: without a version, so that the last to reach Redis wins.

use std::io::Write as _;

use redis::{Cmd, RedisWrite as _};

use super::{Outcomes, Outgoing, Pushed, Pusher, What, notice, put_bytes};
use crate::error::Error;
use crate::redis::events::{EVENT_OPS_MAX, adding};
use crate::redis::fetch::{looked, looking};
use crate::redis::link::Link;
use crate::redis::pipeline::Reply;
use crate::redis::python;
use crate::redis::standing::Standing;

/// Commands for one write: two that look at what stands there, one that overwrites or deletes it.
const COMMANDS: usize = 3;

impl Pusher {
    pub(super) fn overwrite(
        &mut self,
        link: &mut Link,
        batch: &[Outgoing],
        outcomes: &mut Outcomes,
    ) -> Result<(), Error> {
        let mut commands = Vec::with_capacity(batch.len() * COMMANDS);
        let mut writes = Vec::with_capacity(batch.len());
        for (index, write) in batch.iter().enumerate() {
            match self.overwriting(write) {
                Ok(command) => {
                    commands.extend(looking(&self.keys.object(&write.id)));
                    commands.push(command);
                    writes.push((index, write));
                }
                Err(refusal) => outcomes.settle(index, Err(refusal)),
            }
        }
        let off = std::mem::take(&mut self.counters_off);
        let counted_from = commands.len();
        commands.extend(off.commands(&self.keys));
        let named_from = commands.len();
        let notices: Vec<_> = writes.iter().map(|(_, write)| notice(write)).collect();
        if !link.is_cluster() {
            commands.extend(notices.chunks(EVENT_OPS_MAX).map(|notices| adding(&self.keys, self.node, notices)));
        }
        if commands.is_empty() {
            return Ok(());
        }
        let mut replies = link.run(&commands)?;
        let entries = replies.split_off(named_from);
        self.counted(off, &replies.split_off(counted_from));

        let mut chunked = Vec::new();
        for (place, ((index, write), replies)) in writes.iter().zip(replies.as_chunks::<COMMANDS>().0).enumerate() {
            let [head, length, written] = replies;
            let replaced = looked(&[head.clone(), length.clone()]).unwrap_or(None);
            match written {
                Ok(_) => {
                    self.counters_off.add(put_bytes(write), replaced.and_then(|standing| standing.counted_bytes()));
                    outcomes.settle(*index, Ok(Pushed::Applied { replaced }));
                    if let Some(Standing::Ours(head)) = replaced {
                        chunked.push((*index, head));
                    }
                }
                Err(refusal) => outcomes.settle(*index, Err(refusal.clone())),
            }
            if entries.get(place / EVENT_OPS_MAX).is_some_and(Reply::is_ok) {
                outcomes.named_now(*index);
            }
        }
        for (index, head) in chunked {
            if let Some(write) = batch.get(index) {
                self.expire_chunks(link, &write.id, &head)?;
            }
        }
        Ok(())
    }

    fn overwriting(&self, write: &Outgoing) -> Result<Cmd, String> {
        let key = self.keys.object(&write.id);
        let What::Put { object, deadline_ms, .. } = &write.what else {
            let mut delete = redis::cmd("DEL");
            delete.arg(key);
            return Ok(delete);
        };
        let value_bytes = python::value_bytes(object);
        if value_bytes > python::VALUE_BYTES_MAX {
            return Err(format!(
                "it has {} bytes, but value_format = \"python\" keeps an object in one value of at most {} bytes",
                object.len(),
                python::VALUE_BYTES_MAX
            ));
        }
        let mut set = Cmd::with_capacity(5, 96 + key.len() + value_bytes as usize);
        set.arg("SET").arg(key);
        {
            let mut value = set.writer_for_next_arg();
            // Writing to memory does not fail.
            python::encode(object, |bytes| drop(value.write_all(bytes)));
        }
        if *deadline_ms != 0 {
            set.arg("PXAT").arg(*deadline_ms);
        }
        Ok(set)
    }
}
