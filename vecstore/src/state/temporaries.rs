//! Files that are written and flushed under a temporary name, then named or removed; and folders whose names
//! are durable.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::{Error, IoContext, Result, is_no_space};
use crate::format::{hex, random_id};
use crate::vfs::{Vfs, VfsFile};

/// Prefix of temporary files that are made under the manifest lock; only its holder may remove them.
pub(crate) const TMP_PREFIX: &str = "tmp-manifest-";

/// Has `write` fill and flush a file of `len` bytes under a temporary name, whose prefix says under which
/// lock it is made. After a failure the file is removed, and a later attempt writes another one: the kernel
/// reports a lost page only once.
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

/// The error of a file that could not be written or named. For a full disk it says how much is free without
/// that file.
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
    Error::NoSpace { path: path.to_owned(), op, needed: len, free, cause: Arc::new(source) }
}

/// Writes and flushes a file under a temporary name, then gives it its own name, which is not durable yet.
/// With `replaces`, another file may have that name. The caller holds the manifest lock.
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

/// Makes a folder of the store and its name durable. With `is_relied_on`, files rely on the name already, so
/// an existing folder is used as it is.
pub(crate) fn make_folder(vfs: &dyn Vfs, dir: &Path, name: &str, is_relied_on: bool) -> Result<PathBuf> {
    let folder = dir.join(name);
    if !is_relied_on {
        // The maker of an empty folder may have died or failed before the name was durable. Then no flush of
        // that name can be believed, so the folder is made anew.
        let _ = vfs.remove_dir(&folder);
    }
    match vfs.create_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_relied_on => return Ok(folder),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made.at(&folder, "create the directory")?,
    }
    let flushed = vfs.flush_dir(dir).at(dir, "flush the directory");
    if flushed.is_err() {
        // The name may never become durable, whatever a later flush says: the next attempt makes another
        // folder.
        let _ = vfs.remove_dir(&folder);
    }
    flushed.map(|()| folder)
}

/// Turns the error of a missing file or directory into `None`.
pub(crate) fn if_there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

/// Removes a file of this process, or one whose lock it holds. A failure is only logged.
pub(crate) fn remove_own(vfs: &dyn Vfs, path: &Path) {
    if let Err(error) = if_there(vfs.remove_file(path)) {
        log::warn!("{}: cannot remove a temporary file: {error}", path.display());
    }
}

/// Removes the files with this prefix, left by earlier holders of the lock under which they are made. The
/// caller holds that lock.
pub(crate) fn remove_temporaries(vfs: &dyn Vfs, dir: &Path, prefix: &str) {
    for name in vfs.list(dir).unwrap_or_default() {
        if name.to_str().is_some_and(|name| name.starts_with(prefix)) {
            remove_own(vfs, &dir.join(name));
        }
    }
}
