//! The model: which steps there are, and where each leads.

use stateright::{Model, Property};

use crate::properties;
use crate::rules::{Rule, Rules};
use crate::scope::{Scope, Writers};
use crate::state::{Link, Progress, State};

/// What can happen at a moment. `node` and `id` are numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    // What users and programs do.
    Put { node: usize, id: usize },
    Delete { node: usize, id: usize },
    Get { node: usize, id: usize },
    Seek { node: usize, id: usize },
    WantMore { node: usize, id: usize },
    ForeignPut { id: usize },
    // What goes wrong, or makes room.
    Evict { node: usize, id: usize },
    Restart { node: usize, cursor: u8 },
    Failover,
    Break { node: usize },
    Trim { kept: u8 },
    Flush,
    LoseValue { id: usize },
    ExpireTombstone { id: usize },
    Unreadable { node: usize, id: usize },
    ExpireOwnTombstone { node: usize, id: usize },
    // What the protocol does by itself, sooner or later.
    NameEarly { node: usize, id: usize },
    Push { node: usize, id: usize },
    Name { node: usize, id: usize },
    PushAgain { node: usize, id: usize },
    Replicate,
    Settle { node: usize, id: usize },
    Reconnect { node: usize },
    Hear { node: usize },
    NoticeLostPast { node: usize },
    NoticeEpoch { node: usize },
    Fetch { node: usize, id: usize },
    Read { node: usize, id: usize },
    Land { node: usize, id: usize },
    Register { node: usize, id: usize },
    Want { node: usize, id: usize },
}

#[derive(Clone, Debug)]
pub struct Protocol {
    pub scope: Scope,
    pub rules: Rules,
}

impl Protocol {
    pub fn has(&self, rule: Rule) -> bool {
        self.rules.has(rule)
    }

    pub fn each(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let ids = usize::from(self.scope.ids);
        (0..usize::from(self.scope.nodes)).flat_map(move |node| (0..ids).map(move |id| (node, id)))
    }

    /// What the protocol would do now. Where that is nothing, it is quiet: what is wrong then stays wrong.
    pub fn own_steps(&self, state: &State, steps: &mut Vec<Step>) {
        for (node, id) in self.each() {
            let place = state.place(node, id);
            if let Some(record) = place.record {
                let is_stored = record.progress == Progress::Stored;
                self.may_push(state, node, id).then(|| steps.push(Step::Push { node, id }));
                self.may_settle(state, node, id).then(|| steps.push(Step::Settle { node, id }));
                (is_stored && state.nodes[node].link == Link::Up).then(|| steps.push(Step::Name { node, id }));
            }
            match place.flight {
                Some(flight) if flight.read.is_none() => steps.push(Step::Read { node, id }),
                Some(_) => steps.push(Step::Land { node, id }),
                None => {
                    let is_late = place.waiter.is_some_and(|waiter| !waiter.is_registered);
                    is_late.then(|| steps.push(Step::Register { node, id }));
                    self.may_fetch(state, node, id).then(|| steps.push(Step::Fetch { node, id }));
                    self.may_want(state, node, id).then(|| steps.push(Step::Want { node, id }));
                }
            }
            self.may_push_again(state, node, id).then(|| steps.push(Step::PushAgain { node, id }));
        }
        for (number, node) in state.nodes.iter().enumerate() {
            let has_epoch = node.epoch == state.redis.epoch;
            if node.link == Link::Gone {
                steps.push(Step::Reconnect { node: number });
            }
            if self.scope.deaf == Some(number as u8) {
                continue;
            }
            if !has_epoch {
                steps.push(Step::NoticeEpoch { node: number });
            } else if node.has_lost_past {
                steps.push(Step::NoticeLostPast { node: number });
            } else if usize::from(node.cursor) < state.redis.stream.len() {
                steps.push(Step::Hear { node: number });
            }
        }
        self.may_replicate(state).then(|| steps.push(Step::Replicate));
    }

    fn others_steps(&self, state: &State, steps: &mut Vec<Step>) {
        let left = &state.left;
        let is_first =
            |node: usize, id: usize| !self.scope.is_symmetric() || !state.writes.is_empty() || (node == 0 && id == 0);
        let roles = self.scope.roles;
        for (node, id) in self.each() {
            let place = state.place(node, id);
            let is_one = |role: Option<u8>| role.is_none_or(|role| usize::from(role) == node);
            let may_write = is_first(node, id) && self.may_write(state, node, id);
            let may_put =
                !self.scope.put_once || !state.writes.iter().any(|it| usize::from(it.id) == id && !it.deletes);
            (left.puts > 0 && may_write && may_put && is_one(roles.puts)).then(|| steps.push(Step::Put { node, id }));
            let may_delete = !self.scope.put_once || state.top(id) != 0;
            (left.deletes > 0 && may_write && may_delete && is_one(roles.deletes))
                .then(|| steps.push(Step::Delete { node, id }));
            let is_here = self.serves(state, node, id).is_some();
            (left.gets > 0 && is_one(roles.gets) && !is_here && place.waiter.is_none())
                .then(|| steps.push(Step::Get { node, id }));
            (left.seeks > 0 && is_one(roles.gets) && !is_here && place.flight.is_none())
                .then(|| steps.push(Step::Seek { node, id }));
            let waits = place.waiter.is_some_and(|waiter| waiter.is_registered);
            (left.wants > 0 && waits).then(|| steps.push(Step::WantMore { node, id }));
            if let Some(record) = state.held(node, id) {
                let may_evict = record.is_clean() || !self.has(Rule::EvictClean);
                (left.evictions > 0 && may_evict).then(|| steps.push(Step::Evict { node, id }));
                let may_skip = record.progress == Progress::New && !self.has(Rule::UnreadableIsHeld);
                (left.unreadable > 0 && may_skip).then(|| steps.push(Step::Unreadable { node, id }));
            }
            if let Some(record) = place.record.filter(|record| state.is_delete(record.write)) {
                let may_expire = !self.has(Rule::TombstoneUntilSettled) && !record.is_clean();
                (left.expiries > 0 && may_expire).then(|| steps.push(Step::ExpireOwnTombstone { node, id }));
            }
        }
        for (node, it) in state.nodes.iter().enumerate() {
            if left.restarts > 0 {
                steps.extend((0..=it.cursor).map(|cursor| Step::Restart { node, cursor }));
            }
            (left.breaks > 0 && it.link == Link::Up).then(|| steps.push(Step::Break { node }));
        }
        for id in 0..usize::from(self.scope.ids) {
            (left.foreign > 0).then(|| steps.push(Step::ForeignPut { id }));
            (left.lost_values > 0 && state.redis_has(id)).then(|| steps.push(Step::LoseValue { id }));
            (left.expiries > 0 && self.may_expire(state, id)).then(|| steps.push(Step::ExpireTombstone { id }));
        }
        (left.failovers > 0).then(|| steps.push(Step::Failover));
        (left.flushes > 0).then(|| steps.push(Step::Flush));
        if left.trims > 0 && !state.redis.stream.is_empty() {
            steps.push(Step::Trim { kept: 0 });
            self.scope.trims_part.then(|| steps.push(Step::Trim { kept: 1 }));
        }
    }

    fn may_write(&self, state: &State, node: usize, id: usize) -> bool {
        let place = state.place(node, id);
        let known = place.record.map_or(0, |record| record.write).max(place.tombstone);
        match self.scope.writers {
            Writers::Anybody => true,
            Writers::WhoHasSeen => state.nodes[node].clock >= state.version(state.top(id)) / 4,
            Writers::WhoKnows => known == state.top(id),
        }
    }

    fn take(&self, state: &mut State, step: Step) {
        match step {
            Step::Put { node, id } => self.put(state, node, id),
            Step::Delete { node, id } => self.delete(state, node, id),
            Step::Get { node, id } => self.get(state, node, id),
            Step::Seek { node, id } => self.seek(state, node, id),
            Step::WantMore { node, id } => self.want_more(state, node, id),
            Step::ForeignPut { id } => self.foreign_put(state, id),
            Step::Evict { node, id } => self.evict(state, node, id),
            Step::Restart { node, cursor } => self.restart(state, node, cursor),
            Step::Failover => self.fail_over(state),
            Step::Break { node } => self.break_link(state, node),
            Step::Trim { kept } => self.trim(state, kept),
            Step::Flush => self.flush(state),
            Step::LoseValue { id } => self.lose_value(state, id),
            Step::ExpireTombstone { id } => self.expire_tombstone(state, id),
            Step::Unreadable { node, id } => self.skip_unreadable(state, node, id),
            Step::ExpireOwnTombstone { node, id } => self.expire_own_tombstone(state, node, id),
            Step::NameEarly { node, id } => self.name_early(state, node, id),
            Step::Push { node, id } => self.push(state, node, id),
            Step::Name { node, id } => self.name(state, node, id),
            Step::PushAgain { node, id } => self.push_again(state, node, id),
            Step::Replicate => self.replicate(state),
            Step::Settle { node, id } => self.settle(state, node, id),
            Step::Reconnect { node } => self.reconnect(state, node),
            Step::Hear { node } => self.hear(state, node),
            Step::NoticeLostPast { node } => self.notice_lost_past(state, node),
            Step::NoticeEpoch { node } => self.notice_epoch(state, node),
            Step::Fetch { node, id } => self.seek_again(state, node, id),
            Step::Read { node, id } => self.read(state, node, id),
            Step::Land { node, id } => self.land(state, node, id),
            Step::Register { node, id } => self.register(state, node, id),
            Step::Want { node, id } => self.want(state, node, id),
        }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let is_copied = self.scope.is_copied && !self.has(Rule::NameIsDrawn);
        vec![State::new(self.scope.nodes, is_copied, self.has(Rule::Hello), self.scope.budget)]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        self.own_steps(state, steps);
        for (node, id) in self.each() {
            self.may_name_early(state, node, id).then(|| steps.push(Step::NameEarly { node, id }));
        }
        self.others_steps(state, steps);
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = state.clone();
        self.take(&mut next, step);
        next.tidy();
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::chosen(self.scope.only)
    }
}
