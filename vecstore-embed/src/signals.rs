//! SIGINT and SIGTERM: the first asks the run to finish what is in flight, the second ends it on the spot.

use std::io;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use vecstore_embed::StopFlag;

/// Installs the handlers.
pub(crate) fn install(stop: &StopFlag) -> io::Result<()> {
    for (signal, exit_code) in [(SIGINT, 130), (SIGTERM, 143)] {
        // Handlers run in the order they were registered in: the first signal finds the flag down and raises it,
        // the second finds it up and ends the process, whatever state its threads are in.
        flag::register_conditional_shutdown(signal, exit_code, stop.shared())?;
        flag::register(signal, stop.shared())?;
    }
    Ok(())
}
