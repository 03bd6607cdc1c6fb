//! Makes the files of the repaired chain: sound files stay, all others are rewritten under temporary names.

use crate::state::remove_own;
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::chain::Piece;
use super::items::with_kills;
use super::remains::Remains;
use super::rescue::{Around, Newer, Rescued, rescue};
use super::survey::{Found, epoch_at};
use crate::base::{Error, IoContext, Result};
use crate::care::liveness::{InMemory, WrongKills, wrong_kills};
use crate::format::footer::Footer;
use crate::format::{random_id, settings};
use crate::segment::{Pieces, Segment, SegmentFault, SegmentName, check_file, check_open};
use crate::state::{Manifest, SEGMENTS, SegmentRecord, View, derived, load, write_new};
use crate::vfs::{Mapping, Vfs, VfsFile};

/// Prefix of a repair's temporary segments. It begins with the prefix of commits, so that leftovers are
/// removed like theirs.
const TMP_PREFIX_REPAIR: &str = "tmp-commit-repair-";

/// Bytes copied at once.
const COPY_LEN: usize = 1 << 20;

/// A file that the repair wrote in place of another one, or into a hole.
#[derive(Debug)]
pub(super) struct Made {
    pub piece: Piece,
    pub segment: Arc<Segment>,
    /// The temporary path, until the file is named; `None` in a dry run.
    pub tmp: Option<PathBuf>,
    /// What became of the entries; `None` if the old file was sound.
    pub rescued: Option<Rescued>,
    /// True if only versions use the file, because the store's file does not fit them.
    pub own: bool,
}

/// Which of the files made before may serve in a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shares {
    All,
    /// Files that only versions use.
    Own,
    Nothing,
}

/// Writes the files that the chains lack.
#[derive(Debug)]
pub(super) struct Mender<'a> {
    pub vfs: &'a dyn Vfs,
    pub dir: &'a Path,
    pub found: Vec<Found>,
    /// Every name that a file of the store has had.
    pub known: Vec<SegmentName>,
    /// Entries that liveness bitmaps list as superseded.
    pub superseded: HashSet<(u64, u64)>,
    /// Sound files that begin after this commit are copied: their names are in doubt.
    pub doubt_after: Option<u64>,
    pub dry_run: bool,
    pub made: Vec<Made>,
    pub shares: Shares,
}

impl Mender<'_> {
    /// Makes the missing files of a chain, and returns its view. `manifest` lists the files that should be
    /// there.
    pub fn mend(&mut self, manifest: &Manifest, chain: &[Piece]) -> Result<View> {
        let mut view = empty_view(manifest);
        for (at, piece) in chain.iter().enumerate() {
            let later = chain.get(at + 1..).unwrap_or_default();
            let segment = match self.kept(*piece).or_else(|| self.made_before(*piece, &view, later)) {
                Some(segment) => segment,
                None => {
                    let made = self.make(manifest, &view, *piece, later)?;
                    let segment = Arc::clone(&made.segment);
                    self.made.push(made);
                    segment
                }
            };
            let record = SegmentRecord::of(&segment);
            view.add(segment, Some(&record))?;
        }
        Ok(view)
    }

    /// Replaces the files of a view whose kills contradict the keys: of each key, the newest entry is live,
    /// and no other.
    pub fn put_kills_right(&mut self, manifest: &Manifest, chain: &[Piece], view: View) -> Result<View> {
        let mut wrong = wrong_kills(&view, &mut InMemory(&view))?;
        if wrong.is_empty() {
            return Ok(view);
        }
        let mut right = empty_view(manifest);
        for (number, (live, piece)) in view.segments.iter().zip(chain).enumerate() {
            let segment = match wrong.remove(&number) {
                Some(wrong) => self.with_right_kills(&live.segment, *piece, wrong)?,
                None => Arc::clone(&live.segment),
            };
            let record = SegmentRecord::of(&segment);
            right.add(segment, Some(&record))?;
        }
        Ok(right)
    }

    /// Rewrites a segment with correct kills.
    fn with_right_kills(
        &mut self,
        segment: &Arc<Segment>,
        piece: Piece,
        wrong: WrongKills,
    ) -> Result<Arc<Segment>> {
        let before = self.made.iter().position(|made| Arc::ptr_eq(&made.segment, segment));
        let path = segment.path();
        // In a dry run, a file made before is in memory alone.
        let pieces = match before.is_some() && self.dry_run {
            true => Mapping::copied(segment.bytes()).and_then(|bytes| Pieces::of(Box::new(bytes))),
            false => Pieces::open(self.vfs, path),
        };
        let pieces = pieces.at(path, "open the segment")?;
        let remains = Remains::read(path, segment.name(), pieces, None);
        let remains = remains.ok_or(Error::internal("a whole segment that cannot be read"))?;
        let name = match before {
            Some(_) => segment.name(),
            None => self.new_name(segment.name().first, segment.name().last),
        };
        let identity =
            Footer { generation: name.generation, nonce: random_id()?, ..segment.footer().identity() };
        let (encoded, is_all) = with_kills(segment, &remains, identity, wrong.right(segment))?;
        let (tmp, segment) = self.write(name, encoded.file_len(), |file| Ok(encoded.write(file)?.footer))?;
        if let Piece::File(number) = piece
            && let Some(file) = self.found.get_mut(number).filter(|file| file.is_whole())
        {
            let details = wrong.told().map(|(detail, _)| detail);
            let less = if is_all { "" } else { "; what only a later version reads is not in the new file" };
            file.problem = format!("section KILL: {}{less}", details.collect::<Vec<_>>().join("; "));
        }
        match before.and_then(|at| self.made.get_mut(at)) {
            Some(made) => {
                made.tmp.iter().for_each(|tmp| remove_own(self.vfs, tmp));
                (made.segment, made.tmp) = (Arc::clone(&segment), tmp);
            }
            None => {
                self.made.push(Made { piece, segment: Arc::clone(&segment), tmp, rescued: None, own: false })
            }
        }
        Ok(segment)
    }

    /// The segment of a file that stays as it is.
    fn kept(&self, piece: Piece) -> Option<Arc<Segment>> {
        let file = piece.file(&self.found)?;
        let in_doubt = self.doubt_after.is_some_and(|last| file.name.first > last);
        file.whole().filter(|_| !in_doubt).cloned()
    }

    /// The file that was made of the same piece for another chain, if its links fit into this chain, too.
    fn made_before(&self, piece: Piece, older: &View, later: &[Piece]) -> Option<Arc<Segment>> {
        let next = self.footer_of_next(later);
        let fits = |made: &&Made| {
            let footer = made.segment.footer();
            let is_shared = match self.shares {
                Shares::All => true,
                Shares::Own => made.own,
                Shares::Nothing => false,
            };
            let leaves_out = made.rescued.as_ref().is_some_and(|rescued| rescued.leaves_out);
            is_shared
                && !leaves_out
                && made.piece == piece
                && footer.link_in == older.link()
                && next.is_none_or(|next| next.link_in == footer.link_out)
        };
        self.made.iter().find(fits).map(|made| Arc::clone(&made.segment))
    }

    fn footer_of_next(&self, later: &[Piece]) -> Option<&Footer> {
        later.first()?.file(&self.found)?.footer()
    }

    /// A name for a new file. It is never the name of a lost file: handles may still have that file mapped,
    /// and it may turn up again.
    fn new_name(&mut self, first: u64, last: u64) -> SegmentName {
        self.known.push(SegmentName { first, last, generation: 0 });
        let name = load::next_generation(&self.known, first, last);
        self.known.push(name);
        name
    }

    fn make(&mut self, manifest: &Manifest, older: &View, piece: Piece, later: &[Piece]) -> Result<Made> {
        let (first, last) = piece.range(&self.found);
        let name = self.new_name(first, last);
        let file = piece.file(&self.found);
        let own = self.shares != Shares::All;
        if let Some(segment) = file.and_then(Found::sound) {
            let (tmp, segment) = self.copy(segment, name)?;
            return Ok(Made { piece, segment, tmp, rescued: None, own });
        }
        let remains = file.and_then(Found::remains);
        let identity = match remains {
            Some(remains) => {
                Footer { generation: name.generation, nonce: random_id()?, ..remains.footer.identity() }
            }
            None => self.identity(manifest, older, name, later)?,
        };
        let mut newer = Newer::default();
        for file in later.iter().filter_map(|piece| piece.file(&self.found)) {
            newer.add(&file.state);
        }
        let around = Around { older, newer: &newer, superseded: &self.superseded };
        let settings = match file.and_then(Found::settings) {
            Some(settings) => settings::encode(&settings)?,
            None => older.meta.segment_settings()?,
        };
        let (encoded, rescued) = rescue(remains, identity, settings, around)?;
        let len = encoded.file_len();
        let (tmp, segment) = self.write(name, len, |file| Ok(encoded.write(file)?.footer))?;
        Ok(Made { piece, segment, tmp, rescued: Some(rescued), own })
    }

    /// The footer of an empty file that keeps the chain together.
    fn identity(
        &self,
        manifest: &Manifest,
        older: &View,
        name: SegmentName,
        later: &[Piece],
    ) -> Result<Footer> {
        let body = &manifest.body;
        let listed = body.segments.iter().find(|record| record.last == name.last);
        let link_out = match (self.footer_of_next(later), listed) {
            (Some(next), _) => next.link_in,
            (None, Some(record)) => record.link_out,
            (None, None) => random_id()?,
        };
        let mut identity = Footer::empty();
        identity.store_id = body.store_id;
        identity.epoch = epoch_at(body, name.last).unwrap_or_default();
        identity.nonce = random_id()?;
        identity.link_in = older.link();
        identity.link_out = link_out;
        identity.fingerprint = body.fingerprint.as_ref().map_or([0; 32], |fingerprint| fingerprint.id);
        (identity.first, identity.last, identity.generation) = (name.first, name.last, name.generation);
        (identity.dim, identity.dtype, identity.metric) = (body.dim, body.dtype, body.metric);
        Ok(identity)
    }

    /// Copies a sound file, under a name of its own.
    fn copy(&self, segment: &Segment, name: SegmentName) -> Result<(Option<PathBuf>, Arc<Segment>)> {
        let footer = segment.footer().of_copy(name.generation, random_id()?);
        let body_len = footer.body_len();
        let from = self.vfs.open(segment.path()).at(segment.path(), "read the segment")?;
        self.write(name, footer.file_len, |file| {
            let mut buffer = vec![0; COPY_LEN];
            for start in (0..body_len).step_by(COPY_LEN) {
                let len = usize::try_from(body_len - start).unwrap_or(COPY_LEN).min(COPY_LEN);
                let piece = buffer.get_mut(..len).unwrap_or_default();
                from.read_at(piece, start)?;
                file.write_all(piece)?;
            }
            file.write_all(footer.bytes())?;
            Ok(footer)
        })
    }

    /// Writes a file, flushes it, and reads it back. In a dry run the file exists only in memory.
    fn write(
        &self,
        name: SegmentName,
        len: u64,
        write: impl FnOnce(&mut dyn VfsFile) -> io::Result<Footer>,
    ) -> Result<(Option<PathBuf>, Arc<Segment>)> {
        let segments = self.dir.join(SEGMENTS);
        if self.dry_run {
            let path = segments.join(name.to_string());
            let mut memory = Memory(Vec::new());
            write(&mut memory).at(&path, "lay out the segment")?;
            let laid_out = Mapping::copied(&memory.0).at(&path, "lay out the segment")?;
            let segment = Segment::from_mapping(&path, name, laid_out)?;
            check_open(&segment, &|_| Ok(()))?;
            return Ok((None, Arc::new(segment)));
        }
        let target = (segments.as_path(), TMP_PREFIX_REPAIR);
        let (tmp, ()) = write_new(self.vfs, target, len, "write the segment", |file| {
            write(file)?;
            file.flush()
        })?;
        let segment = sound(&tmp, check_file(self.vfs, &tmp, name, &|_| Ok(()))?);
        let segment = segment.inspect_err(|_| remove_own(self.vfs, &tmp))?;
        Ok((Some(tmp), segment))
    }

    /// Removes all files that were made after the first `kept`.
    pub fn undo(&mut self, kept: usize) {
        let made = self.made.drain(kept..);
        made.filter_map(|made| made.tmp).for_each(|tmp| remove_own(self.vfs, &tmp));
    }

    /// Removes the files that were not named.
    pub fn discard(&self) {
        self.made.iter().filter_map(|made| made.tmp.as_ref()).for_each(|tmp| remove_own(self.vfs, tmp));
    }
}

/// The view of the store before its first segment.
fn empty_view(manifest: &Manifest) -> View {
    let mut base = manifest.clone();
    base.body.segments.clear();
    derived::forget(&mut base.body);
    View::empty(&base)
}

/// The segment that was read back after writing, if it has no fault.
fn sound(path: &Path, (segment, faults): (Option<Segment>, Vec<SegmentFault>)) -> Result<Arc<Segment>> {
    match (segment, faults.first()) {
        (Some(segment), None) => Ok(Arc::new(segment)),
        (_, fault) => {
            let (section, detail) =
                fault.map_or(("file", "it cannot be opened"), |f| (&f.section, &f.detail));
            Err(Error::damaged(path, section, format!("read back after writing: {detail}")))
        }
    }
}

/// A file in memory, for a dry run.
struct Memory(Vec<u8>);

impl VfsFile for Memory {
    fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        self.0.extend_from_slice(data);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
