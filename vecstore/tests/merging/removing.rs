//! Merged files that are removed slowly, beside a thread that appends.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::ThreadId;
use std::time::Duration;

use crate::common::hooked::Hooked;
use vecstore::{OnDuplicate, OpenOptions, Store, StoreConfig};

/// How long a removal waits for appends before that is taken for a hang.
const HANG: Duration = Duration::from_secs(300);

/// How far the thread has got that appends.
struct Appends {
    thread: ThreadId,
    /// The thread that holds the commit lock.
    holder: Option<ThreadId>,
    done: usize,
    /// How often it has looked at the manifest since the last append.
    looks: usize,
    /// No more appends will come.
    over: bool,
}

impl Appends {
    /// It waits for files to go: an append that does not looks twice at most.
    fn waits(&self) -> bool {
        self.looks > 4
    }
}

/// What the thread that appends and the removals share.
struct Shared(Mutex<Appends>, Condvar);

impl Shared {
    fn change(&self, change: impl FnOnce(&mut Appends)) {
        change(&mut self.0.lock().unwrap());
        self.1.notify_all();
    }

    /// While one file goes two appends come in, and many while a merger has let go of the manifest, as long as appends do
    /// not wait.
    fn hold(&self, call: &str, path: &Path) {
        let this = Some(std::thread::current().id());
        if path.ends_with("LOCK") {
            self.change(|appends| match call {
                "taken" => appends.holder = this,
                // Told when another thread may have it already.
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
        // Where the append merges by itself, or waits for this thread, no other one comes in.
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

/// Appends go on while merged files are removed, however slowly, but not so that files become many.
#[test]
fn files_that_are_about_to_go_are_counted_where_appends_wait() {
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
