//! Options that are not typed: from environment variables, which clap reads, and from a file.
//!
//! What the file says is added as words. As defaults of the arguments its values would count as
//! absent where an option requires or excludes another: `--size` needs a model, and the file may name it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{env, fs, iter};

use clap::builder::{BoolishValueParser, StyledStr};
use clap::error::{ContextKind, ContextValue, Error, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};
use toml::{Table, Value};
use vecstore::one_line;

use super::Cli;

/// What the variables begin with; `--batch-size` is `VECSTORE_EMBED_BATCH_SIZE`.
const PREFIX: &str = "VECSTORE_EMBED_";

/// Said at the end of the help.
pub(super) const HELP: &str = "\
Options from elsewhere:
  Every option can also be given by the environment variable that is named behind it, as in
  VECSTORE_EMBED_BATCH_SIZE=64 or VECSTORE_EMBED_RECURSIVE=true, and in a TOML file named by --config, as in
    store = \"photos.vecs\"
    [run]
    folder = \"photos\"
    recursive = true
    exclude = [\"@eaDir\", \"*.tmp.*\"]
  What stands above the first section is for all commands. What is typed wins over a variable, a variable
  over the file; --recursive=false switches off what these switch on. Relative paths start where the command
  does.
";

/// An option that is set elsewhere, as errors show it, and the place.
type Origins = Vec<(String, String)>;

/// Parses the words, with the options added that come from elsewhere.
pub(super) fn parse(words: Vec<OsString>) -> Result<Cli, Error> {
    let mut command = command();
    let (words, origins) = with_file(&mut command, words)?;
    let parsed = command.try_get_matches_from_mut(&words);
    parsed.and_then(|found| Cli::from_arg_matches(&found)).map_err(|error| with_origins(error, &origins))
}

/// The command, with a variable for each option, and flags that take `=false`.
pub(super) fn command() -> Command {
    Cli::command().mut_args(settable).mut_subcommands(|sub| sub.mut_args(settable))
}

fn settable(option: Arg) -> Arg {
    let variables: Vec<String> = spellings(&option)
        .map(|name| format!("{PREFIX}{}", name.replace('-', "_").to_uppercase()))
        .filter(|_| !option.is_hide_set())
        .collect();
    let option = match option.get_action() {
        ArgAction::SetTrue => option
            .action(ArgAction::Set)
            .value_parser(BoolishValueParser::new())
            .value_name("true|false")
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value("false")
            .hide_default_value(true)
            .hide_possible_values(true),
        _ => option,
    };
    let value = |name: &&String| env::var_os(name);
    let is_set = |name: &&String| value(name).is_some_and(|value| !value.is_empty());
    // One that is empty says nothing.
    match variables.iter().find(is_set).or(variables.first().filter(|name| value(name).is_none())) {
        Some(name) => option.env(name).hide_env_values(true),
        None => option,
    }
}

/// What an option is called, first by its own name.
fn spellings(option: &Arg) -> impl Iterator<Item = &str> {
    option.get_long().into_iter().chain(option.get_all_aliases().unwrap_or_default())
}

/// Adds what the file says and neither words nor variables do.
fn with_file(command: &mut Command, mut words: Vec<OsString>) -> Result<(Vec<OsString>, Origins), Error> {
    let (mut added, mut origins) = (Vec::new(), Vec::new());
    // A mistake in what is typed is told once the words are complete.
    let typed = command.clone().ignore_errors(true).try_get_matches_from(&words);
    command.build();
    let Some((name, typed)) = typed.as_ref().ok().and_then(ArgMatches::subcommand) else {
        return Ok((words, origins));
    };
    let file = typed.get_one::<PathBuf>("config");
    let table = file.map(|file| read(command, file)).transpose()?.unwrap_or_default();
    for option in command.find_subcommand(name).into_iter().flat_map(options) {
        if typed.value_source(option.get_id().as_str()) == Some(ValueSource::CommandLine) {
            continue;
        }
        let variable = option.get_env().filter(|variable| env::var_os(variable).is_some());
        let place = match (variable, in_table(&table, name, option).zip(file)) {
            (Some(variable), _) => format!("the variable {}", variable.display()),
            (None, Some(((key, value), file))) => {
                let expected = "expected text, a number, true, false, or a list of these, found";
                add(&mut added, option, value)
                    .ok_or_else(|| wrong(file, &format!("{key}: {expected} {}", value.type_str())))?;
                format!("{key} in {}", file.display())
            }
            (None, None) => continue,
        };
        origins.push((option.to_string(), place));
    }
    let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
    words.splice(end..end, added);
    Ok((words, origins))
}

/// Says of the options in an error where they come from, unless they are typed. A missing option does not
/// tell which one asks for it, so that all are named.
fn with_origins(mut error: Error, origins: &Origins) -> Error {
    let (text, all) = (error.to_string(), error.kind() == ErrorKind::MissingRequiredArgument);
    let named = text.split("Usage: ").next().unwrap_or_default();
    let meant = origins.iter().filter(|(option, _)| all || named.contains(option));
    let tip = |(option, place): &(String, String)| one_line(&format!("'{option}' comes from {place}")).into();
    let tips: Vec<StyledStr> = meant.map(tip).collect();
    if error.use_stderr() && !tips.is_empty() {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
    }
    error
}

/// The options of a subcommand that the file may give.
fn options(sub: &Command) -> impl Iterator<Item = &Arg> {
    let is_meant = |option: &&Arg| !matches!(option.get_long(), None | Some("help" | "version" | "config"));
    sub.get_arguments().filter(|option| !option.is_hide_set()).filter(is_meant)
}

/// Adds the words for a value; `None` where it is of a kind that no option takes.
fn add(words: &mut Vec<OsString>, option: &Arg, value: &Value) -> Option<()> {
    let long = option.get_long()?;
    let text = match value {
        Value::Array(values) if values.iter().all(|value| !value.is_array()) => {
            return values.iter().try_for_each(|value| add(words, option, value));
        }
        Value::Integer(times) if matches!(option.get_action(), ArgAction::Count) => {
            let times = u8::try_from(*times).ok()?;
            words.extend(iter::repeat_n(format!("--{long}").into(), times.into()));
            return Some(());
        }
        Value::String(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(truth) => truth.to_string(),
        _ => return None,
    };
    words.push(format!("--{long}={text}").into());
    Some(())
}

/// Reads the file. A name in it that no option has is an error: it would be without effect.
fn read(command: &Command, file: &Path) -> Result<Table, Error> {
    let wrong = |what: String| wrong(file, &what);
    let named = "the TOML file that --config or VECSTORE_EMBED_CONFIG names";
    let text = fs::read_to_string(file)
        .map_err(|error| wrong(format!("cannot be read: {error}; expected {named}")))?;
    // What toml says ends with a line of its own.
    let table: Table = toml::from_str(&text)
        .map_err(|error| wrong(format!("expected TOML, found this: {}", error.to_string().trim_end())))?;
    for (name, value) in &table {
        let (subs, keys): (Vec<_>, Vec<_>) = match value.as_table() {
            Some(section) => (command.find_subcommand(name).into_iter().collect(), section.keys().collect()),
            None => (command.get_subcommands().collect(), vec![name]),
        };
        let unknown =
            |key: &&String| !subs.iter().flat_map(|sub| options(sub)).any(|option| is_called(option, key));
        let (expected, found) = match subs[..] {
            [] => ("the name of a command".to_owned(), Some(name)),
            [sub] => (format!("an option of {}", sub.get_name()), keys.into_iter().find(unknown)),
            _ => ("an option of a command".to_owned(), keys.into_iter().find(unknown)),
        };
        if let Some(found) = found {
            return Err(wrong(format!("{found}: expected {expected}, found none of that name")));
        }
    }
    Ok(table)
}

fn is_called(option: &Arg, key: &str) -> bool {
    spellings(option).any(|name| name == key.replace('_', "-"))
}

/// The value of an option: in the section of its command (`start` has that of `run`, too), or above all.
fn in_table<'a>(table: &'a Table, sub: &str, option: &Arg) -> Option<(&'a String, &'a Value)> {
    let section = |name: &str| table.get(name).and_then(Value::as_table);
    let run = section("run").filter(|_| sub == "start");
    let mut places = [section(sub), run, Some(table)].into_iter().flatten();
    places.find_map(|place| place.iter().find(|(key, value)| !value.is_table() && is_called(option, key)))
}

fn wrong(file: &Path, what: &str) -> Error {
    let remedy = "vecstore-embed run --help lists options, and shows a file";
    let text = one_line(&format!("{}: {what}; {remedy}", file.display()));
    Error::raw(ErrorKind::ValueValidation, format!("{text}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        fs::write(&file, text).unwrap();
        let file = file.display().to_string();
        (dir, file)
    }

    fn with(typed: &str) -> Result<String, String> {
        let typed = typed.split(' ').map(OsString::from).collect();
        let (words, _) = with_file(&mut command(), typed).map_err(|error| error.to_string())?;
        Ok(words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" "))
    }

    fn parsed(typed: &str) -> Result<Cli, String> {
        parse(typed.split(' ').map(OsString::from).collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_typed_wins_over_the_file() {
        let (_dir, config) = file(
            "batch_size = 7\nquiet = false\nverbose = 2\n\
             [run]\nfolder = \"a b\"\nrecursive = true\nexclude = [\"x\", 1]\n",
        );
        let all = |words: &str| format!("program run --config {config}{words}");
        let from_run = " --folder=a b --recursive=true --exclude=x --exclude=1 --batch-size=7 --quiet=false";
        assert_eq!(with(&all("")).unwrap(), all(&format!("{from_run} --verbose --verbose")));
        let typed = format!("program -v run --config={config} --batch-size=1 -qr --folder=c --exclude y");
        assert_eq!(with(&typed).unwrap(), typed);
        let start = format!("program --config {config} start --batch-size 2 -v");
        let from_run = " --folder=a b --recursive=true --exclude=x --exclude=1 --quiet=false";
        assert_eq!(with(&format!("{start} -- end")).unwrap(), format!("{start}{from_run} -- end"));
        for typed in ["program", "program --help", "program help run", "program run -- --config x"] {
            assert_eq!(with(typed).unwrap(), typed);
        }
    }

    #[test]
    fn every_option_can_come_from_a_variable_and_from_a_file() {
        let (mut command, mut tried) = (command(), 0);
        command.build();
        for sub in command.get_subcommands() {
            for option in options(sub) {
                let variable = option.get_env().unwrap().to_str().unwrap();
                let long = option.get_long().unwrap();
                assert_eq!(variable, format!("VECSTORE_EMBED_{}", long.replace('-', "_").to_uppercase()));
                let (value, expected) = match option.get_action() {
                    ArgAction::Count => ("2", format!("--{long} --{long}")),
                    _ => ("true", format!("--{long}=true")),
                };
                for name in spellings(option) {
                    let (_dir, config) = file(&format!("[{}]\n{name} = {value}\n", sub.get_name()));
                    let words = with(&format!("program {} --config {config}", sub.get_name())).unwrap();
                    assert_eq!(words, format!("program {} --config {config} {expected}", sub.get_name()));
                    tried += 1;
                }
            }
        }
        assert!(tried > 100, "{tried} options");
    }

    #[test]
    fn mistakes_in_the_file_are_named() {
        for (text, message) in [
            (
                "folders = 1",
                "c.toml: folders: expected an option of a command, found none of that name; vecstore",
            ),
            ("[run]\nfolders = 1", "folders: expected an option of run"),
            ("[run]\nconfig = 1", "config: expected an option of run"),
            ("[run]\ndetached = true", "detached: expected an option of run"),
            ("[walk]\nfolder = 1", "walk: expected the name of a command"),
            ("[run]\nfolder = 1979-05-27", "or a list of these, found datetime"),
            ("[run]\nfolder = [[1]]", "or a list of these, found array"),
            ("verbose = 256", "verbose: expected text, a number"),
            ("folder", "expected TOML, found this: TOML parse error"),
        ] {
            let (_dir, config) = file(text);
            let error = with(&format!("program run --config {config}")).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
        let gone = with("program run --config nowhere.toml").unwrap_err();
        assert!(gone.contains("nowhere.toml: cannot be read: No such file"), "{gone}");
        assert!(
            gone.contains("expected the TOML file that --config or VECSTORE_EMBED_CONFIG names; "),
            "{gone}"
        );
    }

    #[test]
    fn an_error_says_which_options_come_from_the_file() {
        let (_dir, config) = file("store = \"s\"\n[run]\nlist = \"l\"\nrecursive = 2\nsize = 224\n");
        let of = |typed: &str| parsed(&format!("program run --config {config} {typed}")).unwrap_err();
        let value = of("-v");
        assert!(value.contains("'2' for '--recursive[=<true|false>]'"), "{value}");
        assert!(
            value.contains(&format!("tip: '--recursive[=<true|false>]' comes from recursive in {config}\n")),
            "{value}"
        );
        assert_eq!(value.matches("tip:").count(), 1, "{value}");
        let conflict = of("--recursive=false --tar t.tar --model m");
        assert!(conflict.contains("tip: '--list <FILE|->' comes from list in "), "{conflict}");
        let missing = of("-r");
        assert!(
            missing.contains("--model <") && missing.contains("'--size <PIXELS>' comes from size in "),
            "{missing}"
        );
        let typo = of("-r --foldr x");
        assert!(!typo.contains("comes from"), "{typo}");
        // One in the file is there for those that require it, and gives way where the typed one stands.
        assert!(parsed(&format!("program run --config {config} -r --model m --size 8x8")).is_ok());
    }

    #[test]
    fn flags_that_the_file_sets_are_switched_off_by_hand() {
        let (_dir, config) = file("[run]\nfolder = \"f\"\nstore = \"s\"\nrecursive = true\nyes = false\n");
        for (typed, recursive, quiet) in [
            ("", true, false),
            (" -q", true, true),
            (" --recursive=false -q", false, true),
            (" -qr", true, true),
            (" -r=no", false, false),
        ] {
            let cli = parsed(&format!("program run --config {config}{typed}")).unwrap();
            let super::super::Command::Run(args) = cli.command else { panic!("{typed}") };
            assert_eq!((args.recursive, args.quiet), (recursive, quiet), "{typed}");
        }
    }
}
