//! Named checkpoints: the store as of a moment, kept until it is dropped.
//!
//! `checkpoints/<name>` is a manifest of its own: the same bytes as MANIFEST at that moment. The files it lists are
//! pinned; merges leave them alone.

use crate::state::{TMP_PREFIX, remove_own, remove_temporaries, write_temporary};
use std::path::Path;

use crate::base::{Bug, Error, IoContext, Result};
use crate::state::{MAX_LEN, Manifest, not_read};
use crate::vfs::Vfs;

/// Pins of backups under way begin with this; whoever holds the backup lock may drop them.
pub(crate) const PIN_PREFIX: &str = "backup-";

/// Directory of the named checkpoints within a store.
pub(crate) const CHECKPOINTS: &str = "checkpoints";

/// A named checkpoint.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub name: String,
    pub manifest: Manifest,
}

/// Names are file names: letters, digits, `.`, `-` and `_`, not beginning with a dot, at most 100.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.is_empty()
        || name.len() > 100
        || name.starts_with('.')
        || !name.chars().all(fine)
        || name.starts_with("tmp-")
    {
        return Err(Error::bad_input(format!(
            "\"{name}\" cannot name a checkpoint; use up to 100 letters, digits, '.', '-' and '_', not beginning with \
             a dot or \"tmp-\""
        )));
    }
    Ok(())
}

/// All named checkpoints, by name, for whoever removes what none of them needs. Called under the manifest lock.
pub(crate) fn read_all(vfs: &dyn Vfs, dir: &Path) -> Result<Vec<Version>> {
    // One that was dropped may come back in a power cut, if who dropped it died before the name was flushed; and then
    // it needs its files.
    let folder = dir.join(CHECKPOINTS);
    match vfs.flush_dir(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(&folder, "flush the directory", error))
        }
        _ => list(vfs, dir),
    }
}

/// All named checkpoints, by name. Without the manifest lock one may be dropped between being listed and being read; it
/// is left out then.
pub(crate) fn list(vfs: &dyn Vfs, dir: &Path) -> Result<Vec<Version>> {
    let mut versions = Vec::new();
    for name in names(vfs, dir)? {
        if let Some(manifest) = read_if_there(vfs, dir, &name)? {
            versions.push(Version { manifest, name });
        }
    }
    Ok(versions)
}

/// Names of all named checkpoints, ascending.
pub(crate) fn names(vfs: &dyn Vfs, dir: &Path) -> Result<Vec<String>> {
    let folder = dir.join(CHECKPOINTS);
    let names = match vfs.list(&folder) {
        Ok(names) => names,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(&folder, "list the checkpoints", error)),
    };
    let mut names: Vec<String> = names
        .into_iter()
        .filter_map(|name| name.into_string().ok())
        .filter(|name| check_name(name).is_ok())
        .collect();
    names.sort_unstable();
    Ok(names)
}

/// Reads one named checkpoint.
pub(crate) fn read(vfs: &dyn Vfs, dir: &Path, name: &str) -> Result<Manifest> {
    read_if_there(vfs, dir, name)?.ok_or_else(|| {
        Error::bad_input(format!(
            "{}: there is no checkpoint \"{name}\"; `vecstore checkpoint list` names those there are",
            dir.display()
        ))
    })
}

fn read_if_there(vfs: &dyn Vfs, dir: &Path, name: &str) -> Result<Option<Manifest>> {
    check_name(name)?;
    let path = dir.join(CHECKPOINTS).join(name);
    match vfs.read(&path, MAX_LEN) {
        Ok(bytes) => Manifest::decode(&path, &bytes).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(not_read(&path, "read the checkpoint", error)),
    }
}

/// Writes a named checkpoint. Called under the manifest lock, with the manifest as it is on disk.
pub(crate) fn write(vfs: &dyn Vfs, dir: &Path, name: &str, manifest: &Manifest) -> Result<()> {
    check_name(name)?;
    let folder = dir.join(CHECKPOINTS);
    prepare(vfs, dir, &folder)?;
    remove_temporaries(vfs, &folder, TMP_PREFIX);
    let bytes = manifest.encode()?;
    let tmp = write_temporary(vfs, &folder, &bytes, "write the checkpoint")?;
    let path = folder.join(name);
    if let Err(source) = vfs.rename_noreplace(&tmp, &path) {
        remove_own(vfs, &tmp);
        return Err(match source.kind() {
            std::io::ErrorKind::AlreadyExists => Error::bad_input(format!(
                "{}: there is a checkpoint \"{name}\" already; drop it first, or choose another name",
                dir.display()
            )),
            _ => Error::io(&path, "name the checkpoint", source),
        });
    }
    if vfs.flush_dir(&folder).is_ok() {
        return Ok(());
    }
    if Bug::FlushNamedAgain.is_on() {
        return vfs.flush_dir(&folder).at(&folder, "flush the directory");
    }
    // The kernel reports a lost name once, and a later flush of the same name would claim success. So it is given anew.
    let tmp = write_temporary(vfs, &folder, &bytes, "write the checkpoint")?;
    vfs.replace(&tmp, &path).at(&path, "name the checkpoint")?;
    vfs.flush_dir(&folder).at(&folder, "flush the directory")
}

/// Makes the directory, its name durable, unless checkpoints rely on it already.
fn prepare(vfs: &dyn Vfs, dir: &Path, folder: &Path) -> Result<()> {
    if !names(vfs, dir)?.is_empty() {
        return Ok(());
    }
    // One that is there and empty may have been made by somebody who died or failed before its name was durable, and then
    // no flush of that name can be believed.
    let _ = vfs.remove_dir(folder);
    match vfs.create_dir(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Error::io(folder, "create the directory", error));
        }
        _ => {}
    }
    let flushed = vfs.flush_dir(dir).at(dir, "flush the directory");
    if flushed.is_err() {
        // Its name may never become durable, whatever a later flush says: the next attempt makes another one.
        let _ = vfs.remove_dir(folder);
    }
    flushed
}

/// Removes a named checkpoint. Called under the manifest lock.
pub(crate) fn drop_named(vfs: &dyn Vfs, dir: &Path, name: &str) -> Result<()> {
    let manifest = match read(vfs, dir, name) {
        Ok(manifest) => Some(manifest),
        // A damaged checkpoint may be dropped: that is how merging goes on.
        Err(Error::Damaged { .. }) => None,
        Err(other) => return Err(other),
    };
    let folder = dir.join(CHECKPOINTS);
    remove_temporaries(vfs, &folder, TMP_PREFIX);
    let path = folder.join(name);
    vfs.remove_file(&path).at(&path, "remove the checkpoint")?;
    let flushed = vfs.flush_dir(&folder).at(&folder, "flush the directory");
    // The name may come back in a power cut, whatever later flushes say. So it is given anew, to keep its files.
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
