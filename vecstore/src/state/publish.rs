//! Publishing one segment file: temporary name, flush, final name.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::temporaries::{if_there, remove_own, write_error, write_new};
use crate::base::{Bug, Error, IoContext, Result};
use crate::format::footer::Footer;
use crate::segment::{Segment, SegmentName, check_open};
use crate::vfs::{Vfs, VfsFile};

/// Whether and how a written file is read back and its checksums compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verify {
    No,
    /// As the system returns it, from memory if it can: finds only mistakes of this process.
    AsRead,
    /// As it is on the disk, if the system drops its cached pages.
    FromDisk,
}

/// Place of a new segment, and how it is written.
pub(crate) struct Target<'a> {
    pub vfs: &'a dyn Vfs,
    /// The directory of segments.
    pub dir: &'a Path,
    /// Prefix of the temporary name, which says under which lock the file is made.
    pub prefix: &'a str,
    pub name: SegmentName,
    /// Length that the file will have, for the error of a full disk.
    pub len: u64,
    /// How the file is read back before it gets its name.
    pub verify: Verify,
    /// Called with the number of bytes read back since the last call. It may sleep; an error ends the check.
    pub step: &'a dyn Fn(usize) -> Result<()>,
}

impl Target<'_> {
    /// Writes a temporary file, flushes it, and gives it its final name, which is not durable yet. If naming
    /// fails, the value that `write` made is dropped before the file is removed: a mapped file takes room,
    /// and the error of a full disk must say what is free without it.
    pub fn publish<T>(
        &self,
        write: impl FnOnce(&mut dyn VfsFile) -> io::Result<(Footer, T)>,
    ) -> Result<(PathBuf, (Footer, T))> {
        let (vfs, op) = (self.vfs, "write the segment");
        let (tmp, made) = write_new(vfs, (self.dir, self.prefix), self.len, op, |file| {
            let made = write(file)?;
            file.flush()?;
            if self.verify == Verify::FromDisk {
                // Where the system does not let go of the pages, the file is compared as it has it.
                if let Err(error) = file.forget() {
                    log::debug!("{}: not dropped from the page cache: {error}", self.name);
                }
            }
            Ok(made)
        })?;
        if self.verify != Verify::No && !Bug::TrustWritten.is_on() {
            self.read_back(&tmp, &made.0).inspect_err(|_| remove_own(vfs, &tmp))?;
        }
        let path = self.dir.join(self.name.to_string());
        let Err(source) = vfs.rename_noreplace(&tmp, &path) else { return Ok((path, made)) };
        let is_absent = if_there(vfs.metadata(&path)).is_ok_and(|found| found.is_none());
        if source.kind() == io::ErrorKind::AlreadyExists {
            remove_own(vfs, &tmp);
            return Err(Error::NameTaken { path });
        }
        if is_absent {
            drop(made);
            remove_own(vfs, &tmp);
            return Err(write_error(vfs, &path, self.len, op, source));
        }
        // The rename was reported as failed, yet the file is there: a network file system may have repeated
        // the request.
        Err(Error::OutcomeUnknown { path, cause: Arc::new(source) })
    }

    /// Reads a written file again, before it gets its name, and compares all checksums.
    fn read_back(&self, tmp: &Path, footer: &Footer) -> Result<()> {
        // A failure to map the file says nothing about the bytes that were written.
        let map = self.vfs.map(tmp).at(tmp, "read the segment back")?;
        let wrong = |section: &str, detail: &str| {
            Error::damaged(tmp, section, format!("read back after writing: {detail}"))
        };
        let checked = Segment::from_mapping(tmp, self.name, map).and_then(|segment| {
            check_open(&segment, self.step)?;
            Ok(segment.footer().crc)
        });
        match checked {
            Ok(crc) if crc == footer.crc => {}
            Ok(_) => return Err(wrong("footer", "it is not what was written")),
            Err(Error::Damaged { section, detail, .. }) => return Err(wrong(&section, &detail)),
            Err(error) => return Err(error),
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
