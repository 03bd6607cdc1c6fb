//! Runs whose list of pictures is a pipe: they go as far as they are fed, and end when a test lets them.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::command::Said;

/// Longest wait for what takes a moment. Nothing depends on it but that a hang becomes a failure.
pub const WATCHDOG: Duration = Duration::from_secs(300);

/// What `work` gives, unless it hangs.
pub fn within<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    thread::spawn(move || done.send(work()));
    result.recv_timeout(WATCHDOG).unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// Lines of a pipe, read as they come.
pub struct Lines {
    lines: Receiver<String>,
    text: String,
}

impl Lines {
    pub fn of(pipe: impl Read + Send + 'static) -> Self {
        let (each, lines) = mpsc::channel();
        thread::spawn(move || {
            // Read to the end also where no test listens any more: the program must not wait for that.
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let _ = each.send(line);
            }
        });
        Lines { lines, text: String::new() }
    }

    /// Waits for a line with these words.
    pub fn until(&mut self, words: &str) {
        loop {
            let line = self.lines.recv_timeout(WATCHDOG);
            let line = line.unwrap_or_else(|error| panic!("{words:?}: {error} after:\n{}", self.text));
            self.text += &line;
            self.text.push('\n');
            if line.contains(words) {
                return;
            }
        }
    }

    /// Everything, once the pipe is at its end.
    pub fn all(mut self) -> String {
        for line in &self.lines {
            self.text += &line;
            self.text.push('\n');
        }
        self.text
    }
}

/// The list, which a run reads twice: to count, and to work.
pub struct List {
    pub path: PathBuf,
    end: Option<File>,
}

impl List {
    pub fn new(path: PathBuf) -> Self {
        make_pipe(&path);
        List { path, end: None }
    }

    /// Waits until the run reads its list, and has not been given any of it.
    pub fn opened(&mut self) -> &mut File {
        let path = self.path.clone();
        self.end.get_or_insert_with(|| {
            within("the list is read", move || OpenOptions::new().write(true).open(path).unwrap())
        })
    }

    /// What the run is to count: a whole list.
    pub fn counted<L: AsRef<str>>(&mut self, lines: &[L]) {
        write(self.opened(), lines);
        // The run finds another pipe when it reads for the second time, so the two do not meet.
        fs::remove_file(&self.path).unwrap();
        make_pipe(&self.path);
        self.end = None;
    }

    /// What the run is to work on, for the time being. Keys are looked up a thousand at a time: so many lines
    /// follow, all of a picture that is stored.
    pub fn feed<L: AsRef<str>>(&mut self, lines: &[L], stored: &str) {
        write(self.opened(), lines);
        write(self.opened(), &[stored; 1100]);
    }

    /// Gives lines of a picture that is stored until the run does not read any more, because it is to stop.
    pub fn until_closed(&mut self, stored: &str) {
        let mut end = self.opened().try_clone().unwrap();
        let lines = format!("{stored}\n").repeat(100);
        within("the list is closed", move || {
            let error = loop {
                if let Err(error) = end.write_all(lines.as_bytes()) {
                    break error;
                }
            };
            assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        });
    }

    /// The list is at its end.
    pub fn close(&mut self) {
        self.opened();
        self.end = None;
    }
}

fn write<L: AsRef<str>>(end: &mut File, lines: &[L]) {
    let lines: String = lines.iter().map(|line| format!("{}\n", line.as_ref())).collect();
    end.write_all(lines.as_bytes()).unwrap();
}

fn make_pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// A run that is fed.
pub struct Fed {
    child: Child,
    pub list: List,
    out: Lines,
    pub err: Lines,
}

impl Fed {
    /// Starts it, and lets it count all that its list will hold. The pipe is at `list`. With one worker, an
    /// input is rejected, and `err` says so, after all that were before it in the list are read.
    pub fn start<L: AsRef<str>>(mut command: Command, list: PathBuf, all: &[L]) -> Self {
        let mut list = List::new(list);
        command.args(["-v", "--workers=1", "--list"]).arg(&list.path);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (out, err) = (Lines::of(child.stdout.take().unwrap()), Lines::of(child.stderr.take().unwrap()));
        list.counted(all);
        Fed { child, list, out, err }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end, which has to come by itself. `code` is -1 where a signal was it.
    pub fn ended(self) -> Said {
        let Fed { mut child, list, out, err } = self;
        let status = within("the run ends", move || child.wait().unwrap());
        drop(list);
        Said { code: status.code().unwrap_or(-1), out: out.all(), err: err.all() }
    }
}
