//! The object storage server: see the README.

use std::process::ExitCode;

fn main() -> ExitCode {
    scaler_object_storage::program::server(std::env::args_os())
}
