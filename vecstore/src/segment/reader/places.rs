//! Which commits entries and rows are from, and where those of a commit lie.

use super::Segment;
use crate::base::Result;
use crate::format::records::{Kill, Run};
use crate::types::Address;

impl Segment {
    /// The run that holds an entry.
    fn run_of_entry(&self, index: usize) -> Option<&Run> {
        let runs = self.runs();
        let after = runs.partition_point(|run| run.segment_entry <= index as u64);
        runs.get(after.checked_sub(1)?)
    }

    /// Commit of an entry and its number within the batch.
    pub fn origin(&self, index: usize) -> Option<(u64, u64)> {
        let run = self.run_of_entry(index)?;
        Some((run.commit, run.entry + (index as u64 - run.segment_entry)))
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

    /// Where an entry of a batch lies in this segment; `None` when a merge has dropped it.
    pub fn locate_entry(&self, commit: u64, entry: u64) -> Option<usize> {
        self.locate(commit, entry, |run| (run.entry, run.segment_entry), self.entry_count() as u64)
    }

    /// Where a row of a batch lies in this segment; `None` when a merge has dropped it.
    pub fn locate_row(&self, commit: u64, row: u64) -> Option<usize> {
        self.locate(commit, row, |run| (run.row, run.segment_row), self.row_count() as u64)
    }

    /// True when a kill of a commit in here says of its entry what this file does, or the entry is not there any more.
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
