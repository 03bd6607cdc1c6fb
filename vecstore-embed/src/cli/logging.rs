//! Log lines go to stderr, above the progress bar.

use std::io::{self, Write};

use env_logger::{Builder, Target, WriteStyle};
use log::LevelFilter;

use super::display::Display;
use super::output::shown;

/// Starts the logger: warnings; with `-v` what happens to single files, with `-vv` details of the libraries.
/// `RUST_LOG` overrides both.
pub(crate) fn start(verbose: u8, display: &Display) {
    let mut builder = Builder::new();
    builder.filter_level(if verbose > 1 { LevelFilter::Debug } else { LevelFilter::Warn });
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
    // Fails only when a logger is there already, and then that one is as good.
    let _ = builder.try_init();
}

struct AboveBar(Display);

impl Write for AboveBar {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // One record at a time, and its only control character is the line end: others come from names of files.
        let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        self.0.above_bar(|| writeln!(io::stderr(), "{}", shown(line)))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
