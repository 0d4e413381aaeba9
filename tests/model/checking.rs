//! Goes through a scope, and says what it found.

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model, Path};

use crate::protocol::{Protocol, Step};
use crate::rules::Rules;
use crate::scope::Scope;
use crate::state::State;

/// The first property that does not hold, with the steps that lead there.
pub fn check(name: &str, scope: Scope, rules: Rules) -> Option<String> {
    let begun = Instant::now();
    let finish = HasDiscoveries::AnyFailures;
    let checker = Protocol { scope, rules }.checker().threads(1).finish_when(finish).spawn_bfs().join();
    let found = checker.discoveries().into_iter().next();
    let (states, depth, seconds) = (checker.unique_state_count(), checker.max_depth(), begun.elapsed().as_secs_f64());
    let verdict = found.as_ref().map_or("holds", |(property, _)| property);
    println!("{name}: {verdict}; {states} states, {depth} deep, {seconds:.1} s");
    found.map(|(property, path)| format!("{property}\n{}", tell(path)))
}

/// The steps, and where they lead.
fn tell(path: Path<State, Step>) -> String {
    let path = path.into_vec();
    let steps = path.iter().filter_map(|(_, step)| step.as_ref()).map(|step| format!("  {step:?}\n"));
    let mut told: String = steps.collect();
    if let Some((State { writes, redis, nodes, excused, .. }, _)) = path.last() {
        told += &format!("  writes {writes:?}\n  {redis:?}\n  {excused:?}\n");
        nodes.iter().for_each(|node| told += &format!("  {node:?}\n"));
    }
    told
}
