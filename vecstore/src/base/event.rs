//! Events: background work of a handle, reported to the log and to a callback.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::Error;
use crate::base::sync::Mutex;
use crate::base::sync::atomic::{AtomicBool, Ordering};

/// Work that a handle did, or failed to do, without a call of the user. Each event is also logged.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The manifest was brought up to date: it now lists these commits. Their files exist, with the lengths
    /// that were written.
    #[non_exhaustive]
    Checkpoint {
        /// First newly listed commit.
        first: u64,
        /// Last newly listed commit.
        last: u64,
        /// Number of rows in these commits' segments.
        rows: u64,
        /// Length of these commits' segments in bytes.
        bytes: u64,
    },
    /// A checkpoint failed. Nothing is lost, but the next open has more files to read. The next commit tries
    /// the checkpoint again.
    #[non_exhaustive]
    CheckpointFailed {
        /// Number of consecutive failures.
        attempts: u32,
        /// The last failure.
        error: Error,
    },
    /// Segments were merged.
    #[non_exhaustive]
    Merged {
        /// First commit of the merged segment.
        first: u64,
        /// Last commit of the merged segment.
        last: u64,
        /// Number of segments that were merged.
        segments: usize,
        /// Length of the merged segment in bytes.
        bytes: u64,
    },
    /// A merge found a damaged segment. Merges leave the segment as it is, and reading its damaged parts
    /// fails; [`repair`](crate::repair) replaces it. Reported once.
    #[non_exhaustive]
    Damaged {
        /// The error that names the file and the damaged section.
        error: Error,
    },
    /// A merge failed. Appends are not affected; the merge is tried again later.
    #[non_exhaustive]
    MergeFailed {
        /// Number of consecutive failures.
        attempts: u32,
        /// The last failure.
        error: Error,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Checkpoint { first, last, rows, bytes } => {
                write!(
                    f,
                    "checkpoint: the manifest lists commits {first} to {last} ({rows} rows, {bytes} \
                     bytes)"
                )
            }
            Event::CheckpointFailed { attempts, error } => {
                write!(f, "the checkpoint failed {attempts} time(s), commits are not affected: {error}")
            }
            Event::Merged { first, last, segments, bytes } => {
                write!(
                    f,
                    "merged {segments} segment(s) into one for commits {first} to {last} ({bytes} bytes)"
                )
            }
            Event::Damaged { error } => write!(
                f,
                "{error}; merges leave this segment as it is, and all other segments work: `vecstore \
                 repair` keeps its intact entries"
            ),
            Event::MergeFailed { attempts, error } => {
                write!(f, "merging failed {attempts} time(s), appends are not affected: {error}")
            }
        }
    }
}

impl Event {
    /// A failure is logged as a warning; from the third consecutive failure on, as an error.
    fn level(&self) -> log::Level {
        match self {
            Event::Checkpoint { .. } | Event::Merged { .. } => log::Level::Info,
            Event::CheckpointFailed { attempts: ..3, .. } | Event::MergeFailed { attempts: ..3, .. } => {
                log::Level::Warn
            }
            _ => log::Level::Error,
        }
    }
}

type Callback = dyn Fn(&Event) + Send + Sync;

/// Receives events: logs each one at once, and calls the callback as soon as the delivering thread holds no
/// lock.
#[derive(Clone, Default)]
pub(crate) struct Observer(Option<Arc<Listener>>);

struct Listener {
    callback: Box<Callback>,
    waiting: Mutex<Vec<(PathBuf, Event)>>,
    /// True while a thread calls back. That thread delivers the events of other threads too, in order.
    is_calling: AtomicBool,
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Observer({})", if self.0.is_some() { "callback" } else { "log" })
    }
}

impl Observer {
    pub fn new(callback: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        let (callback, waiting) = (Box::new(callback), Mutex::default());
        Observer(Some(Arc::new(Listener { callback, waiting, is_calling: AtomicBool::new(false) })))
    }

    /// Logs an event, and keeps it for the callback.
    pub fn note(&self, store: &Path, event: &Event) {
        log::log!(event.level(), "{}: {event}", store.display());
        if let Some(listener) = &self.0 {
            listener.waiting.lock().push((store.to_owned(), event.clone()));
        }
    }

    /// Calls back for every event that was kept. The caller holds no lock.
    pub fn deliver(&self) {
        let Some(listener) = &self.0 else { return };
        // Checked again after the flag is reset: another thread may have queued an event meanwhile, and left
        // its delivery to this thread.
        while !listener.waiting.lock().is_empty() && !listener.is_calling.swap(true, Ordering::SeqCst) {
            let events = std::mem::take(&mut *listener.waiting.lock());
            for (store, event) in events {
                // A panic of the callback must not end this thread, which may be the merger's.
                if std::panic::catch_unwind(AssertUnwindSafe(|| (listener.callback)(&event))).is_err() {
                    log::error!("{}: the callback for events ended in a panic", store.display());
                }
            }
            listener.is_calling.store(false, Ordering::SeqCst);
        }
    }
}

#[cfg(all(test, not(vecstore_shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn a_callback_may_cause_events_and_is_called_for_them_afterwards() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let observer = Arc::new(Mutex::new(Observer::default()));
        let (notes, again) = (Arc::clone(&told), Arc::clone(&observer));
        let event = |first| Event::Checkpoint { first, last: first, rows: 0, bytes: 0 };
        *observer.lock() = Observer::new(move |event| {
            let Event::Checkpoint { first, .. } = event else { return };
            notes.lock().push(*first);
            if *first < 3 {
                let observer = again.lock().clone();
                observer.note(
                    Path::new("s"),
                    &Event::Checkpoint { first: first + 1, last: 0, rows: 0, bytes: 0 },
                );
                observer.deliver();
                assert_eq!(notes.lock().last(), Some(first), "called back inside a callback");
            }
        });
        let observer = observer.lock().clone();
        observer.note(Path::new("s"), &event(1));
        assert!(told.lock().is_empty(), "only kept");
        observer.deliver();
        assert_eq!(*told.lock(), [1, 2, 3]);
    }
}
