//! One segment of a snapshot: its rows as a matrix, and the entries of the rows.

use std::path::PathBuf;
use std::time::SystemTime;

use crate::base::{DType, Element, Error, Result};
use crate::format::system_time;
use crate::read::Entry;
use crate::read::iter::Place;
use crate::state::{LiveSegment, View};

/// A segment file of a snapshot, from [`Snapshot::segments`](crate::Snapshot::segments): a matrix of rows,
/// some of which may belong to replaced or deleted entries. Several threads can read several segments at the
/// same time.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # use vecstore::{OnDuplicate, Store, StoreConfig};
/// # let store = Store::create(dir.path().join("s"), StoreConfig::new(2))?;
/// # let mut batch = store.batch();
/// # batch.push("a", &[1.0f32, 0.0])?;
/// # batch.push("b", &[0.0f32, 1.0])?;
/// # store.append(&mut batch, OnDuplicate::Skip)?;
/// let snapshot = store.snapshot();
/// for segment in snapshot.segments() {
///     let matrix: &[f32] = segment.rows()?;
///     for (row, vector) in matrix.chunks(snapshot.dim()).enumerate() {
///         if segment.is_live(row)? {
///             println!("{:?} {vector:?}", segment.entry_of(row)?.key());
///         }
///     }
/// }
/// # Ok::<(), vecstore::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    view: &'a View,
    number: usize,
    live: &'a LiveSegment,
}

/// Facts about a segment file.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SegmentInfo {
    /// Path of the file: a NumPy array of shape `(file_rows, dim)`, followed by the store's own tables.
    pub path: PathBuf,
    /// First commit of the segment.
    pub first_commit: u64,
    /// Last commit of the segment.
    pub last_commit: u64,
    /// Number of live entries in the file.
    pub entries: u64,
    /// Number of live rows in the file.
    pub rows: u64,
    /// Number of rows of the array, including rows of replaced and deleted entries.
    pub file_rows: u64,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// When the segment's last commit was made, by the clock of its writer; `None` if that is not recorded.
    pub time: Option<SystemTime>,
    /// True if a merge has found the segment damaged. Merges leave it as it is until
    /// [`repair`](crate::repair) replaces it.
    pub is_damaged: bool,
}

impl<'a> Segment<'a> {
    /// The segments of a view, in commit order.
    pub(super) fn all(view: &'a View) -> impl ExactSizeIterator<Item = Self> {
        view.segments.iter().enumerate().map(move |(number, live)| Segment { view, number, live })
    }

    /// Facts about the file.
    pub fn info(&self) -> SegmentInfo {
        let (segment, dead) = (&self.live.segment, self.live.dead.as_ref());
        let footer = segment.footer();
        let [rows, empty, rejected, _] = footer.kinds;
        let [dead_rows, dead_empty, dead_rejected, _] = dead.map_or([0; 4], |dead| dead.kinds);
        let dead_entries = dead_rows + dead_empty + dead_rejected;
        SegmentInfo {
            path: segment.path().to_owned(),
            first_commit: footer.first,
            last_commit: footer.last,
            entries: (rows + empty + rejected).saturating_sub(dead_entries),
            rows: footer.rows.saturating_sub(dead.map_or(0, |dead| dead.row_count)),
            file_rows: footer.rows,
            bytes: footer.file_len,
            time: system_time(footer.time),
            is_damaged: self.view.meta.damaged.contains(&segment.name()),
        }
    }

    /// All rows of the file, one after the other, straight from the mapped file: a slice of `file_rows * dim`
    /// elements (see [`SegmentInfo`]), including rows of replaced and deleted entries.
    ///
    /// # Errors
    /// [`Error::DTypeMismatch`] if the store has elements of another type; [`Error::Damaged`] if a block of
    /// the rows is damaged, and the handle compares checksums while reading.
    pub fn rows<T: Element>(&self) -> Result<&'a [T]> {
        self.expect(T::DTYPE)?;
        let damaged = |_| Error::damaged(self.live.segment.path(), "ROWS", "rows are not aligned");
        bytemuck::try_cast_slice(self.bytes()?).map_err(damaged)
    }

    /// All rows of a file of an `i8` store, and their scales: `file_rows * dim` elements, and `file_rows`
    /// scales. A value is an element times the scale of its row.
    ///
    /// # Errors
    /// As [`Segment::rows`].
    pub fn quantized(&self) -> Result<(&'a [i8], &'a [f32])> {
        self.expect(DType::I8)?;
        let segment = &self.live.segment;
        segment.check_tables()?;
        Ok((bytemuck::cast_slice(self.bytes()?), segment.row_scales(0..segment.row_count())))
    }

    /// True if the row with the index `row` belongs to a live entry; false for rows of replaced and deleted
    /// entries, and beyond the last row.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the record of the live rows cannot be read.
    pub fn is_live(&self, row: usize) -> Result<bool> {
        Ok(row < self.live.segment.row_count() && self.live.is_row_live(row)?)
    }

    /// The entry of the row with the index `row`; the entry may be replaced or deleted.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] beyond the last row; [`Error::Damaged`] if a table cannot be read.
    pub fn entry_of(&self, row: usize) -> Result<Entry<'a>> {
        let segment = &self.live.segment;
        let rows = segment.row_count();
        if row >= rows {
            return Err(Error::invalid(format!("there is no row {row}; the segment has {rows}")));
        }
        segment.check_tables()?;
        Entry::read(segment, segment.entry_of_row(row))
    }

    /// The live entries of this segment, in commit order.
    pub fn iter(&self) -> impl Iterator<Item = Result<Entry<'a>>> + use<'a> {
        let (view, number) = (self.view, self.number);
        let mut place = Place { segment: number, entry: 0 };
        std::iter::from_fn(move || place.next(view, number))
    }

    fn bytes(&self) -> Result<&'a [u8]> {
        self.live.segment.row_bytes(0..self.live.segment.row_count())
    }

    fn expect(&self, found: DType) -> Result<()> {
        let (what, expected) = ("the slice asked for", self.live.segment.dtype());
        if found == expected { Ok(()) } else { Err(Error::DTypeMismatch { what, expected, found }) }
    }
}
