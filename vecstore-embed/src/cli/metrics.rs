//! `--metrics`: how far a run is, for those who draw curves.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use vecstore_embed::runs::{Recorder, RunState};

use super::output::Failure;

/// How often the file is written.
const EVERY: Duration = Duration::from_secs(5);

/// How long somebody who asks may take to say so.
const PATIENCE: Duration = Duration::from_secs(2);

/// Gives the numbers of `run` to whoever asks at an address, or writes them into a file every few seconds, by renaming,
/// as the text collector of the node exporter wants it.
pub(super) fn start(place: &str, run: Arc<Recorder>) -> Result<Metrics, Failure> {
    let failed = |error: io::Error| Failure::Metrics(place.to_owned(), error);
    let is_address = place.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if !is_address {
        let file = PathBuf::from(place);
        write(&file, &run.state()).map_err(failed)?;
        let (state, path) = (Arc::clone(&run), file.clone());
        thread::spawn(move || {
            loop {
                thread::sleep(EVERY);
                // The disk may be full for a while.
                let _ = write(&path, &state.state());
            }
        });
        return Ok(Metrics { file: Some(file), run });
    }
    let addresses: Vec<_> = address(place).to_socket_addrs().map_err(failed)?.collect();
    serve(TcpListener::bind(&addresses[..]).map_err(failed)?, Arc::clone(&run));
    Ok(Metrics { file: None, run })
}

/// With the host that is meant where none is named: this one, for those on it.
fn address(place: &str) -> String {
    if place.starts_with(':') { format!("127.0.0.1{place}") } else { place.to_owned() }
}

fn serve(listener: TcpListener, run: Arc<Recorder>) {
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Whoever asks and does not listen is no concern of the run.
            let _ = answer(stream, &run.state());
        }
    });
}

/// Metrics that are given; the file gets its last numbers when this is finished.
pub(super) struct Metrics {
    file: Option<PathBuf>,
    run: Arc<Recorder>,
}

impl Metrics {
    pub(super) fn finish(&self) {
        if let Some(file) = &self.file {
            let _ = write(file, &self.run.state());
        }
    }
}

fn write(file: &Path, state: &RunState) -> io::Result<()> {
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, text(state))?;
    fs::rename(new, file)
}

fn answer(mut stream: TcpStream, state: &RunState) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // Whatever is asked for, this is the answer; only the end of the question is waited for.
    let mut asked = Vec::new();
    let mut part = [0; 1024];
    while !asked.windows(4).any(|end| end == b"\r\n\r\n") && asked.len() < 16 << 10 {
        match stream.read(&mut part)? {
            0 => break,
            read => asked.extend_from_slice(part.get(..read).unwrap_or_default()),
        }
    }
    let text = text(state);
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    )
}

/// The numbers in the text format of Prometheus.
fn text(state: &RunState) -> String {
    let progress = &state.progress;
    let run = state.id.replace(['\\', '"', '\n'], "_");
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, values: &[(&str, f64)]| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP vecstore_embed_{name} {help}\n# TYPE vecstore_embed_{name} {kind}");
        for (label, value) in values {
            let _ = writeln!(text, "vecstore_embed_{name}{{run=\"{run}\"{label}}} {value}");
        }
    };
    let inputs = [
        (",outcome=\"embedded\"", progress.embedded as f64),
        (",outcome=\"rejected\"", progress.rejected as f64),
        (",outcome=\"unread\"", progress.unread as f64),
        (",outcome=\"overtaken\"", (progress.overtaken + progress.same) as f64),
    ];
    metric("inputs_total", "counter", "Inputs settled by this run, and how.", &inputs);
    let to_do = progress.to_do as f64;
    metric("to_do", "gauge", "Inputs this run found to do.", &[("", to_do)]);
    let left = progress.to_do.saturating_sub(progress.done()) as f64;
    metric("left", "gauge", "Of those, not settled yet by this run.", &[("", left)]);
    metric("already", "gauge", "Inputs the store accounted for before.", &[("", state.already as f64)]);
    metric("rate", "gauge", "Inputs settled per second over the last minute.", &[("", state.rate)]);
    metric("commits_total", "counter", "Commits made.", &[("", progress.commits as f64)]);
    let failures = progress.save_failures as f64;
    metric("save_failures_total", "counter", "Saves that failed and were tried again.", &[("", failures)]);
    let phase = format!(",phase=\"{}\"", state.phase);
    metric("phase", "gauge", "What the run is doing.", &[(&phase, 1.0)]);
    metric("began_seconds", "gauge", "When the run began, in seconds since 1970.", &[("", state.began)]);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use vecstore_embed::runs::Runs;
    use vecstore_embed::{Observer, StopFlag};

    #[test]
    fn the_same_numbers_are_served_and_written() {
        let dir = tempfile::tempdir().unwrap();
        let runs = Runs::of_store(&dir.path().join("photos.vecs"));
        let run = Arc::new(Recorder::begin(&runs, Vec::new(), "photos", StopFlag::default()).unwrap());
        run.paused(Some("disk full"));
        let file = dir.path().join("metrics.prom");
        let metrics = start(file.to_str().unwrap(), Arc::clone(&run)).unwrap();
        metrics.finish();
        let written = fs::read_to_string(&file).unwrap();
        assert!(written.contains("# TYPE vecstore_embed_inputs_total counter"), "{written}");
        assert!(
            written.contains(&format!("vecstore_embed_phase{{run=\"{}\",phase=\"paused\"}} 1", run.id()))
        );

        assert_eq!([address(":9100"), address("[::]:9100")], ["127.0.0.1:9100", "[::]:9100"]);
        let listener = TcpListener::bind(address(":0")).unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        // Asked before anything listens, the question is there in full when it is read.
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        serve(listener, run);
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with(&written), "{answer}");
    }
}
