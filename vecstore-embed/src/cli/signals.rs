//! SIGINT and SIGTERM: the first asks the run to finish what is in flight, the second ends it on the spot.
//! And SIGXFSZ, which ends nothing.

use std::io;
use std::sync::Arc;

use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;
use vecstore_embed::StopFlag;

/// Beyond the limit on the size of files a write fails, and the error says so; the signal would end the
/// process.
pub(crate) fn outlive_file_limit() {
    if let Err(error) = flag::register(SIGXFSZ, Arc::default()) {
        log::debug!("SIGXFSZ ends this process: {error}");
    }
}

/// Installs the handlers.
pub(crate) fn install(stop: &StopFlag) -> io::Result<()> {
    for (signal, exit_code) in [(SIGINT, 130), (SIGTERM, 143)] {
        // Handlers run in the order they were registered in: the first signal finds the flag down and raises
        // it, the second finds it up and ends the process, whatever state its threads are in.
        flag::register_conditional_shutdown(signal, exit_code, stop.shared())?;
        flag::register(signal, stop.shared())?;
    }
    Ok(())
}
