//! Derived files: data that follows from segments, kept on disk so that openers need not compute it again.
//!
//! `derived/` holds immutable files, each about one segment and of one kind: a liveness bitmap says which of
//! its entries are superseded, a key filter which keys it cannot have. The manifest lists them. A missing,
//! damaged or foreign file costs time, never an answer, and the next checkpoint writes it anew.

mod check;
mod dead;
mod filters;
mod read;
mod write;

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::format::derived::{Kind, LIVE};
use crate::segment::SegmentName;
use crate::state::Body;
use crate::vfs::Vfs;

pub(crate) use check::{Checked, check};
pub(crate) use dead::Dead;
pub(crate) use filters::{attach, pending};
pub(crate) use read::{covered, known};
pub(crate) use write::{Pending, discard_unlisted, note_written, publish, remove_unlisted};

/// Directory of the derived files within a store.
pub(crate) const DERIVED: &str = "derived";

/// The name of a derived file: `<first>-<last>.<generation>.<version>.<kind>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct DerivedName {
    pub segment: SegmentName,
    /// Random, so that a newer file of the same kind and segment never takes the name of an older one.
    pub version: u64,
    pub kind: Kind,
}

impl DerivedName {
    /// Parses a file name; `None` for any text that [`fmt::Display`] would not write.
    pub fn parse(name: &OsStr) -> Option<Self> {
        let text = name.to_str()?;
        let (rest, kind) = text.rsplit_once('.')?;
        let (segment, version) = rest.rsplit_once('.')?;
        let name = DerivedName {
            segment: SegmentName::parse(OsStr::new(&format!("{segment}.npy")))?,
            version: u64::from_str_radix(version, 16).ok()?,
            kind: kind.to_ascii_uppercase().as_bytes().try_into().ok()?,
        };
        (is_kind(&name.kind) && name.to_string() == text).then_some(name)
    }
}

impl fmt::Display for DerivedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SegmentName { first, last, generation } = self.segment;
        let kind = String::from_utf8_lossy(&self.kind).to_ascii_lowercase();
        write!(f, "{first:010}-{last:010}.{generation}.{:016x}.{kind}", self.version)
    }
}

fn is_kind(kind: &Kind) -> bool {
    kind.iter().all(|letter| letter.is_ascii_uppercase() || letter.is_ascii_digit())
}

/// A derived file, as the manifest lists it. The order of the fields is the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DerivedRecord {
    pub segment: SegmentName,
    pub kind: Kind,
    /// Checksum of the segment's footer.
    pub footer_crc: u32,
    /// Checksum of the file's header.
    pub crc: u32,
    pub version: u64,
    pub file_len: u64,
    /// A number whose meaning depends on the kind. LIVE: the count of superseded entries, which only grows,
    /// so a file with the same count has the same bits.
    pub note: u64,
}

impl DerivedRecord {
    pub fn name(&self) -> DerivedName {
        DerivedName { segment: self.segment, version: self.version, kind: self.kind }
    }

    /// Sort key of the records in a manifest.
    fn order(&self) -> (SegmentName, Kind) {
        (self.segment, self.kind)
    }
}

/// Why a manifest's list of derived files cannot be right; `None` if it can.
pub(crate) fn fault(body: &Body) -> Option<String> {
    let mut records = body.derived.iter();
    if let Some(record) = records.find(|record| {
        let listed = body.record_of(record.segment);
        listed.is_none_or(|listed| listed.footer_crc != record.footer_crc) || !is_kind(&record.kind)
    }) {
        return Some(format!("it lists {}, which is about no segment that it lists", record.name()));
    }
    if !body.derived.is_sorted_by(|one, next| one.order() < next.order()) {
        return Some("its derived files do not ascend".to_owned());
    }
    let is_end = body.live_last == 0 || body.names().any(|name| name.last == body.live_last);
    let is_beyond = |record: &&DerivedRecord| record.kind == LIVE && record.segment.last > body.live_last;
    let beyond = body.derived.iter().find(is_beyond).map(|record| record.segment.last);
    let last = body.live_last;
    (!is_end || beyond.is_some()).then(|| {
        format!(
            "its liveness bitmaps know all up to commit {last}, where no segment ends, or a \
            bitmap is beyond it"
        )
    })
}

/// The record of the file of this kind about a listed segment.
pub(crate) fn record_of(body: &Body, segment: SegmentName, kind: Kind) -> Option<&DerivedRecord> {
    let at = body.derived.binary_search_by_key(&(segment, kind), DerivedRecord::order).ok()?;
    body.derived.get(at)
}

/// Lists files, in place of those of the same kind and segment.
pub(crate) fn list_in(body: &mut Body, records: impl IntoIterator<Item = DerivedRecord>) {
    for record in records {
        match body.derived.binary_search_by_key(&record.order(), DerivedRecord::order) {
            Ok(at) => body.derived.iter_mut().skip(at).take(1).for_each(|there| *there = record),
            Err(at) => body.derived.insert(at, record),
        }
    }
}

/// Updates the derived files of a manifest that lists a merge's output in place of its inputs. The merge read
/// the listed segments in a view up to commit `seen`, and left out the entries that this view knew as
/// superseded.
///
/// Nothing has to be written: up to `seen` nothing in the output is superseded. Bitmaps that contain kills of
/// later commits do no harm, for replaying those kills changes nothing.
pub(crate) fn after_merge(body: &mut Body, output: SegmentName, seen: u64) {
    let complete = if body.live_last >= output.last { body.live_last.min(seen) } else { body.live_last };
    // If no segment ends there any more (the output spans the place, or newer segments were merged), the
    // bitmaps are complete up to the last segment end before it.
    let ends = body.names().map(|name| name.last);
    let complete = ends.take_while(|last| *last <= complete).last().unwrap_or(0);
    let mut derived = std::mem::take(&mut body.derived);
    derived.retain(|record| {
        body.record_of(record.segment).is_some() && (record.kind != LIVE || record.segment.last <= complete)
    });
    (body.derived, body.live_last) = (derived, complete);
}

/// Removes all derived files from a manifest's list: opening works without them.
pub(crate) fn forget(body: &mut Body) {
    body.derived.clear();
    body.live_last = 0;
}

/// Removes the derived files that are not to be `kept` from a manifest's list. Bitmaps are of use only as a
/// complete set: if one goes, all go.
pub(crate) fn keep(body: &mut Body, mut kept: impl FnMut(&DerivedRecord) -> bool) {
    let count = |body: &Body| body.derived.iter().filter(|record| record.kind == LIVE).count();
    let bitmaps = count(body);
    body.derived.retain(|record| kept(record));
    if count(body) < bitmaps {
        body.derived.retain(|record| record.kind != LIVE);
        body.live_last = 0;
    }
}

/// Names of the derived files in the directory.
pub(crate) fn list(vfs: &dyn Vfs, dir: &Path) -> Vec<DerivedName> {
    let names = vfs.list(&dir.join(DERIVED)).unwrap_or_default();
    names.iter().filter_map(|name| DerivedName::parse(name)).collect()
}

/// Names of the derived files that a manifest lists.
pub(crate) fn named(body: &Body) -> Vec<DerivedName> {
    body.derived.iter().map(DerivedRecord::name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::derived::KEYF;
    use crate::state::{EpochRecord, Manifest, SegmentRecord};

    fn body(segments: u64) -> Body {
        Body {
            store_id: [1; 16],
            dim: 512,
            dtype: 1,
            metric: 1,
            settings: [("root".to_owned(), "/pictures".to_owned())].into(),
            epochs: vec![EpochRecord { id: [2; 16], parent: [0; 16], first: 1 }],
            segments: (0..segments)
                .map(|number| SegmentRecord {
                    first: number * 10 + 1,
                    last: number * 10 + 10,
                    generation: 3,
                    footer_crc: number as u32,
                    file_len: 5120,
                    ..SegmentRecord::default()
                })
                .collect(),
            ..Body::default()
        }
    }

    fn records(body: &Body, kind: Kind, until: u64) -> Vec<DerivedRecord> {
        let listed = body.segments.iter().filter(|record| record.last <= until);
        let record = |segment: &SegmentRecord| DerivedRecord {
            segment: segment.name(),
            kind,
            footer_crc: segment.footer_crc,
            crc: 7,
            version: u64::MAX,
            file_len: 9,
            note: 9,
        };
        listed.map(record).collect()
    }

    #[test]
    fn only_the_canonical_name_is_read() {
        let segment = SegmentName { first: 7, last: 12_345_678_901, generation: 3 };
        let name = DerivedName { segment, version: 0xAB, kind: LIVE };
        assert_eq!(name.to_string(), "0000000007-12345678901.3.00000000000000ab.live");
        assert_eq!(DerivedName::parse(OsStr::new(&name.to_string())), Some(name));
        for wrong in [
            "0000000007-12345678901.3.00000000000000AB.live",
            "0000000007-12345678901.3.ab.live",
            "0000000007-12345678901.3.live",
            "0000000007-12345678901.03.00000000000000ab.live",
            "7-8.0.00000000000000ab.live",
            "0000000007-12345678901.3.00000000000000ab.LIVE",
            "0000000007-12345678901.3.00000000000000ab.npy",
            "0000000007-12345678901.3.00000000000000ab.li-e",
            "tmp-manifest-00",
        ] {
            assert_eq!(DerivedName::parse(OsStr::new(wrong)), None, "{wrong}");
        }
    }

    #[test]
    fn a_manifest_lists_files_about_its_own_segments() {
        let mut good = body(5);
        good.live_last = 30;
        let bitmaps = records(&good, LIVE, 30);
        list_in(&mut good, bitmaps);
        let filters = records(&good, KEYF, 50);
        list_in(&mut good, filters);
        assert_eq!((good.derived.len(), fault(&good)), (8, None));
        let segment = good.segments[1].name();
        assert_eq!(record_of(&good, segment, KEYF).map(|record| record.segment), Some(segment));
        type Change = fn(&mut Body);
        let wrong: [(&str, Change); 6] = [
            ("about no segment", |body| body.segments.truncate(2)),
            ("about no segment", |body| body.segments[1].footer_crc += 1),
            ("about no segment", |body| body.derived[0].kind = *b"live"),
            ("do not ascend", |body| body.derived.swap(0, 1)),
            ("where no segment ends", |body| body.live_last = 25),
            ("beyond it", |body| body.live_last = 20),
        ];
        for (what, change) in wrong {
            let mut body = good.clone();
            change(&mut body);
            let fault = fault(&body).expect(what);
            assert!(fault.contains(what), "{what}: {fault}");
        }
        let mut twice = good.clone();
        twice.derived.insert(0, twice.derived[0]);
        assert!(fault(&twice).is_some());
        keep(&mut good, |record| record.kind == LIVE || record.segment.first > 1);
        assert_eq!((good.derived.len(), good.live_last), (7, 30), "one filter is gone");
        keep(&mut good, |record| record.kind == KEYF || record.segment.first > 1);
        assert_eq!((good.derived.len(), good.live_last), (4, 0), "no bitmap is of use");
        forget(&mut good);
        assert!(good.derived.is_empty());
    }

    #[test]
    fn a_merge_keeps_the_files_that_are_still_right() {
        let listed = body(6);
        let merged = |from: usize, to: usize, complete: u64, seen: u64| {
            let mut after = listed.clone();
            after.live_last = complete;
            for kind in [LIVE, KEYF] {
                let records = records(&listed, kind, complete);
                list_in(&mut after, records);
            }
            let last = listed.segments[to].last;
            let output = SegmentRecord { last, generation: 4, ..listed.segments[from] };
            after.segments.splice(from..=to, [output]);
            after_merge(&mut after, output.name(), seen);
            assert_eq!(fault(&after), None);
            let of = |kind: Kind| {
                let of_kind = after.derived.iter().filter(move |record| record.kind == kind);
                of_kind.map(|record| record.segment.last).collect::<Vec<_>>()
            };
            let filters = of(KEYF);
            assert!(of(LIVE).iter().all(|last| filters.contains(last)));
            (after.live_last, of(LIVE))
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
        body.live_last = 2000;
        for kind in [LIVE, KEYF] {
            let records = records(&body, kind, 2000);
            list_in(&mut body, records);
        }
        let manifest = Manifest { generation: 1, ro_compat: 0, compat: 0, time: 0, body };
        let len = manifest.encode().unwrap().len();
        assert!(len < 40 << 10, "{len} bytes for 200 segments with two derived files each");
    }
}
