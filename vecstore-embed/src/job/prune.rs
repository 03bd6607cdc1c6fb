//! Entries whose files are not there any more: reported by every run, removed when asked for.

use std::io;
use std::path::{Path, PathBuf};

use vecstore::{Entry, OnDuplicate, Snapshot, Store};

use crate::base::FirstFew;
use crate::base::{Error, Result};
use crate::keys::Roots;
use crate::source::Files;

/// Entries removed per commit.
const AT_ONCE: usize = 1000;

/// One in so many may be gone before it takes a person to say that this is meant.
const ONE_IN: u64 = 10;

/// What became of entries without a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gone {
    /// The first of them, by what would be their paths.
    pub first: FirstFew,
    /// How many entries were removed.
    pub pruned: u64,
    /// Why none was, though it was asked for.
    pub refused: Option<String>,
}

/// Looks for entries of a run's folder without a file, and removes them.
pub(super) struct Sweep<'a> {
    pub(super) store: &'a Store,
    pub(super) roots: &'a Roots,
    /// The files of the run, if they are those of a folder.
    pub(super) files: Option<&'a Files>,
    /// Remove them.
    pub(super) prune: bool,
    /// Also many.
    pub(super) yes: bool,
}

impl Sweep<'_> {
    /// Looks at every entry of the folder, after a walk that accounted for `accounted` entries. What is wrong
    /// with that walk, if something is, keeps everything where it is.
    pub(super) fn sweep(&self, accounted: u64, incomplete: Option<&str>) -> Result<Gone> {
        let mut gone = Gone::default();
        // A list, some tar files or a source of the program do not say what else there is.
        if self.files.is_none() {
            if self.prune {
                gone.refused = Some("only a run over a folder sees what is gone".to_owned());
            }
            return Ok(gone);
        }
        let snapshot = self.store.refresh()?;
        if accounted == snapshot.totals().entries {
            return Ok(gone);
        }
        let mut looked_at = 0u64;
        for entry in snapshot.iter() {
            let entry = entry?;
            let Some(file) = self.file(&entry) else { continue };
            looked_at += 1;
            if is_gone(&file)? {
                gone.first.push(&file, "gone");
            }
        }
        if !self.prune || gone.first.count() == 0 {
            return Ok(gone);
        }
        gone.refused = if let Some(incomplete) = incomplete {
            Some(format!("the run did not see everything: {incomplete}"))
        } else if !self.yes && gone.first.count().saturating_mul(ONE_IN) > looked_at {
            Some(format!(
                "{} of {looked_at} files are gone, which is more than one in {ONE_IN}: is the drive there? \
                 They are removed all the same where that is confirmed",
                gone.first.count()
            ))
        } else {
            gone.pruned = self.prune(&snapshot)?;
            None
        };
        Ok(gone)
    }

    fn prune(&self, snapshot: &Snapshot) -> Result<u64> {
        let mut removed = 0;
        let mut batch = self.store.batch();
        for entry in snapshot.iter() {
            let entry = entry?;
            let Some(file) = self.file(&entry) else { continue };
            // Looked at again: it may have come back.
            if is_gone(&file)? {
                batch.delete(entry.key())?;
                log::info!("{}: gone; its entry is removed", file.display());
                removed += 1;
            }
            if batch.len() >= AT_ONCE {
                self.store.append(&mut batch, OnDuplicate::Replace)?;
            }
        }
        self.store.append(&mut batch, OnDuplicate::Replace)?;
        Ok(removed)
    }

    /// The file of an entry, if it belongs into the folder of the walk, and the folder of its root is there.
    fn file(&self, entry: &Entry<'_>) -> Option<PathBuf> {
        let (file, _) = self.roots.file(entry.key())?;
        let inside = self.files.is_some_and(|files| files.reaches(&file));
        inside.then_some(file)
    }
}

fn is_gone(file: &Path) -> Result<bool> {
    match file.metadata() {
        Ok(about) => Ok(!about.is_file()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(true)
        }
        // Not to be read is not to be gone.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(false),
        Err(source) => {
            let action = "look whether a stored picture is still there at";
            let remedy = "what is stored stays, and whether its file is there is not known: check the drive, \
                          and run again";
            Err(Error::io(file, action, remedy)(source))
        }
    }
}
