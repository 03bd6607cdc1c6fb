//! Liveness bitmaps on disk: what is superseded, so that opening need not replay every kill there ever was.
//!
//! `live/` holds one immutable file for each segment that has superseded entries. A record of the manifest
//! names them and says up to which commit they are complete; kills of later segments are replayed. The record
//! also holds a hash of the segments it is about, because programs that do not know it keep it when they
//! change the list.
//!
//! Everything here can be derived from the segments. A bitmap that is missing or damaged costs time, never an
//! answer.

mod check;
mod dead;
mod read;
mod write;

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::base::{Error, Result};
use crate::segment::SegmentName;
use crate::state::{Body, SegmentRecord, decode_record, encode_record};
use crate::vfs::Vfs;

pub(crate) use check::{Checked, check};
pub(crate) use dead::Dead;
pub(crate) use read::{covered, known};
pub(crate) use write::{discard_unlisted, publish, remove_unlisted};

/// Directory of the bitmaps within a store.
pub(crate) const LIVE: &str = "live";
/// In `extra` of a manifest: the bitmaps that belong to it.
const RECORD: &str = "vecstore.live";

/// A bitmap's file: `<first>-<last>.<generation>.<version>.live`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct BitmapName {
    segment: SegmentName,
    /// Random: a newer bitmap of the same segment never takes the name of an older one.
    version: u64,
}

impl BitmapName {
    /// Reads a name; `None` for anything that [`fmt::Display`] would not write exactly so.
    pub fn parse(name: &OsStr) -> Option<Self> {
        let text = name.to_str()?;
        let (segment, version) = text.strip_suffix(".live")?.rsplit_once('.')?;
        let name = BitmapName {
            segment: SegmentName::parse(OsStr::new(&format!("{segment}.npy")))?,
            version: u64::from_str_radix(version, 16).ok()?,
        };
        (name.to_string() == text).then_some(name)
    }
}

impl fmt::Display for BitmapName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SegmentName { first, last, generation } = self.segment;
        write!(f, "{first:010}-{last:010}.{generation}.{:016x}.live", self.version)
    }
}

/// A bitmap, as the manifest lists it. The order of the fields is the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BitmapRecord {
    segment: SegmentName,
    /// The file's own checksum.
    crc: u32,
    version: u64,
    /// Entries in it. Superseded entries only become more, so a bitmap with as many is the same.
    dead: u64,
}

impl BitmapRecord {
    pub fn name(&self) -> BitmapName {
        BitmapName { segment: self.segment, version: self.version }
    }
}

/// The bitmaps of a manifest. The order of the fields is the format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LiveRecord {
    /// They know every kill of the segments up to this commit. A segment up to there that has none has
    /// nothing dead.
    pub last: u64,
    /// Hash of the list of segments up to that commit.
    list: u64,
    pub bitmaps: Vec<BitmapRecord>,
}

/// The listed segments up to a commit, where one ends with it.
fn listed_up_to(body: &Body, last: u64) -> Option<&[SegmentRecord]> {
    let listed = body.segments.get(..body.segments.partition_point(|segment| segment.last <= last))?;
    (listed.last().map_or(0, |segment| segment.last) == last).then_some(listed)
}

/// XXH64 with seed 0 over the identities of segments.
fn hash_of(segments: &[SegmentRecord]) -> u64 {
    let mut words = Vec::with_capacity(segments.len() * 3);
    for SegmentRecord { first, last, generation, footer_crc, .. } in segments {
        words.extend([*first, *last, u64::from(*generation) | u64::from(*footer_crc) << 32]);
    }
    crate::format::key_hash(bytemuck::cast_slice(&words))
}

impl LiveRecord {
    /// A record of these bitmaps for the segments that a manifest lists up to a commit.
    fn new(body: &Body, last: u64, bitmaps: Vec<BitmapRecord>) -> Result<Self> {
        let listed = listed_up_to(body, last).ok_or_else(|| {
            Error::bad_input(format!("no listed segment ends with commit {last}; its bitmaps are not listed"))
        })?;
        Ok(LiveRecord { last, list: hash_of(listed), bitmaps })
    }

    /// The record of a manifest, if it has one that is about the segments it lists.
    pub fn of(body: &Body) -> Option<Self> {
        Self::as_written(body).filter(|record| record.segments(body).is_some())
    }

    /// The record of a manifest, whether it is about its segments or not.
    pub fn as_written(body: &Body) -> Option<Self> {
        decode_record(body.extra.get(RECORD)?)
    }

    /// The listed segments it is about; `None` when they are not those it was written for.
    pub fn segments<'a>(&self, body: &'a Body) -> Option<&'a [SegmentRecord]> {
        listed_up_to(body, self.last).filter(|listed| hash_of(listed) == self.list)
    }

    /// The record after a merge: `body` lists an output that ends with commit `last` in place of its inputs.
    /// The merge was made from a view of the listed segments up to commit `seen`, and left out what that knew
    /// as superseded.
    ///
    /// Nothing has to be written: up to `seen` nothing in the output is superseded, and bitmaps that know
    /// kills of later commits do no harm, for replaying those changes nothing.
    fn after_merge(self, body: &Body, last: u64, seen: u64) -> Result<Self> {
        let complete = if self.last >= last { self.last.min(seen) } else { self.last };
        // Where no segment ends there any more (the output is around it, or a merge of newer ones was), it is
        // complete up to where one does.
        let complete = body.names().map(|name| name.last).take_while(|last| *last <= complete).last();
        let complete = complete.unwrap_or(0);
        let mut bitmaps = self.bitmaps;
        bitmaps.retain(|bitmap| bitmap.segment.last <= complete && body.record_of(bitmap.segment).is_some());
        Self::new(body, complete, bitmaps)
    }

    fn bitmap_of(&self, name: SegmentName) -> Option<&BitmapRecord> {
        self.bitmaps.iter().find(|bitmap| bitmap.segment == name)
    }

    /// Puts it into a manifest.
    pub fn put(&self, body: &mut Body) -> Result<()> {
        body.extra.insert(RECORD.to_owned(), encode_record(self)?);
        Ok(())
    }
}

/// Brings the record up to date of a manifest that lists a merge's output in place of its inputs. `before` is
/// the record from before that, `seen` the last commit of the view that the merge was made from.
pub(crate) fn after_merge(body: &mut Body, before: Option<LiveRecord>, output: SegmentName, seen: u64) {
    let after = before.and_then(|before| before.after_merge(body, output.last, seen).ok());
    if after.is_none_or(|after| after.put(body).is_err()) {
        forget(body);
    }
}

/// Up to which commit the bitmaps of a manifest know all kills.
pub(crate) fn complete_up_to(body: &Body) -> u64 {
    LiveRecord::of(body).map_or(0, |record| record.last)
}

/// Forgets the bitmaps of a manifest: opening replays.
pub(crate) fn forget(body: &mut Body) {
    body.extra.remove(RECORD);
}

/// Bitmaps in the directory.
pub(crate) fn list(vfs: &dyn Vfs, dir: &Path) -> Vec<BitmapName> {
    let names = vfs.list(&dir.join(LIVE)).unwrap_or_default();
    names.iter().filter_map(|name| BitmapName::parse(name)).collect()
}

/// Bitmaps that a manifest lists, whether they are about its segments or not.
pub(crate) fn named(body: &Body) -> Vec<BitmapName> {
    let record = LiveRecord::as_written(body);
    record.iter().flat_map(|record| &record.bitmaps).map(BitmapRecord::name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{EpochRecord, Manifest};

    fn body(segments: u64) -> Body {
        Body {
            store_id: [1; 16],
            dim: 512,
            dtype: 1,
            metric: 1,
            fingerprint: None,
            settings: [("root".to_owned(), "/pictures".to_owned())].into(),
            epochs: vec![EpochRecord { id: [2; 16], parent: [0; 16], first: 1 }],
            segments: (0..segments)
                .map(|number| SegmentRecord {
                    first: number * 10 + 1,
                    last: number * 10 + 10,
                    generation: 3,
                    footer_crc: number as u32,
                    file_len: 5120,
                    link_out: [0; 16],
                })
                .collect(),
            extra: std::collections::BTreeMap::new(),
        }
    }

    fn bitmaps(body: &Body) -> Vec<BitmapRecord> {
        body.names().map(|segment| BitmapRecord { segment, crc: 7, version: u64::MAX, dead: 9 }).collect()
    }

    #[test]
    fn only_the_canonical_name_is_read() {
        let segment = SegmentName { first: 7, last: 12_345_678_901, generation: 3 };
        let name = BitmapName { segment, version: 0xAB };
        assert_eq!(name.to_string(), "0000000007-12345678901.3.00000000000000ab.live");
        assert_eq!(BitmapName::parse(OsStr::new(&name.to_string())), Some(name));
        for wrong in [
            "0000000007-12345678901.3.00000000000000AB.live",
            "0000000007-12345678901.3.ab.live",
            "0000000007-12345678901.3.live",
            "0000000007-12345678901.03.00000000000000ab.live",
            "7-8.0.00000000000000ab.live",
            "0000000007-12345678901.3.00000000000000ab.npy",
            "tmp-manifest-00",
        ] {
            assert_eq!(BitmapName::parse(OsStr::new(wrong)), None, "{wrong}");
        }
    }

    /// Programs that do not know the record keep it and change the list: it must say itself that it is about
    /// another.
    #[test]
    fn a_record_counts_for_the_segments_it_was_written_for() {
        let mut body = body(5);
        let record = LiveRecord::new(&body, 30, bitmaps(&body)).unwrap();
        record.put(&mut body).unwrap();
        assert_eq!(LiveRecord::of(&body), Some(record.clone()));
        assert_eq!(record.segments(&body).map(<[_]>::len), Some(3), "later ones do not matter");
        body.segments.truncate(3);
        assert!(LiveRecord::of(&body).is_some());
        let whole = body.clone();
        body.segments.truncate(2);
        assert_eq!(LiveRecord::of(&body), None, "one is gone");
        let mut merged = whole.clone();
        merged.segments.remove(1);
        merged.segments[0].last = 20;
        assert_eq!(LiveRecord::of(&merged), None, "two are one");
        let mut other = whole.clone();
        other.segments[1].footer_crc += 1;
        assert_eq!(LiveRecord::of(&other), None, "another file of the same name");
        assert!(LiveRecord::new(&whole, 25, Vec::new()).is_err(), "no segment ends there");
        forget(&mut body);
        assert_eq!(LiveRecord::as_written(&body), None);
        body.extra.insert(RECORD.to_owned(), vec![0xFF; 40]);
        assert_eq!(LiveRecord::as_written(&body), None, "garbage");
    }

    #[test]
    fn a_merge_leaves_what_is_still_true() {
        let listed = body(6);
        let merged = |from: usize, to: usize, complete: u64, seen: u64| {
            let before = LiveRecord::new(&listed, complete, bitmaps(&listed)).unwrap();
            let mut after = listed.clone();
            let last = listed.segments[to].last;
            let output = SegmentRecord { last, generation: 4, ..listed.segments[from] };
            after.segments.splice(from..=to, [output]);
            let record = before.after_merge(&after, last, seen).unwrap();
            assert!(record.segments(&after).is_some());
            (record.last, record.bitmaps.iter().map(|bitmap| bitmap.segment.last).collect::<Vec<_>>())
        };
        assert_eq!(merged(1, 2, 60, 60), (60, vec![10, 40, 50, 60]));
        assert_eq!(merged(1, 2, 60, 40), (40, vec![10, 40]), "listed while the merge was made");
        assert_eq!(merged(3, 4, 20, 60), (20, vec![10, 20]), "before the output");
        assert_eq!(merged(3, 4, 40, 60), (30, vec![10, 20, 30]), "within the output");
        assert_eq!(merged(1, 2, 60, 45), (40, vec![10, 40]), "newer ones were merged meanwhile");
        assert_eq!(merged(0, 5, 60, 60), (60, vec![]), "everything");
        assert_eq!(merged(0, 5, 50, 60), (0, vec![]), "everything, and nothing known of all of it");
    }

    #[test]
    fn the_manifest_stays_small() {
        let mut body = body(200);
        LiveRecord::new(&body, 2000, bitmaps(&body)).unwrap().put(&mut body).unwrap();
        let manifest = Manifest { generation: 1, ro_compat: 0, compat: 0, body };
        let len = manifest.encode().unwrap().len();
        assert!(len < 32 << 10, "{len} bytes for 200 segments with a bitmap each");
    }
}
