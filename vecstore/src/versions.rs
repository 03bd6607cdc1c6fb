//! Named checkpoints: the store as of a moment, kept until it is dropped.
//!
//! `checkpoints/<name>` is a manifest of its own: the same bytes as MANIFEST at that moment. The files it lists are
//! pinned; merges leave them alone.

use std::path::Path;

use crate::error::IoContext;
use crate::manifest::{Manifest, remove_own, write_temporary};
use crate::vfs::Vfs;
use crate::{Error, Result};

/// Directory of the named checkpoints within a store.
pub(crate) const CHECKPOINTS: &str = "checkpoints";
const MAX_LEN: u64 = 1 << 30;

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

/// All named checkpoints, by name.
pub(crate) fn read_all(vfs: &dyn Vfs, dir: &Path) -> Result<Vec<Version>> {
    let names = names(vfs, dir)?;
    names.into_iter().map(|name| Ok(Version { manifest: read(vfs, dir, &name)?, name })).collect()
}

/// Reads one named checkpoint.
pub(crate) fn read(vfs: &dyn Vfs, dir: &Path, name: &str) -> Result<Manifest> {
    check_name(name)?;
    let path = dir.join(CHECKPOINTS).join(name);
    match vfs.read(&path, MAX_LEN) {
        Ok(bytes) => Manifest::decode(&path, &bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::bad_input(format!(
            "{}: there is no checkpoint \"{name}\"; `vecstore checkpoint list` names those there are",
            dir.display()
        ))),
        Err(error) => Err(Error::io(&path, "read the checkpoint", error)),
    }
}

/// Writes a named checkpoint. Called under the manifest lock, with the manifest as it is on disk.
pub(crate) fn write(vfs: &dyn Vfs, dir: &Path, name: &str, manifest: &Manifest) -> Result<()> {
    check_name(name)?;
    let folder = dir.join(CHECKPOINTS);
    match vfs.create_dir(&folder) {
        Ok(()) => vfs.flush_dir(dir).at(dir, "flush the directory")?,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(Error::io(&folder, "create the directory", error)),
    }
    let path = folder.join(name);
    let tmp = write_temporary(vfs, &folder, &manifest.encode()?, "write the checkpoint")?;
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
    vfs.flush_dir(&folder).at(&folder, "flush the directory")
}

/// Removes a named checkpoint. Called under the manifest lock.
pub(crate) fn drop_named(vfs: &dyn Vfs, dir: &Path, name: &str) -> Result<()> {
    read(vfs, dir, name).map(drop).or_else(|error| match error {
        // A damaged checkpoint may be dropped: that is how merging goes on.
        Error::Damaged { .. } => Ok(()),
        other => Err(other),
    })?;
    let folder = dir.join(CHECKPOINTS);
    let path = folder.join(name);
    vfs.remove_file(&path).at(&path, "remove the checkpoint")?;
    vfs.flush_dir(&folder).at(&folder, "flush the directory")
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
