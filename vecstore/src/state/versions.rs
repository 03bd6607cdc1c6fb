//! Versions: named states of a store, kept until they are removed.
//!
//! `versions/<name>` is a manifest of its own: the same bytes as MANIFEST at that moment. The files that it
//! lists are pinned: merges do not remove them.

use std::path::Path;

use super::temporaries::{if_there, make_folder, write_named};
use crate::base::{Error, IoContext, Result, escaped};
use crate::state::{Manifest, TMP_PREFIX, remove_temporaries};
use crate::vfs::Vfs;

/// Prefix of the pins of backups under way. The holder of the backup lock may remove the pins of other
/// backups.
pub(crate) const PIN_PREFIX: &str = "backup-";

/// Directory of the versions within a store.
pub(crate) const VERSIONS: &str = "versions";

/// A version: its name and its manifest.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub name: String,
    pub manifest: Manifest,
}

/// Checks the name of a version. It is a file name: at most 100 letters, digits, `.`, `-` and `_`, not
/// beginning with a dot or `tmp-`.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let reserved = name.starts_with('.') || name.starts_with("tmp-");
    if name.is_empty() || name.len() > 100 || reserved || !name.chars().all(fine) {
        return Err(Error::invalid(format!(
            "\"{}\" cannot name a version; use up to 100 letters, digits, '.', '-' and '_', not beginning \
             with a dot or \"tmp-\"",
            escaped(name.as_bytes())
        )));
    }
    Ok(())
}

/// All versions, by name, for the removal of files that none of them needs. Called under the manifest lock.
pub(crate) fn read_all(vfs: &dyn Vfs, dir: &Path) -> Result<Vec<Version>> {
    // A removed version may come back in a power cut if its process died before the removal was flushed, and
    // then it needs its files. So the directory is flushed before it is read.
    let folder = dir.join(VERSIONS);
    if_there(vfs.flush_dir(&folder)).at(&folder, "flush the directory")?;
    list(vfs, dir)
}

/// All versions, by name. Without the manifest lock a version may be removed between the listing and the
/// reading; it is then left out.
pub(crate) fn list(vfs: &dyn Vfs, dir: &Path) -> Result<Vec<Version>> {
    let version = |name: String| {
        let manifest = read_if_there(vfs, dir, &name).transpose()?;
        Some(manifest.map(|manifest| Version { name, manifest }))
    };
    names(vfs, dir)?.into_iter().filter_map(version).collect()
}

/// The manifests of the versions that can be read.
pub(crate) fn readable(vfs: &dyn Vfs, dir: &Path) -> Vec<Manifest> {
    let names = names(vfs, dir).unwrap_or_default();
    names.iter().filter_map(|name| read(vfs, dir, name).ok()).collect()
}

/// Names of all versions, ascending.
pub(crate) fn names(vfs: &dyn Vfs, dir: &Path) -> Result<Vec<String>> {
    let folder = dir.join(VERSIONS);
    let names = if_there(vfs.list(&folder)).at(&folder, "list the versions")?.unwrap_or_default();
    let names = names.into_iter().filter_map(|name| name.into_string().ok());
    let mut names: Vec<String> = names.filter(|name| check_name(name).is_ok()).collect();
    names.sort_unstable();
    Ok(names)
}

/// Reads the manifest of one version.
pub(crate) fn read(vfs: &dyn Vfs, dir: &Path, name: &str) -> Result<Manifest> {
    let none = || Error::NoSuchVersion { path: dir.to_owned(), name: name.to_owned() };
    if check_name(name).is_err() {
        return Err(none());
    }
    read_if_there(vfs, dir, name)?.ok_or_else(none)
}

fn read_if_there(vfs: &dyn Vfs, dir: &Path, name: &str) -> Result<Option<Manifest>> {
    check_name(name)?;
    Manifest::read_file(vfs, &dir.join(VERSIONS).join(name), "read the version")
}

/// Writes a version. Called under the manifest lock, with the manifest as it is on disk.
pub(crate) fn write(vfs: &dyn Vfs, dir: &Path, name: &str, manifest: &Manifest) -> Result<()> {
    check_name(name)?;
    let folder = make_folder(vfs, dir, VERSIONS, !names(vfs, dir)?.is_empty())?;
    remove_temporaries(vfs, &folder, TMP_PREFIX);
    let bytes = manifest.encode()?;
    let write = |replaces| write_named(vfs, &folder.join(name), &bytes, "write the version", replaces);
    write(false).map_err(|error| match error {
        Error::Io { cause, .. } if cause.kind() == std::io::ErrorKind::AlreadyExists => {
            Error::VersionExists { path: dir.to_owned(), name: name.to_owned() }
        }
        other => other,
    })?;
    let flush = || vfs.flush_dir(&folder).at(&folder, "flush the directory");
    if flush().is_ok() {
        return Ok(());
    }
    // The kernel reports a lost name once, and a later flush of the same name would claim success. So the
    // name is given anew.
    write(true)?;
    flush()
}

/// Removes a version. Called under the manifest lock.
pub(crate) fn remove(vfs: &dyn Vfs, dir: &Path, name: &str) -> Result<()> {
    let manifest = match read(vfs, dir, name) {
        Ok(manifest) => Some(manifest),
        // A damaged version can be removed too: merges need to read every version, and go on without it.
        Err(Error::Damaged { .. }) => None,
        Err(other) => return Err(other),
    };
    let folder = dir.join(VERSIONS);
    remove_temporaries(vfs, &folder, TMP_PREFIX);
    let path = folder.join(name);
    vfs.remove_file(&path).at(&path, "remove the version")?;
    let flushed = vfs.flush_dir(&folder).at(&folder, "flush the directory");
    // The flush failed, so a power cut may bring the name back, whatever later flushes say. The version is
    // written again, to keep its files.
    if let (Err(_), Some(manifest)) = (&flushed, manifest)
        && let Err(error) = write(vfs, dir, name, &manifest)
    {
        log::warn!("{}: neither dropped for good nor put back: {error}", path.display());
    }
    flushed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_file_names() {
        for name in ["a", "2026-11-20_before", "v1.0"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", ".hidden", "a/b", "..", "tmp-manifest-1", "ü", &"x".repeat(101)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
