//! Dated backups: a directory of backups named after the time, of which the newest few stay.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::backup::{BackupReport, Source};
use crate::bug::{Bug, unless};
use crate::create::{flush_name, sweep};
use crate::error::IoContext;
use crate::format::{hex, random_id};
use crate::lock::Lock;
use crate::manifest::Manifest;
use crate::vfs::{FileKind, Vfs};
use crate::writer::LOCK;
use crate::{Error, Result, Store};

/// Follows the hidden name of an old backup that is being removed.
const REMOVING: &str = ".removing-";

impl Store {
    /// [Backs up](Store::backup) into a new directory below `parent`, named after the time (UTC). Files the last dated backup has are
    /// linked from it. Afterwards only the newest `keep` dated backups of this store stay.
    ///
    /// # Errors
    /// As [`Store::backup`], and [`Error::BadInput`] for `keep` 0.
    pub fn backup_dated(&self, parent: impl AsRef<Path>, keep: usize) -> Result<BackupReport> {
        let parent = parent.as_ref();
        if keep == 0 {
            return Err(Error::bad_input("a backup that keeps nothing is none; keep at least 1"));
        }
        let vfs = &*self.inner.vfs;
        let created = match vfs.create_dir(parent) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::io(parent, "create the directory", error));
            }
            created => created.is_ok(),
        };
        if let Err(error) = flush_name(vfs, parent) {
            // A later flush of this name would claim success, whatever became of it: the next attempt gives a new one.
            if created && let Err(error) = vfs.remove_dir(parent) {
                log::warn!("{}: not taken back: {error}", parent.display());
            }
            return Err(error);
        }
        self.pinned(|source| {
            sweep(vfs, parent, is_dated);
            sweep_removed(vfs, parent);
            let before = dated(source, parent)?;
            let dest = parent.join(free_name(vfs, parent)?);
            let mut report = source.transfer(&dest, before.last().map(PathBuf::as_path))?;
            let all = dated(source, parent)?;
            for old in all.iter().take(all.len().saturating_sub(keep)) {
                match remove_store(vfs, parent, old) {
                    Ok(()) => report.removed += 1,
                    // The backup itself is whole; the next one tries again.
                    Err(error) => log::warn!("an old backup stays: {error}"),
                }
            }
            Ok(report)
        })
    }
}

/// Dated backups of this store below `parent`, oldest first.
fn dated(source: &Source<'_>, parent: &Path) -> Result<Vec<PathBuf>> {
    let names = source.vfs.list(parent).at(parent, "list the backups")?;
    let mut found: Vec<PathBuf> = names
        .iter()
        .filter(|name| name.to_str().is_some_and(is_dated))
        .map(|name| parent.join(name))
        .filter(|path| {
            Manifest::read(source.vfs, path).is_ok_and(|manifest| {
                manifest.body.store_id == source.manifest.body.store_id && manifest.body.is_backup()
            })
        })
        .collect();
    found.sort_unstable();
    Ok(found)
}

/// Removes a dated backup: first it gets a hidden name, durably, so that none is ever seen in part.
fn remove_store(vfs: &dyn Vfs, parent: &Path, dir: &Path) -> Result<()> {
    let mut hidden = std::ffi::OsStr::new(".").to_owned();
    hidden.push(dir.file_name().unwrap_or_default());
    hidden.push(format!("{REMOVING}{}", hex(&random_id()?)));
    let hidden = parent.join(hidden);
    if Bug::RemoveInPlace.is_on() {
        return remove_tree(vfs, dir, 3);
    }
    // Somebody may have begun to write to it: then it is no backup any more, and stays.
    let mut lock = Lock::open(vfs, &dir.join(LOCK), "commit")?;
    lock.acquire(Duration::ZERO)?;
    let renamed = Manifest::read(vfs, dir).and_then(|manifest| match manifest.body.is_backup() {
        true => vfs.replace(dir, &hidden).at(dir, "remove the old backup"),
        false => Err(Error::bad_input(format!("{}: it was written to meanwhile", dir.display()))),
    });
    lock.release();
    renamed?;
    unless(Bug::HiddenName, || vfs.flush_dir(parent).at(parent, "flush the directory"))?;
    remove_tree(vfs, &hidden, 3)
}

/// Removes old backups whose removal was interrupted.
fn sweep_removed(vfs: &dyn Vfs, parent: &Path) {
    for name in vfs.list(parent).unwrap_or_default() {
        let removing = name.to_str().and_then(|name| name.strip_prefix('.')?.split_once(REMOVING));
        if removing.is_none_or(|(name, _)| !is_dated(name)) {
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

/// Seconds since 1970 as `2026-11-20T23-05-09Z`, by the civil calendar (days from era, Howard Hinnant's
/// `civil_from_days`).
fn date(seconds: u64) -> String {
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}-{:02}-{:02}Z", time / 3_600, time / 60 % 60, time % 60)
}

/// True for names that [`free_name`] gives.
fn is_dated(name: &str) -> bool {
    let pattern = |pattern: &str, text: &str| {
        pattern.len() == text.len()
            && pattern
                .bytes()
                .zip(text.bytes())
                .all(|(p, t)| if p == b'0' { t.is_ascii_digit() } else { p == t })
    };
    pattern("0000-00-00T00-00-00Z", name) || pattern("0000-00-00T00-00-00Z.000", name)
}

/// A name after the present time, and after every dated name there is: names ascend even when the clock does not.
fn free_name(vfs: &dyn Vfs, parent: &Path) -> Result<String> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let date = date(since.map_or(0, |since| since.as_secs()));
    let names = vfs.list(parent).at(parent, "list the backups")?;
    let newest = names.iter().filter_map(|name| name.to_str()).filter(|name| is_dated(name)).max();
    let Some(newest) = newest.filter(|newest| **newest >= *date) else { return Ok(date) };
    let (date, number) = newest.split_once('.').unwrap_or((newest, "0"));
    let next = number.parse::<u32>().unwrap_or(0) + 1;
    if next > 999 {
        return Err(Error::bad_input(format!(
            "{}: there are a thousand backups of {date} already; wait for the next second, or correct the clock",
            parent.display()
        )));
    }
    Ok(format!("{date}.{next:03}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_civil() {
        assert_eq!(date(0), "1970-01-01T00-00-00Z");
        assert_eq!(date(951_782_400), "2000-02-29T00-00-00Z");
        assert_eq!(date(1_795_219_509), "2026-11-21T00-05-09Z");
        assert!(is_dated(&date(0)) && is_dated("2026-11-21T00-05-09Z.001"));
        assert!(!is_dated("2026-11-21") && !is_dated("xxxx-11-21T00-05-09Z"));
    }
}
