//! All live rows as one NumPy array.

use std::io;
use std::path::Path;

use crate::base::{DType, Error, IoContext, Result, narrow_into};
use crate::format::npy;
use crate::lock::LOCK;
use crate::read::Snapshot;
use crate::state::{MANIFEST, SEGMENTS, remove_own, write_new};
use crate::vfs::{RealFs, Vfs, VfsFile};

/// Bytes written at once.
const PIECE: usize = 1 << 20;
/// Prefix of the names of unfinished arrays.
const TMP_PREFIX: &str = ".vecstore-npy-";

impl Snapshot {
    /// Writes all live rows into one `.npy` file of shape `(rows, dim)`, and returns the number of rows. The
    /// rows are in the order of [`Snapshot::iter`], the rows of an entry one after the other. An existing
    /// file is replaced once the new one is complete and flushed.
    ///
    /// `dtype` is `f32`, `f16`, or `bf16`, which NumPy reads as `uint16`. Rows of another element type are
    /// converted to the nearest value.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{DType, OnDuplicate, Store, StoreConfig};
    /// # let store = Store::create(dir.path().join("s"), StoreConfig::new(2))?;
    /// # let mut batch = store.batch();
    /// # batch.push_rows("a", [[1.0f32, 0.0], [0.0, 1.0]])?;
    /// # store.append(&mut batch, OnDuplicate::Skip)?;
    /// let path = dir.path().join("embeddings.npy");
    /// assert_eq!(store.snapshot().write_npy(&path, DType::F32)?, 2);
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for `i8` (an array has no place for its scales), for a directory that does
    /// not exist, and for a path inside a store; [`Error::Damaged`] if an entry cannot be read, or if the
    /// entries have more or fewer rows than the segments count; [`Error::NoSpace`], [`Error::Io`]. After an
    /// error an existing file is unchanged, unless only the flush of its directory failed. A process that is
    /// killed leaves a file beside it whose name begins with `.vecstore-npy-`.
    pub fn write_npy(&self, path: impl AsRef<Path>, dtype: DType) -> Result<u64> {
        let path = path.as_ref();
        if dtype == DType::I8 {
            return Err(Error::invalid(
                "rows of i8 need scales, and an array has no place for them; use f32 or f16",
            ));
        }
        let (rows, dim) = (self.totals().rows, self.dim());
        let len = (npy::HEADER_LEN as u64).saturating_add(rows.saturating_mul((dim * dtype.size()) as u64));
        let dir = path.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new("."));
        if RealFs.metadata(dir).is_err() {
            let dir = dir.display();
            return Err(Error::invalid(format!("{dir}: there is no such directory; create it first")));
        }
        let is_store = |dir: &Path| {
            let has = |name| RealFs.metadata(&dir.join(name)).is_ok();
            has(SEGMENTS) && (has(MANIFEST) || has(LOCK))
        };
        // No file of a store is ever replaced.
        let absolute = std::path::absolute(path).at(path, "find the absolute path")?;
        if absolute.ancestors().skip(1).take(2).any(is_store) {
            let path = path.display();
            return Err(Error::invalid(format!("{path}: this lies in a store; choose a path outside")));
        }
        let mut failed = None;
        let written = write_new(&RealFs, (dir, TMP_PREFIX), len, "write the array", |file| {
            file.write_all(&npy::header(dtype, rows, dim))?;
            self.write_rows(dtype, file, &mut failed)?;
            file.flush()
        });
        let (tmp, ()) = written.map_err(|error| failed.unwrap_or(error))?;
        RealFs.replace(&tmp, path).inspect_err(|_| remove_own(&RealFs, &tmp)).at(path, "name the array")?;
        RealFs.flush_dir(dir).at(dir, "flush the directory")?;
        Ok(rows)
    }

    fn write_rows(&self, dtype: DType, file: &mut dyn VfsFile, failed: &mut Option<Error>) -> io::Result<()> {
        let (mut piece, mut scales) = (Vec::with_capacity(PIECE), Vec::new());
        let (mut rows, expected) = (0, self.totals().rows);
        for entry in self {
            let added = entry.and_then(|entry| {
                rows += entry.row_count() as u64;
                if dtype == entry.dtype() {
                    piece.extend_from_slice(entry.stored_rows()?.0);
                } else {
                    narrow_into(dtype, self.dim(), &entry.to_f32()?, &mut piece, &mut scales);
                }
                Ok(())
            });
            if let Err(error) = added {
                *failed = Some(error);
                return Err(io::ErrorKind::Other.into());
            }
            if piece.len() >= PIECE {
                file.write_all(&piece)?;
                piece.clear();
            }
        }
        if rows != expected {
            let first = self.segments().next().map(|segment| segment.info().path).unwrap_or_default();
            let detail = format!("{expected} rows are live by the counts, {rows} by the entries");
            *failed = Some(Error::damaged(&first, "KILL", detail));
            return Err(io::ErrorKind::Other.into());
        }
        file.write_all(&piece)
    }
}
