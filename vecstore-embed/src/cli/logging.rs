//! Log lines go to stderr, above the progress bar, and into the log of the run.

use std::io::{self, Write};

use env_logger::{Builder, Target, WriteStyle};
use log::{Level, LevelFilter, Log, Metadata, Record};
use vecstore::one_line;

use super::display::Display;

/// Both places.
struct Tee {
    stderr: env_logger::Logger,
    display: Display,
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
            self.display.log(record.level(), &record.args().to_string());
        }
    }

    fn flush(&self) {
        self.stderr.flush();
    }
}

/// Starts the logger: warnings, errors alone where a command is to be quiet; with `-v` what happens to single
/// files, with `-vv` details of the libraries. `RUST_LOG` overrides all of it.
pub(crate) fn start(verbose: u8, quiet: bool, display: &Display) {
    let mut builder = Builder::new();
    builder.filter_level(match (verbose, quiet) {
        (0, true) => LevelFilter::Error,
        (0 | 1, _) => LevelFilter::Warn,
        _ => LevelFilter::Debug,
    });
    if verbose == 1 {
        for ours in ["vecstore", "vecstore_embed"] {
            builder.filter_module(ours, LevelFilter::Info);
        }
    }
    let above_bar = Target::Pipe(Box::new(AboveBar(display.clone())));
    builder.parse_default_env().write_style(WriteStyle::Never).format_indent(None);
    builder.format_target(verbose > 1).target(above_bar);
    let stderr = builder.build();
    log::set_max_level(stderr.filter().max(LevelFilter::Info));
    // Fails only when a logger is there already, and then that one is as good.
    let _ = log::set_boxed_logger(Box::new(Tee { stderr, display: display.clone() }));
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
