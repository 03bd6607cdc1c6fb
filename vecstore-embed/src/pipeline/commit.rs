//! Last stage, on one thread: batches become durable.
//!
//! Vectors are committed while the models work on the next batches. A batch counts as done only when the
//! store has acknowledged it, so what the progress shows is what a power cut leaves.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::entry::Done;
use super::report::{Clock, Doing};
use super::save::Saver;
use crate::base::Result;

/// Longest time that something finished waits for company. So much of a run's work a power cut may cost,
/// beside what is in flight.
const PATIENCE: Duration = Duration::from_secs(2);

/// Appends everything until there is no more: whenever there are `rows` vectors (or as many inputs), and
/// after two seconds whatever there is.
pub(crate) fn commit(
    outputs: &Receiver<Vec<Done>>,
    mut saver: Saver<'_>,
    rows: usize,
    clock: &Clock,
) -> Result<()> {
    let mut pending: Vec<Done> = Vec::new();
    let mut due = None;
    loop {
        clock.switch(Doing::WaitingForInput);
        let received = match due {
            None => outputs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(due) => outputs.recv_deadline(due),
        };
        clock.switch(Doing::Working);
        let ended = matches!(received, Err(RecvTimeoutError::Disconnected));
        let late = matches!(received, Err(RecvTimeoutError::Timeout));
        if let Ok(output) = received {
            pending.extend(output);
            due.get_or_insert_with(|| Instant::now() + PATIENCE);
        }
        let vectors = pending.iter().map(Done::rows).sum::<usize>();
        let enough = vectors >= rows || pending.len() >= rows;
        if (enough || late || ended) && !pending.is_empty() {
            saver.save(std::mem::take(&mut pending))?;
            due = None;
        }
        if ended {
            clock.switch(Doing::Nothing);
            return Ok(());
        }
    }
}
