//! Inputs named in a list: one path per line, or one JSON object per line.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Accepts, Filter, Found, Input};
use crate::base::{Error, Result};

/// Longest line: paths are at most 4096 bytes, and JSON may say more than the path.
const MAX_LINE: usize = 1 << 20;

/// The files of a list, in its order, as a stream.
///
/// A line is a path, or a JSON object with a `path`, or a JSON string. Relative paths start at `base`;
/// symbolic links are resolved, so that a picture has one key, however it is called.
#[derive(Debug)]
pub(super) struct List {
    path: PathBuf,
    lines: BufReader<File>,
    number: u64,
    base: PathBuf,
    filter: Arc<Filter>,
    accepts: Accepts,
}

impl List {
    pub(super) fn open(path: &Path, base: &Path, filter: Arc<Filter>, accepts: Accepts) -> Result<Self> {
        let remedy = "a list is a file with one path or JSON object per line";
        let lines = File::open(path).map_err(Error::io(path, "read the list", remedy))?;
        let (path, base) = (path.to_owned(), base.to_owned());
        Ok(List { path, lines: BufReader::new(lines), number: 0, base, filter, accepts })
    }

    /// The next line that is not empty, without its end.
    fn line(&mut self) -> Option<io::Result<Vec<u8>>> {
        loop {
            let mut line = Vec::new();
            self.number += 1;
            let mut limited = io::Read::take(&mut self.lines, MAX_LINE as u64);
            match limited.read_until(b'\n', &mut line) {
                Ok(0) => return None,
                Ok(MAX_LINE) => {
                    return Some(Err(io::Error::other(
                        "expected a path or a JSON object per line, found a line of more than a mebibyte; \
                         what follows it is not read: write one line per picture, and run again",
                    )));
                }
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
            while line.pop_if(|byte| matches!(byte, b'\n' | b'\r')).is_some() {}
            if !line.is_empty() {
                return Some(Ok(line));
            }
        }
    }

    fn found(&self, line: &[u8]) -> Found {
        let path = match named(line) {
            Ok(path) => self.base.join(path),
            Err(error) => {
                let line = format!("{}:{}", self.path.display(), self.number);
                return Found::Unreadable(line.into(), error);
            }
        };
        let looked_at = path.canonicalize().and_then(|real| Ok((fs::metadata(&real)?, real)));
        match looked_at {
            Err(error) => Found::Unreadable(path, error),
            Ok((_, real)) if !self.filter.takes(real.strip_prefix(&self.base).unwrap_or(&real)) => {
                Found::Excluded(real)
            }
            Ok((about, real)) if !about.is_file() => Found::Skipped(real),
            Ok((_, real)) => {
                let by_content = !self.accepts.name(&real);
                Found::Input(Input::file(real, by_content))
            }
        }
    }
}

impl Iterator for List {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        Some(match self.line()? {
            Ok(line) => self.found(&line),
            Err(error) => {
                // What follows cannot be told apart: nothing more is read.
                let rest = io::copy(&mut self.lines, &mut io::sink());
                let _ = rest;
                Found::Unreadable(self.path.clone(), error)
            }
        })
    }
}

fn bad(found: &str) -> io::Error {
    io::Error::other(format!(
        "expected a path, a JSON string, or a JSON object with a \"path\", found {found}"
    ))
}

/// The path that a line names.
fn named(line: &[u8]) -> io::Result<PathBuf> {
    let text = match line.trim_ascii_start().first() {
        Some(b'{' | b'"') => match serde_json::from_slice(line) {
            Ok(serde_json::Value::String(path)) => path,
            Ok(serde_json::Value::Object(object)) => match object.get("path") {
                Some(serde_json::Value::String(path)) => path.clone(),
                _ => return Err(bad("an object without a \"path\" that is text")),
            },
            // A line that begins with a quote or a brace can be no other JSON.
            Ok(_) => return Err(bad("other JSON")),
            Err(error) => {
                return Err(bad(&format!(
                    "no JSON ({error}); a path that begins like this is written as ./{{…"
                )));
            }
        },
        _ => return Ok(OsStr::from_bytes(line).into()),
    };
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_json_are_read_and_what_is_neither_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        for name in ["a.jpg", "b", "ü c.png"] {
            fs::write(base.join(name), "").unwrap();
        }
        std::os::unix::fs::symlink("a.jpg", base.join("link.jpg")).unwrap();
        let list = base.join("list");
        let absolute = base.join("b");
        let lines = format!(
            "a.jpg\r\n\n{}\n{{\"path\": \"ü c.png\", \"caption\": 1}}\n\"link.jpg\"\ngone.jpg\n{{\"file\": \
             1}}\n.\n{{oops\n",
            absolute.display()
        );
        fs::write(&list, lines).unwrap();
        let found: Vec<String> = List::open(&list, &base, Arc::default(), Accepts::pictures())
            .unwrap()
            .map(|found| {
                let name = |path: PathBuf| path.strip_prefix(&base).unwrap_or(&path).display().to_string();
                match found {
                    Found::Input(Input { path, by_content: false, .. }) => name(path),
                    Found::Input(input) => format!("other {}", name(input.path)),
                    Found::Skipped(path) => format!("skipped {}", name(path)),
                    Found::Unreadable(path, error) => format!("unreadable {}: {error}", name(path)),
                    other => panic!("{other:?}"),
                }
            })
            .collect();
        assert_eq!(found[..4], ["a.jpg", "other b", "ü c.png", "a.jpg"]);
        assert!(found[4].starts_with("unreadable gone.jpg: No such file"), "{}", found[4]);
        assert_eq!(
            found[5],
            "unreadable list:7: expected a path, a JSON string, or a JSON object with a \"path\", found an \
             object without a \"path\" that is text"
        );
        assert_eq!(found[6], "skipped ");
        assert!(found[7].starts_with("unreadable list:9: expected a path"), "{}", found[7]);
        assert!(found[7].contains("found no JSON (") && found[7].contains("written as ./{"), "{}", found[7]);
        assert_eq!(found.len(), 8);
        let gone = List::open(&base.join("no-list"), &base, Arc::default(), Accepts::pictures()).unwrap_err();
        let gone = gone.to_string();
        assert!(gone.contains("cannot read the list") && gone.contains("no-list: No such file"), "{gone}");
        assert!(gone.contains("a list is a file with one path or JSON object"), "{gone}");
    }
}
