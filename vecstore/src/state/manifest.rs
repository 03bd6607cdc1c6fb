//! MANIFEST: a checkpoint of the live state, replaced by atomic rename.
//!
//! A header (magic, version, flags, generation, length, time, checksum) precedes a body that is encoded by
//! bincode with fixed-size little-endian integers. Commits do not touch the file; an opener reads it and then
//! the few segments that came after it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;

use bytemuck::{Pod, Zeroable};
use serde::{Deserialize, Serialize};

use super::temporaries::write_named;
use crate::base::{Bug, Error, IoContext, Result};
use crate::format::derived::LIVE;
use crate::format::{
    Covers, Id, MAX_COMMIT, Preamble, VERSION_MINOR, check_vectors, hex, milliseconds, random_id,
    read_header, record_crc,
};
use crate::segment::{Segment, SegmentName};
use crate::state::{DerivedRecord, create, derived, load};
use crate::types::{Fingerprint, check_description, check_settings};
use crate::vfs::Vfs;

/// Name of the manifest in the store's directory.
pub(crate) const MANIFEST: &str = "MANIFEST";

const MAGIC: [u8; 8] = *b"\x89VECMAN\n";
const HEADER_LEN: usize = 128;
/// Length of the longest manifest: some 20,000 segments with their derived files; Linux lets one process map
/// 65,530 files. It also bounds the lengths that a body may claim before they are read, and the memory that
/// many small records take.
pub(crate) const MAX_LEN: u64 = 4 << 20;
/// Most named records in [`Body::extra`].
const MAX_EXTRA: usize = 1024;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Header {
    head: Preamble,
    generation: u64,
    body_len: u64,
    time: u64,
    refused: [u8; 24],
    /// Zero; readers ignore it.
    ignored: [u8; 28],
    /// CRC-32 of the header before this field, then the body.
    crc: u32,
}

const _: () = assert!(size_of::<Header>() == HEADER_LEN);

/// The checkpointed state of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// Grows with every replacement.
    pub generation: u64,
    /// Ro-compat flags of later versions, kept when the manifest is rewritten.
    pub ro_compat: u64,
    /// Compat flags of later versions, kept when the manifest is rewritten.
    pub compat: u64,
    /// Time of writing, in milliseconds since 1970; for people.
    pub time: u64,
    pub body: Body,
}

/// The part that bincode encodes. The order of the fields is the format.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Body {
    pub store_id: Id,
    pub dim: u32,
    pub dtype: u8,
    pub metric: u8,
    pub fingerprint: Option<FingerprintRecord>,
    pub settings: BTreeMap<String, String>,
    /// Epochs, the histories of the store, oldest first; never empty.
    pub epochs: Vec<EpochRecord>,
    /// The live segments, tiling commits 1 to N.
    pub segments: Vec<SegmentRecord>,
    /// The liveness bitmaps among the derived files contain every kill of the listed segments up to this
    /// commit. A segment up to there without a bitmap has no superseded entries.
    pub live_last: u64,
    /// Files that are derived from the listed segments.
    pub derived: Vec<DerivedRecord>,
    /// Listed segments that a merge found damaged: merges go around them, and `vecstore info` names them.
    pub damaged: BTreeSet<SegmentName>,
    /// True if the store was made as a backup and nothing has been written to it.
    pub is_backup: bool,
    /// Named records of later minor versions. A writer keeps the records that it does not know.
    pub extra: BTreeMap<String, Vec<u8>>,
}

/// The recorded fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FingerprintRecord {
    pub id: [u8; 32],
    pub description: String,
}

/// A history: the epoch that it follows, and its first commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EpochRecord {
    pub id: Id,
    /// Id of the epoch before it; zero for the first epoch.
    pub parent: Id,
    /// Number of the first commit that may carry this epoch.
    pub first: u64,
}

/// A segment file, identified by name and footer checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SegmentRecord {
    pub first: u64,
    pub last: u64,
    pub generation: u32,
    pub footer_crc: u32,
    pub file_len: u64,
    pub link_out: Id,
    /// Number of entries, so that a report can say how many are lost with the file.
    pub entries: u64,
    /// Number of rows, so that a report can say how many are lost with the file.
    pub rows: u64,
}

impl SegmentRecord {
    pub fn of(segment: &Segment) -> Self {
        let footer = segment.footer();
        SegmentRecord {
            first: footer.first,
            last: footer.last,
            generation: footer.generation,
            footer_crc: footer.crc,
            file_len: footer.file_len,
            link_out: footer.link_out,
            entries: footer.entries,
            rows: footer.rows,
        }
    }

    pub fn name(&self) -> SegmentName {
        SegmentName { first: self.first, last: self.last, generation: self.generation }
    }
}

impl Body {
    /// Last commit that the manifest lists; 0 for none.
    pub fn last_commit(&self) -> u64 {
        self.segments.last().map_or(0, |segment| segment.last)
    }

    /// Names of the listed segments, in order.
    pub fn names(&self) -> impl Iterator<Item = SegmentName> + '_ {
        self.segments.iter().map(SegmentRecord::name)
    }

    /// True if the segments and epochs of `other` begin with all of this body's.
    pub fn begins(&self, other: &Body) -> bool {
        other.segments.starts_with(&self.segments) && other.epochs.starts_with(&self.epochs)
    }

    /// The record of a listed file.
    pub fn record_of(&self, name: SegmentName) -> Option<&SegmentRecord> {
        let at = self.segments.binary_search_by_key(&name.first, |record| record.first).ok()?;
        self.segments.get(at).filter(|record| record.name() == name)
    }

    /// Replaces the list of segments. Keeps only the derived files and damaged names that still hold for the
    /// new list.
    pub fn list(&mut self, segments: Vec<SegmentRecord>) {
        let before = std::mem::replace(&mut self.segments, segments);
        let known = before.iter().take_while(|record| record.last <= self.live_last);
        let is_same = known.clone().eq(self.segments.iter().take(known.count()));
        let mut derived = std::mem::take(&mut self.derived);
        derived.retain(|record| {
            let listed = self.record_of(record.segment);
            listed.is_some_and(|listed| listed.footer_crc == record.footer_crc)
        });
        self.derived = derived;
        derived::keep(self, |record| is_same || record.kind != LIVE);
        if !is_same {
            self.live_last = 0;
        }
        let mut damaged = std::mem::take(&mut self.damaged);
        damaged.retain(|name| self.record_of(*name).is_some());
        self.damaged = damaged;
    }

    /// Begins a history: later commits carry a new epoch.
    pub fn begin_epoch(&mut self) -> Result<()> {
        let parent = self.epochs.last().map_or([0; 16], |epoch| epoch.id);
        self.epochs.push(EpochRecord { id: random_id()?, parent, first: self.last_commit() + 1 });
        self.is_backup = false;
        Ok(())
    }

    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.fingerprint.as_ref().map(|record| Fingerprint::new(record.id, record.description.clone()))
    }

    /// Checks that the body describes a store that can exist.
    fn check(&self) -> Result<(), String> {
        if self.epochs.is_empty() {
            return Err("no epoch".to_owned());
        }
        if self.extra.len() > MAX_EXTRA {
            return Err(format!("{} named records; there may be {MAX_EXTRA}", self.extra.len()));
        }
        // Segments carry settings and description too, and no reader accepts longer ones there.
        check_settings(&self.settings).map_err(|error| error.to_string())?;
        let fingerprint = self.fingerprint();
        fingerprint.as_ref().map_or(Ok(()), check_description).map_err(|error| error.to_string())?;
        let mut next = 1u64;
        for segment in &self.segments {
            if segment.first != next || segment.last < segment.first || segment.last > MAX_COMMIT {
                let found = segment.name();
                return Err(format!("segments do not tile: expected commit {next}, found {found}"));
            }
            next = segment.last + 1;
        }
        check_epochs(&self.epochs, next)?;
        if self.damaged.iter().any(|name| self.record_of(*name).is_none()) {
            return Err("it lists a damaged segment among others than its own".to_owned());
        }
        derived::fault(self).map_or(Ok(()), Err)
    }
}

/// Checks that epochs follow each other, and that the last one begins with commit `next` or before.
fn check_epochs(epochs: &[EpochRecord], next: u64) -> Result<(), String> {
    let (mut before, mut ids) = (EpochRecord { id: [0; 16], parent: [0; 16], first: 1 }, BTreeSet::new());
    for epoch in epochs {
        let range = before.first..=next;
        if epoch.parent != before.id || !range.contains(&epoch.first) || !ids.insert(epoch.id) {
            let (id, parent, first) = (hex(&epoch.id), hex(&epoch.parent), epoch.first);
            return Err(format!(
                "epoch {id}, after {parent} and from commit {first} on, does not follow epoch {}",
                hex(&before.id)
            ));
        }
        before = *epoch;
    }
    Ok(())
}

/// A text is allocated before it is read, so the length that it claims is bounded: by twice the length of a
/// whole manifest, because names and texts count for more in memory than in the file.
fn config() -> impl bincode::config::Config {
    const LIMIT: usize = 2 * MAX_LEN as usize;
    bincode::config::standard().with_fixed_int_encoding().with_little_endian().with_limit::<LIMIT>()
}

fn encode_body(body: &Body) -> Result<Vec<u8>> {
    bincode::serde::encode_to_vec(body, config())
        .map_err(|_| Error::internal("a manifest that cannot be encoded"))
}

impl Manifest {
    /// Encodes the file.
    pub fn encode(&self) -> Result<Vec<u8>> {
        // A manifest that could not be read again is never written.
        let wrong = |detail: String| Error::internal(format!("the manifest would be wrong: {detail}"));
        let Body { dim, dtype, metric, .. } = self.body;
        check_vectors((Path::new(MANIFEST), "manifest"), dim, dtype, metric)?;
        self.body.check().map_err(wrong)?;
        let body = encode_body(&self.body)?;
        let len = (HEADER_LEN + body.len()) as u64;
        if len > MAX_LEN {
            return Err(Error::invalid(format!(
                "the manifest would list {} segments in {len} bytes; the limit is {MAX_LEN} bytes: merge \
                 segments with \
                 `vecstore compact` or `Store::compact`",
                self.body.segments.len()
            )));
        }
        let (ro_compat, compat) = (self.ro_compat, self.compat);
        let mut header = Header {
            head: Preamble { ro_compat, compat, ..Preamble::of(MAGIC, HEADER_LEN) },
            generation: self.generation,
            body_len: body.len() as u64,
            time: self.time,
            ..Header::zeroed()
        };
        header.crc = record_crc(bytemuck::bytes_of(&header), &body);
        Ok([bytemuck::bytes_of(&header), &body].concat())
    }

    /// Decodes the bytes of a file without trusting any of them.
    pub fn decode(path: &Path, bytes: &[u8]) -> Result<Self> {
        let damaged = |detail: String| Error::damaged(path, "manifest", detail);
        if bytes.len() as u64 > MAX_LEN {
            return Err(damaged(format!("expected at most {MAX_LEN} bytes, found {}", bytes.len())));
        }
        let kind = (path, "manifest", "manifest");
        let covers = (Covers::WholeFile, Bug::TrustManifest);
        let (header, body): (Header, _) = read_header(kind, bytes, MAGIC, covers)?;
        if header.body_len != body.len() as u64 {
            let (expected, found) = (header.body_len, body.len());
            return Err(damaged(format!("expected a body of {expected} bytes, found {found}")));
        }
        if header.refused != [0; 24] {
            return Err(damaged("reserved bytes are not zero".to_owned()));
        }
        // A generation only grows, so it must be far from the largest number.
        if header.generation > u64::MAX / 2 {
            return Err(damaged(format!("generation {} is not possible", header.generation)));
        }
        let (mut decoded, used): (Body, _) = bincode::serde::decode_from_slice(body, config())
            .map_err(|error| damaged(format!("its body cannot be decoded: {error}")))?;
        if used != body.len() {
            return Err(damaged(format!("{} bytes follow its body", body.len() - used)));
        }
        check_vectors((path, "manifest"), decoded.dim, decoded.dtype, decoded.metric)?;
        // Names that are repeated or out of order are lost in decoding; encoding again reveals them.
        if encode_body(&decoded)? != body {
            return Err(damaged("the names in its body are not unique and in ascending order".to_owned()));
        }
        decoded.check().map_err(damaged)?;
        // All versions are held in memory at once, so spare capacity of the lists is freed.
        decoded.segments.shrink_to_fit();
        decoded.epochs.shrink_to_fit();
        Ok(Manifest {
            generation: header.generation,
            ro_compat: header.head.ro_compat,
            compat: header.head.compat,
            time: header.time,
            body: decoded,
        })
    }

    /// True if a manifest file has content that this version ignores and a later one reads.
    pub fn says_more(vfs: &dyn Vfs, path: &Path) -> bool {
        let bytes = vfs.read(path, MAX_LEN).unwrap_or_default();
        let header = bytes.get(..HEADER_LEN).map(bytemuck::pod_read_unaligned);
        header.is_some_and(|Header { head, ignored, .. }| {
            ignored != [0; 28] || head.len as usize > HEADER_LEN || head.version_minor > VERSION_MINOR
        })
    }

    /// The generation that a damaged manifest claims, or 0 if the claim is not plausible.
    pub fn claimed_generation(vfs: &dyn Vfs, dir: &Path) -> u64 {
        // Only this field is read: the file may be longer than any manifest.
        let mut bytes = [0; 8];
        let at = std::mem::offset_of!(Header, generation) as u64;
        let read = vfs.open(&dir.join(MANIFEST)).and_then(|file| file.read_at(&mut bytes, at));
        let claimed = read.map_or(0, |()| u64::from_le_bytes(bytes));
        if claimed < 1 << 56 { claimed } else { 0 }
    }

    /// Reads a store's manifest.
    ///
    /// # Errors
    /// Without a manifest: [`Error::NotFound`], [`Error::NotAStore`], or [`Error::ManifestMissing`] if there
    /// are segments.
    pub fn read(vfs: &dyn Vfs, dir: &Path) -> Result<Self> {
        let read = || Self::read_file(vfs, &dir.join(MANIFEST), "read the manifest");
        if let Some(manifest) = read()? {
            return Ok(manifest);
        }
        match why_absent(vfs, dir) {
            missing @ Error::NotFound { .. } => Err(missing),
            // The store may have been renamed into place between the two looks.
            other => read()?.ok_or(other),
        }
    }

    /// Reads a manifest or a version; `None` if there is no file.
    pub(super) fn read_file(vfs: &dyn Vfs, path: &Path, op: &'static str) -> Result<Option<Self>> {
        match vfs.read(path, MAX_LEN) {
            Ok(bytes) => Self::decode(path, &bytes).map(Some),
            Err(error) if is_absent(&error) => Ok(None),
            // A file that is longer than any manifest is damaged; other errors of reading say nothing about
            // its bytes.
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                Err(Error::damaged(path, "manifest", error.to_string()))
            }
            Err(error) => Err(Error::io(path, op, error)),
        }
    }

    /// Replaces the manifest on disk: temporary file, flush, rename, flush of the directory.
    ///
    /// The caller holds the manifest lock (or the directory is not yet a store).
    pub fn write(&self, vfs: &dyn Vfs, dir: &Path) -> Result<()> {
        self.replace(vfs, dir)?;
        vfs.flush_dir(dir).at(dir, "flush the directory")
    }

    /// As [`Manifest::write`], without the flush of the directory: the manifest is visible, but not yet
    /// durable.
    pub fn replace(&self, vfs: &dyn Vfs, dir: &Path) -> Result<()> {
        let now = Manifest { time: milliseconds(), ..self.clone() };
        write_named(vfs, &dir.join(MANIFEST), &now.encode()?, "write the manifest", true)
    }
}

fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn why_absent(vfs: &dyn Vfs, dir: &Path) -> Error {
    let not_a_store = |found: &str| Error::NotAStore { path: dir.to_owned(), found: found.to_owned() };
    match vfs.metadata(dir) {
        Err(error) if is_absent(&error) => return Error::NotFound { path: dir.to_owned() },
        Err(error) => return Error::io(dir, "look at the store", error),
        Ok(found) if found.kind == crate::vfs::FileKind::File => return not_a_store("a file"),
        Ok(_) if create::is_vacant(vfs, dir) => return Error::NotFound { path: dir.to_owned() },
        Ok(_) => {}
    }
    match load::list_segments(vfs, dir).map_or(0, |names| names.len()) {
        0 => not_a_store("a directory without a manifest and without segments"),
        segments => Error::ManifestMissing { path: dir.join(MANIFEST), segments },
    }
}

#[cfg(test)]
mod tests;
