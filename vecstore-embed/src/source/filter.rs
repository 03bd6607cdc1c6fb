//! Which files of a folder are looked at: `--include` and `--exclude`.

use std::path::Path;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::base::{Error, Result};

/// Patterns for files to take and for files and folders to leave out. Without any, everything is taken.
///
/// `*` and `?` stand for anything within a name, `**` for any folders, `[a-z]` for one of these, `{a,b}` for
/// either. A pattern without a slash is about the name, wherever it is; one with a slash is about the path
/// relative to the folder of the run.
///
/// ```
/// use vecstore_embed::Filter;
///
/// let filter = Filter::new(&["*.jpg"], &["thumbnails", "2019/*/raw"])?;
/// assert!(filter.takes("2019/may/1.jpg".as_ref()));
/// assert!(!filter.takes("2019/may/1.png".as_ref()));
/// assert!(filter.excludes("2019/may/thumbnails".as_ref()));
/// assert!(filter.excludes("2019/may/raw".as_ref()));
/// # Ok::<(), vecstore_embed::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Filter {
    include: Option<GlobSet>,
    exclude: Option<GlobSet>,
}

impl Filter {
    /// Takes the files that match one of `include` (all, if it is empty), and of those none that matches one
    /// of `exclude`. A folder that does is not entered.
    pub fn new<T: AsRef<str>>(include: &[T], exclude: &[T]) -> Result<Self> {
        Ok(Filter { include: set("include", include)?, exclude: set("exclude", exclude)? })
    }

    /// True when nothing is left out.
    pub fn is_empty(&self) -> bool {
        self.include.is_none() && self.exclude.is_none()
    }

    /// True for a file, given its path relative to the folder of the run, that is to be looked at.
    pub fn takes(&self, relative: &Path) -> bool {
        self.include.as_ref().is_none_or(|include| include.is_match(relative)) && !self.excludes(relative)
    }

    /// True for a file or folder that is to be left out.
    pub fn excludes(&self, relative: &Path) -> bool {
        self.exclude.as_ref().is_some_and(|exclude| exclude.is_match(relative))
    }
}

fn set<T: AsRef<str>>(what: &'static str, patterns: &[T]) -> Result<Option<GlobSet>> {
    let expected = "a pattern such as '*.jpg' or '2019/**' (a character that means something is written like \
                    '[*]')";
    let bad = |pattern: &str| Error::bad_value(what, expected, pattern);
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let pattern = pattern.as_ref();
        let trimmed = pattern.trim_start_matches("./").trim_end_matches('/');
        let anywhere = if trimmed.contains('/') { "" } else { "**/" };
        let whole = format!("{anywhere}{}", trimmed.trim_start_matches('/'));
        let glob = GlobBuilder::new(&whole).literal_separator(true).build().map_err(|_| bad(pattern))?;
        set.add(glob);
    }
    let built =
        set.build().map_err(|_| bad(&patterns.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" ")))?;
    Ok((!patterns.is_empty()).then_some(built))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_without_a_slash_is_about_names() {
        let filter = Filter::new(&[], &["@eaDir/", "*.tmp.*", "./a/b"]).unwrap();
        for path in ["@eaDir", "x/@eaDir", "x/1.tmp.jpg", "a/b"] {
            assert!(filter.excludes(path.as_ref()), "{path}");
        }
        for path in ["eaDir", "x/a/b", "a/b/c", "1.jpg"] {
            assert!(!filter.excludes(path.as_ref()), "{path}");
        }
    }

    #[test]
    fn names_that_are_no_text_can_match() {
        use std::os::unix::ffi::OsStrExt;
        let filter = Filter::new(&["*.jpg"], &[]).unwrap();
        assert!(filter.takes(Path::new(std::ffi::OsStr::from_bytes(b"dir/\xff.jpg"))));
    }

    #[test]
    fn a_pattern_that_is_none_is_an_error() {
        let error = Filter::new(&["a[b"], &[]).unwrap_err();
        assert!(error.to_string().contains("include: expected a pattern"), "{error}");
    }
}
