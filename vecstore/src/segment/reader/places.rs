//! The commits that entries and rows come from, and the places of a commit's entries and rows.

use super::Segment;
use crate::base::Result;
use crate::format::records::{Kill, Run};
use crate::types::Address;

impl Segment {
    /// The run that contains an entry.
    fn run_of_entry(&self, index: usize) -> Option<&Run> {
        let runs = self.runs();
        let after = runs.partition_point(|run| run.segment_entry <= index as u64);
        runs.get(after.checked_sub(1)?)
    }

    /// The commit of an entry, and the entry's number within the batch.
    pub fn origin(&self, index: usize) -> Option<(u64, u64)> {
        let run = self.run_of_entry(index)?;
        Some((run.commit, run.entry + (index as u64 - run.segment_entry)))
    }

    /// The first entry of the commits after one; the number of entries if there is none.
    pub fn first_entry_after(&self, commit: u64) -> usize {
        let runs = self.runs();
        let after = runs.get(runs.partition_point(|run| run.commit <= commit));
        let entry = after.and_then(|run| usize::try_from(run.segment_entry).ok());
        entry.unwrap_or_else(|| self.entry_count())
    }

    /// Address of an entry's first row.
    pub fn address_of_entry(&self, index: usize, first_row: usize) -> Address {
        match self.run_of_entry(index) {
            Some(run) => Address {
                commit: run.commit,
                row: run.row + (first_row as u64).saturating_sub(run.segment_row),
            },
            None => Address { commit: self.name.first, row: first_row as u64 },
        }
    }

    /// Position of a batch's entry in this segment; `None` if a merge has dropped it.
    pub fn locate_entry(&self, commit: u64, entry: u64) -> Option<usize> {
        self.locate(commit, entry, |run| (run.entry, run.segment_entry), self.entry_count() as u64)
    }

    /// Position of a batch's row in this segment; `None` if a merge has dropped it.
    pub fn locate_row(&self, commit: u64, row: u64) -> Option<usize> {
        self.locate(commit, row, |run| (run.row, run.segment_row), self.row_count() as u64)
    }

    /// True if a kill agrees with its entry in this segment on kind, rows and address, or if the entry is no
    /// longer there.
    pub fn agrees_with(&self, kill: &Kill) -> Result<bool> {
        let Some(index) = self.locate_entry(kill.commit, kill.entry) else { return Ok(true) };
        let rows = self.row_span(index)?;
        Ok(self.kind(index)?.code() == kill.kind
            && rows.len() == kill.rows as usize
            && (rows.is_empty() || self.locate_row(kill.commit, kill.row) == Some(rows.start)))
    }

    fn locate(&self, commit: u64, number: u64, of: impl Fn(&Run) -> (u64, u64), total: u64) -> Option<usize> {
        let runs = self.runs();
        let after = runs.partition_point(|run| (run.commit, of(run).0) <= (commit, number));
        let index = after.checked_sub(1)?;
        let run = runs.get(index).filter(|run| run.commit == commit)?;
        let (first, position) = of(run);
        let end = runs.get(index + 1).map_or(total, |next| of(next).1);
        let found = position.checked_add(number - first)?;
        (found < end).then(|| usize::try_from(found).ok()).flatten()
    }
}
