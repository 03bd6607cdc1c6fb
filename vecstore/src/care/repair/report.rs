//! The report of a repair.

use std::path::PathBuf;

/// The findings of a repair, and its changes; for a dry run, the changes that a repair would make.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RepairReport {
    /// True if the manifest was missing or damaged, and was rebuilt from the segments.
    pub rebuilt: bool,
    /// Path that the damaged manifest was moved to; `None` if no manifest was damaged.
    pub quarantined: Option<PathBuf>,
    /// Number of segments of the store now.
    pub segments: usize,
    /// Last commit of the store.
    pub last_commit: u64,
    /// The files that were damaged, missing or not the store's, and their treatment.
    pub findings: Vec<Finding>,
    /// True if nothing was changed: the report tells what a repair would do.
    pub dry_run: bool,
}

/// A file that was damaged, missing or not the store's.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Finding {
    /// The file.
    pub path: PathBuf,
    /// Description of the file's problem.
    pub problem: String,
    /// Path in `quarantine/` that the file was moved to; `None` for a missing file.
    pub moved_to: Option<PathBuf>,
    /// The file that was written in its place, with all intact entries.
    pub replaced_by: Option<PathBuf>,
    /// Number of entries of the file that are in the new file.
    pub kept: u64,
    /// Number of kept entries that could not keep their addresses.
    pub readdressed: u64,
    /// Keys whose entries are lost and that the store no longer has: they need to be embedded again.
    pub lost_keys: Vec<Vec<u8>>,
    /// Number of lost entries whose keys cannot be read.
    pub lost_unnamed: u64,
    /// True if the file may have held entries beyond those that `lost_keys` and `lost_unnamed` count.
    pub lost_unknown: bool,
    /// Number of kept entries that may have lost attributes.
    pub attributes_lost: u64,
    /// Numbers of entries and rows that the manifest counts in the file, superseded ones included: an upper
    /// limit of the loss if `lost_unknown` is true. `None` for a file that the manifest does not list.
    pub listed: Option<(u64, u64)>,
    /// The file that lists the lost keys, one per line.
    pub list: Option<PathBuf>,
    /// Further notes for the user.
    pub notes: Vec<String>,
}

/// The loss from a store's damaged and missing files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loss {
    /// Number of lost keys that are known: [`RepairReport::lost_keys`] names them.
    pub keys: u64,
    /// Number of lost entries whose keys cannot be read.
    pub unnamed_entries: u64,
    /// Number of files that are missing or unreadable, so that their entries are unknown.
    pub unknown_files: u64,
    /// Number of entries that the manifest counts in the unknown files that it lists, superseded ones
    /// included: an upper limit of the loss from these files.
    pub unknown_entries: u64,
    /// Number of unknown files that the manifest does not list: the number of their entries is unknown.
    pub unlisted_files: u64,
    /// Number of kept entries that may have lost attributes.
    pub without_attributes: u64,
}

impl Loss {
    /// True if nothing of the store's present state is lost. Losses of versions alone, and content that only
    /// a later version of this crate can read, are in the notes of a [`Finding`].
    pub fn is_none(&self) -> bool {
        *self == Loss::default()
    }
}

impl RepairReport {
    /// True if the store was whole, and nothing had to be done.
    pub fn was_whole(&self) -> bool {
        !self.rebuilt && self.findings.is_empty()
    }

    /// The loss of all findings together, including entries without a known key.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("photos.vecs");
    /// # vecstore::Store::create(&path, vecstore::StoreConfig::new(2))?;
    /// let loss = vecstore::repair(&path)?.loss();
    /// assert!(loss.is_none());
    /// # Ok::<(), vecstore::Error>(())
    /// ```
    pub fn loss(&self) -> Loss {
        let mut loss = Loss::default();
        for finding in &self.findings {
            loss.keys += finding.lost_keys.len() as u64;
            loss.unnamed_entries += finding.lost_unnamed;
            loss.without_attributes += finding.attributes_lost;
            if finding.lost_unknown {
                loss.unknown_files += 1;
                match finding.listed {
                    Some((entries, _)) => loss.unknown_entries += entries,
                    None => loss.unlisted_files += 1,
                }
            }
        }
        loss
    }

    /// The lost keys of all findings.
    pub fn lost_keys(&self) -> impl Iterator<Item = &[u8]> {
        self.findings.iter().flat_map(|finding| &finding.lost_keys).map(Vec::as_slice)
    }
}
