//! The command line: what can be asked, and how errors and exit codes come out.
//!
//! Exit codes: 0 done (for `verify`: whole), 1 failed (for `verify`: faults, for `get`: no such key), 2 wrong use.

mod commands;
mod output;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use vecstore::{DType, Metric};

/// A durable store for embeddings.
#[derive(Debug, Parser)]
#[command(name = "vecstore", version, about, after_help = EXAMPLES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Say more on stderr (-v: what is verified and checkpointed, -vv: everything).
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

const EXAMPLES: &str = "\
Examples:
  vecstore create photos.vecs --dim 512 --dtype f16
  vecstore info photos.vecs
  vecstore verify photos.vecs && echo whole
  vecstore search photos.vecs --like holiday/beach.jpg -k 5 --json

Exit codes: 0 done, 1 failed or not whole or not found, 2 wrong use.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Create an empty store.
    #[command(after_help = "Example:\n  vecstore create photos.vecs --dim 512 --dtype f16 --metric cosine")]
    Create {
        #[command(flatten)]
        target: Target,
        /// Elements per vector, 1 to 65536.
        #[arg(long)]
        dim: usize,
        /// Element type: f32, f16, bf16, or i8 (with a scale per row).
        #[arg(long, default_value = "f32")]
        dtype: DType,
        /// How vectors are compared: cosine, dot or l2.
        #[arg(long, default_value = "cosine")]
        metric: Metric,
    },
    /// Show what a store holds.
    #[command(after_help = "Example:\n  vecstore info photos.vecs --json")]
    Info(Target),
    /// Read everything and check every byte; exit 0 when whole, 1 with each fault otherwise.
    #[command(after_help = "Example:\n  vecstore verify photos.vecs && echo whole")]
    Verify(Target),
    /// Rebuild a missing or damaged manifest from the segments.
    #[command(after_help = "Nothing is deleted: a damaged manifest is moved to quarantine/.\n\nExample:\n  \
                            vecstore repair photos.vecs")]
    Repair(Target),
    /// Show the entry of a key; exit 1 when there is none.
    #[command(after_help = "Example:\n  vecstore get photos.vecs holiday/beach.jpg --json")]
    Get {
        #[command(flatten)]
        target: Target,
        /// The key.
        key: OsString,
    },
    /// List all keys in commit order, one per line.
    #[command(
        after_help = "Examples:\n  vecstore keys photos.vecs | wc -l\n  vecstore keys photos.vecs --kind rejected"
    )]
    Keys {
        #[command(flatten)]
        target: Target,
        /// Only entries of this kind: rows, empty or rejected.
        #[arg(long, value_parser = ["rows", "empty", "rejected"])]
        kind: Option<String>,
    },
    /// List the segment files in reading order: each is a NumPy array.
    #[command(after_help = "Example (Python):\n  rows = [numpy.load(f, mmap_mode=\"r\") for f in files]")]
    Files(Target),
    /// Find the rows nearest to a stored one.
    #[command(after_help = "Example:\n  vecstore search photos.vecs --like holiday/beach.jpg -k 5")]
    Search {
        #[command(flatten)]
        target: Target,
        /// Key whose row is the query; it is left out of the result.
        #[arg(long)]
        like: OsString,
        /// Which row of that entry, from 0.
        #[arg(long, default_value_t = 0)]
        row: usize,
        /// How many rows to show.
        #[arg(short, default_value_t = 10)]
        k: usize,
    },
}

/// The store, and how to answer.
#[derive(Debug, Args)]
struct Target {
    /// The store's directory.
    dir: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command of this process.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let level = match cli.verbose {
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Info,
        _ => log::LevelFilter::Trace,
    };
    env_logger::Builder::new().filter_level(level).parse_default_env().init();
    match commands::run(cli.command) {
        Ok(code) => code,
        Err(output::Failure::ClosedPipe) => ExitCode::SUCCESS,
        Err(output::Failure::Message(message)) => {
            // A closed stderr must not turn an error into a panic.
            let _ =
                std::io::Write::write_all(&mut std::io::stderr(), format!("error: {message}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}
