//! Files that are no pictures, counted by what they are called.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// Extensions that are counted by themselves. Names come from outside, so their number has a bound.
const MOST_COUNTED: usize = 256;

/// Extensions that are named when all are told in one line.
const MOST_NAMED: usize = 8;

/// The longest ending that is an extension rather than a part of a name with a dot in it.
const LONGEST: usize = 10;

/// How many files there are of each kind, by extension in lower case.
///
/// Shown as in `2 .heic, 14 .txt, 1 without an extension`: the most frequent kinds by name, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kinds {
    by_extension: BTreeMap<String, u64>,
    /// Without an extension, or with one that is none.
    without: u64,
    /// Beyond the extensions that are counted.
    others: u64,
}

impl Kinds {
    pub(crate) fn add(&mut self, path: &Path) {
        let extension = path.extension().and_then(|extension| extension.to_str()).filter(|extension| {
            extension.len() <= LONGEST && extension.bytes().all(|byte| byte.is_ascii_alphanumeric())
        });
        match extension {
            Some(extension) => self.count_as(extension.to_ascii_lowercase(), 1),
            None => self.without += 1,
        }
    }

    pub(crate) fn extend(&mut self, other: Kinds) {
        for (extension, count) in other.by_extension {
            self.count_as(extension, count);
        }
        self.without += other.without;
        self.others += other.others;
    }

    fn count_as(&mut self, extension: String, count: u64) {
        let room = self.by_extension.len() < MOST_COUNTED;
        match self.by_extension.get_mut(&extension) {
            Some(counted) => *counted += count,
            None if room => drop(self.by_extension.insert(extension, count)),
            None => self.others += count,
        }
    }

    /// All of them.
    pub fn count(&self) -> u64 {
        self.by_extension.values().sum::<u64>() + self.without + self.others
    }

    /// The number of files with each extension, in lower case and without its dot. Names may hold anything,
    /// so what goes beyond some hundred kinds is only part of [`count`](Self::count).
    pub fn by_extension(&self) -> &BTreeMap<String, u64> {
        &self.by_extension
    }
}

impl fmt::Display for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut named: Vec<(&String, &u64)> = self.by_extension.iter().collect();
        named.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        named.truncate(MOST_NAMED);
        named.sort_unstable();
        let unnamed = self.count() - named.iter().map(|(_, count)| **count).sum::<u64>() - self.without;
        let named = named.into_iter().map(|(extension, count)| format!("{count} .{extension}"));
        let rest = [(self.without, "without an extension"), (unnamed, "of other kinds")];
        let rest =
            rest.into_iter().filter(|(count, _)| *count > 0).map(|(count, of)| format!("{count} {of}"));
        f.write_str(&named.chain(rest).collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> Kinds {
        let mut kinds = Kinds::default();
        names.iter().for_each(|name| kinds.add(Path::new(name)));
        kinds
    }

    #[test]
    fn files_are_counted_by_extension() {
        let kinds =
            of(&["a.txt", "b.HEIC", "c.TXT", "d/e.heic", ".DS_Store", "README", "a. b c", "x.tar.gz"]);
        assert_eq!(kinds.to_string(), "1 .gz, 2 .heic, 2 .txt, 3 without an extension");
        assert_eq!(kinds.count(), 8);
        assert_eq!(Kinds::default().to_string(), "");
    }

    #[test]
    fn the_most_frequent_are_named_and_nothing_is_lost() {
        let names: Vec<String> = (0..1000).map(|at| format!("{at}.x{}", at % 300)).collect();
        let mut kinds = of(&names.iter().map(String::as_str).collect::<Vec<_>>());
        kinds.extend(of(&["a.heic", "a.x7"]));
        assert_eq!(kinds.count(), 1002);
        assert_eq!(kinds.by_extension().len(), MOST_COUNTED);
        let told = kinds.to_string();
        assert!(told.contains("5 .x7") && told.ends_with("of other kinds"), "{told}");
        assert!(kinds.others > 0, "there were more kinds than are counted");
    }
}
