//! Lays out a segment from those entries of other segments that stay. In memory are only the bits that say
//! which entries stay and, during the write, the order of the keys: all sections are produced while they are
//! written.

use std::cell::RefCell;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::Path;

use super::Segment;
use super::encoded::{EncodedSegment, Part, Sink};
use super::sorted::Sorted;
use super::writer::count_kill;
use crate::base::{DType, Error, Result};
use crate::format::columns::{Columns, JoinedColumns};
use crate::format::footer::Footer;
use crate::format::records::{Kill, Run, count};
use crate::format::section::{self, MergeRule, Section, Unit};

/// Bytes that are buffered on their way to the file.
const GATHERED: usize = 1 << 16;
/// Bits in a word.
const BITS: usize = 64;

/// One of the segments that are joined.
#[derive(Debug)]
struct Input<'a> {
    segment: &'a Segment,
    /// For every 64 entries, a bit for each entry that stays, and the output number of the first of them.
    staying: Vec<(u64, u64)>,
}

/// Neighbouring entries of a segment that all stay, and the ranges of their rows, keys and payloads.
#[derive(Clone, Debug)]
struct Stretch<'a> {
    segment: &'a Segment,
    entries: Range<usize>,
    rows: Range<usize>,
    keys: Range<usize>,
    payloads: Range<usize>,
}

impl Input<'_> {
    /// The output number of an entry of this segment; `None` if the entry does not stay.
    fn number_of(&self, entry: usize) -> Option<u64> {
        let (word, first) = *self.staying.get(entry / BITS)?;
        let bit = 1 << (entry % BITS);
        (word & bit != 0).then(|| first + u64::from((word & (bit - 1)).count_ones()))
    }

    /// The entries that stay, as ascending ranges.
    fn ranges(&self) -> impl Iterator<Item = Range<usize>> + Clone + '_ {
        let (mut at, count) = (0, self.segment.entry_count());
        std::iter::from_fn(move || {
            let start = (at..count).find(|entry| self.number_of(*entry).is_some())?;
            at = (start..count).find(|entry| self.number_of(*entry).is_none()).unwrap_or(count);
            Some(start..at)
        })
    }
}

/// Function that gives the range of an entry's key, rows or payload among all of its segment.
type SpanOf = fn(&Segment, usize) -> Option<Range<usize>>;

fn rows_of(segment: &Segment, entry: usize) -> Option<Range<usize>> {
    segment.row_span(entry).ok()
}

/// A segment without payloads has no table of their ends: all ranges are empty.
fn payload_of(segment: &Segment, entry: usize) -> Option<Range<usize>> {
    if segment.has_payloads() { segment.payload_span(entry) } else { Some(0..0) }
}

impl<'a> Stretch<'a> {
    fn new(segment: &'a Segment, entries: Range<usize>) -> Result<Self> {
        let all = |section: &str, of: SpanOf| {
            let ends = of(segment, entries.start).zip(of(segment, entries.end.saturating_sub(1)));
            let range = ends.map(|(first, last)| first.start..last.end);
            range
                .filter(|range| range.start <= range.end)
                .ok_or_else(|| Error::damaged(segment.path(), section, format!("of entries {entries:?}")))
        };
        let (keys, rows) = (all("KEND", Segment::key_span)?, all("REND", rows_of)?);
        let payloads = all("PEND", payload_of)?;
        Ok(Stretch { segment, entries, rows, keys, payloads })
    }
}

fn contradiction() -> io::Error {
    io::Error::other("the tables of a segment are not what they were a moment ago")
}

/// A sink as a [`Write`], so that it can be buffered.
struct Through<'s>(Sink<'s>);

impl Write for Through<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.0)(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Buffers numbers on their way to the file.
fn gathered(sink: Sink<'_>) -> BufWriter<Through<'_>> {
    BufWriter::with_capacity(GATHERED, Through(sink))
}

/// Neighbouring segments that are joined to one.
#[derive(Debug)]
pub(crate) struct Joined<'a> {
    inputs: Vec<Input<'a>>,
    /// Kills of entries before this commit still count and are kept. Other kills name entries of the inputs,
    /// which are left out.
    first_commit: u64,
    row_bytes: usize,
    /// Counts for the output's footer.
    counts: Footer,
    key_bytes: u64,
    payload_bytes: u64,
    columns: JoinedColumns<'a>,
    runs: u64,
    kills: u64,
    /// The output's entries in the order of their hashes: set while HASH is written, taken when HENT is
    /// written.
    order: RefCell<Vec<u32>>,
}

impl<'a> Joined<'a> {
    /// Goes through all entries. `stays` gets the position of a segment and an entry's number there, and says
    /// whether that entry stays.
    ///
    /// # Errors
    /// The tables of a segment contradict each other, or there are more entries than a segment holds.
    pub fn new(
        segments: impl Iterator<Item = &'a Segment>,
        first_commit: u64,
        stays: impl Fn(usize, usize) -> Result<bool>,
    ) -> Result<Self> {
        let mut all = Joined {
            inputs: Vec::new(),
            first_commit,
            row_bytes: 0,
            counts: Footer::empty(),
            key_bytes: 0,
            payload_bytes: 0,
            columns: JoinedColumns::default(),
            runs: 0,
            kills: 0,
            order: RefCell::default(),
        };
        for (position, segment) in segments.enumerate() {
            let mut staying = Vec::with_capacity(segment.entry_count().div_ceil(BITS));
            for entry in 0..segment.entry_count() {
                if entry % BITS == 0 {
                    staying.push((0, all.counts.entries));
                }
                if stays(position, entry)?
                    && let Some((word, _)) = staying.last_mut()
                {
                    *word |= 1 << (entry % BITS);
                    all.counts.entries += 1;
                    count(&mut all.counts.kinds, segment.kind(entry)?.code());
                }
            }
            let input = Input { segment, staying };
            for range in input.ranges() {
                let stretch = Stretch::new(segment, range)?;
                all.counts.rows += stretch.rows.len() as u64;
                all.key_bytes += stretch.keys.len() as u64;
                all.payload_bytes += stretch.payloads.len() as u64;
                all.runs += runs_of(&stretch, 0, 0)?.count() as u64;
            }
            for kill in segment.kills().iter().filter(|kill| kill.commit < first_commit) {
                all.kills += 1;
                count_kill(&mut all.counts, kill);
            }
            all.row_bytes = segment.footer().dim as usize * segment.dtype().size();
            all.inputs.push(input);
        }
        if u32::try_from(all.counts.entries + 1).is_err() {
            return Err(Error::invalid("a segment holds fewer than 2^32 entries"));
        }
        let columns = all.inputs.iter().map(|input| input.segment.columns());
        let columns = columns.collect::<Result<Vec<Columns<'_>>>>()?;
        all.columns = JoinedColumns::new(columns, all.staying()).map_err(|(input, what)| {
            let path = all.inputs.get(input).map_or(Path::new(""), |input| input.segment.path());
            Error::damaged(path, "ATTR", what)
        })?;
        Ok(all)
    }

    /// The ranges of entries that stay, each with the number of its input.
    fn staying(&self) -> impl Iterator<Item = (usize, Range<usize>)> + Clone + '_ {
        let inputs = self.inputs.iter().enumerate();
        inputs.flat_map(|(number, input)| input.ranges().map(move |range| (number, range)))
    }

    /// Lays the segment out. `identity` has the footer's fields that do not follow from the entries.
    ///
    /// # Errors
    /// The segment cannot be laid out.
    pub fn lay_out(
        &'a self,
        identity: Footer,
        dtype: DType,
        settings: Vec<u8>,
    ) -> Result<EncodedSegment<'a>> {
        let Footer { entries, rows, kinds, killed, killed_rows, .. } = self.counts;
        let footer = Footer { entries, rows, kinds, killed, killed_rows, ..identity };
        let row_len = rows.checked_mul(self.row_bytes as u64).ok_or(Error::internal("too many rows"))?;
        let norms = if self.inputs.iter().all(|input| input.segment.has_norms()) { rows * 4 } else { 0 };
        let mut sections = vec![
            (section::ROWS, self.copied(row_len, |of| of.segment.row_bytes(of.rows.clone()).ok())),
            (
                section::SCAL,
                self.copied(rows * 4, |of| {
                    Some(bytemuck::cast_slice(of.segment.row_scales(of.rows.clone())))
                }),
            ),
            (
                section::NORM,
                self.copied(norms, |of| Some(bytemuck::cast_slice(of.segment.norms().get(of.rows.clone())?))),
            ),
            (section::KEYS, self.copied(self.key_bytes, |of| of.segment.all_keys().get(of.keys.clone()))),
            (section::KEND, self.ends(Segment::key_span)),
            (section::KIND, self.copied(entries, |of| of.segment.kinds().get(of.entries.clone()))),
            (section::REND, self.ends(rows_of)),
            (
                section::PAYL,
                self.copied(self.payload_bytes, |of| of.segment.all_payloads().get(of.payloads.clone())),
            ),
            (section::PEND, self.ends(payload_of)),
            (section::ATTR, Part::Borrowed(&self.columns.attr)),
            (section::ATTD, Part::made(self.columns.attd_len, |sink| self.write_columns(sink))),
            (section::HASH, Part::made(entries * 8, |sink| self.write_hashes(sink))),
            (section::HENT, Part::made(entries * 4, |sink| sink(bytemuck::cast_slice(&self.order.take())))),
            (section::KILL, Part::made(self.kills * size_of::<Kill>() as u64, |sink| self.write_kills(sink))),
            (section::RUNS, Part::made(self.runs * size_of::<Run>() as u64, |sink| self.write_runs(sink))),
        ];
        let carried = self.carried();
        for line in &carried {
            sections.push((line.tag, self.carry(*line)));
        }
        EncodedSegment::lay_out(footer, dtype, settings, sections, &carried)
    }

    /// The section table's lines of unknown sections that can be copied: sections about the whole file, and
    /// sections about entries or rows that have the same width in every input.
    fn carried(&self) -> Vec<Section> {
        let mut carried: Vec<Section> = Vec::new();
        for line in self.inputs.iter().flat_map(|input| input.segment.unknown_sections()) {
            let is_new = carried.iter().all(|other| other.tag != line.tag);
            let fits = |input: &Input<'_>| {
                let (segment, Some(unit)) = (input.segment, line.unit()) else { return false };
                let of = segment.unknown_sections().find(|other| other.tag == line.tag);
                match unit {
                    Unit::File => of.is_none_or(|of| of.unit() == line.unit()),
                    _ if segment.count_of(unit) == 0 => true,
                    _ => of.is_some_and(|of| {
                        of.unit() == line.unit() && segment.width_of(of) == self.width_of(line)
                    }),
                }
            };
            if is_new && line.rule() == MergeRule::Copy && self.inputs.iter().all(fits) {
                carried.push(*line);
            }
        }
        carried
    }

    /// Bytes that a section has per entry or row, in the first input that has any.
    fn width_of(&self, line: &Section) -> usize {
        let mut of = self.inputs.iter().flat_map(|input| {
            let mut lines = input.segment.unknown_sections();
            let of = lines.find(|other| other.tag == line.tag);
            of.map(|of| input.segment.width_of(of)).filter(|width| *width > 0)
        });
        of.next().unwrap_or_default()
    }

    /// A part that copies an unknown section of all inputs.
    fn carry(&'a self, line: Section) -> Part<'a> {
        let width = self.width_of(&line);
        let bytes = move |of: &'a Segment| of.section_bytes(line.tag);
        let counted = |count: u64| count * width as u64;
        let len = match line.unit() {
            Some(Unit::Entry) => counted(self.counts.entries),
            Some(Unit::Row) => counted(self.counts.rows),
            _ => self.inputs.iter().map(|input| bytes(input.segment).len() as u64).sum(),
        };
        Part::made(len, move |sink| {
            if line.unit() == Some(Unit::File) {
                return self.inputs.iter().try_for_each(|input| sink(bytes(input.segment)));
            }
            self.each(|of| {
                let range = if line.unit() == Some(Unit::Row) { of.rows } else { of.entries };
                let part = bytes(of.segment).get(range.start * width..range.end * width);
                sink(part.ok_or_else(contradiction)?)
            })
        })
    }

    /// Calls `visit` for all stretches, in order.
    fn each(&self, mut visit: impl FnMut(Stretch<'a>) -> io::Result<()>) -> io::Result<()> {
        for input in &self.inputs {
            for range in input.ranges() {
                visit(Stretch::new(input.segment, range).map_err(|_| contradiction())?)?;
            }
        }
        Ok(())
    }

    /// A part that copies bytes of every stretch.
    fn copied(&'a self, len: u64, bytes: fn(&Stretch<'a>) -> Option<&'a [u8]>) -> Part<'a> {
        Part::made(len, move |sink| self.each(|stretch| sink(bytes(&stretch).ok_or_else(contradiction)?)))
    }

    /// A part with the ends of keys, rows or payloads, counted from the beginning of the output.
    fn ends(&'a self, of: SpanOf) -> Part<'a> {
        Part::made(self.counts.entries * 8, move |sink| {
            let (mut out, mut end) = (gathered(sink), 0);
            self.each(|stretch| {
                for entry in stretch.entries.clone() {
                    end += of(stretch.segment, entry).ok_or_else(contradiction)?.len() as u64;
                    out.write_all(bytemuck::bytes_of(&end))?;
                }
                Ok(())
            })?;
            out.flush()
        })
    }

    /// Merges the sorted hashes of all inputs, and notes their entries in that order.
    fn write_hashes(&self, sink: Sink<'_>) -> io::Result<()> {
        let mut order = Vec::with_capacity(usize::try_from(self.counts.entries).unwrap_or_default());
        let mut out = gathered(sink);
        let at = |input: usize, position: usize| -> io::Result<_> {
            Ok(self.inputs.get(input).and_then(|input| input.segment.hashes().get(position)).copied())
        };
        let mut all = Sorted::of(self.inputs.len(), at)?;
        while let Some((hash, input, position)) = all.next(at)? {
            let from = self.inputs.get(input).ok_or_else(contradiction)?;
            let entry = from.segment.hash_entry(position).ok_or_else(contradiction)?;
            if let Some(number) = from.number_of(entry) {
                out.write_all(bytemuck::bytes_of(&hash))?;
                order.push(u32::try_from(number).map_err(|_| contradiction())?);
            }
        }
        self.order.replace(order);
        out.flush()
    }

    /// Merges the kills of all inputs. Each input has them sorted by the entries that they name, and so has
    /// the output.
    fn write_kills(&self, sink: Sink<'_>) -> io::Result<()> {
        let kill = |input: usize, position: usize| self.inputs.get(input)?.segment.kills().get(position);
        let at = |input, position| -> io::Result<_> { Ok(kill(input, position).map(Kill::victim)) };
        let mut all = Sorted::of(self.inputs.len(), at)?;
        while let Some((_, input, position)) = all.next(at)? {
            let kill = kill(input, position).ok_or_else(contradiction)?;
            if kill.commit < self.first_commit {
                sink(bytemuck::bytes_of(kill))?;
            }
        }
        Ok(())
    }

    fn write_columns(&self, sink: Sink<'_>) -> io::Result<()> {
        let mut out = gathered(sink);
        self.columns.write(self.staying(), &mut out)?;
        out.flush()
    }

    fn write_runs(&self, sink: Sink<'_>) -> io::Result<()> {
        let (mut entry, mut row) = (0, 0);
        self.each(|stretch| {
            for run in runs_of(&stretch, entry, row).map_err(|_| contradiction())? {
                sink(bytemuck::bytes_of(&run))?;
            }
            entry += stretch.entries.len() as u64;
            row += stretch.rows.len() as u64;
            Ok(())
        })
    }
}

/// The runs of a stretch whose first entry and row have these numbers in the output.
fn runs_of(stretch: &Stretch<'_>, entry: u64, row: u64) -> Result<impl Iterator<Item = Run>> {
    let runs = stretch.segment.runs();
    let (start, end) = (stretch.entries.start as u64, stretch.entries.end as u64);
    let begins = runs.partition_point(|run| run.segment_entry <= start).checked_sub(1);
    let begins = begins.ok_or_else(|| {
        Error::damaged(stretch.segment.path(), "RUNS", format!("entry {start} is in no run"))
    })?;
    let ends = runs.partition_point(|run| run.segment_entry < end);
    let first_row = stretch.rows.start as u64;
    let runs = runs.get(begins..ends).unwrap_or_default();
    if runs.iter().skip(1).any(|run| run.segment_row < first_row) || runs.is_empty() {
        return Err(Error::damaged(stretch.segment.path(), "RUNS", format!("around entry {start}")));
    }
    Ok(runs.iter().map(move |run| {
        // The first run may begin before the stretch.
        let is_first = run.segment_entry <= start;
        let from = if is_first { (start, first_row) } else { (run.segment_entry, run.segment_row) };
        Run {
            commit: run.commit,
            entry: run.entry + (from.0 - run.segment_entry),
            row: run.row + from.1.saturating_sub(run.segment_row),
            segment_entry: entry + (from.0 - start),
            segment_row: row + from.1.saturating_sub(first_row),
        }
    }))
}
