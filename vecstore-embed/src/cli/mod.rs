//! The command line: options in, exit codes out. The work is done by the library.

mod display;
mod doctor;
mod hints;
mod logging;
mod logs;
mod metrics;
mod model_args;
mod models_dir;
mod output;
mod registration;
mod retry;
mod run;
mod search;
mod settings;
mod signals;
mod start;
mod status;
mod stop;
mod summary;
mod verify;

use std::env;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Stopped before the end, or inputs are left that could not be read: run again. `EX_TEMPFAIL` of sysexits.h.
const EXIT_RUN_AGAIN: u8 = 75;
/// `EX_IOERR` of sysexits.h.
const EXIT_SAVE: u8 = 74;
const EXIT_FAILED: u8 = 1;

const EXIT_CODES: &str = "\
Exit codes:
  0   every input is accounted for (embedded now or before, or recorded as rejected)
  1   failed: the message says what, and what to do
  2   wrong use of the command line
  74  what was computed could not be saved, however often it was tried; run again once that is mended
  75  stopped before the end, or some files could not be read: run the same command again
  130, 143  ended at once by a second SIGINT or SIGTERM; nothing that was committed is lost";

/// Embeds folders of pictures into a durable, searchable store.
///
/// Pictures become vectors, vectors become a store: a folder of NumPy files with checksums. An interrupted
/// run goes on where it stopped, and nothing is embedded twice.
#[derive(Debug, Parser)]
#[command(name = "vecstore-embed", version, after_help = EXIT_CODES)]
#[command(max_term_width = 110, subcommand_required = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Say more on stderr: each rejected or unreadable file; twice for details of the libraries
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Read options from this TOML file
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::RunArgs>),
    Start(Box<start::StartArgs>),
    Stop(stop::StopArgs),
    Logs(logs::LogsArgs),
    Retry(retry::RetryArgs),
    Verify(Box<verify::VerifyArgs>),
    Doctor(Box<doctor::DoctorArgs>),
    Search(Box<search::SearchArgs>),
    Status(status::StatusArgs),
}

/// Parses the command line and does what it says.
pub(crate) fn main() -> ExitCode {
    signals::outlive_file_limit();
    let cli = settings::parse(env::args_os().collect()).unwrap_or_else(|error| error.exit());
    let quiet = matches!(&cli.command, Command::Run(run) if run.quiet)
        || matches!(&cli.command, Command::Start(start) if start.run.quiet);
    let display = display::Display::new(quiet);
    logging::start(cli.verbose, quiet, &display);
    let result = match cli.command {
        Command::Run(args) => run::run(&args, &display),
        Command::Start(args) => start::start(&args, &display),
        Command::Stop(args) => stop::stop(&args),
        Command::Logs(args) => logs::logs(&args),
        Command::Retry(args) => retry::retry(&args),
        Command::Verify(args) => verify::verify(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Search(args) => search::search(&args),
        Command::Status(args) => status::status(&args),
    };
    let code = result.unwrap_or_else(|error| {
        display.close();
        // With stderr closed the exit code alone says it.
        let _ = writeln!(io::stderr(), "error: {}", vecstore::one_line(&error.to_string()));
        error.exit_code()
    });
    code.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        settings::command().debug_assert();
    }

    #[test]
    fn every_command_shows_examples() {
        for command in settings::command().get_subcommands() {
            let help = command.clone().render_long_help().to_string();
            assert!(help.contains("Examples:\n  vecstore-embed "), "{}", command.get_name());
        }
    }
}
