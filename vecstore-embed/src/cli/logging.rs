//! Log lines go to stderr, above the progress bar, and into the log of the run.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use env_logger::{Builder, Target, WriteStyle};
use log::{Level, LevelFilter, Log, Metadata, Record};
use vecstore::one_line;
use vecstore_embed::runs::LogFile;

use super::display::Display;

/// The log of the run, once there is one.
#[derive(Clone, Default)]
pub(crate) struct RunLog(Arc<Mutex<Option<LogFile>>>);

impl RunLog {
    /// From now on what happens to single files is written there, and whatever goes wrong.
    pub(crate) fn open(&self, file: LogFile) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
    }

    /// Writes a line to it alone.
    pub(crate) fn write(&self, level: Level, message: &str) {
        if let Some(file) = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            // A full disk is no reason to end a run.
            let _ = file.write(level.as_str(), message);
        }
    }
}

/// Both places.
struct Tee {
    stderr: env_logger::Logger,
    file: RunLog,
}

fn is_for_file(metadata: &Metadata<'_>) -> bool {
    let ours = metadata.target().starts_with("vecstore");
    metadata.level() <= if ours { Level::Info } else { Level::Warn }
}

impl Log for Tee {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        is_for_file(metadata) || self.stderr.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        self.stderr.log(record);
        if is_for_file(record.metadata()) {
            self.file.write(record.level(), &record.args().to_string());
        }
    }

    fn flush(&self) {
        self.stderr.flush();
    }
}

/// Starts the logger: warnings, errors alone where a command is to be quiet; with `-v` what happens to single
/// files, with `-vv` details of the libraries. `RUST_LOG` overrides all of it.
pub(crate) fn start(verbose: u8, quiet: bool, display: &Display, file: &RunLog) {
    let mut builder = Builder::new();
    builder.filter_level(match (verbose, quiet) {
        (0, true) => LevelFilter::Error,
        (0 | 1, _) => LevelFilter::Warn,
        _ => LevelFilter::Debug,
    });
    if verbose == 1 {
        builder
            .filter_module("vecstore", LevelFilter::Info)
            .filter_module("vecstore_embed", LevelFilter::Info);
    }
    builder
        .parse_default_env()
        .write_style(WriteStyle::Never)
        .format_indent(None)
        .format_target(verbose > 1)
        .target(Target::Pipe(Box::new(AboveBar(display.clone()))));
    let stderr = builder.build();
    log::set_max_level(stderr.filter().max(LevelFilter::Info));
    // Fails only when a logger is there already, and then that one is as good.
    let _ = log::set_boxed_logger(Box::new(Tee { stderr, file: file.clone() }));
}

struct AboveBar(Display);

impl Write for AboveBar {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // One record at a time, and its only control character is the line end: names of files bring others.
        let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        self.0.above_bar(|| writeln!(io::stderr(), "{}", one_line(&String::from_utf8_lossy(line))))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
