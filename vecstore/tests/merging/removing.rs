//! Merge inputs that are removed slowly, beside a thread that appends.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::ThreadId;
use std::time::Duration;

use crate::common::hooked::Hooked;
use vecstore::{OnDuplicate, OpenOptions, Store, StoreConfig};

/// A removal that waits for appends longer than this counts as a hang.
const HANG: Duration = Duration::from_secs(300);

/// Progress of the thread that appends.
struct Appends {
    thread: ThreadId,
    /// The thread that holds the commit lock.
    holder: Option<ThreadId>,
    done: usize,
    /// Times the appending thread has read the manifest since its last append.
    looks: usize,
    /// No more appends will come.
    over: bool,
}

impl Appends {
    /// True if the append waits for files to be removed: one that does not wait reads the manifest at most
    /// twice.
    fn waits(&self) -> bool {
        self.looks > 4
    }
}

/// State shared by the appending thread and the removals.
struct Shared(Mutex<Appends>, Condvar);

impl Shared {
    fn change(&self, change: impl FnOnce(&mut Appends)) {
        change(&mut self.0.lock().unwrap());
        self.1.notify_all();
    }

    /// Holds a removal until two appends have come in, and a merger that has released LOCK.manifest until
    /// many have, as long as appends do not wait.
    fn hold(&self, call: &str, path: &Path) {
        let this = Some(std::thread::current().id());
        if path.ends_with("LOCK") {
            self.change(|appends| match call {
                "taken" => appends.holder = this,
                // The call is reported after the release: another thread may have the lock already.
                "released" if appends.holder == this => appends.holder = None,
                _ => {}
            });
        }
        let appends = match call {
            "remove" if path.parent().is_some_and(|dir| dir.ends_with("segments")) => 2,
            "released" if path.ends_with("LOCK.manifest") => 60,
            _ => return,
        };
        self.until(appends);
    }

    fn until(&self, more: usize) {
        let appends = self.0.lock().unwrap();
        // No other append comes in while the append itself merges, or waits for the lock that this thread
        // holds.
        let this = std::thread::current().id();
        if appends.thread == this || appends.holder == Some(this) {
            return;
        }
        let enough = appends.done + more;
        let few = |appends: &mut Appends| appends.done < enough && !appends.waits() && !appends.over;
        let (_appends, timeout) = self.1.wait_timeout_while(appends, HANG, few).unwrap();
        assert!(!timeout.timed_out(), "neither do appends come in, nor do they wait");
    }
}

fn put(store: &Store, key: &str) {
    let mut batch = store.batch();
    batch.push(key, &[1.0f32]).unwrap();
    store.append(&mut batch, OnDuplicate::Replace).unwrap();
}

/// Appends continue while merge inputs are removed slowly, but wait before files become many.
#[test]
fn files_waiting_for_removal_count_when_appends_wait() {
    for version_every in [usize::MAX, 8] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let thread = std::thread::current().id();
        let appends = Appends { thread, holder: None, done: 0, looks: 0, over: false };
        let shared = Arc::new(Shared(Mutex::new(appends), Condvar::new()));
        let theirs = Arc::clone(&shared);
        let fs = Hooked::new(move |call, path| match call {
            "read" if std::thread::current().id() == thread && path.ends_with("MANIFEST") => {
                theirs.change(|appends| appends.looks += 1);
            }
            call => theirs.hold(call, path),
        });
        let store = OpenOptions::new().vfs(fs).create(&path, StoreConfig::new(1)).unwrap();
        let most = (0..600).map(|i| {
            put(&store, &i.to_string());
            if i % version_every == version_every - 1 {
                store.checkpoint().unwrap();
            }
            shared.change(|appends| {
                appends.done += 1;
                appends.looks = 0;
            });
            std::fs::read_dir(path.join("segments")).unwrap().count()
        });
        let most = most.max().unwrap();
        shared.change(|appends| appends.over = true);
        assert!(most < 200, "{most} files, a checkpoint every {version_every} commits");
    }
}
