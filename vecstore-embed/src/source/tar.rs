//! Pictures in tar files, such as the shards of a webdataset, read where they lie.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{Accepts, Filter, Found, Input, Member};
use crate::base::{Error, Result};

/// Members whose headers are read ahead of the lookup of their keys.
const AHEAD: usize = 1024;

/// Most tar files that a pattern with braces may stand for.
const MOST: usize = 1_000_000;

/// Which tar files are meant by a webdataset pattern: `shard-{000..127}.tar` is 128 names, anything else is
/// itself.
///
/// ```
/// let names = vecstore_embed::tar_files("shard-{09..10}.tar")?;
/// assert_eq!(names, [std::path::Path::new("shard-09.tar"), "shard-10.tar".as_ref()]);
/// # Ok::<(), vecstore_embed::Error>(())
/// ```
///
/// # Errors
/// A range that goes backwards, or a pattern that stands for more than a million files.
pub fn tar_files(pattern: &str) -> Result<Vec<PathBuf>> {
    let mut names = vec![pattern.to_owned()];
    loop {
        let mut next = Vec::new();
        for name in &names {
            let Some((before, from, to, after)) = range(name) else { continue };
            let number = |text: &str| text.parse::<usize>().ok();
            let expected = "a file, or names like 'shard-{000..127}.tar', a million at most";
            let bad = || Error::bad_value("tar", expected, pattern);
            let (first, last) = (number(from).ok_or_else(bad)?, number(to).ok_or_else(bad)?);
            if first > last || (last - first).saturating_add(next.len()) >= MOST {
                return Err(bad());
            }
            next.extend((first..=last).map(|at| format!("{before}{at:0width$}{after}", width = from.len())));
        }
        if next.is_empty() {
            return Ok(names.into_iter().map(PathBuf::from).collect());
        }
        names = next;
    }
}

/// The first `{digits..digits}` of a name, and what is around it.
fn range(name: &str) -> Option<(&str, &str, &str, &str)> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    name.match_indices('{').find_map(|(open, _)| {
        let (before, rest) = name.split_at_checked(open)?;
        let (inside, after) = rest.strip_prefix('{')?.split_once('}')?;
        let (from, to) = inside.split_once("..")?;
        (digits(from) && digits(to)).then_some((before, from, to, after))
    })
}

/// The pictures in some tar files, in their order, as a stream.
pub(super) struct Tars {
    found: Receiver<Found>,
}

impl Tars {
    /// Reads the headers on a thread of its own, which ends with this.
    pub(super) fn open(tars: Vec<PathBuf>, filter: Arc<Filter>, accepts: Accepts) -> Self {
        let (sink, found) = bounded(AHEAD);
        thread::spawn(move || {
            for tar in tars {
                if let Err(error) = members(&tar, &filter, accepts, &sink)
                    && sink.send(Found::Unreadable(tar, error)).is_err()
                {
                    return;
                }
            }
        });
        Tars { found }
    }
}

impl Iterator for Tars {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        self.found.recv().ok()
    }
}

fn members(tar: &Path, filter: &Filter, accepts: Accepts, sink: &Sender<Found>) -> io::Result<()> {
    let mut file = File::open(tar)?;
    let length = file.metadata()?.len();
    let mut head = [0; 2];
    if file.read(&mut head)? == 2 && head == [0x1f, 0x8b] {
        return Err(io::Error::other(
            "expected a tar file, found one compressed with gzip; unpack it first, with gunzip",
        ));
    }
    file.seek(SeekFrom::Start(0))?;
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let name = entry.path_bytes().into_owned();
        let name = name.strip_prefix(b"./").unwrap_or(&name).to_vec();
        let shown = shown(tar, &name);
        let in_tar = PathBuf::from(std::ffi::OsString::from(os(&name)));
        let (start, size) = (entry.raw_file_position(), entry.size());
        let kind = entry.header().entry_type();
        let found = if kind.is_dir() || name.is_empty() {
            continue;
        } else if kind.is_gnu_sparse() || !(kind.is_file() || kind.is_contiguous()) {
            Found::Skipped(shown)
        } else if !filter.takes(&in_tar) {
            Found::Excluded(shown)
        } else if !accepts.name(&in_tar) {
            Found::Ignored(shown)
        } else if start.checked_add(size).is_none_or(|end| end > length) {
            let cut = format!(
                "the tar file is cut off: expected {} up to byte {}, found {length} bytes; take it from its \
                 source again",
                shown.display(),
                start.saturating_add(size)
            );
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, cut));
        } else {
            let member = Some(Member { tar: tar.to_owned(), name, start, length: size });
            Found::Input(Input { key: Vec::new(), path: shown, by_content: false, member })
        };
        if sink.send(found).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// The content of the member of this name.
pub(super) fn open_member(tar: &Path, name: &[u8], accepts: Accepts) -> io::Result<Box<dyn Read + Send>> {
    let mut found = Tars::open(vec![tar.to_owned()], Arc::default(), accepts);
    let place = found.find_map(|found| match found {
        Found::Input(Input { member: Some(member), .. }) if member.name == name => Some(Ok(member)),
        Found::Unreadable(_, error) => Some(Err(error)),
        _ => None,
    });
    let place = place.unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()))?;
    let mut tar = File::open(tar)?;
    tar.seek(SeekFrom::Start(place.start))?;
    Ok(Box::new(tar.take(place.length)))
}

/// A member, for people.
fn shown(tar: &Path, name: &[u8]) -> PathBuf {
    let mut path = tar.as_os_str().to_owned();
    path.push("//");
    path.push(os(name));
    path.into()
}

fn os(bytes: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, members: &[(&str, &[u8])]) {
        let mut builder = tar::Builder::new(File::create(path).unwrap());
        for (name, bytes) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *bytes).unwrap();
        }
        builder.finish().unwrap();
    }

    #[test]
    fn patterns_stand_for_files() {
        let names = |pattern| -> Vec<String> {
            tar_files(pattern).unwrap().iter().map(|path| path.display().to_string()).collect()
        };
        assert_eq!(names("a-{8..10}.tar"), ["a-8.tar", "a-9.tar", "a-10.tar"]);
        assert_eq!(names("{0..1}/{0..1}.tar"), ["0/0.tar", "0/1.tar", "1/0.tar", "1/1.tar"]);
        assert_eq!(names("{x}/a{..}b.tar"), ["{x}/a{..}b.tar"]);
        for bad in ["{9..1}.tar", "{0..99999999}.tar", "{0..99999999999999999999999}"] {
            assert!(tar_files(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn members_are_found_with_their_place_and_damage_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let tar = dir.path().join("a.tar");
        let long = format!("{}/long.png", "deep/".repeat(60));
        write(&tar, &[("1.jpg", b"first"), ("1.txt", b"words"), ("x/2.JPG", b""), (&long, b"last")]);
        let gzip = dir.path().join("b.tar");
        std::fs::write(&gzip, [0x1f, 0x8b, 8, 0]).unwrap();
        let cut = dir.path().join("c.tar");
        let bytes = std::fs::read(&tar).unwrap();
        std::fs::write(&cut, &bytes[..515]).unwrap();
        let filter = Arc::new(Filter::new(&[], &["2.*"]).unwrap());
        let found: Vec<Found> =
            Tars::open(vec![tar.clone(), gzip, cut, dir.path().join("no")], filter, Accepts::pictures())
                .collect();
        let member = |at: usize| match &found[at] {
            Found::Input(Input { member: Some(member), .. }) => member,
            other => panic!("{other:?}"),
        };
        let first = member(0);
        assert_eq!((first.name.as_slice(), first.length), (&b"1.jpg"[..], 5));
        assert_eq!(&bytes[first.start as usize..][..5], b"first");
        assert!(matches!(&found[1], Found::Ignored(path) if path.ends_with("1.txt")), "{found:?}");
        assert!(matches!(&found[2], Found::Excluded(_)), "{found:?}");
        let last = member(3);
        assert_eq!(last.name, long.as_bytes());
        assert_eq!(&bytes[last.start as usize..][..4], b"last");
        for (found, why) in found[4..].iter().zip(["gzip", "cut off", "No such file"]) {
            let Found::Unreadable(_, error) = found else { panic!("{found:?}") };
            assert!(error.to_string().contains(why), "{error}");
        }
        assert_eq!(found.len(), 7);
    }
}
