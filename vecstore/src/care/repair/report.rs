//! What a repair did.

use std::path::PathBuf;

/// What a repair found and did, or would do.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RepairReport {
    /// The manifest was missing or damaged, and was rebuilt from the segments.
    pub rebuilt: bool,
    /// Where the damaged manifest was moved, if there was one.
    pub quarantined: Option<PathBuf>,
    /// Segments the store consists of now.
    pub segments: usize,
    /// Last commit of the store.
    pub last_commit: u64,
    /// Files that were damaged, missing or not the store's, and what became of them.
    pub findings: Vec<Finding>,
    /// Nothing was changed: this is what a repair would do.
    pub dry_run: bool,
}

/// A file that was damaged, missing or not the store's.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Finding {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
    /// Where in `quarantine/` it was moved; `None` for one that is missing.
    pub moved_to: Option<PathBuf>,
    /// The file that was written in its place, with everything of it that is intact.
    pub replaced_by: Option<PathBuf>,
    /// Entries of it that are in the new file.
    pub kept: u64,
    /// Of those, how many could not keep their addresses.
    pub readdressed: u64,
    /// Keys whose entries are lost and that are not in the store any more: to be embedded again.
    pub lost_keys: Vec<Vec<u8>>,
    /// Entries that are lost, and whose keys cannot be read.
    pub lost_unnamed: u64,
    /// What was in it, beyond `lost_keys`, is not known.
    pub lost_unknown: bool,
    /// Entries that the manifest counts in it, superseded ones included, and their rows: where what was in it is not known,
    /// no more than these are lost. `None` for a file that the manifest does not list.
    pub listed: Option<(u64, u64)>,
    /// The file that lists the lost keys, one per line.
    pub list: Option<PathBuf>,
    /// What else is to be known.
    pub notes: Vec<String>,
}

impl RepairReport {
    /// True when the store was whole, and nothing was to be done.
    pub fn was_whole(&self) -> bool {
        !self.rebuilt && self.findings.is_empty()
    }

    /// All keys that are lost.
    pub fn lost_keys(&self) -> impl Iterator<Item = &[u8]> {
        self.findings.iter().flat_map(|finding| &finding.lost_keys).map(Vec::as_slice)
    }
}
