//! The command line: every subcommand with its options.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use clap_complete::{Shell, generate};
use scaler_object_storage::program::cli;

use crate::{Failure, NAME};

const ABOUT_STORE: &str = "The store: a directory, or the url of a Redis. Without one, the store that the settings describe, as for the server.";

const AFTER_HELP: &str = "\
Which store: a directory or a redis:// url on the command line, or the settings of the server (--config FILE, \
SCALER_OBJECT_STORAGE_* in the environment, options such as --local-path), whichever is given, in this order.

A directory that a server or another process keeps is worked on through that process, while it runs. One that nobody keeps is \
read where it stands, and nothing in it is changed by reading.

Examples:
  scaler_object_storage status /var/lib/scaler
  scaler_object_storage list /var/lib/scaler --older-than 2h
  scaler_object_storage verify /var/lib/scaler && echo sound
  scaler_object_storage export /var/lib/scaler --output objects.tar
  scaler_object_storage import redis://host:6379 --input objects.tar
  scaler_object_storage serve tcp://0.0.0.0:2346";

pub fn command() -> Command {
    Command::new(NAME)
        .version(env!("CARGO_PKG_VERSION"))
        .about("An object storage server for OpenGRIS Scaler, and the tools for its data")
        .after_help(AFTER_HELP)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .infer_subcommands(true)
        .subcommand(cli::command().name("serve").about("Serve objects: the same as scaler_object_storage_server"))
        .subcommand(status())
        .subcommand(top())
        .subcommand(list())
        .subcommand(show())
        .subcommand(verify())
        .subcommand(delete())
        .subcommand(clear())
        .subcommand(export())
        .subcommand(import())
        .subcommand(repair())
        .subcommand(bench())
        .subcommand(
            Command::new("completions")
                .about("Print what makes a shell complete this program's command lines")
                .after_help("For bash: scaler_object_storage completions bash > ~/.local/share/bash-completion/completions/scaler_object_storage")
                .arg(Arg::new("shell").value_name("SHELL").required(true).value_parser(value_parser!(Shell)).help("The shell")),
        )
}

/// A subcommand that works on a store, which is its first argument or, with `ids`, an option.
fn on_store(name: &'static str, about: &'static str) -> Command {
    let command = Command::new(name).about(about).infer_long_args(true).args_override_self(true);
    command.args(cli::store_arguments().map(|it| it.hide_short_help(true)))
}

fn store_argument() -> Arg {
    Arg::new("store").value_name("STORE").help(ABOUT_STORE)
}

fn store_option() -> Arg {
    store_argument().long("store").short('s')
}

fn json() -> Arg {
    Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print JSON, one object on each line")
}

fn yes() -> Arg {
    Arg::new("yes").long("yes").short('y').action(ArgAction::SetTrue).help("Do it without asking")
}

fn quiet() -> Arg {
    Arg::new("quiet").long("quiet").short('q').action(ArgAction::SetTrue).help("Show no progress")
}

fn older_than(help: &'static str) -> Arg {
    Arg::new("older-than").long("older-than").value_name("AGE").value_parser(age).help(help)
}

fn ids(help: &'static str) -> Arg {
    Arg::new("id").value_name("ID").help(help)
}

fn text() -> Arg {
    Arg::new("text")
        .long("text")
        .action(ArgAction::SetTrue)
        .help("Ids are given as text, and not in hexadecimal digits as list shows them")
}

const AGES: &str = "AGE is a number with a unit: 90s, 15m, 2h, 7d. The age of an object is the time since its version was given, by the clock of Redis \
where the store has one, otherwise by the machine's. An object without a version (of Scaler's Python backend) has no age.";

const ABOUT_RUNNING: &str = "The running store: its directory, or the metrics address of its server as http://HOST:PORT. Without one, the \
directory that the settings say.";

fn status() -> Command {
    on_store("status", "Show the numbers of a running store")
        .arg(store_argument().help(ABOUT_RUNNING))
        .arg(json())
        .after_help("The exit status is 0 if all is well, 1 if something does not work or nobody could be asked.")
}

fn top() -> Command {
    on_store("top", "Show the numbers of a running store, live in the terminal")
        .arg(store_argument().help(ABOUT_RUNNING))
        .arg(
            Arg::new("every")
                .long("every")
                .value_name("SECONDS")
                .value_parser(value_parser!(u64).range(1..=3600))
                .default_value("1")
                .help("How often they are asked for"),
        )
        .after_help("q, Esc or Ctrl-C ends it.")
}

fn list() -> Command {
    on_store("list", "List objects: id, size, age, state")
        .arg(store_argument())
        .arg(older_than("Only objects that were stored longer ago than this"))
        .arg(Arg::new("limit").long("limit").short('n').value_name("NUMBER").value_parser(value_parser!(u64)).help("At most so many"))
        .arg(json())
        .after_help(format!(
            "{AGES}\n\nStates: kept (here, and shared with nobody), dirty (Redis may lack it), clean (Redis has it), suspect (checked \
             before it is served), remote (in Redis alone), damaged. Of a tiered store, what is on this node is listed; list the url of \
             its Redis for the rest."
        ))
}

fn show() -> Command {
    on_store("show", "Show all that is known of one object")
        .arg(ids("The object").required(true))
        .arg(store_option())
        .arg(text())
        .arg(json())
        .after_help("The exit status is 1 if there is no such object.")
}

fn verify() -> Command {
    on_store("verify", "Compare every object with its checksums; changes nothing")
        .arg(store_argument())
        .arg(json())
        .arg(quiet())
        .after_help(
            "The exit status is 0 if all is sound, 1 if something is damaged, 2 if something could not be checked.",
        )
}

fn delete() -> Command {
    on_store("delete", "Delete objects, also beside a running server")
        .arg(ids("The objects").num_args(1..).required_unless_present("older-than"))
        .arg(older_than("All objects that were stored longer ago than this").conflicts_with("id"))
        .arg(store_option())
        .arg(text())
        .arg(yes())
        .arg(quiet())
        .after_help(AGES)
}

fn clear() -> Command {
    on_store("clear", "Delete every object, also beside a running server")
        .arg(store_argument())
        .arg(yes())
        .after_help("Of a tiered store, every object in its Redis too.")
}

fn export() -> Command {
    on_store("export", "Write all objects, with metadata and versions, to a tar file")
        .arg(store_argument())
        .arg(
            Arg::new("output")
                .long("output")
                .short('o')
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("The file; - or none: the standard output"),
        )
        .arg(quiet())
        .after_help("The exit status is 1 if an object could not be read; the others are in the file.")
}

fn import() -> Command {
    on_store("import", "Store the objects of such a tar file, with the versions that they had")
        .arg(store_argument())
        .arg(
            Arg::new("input")
                .long("input")
                .short('i')
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("The file; - or none: the standard input"),
        )
        .arg(
            Arg::new("as-new")
                .long("as-new")
                .action(ArgAction::SetTrue)
                .help("Store them as written now: they replace what stands, and a running server can take them"),
        )
        .arg(quiet())
        .after_help("What stands in the store in the same version or a later one stays.")
}

fn repair() -> Command {
    on_store("repair", "Say what opening a directory would repair, and do it")
        .arg(store_argument())
        .arg(Arg::new("dry-run").long("dry-run").action(ArgAction::SetTrue).help("Only say it"))
        .arg(yes())
        .arg(json())
}

fn bench() -> Command {
    on_store("bench", "Measure puts, hits and the way to Redis on this machine, in about ten seconds")
        .arg(
            Arg::new("directory")
                .long("directory")
                .value_name("DIRECTORY")
                .value_parser(value_parser!(PathBuf))
                .help("Where to write: a directory is made in it and removed [default: that of the store's directory, or the system's for temporary files]"),
        )
        .arg(
            Arg::new("seconds")
                .long("seconds")
                .value_name("SECONDS")
                .value_parser(value_parser!(u64).range(1..=3600))
                .default_value("10")
                .help("How long it may take"),
        )
        .arg(json())
}

/// `90s`, `15m`, `2h`, `7d`; seconds without a unit.
fn age(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("", 1000)];
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = text.get(digits.len()..).unwrap_or_default();
    let scale = units.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale);
    let milliseconds = digits.parse::<u64>().ok().zip(scale).and_then(|(number, scale)| number.checked_mul(scale));
    milliseconds.map(Duration::from_millis).ok_or_else(|| "an age is a number with a unit: 90s, 15m, 2h, 7d".to_owned())
}

/// Whether an option without a value was given.
pub fn has(matches: &ArgMatches, name: &str) -> bool {
    matches.get_flag(name)
}

pub fn completions(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    let shell = matches.get_one::<Shell>("shell").copied().ok_or("which shell?")?;
    let mut script = Vec::new();
    generate(shell, &mut command(), NAME, &mut script);
    crate::output::write(&script)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_commands_are_consistent() {
        command().debug_assert();
    }

    #[test]
    fn ages_have_units() {
        let seconds = |text| age(text).map(|age| age.as_secs_f64());
        assert_eq!(seconds("90s"), Ok(90.0));
        assert_eq!(seconds("90"), Ok(90.0));
        assert_eq!(seconds("250ms"), Ok(0.25));
        assert_eq!([seconds("15m"), seconds("2h"), seconds("7d")], [Ok(900.0), Ok(7200.0), Ok(604_800.0)]);
        for wrong in ["", "h", "-5s", "1.5h", "3w", "99999999999999999d"] {
            assert!(age(wrong).is_err(), "{wrong}");
        }
    }
}
