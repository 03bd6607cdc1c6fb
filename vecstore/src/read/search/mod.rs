//! Exact search: compares the query with every row, bounded by memory bandwidth.

mod kernels;

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::fmt;
use std::num::NonZeroUsize;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::base::{DType, Result};
use crate::read::{Entry, in_parts};
use crate::state::{LiveSegment, View};
use crate::types::{Address, Metric};

/// Rows per thread: with fewer, a further thread costs more than it saves.
const ROWS_PER_THREAD: usize = 16_384;
/// Rows of one piece of work.
const CHUNK: usize = 4_096;

/// A row found by a search.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Hit {
    /// Key of the row's entry.
    pub key: Vec<u8>,
    /// The row's number within its entry, from 0.
    pub row: u32,
    /// The row's address.
    pub address: Address,
    /// Score by the store's metric: cosine or inner product (larger is nearer), or Euclidean distance
    /// (smaller is nearer).
    pub score: f32,
}

/// Options of a search: see [`Snapshot::search_with`](crate::Snapshot::search_with).
pub struct SearchOptions<'a> {
    k: usize,
    min_score: Option<f32>,
    filter: Option<Box<Filter<'a>>>,
    threads: Option<NonZeroUsize>,
}

type Filter<'a> = dyn Fn(&Entry<'_>) -> bool + Send + Sync + 'a;

impl fmt::Debug for SearchOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SearchOptions")
            .field("k", &self.k)
            .field("min_score", &self.min_score)
            .field("has_filter", &self.filter.is_some())
            .field("threads", &self.threads)
            .finish()
    }
}

impl<'a> SearchOptions<'a> {
    /// Asks for the `k` nearest of all rows, on all cores.
    pub fn new(k: usize) -> Self {
        SearchOptions { k, min_score: None, filter: None, threads: None }
    }

    /// Admits only rows at least as near as this [score](Hit::score): for cosine and dot, scores of `score`
    /// or more; for l2, distances of `score` or less.
    pub fn min_score(mut self, score: f32) -> Self {
        self.min_score = Some(score);
        self
    }

    /// Admits only rows of entries for which `filter` returns true. The filter is called only for rows that
    /// would be among the nearest, from several threads, and possibly more than once for an entry.
    pub fn filter(mut self, filter: impl Fn(&Entry<'_>) -> bool + Send + Sync + 'a) -> Self {
        self.filter = Some(Box::new(filter));
        self
    }

    /// Uses at most `threads` threads, including the calling one; 0 counts as 1. A program that searches from
    /// several threads of its own asks for 1 in each.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # use vecstore::{SearchOptions, Store, StoreConfig};
    /// # let store = Store::create(dir.path().join("s"), StoreConfig::new(1))?;
    /// let hits = store.snapshot().search_with(&[1.0], &SearchOptions::new(10).threads(1))?;
    /// # assert!(hits.is_empty());
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN));
        self
    }
}

/// A candidate for a hit. `closeness` is larger for nearer rows, whatever the metric.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    closeness: f32,
    segment: usize,
    row: usize,
}

impl Candidate {
    /// Nearer rows first; of equally near rows the older one, so that results do not depend on the division
    /// of work.
    fn order(&self, other: &Self) -> Ordering {
        other
            .closeness
            .total_cmp(&self.closeness)
            .then(self.segment.cmp(&other.segment))
            .then(self.row.cmp(&other.row))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.order(other) == Ordering::Equal
    }
}
impl Eq for Candidate {}
impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Candidate {
    /// The heap's top is the farthest of the candidates in it.
    fn cmp(&self, other: &Self) -> Ordering {
        self.order(other)
    }
}

/// The nearest `k` candidates so far, all of them admitted.
struct Best {
    k: usize,
    /// The least closeness of a candidate.
    least: f32,
    heap: BinaryHeap<Candidate>,
}

impl Best {
    fn new(k: usize, least: f32) -> Self {
        Best { k, least, heap: BinaryHeap::new() }
    }

    /// True if the candidate would be among the nearest `k`. False for a NaN closeness, of a row with NaN
    /// (allowed on request).
    fn wants(&self, candidate: &Candidate) -> bool {
        candidate.closeness >= self.least
            && (self.heap.len() < self.k || self.heap.peek().is_some_and(|worst| candidate < worst))
    }

    fn take(&mut self, candidate: Candidate) {
        if self.heap.len() >= self.k {
            self.heap.pop();
        }
        self.heap.push(candidate);
    }
}

/// Finds the nearest live rows of a view. The query has the view's dimension and is finite.
pub(crate) fn exact(view: &View, query: &[f32], options: &SearchOptions<'_>) -> Result<Vec<Hit>> {
    let work: Vec<(usize, usize)> = view
        .segments
        .iter()
        .enumerate()
        .flat_map(|(segment, live)| {
            (0..live.segment.row_count()).step_by(CHUNK).map(move |row| (segment, row))
        })
        .collect();
    let rows: usize = view.segments.iter().map(|live| live.segment.row_count()).sum();
    let (k, metric) = (options.k.min(rows), view.meta.metric);
    let least = options.min_score.map_or(f32::NEG_INFINITY, |score| kernels::least_closeness(metric, score));
    let useful = (rows / ROWS_PER_THREAD).min(options.threads.map_or(usize::MAX, NonZeroUsize::get));
    let parts = in_parts(&work, useful, |_, work| {
        let mut best = Best::new(k, least);
        for (segment, first) in work {
            if let Some(live) = view.segments.get(*segment) {
                let admits = |row| admits(live, row, options);
                scan_chunk(live, metric, query, (*segment, *first), admits, &mut best)?;
            }
        }
        Ok(best)
    })?;
    let mut best = Best::new(k, least);
    for candidate in parts.into_iter().flat_map(|part| part.heap) {
        if best.wants(&candidate) {
            best.take(candidate);
        }
    }
    let mut sorted = best.heap.into_vec();
    sorted.sort_unstable();
    let is_near = |candidate: &&Candidate| {
        let score = kernels::score(metric, candidate.closeness);
        options.min_score.is_none_or(|limit| kernels::is_as_near(metric, score, limit))
    };
    sorted.iter().filter(is_near).map(|candidate| hit(view, candidate)).collect()
}

/// True if the row is live, and the filter admits its entry.
fn admits(live: &LiveSegment, row: usize, options: &SearchOptions<'_>) -> Result<bool> {
    if !live.is_row_live(row)? {
        return Ok(false);
    }
    let Some(filter) = &options.filter else { return Ok(true) };
    live.segment.check_tables()?;
    Ok(filter(&Entry::read(&live.segment, live.segment.entry_of_row(row))?))
}

fn scan_chunk(
    live: &LiveSegment,
    metric: Metric,
    query: &[f32],
    (segment, first): (usize, usize),
    admits: impl Fn(usize) -> Result<bool>,
    best: &mut Best,
) -> Result<()> {
    if best.k == 0 {
        return Ok(());
    }
    let last = (first + CHUNK).min(live.segment.row_count());
    let bytes = live.segment.row_bytes(first..last)?;
    let mut failed = Ok(());
    let mut offer = |index: usize, closeness: f32| {
        let candidate = Candidate { closeness, segment, row: first + index };
        if best.wants(&candidate) {
            match admits(candidate.row) {
                Ok(true) => best.take(candidate),
                Ok(false) => {}
                Err(error) => failed = Err(error),
            }
        }
    };
    match live.segment.dtype() {
        DType::F32 => kernels::closeness(metric, query, bytemuck::cast_slice::<u8, f32>(bytes), &mut offer),
        DType::F16 => {
            let widen = |row: &[f16], wide: &mut [f32], _| row.convert_to_f32_slice(wide);
            kernels::widened(metric, query, bytemuck::cast_slice(bytes), widen, &mut offer);
        }
        DType::BF16 => {
            let widen = |row: &[bf16], wide: &mut [f32], _| row.convert_to_f32_slice(wide);
            kernels::widened(metric, query, bytemuck::cast_slice(bytes), widen, &mut offer);
        }
        DType::I8 => {
            live.segment.check_tables()?;
            let scales = live.segment.row_scales(first..last);
            let widen = |row: &[i8], wide: &mut [f32], index: usize| {
                let scale = scales.get(index).copied().unwrap_or_default();
                wide.iter_mut().zip(row).for_each(|(wide, q)| *wide = f32::from(*q) * scale);
            };
            kernels::widened(metric, query, bytemuck::cast_slice(bytes), widen, &mut offer);
        }
    }
    failed
}

fn hit(view: &View, candidate: &Candidate) -> Result<Hit> {
    let live = view
        .segments
        .get(candidate.segment)
        .ok_or(crate::base::Error::internal("a hit in a segment that is not in the view"))?;
    let segment = &live.segment;
    let entry = segment.entry_of_row(candidate.row);
    let span = segment.row_span(entry)?;
    let first = segment.address_of_entry(entry, span.start);
    let row = candidate.row.saturating_sub(span.start);
    Ok(Hit {
        key: segment.key(entry)?.to_vec(),
        row: u32::try_from(row).unwrap_or(u32::MAX),
        address: Address { commit: first.commit, row: first.row + row as u64 },
        score: kernels::score(view.meta.metric, candidate.closeness),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_candidates_are_kept_in_any_order() {
        let mut closeness: Vec<f32> = (0..50).map(|x| x as f32).collect();
        for _ in 0..3 {
            closeness.rotate_left(17);
            let mut best = Best::new(3, f32::NEG_INFINITY);
            let mut offer = |row, closeness| {
                let candidate = Candidate { closeness, segment: 0, row };
                if best.wants(&candidate) {
                    best.take(candidate);
                }
            };
            closeness.iter().enumerate().for_each(|(row, closeness)| offer(row, *closeness));
            offer(99, f32::NAN);
            let mut found: Vec<f32> = best.heap.into_iter().map(|c| c.closeness).collect();
            found.sort_by(f32::total_cmp);
            assert_eq!(found, [47.0, 48.0, 49.0]);
        }
    }

    #[test]
    fn a_search_without_further_threads_finds_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let config = crate::types::StoreConfig::new(1).metric(Metric::Dot);
        let store = crate::handle::Store::create(dir.path().join("s"), config).unwrap();
        let mut batch = store.batch();
        for row in 0..4 * ROWS_PER_THREAD {
            batch.push(format!("{row}"), &[row as f32 % 1013.0 + 1.0]).unwrap();
        }
        store.append(&mut batch, crate::types::OnDuplicate::Error).unwrap();
        let view = std::sync::Arc::clone(&store.inner.view.read());
        let find = || exact(&view, &[1.0], &SearchOptions::new(20)).unwrap();
        let all = find();
        assert_eq!(all.len(), 20);
        for count in 0..2 {
            assert_eq!(crate::base::sync::threads::given(count, find), all, "{count} threads");
        }
    }
}
