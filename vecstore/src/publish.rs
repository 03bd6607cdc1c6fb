//! Writing one segment file: temporary name, flush, final name.

use std::path::{Path, PathBuf};

use crate::error::is_no_space;
use crate::format::footer::Footer;
use crate::format::{hex, random_id};
use crate::manifest::remove_own;
use crate::segment::SegmentName;
use crate::writer::{TMP_PREFIX, Writer};
use crate::{Error, Result};

impl Writer {
    /// Writes a temporary file, flushes it, and gives it its final name. The name is not yet durable.
    pub(crate) fn write_file(
        &self,
        name: &SegmentName,
        len: u64,
        write: impl FnOnce(&mut dyn crate::vfs::VfsFile) -> std::io::Result<Footer>,
    ) -> Result<PathBuf> {
        let segments = self.segments();
        let tmp = segments.join(format!("{TMP_PREFIX}{}", hex(&random_id()?)));
        let path = segments.join(name.to_string());
        let written = (|| {
            let mut file = self.vfs.create_new(&tmp)?;
            let footer = write(&mut *file)?;
            file.flush()?;
            Ok(footer)
        })();
        let footer = match written {
            Ok(footer) => footer,
            // A failed flush of a temporary file only fails this batch: the file goes, and a later attempt writes
            // another one. It is never flushed again, because the kernel reports a lost page only once.
            Err(source) => {
                remove_own(&*self.vfs, &tmp);
                return Err(self.write_error(tmp, len, source));
            }
        };
        if self.verify_saves
            && let Err(error) = self.read_back(&tmp, name, &footer)
        {
            remove_own(&*self.vfs, &tmp);
            return Err(error);
        }
        if let Err(source) = self.vfs.rename_noreplace(&tmp, &path) {
            remove_own(&*self.vfs, &tmp);
            return Err(match source.kind() {
                std::io::ErrorKind::AlreadyExists => Error::ForeignSegment {
                    path,
                    detail: "the next commit's name is taken by a file that is not part of the store"
                        .to_owned(),
                },
                _ => self.write_error(path, len, source),
            });
        }
        Ok(path)
    }

    fn write_error(&self, path: PathBuf, needed: u64, source: std::io::Error) -> Error {
        if is_no_space(&source) {
            return Error::NoSpace { path, needed, free: self.vfs.free_space(&self.dir).ok(), source };
        }
        Error::Io { path, op: "write the segment", source }
    }

    /// Reads a written file again and compares all checksums, before it gets its name.
    fn read_back(&self, tmp: &Path, name: &SegmentName, footer: &Footer) -> Result<()> {
        let (segment, faults) = crate::segment::check_file(&*self.vfs, tmp, *name);
        if let Some(fault) = faults.first() {
            return Err(Error::damaged(
                tmp,
                fault.section.clone(),
                format!("read back after writing: {}", fault.detail),
            ));
        }
        if segment.is_none_or(|segment| segment.footer().crc != footer.crc) {
            return Err(Error::damaged(tmp, "footer", "read back after writing: it is not what was written"));
        }
        log::info!(
            "save verified: commits {} to {}, {} entries, {} rows, {} bytes read back and compared",
            footer.first,
            footer.last,
            footer.entries,
            footer.rows,
            footer.file_len
        );
        Ok(())
    }
}
