//! Commands that change a store: delete, compact, named checkpoints, backup, restore.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};
use vecstore::{BackupReport, CheckpointInfo, Merging, OpenOptions, Store};

use super::Target;
use super::calendar::backup_name;
use super::commands::Answer;
use super::output::{Failure, bytes, json_line, line};

/// A short-lived handle: no thread of its own for merging.
fn open(target: &Target) -> Result<Store, Failure> {
    Ok(OpenOptions::new().merging(Merging::OnDemand).open(&target.dir)?)
}

pub fn delete(out: &mut impl Write, target: &Target, keys: &[OsString]) -> Answer {
    let store = open(target)?;
    let keys: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();
    let done = store.delete(&keys)?;
    store.close()?;
    if target.json {
        json_line(out, &json!({"deleted": done.deleted, "not_stored": done.skipped, "commit": done.commit}))?;
    } else {
        line(out, format_args!("{} key(s) deleted, {} not stored", done.deleted, done.skipped))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub fn compact(out: &mut impl Write, target: &Target, full: bool) -> Answer {
    let store = open(target)?;
    let done = if full { store.compact_full() } else { store.compact() }?;
    store.close()?;
    if target.json {
        let answer = json!({"segments_before": done.segments_before, "segments_after": done.segments_after,
            "merges": done.merges, "entries_dropped": done.entries_dropped, "bytes_read": done.bytes_read,
            "bytes_written": done.bytes_written, "damaged": done.damaged});
        json_line(out, &answer)?;
    } else {
        let written = bytes(done.bytes_written);
        line(
            out,
            format_args!(
                "{} segment(s), before {}; {} superseded or deleted entries dropped, {written} written",
                done.segments_after, done.segments_before, done.entries_dropped
            ),
        )?;
        if done.damaged > 0 {
            let dir = target.dir.display();
            line(
                out,
                format_args!(
                    "{} damaged segment(s) stay as they are; mend them with `vecstore repair {dir}`",
                    done.damaged
                ),
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub fn checkpoint(out: &mut impl Write, target: &Target, name: &str) -> Answer {
    let store = open(target)?;
    let made = store.create_checkpoint(name)?;
    store.close()?;
    show_checkpoint(out, target, &made)?;
    Ok(ExitCode::SUCCESS)
}

pub fn list_checkpoints(out: &mut impl Write, target: &Target) -> Answer {
    for checkpoint in Store::open_read_only(&target.dir)?.checkpoints()? {
        show_checkpoint(out, target, &checkpoint)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show_checkpoint(
    out: &mut impl Write,
    target: &Target,
    checkpoint: &CheckpointInfo,
) -> Result<(), Failure> {
    if target.json {
        let answer = json!({"name": checkpoint.name, "last_commit": checkpoint.last_commit,
            "segments": checkpoint.segments, "bytes": checkpoint.bytes});
        return json_line(out, &answer);
    }
    let pinned = bytes(checkpoint.bytes);
    line(
        out,
        format_args!(
            "{}  up to commit {}, {} segment(s), {pinned}",
            checkpoint.name, checkpoint.last_commit, checkpoint.segments
        ),
    )
}

pub fn drop_checkpoint(out: &mut impl Write, target: &Target, name: &str) -> Answer {
    let store = open(target)?;
    store.drop_checkpoint(name)?;
    store.close()?;
    if target.json {
        json_line(out, &json!({"dropped": name}))?;
    } else {
        line(out, format_args!("dropped {name}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub fn backup(out: &mut impl Write, target: &Target, dest: &Path, keep: Option<usize>) -> Answer {
    let store = open(target)?;
    let report = match keep {
        Some(keep) => store.backup_rotating(dest, &backup_name(dest)?, keep),
        None => store.backup(dest),
    }?;
    store.close()?;
    show_copy(out, target, &report)
}

pub fn restore(out: &mut impl Write, backup: &Path, target: &Target) -> Answer {
    let report = vecstore::restore(backup, &target.dir)?;
    show_copy(out, target, &report)
}

fn show_copy(out: &mut impl Write, target: &Target, report: &BackupReport) -> Answer {
    if target.json {
        let answer: Value = json!({"path": report.path.to_string_lossy(), "last_commit": report.last_commit,
            "kept": report.kept, "linked": report.linked, "copied": report.copied,
            "bytes_copied": report.bytes_copied, "removed": report.removed});
        json_line(out, &answer)?;
    } else {
        let copied = bytes(report.bytes_copied);
        line(
            out,
            format_args!(
                "{}: up to commit {}; {} segment(s) kept, {} linked, {} copied ({copied}), {} old backup(s) removed",
                report.path.display(),
                report.last_commit,
                report.kept,
                report.linked,
                report.copied,
                report.removed
            ),
        )?;
    }
    Ok(ExitCode::SUCCESS)
}
