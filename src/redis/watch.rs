//! When to look again for ids that somebody waits for, and when to ask other nodes for them. Used by the watcher of `tiered` and by the
//! listener of `redis`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long after an id was looked up it is looked up again, as some writers send no events.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Most ids looked up at a time. If more are awaited, each has its turn later.
const LOOKS_MAX: usize = 4096;

/// After how long other nodes are asked for an awaited object. The pause to the next time doubles, ...
const WANT: Duration = Duration::from_millis(1500);

/// ... up to this.
const WANT_AGAIN_MAX: Duration = Duration::from_secs(60);

/// Most ids that other nodes are asked for at a time.
const WANTS_MAX: usize = 512;

/// The ids that somebody waits for, and when to do something about each.
#[derive(Default)]
pub(crate) struct Watch(HashMap<Box<[u8]>, Watched>);

/// When to look for an id again, and when to ask other nodes for it.
struct Watched {
    look: Instant,
    want: Instant,
    want_again: Duration,
}

/// What is due.
#[derive(Default)]
pub(crate) struct Due {
    /// To be looked up in Redis.
    pub looks: Vec<Box<[u8]>>,
    /// Those of them that other nodes should push again.
    pub wants: Vec<Box<[u8]>>,
}

impl Watch {
    /// What is due now. `ids`: all that somebody waits for.
    pub fn tick(&mut self, ids: Vec<Box<[u8]>>, now: Instant) -> Due {
        let mut before = std::mem::take(&mut self.0);
        let first = || Watched { look: now + LOOK_AGAIN, want: now + WANT, want_again: WANT };
        self.0.extend(ids.into_iter().map(|id| {
            let watched = before.remove(&id).unwrap_or_else(first);
            (id, watched)
        }));
        let mut due = Due::default();
        for (id, watched) in self.0.iter_mut().filter(|(_, watched)| watched.look <= now).take(LOOKS_MAX) {
            watched.look = now + LOOK_AGAIN;
            due.looks.push(id.clone());
            if watched.want <= now && due.wants.len() < WANTS_MAX {
                watched.want_again = (watched.want_again * 2).min(WANT_AGAIN_MAX);
                watched.want = now + watched.want_again;
                due.wants.push(id.clone());
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_looked_up_every_second_and_wanted_less_and_less_often() {
        let (start, mut watch) = (Instant::now(), Watch::default());
        let (mut looks, mut wants) = (Vec::new(), Vec::new());
        for second in 0..200 {
            let due = watch.tick(vec![b"id"[..].into()], start + Duration::from_secs(second));
            looks.extend(due.looks.iter().map(|_| second));
            wants.extend(due.wants.iter().map(|_| second));
        }
        assert_eq!(looks, (1..200).collect::<Vec<_>>());
        assert_eq!(wants, [2, 5, 11, 23, 47, 95, 155]);
        assert!(watch.tick(Vec::new(), start + Duration::from_secs(300)).looks.is_empty());
    }
}
