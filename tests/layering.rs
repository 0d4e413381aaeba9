//! Who imports whom in `src`: arrows point down, and no files import each other in a circle.
//!
//! A file may use what stands in the `mod.rs` (or `x.rs` beside the folder `x`) above it, and the other way round: those are one module in two
//! places. Tests inside of files do not count.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// From the ground up: a module imports what stands on lower floors. Those of one floor know nothing of each other.
const FLOORS: [&[&str]; 15] = [
    &["id", "random", "fork", "sync", "clock", "counts", "interrupt", "long_work"],
    &["backoff"],
    &["error"],
    &["version"],
    &["object"],
    &["backend"],
    &["local", "memory", "redis"],
    &["replication", "node"],
    &["store"],
    &["keeper", "wire"],
    &["config"],
    &["server"],
    &["python"],
    &["program"],
    &["lib", "bin"],
];

type Module = Vec<String>;

struct Source {
    /// What it imports, as absolute paths.
    imports: Vec<Module>,
    /// Name -> what it stands for elsewhere.
    exports: BTreeMap<String, Module>,
}

/// Every file below `src` that is no test, by its module.
fn sources() -> BTreeMap<Module, Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut texts = BTreeMap::new();
    read(&root, &mut Vec::new(), &mut texts);
    let modules: BTreeSet<Module> = texts.keys().cloned().collect();
    texts.iter().map(|(module, text)| (module.clone(), parse(module, text, &modules))).collect()
}

fn read(folder: &Path, module: &mut Module, texts: &mut BTreeMap<Module, String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        // Generated, or the insides of tests and fuzz targets.
        if ["tests", "testing", "fuzzing", "header_capnp"].contains(&name.as_str()) {
            continue;
        }
        module.push(name.clone());
        if path.is_dir() {
            read(&path, module, texts);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let own = if name == "mod" { module[..module.len() - 1].to_vec() } else { module.clone() };
            texts.insert(own, without_tests(&text));
        }
        module.pop();
    }
}

/// Without comments, and without what stands behind the head of its tests.
fn without_tests(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines
        .windows(2)
        .position(|two| two[0].starts_with("#[cfg(") && two[0].contains("test") && two[1] == "mod tests {");
    let lines = lines[..tests.unwrap_or(lines.len())].iter().filter(|line| !line.trim_start().starts_with("//"));
    lines.fold(String::new(), |text, line| text + line + "\n")
}

fn parse(module: &Module, text: &str, modules: &BTreeSet<Module>) -> Source {
    let (mut imports, mut exports) = (Vec::new(), BTreeMap::new());
    for statement in text.split(';') {
        let statement = statement.trim_start();
        let line = statement.rfind("\nuse ").map_or(statement, |at| &statement[at + 1..]);
        let (is_export, tree) = match (line.strip_prefix("use "), line.rfind("pub")) {
            (Some(tree), _) => (false, tree),
            (None, Some(at)) => match line[at..].split_once(" use ") {
                Some((visibility, tree)) if !visibility.contains(char::is_whitespace) => (true, tree),
                _ => continue,
            },
            _ => continue,
        };
        for path in leaves(&tree.split_whitespace().collect::<Vec<_>>().join(" ")) {
            let Some(path) = absolute(module, &path, modules) else { continue };
            match path.last() {
                Some(name) if is_export => drop(exports.insert(name.clone(), path)),
                _ => imports.push(path),
            }
        }
    }
    // Paths in the middle of the code.
    for (at, _) in text.match_indices("crate::") {
        let path: String = text[at..].chars().take_while(|c| c.is_alphanumeric() || "_:".contains(*c)).collect();
        imports.extend(absolute(module, path.trim_end_matches(':'), modules));
    }
    Source { imports, exports }
}

/// `a::{b, c::d}` as `a::b` and `a::c::d`.
fn leaves(tree: &str) -> Vec<String> {
    let Some((front, rest)) = tree.split_once('{') else {
        return vec![tree.split(" as ").next().unwrap().trim().to_owned()];
    };
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in rest.trim_end().strip_suffix('}').unwrap_or(rest).chars() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        match c {
            ',' if depth == 0 => parts.push(String::new()),
            c => parts.last_mut().unwrap().push(c),
        }
    }
    let parts = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty());
    let inner = parts.flat_map(leaves);
    inner
        .map(|leaf| if leaf == "self" { front.trim_end_matches(':').to_owned() } else { format!("{front}{leaf}") })
        .collect()
}

/// The path from the crate's root; None where it leads out of the crate.
fn absolute(module: &Module, path: &str, modules: &BTreeSet<Module>) -> Option<Module> {
    let mut parts = path.split("::").map(|part| part.trim().to_owned()).peekable();
    let mut from = module.clone();
    match parts.peek()?.as_str() {
        "crate" => {
            parts.next();
            from.clear();
        }
        "self" => drop(parts.next()),
        "super" => {
            while parts.next_if_eq("super").is_some() {
                from.pop();
            }
        }
        first => {
            from.push(first.to_owned());
            if !modules.contains(&from) {
                return None;
            }
            from.pop();
        }
    }
    from.extend(parts);
    Some(from)
}

/// The file in which a path ends, through what files between export on.
fn file_of(path: &Module, sources: &BTreeMap<Module, Source>, steps: usize) -> Option<Module> {
    let (module, source) = (1..=path.len()).rev().find_map(|end| sources.get_key_value(&path[..end]))?;
    let next =
        path.get(module.len()).and_then(|name| source.exports.get(name)).filter(|next| *next != path && steps < 8);
    next.and_then(|next| file_of(next, sources, steps + 1)).or_else(|| Some(module.clone()))
}

/// File -> the files that it imports, but those above and below it.
fn arrows(sources: &BTreeMap<Module, Source>) -> BTreeMap<Module, BTreeSet<Module>> {
    let mut arrows = BTreeMap::new();
    for (module, source) in sources {
        let targets = source.imports.iter().filter_map(|path| file_of(path, sources, 0));
        let others = targets.filter(|target| !module.starts_with(target) && !target.starts_with(module));
        arrows.insert(module.clone(), others.collect());
    }
    arrows
}

fn floor(module: &Module) -> usize {
    let place = FLOORS.iter().position(|floor| floor.contains(&module[0].as_str()));
    place.unwrap_or_else(|| panic!("src/{} stands on no floor: give it one in {}", module[0], file!()))
}

#[test]
fn arrows_between_modules_point_down() {
    let sources = sources();
    let mut wrong = BTreeSet::new();
    for (module, targets) in arrows(&sources) {
        for target in targets.iter().filter(|target| target[0] != module[0]) {
            if floor(target) >= floor(&module) {
                wrong.insert(format!("{} imports {}", module.join("::"), target.join("::")));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let sources = sources();
    let mut arrows = arrows(&sources);
    assert!(arrows.len() > 100 && arrows.values().map(BTreeSet::len).sum::<usize>() > 300, "the imports were not read");
    // Whoever imports nothing that is left is in no circle.
    loop {
        let done: BTreeSet<Module> =
            arrows.iter().filter(|(_, targets)| targets.is_empty()).map(|(module, _)| module.clone()).collect();
        if done.is_empty() {
            break;
        }
        arrows.retain(|module, _| !done.contains(module));
        arrows.values_mut().for_each(|targets| targets.retain(|target| !done.contains(target)));
    }
    // Nor whoever nobody imports who is left.
    loop {
        let imported: BTreeSet<Module> = arrows.values().flatten().cloned().collect();
        let before = arrows.len();
        arrows.retain(|module, _| imported.contains(module));
        if arrows.len() == before {
            break;
        }
    }
    let circle: Vec<String> = arrows
        .iter()
        .map(|(module, targets)| {
            let targets: Vec<String> = targets.iter().map(|target| target.join("::")).collect();
            format!("{} -> {}", module.join("::"), targets.join(", "))
        })
        .collect();
    assert!(circle.is_empty(), "{circle:#?}");
}
