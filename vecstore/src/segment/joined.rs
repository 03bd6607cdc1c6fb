//! Lays out a segment that consists of what stays of others. Nothing of them is held in memory but which entries stay, and, while
//! it is written, the order of keys: what goes into the file is made as it is written.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::ops::Range;

use super::Segment;
use super::writer::{EncodedSegment, Part, Sections};
use crate::base::{DType, Error, Result};
use crate::format::footer::Footer;
use crate::format::records::{Kill, Run};
use crate::format::{npy, section};

/// Numbers that are gathered before they are written.
const GATHERED: usize = 8192;
/// Bits in a word.
const BITS: usize = 64;

/// Where bytes go.
type Sink<'s> = &'s mut dyn FnMut(&[u8]) -> io::Result<()>;

/// A segment that is joined to others.
#[derive(Debug)]
struct Input<'a> {
    segment: &'a Segment,
    /// `None`: all of its entries stay.
    staying: Option<Staying>,
    /// Number of its first entry in the output.
    first: u64,
}

/// Which entries of a segment stay.
#[derive(Debug)]
struct Staying {
    words: Vec<u64>,
    /// How many stay before each word.
    before: Vec<u32>,
}

impl Staying {
    /// `None` when all stay.
    fn new(count: usize, stays: impl Fn(usize) -> Result<bool>) -> Result<Option<Self>> {
        let mut words = vec![0u64; count.div_ceil(BITS)];
        let mut kept = 0;
        for (number, word) in words.iter_mut().enumerate() {
            for bit in 0..BITS.min(count - number * BITS) {
                if stays(number * BITS + bit)? {
                    *word |= 1 << bit;
                    kept += 1;
                }
            }
        }
        if kept == count {
            return Ok(None);
        }
        let before = words.iter().scan(0, |sum, word| {
            let before = *sum;
            *sum += word.count_ones();
            Some(before)
        });
        let before = before.collect();
        Ok(Some(Staying { words, before }))
    }

    fn word(&self, number: usize) -> u64 {
        self.words.get(number).copied().unwrap_or(0)
    }

    /// The place of an entry among those that stay; `None` when it does not.
    fn rank(&self, entry: usize) -> Option<u64> {
        let (word, bit) = (self.word(entry / BITS), entry % BITS);
        let before = self.before.get(entry / BITS)?;
        (word >> bit & 1 == 1).then(|| u64::from(before + (word & ((1 << bit) - 1)).count_ones()))
    }

    /// The first entry from `from` on that stays, or does not.
    fn next(&self, from: usize, stays: bool, count: usize) -> usize {
        let mut at = from;
        while at < count {
            let word = if stays { self.word(at / BITS) } else { !self.word(at / BITS) };
            let rest = word >> (at % BITS);
            if rest != 0 {
                return count.min(at + rest.trailing_zeros() as usize);
            }
            at = (at / BITS + 1) * BITS;
        }
        count
    }
}

/// Neighbouring entries of a segment that all stay, and where what belongs to them lies.
#[derive(Clone, Debug)]
struct Stretch<'a> {
    segment: &'a Segment,
    entries: Range<usize>,
    rows: Range<usize>,
    keys: Range<usize>,
    payloads: Range<usize>,
}

impl Input<'_> {
    /// Entries that stay, as ranges, ascending.
    fn ranges(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let count = self.segment.entry_count();
        let mut at = 0;
        std::iter::from_fn(move || {
            let (start, end) = match &self.staying {
                None => (at, count),
                Some(staying) => {
                    let start = staying.next(at, true, count);
                    (start, staying.next(start, false, count))
                }
            };
            at = end;
            (start < end).then_some(start..end)
        })
    }

    /// The number in the output of an entry of this segment; `None` when it does not stay.
    fn number_of(&self, entry: usize) -> Option<u64> {
        let rank = match &self.staying {
            None => entry as u64,
            Some(staying) => staying.rank(entry)?,
        };
        Some(self.first + rank)
    }
}

impl<'a> Stretch<'a> {
    fn new(segment: &'a Segment, entries: Range<usize>) -> Result<Self> {
        let (first, last) = (entries.start, entries.end.saturating_sub(1));
        let broken =
            |section: &str| Error::damaged(segment.path(), section, format!("of entries {entries:?}"));
        let keys = segment.key_span(first).zip(segment.key_span(last));
        let keys = keys.filter(|(first, last)| first.start <= last.end).ok_or_else(|| broken("KEND"))?;
        let rows = (segment.row_span(first)?, segment.row_span(last)?);
        let payloads = match segment.has_payloads() {
            false => 0..0,
            true => {
                let spans = segment.payload_span(first).zip(segment.payload_span(last));
                let (first, last) = spans.ok_or_else(|| broken("PEND"))?;
                first.start..last.end
            }
        };
        if rows.0.start > rows.1.end || payloads.start > payloads.end {
            return Err(broken("REND"));
        }
        let (keys, rows) = (keys.0.start..keys.1.end, rows.0.start..rows.1.end);
        Ok(Stretch { segment, entries, rows, keys, payloads })
    }

    /// Where what is of this kind lies.
    fn range(&self, of: Ends) -> &Range<usize> {
        match of {
            Ends::Keys => &self.keys,
            Ends::Rows => &self.rows,
            Ends::Payloads => &self.payloads,
        }
    }

    /// Where what is of this kind ends for an entry. A segment without payloads has no table of their ends.
    fn end(&self, of: Ends, entry: usize) -> Option<usize> {
        let span = match of {
            Ends::Keys => self.segment.key_span(entry),
            Ends::Rows => self.segment.row_span(entry).ok(),
            Ends::Payloads if self.segment.has_payloads() => self.segment.payload_span(entry),
            Ends::Payloads => Some(0..0),
        };
        span.map(|span| span.end)
    }
}

/// What has a table of ends.
#[derive(Clone, Copy, Debug)]
enum Ends {
    Keys,
    Rows,
    Payloads,
}

fn contradiction() -> io::Error {
    io::Error::other("the tables of a segment are not what they were a moment ago")
}

/// Numbers on their way to a file.
struct Numbers<'s> {
    gathered: Vec<u64>,
    sink: Sink<'s>,
}

impl<'s> Numbers<'s> {
    fn new(sink: Sink<'s>) -> Self {
        Numbers { gathered: Vec::with_capacity(GATHERED), sink }
    }

    fn push(&mut self, number: u64) -> io::Result<()> {
        self.gathered.push(number);
        if self.gathered.len() == GATHERED { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        (self.sink)(bytemuck::cast_slice(&self.gathered))?;
        self.gathered.clear();
        Ok(())
    }
}

/// What a segment will have.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    entries: u64,
    rows: u64,
    key_bytes: u64,
    payload_bytes: u64,
    kinds: [u64; 4],
    runs: u64,
    kills: u64,
    killed: [u64; 4],
    killed_rows: u64,
}

/// Neighbouring segments that become one.
#[derive(Debug)]
pub(crate) struct Joined<'a> {
    inputs: Vec<Input<'a>>,
    /// Kills of entries before this commit still count. The others have done their work: what they kill is left out.
    first_commit: u64,
    row_bytes: usize,
    counts: Counts,
    /// The entries in the order of their hashes, once these have been written.
    order: RefCell<Vec<u32>>,
}

impl<'a> Joined<'a> {
    /// Looks at all entries. `stays` says which of a segment stay, by its position.
    ///
    /// # Errors
    /// The tables of a segment cannot be right; or there are more entries than a segment holds.
    pub fn new(
        segments: impl Iterator<Item = &'a Segment>,
        first_commit: u64,
        stays: impl Fn(usize, usize) -> Result<bool>,
    ) -> Result<Self> {
        let (mut inputs, mut counts, mut row_bytes) = (Vec::new(), Counts::default(), 0);
        for (position, segment) in segments.enumerate() {
            let staying = Staying::new(segment.entry_count(), |entry| stays(position, entry))?;
            let input = Input { segment, staying, first: counts.entries };
            for range in input.ranges() {
                let stretch = Stretch::new(segment, range)?;
                counts.entries += stretch.entries.len() as u64;
                counts.rows += stretch.rows.len() as u64;
                counts.key_bytes += stretch.keys.len() as u64;
                counts.payload_bytes += stretch.payloads.len() as u64;
                for entry in stretch.entries.clone() {
                    if let Some(count) = counts.kinds.get_mut(usize::from(segment.kind(entry)?.code())) {
                        *count += 1;
                    }
                }
                counts.runs += runs_of(&stretch, 0, 0)?.count() as u64;
            }
            for kill in segment.kills().iter().filter(|kill| kill.commit < first_commit) {
                counts.kills += 1;
                counts.killed_rows += u64::from(kill.rows);
                if let Some(count) = counts.killed.get_mut(usize::from(kill.kind)) {
                    *count += 1;
                }
            }
            row_bytes = segment.footer().dim as usize * segment.dtype().size();
            inputs.push(input);
        }
        if u32::try_from(counts.entries + 1).is_err() {
            return Err(Error::bad_input("a segment holds fewer than 2^32 entries"));
        }
        Ok(Joined { inputs, first_commit, row_bytes, counts, order: RefCell::default() })
    }

    /// Lays the segment out. `identity` has everything that does not follow from the entries.
    ///
    /// # Errors
    /// It cannot be laid out.
    pub fn lay_out(
        &'a self,
        identity: Footer,
        dtype: DType,
        settings: Vec<u8>,
    ) -> Result<EncodedSegment<'a>> {
        let Counts { entries, rows, key_bytes, payload_bytes, kinds, runs, kills, killed, killed_rows } =
            self.counts;
        let footer = Footer { entries, rows, kinds, killed, killed_rows, ..identity };
        let row_len =
            rows.checked_mul(self.row_bytes as u64).ok_or(Error::Internal { what: "too many rows" })?;
        let mut sections: Sections<'a> = vec![
            (section::HEAD, Part::Bytes(npy::header(dtype, rows, footer.dim as usize))),
            (
                section::ROWS,
                Part::made(row_len, |sink| {
                    self.each(|stretch| {
                        sink(stretch.segment.row_bytes(stretch.rows.clone()).map_err(|_| contradiction())?)
                    })
                }),
            ),
        ];
        if dtype.has_scales() {
            sections.push((
                section::SCAL,
                Part::made(rows * 4, |sink| {
                    self.each(|stretch| {
                        sink(bytemuck::cast_slice(stretch.segment.row_scales(stretch.rows.clone())))
                    })
                }),
            ));
        }
        sections.extend([
            (
                section::KEYS,
                Part::made(key_bytes, |sink| {
                    self.each(|stretch| {
                        sink(stretch.segment.all_keys().get(stretch.keys.clone()).unwrap_or_default())
                    })
                }),
            ),
            (section::KEND, Part::made(entries * 8, |sink| self.write_ends(Ends::Keys, sink))),
            (
                section::KIND,
                Part::made(entries, |sink| {
                    self.each(|stretch| {
                        sink(stretch.segment.all_kinds().get(stretch.entries.clone()).unwrap_or_default())
                    })
                }),
            ),
            (section::REND, Part::made(entries * 8, |sink| self.write_ends(Ends::Rows, sink))),
        ]);
        if payload_bytes > 0 {
            sections.push((
                section::PAYL,
                Part::made(payload_bytes, |sink| {
                    self.each(|stretch| {
                        sink(stretch.segment.all_payloads().get(stretch.payloads.clone()).unwrap_or_default())
                    })
                }),
            ));
            sections
                .push((section::PEND, Part::made(entries * 8, |sink| self.write_ends(Ends::Payloads, sink))));
        }
        sections.push((section::HASH, Part::made(entries * 8, |sink| self.write_hashes(sink))));
        sections.push((
            section::HENT,
            Part::made(entries * 4, |sink| sink(bytemuck::cast_slice(&self.order.take()))),
        ));
        if kills > 0 {
            sections.push((
                section::KILL,
                Part::made(kills * size_of::<Kill>() as u64, |sink| self.write_kills(sink)),
            ));
        }
        sections
            .push((section::RUNS, Part::made(runs * size_of::<Run>() as u64, |sink| self.write_runs(sink))));
        sections.push((section::SETT, Part::Bytes(settings)));
        EncodedSegment::lay_out(footer, sections)
    }

    /// Goes through all stretches.
    fn each(&self, mut visit: impl FnMut(Stretch<'a>) -> io::Result<()>) -> io::Result<()> {
        for input in &self.inputs {
            for range in input.ranges() {
                visit(Stretch::new(input.segment, range).map_err(|_| contradiction())?)?;
            }
        }
        Ok(())
    }

    /// Ends, which count from the beginning of the output.
    fn write_ends(&self, of: Ends, sink: Sink<'_>) -> io::Result<()> {
        let (mut out, mut base) = (Numbers::new(sink), 0);
        self.each(|stretch| {
            let range = stretch.range(of);
            for entry in stretch.entries.clone() {
                let end = stretch.end(of, entry).and_then(|end| end.checked_sub(range.start));
                out.push(base + end.ok_or_else(contradiction)? as u64)?;
            }
            base += range.len() as u64;
            Ok(())
        })?;
        out.flush()
    }

    /// The hashes of all inputs are sorted: they are merged, and their entries noted on the way.
    fn write_hashes(&self, sink: Sink<'_>) -> io::Result<()> {
        let mut order = Vec::with_capacity(usize::try_from(self.counts.entries).unwrap_or_default());
        let mut out = Numbers::new(sink);
        let at = |input: usize, position: usize| {
            let hash = self.inputs.get(input)?.segment.hashes().get(position)?;
            Some(Reverse((*hash, input, position)))
        };
        let mut next: BinaryHeap<_> = (0..self.inputs.len()).filter_map(|input| at(input, 0)).collect();
        while let Some(Reverse((hash, input, position))) = next.pop() {
            next.extend(at(input, position + 1));
            let Some(from) = self.inputs.get(input) else { continue };
            let entry = from.segment.hash_entry(position).ok_or_else(contradiction)?;
            if let Some(number) = from.number_of(entry) {
                out.push(hash)?;
                order.push(u32::try_from(number).map_err(|_| contradiction())?);
            }
        }
        self.order.replace(order);
        out.flush()
    }

    fn write_kills(&self, sink: Sink<'_>) -> io::Result<()> {
        for input in &self.inputs {
            let kills = input.segment.kills().iter().filter(|kill| kill.commit < self.first_commit);
            kills.into_iter().try_for_each(|kill| sink(bytemuck::bytes_of(kill)))?;
        }
        Ok(())
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

/// The runs of a stretch that has these numbers of its first entry and row in the output.
fn runs_of(stretch: &Stretch<'_>, entry: u64, row: u64) -> Result<impl Iterator<Item = Run>> {
    let runs = stretch.segment.runs();
    let (start, end) = (stretch.entries.start as u64, stretch.entries.end as u64);
    let begins = runs.partition_point(|run| run.segment_entry <= start).checked_sub(1);
    let begins = begins.ok_or_else(|| {
        Error::damaged(stretch.segment.path(), "RUNS", format!("entry {start} is in no run"))
    })?;
    let ends = runs.partition_point(|run| run.segment_entry < end);
    let first_row = stretch.rows.start as u64;
    Ok(runs.get(begins..ends).unwrap_or_default().iter().map(move |run| {
        // The first one may begin before the stretch.
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
