//! Rotating backups: a directory of backups with ascending names, of which the newest few are kept.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::base::{Error, IoContext, Result, escaped};
use crate::care::backup::{BackupOptions, BackupReport, Source, pinned};
use crate::format::{hex, random_id};
use crate::lock::{LOCK, Lock};
use crate::merge::Host;
use crate::state::{Body, Manifest, flush_name, sweep};
use crate::vfs::{FileKind, Vfs};

/// Second part of the hidden name of an old backup that is being removed; the first part is the backup's own
/// name.
const REMOVING: &str = ".removing-";

/// Backs up into the new directory `dest`. Of this store's backups beside it, with names like its own, the
/// newest `keep` stay.
pub(super) fn rotate(
    host: &impl Host,
    dest: &Path,
    keep: usize,
    options: BackupOptions<'_>,
) -> Result<BackupReport> {
    if keep == 0 {
        return Err(Error::invalid("`keep` must be at least 1: the backup that is made stays"));
    }
    let name = dest.file_name().and_then(OsStr::to_str).filter(|name| !name.starts_with('.'));
    let (Some(parent), Some(name)) = (dest.parent(), name) else {
        return Err(Error::invalid(format!(
            "\"{}\" cannot name a backup among others: choose a plain name like 2026-11-30",
            escaped(dest.as_os_str().as_encoded_bytes())
        )));
    };
    let vfs = host.vfs();
    let created = match vfs.create_dir(parent) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(Error::io(parent, "create the directory", error));
        }
        created => created.is_ok(),
    };
    if let Err(error) = flush_name(vfs, parent) {
        // A later flush of this name would claim success even if the name is lost. So the directory is
        // removed, and the next attempt makes a new one.
        if created && let Err(error) = vfs.remove_dir(parent) {
            log::warn!("{}: not taken back: {error}", parent.display());
        }
        return Err(error);
    }
    pinned(host, options, |source| {
        sweep(vfs, parent, |other| is_like(name, other));
        sweep_removed(vfs, parent, name);
        let before = backups_like(source, parent, name)?;
        if let Some(newest) = before.last().filter(|newest| newest.as_path() >= dest) {
            return Err(Error::invalid(format!(
                "{}: a backup of this store, which \"{name}\" does not come after; give the new one a later \
                 name",
                newest.display()
            )));
        }
        let mut report = source.transfer(dest, before.last().map(PathBuf::as_path))?;
        let all = backups_like(source, parent, name)?;
        for old in all.iter().take(all.len().saturating_sub(keep)) {
            match remove_store(vfs, parent, old) {
                Ok(()) => report.removed += 1,
                // The new backup is whole; the next rotation tries again.
                Err(error) => log::warn!("an old backup stays: {error}"),
            }
        }
        Ok(report)
    })
}

/// Backups of this store below `parent` with names like `pattern`, oldest first.
fn backups_like(source: &Source<'_>, parent: &Path, pattern: &str) -> Result<Vec<PathBuf>> {
    let names = source.vfs.list(parent).at(parent, "list the backups")?;
    let alike = names.iter().filter(|name| name.to_str().is_some_and(|name| is_like(pattern, name)));
    let is_ours = |body: Body| body.store_id == source.manifest.body.store_id && body.is_backup;
    let is_backup = |path: &PathBuf| Manifest::read(source.vfs, path).is_ok_and(|found| is_ours(found.body));
    let mut found: Vec<PathBuf> = alike.map(|name| parent.join(name)).filter(is_backup).collect();
    found.sort_unstable();
    Ok(found)
}

/// Removes a backup. It first gets a hidden name, durably, so that a backup is never visible in part.
fn remove_store(vfs: &dyn Vfs, parent: &Path, dir: &Path) -> Result<()> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let hidden = parent.join(format!(".{name}{REMOVING}{}", hex(&random_id()?)));
    // A backup that was written to meanwhile is no backup any more, and stays.
    let mut lock = Lock::open(vfs, &dir.join(LOCK), "commit")?;
    lock.hold(Duration::ZERO, |_| match Manifest::read(vfs, dir)?.body.is_backup {
        true => vfs.replace(dir, &hidden).at(dir, "remove the old backup"),
        false => {
            let reason = "it was written to meanwhile".to_owned();
            Err(Error::BackupRefused { path: dir.to_owned(), reason })
        }
    })?;
    vfs.flush_dir(parent).at(parent, "flush the directory")?;
    remove_tree(vfs, &hidden, 3)
}

/// Removes old backups whose removal was interrupted.
fn sweep_removed(vfs: &dyn Vfs, parent: &Path, pattern: &str) {
    for name in vfs.list(parent).unwrap_or_default() {
        let removing = name.to_str().and_then(|name| name.strip_prefix('.')?.split_once(REMOVING));
        if removing.is_none_or(|(name, _)| !is_like(pattern, name)) {
            continue;
        }
        let flushed = vfs.flush_dir(parent).at(parent, "flush the directory");
        if let Err(error) = flushed.and_then(|()| remove_tree(vfs, &parent.join(name), 3)) {
            log::warn!("an old backup's files stay: {error}");
        }
    }
}

fn remove_tree(vfs: &dyn Vfs, dir: &Path, depth: u32) -> Result<()> {
    for name in vfs.list(dir).at(dir, "list the old backup")? {
        let path = dir.join(name);
        let found = vfs.metadata(&path).at(&path, "look at the old backup")?;
        if found.kind == FileKind::Dir && depth > 0 {
            remove_tree(vfs, &path, depth - 1)?;
        } else {
            vfs.remove_file(&path).at(&path, "remove the old backup")?;
        }
    }
    vfs.remove_dir(dir).at(dir, "remove the old backup")
}

/// True if a name differs from the pattern only in its digits.
fn is_like(pattern: &str, name: &str) -> bool {
    let is_same = |(p, n): (u8, u8)| p == n || p.is_ascii_digit() && n.is_ascii_digit();
    pattern.len() == name.len() && pattern.bytes().zip(name.bytes()).all(is_same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_alike_if_only_their_digits_differ() {
        assert!(is_like("2026-11-21T00-05", "1999-01-01T23-59"));
        for other in ["2026-11-21T00-0", "2026-11-21 00-05", "2026-11-21T00-0x", "2026-11-21T00-05Z"] {
            assert!(!is_like("2026-11-21T00-05", other), "{other}");
        }
    }
}
