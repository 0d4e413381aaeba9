//! How far one of the ledger's walks has come.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::local::journal::Lsn;

/// Acknowledgements within this time are settled together.
const BUCKET: Duration = Duration::from_millis(100);

/// Everything that a walk passed `below` a place was acknowledged before `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Acknowledged {
    until: Instant,
    below: Lsn,
}

/// How far a walk through the journal has come, and when what it passed was acknowledged.
#[derive(Debug)]
pub(super) struct Pass {
    /// Everything below was pushed, was overtaken, or stands apart.
    pub position: Lsn,
    acknowledged: VecDeque<Acknowledged>,
    /// What is below may have been sent before, so that it may stand in Redis already.
    pub sent_below: Lsn,
    /// What is below was sent, or is under way: whether Redis has it is known once the walk has passed it. Where a walk begins says nothing of
    /// that: after a total loss the tail begins behind records that may never have been sent.
    sending_below: Lsn,
}

impl Pass {
    /// `sent_below`: how far earlier opens may have sent.
    pub fn at(position: Lsn, sent_below: Lsn) -> Self {
        Pass { position, acknowledged: VecDeque::new(), sent_below, sending_below: sent_below }
    }

    /// Notes that everything up to `to` is about to be sent.
    pub fn send(&mut self, to: Lsn) {
        self.sending_below = self.sending_below.max(to);
    }

    /// What is under way was refused as a whole.
    pub fn refuse(&mut self) {
        self.sending_below = self.sending_below.min(self.position.max(self.sent_below));
    }

    /// Up to where anything may have been sent, in this epoch or before.
    pub fn sent_or_sending_below(&self) -> Lsn {
        self.sent_below.max(self.sending_below)
    }

    /// Whether this record was sent and is not under way for the first time. Those that stand apart say so themselves.
    pub fn has_sent(&self, lsn: Lsn) -> bool {
        lsn < self.sent_below.max(self.position)
    }

    /// What is under way is sent again: nobody knows what became of it.
    pub fn resume(&mut self) {
        self.sent_below = self.sent_or_sending_below();
    }

    /// Goes back to `from`, below which everything is settled: what was pushed since may be lost.
    pub fn restart(&mut self, from: Lsn) {
        self.resume();
        self.position = from;
        self.acknowledged.clear();
    }

    pub fn acknowledge(&mut self, now: Instant) {
        match self.acknowledged.back_mut() {
            Some(last) if now <= last.until => last.below = self.position,
            Some(last) if last.below == self.position => {}
            _ => self.acknowledged.push_back(Acknowledged { until: now + BUCKET, below: self.position }),
        }
    }

    /// A record that the walk had passed was pushed only now, so that earlier acknowledgements do not cover it.
    pub fn pushed_late(&mut self, lsn: Lsn, now: Instant) {
        let earlier = self.acknowledged.iter_mut().filter(|it| it.until < now);
        earlier.for_each(|it| it.below = it.below.min(lsn));
        self.acknowledge(now);
    }

    /// When the oldest acknowledgement came that is not settled.
    pub fn unsettled_since(&self) -> Option<Instant> {
        self.acknowledged.front().map(|first| first.until)
    }

    /// Takes off the acknowledgements from before that moment. Returns up to where they reach.
    pub fn settled(&mut self, before: Instant) -> Option<Lsn> {
        let mut settled = None;
        while let Some(first) = self.acknowledged.front()
            && first.until <= before
        {
            settled = Some(first.below);
            self.acknowledged.pop_front();
        }
        settled
    }
}
