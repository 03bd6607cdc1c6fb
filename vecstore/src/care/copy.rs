//! Copies one file of a store.

use std::io;
use std::path::Path;

use crate::base::{Error, IoContext, Progress, Result};
use crate::segment::Pieces;
use crate::state::{remove_own, write_new};
use crate::vfs::Vfs;

/// Bytes copied at once.
const COPY_LEN: usize = 1 << 20;
/// Prefix of temporary copies.
pub(super) const TMP_PREFIX: &str = "tmp-backup-";
/// The operation that the error of a stopped copy names.
pub(super) const COPYING: &str = "the copy";

/// Copies a file under a temporary name, and flushes the copy before it gets its own name. The file is not
/// mapped: an unreadable sector becomes an error that names it.
pub(super) fn copy(
    vfs: &dyn Vfs,
    from: &Path,
    dir: &Path,
    to: &Path,
    progress: Option<&Progress>,
) -> Result<()> {
    let mut pieces = Pieces::open(vfs, from).at(from, "open the segment")?;
    let len = pieces.len();
    let mut failed: Option<Error> = None;
    let written = write_new(vfs, (dir, TMP_PREFIX), len as u64, "copy the segment", |file| {
        for start in (0..len).step_by(COPY_LEN) {
            match pieces.read(start..len.min(start.saturating_add(COPY_LEN))) {
                Ok(piece) => {
                    file.write_all(piece)?;
                    let told =
                        progress.map_or(Ok(()), |progress| progress.worked(piece.len() as u64, COPYING));
                    if let Err(stopped) = told {
                        failed = Some(stopped);
                        return Err(io::ErrorKind::Other.into());
                    }
                }
                Err(found) => {
                    failed = Some(found.at(from));
                    return Err(io::ErrorKind::Other.into());
                }
            }
        }
        file.flush()
    });
    let (tmp, ()) = written.map_err(|error| failed.unwrap_or(error))?;
    vfs.rename_noreplace(&tmp, to).inspect_err(|_| remove_own(vfs, &tmp)).at(to, "name the copy")
}
