//! Files written under the manifest lock, flushed under a temporary name, then named or removed; and folders
//! whose names are durable.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::{Error, IoContext, Result, is_no_space};
use crate::format::{hex, random_id};
use crate::vfs::{Vfs, VfsFile};

/// Temporary manifests begin with this; only the holder of the manifest lock may remove them.
pub(crate) const TMP_PREFIX: &str = "tmp-manifest-";

/// Has a file of `len` bytes written and flushed under a temporary name, whose prefix says under which lock.
/// After a failed flush the file goes, and a later attempt writes another one: the kernel reports a lost page
/// only once.
pub(crate) fn write_new<T>(
    vfs: &dyn Vfs,
    (dir, prefix): (&Path, &str),
    len: u64,
    op: &'static str,
    write: impl FnOnce(&mut dyn VfsFile) -> io::Result<T>,
) -> Result<(PathBuf, T)> {
    let tmp = dir.join(format!("{prefix}{}", hex(&random_id()?)));
    match vfs.create_new(&tmp).and_then(|mut file| write(&mut *file)) {
        Ok(made) => Ok((tmp, made)),
        Err(source) => {
            remove_own(vfs, &tmp);
            Err(write_error(vfs, &tmp, len, op, source))
        }
    }
}

/// The error of a file that could not be written or named; of a full disk it says what is free without that
/// file.
pub(super) fn write_error(
    vfs: &dyn Vfs,
    path: &Path,
    len: u64,
    op: &'static str,
    source: io::Error,
) -> Error {
    if !is_no_space(&source) {
        return Error::io(path, op, source);
    }
    let free = path.parent().and_then(|dir| vfs.free_space(dir).ok());
    Error::NoSpace { path: path.to_owned(), needed: len, free, source: Arc::new(source) }
}

/// Writes a file whole, flushes it under a temporary name, and gives it its own, which is not durable yet.
/// `replaces`: another file may have that name. The caller holds the manifest lock.
pub(crate) fn write_named(
    vfs: &dyn Vfs,
    path: &Path,
    bytes: &[u8],
    op: &'static str,
    replaces: bool,
) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new(""));
    let (tmp, ()) = write_new(vfs, (dir, TMP_PREFIX), bytes.len() as u64, op, |file| {
        file.write_all(bytes)?;
        file.flush()
    })?;
    let named = if replaces { vfs.replace(&tmp, path) } else { vfs.rename_noreplace(&tmp, path) };
    named.inspect_err(|_| remove_own(vfs, &tmp)).at(path, op)
}

/// Makes a folder of the store, its name durable, unless files rely on that name already.
pub(crate) fn make_folder(vfs: &dyn Vfs, dir: &Path, name: &str, is_relied_on: bool) -> Result<PathBuf> {
    let folder = dir.join(name);
    if !is_relied_on {
        // The maker of an empty one may have died or failed before its name was durable: then no flush of
        // that name can be believed.
        let _ = vfs.remove_dir(&folder);
    }
    match vfs.create_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_relied_on => return Ok(folder),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made.at(&folder, "create the directory")?,
    }
    let flushed = vfs.flush_dir(dir).at(dir, "flush the directory");
    if flushed.is_err() {
        // Its name may never become durable, whatever a later flush says: the next attempt makes another one.
        let _ = vfs.remove_dir(&folder);
    }
    flushed.map(|()| folder)
}

/// `None` when nothing is there.
pub(crate) fn if_there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

/// Removes a temporary file of our own; that it stays behind is worth a line in the log and nothing more.
pub(crate) fn remove_own(vfs: &dyn Vfs, path: &Path) {
    if let Err(error) = if_there(vfs.remove_file(path)) {
        log::warn!("{}: cannot remove a temporary file: {error}", path.display());
    }
}

/// Removes the files whose names begin so: earlier holders of the lock under which they are made have left
/// them. The caller holds it.
pub(crate) fn remove_temporaries(vfs: &dyn Vfs, dir: &Path, prefix: &str) {
    for name in vfs.list(dir).unwrap_or_default() {
        if name.to_str().is_some_and(|name| name.starts_with(prefix)) {
            remove_own(vfs, &dir.join(name));
        }
    }
}
