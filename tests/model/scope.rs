//! How much of the world a check goes through: how many nodes and ids, and how often what may happen.

use crate::state::Budget;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Values carry their versions.
    Versioned,
    /// `value_format = "python"`: the last to reach Redis wins, a delete is a DEL.
    Python,
}

/// Who may write to an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writers {
    Anybody,
    /// Only nodes that have seen the newest write.
    WhoHasSeen,
    /// Only nodes that know of the newest write of the id, by an object or a tombstone.
    WhoKnows,
}

/// The nodes that do something, where not all do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    pub puts: Option<u8>,
    pub deletes: Option<u8>,
    pub gets: Option<u8>,
}

#[derive(Clone, Copy, Debug)]
pub struct Scope {
    pub nodes: u8,
    pub ids: u8,
    pub format: Format,
    pub budget: Budget,
    pub writers: Writers,
    pub roles: Roles,
    /// Each id is put at most once, as Scaler does.
    pub put_once: bool,
    /// By how much the clock of node 1 is ahead of Redis's, where nobody sees to that.
    pub ahead: u8,
    /// By how much it is ahead all the same.
    pub always_ahead: u8,
    /// Nodes do not take on the clock of a version that is ahead of them.
    pub is_far_ahead: bool,
    /// Objects that Redis has room for.
    pub room: Option<u8>,
    /// The id whose record breaks the connection whenever it is sent.
    pub unsendable: Option<u8>,
    /// The node whose reader gets nothing.
    pub deaf: Option<u8>,
    /// Both nodes run on copies of one directory.
    pub is_copied: bool,
    /// A put that meets a value is named before its script runs, and after.
    pub named_early: bool,
    /// The last entry of the stream may be the only one that stays.
    pub trims_part: bool,
    /// The property to look at, if not all.
    pub only: Option<&'static str>,
}

impl Scope {
    pub const fn new(nodes: u8, ids: u8, budget: Budget) -> Scope {
        Scope {
            nodes,
            ids,
            format: Format::Versioned,
            budget,
            writers: Writers::Anybody,
            roles: Roles { puts: None, deletes: None, gets: None },
            put_once: false,
            ahead: 0,
            always_ahead: 0,
            is_far_ahead: false,
            room: None,
            unsendable: None,
            deaf: None,
            is_copied: false,
            named_early: false,
            trims_part: false,
            only: None,
        }
    }

    pub const fn python(self) -> Scope {
        Scope { format: Format::Python, put_once: true, ..self }
    }

    /// Node 0 puts, node 1 deletes and gets.
    pub const fn apart(self) -> Scope {
        Scope { roles: Roles { puts: Some(0), deletes: Some(1), gets: Some(1) }, ..self }
    }

    pub fn is_python(&self) -> bool {
        self.format == Format::Python
    }

    /// Whether it makes no difference which node, and which id, comes first.
    pub fn is_symmetric(&self) -> bool {
        self.ahead == 0 && self.always_ahead == 0 && self.unsendable.is_none() && self.deaf.is_none()
    }
}

pub const NONE: Budget = Budget {
    puts: 0,
    deletes: 0,
    foreign: 0,
    gets: 0,
    seeks: 0,
    wants: 0,
    evictions: 0,
    restarts: 0,
    failovers: 0,
    breaks: 0,
    trims: 0,
    flushes: 0,
    lost_values: 0,
    expiries: 0,
    unreadable: 0,
};
