//! With all its rules, the protocol breaks nothing.

use crate::checking::check;
use crate::rules::Rules;
use crate::scope::{NONE, Scope, Writers};
use crate::state::Budget;

/// Two nodes and one id, of the put and the delete that Scaler makes of each.
const PUT_DELETE: Budget = Budget { puts: 1, deletes: 1, ..NONE };
const TWO_PUTS: Budget = Budget { puts: 2, ..NONE };

const fn two_nodes(budget: Budget) -> Scope {
    Scope::new(2, 1, budget)
}

fn holds(name: &str, scope: Scope) {
    if let Some(found) = check(name, scope, Rules::default()) {
        panic!("{name}: {found}");
    }
}

/// The small scope always, the large one where `MODEL=large` (`make model`) asks for it.
macro_rules! whole {
    ($($name:ident: $small:expr, $large:expr;)*) => {
        $(#[test]
        fn $name() {
            let is_large = std::env::var("MODEL").is_ok_and(|scope| scope == "large");
            holds(stringify!($name), if is_large { $large } else { $small });
        })*
    };
}

whole! {
    nothing_goes_wrong:
        two_nodes(Budget { gets: 1, ..PUT_DELETE }),
        two_nodes(Budget { puts: 2, gets: 1, seeks: 1, evictions: 1, ..PUT_DELETE });
    an_id_that_is_deleted_twice:
        two_nodes(Budget { puts: 1, deletes: 2, gets: 1, ..NONE }).apart(),
        two_nodes(Budget { puts: 1, deletes: 2, gets: 2, evictions: 1, ..NONE });
    three_nodes:
        Scope::new(3, 1, PUT_DELETE),
        Scope::new(3, 1, Budget { gets: 1, ..PUT_DELETE });
    events_that_come_early:
        Scope { named_early: true, ..two_nodes(TWO_PUTS) },
        Scope { named_early: true, ..two_nodes(Budget { puts: 2, gets: 1, breaks: 1, ..PUT_DELETE }) };
    connections_that_break:
        two_nodes(Budget { breaks: 1, ..PUT_DELETE }),
        two_nodes(Budget { gets: 1, seeks: 1, breaks: 2, evictions: 1, ..PUT_DELETE });
    a_failover:
        two_nodes(Budget { failovers: 1, evictions: 1, ..PUT_DELETE }),
        two_nodes(Budget { gets: 1, failovers: 1, evictions: 1, ..PUT_DELETE });
    a_failover_and_a_lost_past:
        two_nodes(Budget { puts: 1, failovers: 1, trims: 1, evictions: 1, ..NONE }),
        two_nodes(Budget { failovers: 1, trims: 1, evictions: 1, ..PUT_DELETE });
    a_lost_past:
        two_nodes(Budget { trims: 1, ..PUT_DELETE }),
        Scope { trims_part: true, ..two_nodes(Budget { puts: 2, gets: 1, evictions: 1, trims: 1, ..PUT_DELETE }) };
    a_restart:
        two_nodes(Budget { restarts: 1, ..PUT_DELETE }),
        two_nodes(Budget { puts: 2, gets: 1, restarts: 1, ..PUT_DELETE });
    a_restart_after_a_lost_past:
        two_nodes(Budget { puts: 1, restarts: 1, trims: 1, ..NONE }),
        two_nodes(Budget { gets: 1, restarts: 1, trims: 1, ..PUT_DELETE });
    an_emptied_redis:
        two_nodes(Budget { flushes: 1, evictions: 1, ..PUT_DELETE }),
        two_nodes(Budget { gets: 1, flushes: 1, evictions: 1, ..PUT_DELETE });
    an_emptied_redis_and_a_restart:
        two_nodes(Budget { puts: 1, flushes: 1, restarts: 1, ..NONE }),
        two_nodes(Budget { flushes: 1, restarts: 1, evictions: 1, ..PUT_DELETE });
    a_lost_value:
        two_nodes(Budget { puts: 1, gets: 1, lost_values: 1, evictions: 1, ..NONE }),
        two_nodes(Budget { gets: 1, lost_values: 1, evictions: 1, trims: 1, ..PUT_DELETE });
    tombstones_that_expire:
        two_nodes(Budget { expiries: 1, trims: 1, ..PUT_DELETE }),
        two_nodes(Budget { gets: 2, expiries: 1, trims: 1, ..PUT_DELETE });
    wants_in_vain:
        two_nodes(Budget { gets: 1, wants: 1, ..PUT_DELETE }).apart(),
        two_nodes(Budget { gets: 1, wants: 1, expiries: 1, trims: 1, ..PUT_DELETE });
    clocks_that_are_off:
        Scope { always_ahead: 4, writers: Writers::WhoHasSeen, ..two_nodes(Budget { seeks: 1, ..PUT_DELETE }) },
        Scope {
            always_ahead: 4,
            writers: Writers::WhoHasSeen,
            ..two_nodes(Budget { puts: 2, gets: 1, seeks: 1, ..PUT_DELETE })
        };
    clocks_that_are_far_off:
        Scope {
            always_ahead: 4,
            is_far_ahead: true,
            writers: Writers::WhoKnows,
            ..two_nodes(Budget { seeks: 1, ..PUT_DELETE })
        },
        Scope {
            always_ahead: 4,
            is_far_ahead: true,
            writers: Writers::WhoKnows,
            ..two_nodes(Budget { puts: 2, gets: 1, seeks: 1, ..PUT_DELETE })
        };
    a_deaf_node:
        Scope { deaf: Some(1), ..two_nodes(Budget { seeks: 1, ..PUT_DELETE }) },
        Scope { deaf: Some(1), ..two_nodes(Budget { puts: 2, gets: 2, ..PUT_DELETE }) };
    a_full_redis:
        Scope { room: Some(1), ..Scope::new(1, 2, Budget { puts: 2, deletes: 1, evictions: 1, ..NONE }) },
        Scope { room: Some(1), ..Scope::new(2, 2, Budget { puts: 2, gets: 1, ..PUT_DELETE }) };
    what_cannot_be_sent:
        Scope { unsendable: Some(0), ..Scope::new(1, 2, Budget { puts: 2, deletes: 1, ..NONE }) },
        Scope { unsendable: Some(0), ..Scope::new(2, 2, Budget { puts: 2, breaks: 1, ..PUT_DELETE }) };
    another_program_that_writes:
        two_nodes(Budget { foreign: 2, gets: 2, ..NONE }),
        two_nodes(Budget { foreign: 2, gets: 2, seeks: 2, trims: 1, restarts: 1, ..NONE });
    python_values:
        two_nodes(Budget { gets: 1, evictions: 1, ..PUT_DELETE }).python(),
        two_nodes(Budget { gets: 2, deletes: 2, evictions: 1, ..PUT_DELETE }).python();
    python_values_and_a_failover:
        two_nodes(Budget { failovers: 1, ..PUT_DELETE }).python(),
        two_nodes(Budget { gets: 1, evictions: 1, failovers: 1, ..PUT_DELETE }).python();
    python_values_and_a_lost_past:
        two_nodes(Budget { trims: 1, ..PUT_DELETE }).python(),
        two_nodes(Budget { gets: 1, evictions: 1, trims: 1, restarts: 1, ..PUT_DELETE }).python();
}
