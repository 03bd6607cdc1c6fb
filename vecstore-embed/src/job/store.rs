//! The store a run writes to: opened where there is one, created when there is something to put in it.

use std::path::{Path, PathBuf};

use vecstore::{DType, OpenOptions, Store, StoreConfig};

use crate::base::{Error, Result};
use crate::embedder::Embedder;
use crate::keys::{FIRST_ROOT, RootArg, Roots};
use crate::model::SPACE;
use crate::runs::{Known, Runs};

/// The store, and the roots a run goes by: those that are recorded, changed as the run's options say.
pub(crate) struct Target<'a> {
    path: &'a Path,
    options: &'a OpenOptions,
    /// What to record beside the roots.
    settings: &'a [(String, String)],
    pub(crate) store: Option<Store>,
    pub(crate) roots: Roots,
}

impl<'a> Target<'a> {
    /// Opens the store, if there is one, and finds the roots for a run over `folder`, or over inputs that
    /// have keys of their own. Nothing is written.
    pub(crate) fn open(
        path: &'a Path,
        options: &'a OpenOptions,
        settings: &'a [(String, String)],
        folder: Option<&Path>,
        root_args: &[RootArg],
    ) -> Result<Self> {
        let store = match options.open(path) {
            Ok(store) => Some(store),
            Err(vecstore::Error::NotFound { .. }) => {
                let store = path.display().to_string();
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                if let Some(folder) = folder.filter(|folder| matches!(folder.try_exists(), Ok(false))) {
                    let found = format!("no folder {}", folder.display());
                    let remedy = "create it, or choose another path";
                    return Err(Error::unfit(store, "a folder to create the store in", found, remedy));
                }
                let runs = Runs::of_store(path);
                if path.is_dir() && runs.list().is_ok_and(|known| known.iter().any(Known::met_a_store)) {
                    let expected = format!("the store that {} tells of", runs.folder().display());
                    let remedy = "is the drive mounted? mount it and run again; to begin a new store here, \
                                  move that folder of runs away first";
                    return Err(Error::unfit(store, expected, "an empty folder", remedy));
                }
                None
            }
            Err(error) => return Err(error.into()),
        };
        let recorded = store.as_ref().map(|store| store.snapshot().settings().clone()).unwrap_or_default();
        let mut roots = Roots::from_settings(&recorded).map_err(|error| error.of_store(path))?;
        if let Some(folder) = folder
            && roots.lacks_first()
            && !root_args.iter().any(|arg| arg.name() == FIRST_ROOT)
        {
            roots.point(&RootArg::new(FIRST_ROOT, folder)?)?;
        }
        for arg in root_args {
            roots.point(&arg.canonical()?)?;
        }
        Ok(Target { path, options, settings, store, roots })
    }

    /// Where the store is or will be, as a walk through the folders around it meets it. `None` where it
    /// cannot be created either.
    pub(crate) fn place(&self) -> Option<PathBuf> {
        let absolute = std::path::absolute(self.path).ok()?;
        absolute
            .canonicalize()
            .ok()
            .or_else(|| Some(absolute.parent()?.canonicalize().ok()?.join(absolute.file_name()?)))
    }

    /// Refuses a folder that is part of the store.
    pub(crate) fn check_folder(&self, folder: &Path) -> Result<()> {
        match self.place() {
            Some(place) if self.store.is_some() && folder.starts_with(&place) => {
                Err(Error::FolderInStore { folder: folder.to_owned(), store: self.path.to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// Refuses a model that did not make the store's vectors, and another element type than the store's.
    pub(crate) fn check(&self, embedder: &Embedder, dtype: Option<DType>) -> Result<()> {
        let Some(store) = &self.store else { return Ok(()) };
        store.check_fingerprint(embedder.fingerprint())?;
        let expected = store.snapshot().dtype();
        match dtype {
            Some(found) if found != expected => {
                Err(Error::WrongDType { store: self.path.to_owned(), expected, found })
            }
            _ => Ok(()),
        }
    }

    /// Creates the store if there was none. False when another run has created it since: then the target has
    /// to be opened and checked again, by the roots that are recorded now.
    pub(crate) fn create(&mut self, embedder: &Embedder, dim: usize, dtype: Option<DType>) -> Result<bool> {
        if self.store.is_some() {
            return Ok(true);
        }
        let mut config = StoreConfig::new(dim)
            .fingerprint(embedder.fingerprint().clone())
            .dtype(dtype.unwrap_or(DType::F32));
        for (name, value) in &self.settings(embedder) {
            config = config.setting(name, value);
        }
        match self.options.create(self.path, config) {
            Ok(store) => self.store = Some(store),
            // A store has a manifest from the moment it can be seen; what else may be in the way does not
            // open.
            Err(vecstore::Error::AlreadyExists { .. }) if self.options.open(self.path).is_ok() => {
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(true)
    }

    /// Records fingerprint, roots and settings in the store, which has to be there.
    pub(crate) fn prepare(&mut self, embedder: &Embedder, dim: usize) -> Result<(&Store, &Roots)> {
        let store = match self.store.take() {
            // Opened again, so this can only be a store that is being taken away: opening says so.
            None => self.options.open(self.path)?,
            Some(store) if store.snapshot().dim() != dim => {
                return Err(Error::WrongDimension {
                    store: self.path.to_owned(),
                    expected: store.snapshot().dim(),
                    model: embedder.name().to_owned(),
                    found: dim,
                });
            }
            Some(store) => {
                store.set_fingerprint(embedder.fingerprint())?;
                store
            }
        };
        self.record_in(&store, embedder)?;
        Ok((self.store.insert(store), &self.roots))
    }

    /// Records the roots and settings that differ from the recorded ones. Does nothing where there is no
    /// store.
    pub(crate) fn record(&self, embedder: &Embedder) -> Result<()> {
        self.store.as_ref().map_or(Ok(()), |store| self.record_in(store, embedder))
    }

    /// What is to be recorded: the roots, what the run says, and the space of its vectors.
    fn settings(&self, embedder: &Embedder) -> Vec<(String, String)> {
        let space = embedder.space().map(|space| (SPACE.to_owned(), space.to_owned()));
        self.roots.to_settings().into_iter().chain(self.settings.iter().cloned()).chain(space).collect()
    }

    fn record_in(&self, store: &Store, embedder: &Embedder) -> Result<()> {
        let snapshot = store.snapshot();
        for (name, value) in &self.settings(embedder) {
            let recorded = snapshot.setting(name);
            if recorded != Some(value.as_str()) {
                if let Some(recorded) = recorded {
                    log::info!("{}: {name} was {recorded}, and is {value} from now on", self.path.display());
                }
                store.set_setting(name, value)?;
            }
        }
        Ok(())
    }
}
