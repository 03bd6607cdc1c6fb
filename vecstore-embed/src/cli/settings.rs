//! Options that are not on the command line: from environment variables, and from a file.
//!
//! They are put behind the subcommand as if they had been typed, so that each is checked, and complained about, in one
//! way. What is typed wins over a variable, a variable over the file.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};
use toml::{Table, Value};

use super::output::Failure;

/// What the variables begin with; `--batch-size` is `VECSTORE_EMBED_BATCH_SIZE`.
const PREFIX: &str = "VECSTORE_EMBED_";

/// Said at the end of the help.
pub(super) const HELP: &str = "\
Options from elsewhere:
  Every option can also be given by an environment variable, VECSTORE_EMBED_ and its name in capitals, as in
  VECSTORE_EMBED_BATCH_SIZE=64 or VECSTORE_EMBED_RECURSIVE=true, and in a TOML file named by --config, as in
    store = \"photos.vecs\"
    [run]
    folder = \"photos\"
    recursive = true
    exclude = [\"@eaDir\", \"*.tmp.*\"]
  What is typed wins over a variable, a variable over the file. Relative paths start where the command does.
";

/// The arguments, with those added that come from elsewhere.
pub(super) fn arguments(
    command: &Command,
    typed: Vec<OsString>,
    variable: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Vec<OsString>, Failure> {
    let names = |word: &OsString| command.get_subcommands().find(|sub| word == sub.get_name());
    let found = typed.iter().enumerate().skip(1).find_map(|(at, word)| Some((at, names(word)?)));
    let Some((at, sub)) = found else { return Ok(typed) };
    let (before, rest) = typed.split_at(at + 1);
    let variable = |option: &str| {
        let name = format!("{PREFIX}{}", option.replace('-', "_").to_uppercase());
        variable(&name).filter(|value| !value.is_empty())
    };
    let file = given(rest, "--config").or_else(|| variable("config")).map(PathBuf::from);
    let table = file.as_deref().map(|file| read(command, file)).transpose()?.unwrap_or_default();
    let mut all = before.to_vec();
    let everywhere = command.get_arguments().filter(|option| option.is_global_set());
    for option in sub.get_arguments().chain(everywhere) {
        let Some(long) = option.get_long().filter(|long| !matches!(*long, "help" | "version" | "config"))
        else {
            continue;
        };
        if is_typed(option, &typed[1..]) {
            continue;
        }
        if let Some(value) = spellings(option).find_map(variable) {
            add(&mut all, option, long, &value)?;
        } else if let Some((value, file)) = in_table(&table, sub.get_name(), option).zip(file.as_deref()) {
            for value in texts(value).ok_or_else(|| {
                bad(
                    file,
                    long,
                    "text, a number, true, false, or a list of these",
                    &format!("a value of another kind ({})", value.type_str()),
                )
            })? {
                add(&mut all, option, long, value.as_ref())?;
            }
        }
    }
    all.extend(rest.iter().cloned());
    Ok(all)
}

/// The value of an option among words.
fn given(words: &[OsString], option: &str) -> Option<OsString> {
    let words = words.iter().take_while(|word| *word != "--");
    let mut words = words.peekable();
    while let Some(word) = words.next() {
        if word == option {
            return words.peek().map(|value| (*value).clone());
        }
        if let Some(value) =
            word.as_bytes().strip_prefix(option.as_bytes()).and_then(|rest| rest.strip_prefix(b"="))
        {
            return Some(OsStr::from_bytes(value).to_owned());
        }
    }
    None
}

/// What an option is called, first by its own name.
fn spellings(option: &Arg) -> impl Iterator<Item = &str> {
    option.get_long().into_iter().chain(option.get_all_aliases().unwrap_or_default())
}

fn is_typed(option: &Arg, words: &[OsString]) -> bool {
    let longs: Vec<String> = spellings(option).map(|long| format!("--{long}")).collect();
    words.iter().take_while(|word| *word != "--").any(|word| {
        let word = word.to_string_lossy();
        let name = word.split('=').next().unwrap_or_default();
        let short = word.strip_prefix('-').filter(|rest| !rest.starts_with('-'));
        longs.iter().any(|long| long == name)
            || option.get_short().is_some_and(|letter| short.is_some_and(|rest| rest.contains(letter)))
    })
}

fn add(all: &mut Vec<OsString>, option: &Arg, long: &str, value: &OsStr) -> Result<(), Failure> {
    let mut word = OsString::from(format!("--{long}"));
    if matches!(option.get_action(), ArgAction::SetTrue) {
        match value.to_str().map(str::to_ascii_lowercase).as_deref() {
            Some("1" | "true" | "yes" | "on") => {}
            Some("0" | "false" | "no" | "off") => return Ok(()),
            _ => {
                return Err(Failure::Setting(format!(
                    "option {long}, from its variable or the file: expected true or false, found {value:?}"
                )));
            }
        }
    } else if matches!(option.get_action(), ArgAction::Count) {
        let times = value.to_str().and_then(|times| times.parse::<u8>().ok()).ok_or_else(|| {
            Failure::Setting(format!(
                "option {long}, from its variable or the file: expected how often, as a number, found {value:?}"
            ))
        })?;
        all.extend((0..times).map(|_| word.clone()));
        return Ok(());
    } else {
        word.push("=");
        word.push(value);
    }
    all.push(word);
    Ok(())
}

/// Reads the file. A name in it that no option has is an error: it would be without effect.
fn read(command: &Command, file: &Path) -> Result<Table, Failure> {
    let unusable = |found: String| Failure::Setting(format!("{}: {found}", file.display()));
    let text = fs::read_to_string(file).map_err(|error| {
        unusable(format!(
            "cannot be read: {error}; --config takes a TOML file with options: --help shows one"
        ))
    })?;
    let table: Table = text.parse().map_err(|error: toml::de::Error| {
        // The text shows the line and points into it, and ends with a line of its own.
        unusable(format!(
            "expected TOML, found this: {}; --help shows an example",
            error.to_string().trim_end()
        ))
    })?;
    let knows = |sub: &Command, name: &str| {
        let everywhere = command.get_arguments().filter(|option| option.is_global_set());
        sub.get_arguments()
            .chain(everywhere)
            .any(|option| spellings(option).any(|known| known == spelled(name)))
    };
    for (name, value) in &table {
        match value {
            Value::Table(options) => {
                let sub = command
                    .find_subcommand(name)
                    .ok_or_else(|| bad(file, name, "the name of a command", "none of that name"))?;
                if let Some(name) = options.keys().find(|option| !knows(sub, option)) {
                    return Err(bad(
                        file,
                        name,
                        &format!("an option of {}", sub.get_name()),
                        "none of that name",
                    ));
                }
            }
            _ if command.get_subcommands().any(|sub| knows(sub, name)) => {}
            _ => return Err(bad(file, name, "an option of a command", "none of that name")),
        }
    }
    Ok(table)
}

/// The value of an option: in the table of its command, or for all commands. What `run` takes, `start` takes.
fn in_table<'a>(table: &'a Table, sub: &str, option: &Arg) -> Option<&'a Value> {
    let is_meant = |name: &str| spellings(option).any(|known| known == spelled(name));
    let of = |table: &'a Table| table.iter().find(|(name, _)| is_meant(name)).map(|(_, value)| value);
    let section = |name: &str| of(table.get(name)?.as_table()?);
    let run = if sub == "start" { section("run") } else { None };
    section(sub).or(run).or_else(|| of(table)).filter(|value| !value.is_table())
}

fn spelled(name: &str) -> String {
    name.replace('_', "-")
}

fn texts(value: &Value) -> Option<Vec<String>> {
    Some(match value {
        Value::String(text) => vec![text.clone()],
        Value::Integer(number) => vec![number.to_string()],
        Value::Float(number) => vec![number.to_string()],
        Value::Boolean(truth) => vec![truth.to_string()],
        Value::Array(values) => values
            .iter()
            .map(|value| texts(value).filter(|_| !value.is_array()))
            .collect::<Option<Vec<_>>>()?
            .concat(),
        Value::Datetime(_) | Value::Table(_) => return None,
    })
}

fn bad(file: &Path, name: &str, expected: &str, found: &str) -> Failure {
    Failure::Setting(format!(
        "{}: {name}: expected {expected}, found {found}; --help lists them",
        file.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        let run = Command::new("run")
            .arg(Arg::new("folder").long("folder"))
            .arg(Arg::new("batch").long("batch-size").alias("batch"))
            .arg(Arg::new("recursive").long("recursive").short('r').action(ArgAction::SetTrue))
            .arg(Arg::new("quiet").long("quiet").short('q').action(ArgAction::SetTrue))
            .arg(Arg::new("exclude").long("exclude").action(ArgAction::Append));
        let start = run.clone().name("start");
        Command::new("program").subcommand(run).subcommand(start).subcommand(Command::new("status"))
    }

    fn with(typed: &str, variables: &[(&str, &str)]) -> Result<String, String> {
        let typed = typed.split(' ').map(OsString::from).collect();
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        };
        let words = arguments(&command(), typed, &variable).map_err(|error| error.to_string())?;
        Ok(words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn what_is_typed_wins_over_a_variable_and_that_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        let text = "batch_size = 7\nquiet = false\n[run]\nfolder = \"a b\"\nrecursive = true\nexclude = [\"x\", 1]\n";
        fs::write(&file, text).unwrap();
        let config = file.display().to_string();
        let all = |words: &str| format!("program run{words} --config {config}");
        assert_eq!(
            with(&all(""), &[]).unwrap(),
            all(" --folder=a b --batch-size=7 --recursive --exclude=x --exclude=1")
        );
        let variables = [("VECSTORE_EMBED_BATCH_SIZE", "9"), ("VECSTORE_EMBED_RECURSIVE", "0")];
        let expected = all(" --folder=a b --batch-size=9 --exclude=x --exclude=1");
        assert_eq!(with(&all(""), &variables).unwrap(), expected);
        let typed = format!("program -v run --config={config} --batch=1 -qr --folder=c --exclude y");
        assert_eq!(with(&typed, &variables).unwrap(), typed);
        let start = format!("program start --config {config} --batch-size 2");
        let from_run = "program start --folder=a b --recursive --exclude=x --exclude=1";
        assert!(with(&start, &[]).unwrap().starts_with(from_run));
        assert_eq!(with("program status", &variables).unwrap(), "program status");
        assert_eq!(with("program run", &[("VECSTORE_EMBED_CONFIG", "")]).unwrap(), "program run");
        assert_eq!(with("program --help", &variables).unwrap(), "program --help");
    }

    #[test]
    fn every_option_of_every_command_can_come_from_a_variable_and_from_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        let command = <super::super::Cli as clap::CommandFactory>::command();
        let everywhere = || command.get_arguments().filter(|option| option.is_global_set());
        let mut tried = 0;
        for sub in command.get_subcommands() {
            for option in sub.get_arguments().chain(everywhere()) {
                let Some(long) =
                    option.get_long().filter(|long| !matches!(*long, "help" | "version" | "config"))
                else {
                    continue;
                };
                let (value, expected) = match option.get_action() {
                    ArgAction::SetTrue => ("true", vec![format!("--{long}")]),
                    ArgAction::Count => ("2", vec![format!("--{long}"); 2]),
                    _ => ("7", vec![format!("--{long}=7")]),
                };
                let expected: Vec<OsString> = expected.into_iter().map(OsString::from).collect();
                for name in [long].into_iter().chain(option.get_all_aliases().unwrap_or_default()) {
                    let typed = ["vecstore-embed", sub.get_name()].map(OsString::from).to_vec();
                    let asked = format!("VECSTORE_EMBED_{}", name.replace('-', "_").to_uppercase());
                    let variable = |known: &str| (known == asked).then(|| OsString::from(value));
                    let from_variable = arguments(&command, typed.clone(), &variable).unwrap();
                    assert!(from_variable[2..] == expected, "{asked}: {from_variable:?}");
                    fs::write(&file, format!("[{}]\n{name} = {value}\n", sub.get_name())).unwrap();
                    let variable =
                        |known: &str| (known == "VECSTORE_EMBED_CONFIG").then(|| file.clone().into());
                    let from_file = arguments(&command, typed, &variable).unwrap();
                    assert!(from_file[2..] == expected, "{name}: {from_file:?}");
                    tried += 1;
                }
            }
        }
        assert!(tried > 100, "{tried} options");
    }

    #[test]
    fn mistakes_in_the_file_and_in_variables_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        for (text, message) in [
            (
                "folders = 1",
                "folders: expected an option of a command, found none of that name; --help lists them",
            ),
            ("[run]\nfolders = 1", "folders: expected an option of run"),
            ("[walk]\nfolder = 1", "walk: expected the name of a command"),
            (
                "[run]\nfolder = 1979-05-27",
                "or a list of these, found a value of another kind (datetime); --help",
            ),
            (
                "[run]\nrecursive = 2",
                "option recursive, from its variable or the file: expected true or false",
            ),
            ("folder", "expected TOML, found this: TOML parse error"),
        ] {
            fs::write(&file, text).unwrap();
            let error = with(&format!("program run --config {}", file.display()), &[]).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
        let gone = with("program run --config nowhere.toml", &[]).unwrap_err();
        assert!(gone.contains("nowhere.toml: cannot be read: No such file"), "{gone}");
        assert!(gone.contains("--config takes a TOML file"), "{gone}");
        let odd = with("program run", &[("VECSTORE_EMBED_QUIET", "maybe")]).unwrap_err();
        assert!(odd.contains("option quiet"), "{odd}");
    }
}
