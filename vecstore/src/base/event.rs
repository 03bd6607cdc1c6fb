//! What a store does besides appending, told to the log and to a callback.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::Error;
use crate::base::sync::Mutex;
use crate::base::sync::atomic::{AtomicBool, Ordering};

/// Something a handle did, or failed to do, on its own account. Each is logged too.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The manifest was brought up to date: these commits are listed, and their files were seen to be there,
    /// with the length they were written with.
    #[non_exhaustive]
    Checkpoint {
        /// First newly listed commit.
        first: u64,
        /// Last newly listed commit.
        last: u64,
        /// Rows of these commits' segments.
        rows: u64,
        /// Bytes of these commits' segments.
        bytes: u64,
    },
    /// A checkpoint failed. Nothing is lost, but the next open has more files to read; it is tried again
    /// after the next commit.
    #[non_exhaustive]
    CheckpointFailed {
        /// How many failed in a row.
        attempts: u32,
        /// The last failure.
        error: Error,
    },
    /// Segments were merged.
    #[non_exhaustive]
    Merged {
        /// First commit of the output.
        first: u64,
        /// Last commit of the output.
        last: u64,
        /// How many segments became one.
        segments: usize,
        /// Length of the output.
        bytes: u64,
    },
    /// A merge has found a segment damaged. It stays as it is, merges go around it, and reading it fails
    /// where it is damaged; `vecstore repair` mends it. Told once.
    #[non_exhaustive]
    Damaged {
        /// Which file, and where.
        error: Error,
    },
    /// A merge failed. Appends go on; it is tried again later.
    #[non_exhaustive]
    MergeFailed {
        /// How many failed in a row.
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
                    "checkpoint: commits {first} to {last} are in place and listed ({rows} rows, {bytes} \
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
                "{error}; merges leave this segment as it is, and the store works: `vecstore repair` keeps \
                 what is intact of it"
            ),
            Event::MergeFailed { attempts, error } => {
                write!(f, "merging failed {attempts} time(s), appends are not affected: {error}")
            }
        }
    }
}

impl Event {
    /// A failure is a warning at first, an error from the third in a row on.
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

/// Where events go: to the log at once, and to a callback once the thread that delivers them holds no lock.
#[derive(Clone, Default)]
pub(crate) struct Observer(Option<Arc<Listener>>);

struct Listener {
    callback: Box<Callback>,
    waiting: Mutex<Vec<(PathBuf, Event)>>,
    /// A thread is calling back: it delivers the events of other threads too, in their order.
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
        // A thread that comes too late for the current round looks again once the flag is down.
        while !listener.waiting.lock().is_empty() && !listener.is_calling.swap(true, Ordering::SeqCst) {
            let events = std::mem::take(&mut *listener.waiting.lock());
            for (store, event) in events {
                // A panic must not end the thread, which may be the merger's.
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
