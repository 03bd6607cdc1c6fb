//! Writing one segment file: temporary name, flush, final name.

use crate::state::remove_own;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::{Bug, Error, IoContext, Result, is_no_space};
use crate::format::footer::Footer;
use crate::format::{hex, random_id};
use crate::segment::SegmentName;
use crate::vfs::{Vfs, VfsFile};

/// What is read back, and compared with what was to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verify {
    No,
    /// What the system has of the file, from memory where it is there: what a later mistake of this process would spoil.
    AsRead,
    /// What is on the disk, as far as the system lets go of what it has in memory.
    FromDisk,
}

/// Where a new segment goes, and how carefully.
pub(crate) struct Target<'a> {
    pub vfs: &'a dyn Vfs,
    /// The directory of segments.
    pub dir: &'a Path,
    /// Prefix of the temporary name: says under which lock the file is made.
    pub prefix: &'a str,
    pub name: SegmentName,
    /// Length of the file to be, for the message of a full disk.
    pub len: u64,
    /// Read it back before it gets its name.
    pub verify: Verify,
    /// Told of every few bytes that were read back; may rest, and give up.
    pub step: &'a dyn Fn(usize) -> Result<()>,
}

impl Target<'_> {
    /// Writes a temporary file, flushes it, and gives it its final name; returns its path and its footer. The name is not yet
    /// durable.
    pub fn publish(
        &self,
        write: impl FnOnce(&mut dyn VfsFile) -> io::Result<Footer>,
    ) -> Result<(PathBuf, Footer)> {
        let (path, (footer, ())) = self.publish_with(|file| Ok((write(file)?, ())))?;
        Ok((path, footer))
    }

    /// As [`Target::publish`], also of what was made of the file while it was written. Of one that failed, that goes before the
    /// file does: a file that is still mapped takes room although it has no name, and a full disk is to say what is free
    /// without it.
    pub fn publish_with<T>(
        &self,
        write: impl FnOnce(&mut dyn VfsFile) -> io::Result<(Footer, T)>,
    ) -> Result<(PathBuf, (Footer, T))> {
        let tmp = self.dir.join(format!("{}{}", self.prefix, hex(&random_id()?)));
        let path = self.dir.join(self.name.to_string());
        let written = (|| {
            let mut file = self.vfs.create_new(&tmp)?;
            let made = write(&mut *file)?;
            file.flush()?;
            if self.verify == Verify::FromDisk {
                file.forget()?;
            }
            Ok(made)
        })();
        let made = match written {
            Ok(made) => made,
            // A failed flush of a temporary file only fails this attempt: the file goes, and a later attempt writes
            // another one. It is never flushed again, because the kernel reports a lost page only once.
            Err(source) => {
                remove_own(self.vfs, &tmp);
                return Err(self.write_error(tmp, source));
            }
        };
        if self.verify != Verify::No
            && !Bug::TrustWritten.is_on()
            && let Err(error) = self.read_back(&tmp, &made.0)
        {
            remove_own(self.vfs, &tmp);
            return Err(error);
        }
        if let Err(source) = self.vfs.rename_noreplace(&tmp, &path) {
            let missing = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
            let absent = self.vfs.metadata(&path).is_err_and(missing);
            return Err(match source.kind() {
                io::ErrorKind::AlreadyExists => {
                    remove_own(self.vfs, &tmp);
                    Error::NameTaken { path }
                }
                _ if absent => {
                    drop(made);
                    remove_own(self.vfs, &tmp);
                    self.write_error(path, source)
                }
                // Reported as failed, yet there: a network file system that repeated the request, say.
                _ => Error::OutcomeUnknown { path, source: Arc::new(source) },
            });
        }
        Ok((path, made))
    }

    fn write_error(&self, path: PathBuf, source: io::Error) -> Error {
        if is_no_space(&source) {
            return Error::NoSpace {
                path,
                needed: self.len,
                free: self.vfs.free_space(self.dir).ok(),
                source: Arc::new(source),
            };
        }
        Error::io(&path, "write the segment", source)
    }

    /// Reads a written file again and compares all checksums, before it gets its name.
    fn read_back(&self, tmp: &Path, footer: &Footer) -> Result<()> {
        // That it cannot be read now says nothing about what was written.
        let map = self.vfs.map(tmp).at(tmp, "read the segment back")?;
        let (segment, faults) = crate::segment::check_mapping(tmp, self.name, map, self.step)?;
        let wrong = |section: &str, detail: &str| {
            Err(Error::damaged(tmp, section, format!("read back after writing: {detail}")))
        };
        if let Some(fault) = faults.first() {
            return wrong(&fault.section, &fault.detail);
        }
        if segment.is_none_or(|segment| segment.footer().crc != footer.crc) {
            return wrong("footer", "it is not what was written");
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
