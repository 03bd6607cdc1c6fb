//! Long operations: a line of progress on a terminal, and a clean end on Ctrl-C.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use vecstore::Progress;

use super::output::{Failure, bytes};

/// Interval at which the progress is polled.
const LOOK: Duration = Duration::from_millis(100);

/// Runs an operation that reports its progress, and stops it on the first SIGINT or SIGTERM; a second signal
/// ends the process.
pub fn watched<T: Send>(
    what: &str,
    is_quiet: bool,
    work: impl FnOnce(&Progress) -> vecstore::Result<T> + Send,
) -> Result<T, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        let registered = signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)));
        if let Err(error) = registered {
            log::debug!("signal {signal} ends the process at once: {error}");
        }
    }
    let (progress, shows) = (Progress::new(), io::stderr().is_terminal() && !is_quiet);
    let outcome = std::thread::scope(|scope| {
        let (done, is_done) = std::sync::mpsc::channel::<()>();
        let progress = &progress;
        let working = scope.spawn(move || {
            // Dropped when the work ends, even by a panic.
            let _done = done;
            work(progress)
        });
        while is_done.recv_timeout(LOOK) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            if stop.load(Ordering::Relaxed) {
                progress.stop();
            }
            if shows {
                let percent = progress.done() * 100 / progress.total().max(1);
                let (done, total) = (bytes(progress.done()), bytes(progress.total()));
                let _ = write!(io::stderr(), "\r{what}: {percent} % ({done} of {total})\x1b[K");
            }
        }
        working.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    if shows {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
    match outcome {
        Err(error @ vecstore::Error::Interrupted { .. }) if stop.load(Ordering::Relaxed) => {
            Err(Failure::Stopped(error.to_string()))
        }
        outcome => Ok(outcome?),
    }
}
