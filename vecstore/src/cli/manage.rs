//! Commands that change a store: delete, compact, versions, backup, restore.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;
use vecstore::{BackupReport, Merging, OpenOptions, Store, VersionInfo};

use super::Target;
use super::calendar::backup_name;
use super::output::{Answer, Failure, answer, bytes};

/// Does one thing with a short-lived handle, which has no thread of its own for merging, and closes it.
fn with_store<T>(target: &Target, work: impl FnOnce(&Store) -> Result<T, Failure>) -> Result<T, Failure> {
    let store = OpenOptions::new().merging(Merging::OnDemand).open(&target.dir)?;
    let done = work(&store)?;
    store.close()?;
    Ok(done)
}

pub fn delete(out: &mut impl Write, target: &Target, keys: &[OsString]) -> Answer {
    let keys: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();
    let done = with_store(target, |store| Ok(store.delete(&keys)?))?;
    let (deleted, skipped) = (done.deleted, done.skipped);
    let value = json!({"deleted": deleted, "not_stored": skipped, "commit": done.commit});
    answer(out, target.json, value, [format_args!("{deleted} key(s) deleted, {skipped} not stored")])
}

pub fn compact(out: &mut impl Write, target: &Target, full: bool) -> Answer {
    let compact = if full { Store::compact_full } else { Store::compact };
    let done = with_store(target, |store| Ok(compact(store)?))?;
    let (before, after, dropped) = (done.segments_before, done.segments_after, done.entries_dropped);
    let value = json!({"segments_before": before, "segments_after": after, "merges": done.merges,
        "entries_dropped": dropped, "bytes_read": done.bytes_read, "bytes_written": done.bytes_written,
        "damaged": done.damaged});
    let written = bytes(done.bytes_written);
    let mut lines = vec![format!(
        "{after} segment(s), before {before}; {dropped} superseded or deleted entries dropped, {written} written"
    )];
    if done.damaged > 0 {
        let (count, dir) = (done.damaged, target.dir.display());
        lines.push(format!(
            "{count} damaged segment(s) stay as they are; mend them with `vecstore repair {dir}`"
        ));
    }
    answer(out, target.json, value, lines)
}

pub fn checkpoint(out: &mut impl Write, target: &Target, name: &str) -> Answer {
    let made = with_store(target, |store| Ok(store.create_version(name)?))?;
    show_version(out, target, &made)
}

pub fn list_versions(out: &mut impl Write, target: &Target) -> Answer {
    for checkpoint in Store::open_read_only(&target.dir)?.versions()? {
        show_version(out, target, &checkpoint)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show_version(out: &mut impl Write, target: &Target, checkpoint: &VersionInfo) -> Answer {
    let VersionInfo { name, last_commit, segments, bytes: len, .. } = checkpoint;
    let value = json!({"name": name, "last_commit": last_commit, "segments": segments, "bytes": len});
    let pinned = bytes(*len);
    let text = format_args!("{name}  up to commit {last_commit}, {segments} segment(s), {pinned}");
    answer(out, target.json, value, [text])
}

pub fn drop_version(out: &mut impl Write, target: &Target, name: &str) -> Answer {
    with_store(target, |store| Ok(store.drop_version(name)?))?;
    answer(out, target.json, json!({"dropped": name}), [format_args!("dropped {name}")])
}

pub fn backup(out: &mut impl Write, target: &Target, dest: &Path, keep: Option<usize>) -> Answer {
    let report = with_store(target, |store| match keep {
        Some(keep) => Ok(store.backup_rotating(dest, &backup_name(dest)?, keep)?),
        None => Ok(store.backup(dest)?),
    })?;
    show_copy(out, target, &report)
}

pub fn restore(out: &mut impl Write, backup: &Path, target: &Target) -> Answer {
    show_copy(out, target, &vecstore::restore(backup, &target.dir)?)
}

fn show_copy(out: &mut impl Write, target: &Target, report: &BackupReport) -> Answer {
    let BackupReport { path, last_commit, kept, linked, copied, bytes_copied, removed, .. } = report;
    let value = json!({"path": path.to_string_lossy(), "last_commit": last_commit, "kept": kept,
        "linked": linked, "copied": copied, "bytes_copied": bytes_copied, "removed": removed});
    let (path, len) = (path.display(), bytes(*bytes_copied));
    let text = format_args!(
        "{path}: up to commit {last_commit}; {kept} segment(s) kept, {linked} linked, {copied} copied ({len}), \
         {removed} old backup(s) removed"
    );
    answer(out, target.json, value, [text])
}
