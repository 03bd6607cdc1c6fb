//! Long operations report their progress, and a stopped operation leaves the store as it was.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use vecstore::{
    BackupOptions, CompactOptions, Error, OnDuplicate, Progress, Reader, RepairOptions, Store, StoreConfig,
    repair_on, repair_with, restore_with, verify_with,
};

use crate::common::hooked::Hooked;
use crate::common::{assert_whole, on_demand};

const DIM: usize = 1024;

fn filled(path: &Path) -> Store {
    let store = on_demand().create(path, StoreConfig::new(DIM)).unwrap();
    for part in 0..4 {
        let mut batch = store.batch();
        for number in 0..100 {
            batch.push(format!("{part} {number}"), &vec![number as f32; DIM]).unwrap();
        }
        store.append(&mut batch, OnDuplicate::Error).unwrap();
    }
    store
}

fn bytes(store: &Store) -> u64 {
    store.snapshot().totals().bytes
}

fn assert_stopped<T: std::fmt::Debug>(outcome: Result<T, Error>) {
    let error = outcome.unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }) && !error.is_transient(), "{error}");
}

/// A progress that was stopped before its operation began.
fn stopped() -> Progress {
    let progress = Progress::new();
    progress.stop();
    progress
}

#[test]
fn done_bytes_grow_to_the_total() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = filled(&path);
    let all = bytes(&store);
    let told = |at_least: u64, work: &dyn Fn(&Progress)| {
        let progress = Progress::new();
        work(&progress);
        assert_eq!(progress.done(), progress.total());
        assert!(progress.done() >= at_least, "{} of {at_least}", progress.done());
    };
    let backup = dir.path().join("backup");
    told(all, &|progress| drop(verify_with(&path, progress).unwrap()));
    told(all, &|progress| drop(store.backup_with(&backup, BackupOptions::new().progress(progress)).unwrap()));
    told(all, &|progress| drop(restore_with(&backup, dir.path().join("restored"), progress).unwrap()));
    told(2 * all, &|progress| {
        store.compact_with(CompactOptions::new().progress(progress)).unwrap();
    });
    // Files that the destination has already, and linked files, count as done.
    let again = |options: BackupOptions<'_>, name: &str| {
        store.backup_with(dir.path().join(name), options).unwrap();
    };
    told(0, &|progress| again(BackupOptions::new().progress(progress), "backup"));
    told(all / 2, &|progress| again(BackupOptions::new().link(true).progress(progress), "linked"));
    store.close().unwrap();
    told(all / 2, &|progress| drop(repair_with(&path, RepairOptions::new().progress(progress)).unwrap()));
}

#[test]
fn an_operation_that_is_stopped_at_once_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = filled(&path);
    let (backup, restored) = (dir.path().join("backup"), dir.path().join("restored"));
    let progress = stopped();
    assert_stopped(verify_with(&path, &progress));
    assert_stopped(store.compact_with(CompactOptions::new().full(true).progress(&progress)));
    assert_stopped(store.backup_with(&backup, BackupOptions::new().progress(&progress)));
    assert_stopped(store.backup_with(&backup, BackupOptions::new().link(true).progress(&progress)));
    assert!(!backup.exists() && store.versions().unwrap().is_empty());
    store.backup(&backup).unwrap();
    assert_stopped(restore_with(&backup, &restored, &progress));
    assert!(!restored.exists());
    assert_eq!(store.snapshot().segments().len(), 4);
    store.close().unwrap();
    assert_stopped(repair_with(&path, RepairOptions::new().progress(&progress)));
    assert_whole(&path);
    assert_eq!(Reader::open(&path).unwrap().snapshot().len(), 400);
}

/// The operations are stopped when the first bytes of their output are written.
#[test]
fn a_compaction_and_a_backup_that_are_stopped_midway_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    filled(&path).close().unwrap();
    let files = |path: &Path| {
        let mut names: Vec<String> = fs::read_dir(path.join("segments"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        names
    };
    let before = files(&path);
    let progress = Arc::new(Progress::new());
    let stopper = Arc::clone(&progress);
    let fs = Hooked::new(move |call, file| {
        let is_output =
            file.to_string_lossy().contains("tmp-merge") || file.to_string_lossy().contains("tmp-backup");
        if call == "write" && is_output {
            stopper.stop();
        }
    });
    let store = on_demand().vfs(fs).open(&path).unwrap();
    assert_stopped(store.compact_with(CompactOptions::new().full(true).progress(&progress)));
    assert!(progress.done() > 0 && progress.done() < progress.total());
    assert_eq!(files(&path), before);
    let progress = Arc::new(Progress::new());
    let stopper = Arc::clone(&progress);
    let fs = Hooked::new(move |call, file| {
        if call == "write" && file.to_string_lossy().contains("tmp-backup") {
            stopper.stop();
        }
    });
    drop(store);
    let store = on_demand().vfs(fs).open(&path).unwrap();
    let backup = dir.path().join("backup");
    assert_stopped(store.backup_with(&backup, BackupOptions::new().progress(&progress)));
    assert!(!backup.exists());
    store.compact_full().unwrap();
    store.backup(&backup).unwrap();
    assert_whole(&backup);
}

#[test]
fn a_repair_is_stopped_before_it_changes_anything() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = filled(&path);
    let file = store.snapshot().segments().next().unwrap().info().path;
    store.close().unwrap();
    fs::write(&file, b"damaged").unwrap();
    let hooked =
        Hooked::new(|call, file| assert!(call != "replace" && call != "rename", "{call} {}", file.display()));
    let progress = stopped();
    assert_stopped(repair_on(&*hooked, &path, RepairOptions::new().progress(&progress)));
    assert_eq!(fs::read(&file).unwrap(), b"damaged");
    assert!(!path.join("quarantine").exists());
}
