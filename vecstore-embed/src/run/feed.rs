//! First stage: which files are inputs, and which of those the store lacks.

use std::fs::File;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::picture::sniff;
use crate::progress::FirstFew;
use crate::roots::Roots;
use crate::scan::{Found, Scan};

/// Keys looked up at a time: enough that a lookup is one sorted merge, few enough to hold and to start quickly.
const CHUNK: usize = 1000;

/// Bytes read to recognise a picture.
pub(crate) const HEAD: u64 = 64;

/// An input that the store lacks.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) key: Vec<u8>,
    pub(crate) path: PathBuf,
    /// Its name does not say that it is a picture: only its content can.
    pub(crate) by_content: bool,
}

/// Answers which of these keys the store lacks, as positions.
pub(crate) type Missing<'a> = dyn FnMut(&[Vec<u8>]) -> Result<Vec<usize>> + 'a;

/// What the walk saw besides the jobs.
#[derive(Debug, Default)]
pub(crate) struct Fed {
    /// Inputs the store accounts for.
    pub(crate) already: u64,
    /// Files outside every root that are no pictures.
    pub(crate) ignored: u64,
    pub(crate) skipped: u64,
    pub(crate) unreadable: FirstFew,
    /// Pictures outside every root.
    pub(crate) outside: FirstFew,
    /// The walk came to its end.
    pub(crate) complete: bool,
}

/// Walks the folder and gives every input that is missing to `sink`, until the end or until `sink` breaks.
/// `going` is asked between chunks.
pub(crate) fn feed(
    scan: Scan,
    roots: &Roots,
    going: &dyn Fn() -> bool,
    missing: &mut Missing<'_>,
    sink: &mut dyn FnMut(Job) -> ControlFlow<()>,
) -> Result<Fed> {
    let mut fed = Fed::default();
    let mut chunk = Chunk::default();
    for found in scan {
        let (path, by_content) = match found {
            Found::Picture(path) => (path, false),
            Found::Other(path) => (path, true),
            Found::Skipped(_) => {
                fed.skipped += 1;
                continue;
            }
            Found::Unreadable(path, error) => {
                fed.unreadable.push(&path, error.to_string());
                continue;
            }
        };
        match roots.key(&path) {
            Some(key) => chunk.push(key, path, by_content),
            None if by_content => match has_picture_content(&path) {
                Ok(true) => fed.outside.push(&path, "outside every root of the store"),
                Ok(false) => fed.ignored += 1,
                Err(error) => fed.unreadable.push(&path, error.to_string()),
            },
            None => fed.outside.push(&path, "outside every root of the store"),
        }
        if chunk.keys.len() >= CHUNK && (!going() || chunk.flush(&mut fed, missing, sink)?.is_break()) {
            return Ok(fed);
        }
    }
    fed.complete = going() && chunk.flush(&mut fed, missing, sink)?.is_continue();
    Ok(fed)
}

/// Inputs whose keys are looked up together.
#[derive(Default)]
struct Chunk {
    keys: Vec<Vec<u8>>,
    files: Vec<(PathBuf, bool)>,
}

impl Chunk {
    fn push(&mut self, key: Vec<u8>, path: PathBuf, by_content: bool) {
        self.keys.push(key);
        self.files.push((path, by_content));
    }

    fn flush(
        &mut self,
        fed: &mut Fed,
        missing: &mut Missing<'_>,
        sink: &mut dyn FnMut(Job) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let mut wanted = missing(&self.keys)?.into_iter().peekable();
        let inputs = self.keys.drain(..).zip(self.files.drain(..));
        for (at, (key, (path, by_content))) in inputs.enumerate() {
            if wanted.next_if_eq(&at).is_none() {
                fed.already += 1;
            } else if sink(Job { key, path, by_content }).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// True when the file begins like a picture. One that cannot be read may be one.
pub(crate) fn has_picture_content(path: &Path) -> io::Result<bool> {
    let mut head = Vec::new();
    File::open(path)?.take(HEAD).read_to_end(&mut head)?;
    Ok(sniff(&head).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roots::RootArg;
    use std::collections::HashSet;
    use std::fs;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and so on";

    fn walk(dir: &Path, roots: &Roots, stored: &[&str]) -> (Vec<String>, Fed) {
        let stored: HashSet<&[u8]> = stored.iter().map(|key| key.as_bytes()).collect();
        let mut jobs = Vec::new();
        let fed = feed(
            Scan::new(dir, true),
            roots,
            &|| true,
            &mut |keys| Ok((0..keys.len()).filter(|at| !stored.contains(&keys[*at][..])).collect()),
            &mut |job| {
                jobs.push(format!(
                    "{}{}",
                    String::from_utf8_lossy(&job.key),
                    if job.by_content { "?" } else { "" }
                ));
                ControlFlow::Continue(())
            },
        );
        (jobs, fed.unwrap())
    }

    fn folder(files: &[(&str, &[u8])]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let path = dir.path().canonicalize().unwrap();
        (dir, path)
    }

    fn rooted(dir: &Path) -> Roots {
        let mut roots = Roots::default();
        roots.point(&RootArg::new(".", dir).unwrap()).unwrap();
        roots
    }

    #[test]
    fn gives_only_what_is_missing() {
        let (_keep, dir) = folder(&[("a.jpg", b""), ("b.jpg", b""), ("c/d", PNG), ("c/e.txt", b"")]);
        let (jobs, fed) = walk(&dir, &rooted(&dir), &["a.jpg"]);
        assert_eq!(jobs, ["b.jpg", "c/d?", "c/e.txt?"]);
        assert_eq!(fed.already, 1);
    }

    #[test]
    fn looks_up_more_than_one_chunk() {
        let names: Vec<String> = (0..CHUNK * 2 + 7).map(|at| format!("{at:05}.jpg")).collect();
        let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
        let (_keep, dir) = folder(&files);
        let stored: Vec<&str> = names.iter().map(String::as_str).step_by(3).collect();
        let (jobs, fed) = walk(&dir, &rooted(&dir), &stored);
        let expected: Vec<&String> = (0..names.len()).filter(|at| at % 3 != 0).map(|at| &names[at]).collect();
        assert_eq!(jobs.iter().collect::<Vec<_>>(), expected);
        assert_eq!(fed.already, stored.len() as u64);
    }

    #[test]
    fn pictures_outside_the_roots_are_counted_and_other_files_are_not() {
        let (_keep, dir) =
            folder(&[("in/a.jpg", b""), ("out/b.jpg", b""), ("out/c", PNG), ("out/d.txt", b"text")]);
        let (jobs, fed) = walk(&dir, &rooted(&dir.join("in")), &[]);
        assert_eq!(jobs, ["a.jpg"]);
        assert_eq!((fed.outside.count(), fed.ignored), (2, 1));
        assert_eq!(fed.outside.first()[1].path, dir.join("out/c"));
    }
}
