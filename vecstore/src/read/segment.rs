//! One segment of a snapshot: its rows as a matrix, and whose they are.

use std::path::PathBuf;
use std::time::SystemTime;

use crate::base::{DType, Element, Error, Result};
use crate::format::system_time;
use crate::read::Entry;
use crate::read::iter::Place;
use crate::state::{LiveSegment, View};

/// A segment file of a snapshot, from [`Snapshot::segments`](crate::Snapshot::segments): a matrix of rows,
/// some of which may belong to entries that were replaced or deleted. It can be sent to another thread, so
/// that several segments are read in parallel.
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

/// What a segment file is, and what it holds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SegmentInfo {
    /// The file: a NumPy array of shape `(file_rows, dim)`, followed by the store's own tables.
    pub path: PathBuf,
    /// First commit it covers.
    pub first_commit: u64,
    /// Last commit it covers.
    pub last_commit: u64,
    /// Live entries in the file.
    pub entries: u64,
    /// Live rows in the file.
    pub rows: u64,
    /// Rows of the array: live ones, and those of entries that were replaced or deleted.
    pub file_rows: u64,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// When its last commit was made, by the clock of its writer; `None` where that is not known.
    pub time: Option<SystemTime>,
    /// A merge has found it damaged: it stays as it is until [`repair`](crate::repair), and merges go around
    /// it.
    pub is_damaged: bool,
}

impl<'a> Segment<'a> {
    /// The segments of a view, in commit order.
    pub(super) fn all(view: &'a View) -> impl ExactSizeIterator<Item = Self> {
        view.segments.iter().enumerate().map(move |(number, live)| Segment { view, number, live })
    }

    /// What the file is, and what it holds.
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

    /// All rows of the file, one after the other, straight from the mapped file: `file_rows * dim` elements,
    /// those of replaced and deleted entries included.
    ///
    /// # Errors
    /// [`Error::DTypeMismatch`] when the store has elements of another type; [`Error::Damaged`].
    pub fn rows<T: Element>(&self) -> Result<&'a [T]> {
        self.expect(T::DTYPE)?;
        let damaged = |_| Error::damaged(self.live.segment.path(), "ROWS", "rows are not aligned");
        bytemuck::try_cast_slice(self.bytes()?).map_err(damaged)
    }

    /// All rows of a file of an `i8` store, and the scale of each: element times scale is the value.
    ///
    /// # Errors
    /// As [`Segment::rows`].
    pub fn quantized(&self) -> Result<(&'a [i8], &'a [f32])> {
        self.expect(DType::I8)?;
        let segment = &self.live.segment;
        segment.check_tables()?;
        Ok((bytemuck::cast_slice(self.bytes()?), segment.row_scales(0..segment.row_count())))
    }

    /// True for a row that counts; false for one of an entry that was replaced or deleted, and beyond the
    /// last row.
    ///
    /// # Errors
    /// [`Error::Damaged`] when what says so cannot be read.
    pub fn is_live(&self, row: usize) -> Result<bool> {
        Ok(row < self.live.segment.row_count() && self.live.is_row_live(row)?)
    }

    /// The entry that a row belongs to.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] beyond the last row; [`Error::Damaged`] when a table cannot be read.
    pub fn entry_of(&self, row: usize) -> Result<Entry<'a>> {
        let segment = &self.live.segment;
        let rows = segment.row_count();
        if row >= rows {
            return Err(Error::invalid(format!("there is no row {row}; the segment has {rows}")));
        }
        segment.check_tables()?;
        Entry::read(segment, segment.entry_of_row(row))
    }

    /// The live entries of this segment.
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
