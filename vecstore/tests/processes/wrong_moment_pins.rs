//! Versions and backups at a wrong moment: made, removed or interrupted while another process merges, a flush
//! fails or the power fails.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::looks;
use crate::sim::crash::Rng;
use crate::sim::moment::{power_cut, put};
use crate::sim::run::{BACKUP, STORE, options};
use crate::sim::{Fault, SimFs};
use vecstore::vfs::Vfs;
use vecstore::{Event, MergePolicy, OpenOptions, Store, StoreConfig};

#[test]
fn a_backup_with_files_beyond_its_manifest_can_be_compacted() {
    let dir = tempfile::tempdir().unwrap();
    let (path, dest) = (dir.path().join("s"), dir.path().join("b"));
    let on_demand = OpenOptions::new().merge_policy(MergePolicy::OnDemand);
    let store = on_demand.create(&path, StoreConfig::new(2)).unwrap();
    (0..3).for_each(|i| put(&store, &i.to_string()).unwrap());
    store.backup(&dest).unwrap();
    put(&store, "3").unwrap();
    // A killed backup leaves this: the file is linked, but the manifest is not replaced.
    let name = "segments/0000000004-0000000004.0.npy";
    std::fs::hard_link(path.join(name), dest.join(name)).unwrap();
    let backup = on_demand.open(&dest).unwrap();
    assert_eq!(backup.compact_full().unwrap().merges, 1);
    drop(backup);
    assert_eq!(Store::open(&dest).unwrap().snapshot().last_commit(), 3);
    assert!(vecstore::verify(&dest).unwrap().is_whole());
}

#[test]
fn a_backup_that_was_only_opened_can_be_updated() {
    looks::watch();
    let dir = tempfile::tempdir().unwrap();
    let (path, dest) = (dir.path().join("s"), dir.path().join("b"));
    let store =
        OpenOptions::new().merge_policy(MergePolicy::OnDemand).create(&path, StoreConfig::new(2)).unwrap();
    (0..70).for_each(|i| put(&store, &i.to_string()).unwrap());
    store.backup(&dest).unwrap();
    let backup = Store::open(&dest).unwrap();
    // The append has nothing to write, and the merger finds files to merge.
    put(&backup, "0").unwrap();
    looks::wait(&dest, 1, 1);
    drop(backup);
    put(&store, "more").unwrap();
    assert_eq!(store.backup(&dest).unwrap().kept, 70);
}

#[test]
fn pinned_files_do_not_hold_up_appends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let on_demand = OpenOptions::new().merge_policy(MergePolicy::OnDemand);
    let first = on_demand.create(&path, StoreConfig::new(2)).unwrap();
    (0..100).for_each(|i| put(&first, &format!("a{i}")).unwrap());
    let failed = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&failed);
    let second = on_demand
        .clone()
        .lock_timeout(Duration::ZERO)
        .on_event(move |event| {
            if let Event::MergeFailed { error, .. } = event {
                told.lock().unwrap().push(error.to_string());
            }
        })
        .open(&path)
        .unwrap();
    put(&second, "b").unwrap();
    first.refresh().unwrap();
    first.create_version("pin").unwrap();
    first.compact_full().unwrap();
    // From here on another process is in a long merge.
    let merger = std::fs::File::options().read(true).write(true).open(path.join("LOCK.merge")).unwrap();
    merger.lock().unwrap();
    // An append that waits for this merge in vain would report it.
    (0..85).for_each(|i| put(&second, &format!("b{i}")).unwrap());
    assert!(failed.lock().unwrap().is_empty(), "{failed:?}");
}

#[test]
fn a_backup_after_a_failed_flush_gives_its_names_anew() {
    let back_up_twice = |fault: Option<Fault>| {
        let fs = SimFs::new();
        let store = options(&fs).create(STORE, StoreConfig::new(2)).unwrap();
        put(&store, "0").unwrap();
        store.backup(BACKUP).unwrap();
        put(&store, "1").unwrap();
        let from = fs.calls().len();
        fs.set_fault(fault);
        let first = store.backup(BACKUP).map(drop);
        fs.set_fault(None);
        let second = store.backup(BACKUP).map(drop);
        (fs, store, from, first, second)
    };
    let (fs, _store, from, ..) = back_up_twice(None);
    let calls = fs.calls();
    let flush = |at: &usize| {
        calls[*at].what == "flush directory" && calls[*at].path == Path::new(BACKUP).join("segments")
    };
    let at = (from..calls.len()).find(flush).unwrap();
    let (fs, _store, _, first, second) = back_up_twice(Some(Fault { at, errno: 5, lasting: false }));
    assert!(first.is_err());
    second.unwrap();
    power_cut(&fs, |image| {
        let backup = options(image).for_reading().open(BACKUP).map_err(|error| error.to_string())?;
        if backup.snapshot().last_commit() == 2 { Ok(()) } else { Err("commit 2 is gone".to_owned()) }
    });
}

/// The removal of a version is durable even while another process merges, which keeps its files.
#[test]
fn a_removed_version_stays_removed_beside_a_merge() {
    let fs = SimFs::new();
    let store = options(&fs).create(STORE, StoreConfig::new(2)).unwrap();
    put(&store, "0").unwrap();
    store.create_version("x").unwrap();
    let mut merging = fs.other_process().open_lock(&Path::new(STORE).join("LOCK.merge"), true).unwrap();
    assert!(merging.try_lock().unwrap());
    store.remove_version("x").unwrap();
    power_cut(&fs, |image| {
        let store = options(image).open(STORE).map_err(|error| error.to_string())?;
        let left = store.versions().map_err(|error| error.to_string())?;
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?} came back")) }
    });
}

/// A process dies after it removed a version and before the removal is durable; another process merges, and
/// removes the files that only the version needed. No later power cut brings the version back.
#[test]
fn a_version_whose_files_are_removed_stays_removed() {
    let run = |die_at: Option<usize>| {
        let fs = SimFs::new();
        let store = options(&fs).create(STORE, StoreConfig::new(2)).unwrap();
        put(&store, "0").unwrap();
        put(&store, "1").unwrap();
        store.create_version("x").unwrap();
        let dropping = fs.other_process();
        let dropper = options(&dropping).open(STORE).unwrap();
        if let Some(at) = die_at {
            dropping.die_at(at);
        }
        assert_eq!(dropper.remove_version("x").is_ok(), die_at.is_none());
        let calls = dropping.calls();
        std::mem::forget(dropper);
        put(&store, "2").unwrap();
        assert_eq!(store.compact_full().unwrap().merges, 1);
        (fs, calls)
    };
    let (_, calls) = run(None);
    let removed = calls.iter().position(|call| call.what == "remove" && call.path.ends_with("x")).unwrap();
    let (fs, _) = run(Some(removed + 1));
    power_cut(&fs, |image| {
        let store = options(image).open(STORE).map_err(|error| error.to_string())?;
        let left = store.versions().map_err(|error| error.to_string())?;
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?} came back, without its files")) }
    });
}

/// The first flush of a version's name fails: the name is given anew, and the acknowledged version survives.
#[test]
fn a_version_whose_flush_failed_is_named_anew() {
    let run = |fault: Option<Fault>| {
        let fs = SimFs::new();
        let store = options(&fs).create(STORE, StoreConfig::new(2)).unwrap();
        put(&store, "0").unwrap();
        fs.set_fault(fault);
        store.create_version("x").unwrap();
        fs
    };
    let calls = run(None).calls();
    let flush = |call: &crate::sim::Call| call.what == "flush directory" && call.path.ends_with("versions");
    let at = calls.iter().position(flush).unwrap();
    let fs = run(Some(Fault { at, errno: 5, lasting: false }));
    power_cut(&fs, |image| {
        let opened =
            options(image).for_reading().at_version("x").open(STORE).map_err(|error| error.to_string())?;
        if opened.snapshot().contains("0").unwrap() { Ok(()) } else { Err("it lists nothing".to_owned()) }
    });
}

/// A backup's new manifest may not be durable, because the flush of its name failed. A merge in the backup
/// then keeps the files that only the former manifest lists.
#[test]
fn a_backup_whose_manifest_may_not_be_durable_keeps_its_files() {
    let run = |fault: Option<Fault>| {
        let fs = SimFs::new();
        let store = options(&fs).create(STORE, StoreConfig::new(2)).unwrap();
        put(&store, "0").unwrap();
        put(&store, "1").unwrap();
        store.backup(BACKUP).unwrap();
        put(&store, "2").unwrap();
        store.compact_full().unwrap();
        let from = fs.calls().len();
        fs.set_fault(fault);
        let backed_up = store.backup(BACKUP);
        fs.set_fault(None);
        assert_eq!(backed_up.is_ok(), fault.is_none());
        let other = fs.other_process();
        let backup = options(&other).open(BACKUP).unwrap();
        let began = other.changes();
        backup.compact_full().unwrap();
        std::mem::forget(backup);
        (fs, from, began)
    };
    let (fs, from, _) = run(None);
    let calls = fs.calls();
    let replace = |at: &usize| calls[*at].what == "replace" && calls[*at].path.starts_with(BACKUP);
    let replaced = (from..calls.len()).find(replace).unwrap();
    let flush = |at: &usize| calls[*at].what == "flush directory" && calls[*at].path == Path::new(BACKUP);
    let at = (replaced..calls.len()).find(flush).unwrap();
    let (fs, _, began) = run(Some(Fault { at, errno: 5, lasting: false }));
    let history = fs.history();
    let mut rng = Rng(3);
    for prefix in began..=history.log.len() {
        for fates in history.fates(prefix, 64, &mut rng) {
            let image = SimFs::from_image(history.image(prefix, &fates, &mut rng));
            let opened = options(&image).for_reading().open(BACKUP);
            let tell = || history.tell(prefix, &fates);
            let backup = opened.unwrap_or_else(|error| panic!("{error}\n{}", tell()));
            let missing = backup.snapshot().missing(&["0", "1"]).unwrap();
            assert!(missing.is_empty(), "{missing:?} gone\n{}", tell());
        }
    }
}
