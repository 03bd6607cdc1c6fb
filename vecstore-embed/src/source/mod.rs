//! Where inputs come from: what there is, what each is called in the store, and how its content is read.
//!
//! [`Files`] names the files of a folder, of a list or of tar files. A program's own inputs (rows of a
//! database, frames of a camera, objects of a bucket) come from its own [`Source`].

mod files;
mod filter;
mod folder;
mod kinds;
mod list;
mod shard;
mod tar;

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ::image::RgbImage;

pub use self::files::Files;
pub use self::filter::Filter;
pub use self::kinds::Kinds;
pub use self::shard::Shard;
pub use self::tar::tar_files;

use crate::base::{Rejected, RejectionClass, Result};
use crate::image::sniff;
use crate::keys::{Roots, Stamp};

/// Names inputs and opens them.
///
/// ```
/// use std::io::{Cursor, Read};
/// use vecstore_embed::source::{Found, Input, Source, Walk};
///
/// /// Rows of a table that is held in memory.
/// struct Table(Vec<(String, Vec<u8>)>);
///
/// impl Source for Table {
///     fn walk(&self) -> vecstore_embed::Result<Walk<'_>> {
///         Ok(Box::new(self.0.iter().map(|(name, _)| Found::Input(Input::new(name.as_bytes())))))
///     }
///
///     fn open(&self, input: &Input) -> std::io::Result<Box<dyn Read + Send + '_>> {
///         let row = self.0.iter().find(|(name, _)| name.as_bytes() == input.key());
///         let (_, content) = row.ok_or(std::io::ErrorKind::NotFound)?;
///         Ok(Box::new(Cursor::new(content)))
///     }
/// }
/// # let table = Table(vec![("a".to_owned(), vec![1])]);
/// # assert_eq!(table.walk()?.count(), 1);
/// # Ok::<(), vecstore_embed::Error>(())
/// ```
pub trait Source: Send + Sync {
    /// All inputs, in the same order each time as long as they stay the same.
    ///
    /// # Errors
    /// The source cannot be read at all. A part that cannot be read is [`Found::Unreadable`].
    fn walk(&self) -> Result<Walk<'_>>;

    /// The content of an input.
    ///
    /// # Errors
    /// It cannot be read now. The input stays missing, and a later run tries it again.
    fn open(&self, input: &Input) -> io::Result<Box<dyn Read + Send + '_>>;

    /// Length of an input's content and time of its last change: an input whose stamp is not what the store
    /// remembers is read again. `None` where the source cannot tell, which counts as unchanged.
    fn stamp(&self, input: &Input) -> Option<Stamp> {
        let _ = input;
        None
    }

    /// What people call this source.
    fn name(&self) -> String {
        "a source of the program".to_owned()
    }

    /// At least the inputs in these [units](Input::unit); all of them unless a source knows better.
    ///
    /// # Errors
    /// As [`walk`](Self::walk).
    fn walk_units(&self, units: HashSet<PathBuf>) -> Result<Walk<'_>> {
        let _ = units;
        self.walk()
    }

    /// The content of an input that is in memory already.
    #[doc(hidden)]
    fn content(&self, input: &Input) -> Option<Content<'_>> {
        let _ = input;
        None
    }

    /// The files behind this source, if it is [`Files`].
    #[doc(hidden)]
    fn files(&self) -> Option<&Files> {
        None
    }
}

/// Opens the input that has this key by the roots of a store; `None` where it lies in no root.
pub(crate) fn open_key(
    roots: &Roots,
    key: &[u8],
    accepts: Accepts,
) -> Option<io::Result<Box<dyn Read + Send>>> {
    let (file, member) = roots.file(key)?;
    Some(match member {
        Some(name) => tar::open_member(&file, &name, accepts),
        None => File::open(file).map(|file| Box::new(file) as _),
    })
}

/// What a walk comes across, one after the other.
pub type Walk<'a> = Box<dyn Iterator<Item = Found> + Send + 'a>;

/// What a walk came across.
#[derive(Debug)]
#[non_exhaustive]
pub enum Found {
    /// An input.
    Input(Input),
    /// A symbolic link that is not followed, or something that is no file at all. Not an input.
    Skipped(PathBuf),
    /// A member of a tar file that is not called like an input.
    Ignored(PathBuf),
    /// A file, or a folder, that options leave out.
    Excluded(PathBuf),
    /// A folder with fewer inputs than asked for, and their number.
    TooFew(PathBuf, u64),
    /// A folder, or an entry of one, that could not be read.
    Unreadable(PathBuf, io::Error),
    /// An input that has no key, because it lies outside every root of the store.
    Outside(Input),
}

/// One input of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Input {
    pub(crate) key: Vec<u8>,
    /// What people call it. Of a file: its path; of a member of a tar file: both names.
    pub(crate) path: PathBuf,
    /// Its name does not say that it is an input: its first bytes do.
    pub(crate) by_content: bool,
    /// Where it lies, if it is no file of its own.
    pub(crate) member: Option<Member>,
}

impl Input {
    /// The input that a store knows by `key`.
    pub fn new(key: impl Into<Vec<u8>>) -> Self {
        let key = key.into();
        let path = PathBuf::from(String::from_utf8_lossy(&key).into_owned());
        Input { key, path, by_content: false, member: None }
    }

    /// A file that has no key yet.
    pub(crate) fn file(path: PathBuf, by_content: bool) -> Self {
        Input { key: Vec::new(), path, by_content, member: None }
    }

    /// What the store knows it by.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// What people call it: the path of a file, the text of another key.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that holds it.
    pub(crate) fn holder(&self) -> &Path {
        self.member.as_ref().map_or(&self.path, |member| &member.tar)
    }

    /// The folder or tar file it lies in, by which runs share work.
    pub fn unit(&self) -> &Path {
        match &self.member {
            Some(member) => &member.tar,
            None => self.path.parent().unwrap_or(&self.path),
        }
    }
}

/// The content of an input.
#[derive(Debug)]
#[non_exhaustive]
pub enum Content<'a> {
    /// As it was read.
    Bytes(&'a [u8]),
    /// A picture that is decoded already.
    Picture(Cow<'a, RgbImage>),
}

impl<'a> Content<'a> {
    /// The bytes that were read.
    ///
    /// # Errors
    /// It is no bytes.
    pub fn bytes(&self) -> Result<&'a [u8], Rejected> {
        match self {
            Content::Bytes(bytes) => Ok(bytes),
            Content::Picture(_) => {
                Err(Rejected::new(RejectionClass::Decode, "expected bytes, found a decoded picture"))
            }
        }
    }
}

/// A file inside a tar file, which is read where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) tar: PathBuf,
    pub(crate) name: Vec<u8>,
    /// Where its bytes begin, and how many there are.
    pub(crate) start: u64,
    pub(crate) length: u64,
}

/// Which files are inputs of a task: by what they are called, or by how they begin.
#[derive(Clone, Copy)]
pub struct Accepts {
    /// Extensions in lower case. A file with one of them is an input, whatever it holds.
    pub extensions: &'static [&'static str],
    /// True when the first [`HEAD`] bytes of a file of another name make it an input.
    pub content: fn(&[u8]) -> bool,
}

/// Bytes of a file that are read to recognise it.
pub const HEAD: u64 = 64;

impl Accepts {
    /// Pictures in the formats that this crate decodes.
    pub fn pictures() -> Self {
        const EXTENSIONS: &[&str] =
            &["jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "dib", "tif", "tiff"];
        Accepts { extensions: EXTENSIONS, content: |head| sniff(head).is_some() }
    }

    /// True when a file of this name is an input.
    pub fn name(&self, path: &Path) -> bool {
        let extension = path.extension().and_then(|extension| extension.to_str());
        extension.is_some_and(|extension| {
            self.extensions.iter().any(|known| known.eq_ignore_ascii_case(extension))
        })
    }

    /// True when what is read begins like an input.
    pub(crate) fn begins(&self, content: impl Read) -> io::Result<bool> {
        let mut head = Vec::new();
        content.take(HEAD).read_to_end(&mut head)?;
        Ok((self.content)(&head))
    }
}

impl fmt::Debug for Accepts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "files called {:?}, or that begin like one", self.extensions)
    }
}
