//! Temporary files: written whole, flushed, then named or removed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::{Error, Result, is_no_space};
use crate::format::{hex, random_id};
use crate::vfs::Vfs;

/// Temporary manifests begin with this; only the holder of the manifest lock may remove them.
pub(crate) const TMP_PREFIX: &str = "tmp-manifest-";

/// Writes a file whole under a temporary name in the directory it will be named in, and flushes it. The caller holds the
/// manifest lock. A failed flush only fails this attempt: the file goes, and a later attempt writes another one.
pub(crate) fn write_temporary(vfs: &dyn Vfs, dir: &Path, bytes: &[u8], op: &'static str) -> Result<PathBuf> {
    let tmp = dir.join(format!("{TMP_PREFIX}{}", hex(&random_id()?)));
    let written = (|| {
        let mut file = vfs.create_new(&tmp)?;
        file.write_all(bytes)?;
        file.flush()
    })();
    let Err(source) = written else { return Ok(tmp) };
    remove_own(vfs, &tmp);
    Err(if is_no_space(&source) {
        let free = vfs.free_space(dir).ok();
        Error::NoSpace { path: tmp, needed: bytes.len() as u64, free, source: Arc::new(source) }
    } else {
        Error::io(&tmp, op, source)
    })
}

/// Removes a temporary file of our own; that it stays behind is worth a line in the log and nothing more.
pub(crate) fn remove_own(vfs: &dyn Vfs, path: &Path) {
    if let Err(error) = vfs.remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        log::warn!("{}: cannot remove a temporary file: {error}", path.display());
    }
}

/// Removes those whose names begin so: what earlier holders of the lock under which they are made have left. The caller holds it.
pub(crate) fn remove_temporaries(vfs: &dyn Vfs, dir: &Path, prefix: &str) {
    for name in vfs.list(dir).unwrap_or_default() {
        if name.to_str().is_some_and(|name| name.starts_with(prefix)) {
            remove_own(vfs, &dir.join(name));
        }
    }
}
