//! Files as inputs: those of a folder, those that a list names, or the members of tar files.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::folder::Scan;
use super::list::List;
use super::tar::Tars;
use super::{Accepts, Filter, Found, Input, Source, Walk};
use crate::base::Result;
use crate::keys::{FIRST_ROOT, RootArg, Roots, Stamp, canonical_folder};

/// The files of a folder, or those that a list names, or the members of tar files.
///
/// ```
/// use vecstore_embed::Files;
///
/// let photos = Files::new("photos").with_recursive(true).with_min_inputs(5);
/// assert_eq!(photos.folder(), std::path::Path::new("photos"));
/// ```
#[derive(Clone, Debug)]
pub struct Files {
    pub(super) folder: PathBuf,
    named: Named,
    pub(super) recursive: bool,
    pub(super) follow_links: bool,
    pub(super) min_inputs: u64,
    pub(super) filter: Arc<Filter>,
    pub(super) accepts: Accepts,
    /// Folders that hold no inputs: the store, and what lies beside it.
    pub(super) skip: Vec<PathBuf>,
    /// What keys are relative to; the folder unless a store says otherwise.
    roots: Option<Roots>,
}

/// What names the files.
#[derive(Clone, Debug)]
enum Named {
    Folder,
    List(PathBuf),
    Tars(Vec<PathBuf>),
}

impl Files {
    /// The files of `folder`. Keys are their paths relative to it, or to the root that a store records.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Files {
            folder: folder.into(),
            named: Named::Folder,
            recursive: false,
            follow_links: false,
            min_inputs: 1,
            filter: Arc::default(),
            accepts: Accepts::pictures(),
            skip: Vec::new(),
            roots: None,
        }
    }

    /// Also the folders in the folder, and in those. Off unless set.
    #[must_use]
    pub fn with_recursive(mut self, recursive: bool) -> Self {
        self.recursive = recursive;
        self
    }

    /// Takes the files that this file names, one per line (paths, or JSON objects with a `path`), instead of
    /// those of the folder. Relative ones start at the folder.
    #[must_use]
    pub fn with_list(mut self, list: impl Into<PathBuf>) -> Self {
        self.named = Named::List(list.into());
        self
    }

    /// Takes the members of these tar files instead of the files of the folder. The key of one is that of the
    /// tar file, two slashes, and its name in it.
    #[must_use]
    pub fn with_tars(mut self, tars: impl IntoIterator<Item = PathBuf>) -> Self {
        self.named = Named::Tars(tars.into_iter().collect());
        self
    }

    /// Follows symbolic links. Off unless set.
    #[must_use]
    pub fn with_follow_links(mut self, follow: bool) -> Self {
        self.follow_links = follow;
        self
    }

    /// Leaves out the inputs of folders that have fewer. 1 unless set: none is left out.
    #[must_use]
    pub fn with_min_inputs(mut self, inputs: u64) -> Self {
        self.min_inputs = inputs;
        self
    }

    /// Which files and folders are looked at. All unless set.
    #[must_use]
    pub fn with_filter(mut self, filter: Filter) -> Self {
        self.filter = Arc::new(filter);
        self
    }

    /// The folder, as it was given.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The same files for a store: the folder without symbolic links, keys relative to `roots`, nothing from
    /// `skip`.
    pub(crate) fn bound(&self, folder: PathBuf, roots: Roots, accepts: Accepts, skip: Vec<PathBuf>) -> Self {
        Files { folder, accepts, skip, roots: Some(roots), ..self.clone() }
    }

    /// The same files, of which these are inputs.
    pub(crate) fn accepting(&self, accepts: Accepts) -> Self {
        Files { accepts, ..self.clone() }
    }

    /// True when the walk sees everything that lies in the folder.
    pub(crate) fn is_folder(&self) -> bool {
        matches!(self.named, Named::Folder)
    }

    /// True when neighbours in a folder need not come one after the other.
    pub(crate) fn is_list(&self) -> bool {
        matches!(self.named, Named::List(_))
    }

    /// True when the walk of a folder comes to this file.
    pub(crate) fn reaches(&self, file: &Path) -> bool {
        match self.recursive {
            true => file.starts_with(&self.folder),
            false => file.parent() == Some(&self.folder),
        }
    }

    /// Gives inputs the keys they have by the roots.
    fn keyed(&self, found: impl Iterator<Item = Found> + Send + 'static) -> Walk<'static> {
        let roots = self.roots.clone().unwrap_or_default();
        Box::new(found.map(move |found| match found {
            Found::Input(mut input) => match roots.key(input.holder()) {
                Some(mut key) => {
                    if let Some(member) = &input.member {
                        key.extend_from_slice(b"//");
                        key.extend_from_slice(&member.name);
                    }
                    input.key = key;
                    Found::Input(input)
                }
                None => Found::Outside(input),
            },
            other => other,
        }))
    }

    /// Everything, or what is in these folders or tar files.
    fn stream(&self, units: Option<HashSet<PathBuf>>) -> Result<Walk<'static>> {
        Ok(match (&self.named, units) {
            (Named::Folder, None) => self.keyed(Scan::new(self.clone())),
            (Named::Folder, Some(units)) => {
                let files = self.clone();
                self.keyed(units.into_iter().flat_map(move |folder| Scan::new(files.clone()).only(&folder)))
            }
            (Named::List(list), _) => {
                self.keyed(List::open(list, &self.folder, Arc::clone(&self.filter), self.accepts)?)
            }
            (Named::Tars(tars), units) => {
                let wanted = |tar: &&PathBuf| units.as_ref().is_none_or(|units| units.contains(*tar));
                let tars = tars.iter().filter(wanted).cloned().collect();
                self.keyed(Tars::open(tars, Arc::clone(&self.filter), self.accepts))
            }
        })
    }
}

impl Source for Files {
    fn walk(&self) -> Result<Walk<'_>> {
        if self.roots.is_some() {
            return self.stream(None);
        }
        let folder = canonical_folder(&self.folder)?;
        let mut roots = Roots::default();
        roots.point(&RootArg::new(FIRST_ROOT, &folder)?)?;
        self.bound(folder, roots, self.accepts, self.skip.clone()).stream(None)
    }

    fn walk_units(&self, units: HashSet<PathBuf>) -> Result<Walk<'_>> {
        self.stream(Some(units))
    }

    fn open(&self, input: &Input) -> io::Result<Box<dyn Read + Send + '_>> {
        let mut file = File::open(input.holder())?;
        Ok(match &input.member {
            Some(member) => {
                file.seek(SeekFrom::Start(member.start))?;
                Box::new(file.take(member.length))
            }
            None => Box::new(file),
        })
    }

    fn stamp(&self, input: &Input) -> Option<Stamp> {
        let mut stamp = Stamp::of(&fs::metadata(input.holder()).ok()?);
        if let Some(member) = &input.member {
            stamp.length = member.length;
        }
        Some(stamp)
    }

    fn name(&self) -> String {
        self.folder.display().to_string()
    }

    fn files(&self) -> Option<&Files> {
        Some(self)
    }
}
