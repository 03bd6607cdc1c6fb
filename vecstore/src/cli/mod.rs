//! The command line: commands, their options, errors and exit codes.
//!
//! Exit codes: 0 done (`verify`: whole), 1 failed (`verify`: faults, `get`: no such key), 2 wrong use, 130
//! stopped by a signal.

mod calendar;
mod commands;
mod manage;
mod output;
mod repair;
mod watched;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use vecstore::{Address, DType, Metric, ReadOptions, Reader, one_line};

/// A durable store for embeddings.
#[derive(Debug, Parser)]
#[command(name = "vecstore", version, about, after_help = EXAMPLES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Write more to stderr (-v: verified files and checkpoints, -vv: everything).
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

const EXAMPLES: &str = "\
Examples:
  vecstore create photos.vecs --dim 512 --dtype f16
  vecstore info photos.vecs
  vecstore verify photos.vecs || vecstore repair photos.vecs --dry-run
  vecstore search photos.vecs --like holiday/beach.jpg -k 5 --json

Exit codes: 0 done, 1 failed or not whole or not found, 2 wrong use, 130 stopped (Ctrl-C).";

#[derive(Debug, Subcommand)]
enum Command {
    /// Create an empty store, at a new path or in an empty directory (a mounted drive may hold lost+found).
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
    /// Show the settings and totals of a store.
    #[command(after_help = "Example:\n  vecstore info photos.vecs --json")]
    Info(Source),
    /// Read and check every byte; exit 0 if the store is whole, else list each fault and exit 1.
    #[command(after_help = "Example:\n  vecstore verify photos.vecs && echo whole")]
    Verify(Target),
    /// Make a damaged store whole: keep intact entries, move damaged files to quarantine/, list lost keys.
    #[command(
        after_help = "Reads every byte. Damaged, foreign and misplaced files are moved to quarantine/, never \
            deleted; new\nfiles with all intact entries take their place; a missing manifest is rebuilt. \
            Lost keys are\nprinted, and listed beside the damaged file, one per line: embed them again. \
            Stop all\nwriters of the store first.\n\nExamples:\n  vecstore repair photos.vecs --dry-run   # \
            only show what it would do\n  vecstore repair photos.vecs && vecstore verify photos.vecs\n  \
            vecstore repair photos.vecs --json | jq -r '.lost_keys[].key' > again.txt"
    )]
    Repair {
        #[command(flatten)]
        target: Target,
        /// Show what a repair would do, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Show the entry of a key, or the row at an address; exit 1 if there is none.
    #[command(after_help = "Examples:\n  vecstore get photos.vecs holiday/beach.jpg --json\n  \
                            vecstore get photos.vecs --address 17:3")]
    Get {
        #[command(flatten)]
        source: Source,
        /// The key.
        #[arg(required_unless_present = "address", conflicts_with = "address")]
        key: Option<OsString>,
        /// The address of a row, as `get` and `search --json` show it.
        #[arg(long, value_name = "COMMIT:ROW")]
        address: Option<Address>,
    },
    /// Delete keys in one durable commit; keys that are not stored are counted, and are no error.
    #[command(
        after_help = "Examples:\n  vecstore delete photos.vecs holiday/beach.jpg holiday/dunes.jpg\n  \
                            vecstore delete photos.vecs --prefix holiday/"
    )]
    Delete {
        #[command(flatten)]
        target: Target,
        /// The keys.
        #[arg(required_unless_present = "prefix", conflicts_with = "prefix")]
        keys: Vec<OsString>,
        /// Delete all keys with this prefix; scans every key of the store.
        #[arg(long)]
        prefix: Option<OsString>,
    },
    /// Merge segments into few files, without superseded and deleted entries.
    #[command(
        after_help = "Writers and readers may continue meanwhile; addresses do not change.\n\nExamples:\n  \
            vecstore compact photos.vecs\n  vecstore compact photos.vecs --full   # one .npy of all live \
            rows, in commit order"
    )]
    Compact {
        #[command(flatten)]
        target: Target,
        /// Merge everything into one segment, whatever its size.
        #[arg(long)]
        full: bool,
    },
    /// Keep the present state of the store as a version, under a name; list, restore or remove versions.
    #[command(
        subcommand_negates_reqs = true,
        args_conflicts_with_subcommands = true,
        after_help = "Examples:\n  vecstore version photos.vecs before-cleanup\n  \
                            vecstore version list photos.vecs\n  \
                            vecstore keys photos.vecs --at before-cleanup\n  \
                            vecstore version restore photos.vecs before-cleanup\n  \
                            vecstore version remove photos.vecs before-cleanup"
    )]
    Version {
        #[command(subcommand)]
        action: Option<VersionAction>,
        /// The store's directory.
        #[arg(required = true)]
        dir: Option<PathBuf>,
        /// Name of the new version.
        #[arg(required = true)]
        name: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Copy the store to a backup; an existing backup receives only new files.
    #[command(
        after_help = "Writers may continue meanwhile. A dated backup (--keep) links the files that it shares \
            with the\nprevious one.\n\nExamples:\n  \
            vecstore backup photos.vecs /mnt/backup/photos.vecs\n  \
            vecstore backup photos.vecs /mnt/backup/photos --keep 7\n  \
            vecstore backup photos.vecs before.vecs --at before-cleanup"
    )]
    Backup {
        #[command(flatten)]
        target: Target,
        /// The backup's directory (with --keep: the directory that holds the dated backups).
        dest: PathBuf,
        /// Make a dated backup below DEST, and keep the newest N of them.
        #[arg(long, value_name = "N")]
        keep: Option<usize>,
        /// Copy the store as of this version.
        #[arg(long, value_name = "VERSION")]
        at: Option<String>,
        /// Link files instead of copying them, if the file system can: takes no space, but does not protect
        /// from bad sectors.
        #[arg(long)]
        link: bool,
    },
    /// Make a new store from a backup; every byte is checked and copied.
    #[command(after_help = "Example:\n  vecstore restore /mnt/backup/photos.vecs photos.vecs")]
    Restore {
        /// The backup.
        backup: PathBuf,
        #[command(flatten)]
        target: Target,
    },
    /// List all keys in commit order, one per line.
    #[command(
        after_help = "Control characters, bytes that are no UTF-8, and the backslash are escaped (\\n, \
            \\u{1b}, \\xff, \\\\), so\nthat every key is one line; --json prints keys as they \
            are, kinds, addresses, and\nattributes (times in microseconds since 1970, UTC).\n\nExamples:\n  \
            vecstore keys photos.vecs | wc -l\n  vecstore keys photos.vecs --kind rejected\n  vecstore keys \
            photos.vecs --prefix holiday/"
    )]
    Keys {
        #[command(flatten)]
        source: Source,
        /// Only entries of this kind: rows, empty or rejected.
        #[arg(long, value_parser = ["rows", "empty", "rejected"])]
        kind: Option<String>,
        /// Only keys with this prefix.
        #[arg(long)]
        prefix: Option<OsString>,
    },
    /// List the segment files in reading order: each is a NumPy array.
    #[command(after_help = "Example (Python):\n  rows = [numpy.load(f, mmap_mode=\"r\") for f in files]")]
    Files(Source),
    /// Find the rows nearest to a stored row.
    #[command(after_help = "Example:\n  vecstore search photos.vecs --like holiday/beach.jpg -k 5")]
    Search {
        #[command(flatten)]
        source: Source,
        /// Key of the entry whose row is the query; its own rows are left out of the result.
        #[arg(long)]
        like: OsString,
        /// Number of the row in this entry, from 0.
        #[arg(long, default_value_t = 0)]
        row: usize,
        /// How many rows to show.
        #[arg(short, default_value_t = 10)]
        k: usize,
    },
}

/// Actions on versions.
#[derive(Debug, Subcommand)]
enum VersionAction {
    /// List the versions.
    List(Target),
    /// Restore a version, in one durable commit.
    Restore {
        #[command(flatten)]
        target: Target,
        /// Name of the version.
        name: String,
    },
    /// Remove a version, and the files that only this version needs.
    Remove {
        #[command(flatten)]
        target: Target,
        /// Name of the version.
        name: String,
    },
}

/// A store to read, as it is now or as of a version.
#[derive(Debug, Args)]
struct Source {
    #[command(flatten)]
    target: Target,
    /// Read the store as of this version.
    #[arg(long, value_name = "VERSION")]
    at: Option<String>,
}

impl Source {
    fn open(&self) -> vecstore::Result<Reader> {
        let options = match &self.at {
            Some(name) => ReadOptions::new().at_version(name),
            None => ReadOptions::new(),
        };
        options.open(&self.target.dir)
    }
}

/// The store, and the form of the answer.
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
    // The handler keeps the signal from ending the process: a write beyond the limit on the size of files
    // then fails with an error that names the limit.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default());
    let cli = Cli::parse();
    let level = match cli.verbose {
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Info,
        _ => log::LevelFilter::Trace,
    };
    let mut logger = env_logger::Builder::new();
    logger.format(|out, record| {
        let message = one_line(&record.args().to_string());
        writeln!(out, "[{:<5} {}] {message}", record.level(), record.target())
    });
    logger.filter_level(level).parse_default_env().init();
    match commands::run(cli.command) {
        Ok(code) => code,
        Err(output::Failure::ClosedPipe) => ExitCode::SUCCESS,
        Err(output::Failure::Stopped(message)) => fail(&message, ExitCode::from(130)),
        Err(output::Failure::Message(message)) => fail(&message, ExitCode::FAILURE),
    }
}

fn fail(message: &str, code: ExitCode) -> ExitCode {
    // `eprintln!` would panic on a closed stderr.
    let _ = std::io::stderr().write_all(format!("error: {}\n", one_line(message)).as_bytes());
    code
}
