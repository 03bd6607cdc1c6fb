//! Where a run's inputs come from.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Result;
use crate::filter::Filter;
use crate::list::List;
use crate::scan::{Found, Scan};
use crate::tars::Tars;

/// Names inputs.
#[derive(Clone, Debug, Default)]
pub(crate) enum Source {
    /// The files of the run's folder.
    #[default]
    Folder,
    /// The files named in this file.
    List(PathBuf),
    /// The members of these tar files.
    Tars(Vec<PathBuf>),
}

/// Walks the inputs of a run, as often as they have to be walked.
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    pub(crate) source: Source,
    pub(crate) folder: PathBuf,
    pub(crate) recursive: bool,
    pub(crate) follow_links: bool,
    pub(crate) min_images: u64,
    pub(crate) filter: Arc<Filter>,
    /// Folders that hold no inputs: the store, and what lies beside it.
    pub(crate) skip: Vec<PathBuf>,
}

/// What is found, one after the other.
pub(crate) type Stream = Box<dyn Iterator<Item = Found> + Send>;

impl Walk {
    /// True when neighbours in a folder need not come one after the other.
    pub(crate) fn is_in_order(&self) -> bool {
        matches!(self.source, Source::List(_))
    }

    /// Everything.
    pub(crate) fn all(&self) -> Result<Stream> {
        Ok(match &self.source {
            Source::Folder => Box::new(self.scan()),
            Source::List(list) => Box::new(List::open(list, &self.folder, Arc::clone(&self.filter))?),
            Source::Tars(tars) => Box::new(Tars::open(tars.clone(), Arc::clone(&self.filter))),
        })
    }

    /// At least what is in these folders or tar files.
    pub(crate) fn some(&self, units: HashSet<PathBuf>) -> Result<Stream> {
        Ok(match &self.source {
            Source::Folder => {
                let walk = self.clone();
                Box::new(units.into_iter().flat_map(move |folder| walk.scan().only(&folder)))
            }
            Source::List(_) => self.all()?,
            Source::Tars(tars) => {
                let tars = tars.iter().filter(|tar| units.contains(Path::new(tar))).cloned().collect();
                Box::new(Tars::open(tars, Arc::clone(&self.filter)))
            }
        })
    }

    fn scan(&self) -> Scan {
        Scan::new(&self.folder, self.recursive)
            .skipping(self.skip.iter().cloned())
            .following_links(self.follow_links)
            .with_min_pictures(self.min_images)
            .filtered(Arc::clone(&self.filter))
    }
}
