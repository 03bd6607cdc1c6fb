//! Waits until mergers have looked for files to merge: each look is a line in the log.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Condvar, Mutex, Once};
use std::time::Duration;

/// A wait for a look that takes longer than this is a hang.
const HANG: Duration = Duration::from_secs(300);

/// Looks of each store's mergers: for each look, the number of commits that the handle had made.
struct Looks {
    seen: Mutex<Option<HashMap<String, Vec<usize>>>>,
    more: Condvar,
}

static LOOKS: Looks = Looks { seen: Mutex::new(None), more: Condvar::new() };

impl log::Log for Looks {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target() == "vecstore::handle::merger"
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) || record.level() != log::Level::Trace {
            return;
        }
        let text = record.args().to_string();
        let (path, commits) = text.split_once(": looked for files to merge after ").expect("it says so");
        let commits = commits.split(' ').next().and_then(|number| number.parse().ok()).expect("a number");
        let mut seen = self.seen.lock().unwrap();
        seen.get_or_insert_default().entry(path.to_owned()).or_default().push(commits);
        self.more.notify_all();
    }

    fn flush(&self) {}
}

/// Notes looks from now on.
pub fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&LOOKS).expect("there is no other logger");
        log::set_max_level(log::LevelFilter::Trace);
    });
}

/// Waits until mergers of this store have looked `times` times after the handle had made `commits` commits.
pub fn wait(store: &Path, commits: usize, times: usize) {
    let store = store.display().to_string();
    let is_less = |seen: &mut Option<HashMap<String, Vec<usize>>>| {
        let looks = seen.as_ref().and_then(|seen| seen.get(&store));
        looks.is_none_or(|looks| looks.iter().filter(|at| **at >= commits).count() < times)
    };
    let seen = LOOKS.seen.lock().unwrap();
    let (_seen, timeout) = LOOKS.more.wait_timeout_while(seen, HANG, is_less).unwrap();
    assert!(!timeout.timed_out(), "the merger does not look");
}
