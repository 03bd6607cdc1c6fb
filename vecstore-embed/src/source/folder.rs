//! Finds the files of a folder, in an order that does not depend on the file system.
//!
//! The walk is a stream: it holds the sorted names of one folder per level of depth, never a list of
//! everything. The files of a folder come first, in one piece, then the folders in it. Symbolic links are not
//! followed unless asked for (a link to a folder above would never end, and a picture would have two keys).

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, FileType, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::vec;

use super::{Files, Found, Input};

/// The files below a folder, sorted by name within each folder, as a stream.
#[derive(Debug)]
pub(super) struct Scan {
    files: Files,
    levels: Vec<Level>,
    /// What is to be said before the walk goes on.
    first: Option<Found>,
    begun: bool,
}

#[derive(Debug)]
struct Level {
    dir: PathBuf,
    /// Which folder this is, whatever it is called; known when links are followed.
    id: Option<(u64, u64)>,
    files: vec::IntoIter<(OsString, Seen)>,
    folders: vec::IntoIter<OsString>,
}

/// What an entry of a folder is.
#[derive(Debug)]
enum Seen {
    File,
    Folder,
    Excluded,
    Neither,
    Unreadable(io::Error),
}

impl Scan {
    /// Walks the folder of `files`, and the folders in it if they say so. Paths are compared as they are,
    /// so what is to be skipped has to be given as the walk would meet it.
    pub(super) fn new(files: Files) -> Self {
        Scan { files, levels: Vec::new(), first: None, begun: false }
    }

    /// Walks this one of the folders that the walk would come through, and none below it.
    pub(super) fn only(mut self, folder: &Path) -> Self {
        self.files.recursive = false;
        self.begun = true;
        self.enter(folder.to_owned(), false);
        self
    }

    fn enter(&mut self, dir: PathBuf, by_link: bool) {
        let id = self.files.follow_links.then(|| fs::metadata(&dir).ok()).flatten().map(|about| id(&about));
        if by_link && (self.leads_up(id) || self.leads_to_skipped(&dir)) {
            self.first = Some(Found::Skipped(dir));
            return;
        }
        match self.sorted_entries(&dir) {
            Ok((files, folders)) => {
                let mut files = files;
                if let Some(pictures) = self.too_few(&dir, &files) {
                    files.retain(|(_, seen)| !matches!(seen, Seen::File));
                    self.first = Some(Found::TooFew(dir.clone(), pictures));
                }
                let (files, folders) = (files.into_iter(), folders.into_iter());
                self.levels.push(Level { dir, id, files, folders });
            }
            Err(error) => self.first = Some(Found::Unreadable(dir, error)),
        }
    }

    /// True when the link's folder is one of those that the walk is in.
    fn leads_up(&self, target: Option<(u64, u64)>) -> bool {
        target.is_none() || self.levels.iter().any(|level| level.id == target)
    }

    fn leads_to_skipped(&self, link: &Path) -> bool {
        link.canonicalize().is_ok_and(|real| self.files.skip.iter().any(|skipped| real.starts_with(skipped)))
    }

    #[expect(
        clippy::type_complexity,
        reason = "files with what they are, and folders: named where they are taken apart"
    )]
    fn sorted_entries(&self, dir: &Path) -> io::Result<(Vec<(OsString, Seen)>, Vec<OsString>)> {
        let (mut files, mut folders) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            match self.seen(dir, &name, entry.file_type()) {
                Seen::Folder => folders.push(name),
                seen => files.push((name, seen)),
            }
        }
        files.sort_unstable_by(|left, right| left.0.cmp(&right.0));
        folders.sort_unstable();
        Ok((files, folders))
    }

    fn seen(&self, dir: &Path, name: &OsStr, kind: io::Result<FileType>) -> Seen {
        let kind = match kind {
            Ok(kind) if kind.is_symlink() && self.files.follow_links => match fs::metadata(dir.join(name)) {
                Ok(target) => target.file_type(),
                Err(error) => return Seen::Unreadable(error),
            },
            Ok(kind) => kind,
            Err(error) => return Seen::Unreadable(error),
        };
        let excluded = !self.files.filter.is_empty() && {
            let path = dir.join(name);
            let relative = path.strip_prefix(&self.files.folder).unwrap_or(&path);
            if kind.is_dir() {
                self.files.filter.excludes(relative)
            } else {
                !self.files.filter.takes(relative)
            }
        };
        if excluded {
            Seen::Excluded
        } else if kind.is_dir() {
            Seen::Folder
        } else if kind.is_file() {
            Seen::File
        } else {
            Seen::Neither
        }
    }

    /// The number of pictures among the files, when that is too few. Files whose name does not tell are
    /// looked into only where it depends on them.
    fn too_few(&self, dir: &Path, files: &[(OsString, Seen)]) -> Option<u64> {
        let names =
            || files.iter().filter(|(_, seen)| matches!(seen, Seen::File)).map(|(name, _)| Path::new(name));
        if self.files.min_inputs <= 1 || names().next().is_none() {
            return None;
        }
        let mut pictures = names().filter(|name| self.files.accepts.name(name)).count() as u64;
        for name in names().filter(|name| !self.files.accepts.name(name)) {
            if pictures >= self.files.min_inputs {
                break;
            }
            // One that cannot be read may be one.
            pictures += u64::from(
                File::open(dir.join(name)).and_then(|file| self.files.accepts.begins(file)).unwrap_or(true),
            );
        }
        (pictures < self.files.min_inputs && pictures > 0).then_some(pictures)
    }
}

impl Iterator for Scan {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        if !self.begun {
            self.begun = true;
            self.enter(self.files.folder.clone(), false);
        }
        loop {
            if let Some(found) = self.first.take() {
                return Some(found);
            }
            let level = self.levels.last_mut()?;
            if let Some((name, seen)) = level.files.next() {
                let path = level.dir.join(name);
                return Some(match seen {
                    Seen::Unreadable(error) => Found::Unreadable(path, error),
                    Seen::Excluded => Found::Excluded(path),
                    Seen::File if self.files.accepts.name(&path) => Found::Input(Input::file(path, false)),
                    Seen::File => Found::Input(Input::file(path, true)),
                    Seen::Folder | Seen::Neither => Found::Skipped(path),
                });
            }
            let Some(name) = level.folders.next().filter(|_| self.files.recursive) else {
                self.levels.pop();
                continue;
            };
            let path = level.dir.join(name);
            if !self.files.skip.contains(&path) {
                let by_link = self.files.follow_links && path.is_symlink();
                self.enter(path, by_link);
            }
        }
    }
}

fn id(about: &Metadata) -> (u64, u64) {
    (about.dev(), about.ino())
}

#[cfg(test)]
mod tests {
    use super::super::{Accepts, Filter};
    use super::*;
    use std::os::unix::fs::symlink;

    fn names(scan: Scan, root: &Path) -> Vec<String> {
        let name = |path: PathBuf| path.strip_prefix(root).unwrap().display().to_string();
        scan.map(|found| match found {
            Found::Input(Input { path, by_content: false, .. }) => name(path),
            Found::Input(input) => format!("other {}", name(input.path)),
            Found::Skipped(path) => format!("skipped {}", name(path)),
            Found::Unreadable(path, error) => format!("unreadable {}: {:?}", name(path), error.kind()),
            Found::Excluded(path) => format!("excluded {}", name(path)),
            Found::TooFew(path, pictures) => format!("only {pictures} in {}", name(path)),
            other => unreachable!("{other:?}"),
        })
        .collect()
    }

    fn skipping(files: Files, skip: Vec<PathBuf>) -> Files {
        files.bound(files.folder().to_owned(), Default::default(), Accepts::pictures(), skip)
    }

    fn all(dir: &tempfile::TempDir) -> Files {
        Files::new(dir.path()).with_recursive(true)
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
        let scan = Scan::new(skipping(all(&dir), vec![dir.path().join("store.vecs")]));
        let expected = [
            "c.jpeg",
            "z.jpg",
            "other a/notes.txt",
            "b/10.tiff",
            "b/2.PNG",
            "skipped b/loop",
            "other b/deep/x",
        ];
        assert_eq!(names(scan, dir.path()), expected);
    }

    #[test]
    fn stays_in_the_folder_unless_told_to_recurse() {
        let dir = tree();
        assert_eq!(names(Scan::new(Files::new(dir.path())), dir.path()), ["c.jpeg", "z.jpg"]);
    }

    #[test]
    fn a_folder_that_cannot_be_read_is_reported_and_the_walk_goes_on() {
        let dir = tree();
        let mut scan = Scan::new(all(&dir));
        let first = scan.by_ref().take(3).last();
        assert!(matches!(first, Some(Found::Input(_))), "{first:?}");
        // Gone between listing its parent and entering it.
        fs::remove_dir_all(dir.path().join("b")).unwrap();
        let expected = ["unreadable b: NotFound", "store.vecs/1.jpg"];
        assert_eq!(names(scan, dir.path()), expected);
    }

    #[test]
    fn links_are_followed_when_asked_for_and_not_in_circles() {
        let dir = tree();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("1.jpg"), "").unwrap();
        symlink(elsewhere.path(), dir.path().join("a/album")).unwrap();
        symlink(elsewhere.path().join("1.jpg"), dir.path().join("a/one.jpg")).unwrap();
        symlink(elsewhere.path().join("2.jpg"), dir.path().join("a/broken.jpg")).unwrap();
        symlink(dir.path().join("store.vecs"), dir.path().join("b/store")).unwrap();
        let store = dir.path().canonicalize().unwrap().join("store.vecs");
        let skip = vec![store.clone(), dir.path().join("store.vecs")];
        let scan = Scan::new(skipping(all(&dir).with_follow_links(true), skip));
        let expected = [
            "c.jpeg",
            "z.jpg",
            "unreadable a/broken.jpg: NotFound",
            "other a/notes.txt",
            "a/one.jpg",
            "a/album/1.jpg",
            "b/10.tiff",
            "b/2.PNG",
            "other b/deep/x",
            "skipped b/loop",
            "skipped b/store",
        ];
        assert_eq!(names(scan, dir.path()), expected);
    }

    #[test]
    fn folders_with_few_pictures_and_what_is_excluded_are_left_out() {
        let dir = tree();
        fs::write(dir.path().join("b/deep/y"), b"\x89PNG\r\n\x1a\n and so on").unwrap();
        let scan = Scan::new(all(&dir).with_min_inputs(2));
        let expected = [
            "c.jpeg",
            "z.jpg",
            "other a/notes.txt",
            "b/10.tiff",
            "b/2.PNG",
            "skipped b/loop",
            "only 1 in b/deep",
        ];
        assert_eq!(names(scan, dir.path())[..7], expected);

        let filter = Filter::new(&["*.jpeg", "b/**"], &["deep", "*.tiff", "store.vecs"]).unwrap();
        let scan = Scan::new(all(&dir).with_filter(filter));
        let taken: Vec<String> = names(scan, dir.path())
            .into_iter()
            .filter(|name| !name.starts_with("excluded") && !name.starts_with("skipped"))
            .collect();
        assert_eq!(taken, ["c.jpeg", "b/2.PNG"]);
    }
}
