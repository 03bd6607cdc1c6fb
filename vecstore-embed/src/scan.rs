//! Finds the files of a folder, in an order that does not depend on the file system.
//!
//! The walk is a stream: it holds the sorted names of one folder per level of depth, never a list of everything.
//! Symbolic links are not followed (a link to a folder above would never end, and a picture would have two keys).

use std::ffi::OsStr;
use std::fs::{self, FileType};
use std::io;
use std::path::{Path, PathBuf};
use std::vec;

use crate::{Error, Result};

/// Extensions (lower case) of the formats that can be decoded.
const EXTENSIONS: [&str; 11] =
    ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "dib", "tif", "tiff"];

/// What the walk came across.
#[derive(Debug)]
pub enum Found {
    /// A regular file with a picture's extension. Whatever it holds, it is an input.
    Picture(PathBuf),
    /// Another regular file. It is an input when its first bytes are a picture's.
    Other(PathBuf),
    /// A symbolic link, or something that is no file at all. Not an input.
    Skipped(PathBuf),
    /// A folder, or an entry of one, that could not be read.
    Unreadable(PathBuf, io::Error),
}

/// The files below a folder, sorted by name within each folder, as a stream.
///
/// ```
/// use vecstore_embed::scan::{Found, Scan};
///
/// let dir = tempfile::tempdir()?;
/// std::fs::write(dir.path().join("b.JPG"), "")?;
/// std::fs::write(dir.path().join("a.txt"), "")?;
/// let found: Vec<Found> = Scan::new(dir.path(), true).collect();
/// assert!(matches!(&found[..], [Found::Other(a), Found::Picture(b)] if a < b));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Scan {
    levels: Vec<Level>,
    recursive: bool,
    skip: Option<PathBuf>,
    unreadable: Option<(PathBuf, io::Error)>,
}

#[derive(Debug)]
struct Level {
    dir: PathBuf,
    entries: vec::IntoIter<(std::ffi::OsString, io::Result<FileType>)>,
}

impl Scan {
    /// Walks `folder`, and the folders in it if `recursive`.
    pub fn new(folder: &Path, recursive: bool) -> Self {
        let mut scan = Scan { levels: Vec::new(), recursive, skip: None, unreadable: None };
        scan.enter(folder.to_owned());
        scan
    }

    /// Does not enter this folder. The walk compares paths as they are, so give it as the walk would meet it.
    #[must_use]
    pub fn skipping(mut self, folder: Option<PathBuf>) -> Self {
        self.skip = folder;
        self
    }

    fn enter(&mut self, dir: PathBuf) {
        match sorted_entries(&dir) {
            Ok(entries) => self.levels.push(Level { dir, entries: entries.into_iter() }),
            Err(error) => self.unreadable = Some((dir, error)),
        }
    }
}

impl Iterator for Scan {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        loop {
            if let Some((dir, error)) = self.unreadable.take() {
                return Some(Found::Unreadable(dir, error));
            }
            let level = self.levels.last_mut()?;
            let Some((name, kind)) = level.entries.next() else {
                self.levels.pop();
                continue;
            };
            let path = level.dir.join(name);
            match kind {
                Err(error) => return Some(Found::Unreadable(path, error)),
                Ok(kind) if kind.is_dir() => {
                    if self.recursive && self.skip.as_ref() != Some(&path) {
                        self.enter(path);
                    }
                }
                Ok(kind) if !kind.is_file() => return Some(Found::Skipped(path)),
                Ok(_) if has_picture_extension(&path) => return Some(Found::Picture(path)),
                Ok(_) => return Some(Found::Other(path)),
            }
        }
    }
}

fn sorted_entries(dir: &Path) -> io::Result<Vec<(std::ffi::OsString, io::Result<FileType>)>> {
    let mut entries = fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| (entry.file_name(), entry.file_type())))
        .collect::<io::Result<Vec<_>>>()?;
    entries.sort_unstable_by(|left, right| left.0.cmp(&right.0));
    Ok(entries)
}

fn has_picture_extension(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase);
    extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str()))
}

/// The folder as an absolute path without symbolic links, or an error that says what is wrong with it.
pub(crate) fn canonical_folder(folder: &Path) -> Result<PathBuf> {
    let wrong = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => Error::FolderMissing { path: folder.to_owned() },
        _ => Error::FolderUnreadable { path: folder.to_owned(), source },
    };
    let path = folder.canonicalize().map_err(wrong)?;
    if !fs::metadata(&path).map_err(wrong)?.is_dir() {
        return Err(Error::NotAFolder { path: folder.to_owned() });
    }
    fs::read_dir(&path).map_err(wrong)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn names(scan: Scan, root: &Path) -> Vec<String> {
        let name = |path: PathBuf| path.strip_prefix(root).unwrap().display().to_string();
        scan.map(|found| match found {
            Found::Picture(path) => name(path),
            Found::Other(path) => format!("other {}", name(path)),
            Found::Skipped(path) => format!("skipped {}", name(path)),
            Found::Unreadable(path, error) => format!("unreadable {}: {:?}", name(path), error.kind()),
        })
        .collect()
    }

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["a", "b/deep", "store.vecs"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        for file in ["z.jpg", "b/2.PNG", "b/10.tiff", "b/deep/x", "a/notes.txt", "store.vecs/1.jpg", "c.jpeg"]
        {
            fs::write(dir.path().join(file), "").unwrap();
        }
        symlink(dir.path(), dir.path().join("b/loop")).unwrap();
        dir
    }

    #[test]
    fn walks_in_the_order_of_names_and_follows_no_links() {
        let dir = tree();
        let scan = Scan::new(dir.path(), true).skipping(Some(dir.path().join("store.vecs")));
        let expected = [
            "other a/notes.txt",
            "b/10.tiff",
            "b/2.PNG",
            "other b/deep/x",
            "skipped b/loop",
            "c.jpeg",
            "z.jpg",
        ];
        assert_eq!(names(scan, dir.path()), expected);
    }

    #[test]
    fn stays_in_the_folder_unless_told_to_recurse() {
        let dir = tree();
        assert_eq!(names(Scan::new(dir.path(), false), dir.path()), ["c.jpeg", "z.jpg"]);
    }

    #[test]
    fn a_folder_that_cannot_be_read_is_reported_and_the_walk_goes_on() {
        let dir = tree();
        let mut scan = Scan::new(dir.path(), true);
        let first = scan.next();
        assert!(matches!(first, Some(Found::Other(_))));
        // Gone between listing its parent and entering it.
        fs::remove_dir_all(dir.path().join("b")).unwrap();
        let expected = ["unreadable b: NotFound", "c.jpeg", "store.vecs/1.jpg", "z.jpg"];
        assert_eq!(names(scan, dir.path()), expected);
    }

    #[test]
    fn a_folder_that_is_missing_or_a_file_is_an_error() {
        let dir = tree();
        let error = canonical_folder(&dir.path().join("nowhere")).unwrap_err();
        assert!(matches!(error, Error::FolderMissing { .. }), "{error}");
        let error = canonical_folder(&dir.path().join("z.jpg")).unwrap_err();
        assert!(matches!(error, Error::NotAFolder { .. }), "{error}");
    }
}
