//! Reads command lines of the form `PROGRAM POSITIONAL… [--name VALUE]…`: as much as these small programs
//! need, without any dependency.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;
use std::str::FromStr;

/// Exit code of a wrong command line (1 is for work that failed).
pub const EXIT_USAGE: u8 = 2;

/// A parsed command line.
#[derive(Debug)]
pub struct Args {
    positional: Vec<String>,
    options: BTreeMap<String, String>,
}

impl Args {
    /// Parses `words`, which do not include the program's name. `known` lists the option names, without
    /// dashes.
    ///
    /// Options are written `--name value` or `--name=value`; a lone `--` ends the options.
    ///
    /// # Errors
    /// Names the word that is an unknown option, lacks its value, was given twice or is one argument too many
    /// or few.
    ///
    /// ```
    /// use vecstore_examples::args::Args;
    ///
    /// let words = ["photos.vecs", "--seed", "7"].map(String::from);
    /// let args = Args::parse(words, 1, &["seed"])?;
    /// assert_eq!(args.positional(0), "photos.vecs");
    /// assert_eq!(args.option("seed", 1_u64)?, 7);
    /// # Ok::<(), String>(())
    /// ```
    pub fn parse(
        words: impl IntoIterator<Item = String>,
        positionals: usize,
        known: &[&str],
    ) -> Result<Self, String> {
        let mut args = Self { positional: Vec::new(), options: BTreeMap::new() };
        let mut words = words.into_iter();
        let mut options_ended = false;
        while let Some(word) = words.next() {
            let option = if options_ended { None } else { word.strip_prefix("--") };
            match option {
                None => args.positional.push(word),
                Some("") => options_ended = true,
                Some(option) => {
                    let (name, inline) = match option.split_once('=') {
                        Some((name, value)) => (name, Some(value.to_owned())),
                        None => (option, None),
                    };
                    if !known.contains(&name) {
                        return Err(format!("unknown option --{name}"));
                    }
                    let value = inline.or_else(|| words.next()).ok_or(format!("--{name} needs a value"))?;
                    if args.options.insert(name.to_owned(), value).is_some() {
                        return Err(format!("--{name} is given twice"));
                    }
                }
            }
        }
        if args.positional.len() != positionals {
            return Err(format!("expected {positionals} arguments, found {}", args.positional.len()));
        }
        Ok(args)
    }

    /// [`Args::parse`] for the command line of this process.
    ///
    /// # Errors
    /// As [`Args::parse`]; also names a word that is not UTF-8.
    pub fn from_env(positionals: usize, known: &[&str]) -> Result<Self, String> {
        let words: Result<Vec<String>, String> = std::env::args_os()
            .skip(1)
            .map(|word| word.into_string().map_err(|word| format!("{} is not UTF-8", word.display())))
            .collect();
        Self::parse(words?, positionals, known)
    }

    /// The positional argument at `position`, counted from 0; empty if there is none.
    pub fn positional(&self, position: usize) -> &str {
        self.positional.get(position).map_or("", String::as_str)
    }

    /// The positional argument at `position`, called `name` in the usage, as a `T`.
    ///
    /// # Errors
    /// Says what was found in its place.
    pub fn number<T: FromStr>(&self, position: usize, name: &str) -> Result<T, String>
    where
        T::Err: Display,
    {
        let found = self.positional(position);
        found.parse().map_err(|error| format!("{name} is '{found}': {error}"))
    }

    /// The value of `--name` as a `T`, or `default` if the option is not given.
    ///
    /// # Errors
    /// Says what was found in its place.
    pub fn option<T: FromStr>(&self, name: &str, default: T) -> Result<T, String>
    where
        T::Err: Display,
    {
        match self.options.get(name) {
            None => Ok(default),
            Some(found) => found.parse().map_err(|error| format!("--{name} is '{found}': {error}")),
        }
    }
}

/// Ends a program whose command line is wrong: one line on stderr and exit code 2.
pub fn wrong_use(usage: &str, why: impl Display) -> ExitCode {
    complain(format_args!("{why}; usage: {usage}"));
    ExitCode::from(EXIT_USAGE)
}

/// Ends a program whose work failed: one line on stderr and exit code 1.
pub fn failed(why: impl Display) -> ExitCode {
    complain(why);
    ExitCode::FAILURE
}

/// Prints one line on stderr. `eprintln!` would panic if stderr is closed, and a lost message must not change
/// how the program ends.
fn complain(what: impl Display) {
    let line = what.to_string().replace('\n', "; ");
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::Args;

    fn parse(words: &[&str]) -> Result<Args, String> {
        Args::parse(words.iter().map(|word| (*word).to_owned()), 2, &["rows", "writer"])
    }

    #[test]
    fn options_may_stand_anywhere() {
        let args = parse(&["--rows=8", "dir", "--writer", "a", "10"]).unwrap();
        assert_eq!((args.positional(0), args.number::<u64>(1, "BATCHES")), ("dir", Ok(10)));
        assert_eq!(args.option("rows", 32_usize), Ok(8));
        assert_eq!(args.option("writer", String::from("w")).as_deref(), Ok("a"));
    }

    #[test]
    fn a_double_dash_ends_the_options() {
        assert_eq!(parse(&["--", "--rows", "3"]).unwrap().positional(0), "--rows");
    }

    #[test]
    fn wrong_arguments_are_named() {
        for (words, part) in [
            (&["dir"][..], "expected 2 arguments, found 1"),
            (&["dir", "1", "2"], "found 3"),
            (&["dir", "1", "--row", "2"], "unknown option --row"),
            (&["dir", "1", "--rows"], "--rows needs a value"),
            (&["dir", "1", "--rows", "2", "--rows=3"], "--rows is given twice"),
        ] {
            let error = parse(words).unwrap_err();
            assert!(error.contains(part), "{words:?}: {error}");
        }
        let args = parse(&["dir", "ten", "--rows", "-1"]).unwrap();
        assert!(args.number::<u64>(1, "BATCHES").unwrap_err().contains("BATCHES is 'ten'"));
        assert!(args.option("rows", 32_usize).unwrap_err().contains("--rows is '-1'"));
    }
}
