//! Which key a file has: its path relative to a folder that the store remembers.
//!
//! The first run records its folder as the store's *root*, and the key of `ROOT/people/1.jpg` is
//! `people/1.jpg`, wherever a later run starts. Pictures outside that folder join under a name (`NAME=DIR`),
//! with keys like `//NAME/people/1.jpg`. A relative path never begins with a slash, so the two cannot
//! collide.
//!
//! A file that lies in several roots belongs to the one that was recorded first. That rule makes the key of a
//! file independent of the folder a run was started in, which is what keeps a picture from being embedded
//! twice.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::base::{Error, Result};

/// Name of the first root in `.=DIR` and in messages.
pub const FIRST_ROOT: &str = ".";

/// Name of the store's setting that holds the first root; named ones are in `root.NAME`.
const SETTING: &str = "root";

/// One folder that keys are relative to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    name: String,
    dir: PathBuf,
}

impl Root {
    /// The root's name; the first one is called `.`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder, absolute and without symbolic links at the time it was recorded.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// True when one of the two folders lies in the other, and they are not the same.
    fn nests(&self, other: &Root) -> bool {
        self.dir != other.dir && (self.dir.starts_with(&other.dir) || other.dir.starts_with(&self.dir))
    }
}

/// `NAME=DIR`: adds a root, or says where the pictures of a recorded one are now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootArg {
    name: String,
    dir: PathBuf,
}

impl RootArg {
    /// Checks the name (letters, digits, `.`, `_` and `-`; or `.` alone for the first root). The folder is
    /// looked at when a run starts.
    pub fn new(name: &str, dir: impl Into<PathBuf>) -> Result<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if name.is_empty() || name == ".." || !name.bytes().all(plain) {
            return Err(bad_root(name));
        }
        Ok(RootArg { name: name.to_owned(), dir: dir.into() })
    }

    /// Reads `NAME=DIR`. The folder may hold any bytes, also more `=`.
    ///
    /// ```
    /// let root = vecstore_embed::RootArg::parse("phone=/media/phone/DCIM".as_ref())?;
    /// assert_eq!(root.name(), "phone");
    /// assert!(vecstore_embed::RootArg::parse("no-folder".as_ref()).is_err());
    /// # Ok::<(), vecstore_embed::Error>(())
    /// ```
    pub fn parse(text: &OsStr) -> Result<Self> {
        let bytes = text.as_bytes();
        let bad = || bad_root(&text.to_string_lossy());
        let split = bytes.iter().position(|byte| *byte == b'=').ok_or_else(bad)?;
        let (name, rest) = bytes.split_at(split);
        let name = std::str::from_utf8(name).map_err(|_| bad())?;
        match rest.get(1..) {
            Some(dir) if !dir.is_empty() => RootArg::new(name, OsStr::from_bytes(dir)),
            _ => Err(bad()),
        }
    }

    /// The root's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder, as it was given.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The same root with its folder made absolute and free of symbolic links.
    pub(crate) fn canonical(&self) -> Result<Self> {
        Ok(RootArg { name: self.name.clone(), dir: canonical_folder(&self.dir)? })
    }
}

fn bad_root(found: &str) -> Error {
    let expected =
        "NAME=DIR, with a name of letters, digits, '.', '_' and '-' (or '.' alone for the first root)";
    Error::bad_value("root", expected, found)
}

/// The roots a store has recorded, in the order they were recorded in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roots {
    list: Vec<Root>,
}

impl Roots {
    /// Reads the roots from a store's settings; there are none before the first run.
    pub fn from_settings(settings: &BTreeMap<String, String>) -> Result<Self> {
        let mut found = Vec::new();
        for (setting, value) in settings {
            let bad = || Error::BadSetting {
                store: None,
                name: setting.clone(),
                expected: "a folder, after a number where the root has a name",
                value: value.clone(),
            };
            if setting == SETTING {
                let dir = decode_path(value).ok_or_else(bad)?;
                found.push((0, Root { name: FIRST_ROOT.to_owned(), dir }));
            } else if let Some(name) = setting.strip_prefix("root.") {
                let (order, dir) = value.split_once(' ').ok_or_else(bad)?;
                let order: u64 = order.parse().map_err(|_| bad())?;
                let dir = decode_path(dir).ok_or_else(bad)?;
                found.push((order, Root { name: name.to_owned(), dir }));
            }
        }
        found.sort_by(|left, right| (left.0, &left.1.name).cmp(&(right.0, &right.1.name)));
        Ok(Roots { list: found.into_iter().map(|(_, root)| root).collect() })
    }

    /// What to record so that [`Roots::from_settings`] gives these roots again.
    pub fn to_settings(&self) -> Vec<(String, String)> {
        let setting = |(order, root): (usize, &Root)| match root.name.as_str() {
            FIRST_ROOT => (SETTING.to_owned(), encode_path(&root.dir)),
            name => (format!("{SETTING}.{name}"), format!("{order} {}", encode_path(&root.dir))),
        };
        self.list.iter().enumerate().map(setting).collect()
    }

    /// Adds the root, or points the one of that name at another folder. `arg`'s folder must be canonical.
    ///
    /// Refused where it would give pictures a second key: when the folder lies in a root recorded earlier
    /// (its pictures have keys already), or would contain one recorded later (it would take its pictures
    /// over); and when a root would grow or shrink in place, because its pictures have not moved and keep
    /// their old keys.
    pub(crate) fn point(&mut self, arg: &RootArg) -> Result<()> {
        let root = Root { name: arg.name.clone(), dir: arg.dir.clone() };
        let mut list = self.list.clone();
        match list.iter_mut().find(|known| known.name == root.name) {
            Some(known) if known.nests(&root) && known.dir.is_dir() => {
                return Err(Error::RootStillThere {
                    name: root.name,
                    old_dir: known.dir.clone(),
                    new_dir: root.dir,
                });
            }
            Some(known) => *known = root,
            None if root.name == FIRST_ROOT => list.insert(0, root),
            None => list.push(root),
        }
        for (at, earlier) in list.iter().enumerate() {
            if let Some(later) = list.iter().skip(at + 1).find(|later| later.dir.starts_with(&earlier.dir)) {
                return Err(Error::RootsOverlap {
                    outer: earlier.name.clone(),
                    outer_dir: earlier.dir.clone(),
                    inner: later.name.clone(),
                    inner_dir: later.dir.clone(),
                });
            }
        }
        self.list = list;
        Ok(())
    }

    /// True when no run has recorded the first root yet.
    pub(crate) fn lacks_first(&self) -> bool {
        !self.list.iter().any(|root| root.name == FIRST_ROOT)
    }

    /// True when keys for (some of) the files below `folder` exist: it lies in a root, or a root lies in it.
    pub(crate) fn touch(&self, folder: &Path) -> bool {
        self.list.iter().any(|root| folder.starts_with(&root.dir) || root.dir.starts_with(folder))
    }

    /// True when a root that still exists lies in `folder`: its pictures have not moved there.
    pub(crate) fn any_in(&self, folder: &Path) -> bool {
        self.list.iter().any(|root| root.dir.starts_with(folder) && root.dir.is_dir())
    }

    /// The key of a file, given its canonical path; `None` when it lies outside every root.
    ///
    /// Keys are the raw bytes of the relative path, with `/` between its parts.
    pub fn key(&self, path: &Path) -> Option<Vec<u8>> {
        self.list.iter().find_map(|root| {
            let relative = path.strip_prefix(&root.dir).ok()?.as_os_str().as_bytes();
            Some(match root.name.as_str() {
                FIRST_ROOT => relative.to_vec(),
                name => [b"//", name.as_bytes(), b"/", relative].concat(),
            })
        })
    }

    /// The file that has this key, and its name in it if that is a tar file; `None` when the key's root is
    /// not known.
    ///
    /// The opposite of [`Roots::key`]: `people/1.jpg`, `//phone/people/1.jpg`, `shards/0.tar//people/1.jpg`.
    pub fn file(&self, key: &[u8]) -> Option<(PathBuf, Option<Vec<u8>>)> {
        let (name, relative) = match key.strip_prefix(b"//") {
            Some(rest) => {
                let slash = rest.iter().position(|byte| *byte == b'/')?;
                (std::str::from_utf8(rest.get(..slash)?).ok()?, rest.get(slash + 1..)?)
            }
            None => (FIRST_ROOT, key),
        };
        let root = self.list.iter().find(|root| root.name == name)?;
        let (relative, member) = match relative.windows(2).position(|pair| pair == b"//") {
            Some(at) => (relative.get(..at)?, Some(relative.get(at + 2..)?.to_vec())),
            None => (relative, None),
        };
        Some((root.dir.join(OsStr::from_bytes(relative)), member))
    }

    /// The roots, earliest first.
    pub fn iter(&self) -> impl Iterator<Item = &Root> {
        self.list.iter()
    }
}

impl fmt::Display for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, root) in self.list.iter().enumerate() {
            let separator = if at == 0 { "" } else { ", " };
            write!(f, "{separator}{}={}", root.name, root.dir.display())?;
        }
        Ok(())
    }
}

/// Writes a path as text. Settings are text and paths are bytes, so bytes that are not UTF-8 become `%XX`,
/// and `%` itself `%25`.
pub(crate) fn encode_path(path: &Path) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        text.push_str(&chunk.valid().replace('%', "%25"));
        for byte in chunk.invalid() {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// Reads what [`encode_path`] wrote; `None` where it cannot have written this.
pub(crate) fn decode_path(text: &str) -> Option<PathBuf> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('%');
    bytes.extend_from_slice(parts.next()?.as_bytes());
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(part.get(2..)?.as_bytes());
    }
    (!bytes.is_empty()).then(|| PathBuf::from(OsString::from_vec(bytes)))
}

/// The folder as an absolute path without symbolic links, or an error that says what is wrong with it.
pub(crate) fn canonical_folder(folder: &Path) -> Result<PathBuf> {
    let wrong = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => Error::FolderMissing { path: folder.to_owned() },
        _ => Error::io(folder, "read the folder", "check its permissions and its drive")(source),
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

    fn roots(list: &[(&str, &str)]) -> Roots {
        let mut roots = Roots::default();
        for (name, dir) in list {
            roots.point(&RootArg::new(name, dir).unwrap()).unwrap();
        }
        roots
    }

    fn key(roots: &Roots, path: &str) -> Option<String> {
        roots.key(Path::new(path)).map(|key| String::from_utf8(key).unwrap())
    }

    #[test]
    fn the_earliest_root_that_contains_a_file_gives_its_key() {
        let roots = roots(&[(".", "/a/b"), ("more", "/a"), ("else", "/e")]);
        assert_eq!(key(&roots, "/a/b/c/1.jpg").as_deref(), Some("c/1.jpg"));
        assert_eq!(key(&roots, "/a/c/1.jpg").as_deref(), Some("//more/c/1.jpg"));
        assert_eq!(key(&roots, "/a/bb/1.jpg").as_deref(), Some("//more/bb/1.jpg"));
        assert_eq!(key(&roots, "/e/1.jpg").as_deref(), Some("//else/1.jpg"));
        assert_eq!(key(&roots, "/f/1.jpg"), None);
    }

    #[test]
    fn roots_survive_the_settings_in_order_and_with_any_bytes() {
        let mut roots = roots(&[(".", "/a/100% mine")]);
        // Eleven of them: "10" sorts before "9" as text, and must not.
        for at in 0..11 {
            let dir = OsString::from_vec(
                format!("/n/{}\u{fc}", 99 - at).into_bytes().into_iter().chain([0xff]).collect(),
            );
            roots.point(&RootArg::new(&format!("z{}", 99 - at), dir).unwrap()).unwrap();
        }
        let settings: BTreeMap<_, _> = roots.to_settings().into_iter().collect();
        assert_eq!(Roots::from_settings(&settings).unwrap(), roots);
        assert_eq!(settings["root"], "/a/100%25 mine");
    }

    #[test]
    fn a_damaged_setting_is_named() {
        for (name, value) in [("root", ""), ("root", "/a/%Z0"), ("root.x", "/no/order"), ("root.x", "one /a")]
        {
            let settings = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            let error = Roots::from_settings(&settings).unwrap_err().to_string();
            assert!(error.contains(&format!("the store: the setting {name:?} cannot be used")), "{error}");
            assert!(error.contains("expected a folder") && error.contains("go back to a backup"), "{error}");
        }
    }

    #[test]
    fn pointing_again_moves_a_root_and_keeps_its_place() {
        let mut roots = roots(&[(".", "/a"), ("x", "/x"), ("y", "/y")]);
        roots.point(&RootArg::new("x", "/moved").unwrap()).unwrap();
        roots.point(&RootArg::new(".", "/b").unwrap()).unwrap();
        assert_eq!(roots.to_string(), ".=/b, x=/moved, y=/y");
        assert_eq!(key(&roots, "/moved/1.jpg").as_deref(), Some("//x/1.jpg"));
        assert_eq!(key(&roots, "/x/1.jpg"), None);
    }

    #[test]
    fn a_root_that_would_give_second_keys_is_refused() {
        let mut roots = roots(&[(".", "/a"), ("x", "/x/deep")]);
        let before = roots.clone();
        // Inside an earlier root; the same folder again; around a later one.
        for (name, dir) in [("y", "/a/sub"), ("y", "/a"), (".", "/x")] {
            let error = roots.point(&RootArg::new(name, dir).unwrap()).unwrap_err();
            assert!(matches!(error, Error::RootsOverlap { .. }), "{error}");
            assert_eq!(roots, before);
        }
        // Around an earlier one is what a run started one folder higher needs.
        roots.point(&RootArg::new("y", "/").unwrap()).unwrap();
    }

    #[test]
    fn names_are_checked() {
        for bad in ["", "..", "a/b", "a b", "ä"] {
            assert!(RootArg::new(bad, "/a").is_err(), "{bad:?}");
        }
        for bad in ["x", "=/a", "x=", "a/b=/c"] {
            assert!(RootArg::parse(bad.as_ref()).is_err(), "{bad:?}");
        }
        assert_eq!(RootArg::parse("x=/a=b".as_ref()).unwrap().dir(), Path::new("/a=b"));
        assert_eq!(RootArg::parse(".=/a".as_ref()).unwrap().name(), FIRST_ROOT);
    }

    #[test]
    fn a_folder_that_is_missing_or_a_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("z.jpg"), "").unwrap();
        let error = canonical_folder(&dir.path().join("nowhere")).unwrap_err();
        assert!(matches!(error, Error::FolderMissing { .. }), "{error}");
        let error = canonical_folder(&dir.path().join("z.jpg")).unwrap_err();
        assert!(matches!(error, Error::NotAFolder { .. }), "{error}");
    }
}
