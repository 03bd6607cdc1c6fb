//! Collects the entries of a segment and builds its tables.

use std::ops::Range;

use super::encoded::{EncodedSegment, Part, Sections, Stored};
use crate::base::{DType, Error, Result};
use crate::format::columns::FreshColumns;
use crate::format::footer::Footer;
use crate::format::key_hash;
use crate::format::records::{Kill, Run, count};
use crate::format::section;
use crate::types::{Kind, Metric, Value};

/// Bytes that are reserved for each key.
const USUAL_KEY: usize = 64;
/// Most bytes reserved for keys: a batch of very many short keys must not take memory that it does not need.
const MOST_KEYS: usize = 1 << 20;

/// Collects the entries of one segment. Rows are borrowed until they are written.
#[derive(Default)]
pub(crate) struct SegmentBuilder<'a> {
    rows: Vec<Part<'a>>,
    scales: Vec<f32>,
    row_count: u64,
    keys: Vec<u8>,
    key_ends: Vec<u64>,
    kinds: Vec<u8>,
    row_ends: Vec<u64>,
    payloads: Vec<u8>,
    payload_ends: Vec<u64>,
    columns: FreshColumns,
    hashes: Vec<(u64, u32)>,
    runs: Vec<Run>,
    kills: Vec<Kill>,
}

impl<'a> SegmentBuilder<'a> {
    /// An empty segment with room for this many entries.
    pub fn new(entries: usize) -> Self {
        SegmentBuilder {
            keys: Vec::with_capacity(entries.saturating_mul(USUAL_KEY).min(MOST_KEYS)),
            key_ends: Vec::with_capacity(entries),
            kinds: Vec::with_capacity(entries),
            row_ends: Vec::with_capacity(entries),
            payload_ends: Vec::with_capacity(entries),
            hashes: Vec::with_capacity(entries),
            ..Self::default()
        }
    }

    /// Begins a run: the entries pushed from here on belong to `commit`, and begin with these numbers within
    /// its batch.
    pub fn begin_run(&mut self, commit: u64, entry: u64, row: u64) {
        self.runs.push(Run {
            commit,
            entry,
            row,
            segment_entry: self.kinds.len() as u64,
            segment_row: self.row_count,
        });
    }

    /// Adds an entry that has `rows` rows; [`SegmentBuilder::add_rows`] adds their bytes.
    pub fn push(&mut self, key: &[u8], kind: Kind, rows: u64, payload: &[u8]) {
        self.push_hashed(key_hash(key), key, kind, rows, payload);
    }

    /// As [`SegmentBuilder::push`], for a key whose hash is known.
    pub fn push_hashed(&mut self, hash: u64, key: &[u8], kind: Kind, rows: u64, payload: &[u8]) {
        // `check` refuses a segment with more entries than this, so the replacement value is never written.
        self.hashes.push((hash, u32::try_from(self.kinds.len()).unwrap_or(u32::MAX)));
        self.keys.extend_from_slice(key);
        self.key_ends.push(self.keys.len() as u64);
        self.kinds.push(kind.code());
        self.row_count += rows;
        self.row_ends.push(self.row_count);
        self.payloads.extend_from_slice(payload);
        self.payload_ends.push(self.payloads.len() as u64);
    }

    /// Adds an attribute to the entry that was added last.
    ///
    /// # Errors
    /// The entry has the attribute already, or an earlier entry has it with another type.
    pub fn add_attribute(&mut self, name: &str, value: &Value<'_>) -> Result<()> {
        let added = self.columns.add(self.kinds.len().saturating_sub(1), name, value);
        added.map_err(|_| Error::internal("an attribute of two types, or twice in an entry"))
    }

    /// Adds the bytes of rows, in the order of their entries, and the rows' scales if the element type has
    /// scales.
    pub fn add_rows(&mut self, bytes: &'a [u8], scales: &[f32]) {
        self.scales.extend_from_slice(scales);
        if !bytes.is_empty() {
            self.rows.push(Part::Borrowed(bytes));
        }
    }

    /// As [`SegmentBuilder::add_rows`], for rows that are read when the segment is written. All of them lie
    /// in the same file.
    pub fn add_stored_rows(&mut self, stored: &'a dyn Stored, range: Range<usize>, scales: &[f32]) {
        self.scales.extend_from_slice(scales);
        match self.rows.last_mut() {
            Some(Part::Stored(_, last)) if last.end == range.start => last.end = range.end,
            _ if range.is_empty() => {}
            _ => self.rows.push(Part::Stored(stored, range)),
        }
    }

    /// Records that an older entry is replaced or deleted.
    pub fn kill(&mut self, kill: Kill) {
        self.kills.push(kill);
    }

    /// Checks that the collected tables agree: a contradiction is never written under a fresh checksum.
    fn check(&self, row_bytes: usize, has_scales: bool) -> Result<()> {
        let is = |holds: bool, what: &'static str| if holds { Ok(()) } else { Err(Error::internal(what)) };
        is(u32::try_from(self.kinds.len() + 1).is_ok(), "a segment of 2^32 entries or more")?;
        let (mut key, mut row, mut payload) = (0, 0, 0);
        let ends = self.key_ends.iter().zip(&self.row_ends).zip(&self.payload_ends);
        for (kind, ((key_end, row_end), payload_end)) in self.kinds.iter().zip(ends) {
            is(*key_end > key, "an entry without a key")?;
            is((*row_end > row) == (*kind == Kind::Rows.code()), "an entry whose kind and rows disagree")?;
            is(*payload_end >= payload, "a payload that ends before it begins")?;
            (key, row, payload) = (*key_end, *row_end, *payload_end);
        }
        is(
            key == self.keys.len() as u64 && payload == self.payloads.len() as u64,
            "keys or payloads of no entry",
        )?;
        let rows: u64 = self.rows.iter().map(Part::len).sum();
        is(Some(rows) == row.checked_mul(row_bytes as u64), "rows that are not those of the entries")?;
        is(!has_scales || self.scales.len() as u64 == row, "scales that are not those of the rows")?;
        let begins = self.runs.first().map_or(self.kinds.is_empty(), |run| run.segment_entry == 0);
        is(begins && self.runs.is_sorted_by_key(|run| run.segment_entry), "entries of no commit")
    }

    /// Lays the segment out. `identity` has the footer's fields that do not follow from the entries.
    ///
    /// # Errors
    /// The collected tables contradict each other.
    pub fn finish(mut self, identity: Footer, dtype: DType, settings: Vec<u8>) -> Result<EncodedSegment<'a>> {
        self.check(identity.dim as usize * dtype.size(), dtype.has_scales())?;
        let mut footer = Footer { entries: self.kinds.len() as u64, rows: self.row_count, ..identity };
        self.kinds.iter().for_each(|kind| count(&mut footer.kinds, *kind));
        self.kills.iter().for_each(|kill| count_kill(&mut footer, kill));
        let has_norms = identity.metric == Metric::Cosine.code();
        self.kills.sort_by_key(Kill::victim);
        self.hashes.sort_unstable();
        let hashes: Vec<u64> = self.hashes.iter().map(|(hash, _)| *hash).collect();
        let hash_entries: Vec<u32> = self.hashes.iter().map(|(_, entry)| *entry).collect();
        let columns = self.columns.finish(self.kinds.len());
        let (attr, attd) = columns.map_err(|_| Error::internal("attributes that cannot be laid out"))?;

        // The empty part makes ROWS a section even without rows.
        let mut sections: Sections<'a> = vec![(section::ROWS, Part::Borrowed(&[]))];
        sections.extend(self.rows.into_iter().map(|rows| (section::ROWS, rows)));
        sections.extend([
            (section::SCAL, Part::Shorts(self.scales.into_iter().map(f32::to_bits).collect())),
            (section::NORM, Part::Norms(if has_norms { self.row_count } else { 0 })),
            (section::KEYS, Part::Bytes(self.keys)),
            (section::KEND, Part::Longs(self.key_ends)),
            (section::KIND, Part::Bytes(self.kinds)),
            (section::REND, Part::Longs(self.row_ends)),
            (section::PAYL, Part::Bytes(self.payloads)),
            (section::PEND, Part::Longs(self.payload_ends)),
            (section::ATTR, Part::Bytes(attr)),
            (section::ATTD, Part::Bytes(attd)),
            (section::HASH, Part::Longs(hashes)),
            (section::HENT, Part::Shorts(hash_entries)),
            (section::KILL, bytes_of(&self.kills)),
            (section::RUNS, bytes_of(&self.runs)),
        ]);
        EncodedSegment::lay_out(footer, dtype, settings, sections, &[])
    }
}

/// Adds a kill and its rows to the footer's counts.
pub(super) fn count_kill(footer: &mut Footer, kill: &Kill) {
    count(&mut footer.killed, kill.kind);
    footer.killed_rows += u64::from(kill.rows);
}

fn bytes_of<'a, T: bytemuck::NoUninit>(records: &[T]) -> Part<'a> {
    Part::Bytes(bytemuck::cast_slice(records).to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: [u8; 4] = [0; 4];

    /// Lays out a segment with one entry of one row in commit 1, after a change of the builder.
    fn finish(change: impl FnOnce(&mut SegmentBuilder<'_>)) -> Result<()> {
        let mut builder = SegmentBuilder::new(1);
        builder.begin_run(1, 0, 0);
        builder.push(b"key", Kind::Rows, 1, b"payload");
        builder.add_rows(&ROW, &[]);
        change(&mut builder);
        let identity = Footer { dim: 1, ..Footer::empty() };
        builder.finish(identity, DType::F32, Vec::new()).map(drop)
    }

    type Mistake = fn(&mut SegmentBuilder<'_>);

    #[test]
    fn a_contradiction_is_never_laid_out() {
        finish(|_| ()).unwrap();
        let mistakes: [(&str, Mistake); 7] = [
            ("without a key", |builder| builder.push(b"", Kind::Empty, 0, b"")),
            ("kind and rows", |builder| builder.push(b"k", Kind::Empty, 1, b"")),
            ("kind and rows", |builder| builder.push(b"k", Kind::Rows, 0, b"")),
            ("rows that are not", |builder| builder.push(b"k", Kind::Rows, 1, b"")),
            ("rows that are not", |builder| builder.add_rows(&ROW, &[])),
            ("of no commit", |builder| builder.runs.clear()),
            ("of no entry", |builder| builder.keys.push(b'x')),
        ];
        for (what, mistake) in mistakes {
            let error = finish(mistake).unwrap_err();
            assert!(
                matches!(&error, Error::Internal { .. }) && error.to_string().contains(what),
                "{what}: {error}"
            );
        }
    }
}
