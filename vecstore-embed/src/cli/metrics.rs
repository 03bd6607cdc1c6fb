//! `--metrics`: how far a run is, for programs that draw curves.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs, thread};

use prometheus_client::encoding::prometheus_text::{CONTENT_TYPE, encode};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;
use vecstore_embed::runs::{Recorder, RunState};

/// How long a client may take to ask, while others wait; and again to read the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Gives the numbers of `run` to clients at an address, or writes them into a file, which is given back.
pub(super) fn start(place: &str, run: &Arc<Recorder>) -> io::Result<Option<PathBuf>> {
    if place.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
        write(place.as_ref(), &run.state())?;
        return Ok(Some(place.into()));
    }
    let (listener, run) = (TcpListener::bind(address(place))?, Arc::clone(run));
    thread::spawn(move || serve(listener.incoming(), &run, || thread::sleep(PATIENCE)));
    Ok(None)
}

/// With the host that is meant where none is named: this one, for those on it.
fn address(place: &str) -> String {
    if place.starts_with(':') { format!("127.0.0.1{place}") } else { place.to_owned() }
}

/// Answers one client after the other.
fn serve(clients: impl Iterator<Item = io::Result<TcpStream>>, run: &Recorder, mut pause: impl FnMut()) {
    for client in clients {
        match client {
            // A client that asks and does not listen is no concern of the run.
            Ok(client) => drop(answer(client, &run.state(), Instant::now() + PATIENCE)),
            // With too many files open the next one fails at once, too.
            Err(_) => pause(),
        }
    }
}

/// Writes the numbers into a file, by renaming, as the text collector of the node exporter wants it.
pub(super) fn write(file: &Path, state: &RunState) -> io::Result<()> {
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, text(state))?;
    fs::rename(new, file)
}

/// Whatever is asked for, the numbers are the answer; the end of the question is waited for until `end`.
fn answer(mut client: TcpStream, state: &RunState, end: Instant) -> io::Result<()> {
    client.set_write_timeout(Some(PATIENCE))?;
    let (mut asked, mut part) = (Vec::new(), [0; 1024]);
    while !asked.windows(4).any(|end| end == b"\r\n\r\n") && asked.len() < 16 << 10 {
        // No time left is an error.
        client.set_read_timeout(Some(end.saturating_duration_since(Instant::now())))?;
        match client.read(&mut part)? {
            0 => break,
            read => asked.extend_from_slice(part.get(..read).unwrap_or_default()),
        }
    }
    let (text, kind) = (text(state), CONTENT_TYPE);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}", text.len());
    write!(client, "{head}\r\nConnection: close\r\n\r\n{text}")
}

/// The numbers in the text format of Prometheus.
fn text(state: &RunState) -> String {
    let progress = &state.progress;
    let run = ("run".into(), state.id.clone().into());
    let mut all = Registry::with_prefix_and_labels("vecstore_embed", [run].into_iter());
    let inputs = Family::<[(&str, &str); 1], Counter>::default();
    for (outcome, count) in [
        ("embedded", progress.embedded),
        ("rejected", progress.rejected),
        ("unread", progress.unread),
        ("overtaken", progress.overtaken + progress.same),
    ] {
        inputs.get_or_create(&[("outcome", outcome)]).inc_by(count);
    }
    let phase = Family::<[(&str, String); 1], Gauge>::default();
    phase.get_or_create(&[("phase", state.phase.to_string())]).set(1);
    let left = progress.to_do.saturating_sub(progress.done());
    let (commits, failures) = (progress.commits, progress.save_failures);
    all.register("inputs", "Inputs settled by this run, and how", inputs);
    all.register("to_do", "Inputs this run found to do", ConstGauge::new(progress.to_do));
    all.register("left", "Of those, not settled yet by this run", ConstGauge::new(left));
    all.register("already", "Inputs the store accounted for before", ConstGauge::new(state.already));
    all.register("rate", "Inputs settled per second over the last minute", ConstGauge::new(state.rate));
    all.register("commits", "Commits made", ConstCounter::new(commits));
    all.register("save_failures", "Saves that failed and were tried again", ConstCounter::new(failures));
    all.register("phase", "What the run is doing", phase);
    all.register("began_seconds", "When the run began, in seconds since 1970", ConstGauge::new(state.began));
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = encode(&mut text, &all);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use vecstore_embed::runs::Runs;
    use vecstore_embed::{Observer, StopFlag};

    fn recorder(dir: &tempfile::TempDir) -> Arc<Recorder> {
        let runs = Runs::of_store(&dir.path().join("photos.vecs"));
        Recorder::begin(&runs, Vec::new(), "photos", StopFlag::default()).unwrap()
    }

    /// Both ends of a connection, with what the client has sent by now.
    fn connection(question: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(address(":0")).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.write_all(question.as_bytes()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    /// Outcomes have no order.
    fn sorted(text: &str) -> Vec<&str> {
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        lines
    }

    const QUESTION: &str = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";

    #[test]
    fn the_same_numbers_are_served_and_written() {
        let dir = tempfile::tempdir().unwrap();
        let run = recorder(&dir);
        run.paused(Some("disk full"));
        let file = dir.path().join("metrics.prom");
        assert_eq!(start(file.to_str().unwrap(), &run).unwrap(), Some(file.clone()));
        let written = fs::read_to_string(&file).unwrap();
        for line in [
            "# HELP vecstore_embed_inputs_total Inputs settled by this run, and how.\n",
            "# TYPE vecstore_embed_inputs_total counter\n",
            &format!("vecstore_embed_inputs_total{{run=\"{}\",outcome=\"unread\"}} 0\n", run.id()),
            &format!("vecstore_embed_phase{{run=\"{}\",phase=\"paused\"}} 1\n", run.id()),
            &format!("vecstore_embed_save_failures_total{{run=\"{}\"}} 0\n", run.id()),
        ] {
            assert!(written.contains(line), "{line}{written}");
        }

        assert_eq!([address(":9100"), address("[::]:9100")], ["127.0.0.1:9100", "[::]:9100"]);
        let (mut client, served) = connection(QUESTION);
        serve([Ok(served)].into_iter(), &run, || ());
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        let (head, text) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"), "{head}");
        assert_eq!(sorted(text), sorted(&written));
    }

    #[test]
    fn there_is_a_pause_after_a_client_that_cannot_be_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let (mut client, served) = connection(QUESTION);
        let too_many = || Err(io::Error::from_raw_os_error(24));
        let mut pauses = 0;
        serve([too_many(), too_many(), Ok(served)].into_iter(), &recorder(&dir), || pauses += 1);
        assert_eq!(pauses, 2);
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("vecstore_embed_to_do"), "{answer}");
    }

    #[test]
    fn a_client_has_no_more_time_than_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let (_client, served) = connection("GET /metrics HTTP/1.1\r\nHost: x\r\nOne: byte a second");
        assert!(answer(served, &recorder(&dir).state(), Instant::now()).is_err());
        // Not even one that is at the end of its question.
        let (mut client, served) = connection(QUESTION);
        assert!(answer(served, &recorder(&dir).state(), Instant::now()).is_err());
        let mut answer = String::new();
        let _ = client.read_to_string(&mut answer);
        assert_eq!(answer, "");
    }
}
