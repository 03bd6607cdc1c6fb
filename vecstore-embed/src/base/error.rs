//! The one error type of this crate.

use std::io;
use std::path::{Path, PathBuf};

use super::Rejected;

/// The result of every fallible call in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong around a run. A picture whose *content* is bad is not here: it is
/// [`Rejected`](crate::base::Rejected), a result the store remembers and the run goes on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("cannot {action} {path}: {source}; {remedy}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done, as it reads after "cannot": `read the model`.
        action: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
        /// What to do about it.
        remedy: &'static str,
    },

    /// A model that cannot be used as it is.
    #[error("model {model}: expected {expected}, found {found}; {remedy}")]
    Model {
        /// Path of the model, or its name when it is the built-in one.
        model: String,
        /// What this crate needs.
        expected: String,
        /// What the model has.
        found: String,
        /// What to do about it.
        remedy: String,
    },

    /// A thing that cannot be used as it is: a folder, a description, a program without an engine.
    #[error("{what}: expected {expected}, found {found}; {remedy}")]
    Unfit {
        /// What it is, with its path where it has one.
        what: String,
        /// What is needed.
        expected: String,
        /// What is there.
        found: String,
        /// What to do about it.
        remedy: String,
    },

    /// An ONNX Runtime library that was asked for and cannot be used.
    #[error("ONNX Runtime library {}: expected {expected}, found {found}; {remedy}", path.display())]
    RuntimeLibrary {
        /// The library file.
        path: PathBuf,
        /// What is needed.
        expected: String,
        /// What is there.
        found: String,
        /// What to install.
        remedy: String,
    },

    /// A device that was asked for and cannot be used.
    #[error(
        "device {device} was asked for, and cannot be used through {}: found {found}; {remedy}",
        library.display()
    )]
    Device {
        /// The device.
        device: String,
        /// The ONNX Runtime library.
        library: PathBuf,
        /// What is there instead of what is needed.
        found: String,
        /// What to do about it.
        remedy: String,
    },

    /// A backend failed while it ran a model that it had accepted.
    #[error(
        "{backend} could not run {model}: {found}; this batch is not stored: run again, or examine the model"
    )]
    Inference {
        /// Name and version of the backend.
        backend: String,
        /// Name of the model.
        model: String,
        /// The backend's own words.
        found: String,
    },

    /// A value that does not mean anything where it was given.
    #[error("{what}: expected {expected}, found {found:?}")]
    BadValue {
        /// The option or argument.
        what: &'static str,
        /// What may stand there.
        expected: &'static str,
        /// What stood there.
        found: String,
    },

    /// The store said no. Boxed, because it has much to say and every result would have to make room for it.
    #[error(transparent)]
    Store(Box<vecstore::Error>),

    /// A batch could not be saved, however often it was tried.
    #[error(
        "{}: saving failed {}, the last time: {source}; what was saved stays: mend this, and run again",
        store.display(), times(*failures)
    )]
    SaveFailed {
        /// The store.
        store: PathBuf,
        /// How often it was tried; 0 when the disk was full and the run was asked to stop.
        failures: u32,
        /// The last failure.
        #[source]
        source: Box<vecstore::Error>,
    },

    /// The folder to run over is not there.
    #[error("{}: there is no such folder; check its name, and whether its drive is there", path.display())]
    FolderMissing {
        /// The folder, as it was given.
        path: PathBuf,
    },

    /// The folder to run over is a file.
    #[error("{}: expected a folder, found something else; give the folder of the pictures", path.display())]
    NotAFolder {
        /// The path, as it was given.
        path: PathBuf,
    },

    /// A folder whose pictures were to be tried has none.
    #[error(
        "{}: expected pictures in it, found none among its {looked_at} file(s); name a folder that has some",
        path.display()
    )]
    NoPictures {
        /// The folder, as it was given.
        path: PathBuf,
        /// How many files were looked at.
        looked_at: usize,
    },

    /// The folder to run over is (a part of) the store.
    #[error(
        "{}: this folder lies in the store {}; give the folder that holds the pictures",
        folder.display(), store.display()
    )]
    FolderInStore {
        /// The folder.
        folder: PathBuf,
        /// The store.
        store: PathBuf,
    },

    /// Two roots that would give the same picture two keys.
    #[error(
        "{} (root {inner}) lies in {} (root {outer}), keyed already; leave this root away, or name another",
        inner_dir.display(), outer_dir.display()
    )]
    RootsOverlap {
        /// Name of the root that was recorded earlier.
        outer: String,
        /// Its folder.
        outer_dir: PathBuf,
        /// Name of the root that was recorded later.
        inner: String,
        /// Its folder.
        inner_dir: PathBuf,
    },

    /// Pictures that have no key, because they lie in none of the store's roots.
    #[error(
        "{}: outside the roots of the store ({roots}){}; {}",
        example.display(), and_more(*count), elsewhere(folder, *holds_root)
    )]
    OutsideRoots {
        /// The folder of the run.
        folder: PathBuf,
        /// The first picture, or the folder, that lies outside.
        example: PathBuf,
        /// How many lie outside, as far as they were counted.
        count: u64,
        /// The roots, as `name=folder`.
        roots: String,
        /// A root lies in the folder, where its pictures still are.
        holds_root: bool,
    },

    /// A root that was to be pointed at a folder around its own, or in it.
    #[error(
        "{}: root {name} is {}, which is still there, and its pictures would get second keys; {}",
        new_dir.display(), old_dir.display(), instead(old_dir, new_dir)
    )]
    RootStillThere {
        /// Name of the root.
        name: String,
        /// Its folder.
        old_dir: PathBuf,
        /// The folder it was to be pointed at.
        new_dir: PathBuf,
    },

    /// A setting of the store that this crate did not write like that.
    #[error(
        "{}: the setting {name:?} cannot be used: expected {expected}, found {value:?}; {WRITTEN}",
        of_store(store.as_deref()), WRITTEN = WRITTEN
    )]
    BadSetting {
        /// The store; `None` when settings were read without their store.
        store: Option<PathBuf>,
        /// Name of the setting.
        name: String,
        /// What this crate writes there.
        expected: &'static str,
        /// Its value.
        value: String,
    },

    /// The store was made for vectors of another dimension.
    #[error(
        "{}: the store has dimension {expected}, the model {model} gives {found}; use another of the two",
        store.display()
    )]
    WrongDimension {
        /// The store.
        store: PathBuf,
        /// The store's dimension.
        expected: usize,
        /// Name of the model.
        model: String,
        /// The model's dimension.
        found: usize,
    },

    /// The store was made for other elements than were asked for.
    #[error(
        "{}: the store holds {expected} rows, not {found}; leave the element type open, or use another store",
        store.display()
    )]
    WrongDType {
        /// The store.
        store: PathBuf,
        /// The store's element type.
        expected: vecstore::DType,
        /// What was asked for.
        found: vecstore::DType,
    },

    /// A backend that did not give one vector per picture.
    #[error("{backend}: expected {expected} numbers for {batch} vectors, found {found}; name another output")]
    ModelOutput {
        /// Name of the backend.
        backend: String,
        /// Pictures in the batch.
        batch: usize,
        /// Numbers expected: batch times dimension.
        expected: usize,
        /// Numbers the backend gave.
        found: usize,
    },

    /// Content that gives no vector.
    #[error(
        "expected content that can be embedded, found this: {rejected}; give another input, or mend this one"
    )]
    Rejected {
        /// What is wrong with it.
        #[source]
        rejected: Rejected,
    },

    /// The picture to search with is no picture.
    #[error("{}: this picture cannot be used: {reason}; give another one, or mend this one", path.display())]
    BadPicture {
        /// The picture.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// The model that filled the store is not where it was.
    #[error(
        "{}: the model of this store was {}, and is no longer there; give the file of the model",
        store.display(), model.display()
    )]
    ModelMoved {
        /// The store.
        store: PathBuf,
        /// Where the model was.
        model: PathBuf,
    },
}

impl Error {
    /// True when a device, or the machine, had no memory left for what a backend was to compute: less at a
    /// time may still work. Backends have no code for it that they all share, so their words are looked at.
    pub fn is_out_of_memory(&self) -> bool {
        // ONNX Runtime's arena, CUDA, cuBLAS, the C++ allocator, Rust.
        const WORDS: [&str; 6] = [
            "out of memory",
            "failed to allocate memory",
            "cudaerrormemoryallocation",
            "alloc_failed",
            "bad_alloc",
            "bad allocation",
        ];
        let Error::Inference { found, .. } = self else { return false };
        let found = found.to_ascii_lowercase();
        WORDS.iter().any(|words| found.contains(words))
    }

    /// For a call that reads or writes `path`: what was being done as it reads after "cannot", and what to do
    /// about it.
    pub(crate) fn io(
        path: impl Into<PathBuf>,
        action: &'static str,
        remedy: &'static str,
    ) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { path, action, source, remedy }
    }

    pub(crate) fn unfit(
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let (what, expected, found) = (what.into(), expected.into(), found.into());
        Error::Unfit { what, expected, found, remedy: remedy.into() }
    }

    pub(crate) fn bad_value(what: &'static str, expected: &'static str, found: impl Into<String>) -> Self {
        Error::BadValue { what, expected, found: found.into() }
    }

    /// The same error, naming the store whose settings could not be read. Others are what they were.
    #[must_use]
    pub fn of_store(mut self, path: &Path) -> Self {
        if let Error::BadSetting { store, .. } = &mut self {
            *store = Some(path.to_owned());
        }
        self
    }
}

impl From<vecstore::Error> for Error {
    fn from(error: vecstore::Error) -> Self {
        Error::Store(Box::new(error))
    }
}

const WRITTEN: &str =
    "another program, or a newer version, wrote it: use that version, or go back to a backup";

fn of_store(store: Option<&Path>) -> String {
    store.map_or_else(|| "the store".to_owned(), |store| store.display().to_string())
}

fn times(failures: u32) -> String {
    match failures {
        0 => "until the run was to stop".to_owned(),
        1 => "once".to_owned(),
        many => format!("{many} times in a row"),
    }
}

/// What to do about pictures outside the roots. Those of a root that is still there have not moved.
fn elsewhere(folder: &Path, holds_root: bool) -> String {
    let folder = folder.display();
    let add = format!("to add what is there, name the folder as a root, for example more={folder}");
    if holds_root { add } else { format!("{add}; if the pictures moved, name it .={folder} instead") }
}

fn instead(old_dir: &Path, new_dir: &Path) -> String {
    match new_dir.starts_with(old_dir) {
        true => "to run over these pictures, leave this root away".to_owned(),
        false => elsewhere(new_dir, true),
    }
}

fn and_more(count: u64) -> String {
    if count > 1 { format!(", and {} more like it", count - 1) } else { String::new() }
}
