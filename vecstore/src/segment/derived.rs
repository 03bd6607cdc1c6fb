//! A mapped derived file. Opening reads only the header; each block of the body is checked before its first
//! use.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Segment;
use crate::base::{Error, IoContext, Result};
use crate::format::derived::{Header, Kind};
use crate::vfs::{Mapping, Vfs};

/// A file about one segment. Results of block checks follow from the file's bytes alone, so threads may store
/// them in any order.
#[derive(Debug)]
pub(crate) struct DerivedFile {
    path: PathBuf,
    map: Mapping,
    header: Header,
    /// Offset of the body in the file.
    start: usize,
    is_table_right: OnceLock<bool>,
    /// A bit for each block whose checksum was found right.
    right: Box<[AtomicU64]>,
    is_damaged: AtomicBool,
    is_replaced: AtomicBool,
}

impl DerivedFile {
    /// Maps a file of this kind and checks that it is about this very segment.
    pub fn open(vfs: &dyn Vfs, path: &Path, kind: Kind, segment: &Segment) -> Result<Self> {
        let map = vfs.map(path).at(path, "map the derived file")?;
        let header = Header::parse(path, &map)?;
        let footer = segment.footer();
        let of_segment = (header.store_id, header.first, header.last, header.generation, header.footer_crc)
            == (footer.store_id, footer.first, footer.last, footer.generation, footer.crc);
        if !of_segment || header.kind != kind {
            let detail = format!("it is not about {}, or not of the kind that its name says", segment.name());
            return Err(Error::damaged(path, "header", detail));
        }
        let right = (0..header.block_count().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let start = header.body().unwrap_or_default().start;
        let [is_damaged, is_replaced] = [false; 2].map(AtomicBool::new);
        let is_table_right = OnceLock::new();
        Ok(DerivedFile {
            path: path.to_owned(),
            map,
            header,
            start,
            is_table_right,
            right,
            is_damaged,
            is_replaced,
        })
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True if a block was found damaged and the file has not been written anew.
    pub fn is_damaged(&self) -> bool {
        self.is_damaged.load(Ordering::Relaxed) && !self.is_replaced.load(Ordering::Relaxed)
    }

    /// Records that another file has been written in place of this one.
    pub fn note_replaced(&self) {
        self.is_replaced.store(true, Ordering::Relaxed);
    }

    /// The body from byte `at` on; only the block of that byte has been checked. `None` if the block is
    /// damaged.
    #[inline]
    pub fn get(&self, at: usize) -> Option<&[u8]> {
        let block = self.header.block_of(at);
        let known = self.right.get(block / 64)?.load(Ordering::Relaxed) >> (block % 64) & 1 == 1;
        if known || self.check(block) { self.map.get(self.start + at..) } else { None }
    }

    /// The whole body, after checking every block; `None` if a block is damaged.
    pub fn whole(&self) -> Option<&[u8]> {
        let is_right = (0..self.header.block_count()).all(|block| self.check(block));
        is_right.then(|| self.map.get(self.header.body()?)).flatten()
    }

    #[cold]
    fn check(&self, block: usize) -> bool {
        let is_right = *self.is_table_right.get_or_init(|| self.header.is_table_right(&self.map))
            && self.header.is_block_right(&self.map, block);
        if is_right {
            if let Some(word) = self.right.get(block / 64) {
                word.fetch_or(1 << (block % 64), Ordering::Relaxed);
            }
        } else if !self.is_damaged.swap(true, Ordering::Relaxed) {
            log::warn!(
                "{}: block {block} is damaged; the file is not used where that matters, and the next \
                 checkpoint writes it anew",
                self.path.display()
            );
        }
        is_right
    }
}
