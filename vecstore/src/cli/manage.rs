//! Commands that change a store: delete, compact, versions, backup, restore.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;
use vecstore::{
    BackupOptions, BackupReport, CompactOptions, MergePolicy, OpenOptions, Reader, Store, VersionInfo,
};

use super::Target;
use super::calendar::{backup_name, utc};
use super::output::{Answer, Failure, answer, bytes};
use super::watched::watched;

/// Opens a store without background merges, runs `work`, and closes the store.
fn with_store<T>(target: &Target, work: impl FnOnce(&Store) -> vecstore::Result<T>) -> vecstore::Result<T> {
    let store = OpenOptions::new().merge_policy(MergePolicy::OnDemand).open(&target.dir)?;
    let done = work(&store)?;
    store.close()?;
    Ok(done)
}

pub fn delete(out: &mut impl Write, target: &Target, keys: &[OsString], prefix: Option<&OsStr>) -> Answer {
    // An empty prefix would delete every key, and may come from an unset variable in a script.
    if prefix.is_some_and(OsStr::is_empty) {
        return Err(Failure::Message("--prefix needs at least one byte".to_owned()));
    }
    let keys: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();
    let done = with_store(target, |store| match prefix {
        Some(prefix) => store.delete_prefix(prefix.as_bytes()),
        None => store.delete(&keys),
    })?;
    let (deleted, skipped) = (done.deleted, done.skipped);
    let value = json!({"deleted": deleted, "not_stored": skipped, "commit": done.commit});
    answer(out, target.json, value, [format_args!("{deleted} key(s) deleted, {skipped} not stored")])
}

pub fn compact(out: &mut impl Write, target: &Target, full: bool) -> Answer {
    let done = watched("compacting", target.json, |progress| {
        let options = CompactOptions::new().full(full).progress(progress);
        with_store(target, |store| store.compact_with(options))
    })?;
    let (before, after, dropped) = (done.segments_before, done.segments_after, done.entries_dropped);
    let value = json!({"segments_before": before, "segments_after": after, "merges": done.merges,
        "entries_dropped": dropped, "bytes_read": done.bytes_read, "bytes_written": done.bytes_written,
        "damaged": done.damaged});
    let written = bytes(done.bytes_written);
    let mut lines = vec![format!(
        "{after} segment(s), before {before}; {dropped} superseded or deleted entries dropped, {written} \
         written"
    )];
    if done.damaged > 0 {
        let (count, dir) = (done.damaged, target.dir.display());
        lines.push(format!(
            "{count} damaged segment(s) stay as they are; mend them with `vecstore repair {dir}`"
        ));
    }
    answer(out, target.json, value, lines)
}

pub fn create_version(out: &mut impl Write, target: &Target, name: &str) -> Answer {
    let made = with_store(target, |store| store.create_version(name))?;
    show_version(out, target, &made)
}

pub fn list_versions(out: &mut impl Write, target: &Target) -> Answer {
    for version in Reader::open(&target.dir)?.versions()? {
        show_version(out, target, &version)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show_version(out: &mut impl Write, target: &Target, version: &VersionInfo) -> Answer {
    let VersionInfo { name, last_commit, segments, bytes: len, time, .. } = version;
    let made = time.map(utc);
    let value = json!({
        "name": name, "last_commit": last_commit, "segments": segments, "bytes": len, "time": made
    });
    let made = made.map_or_else(String::new, |made| format!(", made {made}"));
    let pinned = bytes(*len);
    let text = format_args!("{name}  up to commit {last_commit}, {segments} segment(s), {pinned}{made}");
    answer(out, target.json, value, [text])
}

pub fn restore_version(out: &mut impl Write, target: &Target, name: &str) -> Answer {
    let done = with_store(target, |store| store.restore_version(name))?;
    let (entries, replaced, deleted) = (done.entries, done.replaced, done.deleted);
    let value = json!({"restored": name, "commit": done.commit, "entries": entries, "replaced": replaced,
        "deleted": deleted});
    let brought_back = entries.saturating_sub(replaced);
    let text = format_args!(
        "restored {name}: {replaced} key(s) replaced, {brought_back} brought back, {deleted} deleted"
    );
    answer(out, target.json, value, [text])
}

pub fn remove_version(out: &mut impl Write, target: &Target, name: &str) -> Answer {
    with_store(target, |store| store.remove_version(name))?;
    answer(out, target.json, json!({"removed": name}), [format_args!("removed {name}")])
}

pub fn backup(
    out: &mut impl Write,
    target: &Target,
    dest: &Path,
    keep: Option<usize>,
    options: BackupOptions<'_>,
) -> Answer {
    let (dest, options) = match keep {
        Some(keep) => (dest.join(backup_name(dest)?), options.keep(keep)),
        None => (dest.to_owned(), options),
    };
    let report = watched("backing up", target.json, |progress| {
        with_store(target, |store| store.backup_with(dest, options.progress(progress)))
    })?;
    show_copy(out, target, &report)
}

pub fn restore(out: &mut impl Write, backup: &Path, target: &Target) -> Answer {
    let report =
        watched("restoring", target.json, |progress| vecstore::restore_with(backup, &target.dir, progress))?;
    show_copy(out, target, &report)
}

fn show_copy(out: &mut impl Write, target: &Target, report: &BackupReport) -> Answer {
    let BackupReport { path, last_commit, kept, linked, copied, bytes_copied, removed, .. } = report;
    let value = json!({"path": path.to_string_lossy(), "last_commit": last_commit, "kept": kept,
        "linked": linked, "copied": copied, "bytes_copied": bytes_copied, "removed": removed});
    let (path, len) = (path.display(), bytes(*bytes_copied));
    let text = format_args!(
        "{path}: up to commit {last_commit}; {kept} segment(s) kept, {linked} linked, {copied} copied \
         ({len}), {removed} old backup(s) removed"
    );
    answer(out, target.json, value, [text])
}
