//! The command line, which is that of the stock server and more: every setting is an option, named after its key.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use crate::config::{CONFIG_VARIABLE, CommandLine, Kind, STORE_SETTINGS, Setting, settings, without_password};
use clap::builder::{PossibleValuesParser, ValueParser};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

/// The stock server's options of one dash and several letters, which clap does not know.
const ALIASES: [(&str, &str); 5] = [
    ("-lp", "--logging-paths"),
    ("-lcf", "--logging-config-file"),
    ("-ll", "--logging-level"),
    ("-tc", "--tls-cert"),
    ("-tk", "--tls-key"),
];

/// The only setting that is an argument and not an option.
const POSITIONAL: &str = "bind_address";

/// Reads the arguments of the server's process.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> CommandLine {
    command_line(&mut matches(command(), &without_aliases(arguments)))
}

/// As `parse`, for a program of which the server is the subcommand `serve`, with which the arguments begin.
pub fn parse_serve(program: &str, arguments: impl IntoIterator<Item = OsString>) -> CommandLine {
    let command = command().bin_name(format!("{program} serve"));
    command_line(&mut matches(command, &without_aliases(arguments)))
}

/// What the arguments say to this command. Prints help, version or what is wrong with them, without passwords, and exits, where that is all there
/// is to do.
pub fn matches(command: Command, arguments: &[OsString]) -> ArgMatches {
    command.try_get_matches_from(arguments).unwrap_or_else(|error| {
        if error.exit_code() == 0 {
            error.exit();
        }
        let _ = write!(std::io::stderr(), "{}", shown(&error.to_string(), arguments));
        std::process::exit(error.exit_code())
    })
}

/// The settings among what the arguments say.
pub fn command_line(matches: &mut ArgMatches) -> CommandLine {
    let config = matches.try_remove_one::<PathBuf>("config").unwrap_or_default(); // a command without that option
    let mut command_line = CommandLine { config, ..CommandLine::default() };
    // A command without that option.
    command_line.clear = matches.try_get_one::<bool>("clear").ok().flatten().is_some_and(|clear| *clear);
    for setting in settings() {
        // Not every command has every setting.
        if let Ok(Some(words)) = matches.try_remove_many::<String>(setting.key) {
            command_line.settings.insert(setting.key, words.collect());
        }
    }
    command_line
}

/// The options that say which store to work on: the config file, and the settings of the store.
pub fn store_arguments() -> impl Iterator<Item = Arg> {
    let settings = STORE_SETTINGS.iter().map(argument);
    std::iter::once(config_argument()).chain(settings).map(|it| it.help_heading("Settings of the store"))
}

fn config_argument() -> Arg {
    Arg::new("config")
        .long("config")
        .short('c')
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help(format!("The config file, in TOML [environment: {CONFIG_VARIABLE}]"))
}

/// The descriptor that a keeper is started with, by an attached process and by nobody else.
pub fn keeper_descriptor(arguments: impl IntoIterator<Item = OsString>) -> Option<i32> {
    let mut arguments = arguments.into_iter().skip(1);
    let is_keeper = arguments.next()? == "--keeper";
    let descriptor = arguments.next()?.to_str()?.parse().ok()?;
    is_keeper.then_some(descriptor)
}

/// The server's command.
pub fn command() -> Command {
    Command::new("scaler_object_storage_server")
        .version(env!("CARGO_PKG_VERSION"))
        .about("An object storage server for OpenGRIS Scaler whose objects survive a crash")
        .after_help(
            "The command line goes over the environment, the environment over the config file. Names in the config file are \
             those of the environment without the prefix, in lower case, in [object_storage_server], \
             [object_storage_server.local], [object_storage_server.memory] and [object_storage_server.redis]. Everyone on the \
             machine can read a command line: a url with a password is better given in the environment or in the file.",
        )
        .infer_long_args(true)
        .args_override_self(true)
        .arg(config_argument())
        .arg(Arg::new("clear").long("clear").action(ArgAction::SetTrue).help(
            "Delete every object before serving: what a cluster has left that is gone. With tiered and redis, those of all nodes",
        ))
        .args(settings().map(argument))
}

fn argument(setting: &'static Setting) -> Arg {
    let Setting { help, default, .. } = setting;
    let long = format!("--{}", setting.flag());
    let alias = ALIASES.iter().find(|(_, aliased)| *aliased == long);
    let alias = alias.map(|(alias, _)| format!(" [short: {alias}]")).unwrap_or_default();
    let argument = Arg::new(setting.key)
        .value_name(setting.value_name)
        .value_parser(ValueParser::string())
        .action(ArgAction::Set)
        .help(format!("{help}{alias} [default: {default}] [environment: {}]", setting.variable()));
    let argument = match setting.kind {
        Kind::Choice(words) => argument.value_parser(PossibleValuesParser::new(words)).ignore_case(true),
        Kind::Paths => argument.num_args(0..),
        _ => argument,
    };
    if setting.key == POSITIONAL { argument } else { argument.long(setting.flag()) }
}

/// What clap says about the arguments, which it quotes, without the password in any of them.
fn shown(error: &str, arguments: &[OsString]) -> String {
    let values =
        arguments.iter().filter_map(|argument| argument.to_str()).map(|argument| match argument.split_once('=') {
            Some((name, value)) if name.starts_with('-') => value,
            _ => argument,
        });
    values.fold(error.to_string(), |error, value| match without_password(value) {
        unchanged if unchanged == value => error,
        without => error.replace(value, &without),
    })
}

/// Writes the long option for each alias, alone or before `=`, up to `--`.
fn without_aliases(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut all_positional = false;
    let long = |argument: OsString| {
        all_positional |= argument == "--";
        if all_positional {
            return argument;
        }
        let text = argument.to_str().unwrap_or_default();
        let (name, value) = text.split_at(text.find('=').unwrap_or(text.len()));
        let alias = ALIASES.iter().find(|(alias, _)| *alias == name);
        alias.map(|(_, long)| format!("{long}{value}").into()).unwrap_or(argument)
    };
    arguments.into_iter().map(long).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn aliases_become_long_options_up_to_the_double_dash() {
        let given = ["server", "-ll", "DEBUG", "-lp=a", "-c", "-lcf", "f", "--", "-tc"].map(OsString::from);
        let expected = [
            "server",
            "--logging-level",
            "DEBUG",
            "--logging-paths=a",
            "-c",
            "--logging-config-file",
            "f",
            "--",
            "-tc",
        ];
        assert_eq!(without_aliases(given), expected.map(OsString::from));
    }
}
