//! The tools for a store's data, and the server: `scaler_object_storage --help` says which there are.

mod archive;
mod arguments;
mod ask;
mod bench;
mod listing;
mod output;
mod progress;
mod removing;
mod repair;
mod source;
mod status;
mod top;
mod transfer;
mod verify;

use std::error::Error;
use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use scaler_object_storage::program::{self, cli};

const NAME: &str = "scaler_object_storage";

type Failure = Box<dyn Error>;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some(descriptor) = cli::keeper_descriptor(arguments.iter().cloned()) {
        return program::exit(NAME, program::keeper(descriptor));
    }
    if arguments.get(1).is_some_and(|word| word == "serve") {
        let command_line = cli::parse_serve(NAME, arguments.into_iter().skip(1));
        return program::exit(NAME, program::serve(&command_line));
    }
    let mut matches = cli::matches(arguments::command(), &arguments);
    log_to_stderr();
    let Some((name, mut matches)) = matches.remove_subcommand() else { return ExitCode::FAILURE };
    let ended = match name.as_str() {
        "status" => status::status(&mut matches),
        "top" => top::top(&mut matches),
        "list" => listing::list(&mut matches),
        "show" => listing::show(&mut matches),
        "verify" => verify::verify(&mut matches),
        "delete" => removing::delete(&mut matches),
        "clear" => removing::clear(&mut matches),
        "export" => transfer::export(&mut matches),
        "import" => transfer::import(&mut matches),
        "repair" => repair::repair(&mut matches),
        "bench" => bench::bench(&mut matches),
        _ => arguments::completions(&matches),
    };
    match ended {
        Ok(status) => status,
        // Whoever reads the output has seen enough.
        Err(failure) if is_broken_pipe(&*failure) => ExitCode::SUCCESS,
        Err(failure) => {
            program::exit(NAME, Err(failure));
            // Of `verify`, 1 says that something is damaged.
            if name == "verify" { ExitCode::from(verify::UNKNOWN) } else { ExitCode::FAILURE }
        }
    }
}

fn is_broken_pipe(failure: &(dyn Error + 'static)) -> bool {
    failure.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// What the store warns of.
fn log_to_stderr() {
    let subscriber =
        tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false).without_time().with_target(false);
    subscriber.with_max_level(tracing::Level::WARN).init();
}
