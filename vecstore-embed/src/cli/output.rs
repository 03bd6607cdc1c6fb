//! What commands print on stdout.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Value, json};
use vecstore::{Kind, Reader, Snapshot, escaped, one_line};
use vecstore_embed::keys::Remembered;
use vecstore_embed::runs::{Known, Runs};
use vecstore_embed::{FirstFew, Listed, RejectionClass};

use super::{EXIT_FAILED, EXIT_SAVE, hints};

/// A failure of a command: the library's, or that stdout cannot be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{}{}", .0, hints::of(.0))]
    Embed(#[from] vecstore_embed::Error),
    #[error(
        "cannot write to stdout: {0}; what was done stays done: make room where the output goes, or send it \
         elsewhere"
    )]
    Stdout(io::Error),
    #[error("{}: there is no store here; `vecstore-embed run` creates one; check the name", .0.display())]
    NoStore(PathBuf),
    #[error(
        "cannot keep what comes from standard input in {}: {}; make room there, name another folder with \
         TMPDIR, or write the list to a file and name that with --list", .0.display(), .1
    )]
    Stdin(PathBuf, io::Error),
    #[error(
        "cannot read standard input: {0}; expected a list, as --list - reads it: pipe one in, or name a file \
         with --list"
    )]
    StdinUnread(io::Error),
    #[error(
        "cannot look at the runs in {}: {}; check the permissions of that folder, and its disk",
        .0.display(), .1
    )]
    Runs(PathBuf, io::Error),
    #[error(
        "{}: expected the name of a run of this store, or its beginning, found {name:?}; the runs are: \
         {known}",
        store.display()
    )]
    NoRun { store: PathBuf, name: String, known: String },
    #[error(
        "{}: expected the name of one run, or as much of it as no other begins with, found {name:?}; so \
         begin: {known}", store.display()
    )]
    SeveralRuns { store: PathBuf, name: String, known: String },
    #[error("{}: expected runs of this store, found none; vecstore-embed run begins one", .0.display())]
    NoRuns(PathBuf),
    #[error(
        "start cannot read a list from standard input: expected a file after --list, found '-'; write the \
         list to a file"
    )]
    StartWithStdin,
    #[error("--metrics {0}: {1}; expected a file that can be written, or an address such as 127.0.0.1:9100")]
    Metrics(String, io::Error),
    #[error("cannot start a run in the background: {0}; vecstore-embed run does the same in the foreground")]
    Start(io::Error),
    #[error("cannot prepare for Ctrl-C and SIGTERM: {0}; a limit of this process is too low: see ulimit -a")]
    Signals(io::Error),
}

impl Failure {
    /// What the command exits with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Failure::Embed(vecstore_embed::Error::SaveFailed { .. }) => EXIT_SAVE,
            _ => EXIT_FAILED,
        }
    }
}

impl From<vecstore::Error> for Failure {
    fn from(error: vecstore::Error) -> Self {
        Failure::Embed(error.into())
    }
}

/// An exit code, or what went wrong.
pub(crate) type Outcome = Result<u8, Failure>;

/// Opens a store to look into it. Of one that is not there, the error says how this program makes one.
pub(crate) fn open_to_read(path: &Path) -> Result<Reader, Failure> {
    Reader::open(path).map_err(|error| match error {
        vecstore::Error::NotFound { .. } => Failure::NoStore(path.to_owned()),
        error => error.into(),
    })
}

/// A rejected input: its key, its class, and the reason behind that class.
pub(crate) type Rejected = (Vec<u8>, Option<RejectionClass>, String);

/// The rejected inputs of a store.
pub(crate) fn rejected(snapshot: &Snapshot) -> Result<Vec<Rejected>, Failure> {
    let mut list = Vec::new();
    for entry in snapshot {
        let entry = entry?;
        if entry.kind() == Kind::Rejected {
            let class = Remembered::decode(entry.payload()).class;
            let reason = class.map_or_else(String::new, |class| format!("[{class}] "));
            list.push((entry.key().to_vec(), class, reason + entry.reason().unwrap_or_default()));
        }
    }
    Ok(list)
}

/// The runs of a store; an error where neither is there, which is a name that was mistyped.
pub(crate) fn runs_of(store: &Path) -> Result<Runs, Failure> {
    let runs = Runs::of_store(store);
    match store.exists() || runs.folder().exists() {
        true => Ok(runs),
        false => Err(Failure::NoStore(store.to_owned())),
    }
}

/// The run of that name, or with that beginning if it is the only one; the last one where none is asked for.
pub(crate) fn find_run(runs: &Runs, store: &Path, name: Option<&str>) -> Result<Known, Failure> {
    let mut known = runs.list().map_err(|error| Failure::Runs(runs.folder().to_owned(), error))?;
    let all = ids(&known);
    if let Some(name) = name {
        let exact = known.iter().any(|run| run.state.id == name);
        known.retain(|run| if exact { run.state.id == name } else { run.state.id.starts_with(name) });
    }
    let (store, name) = (store.to_owned(), name.unwrap_or_default().to_owned());
    match &known[..] {
        [.., last] if name.is_empty() || known.len() == 1 => Ok(last.clone()),
        [_, ..] => Err(Failure::SeveralRuns { store, name, known: ids(&known) }),
        [] if all.is_empty() => Err(Failure::NoRuns(store)),
        [] => Err(Failure::NoRun { store, name, known: all }),
    }
}

fn ids(known: &[Known]) -> String {
    known.iter().map(|run| &run.state.id[..]).collect::<Vec<_>>().join(", ")
}

/// Writes to stdout. A reader that went away (`| head`) is no failure.
pub(crate) fn print(text: impl AsRef<[u8]>) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_ref()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Stdout(error)),
        _ => Ok(()),
    }
}

/// Writes one line of JSON to stdout.
pub(crate) fn print_json(value: &Value) -> Result<(), Failure> {
    print(format!("{value}\n"))
}

/// A moment to be read: in the time of this machine, or in UTC where that is not known.
pub(crate) fn local(moment: &str) -> String {
    in_zone(moment, TimeZone::try_system().unwrap_or(TimeZone::UTC))
}

fn in_zone(moment: &str, zone: TimeZone) -> String {
    let Ok(known) = moment.parse::<Timestamp>() else { return moment.to_owned() };
    known.to_zoned_datetime(zone).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
}

/// A name for machines, and what else is known of it: `{NAME: text}`, with `{NAME_bytes: hexadecimal}` beside
/// it where the text is not the whole truth, because the bytes are not UTF-8.
pub(crate) fn named(name: &str, bytes: &[u8], more: Value) -> Value {
    let mut object = more;
    object[name] = json!(String::from_utf8_lossy(bytes));
    if std::str::from_utf8(bytes).is_err() {
        let hexadecimal: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        object[format!("{name}_bytes")] = json!(hexadecimal);
    }
    object
}

/// A file and its reason, in one line.
pub(crate) fn told(file: &Listed) -> String {
    format!("{}: {}", escaped(file.path.as_os_str().as_bytes()), one_line(&file.reason))
}

/// Files and their reasons, for machines.
pub(crate) fn listed(name: &str, files: &FirstFew) -> Vec<Value> {
    let one = |file: &Listed| named(name, file.path.as_os_str().as_bytes(), json!({"reason": file.reason}));
    files.first().iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_names_its_zone() {
        let moment = "2026-07-21T22:00:00.250Z";
        let zone = |rule| TimeZone::posix(rule).unwrap();
        assert_eq!(in_zone(moment, zone("CET-1CEST,M3.5.0,M10.5.0/3")), "2026-07-22 00:00:00 CEST");
        assert_eq!(in_zone(moment, TimeZone::UTC), "2026-07-21 22:00:00 UTC");
        assert_eq!(in_zone("some day", TimeZone::UTC), "some day");
    }

    #[test]
    fn keys_that_are_no_text_are_kept() {
        assert_eq!(named("key", "ä".as_bytes(), json!({"row": 1})), json!({"row": 1, "key": "ä"}));
        assert_eq!(named("key", b"\xff1", json!({})), json!({"key": "\u{fffd}1", "key_bytes": "ff31"}));
    }
}
