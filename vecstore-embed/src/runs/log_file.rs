//! The log of a run: JSON lines in a file that does not grow for ever.

use std::fs::{self, File};
use std::io::{self, Write};
use std::iter;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::time::{now, utc};

/// Bytes after which a new file is begun.
const MOST: u64 = 8 << 20;

/// Files that are kept beside the one that is written.
const OLDER: u32 = 4;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When, in UTC.
    pub time: String,
    /// `ERROR`, `WARN`, `INFO` or `DEBUG`.
    pub level: String,
    /// What.
    pub message: String,
}

/// Writes lines to a file; when it is large it becomes `.1`, what was that `.2`, and the oldest goes.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    length: u64,
    most: u64,
}

impl LogFile {
    /// Opens the file to write at its end.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().append(true).create(true).open(path)?;
        let length = file.metadata()?.len();
        Ok(LogFile { path: path.to_owned(), file, length, most: MOST })
    }

    /// Writes a line.
    ///
    /// # Errors
    /// It cannot be written; nothing but the line is lost.
    pub fn write(&mut self, level: &str, message: &str) -> io::Result<()> {
        let line = LogLine { time: utc(now()), level: level.to_owned(), message: message.to_owned() };
        let line = format!("{}\n", serde_json::to_string(&line)?);
        if self.length > 0 && self.length + line.len() as u64 > self.most {
            self.rotate()?;
        }
        // One call, so that lines stay whole.
        self.file.write_all(line.as_bytes())?;
        self.length += line.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for at in (1..OLDER).rev() {
            // Most of them are not there at first; where one is and stays, it is replaced.
            let _ = fs::rename(older(&self.path, at), older(&self.path, at + 1));
        }
        fs::rename(&self.path, older(&self.path, 1))?;
        self.file = File::options().append(true).create(true).open(&self.path)?;
        self.length = 0;
        Ok(())
    }
}

fn older(path: &Path, at: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{at}"));
    name.into()
}

/// The files of a log, oldest first, each with its inode.
///
/// The newest is opened first. Where files are renamed meanwhile, one is met again under its older name, and
/// left out: each is there once, and none is passed over.
pub fn log_files(path: &Path) -> Vec<(u64, File)> {
    let mut files: Vec<(u64, File)> = Vec::new();
    for path in iter::once(path.to_owned()).chain((1..=OLDER).map(|at| older(path, at))) {
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?.ino(), file)));
        files.extend(opened.ok().filter(|(inode, _)| files.iter().all(|(known, _)| known != inode)));
    }
    files.reverse();
    files
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_log_keeps_the_newest_lines_and_does_not_grow_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.log");
        let mut log = LogFile { most: 1000, ..LogFile::open(&path).unwrap() };
        for at in 0..200 {
            log.write("INFO", &format!("line\n{at}")).unwrap();
        }
        let files = fs::read_dir(dir.path()).unwrap();
        let bytes: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
        assert!(bytes <= 5000 && bytes > 3000, "{bytes}");
        let mut text = String::new();
        for (_, mut file) in log_files(&path) {
            file.read_to_string(&mut text).unwrap();
        }
        let lines: Vec<LogLine> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.last().unwrap().message, "line\n199");
        let first: usize = lines[0].message.strip_prefix("line\n").unwrap().parse().unwrap();
        assert_eq!(lines.len(), 200 - first, "none is missing in between");
        let inodes: Vec<u64> = log_files(&path).into_iter().map(|(inode, _)| inode).collect();
        assert_eq!(inodes.last(), Some(&fs::metadata(&path).unwrap().ino()));
        // A file that has two names, as one that is renamed while the files are opened.
        fs::remove_file(older(&path, 1)).unwrap();
        fs::hard_link(&path, older(&path, 1)).unwrap();
        assert_eq!(log_files(&path).len(), inodes.len() - 1);
        // A run that is started again goes on in the file.
        let more = LogFile::open(&path).unwrap();
        assert!(more.length > 0);
    }
}
