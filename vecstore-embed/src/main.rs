//! The `vecstore-embed` command.

mod cli;
mod signals;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
