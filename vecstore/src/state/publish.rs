//! Writing one segment file: temporary name, flush, final name.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::temporaries::{if_there, remove_own, write_error, write_new};
use crate::base::{Bug, Error, IoContext, Result};
use crate::format::footer::Footer;
use crate::segment::{Segment, SegmentName, check_open};
use crate::vfs::{Vfs, VfsFile};

/// How much of a written file is read back and compared with the bytes to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verify {
    No,
    /// As the system has it, in memory where it can: this finds mistakes of this process alone.
    AsRead,
    /// As it is on the disk, if the system lets go of its pages in memory.
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
    /// Called for every few bytes that were read back; may rest, and give up.
    pub step: &'a dyn Fn(usize) -> Result<()>,
}

impl Target<'_> {
    /// Writes a temporary file, flushes it, and gives it its final name, which is not yet durable. What `write` makes
    /// of the file goes before a file that failed does: what is still mapped takes room, and a full disk is to say
    /// what is free without it.
    pub fn publish<T>(
        &self,
        write: impl FnOnce(&mut dyn VfsFile) -> io::Result<(Footer, T)>,
    ) -> Result<(PathBuf, (Footer, T))> {
        let (vfs, op) = (self.vfs, "write the segment");
        let (tmp, made) = write_new(vfs, (self.dir, self.prefix), self.len, op, |file| {
            let made = write(file)?;
            file.flush()?;
            if self.verify == Verify::FromDisk {
                file.forget()?;
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
        // Reported as failed, yet there: a network file system that repeated the request, say.
        Err(Error::OutcomeUnknown { path, source: Arc::new(source) })
    }

    /// Reads a written file again and compares all checksums, before it gets its name.
    fn read_back(&self, tmp: &Path, footer: &Footer) -> Result<()> {
        // A failure to read it now says nothing about what was written.
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
